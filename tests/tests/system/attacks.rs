//! An agent that was taken over: what its user can do, and everything that the agent may do, changes no
//! file of root's, runs no command as root, and stops no other unit.

use std::collections::BTreeSet;

use tests::{
    built,
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, front, on_demand, wait_state},
    skip,
};

use crate::{bus::check, require_sandbox};

/// As the agent's user.
const AGENT: &str = "runuser -u ondemand-agent --";
const FILE: &str = "/etc/ondemand/ondemand.toml";
/// What root's programs may open although everybody can write to it: devices, and the bus.
const COMMON: [&str; 3] = ["/dev/", "/proc/", "/run/dbus/system_bus_socket"];

/// What the agent's user would like to have at the next boot: a socket of root's over a file, a way to
/// another daemon's socket, a template unit of its choice.
const EVIL: &str = r#"
[service.evil]
listen = "/etc/cron.d/evil"
backend = "/run/docker.sock"
unit = "evil@x.service"
"#;

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

/// Everything that the agent's user can write to.
fn writable(sandbox: &Sandbox) -> BTreeSet<String> {
    // Not in the agent's sandbox, in which there is less.
    let find = format!(
        "{AGENT} find / -path /proc -prune -o -not -type l -writable -print 2>/dev/null || true"
    );
    let found = sandbox.run(&["sh", "-c", &find]).unwrap();
    found.lines().map(str::to_owned).collect()
}

/// The paths that a command and its children, run as root, look up.
fn looked_up(sandbox: &Sandbox, command: &str) -> BTreeSet<String> {
    let trace = "/root/trace";
    let script = format!(
        "strace --follow-forks --quiet=all --string-limit=4096 --decode-fds=path \
         --trace=%file,%desc --output={trace} {command}"
    );
    let mut traced = sandbox.command("sh");
    // cargo's own, in which the loader would look.
    traced.env_remove("LD_LIBRARY_PATH").args(["-c", &script]);
    // The command may fail, as with a wrong configuration.
    let _ = traced.output();
    let text = sandbox.run(&["cat", trace]).unwrap();
    assert!(text.contains("execve("), "{command}: {text}");
    // Each string that is a path, and each descriptor's path: `openat(3</run>, "name", ...)`.
    let lines = text.lines().map(without_target);
    let words = lines.flat_map(|line| line.split(['"', '<', '>']));
    let paths = words.filter(|word| word.starts_with('/'));
    paths.map(str::to_owned).collect()
}

/// Without what a link was found to lead to, such as another process's descriptor: it is read, not looked up.
fn without_target(line: &str) -> &str {
    let is_read = line.contains("readlink(") || line.contains("readlinkat(");
    let is_link = is_read && !line.contains(") = -1");
    let target = line.rfind(", \"").filter(|_| is_link);
    target.map_or(line, |at| &line[..at])
}

/// Whether it is in one of these directories, or one of these files.
fn is_below(path: &str, places: &BTreeSet<String>) -> bool {
    std::path::Path::new(path)
        .ancestors()
        .any(|part| places.contains(&*part.to_string_lossy()))
}

#[test]
fn root_opens_nothing_that_the_agents_user_can_write() {
    require_sandbox!();
    tests::require!(skip::missing(&["strace", "runuser", "find"]));
    let history = format!("[agent]\nmetrics = \"\"\n\n[service.test]\n{CONFIG}");
    let sandbox = on_demand(CONFIG, "").unwrap();
    sandbox.write(FILE, &history).unwrap();
    sandbox.run(&["systemctl", "restart", "ondemand"]).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let places = writable(&sandbox);
    for expected in ["/run/ondemand", "/var/lib/ondemand"] {
        assert!(places.contains(expected), "{places:?}");
    }
    let harmless = |path: &str| COMMON.iter().any(|common| path.starts_with(common));
    let generator = "/usr/lib/systemd/system-generators/ondemand-generator /root/units";
    let commands = [
        generator,
        "ondemand load",
        "ondemand permit",
        "ondemand apply",
        "ondemand reload",
        "ondemand check",
        "ondemand status",
        "ondemand units",
    ];
    let all = |wrong: bool| {
        for command in commands {
            let paths = looked_up(&sandbox, command);
            let bad = |path: &&String| is_below(path, &places) && !harmless(path);
            let bad: Vec<_> = paths.iter().filter(bad).collect();
            assert!(bad.is_empty(), "{command} (wrong: {wrong}): {bad:?}");
        }
    };
    all(false);
    // And while it looks for the last good one: at a boot, and at one after the first installation.
    sandbox.write(FILE, "what = 1\n").unwrap();
    all(true);
    let forget = "rm -rf /run/ondemand-generator /var/lib/ondemand-generator";
    sandbox.run(&["sh", "-c", forget]).unwrap();
    all(true);
}

#[test]
fn a_configuration_of_the_agents_user_is_not_taken_for_roots() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let good = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    let evil = good.clone() + EVIL;
    sandbox.write("/tmp/evil.toml", &evil).unwrap();
    let places = [
        "/var/lib/ondemand",
        "/var/lib/ondemand-generator",
        "/run/ondemand",
        "/run/ondemand-generator",
    ];
    // A copy, a link to one, and a pipe that nobody writes to.
    let put = [
        "cp /tmp/evil.toml $d/last-good.toml",
        "ln -sf /tmp/evil.toml $d/last-good.toml",
        "rm -f $d/last-good.toml; mkfifo $d/last-good.toml",
        "mv $d $d.old; ln -s /tmp $d; cp /tmp/evil.toml /tmp/last-good.toml",
    ];
    for how in put {
        for place in places {
            let script = format!("{AGENT} sh -c 'd={place}; {how}; true' 2>/dev/null");
            sandbox.run(&["sh", "-c", &script]).unwrap();
        }
        // A boot with a wrong configuration: no copy in /run.
        sandbox
            .run(&["rm", "-rf", "/run/ondemand-generator"])
            .unwrap();
        sandbox.write(FILE, "what = 1\n").unwrap();
        check(&sandbox, "timeout 20 systemctl daemon-reload", 0, &[]);
        let state = |unit: &str| sandbox.property(unit, "LoadState").unwrap();
        assert_eq!(state("ondemand-evil.socket"), "not-found", "{how}");
        assert_eq!(
            state("ondemand-test.socket"),
            "loaded",
            "root's copy: {how}"
        );
        ask(&sandbox);
        sandbox.write(FILE, &good).unwrap();
        check(&sandbox, "timeout 20 systemctl daemon-reload", 0, &[]);
        check(&sandbox, "timeout 20 systemctl restart ondemand", 0, &[]);
    }
    assert!(!sandbox.path("/etc/cron.d/evil").exists());
}

#[test]
fn root_reads_a_history_as_the_one_who_can_write_it() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = format!("[agent]\nmetrics = \"\"\n\n[service.test]\n{CONFIG}");
    sandbox.write(FILE, config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    sandbox.run(&["systemctl", "stop", "ondemand"]).unwrap();
    check(&sandbox, "ondemand report", 0, &["test"]);
    check(&sandbox, "ondemand report --html /root/page", 0, &[]);
    // Root's own database, behind a link: its text would go to a terminal, or SQLite would change it.
    let history = "/var/lib/ondemand/history.db";
    let script = format!(
        "cp {history}* /root/ && chmod 600 /root/history.db* && \
         {AGENT} sh -c 'rm {history}*; ln -s /root/history.db {history}'"
    );
    sandbox.run(&["sh", "-c", &script]).unwrap();
    let own = "ondemand report --history /root/history.db";
    check(&sandbox, own, 0, &["test"]);
    check(&sandbox, "ondemand report", 1, &["cannot be opened"]);
}

/// What the agent's user may write to, in its sandbox or outside.
const OWN: [&str; 5] = [
    "/run/ondemand",
    "/var/lib/ondemand",
    "/tmp",
    "/var/tmp",
    "/run/lock",
];

/// Checks what `test-attacker` printed.
#[track_caller]
fn nothing_was_done(report: &str) {
    assert!(report.ends_with("done\n"), "{report}");
    let own = OWN.map(str::to_owned).into();
    let bad = |line: &&str| match line.strip_prefix("writes ") {
        Some(path) => !is_below(path, &own),
        None => !line.starts_with("opens ") && *line != "done",
    };
    let bad: Vec<_> = report.lines().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(report.contains("writes /var/lib/ondemand\n"), "{report}");
}

#[test]
fn the_agent_cannot_make_itself_root() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let program = built("test-attacker").unwrap();
    sandbox.install(&program, "/usr/bin/test-attacker").unwrap();
    // In the agent's own place: its unit with another program.
    let unit = tests::source_tree().join("units/ondemand.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let dropped = ["WatchdogSec=", "Restart=", "RestartSec=", "ExecStopPost="];
    let unit: Vec<_> = unit
        .lines()
        .filter(|line| !dropped.iter().any(|begin| line.starts_with(begin)))
        .collect();
    let output = "StandardOutput=truncate:/root/report\nStandardError=truncate:/root/errors";
    let unit = unit
        .join("\n")
        .replace("Type=notify", &format!("Type=oneshot\n{output}"))
        .replace("=/usr/bin/ondemand agent", "=/usr/bin/test-attacker");
    sandbox
        .write("/etc/systemd/system/attacker.service", unit)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    check(&sandbox, "systemctl start attacker.service", 0, &[]);
    let report = sandbox.run(&["cat", "/root/report"]).unwrap();
    nothing_was_done(&report);
    assert!(
        report.contains("opens /run/ondemand-bpf/v"),
        "it sees the pins: {report}"
    );
    // Outside of its sandbox, by its user alone.
    let report = sandbox
        .run(&["sh", "-c", &format!("{AGENT} test-attacker")])
        .unwrap();
    nothing_was_done(&report);
    // The agent is as it was.
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn links_of_the_agents_user_lead_root_nowhere() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    // Owner, group, mode, time of change and size of root's files.
    let manifest = || {
        let script = "find /etc /root /usr/bin /usr/lib/systemd \
                      /sys/fs/bpf -path /etc/polkit-1/rules.d -prune -o \
                      -printf '%p %u %g %m %C@ %s\\n' | sort";
        let all = sandbox.run(&["sh", "-c", script]).unwrap();
        all.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let names = [
        "bpf",
        "holds",
        "holds.unreadable",
        "applied.toml",
        "last-good.toml",
        "history.db",
        "history.db-wal",
        "history.db-journal",
        "metrics",
        "verifier-connections.log",
        "verifier-steering.log",
        "no-steering",
    ];
    sandbox.run(&["touch", "/root/target"]).unwrap();
    let usual = ["/root/target", "/root/missing", "/etc"];
    let more = ["/etc/shadow", "/etc/polkit-1"];
    let more = more.into_iter().filter(|_| skip::is_long());
    for target in usual.into_iter().chain(more) {
        let names = names.join(" ");
        let links = format!(
            "for place in /run/ondemand /var/lib/ondemand; do for name in {names}; do \
             rm -rf $place/$name; ln -s {target} $place/$name || exit 1; done; done"
        );
        let script = format!("{AGENT} sh -c '{links}'");
        sandbox.run(&["sh", "-c", &script]).unwrap();
        let before = manifest();
        // Everything that root does with the agent, also where programs must be loaded.
        for script in [
            "systemctl reload ondemand || true",
            "systemctl restart ondemand || true",
            "ondemand permit",
            "ondemand load",
            "ondemand check || true",
            "ondemand report || true",
            "systemctl stop ondemand; systemctl start ondemand || true",
        ] {
            sandbox.run(&["sh", "-c", script]).unwrap();
        }
        let after = manifest();
        let changed: Vec<_> = before.symmetric_difference(&after).collect();
        assert!(changed.is_empty(), "{target}: {changed:#?}");
    }
    assert!(!sandbox.path("/root/missing").exists());
    // As the agent's mount namespace has it: what systemd mounted is where root wanted it.
    sandbox.run(&["systemctl", "restart", "ondemand"]).unwrap();
    let pid = sandbox.main_pid("ondemand.service").unwrap();
    let mounts = sandbox
        .run(&["cat", &format!("/proc/{pid}/mountinfo")])
        .unwrap();
    let bpf: Vec<_> = mounts
        .lines()
        .filter(|line| line.contains(" - bpf ") && !line.contains(" / /sys/fs/bpf "))
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    assert!(bpf.contains(&"/run/ondemand-bpf"), "{mounts}");
    assert!(
        bpf.iter()
            .all(|path| path.starts_with("/sys/fs/bpf") || *path == "/run/ondemand-bpf"),
        "{mounts}"
    );
}
