//! The agent runs as its own user without any capability, and systemd does for it what the
//! configuration needs and nothing else.

use std::{collections::HashMap, time::Duration};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, number, on_demand, status, stays, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

const SEVERAL_TIMEOUTS: Duration = Duration::from_millis(1_500);
const NONE: &str = "0000000000000000";
/// `CAP_NET_RAW` alone.
const NET_RAW: &str = "0000000000002000";
const RULE: &str = "/etc/polkit-1/rules.d/50-ondemand.rules";

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

/// proc_pid_status(5) of a unit's main process; the first of several values.
fn process(sandbox: &Sandbox, unit: &str) -> HashMap<String, String> {
    let pid = sandbox.main_pid(unit).unwrap();
    let text = sandbox
        .run(&["cat", &format!("/proc/{pid}/status")])
        .unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(key, value)| Some((key.to_owned(), value.split_whitespace().next()?.into())))
        .collect()
}

/// It has none, and can get none.
#[track_caller]
fn has_no_capability(process: &HashMap<String, String>) {
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(process[key], NONE, "{key}");
    }
    // Only a process with CAP_SETPCAP can take something out of it. It is of no use with no_new_privs.
    let bounding = process["CapBnd"].as_str();
    assert!([NONE, NET_RAW].contains(&bounding), "{bounding}");
    assert_eq!(process["NoNewPrivs"], "1");
}

fn uid(sandbox: &Sandbox, user: &str) -> String {
    let uid = sandbox.run(&["id", "-u", user]).unwrap();
    uid.trim().to_owned()
}

fn wait_journal(sandbox: &Sandbox, words: &str) {
    service::wait_journal(sandbox, "ondemand.service", words, 1).unwrap();
}

fn is_left_alone(sandbox: &Sandbox) -> Option<()> {
    let status = status(sandbox, "test").ok()?;
    let detail = status["detail"].as_str()?;
    detail.contains("not managed").then_some(())
}

/// Owner and mode of each of these files, from stat(1).
#[track_caller]
fn check_modes(sandbox: &Sandbox, rows: &[(&str, &str)]) {
    for (path, expected) in rows {
        // The shell finds names that are not fixed.
        let script = format!("stat --format='%U %a' {path} | sort -u");
        let found = sandbox.run(&["sh", "-c", &script]).unwrap();
        assert_eq!(found.trim(), *expected, "{path}");
    }
}

#[test]
fn the_agent_and_the_proxy_have_little() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let veto = "#!/bin/sh\n{ id -un; grep Cap /proc/self/status; } >/run/ondemand/veto\n";
    sandbox.write("/usr/bin/checker", veto).unwrap();
    sandbox.run(&["chmod", "700", "/usr/bin/checker"]).unwrap();
    // steered, with a history and metrics: everything that there is
    let steer = CONFIG.replace("steer = false", "steer = true");
    let config = format!("[service.test]\n{steer}veto = \"/usr/bin/checker\"\n");
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let words = ["not for the agent's user", "chmod o+rx /usr/bin/checker"];
    check(&sandbox, "ondemand check", 0, &words);
    sandbox.run(&["chmod", "755", "/usr/bin/checker"]).unwrap();

    let agent = process(&sandbox, "ondemand.service");
    let expected = [
        ("Uid", uid(&sandbox, "ondemand-agent").as_str().to_owned()),
        ("NoNewPrivs", "1".into()),
        ("Seccomp", "2".into()),
    ];
    for (key, value) in expected {
        assert_eq!(agent[key], value, "{key}");
    }
    has_no_capability(&agent);
    // A client that holds the proxy while it is looked at.
    let held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
    wait_state(&sandbox, "ondemand-test.service", "active").unwrap();
    let proxy = wait_for("the proxy is executed", SOON, || {
        let proxy = process(&sandbox, "ondemand-test.service");
        (proxy["Name"] == "ondemand").then_some(proxy)
    })
    .unwrap();
    assert_eq!(proxy["Uid"], uid(&sandbox, "ondemand"));
    assert_ne!(proxy["Uid"], agent["Uid"]);
    has_no_capability(&proxy);
    drop(held);
    sandbox
        .run(&["ondemand", "hold", "test", "--for", "1s"])
        .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "stops").unwrap(), 1);
    // The veto program has the user, and nothing else.
    let seen = sandbox.run(&["cat", "/run/ondemand/veto"]).unwrap();
    assert!(seen.starts_with("ondemand-agent\n"), "{seen}");
    for key in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(seen.contains(&format!("{key}:\t{NONE}")), "{seen}");
    }

    wait_for("a database", SOON, || {
        sandbox.run(&["ls", "/var/lib/ondemand/history.db"]).ok()
    })
    .unwrap();
    check_modes(
        &sandbox,
        &[
            ("/sys/fs/bpf", "root 1700"),
            ("/sys/fs/bpf/ondemand", "root 750"),
            ("/sys/fs/bpf/ondemand/v*", "root 750"),
            ("/sys/fs/bpf/ondemand/v*/[!T]*", "root 660"),
            ("/sys/fs/bpf/ondemand/v*/TAGS", "root 600"),
            ("/run/ondemand-bpf", "root 755"),
            ("/run/ondemand-load", "root 755"),
            ("/var/lib/ondemand-generator", "root 755"),
            ("/var/lib/ondemand-generator/*", "root 644"),
            ("/run/ondemand", "ondemand-agent 700"),
            ("/run/ondemand/metrics", "ondemand-agent 700"),
            ("/run/ondemand/metrics/*", "ondemand-agent 600"),
            ("/var/lib/ondemand", "ondemand-agent 700"),
            ("/var/lib/ondemand/*", "ondemand-agent 600"),
            (RULE, "root 644"),
        ],
    );
    let nobody = "runuser -u nobody -- ondemand";
    check(
        &sandbox,
        &format!("{nobody} report"),
        1,
        &["/var/lib/ondemand/history.db", "sudo ondemand report"],
    );
    check(&sandbox, "ondemand report", 0, &["test"]);
    let words = ["as ondemand-agent", "the agent has no capability"];
    let script = "systemctl enable ondemand && ondemand check";
    check(&sandbox, script, 0, &words);
    // Its database is still its own after root has read it.
    check_modes(&sandbox, &[("/var/lib/ondemand/*", "ondemand-agent 600")]);
    // Nor does the proxies' user get at what the kernel counts.
    for user in ["nobody", "ondemand"] {
        let script = format!("runuser -u {user} -- ls /sys/fs/bpf/ondemand");
        check(&sandbox, &script, 2, &["Permission denied"]);
    }
}

#[test]
fn systemd_does_what_the_rule_says_and_no_more() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    sandbox
        .write(
            "/etc/systemd/system/other.service",
            "[Service]\nExecStart=/bin/sleep 1000\n",
        )
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "start", "other.service"])
        .unwrap();
    let call = |user: &str, method: &str, words: &str| {
        format!(
            "runuser -u {user} -- busctl call --allow-interactive-authorization=no \
             org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager \
             {method} {words}"
        )
    };
    let denied: &[(&str, &str)] = &[
        ("StopUnit", "ss other.service replace"),
        ("StopUnit", "ss dbus.service replace"),
        ("StartUnit", "ss other.service replace"),
        ("RestartUnit", "ss other.service replace"),
        ("ReloadUnit", "ss other.service replace"),
        ("KillUnit", "ssi other.service all 9"),
        ("ResetFailedUnit", "s other.service"),
        // What the agent never does with its own.
        ("RestartUnit", "ss app.service replace"),
        ("StopUnit", "ss ondemand-test.socket replace"),
        ("StartUnit", "ss ondemand-test.service replace"),
        ("StopUnit", "ss ondemand-permit.service replace"),
        ("RestartUnit", "ss ondemand-permit.service replace"),
        ("RestartUnit", "ss ondemand-test.target replace"),
        ("KillUnit", "ssi app.service all 9"),
        ("KillUnit", "ssi ondemand-test.target all 9"),
        (
            "SetUnitProperties",
            "'sba(sv)' app.service true 1 CPUWeight t 1",
        ),
        // Whatever else would be as good as root.
        (
            "StartTransientUnit",
            "'ssa(sv)a(sa(sv))' x.service fail 0 0",
        ),
        ("MaskUnitFiles", "asbb 1 other.service true true"),
        ("SetUnitProperties", "'sba(sv)' ondemand-test.target true 0"),
        ("EnqueueUnitJob", "sss other.service stop replace"),
        ("TryRestartUnit", "ss other.service replace"),
        ("FreezeUnit", "s other.service"),
        ("EnableUnitFiles", "asbb 1 other.service true true"),
        (
            "LinkUnitFiles",
            "asbb 1 /var/lib/ondemand/x.service true true",
        ),
        ("SetDefaultTarget", "sb rescue.target true"),
        // Root's own steps: it may only start the one that renews the rule.
        ("StartUnit", "ss ondemand-load.service replace"),
        ("StopUnit", "ss ondemand-load.service replace"),
        ("StopUnit", "ss ondemand-permit.service replace"),
        ("Reload", ""),
        ("Reexecute", ""),
        ("SetEnvironment", "as 1 A=b"),
        ("Reboot", ""),
    ];
    for (method, words) in denied {
        // "Access denied" of the rule, "Interactive authentication required" of polkit's default.
        let script = call("ondemand-agent", method, words) + " 2>&1 | grep -E 'denied|required'";
        check(&sandbox, &script, 0, &["Call failed"]);
    }
    let proxies = call("ondemand", "StopUnit", "ss ondemand-test.target replace");
    check(&sandbox, &proxies, 1, &["Call failed"]);
    // The second is the message of systemd 258 and later.
    let asked = "Interactive authentication required|requires interactive authentication";
    let script = format!("{proxies} 2>&1 | grep -E '{asked}'");
    check(&sandbox, &script, 0, &[]);
    let script = "runuser -u ondemand-agent -- systemctl --no-ask-password stop other.service";
    check(&sandbox, script, 4, &["Access denied"]);
    for unit in ["other.service", "dbus.service"] {
        assert_eq!(sandbox.property(unit, "ActiveState").unwrap(), "active");
    }
    // What it may start, it may not start in the place of everything else.
    let isolate = call(
        "ondemand-agent",
        "StartUnit",
        "ss ondemand-test.target isolate",
    );
    check(&sandbox, &isolate, 1, &["Call failed"]);
    for unit in ["other.service", "dbus.service"] {
        assert_eq!(sandbox.property(unit, "ActiveState").unwrap(), "active");
    }
    for (method, words) in [
        ("StartUnit", "ss app.service replace"),
        ("StartUnit", "ss ondemand-test.target fail"),
        ("StopUnit", "ss ondemand-test.target fail"),
        ("StopUnit", "ss ondemand-test.service fail"),
        ("ResetFailedUnit", "s app.service"),
        ("StopUnit", "ss app.service replace"),
        ("RestartUnit", "ss ondemand-test.socket replace"),
    ] {
        check(&sandbox, &call("ondemand-agent", method, words), 0, &[]);
    }
    // A proxy may be signalled to exit; there is none now.
    let leave = call(
        "ondemand-agent",
        "KillUnit",
        "ssi ondemand-test.service main 28",
    );
    check(&sandbox, &leave, 1, &["No main process"]);
    wait_state(&sandbox, "app.service", "inactive").unwrap();

    // A new service is in the rule, and its front socket is started, when systemd reads of it.
    service::write_backend(&sandbox, "new.service", "--listen 127.0.0.1:8082").unwrap();
    let new = CONFIG
        .replace("app.service", "new.service")
        .replace("8000", "8001")
        .replace("8080", "8082");
    let both = format!("[service.test]\n{CONFIG}\n[service.new]\n{new}");
    service::write_config(&sandbox, &both).unwrap();
    sandbox.run(&["rm", RULE]).unwrap();
    check(&sandbox, "ondemand check", 1, &["ondemand permit"]);
    sandbox.run(&["ondemand", "permit"]).unwrap();
    service::reload(&sandbox, &[]).unwrap();
    wait_state(&sandbox, "ondemand-new.socket", "active").unwrap();
    check(&sandbox, "ondemand check", 0, &["these services only"]);
    sandbox.run(&["systemctl", "start", "new.service"]).unwrap();
    wait_state(&sandbox, "new.service", "inactive").unwrap();

    // A missing rule is logged, and takes effect when it is back.
    sandbox.run(&["rm", RULE]).unwrap();
    sandbox
        .run(&["systemctl", "kill", "--signal=KILL", "polkit"])
        .unwrap();
    let denied = call("ondemand-agent", "StopUnit", "ss ondemand-test.target fail");
    wait_for("polkit has forgotten it", SOON, || {
        sandbox.run(&["sh", "-c", &format!("! {denied}")]).ok()
    })
    .unwrap();
    ask(&sandbox);
    wait_for("it is not managed", SOON, || is_left_alone(&sandbox)).unwrap();
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["not managed", "ondemand permit"],
    );
    check(&sandbox, "ondemand permit", 0, &[]);
    wait_journal(&sandbox, "test: managed again");
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn without_polkit_nothing_is_stopped_until_it_runs_as_root() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let hide = "rm -r /etc/polkit-1/rules.d && \
                rm /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service && \
                systemctl reload dbus.service";
    sandbox.run(&["sh", "-c", hide]).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    wait_for("it is not managed", SOON, || is_left_alone(&sandbox)).unwrap();
    for words in [
        "polkit 0.106 or later is not installed",
        "only root may stop it, because polkit is not installed",
        "units/examples/root.conf",
    ] {
        wait_journal(&sandbox, words);
    }
    check(
        &sandbox,
        "ondemand check",
        1,
        &["polkit is not installed", "root.conf"],
    );
    // Long after its idle timeout it answers, counted.
    ask(&sandbox);
    stays(&sandbox, "app.service", "active", SEVERAL_TIMEOUTS);
    ask(&sandbox);
    assert_eq!(
        sandbox.property("app.service", "ActiveState").unwrap(),
        "active"
    );
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 2);
    check(&sandbox, "ondemand stop test", 1, &["not managed"]);

    // As root, with what the other has left.
    let drop_in = "/etc/systemd/system/ondemand.service.d/root.conf";
    let root = tests::source_tree().join("units/examples/root.conf");
    sandbox
        .write(drop_in, std::fs::read(root).unwrap())
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let agent = process(&sandbox, "ondemand.service");
    assert_eq!(agent["Uid"], "0");
    has_no_capability(&agent);
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 2);
    check(&sandbox, "ondemand check", 0, &["as root"]);
    // And back: what an agent that was root has left goes to the user.
    let show = "mkdir -m 700 /etc/polkit-1/rules.d && chown polkitd /etc/polkit-1/rules.d && \
                rm -r /etc/systemd/system/ondemand.service.d && \
                systemctl daemon-reload && systemctl start polkit.service";
    sandbox.run(&["sh", "-c", show]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    check_modes(
        &sandbox,
        &[
            ("/sys/fs/bpf/ondemand/v*/[!T]*", "root 660"),
            ("/var/lib/ondemand /run/ondemand", "ondemand-agent 700"),
        ],
    );
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 3);
    let agent = process(&sandbox, "ondemand.service");
    assert_eq!(agent["Uid"], uid(&sandbox, "ondemand-agent"));
}

#[test]
fn a_backend_that_the_agent_may_not_look_at_is_kept() {
    require_sandbox!();
    // By another name than the listener's, and in a directory that is closed to others.
    let config = CONFIG.replace("127.0.0.1:8080", "/run/link/app.sock");
    let sandbox = service::installed().unwrap();
    let closed = "mkdir -m 700 /run/closed && ln -s closed /run/link";
    sandbox.run(&["sh", "-c", closed]).unwrap();
    service::write_backend(&sandbox, "app.service", "--listen /run/closed/app.sock").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_journal(&sandbox, "no access to /run/link/app.sock");
    wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
    stays(&sandbox, "app.service", "active", SEVERAL_TIMEOUTS);
    sandbox.run(&["chmod", "711", "/run/closed"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn an_agent_that_root_starts_by_hand_drops_everything() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let steer = CONFIG.replace("steer = false", "steer = true");
    service::write_config(&sandbox, &format!("[service.test]\n{steer}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    // Nobody has loaded the programs. As a unit it has what root has in a shell.
    assert!(!sandbox.path("/sys/fs/bpf/ondemand").exists());
    let unit = "by-hand.service";
    let text = "[Service]\nExecStart=/usr/bin/ondemand agent\nType=notify\nNotifyAccess=main\n";
    sandbox
        .write(&format!("/etc/systemd/system/{unit}"), text)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", unit]).unwrap();
    let agent = process(&sandbox, unit);
    assert_eq!(agent["Uid"], "0");
    has_no_capability(&agent);
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 1);
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
    let words = "another agent is running";
    let second = "timeout 10 ondemand agent --dry-run";
    check(&sandbox, second, 1, &[words]);
    // The next one takes over what it has loaded, and has less.
    sandbox.run(&["systemctl", "stop", unit]).unwrap();
    service::start_agent(&sandbox).unwrap();
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 1);
    let agent = process(&sandbox, "ondemand.service");
    assert_eq!(agent["Uid"], uid(&sandbox, "ondemand-agent"));
    has_no_capability(&agent);
    // By hand again, where what the agent's user can write would be read as root.
    sandbox.run(&["systemctl", "stop", "ondemand"]).unwrap();
    sandbox.run(&["rm", "-r", "/run/ondemand"]).unwrap();
    sandbox.run(&["systemctl", "start", unit]).unwrap();
    let agent = process(&sandbox, unit);
    assert_eq!(agent["Uid"], uid(&sandbox, "ondemand-agent"));
    has_no_capability(&agent);
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 2);
    check_modes(&sandbox, &[("/run/ondemand", "ondemand-agent 700")]);
    sandbox.run(&["systemctl", "stop", unit]).unwrap();
    // One that may not load, and finds nothing, says what to do.
    sandbox.run(&["rm", "-r", "/sys/fs/bpf/ondemand"]).unwrap();
    let unable = "setpriv --bounding-set=-all --inh-caps=-all timeout 10 ondemand agent";
    check(&sandbox, unable, 1, &["are not loaded", "ondemand load"]);
}

#[test]
fn the_programs_are_loaded_early_and_again_when_they_are_gone() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let unit = "ondemand-load.service";
    // The agent wants it; it comes before the front sockets at boot.
    wait_state(&sandbox, unit, "active").unwrap();
    let before = sandbox.property(unit, "Before").unwrap();
    assert!(before.contains("sockets.target"), "{before}");
    sandbox.run(&["systemctl", "enable", "ondemand"]).unwrap();
    let enabled = "systemctl is-enabled ondemand-load.service";
    check(&sandbox, enabled, 0, &["enabled"]);
    check(&sandbox, "ondemand load --user=ondemand-agent", 0, &[]);
    let verify =
        "systemd-analyze verify --man=no sockets.target multi-user.target 2>&1 | grep -i cycle";
    check(&sandbox, verify, 1, &[]);
    // Its sandbox suffices for all of it.
    sandbox
        .run(&["systemctl", "stop", "ondemand", unit])
        .unwrap();
    sandbox.run(&["rm", "-r", "/sys/fs/bpf/ondemand"]).unwrap();
    sandbox.run(&["systemctl", "start", unit]).unwrap();
    let journal = service::wait_journal(&sandbox, unit, "loaded and attached", 2).unwrap();
    assert!(!journal.contains("cannot"), "{journal}");
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // Who gives the agent capabilities gives it nothing, and nothing is left of an earlier version.
    let place = "/etc/systemd/system/ondemand.service.d/more.conf";
    let more = "[Service]\nAmbientCapabilities=CAP_BPF CAP_NET_ADMIN\nCapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN\n";
    sandbox.write(place, more).unwrap();
    let restart = "chown -R ondemand-agent /sys/fs/bpf/ondemand && chmod -R u+rwX /sys/fs/bpf/ondemand && \
                   systemctl daemon-reload && systemctl restart ondemand";
    check(&sandbox, restart, 0, &[]);
    service::wait_journal(&sandbox, "ondemand.service", "loaded and attached", 1).unwrap();
    let agent = process(&sandbox, "ondemand.service");
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(agent[key], NONE, "{key}");
    }
    let modes = [
        ("/sys/fs/bpf/ondemand", "root 750"),
        ("/sys/fs/bpf/ondemand/v*", "root 750"),
    ];
    check_modes(&sandbox, &modes);
    // Nor where it cannot give them up.
    sandbox
        .write(place, format!("{more}SystemCallFilter=~capset\n"))
        .unwrap();
    let restart = "systemctl daemon-reload; systemctl restart ondemand";
    check(&sandbox, restart, 1, &[]);
    wait_journal(&sandbox, "of an earlier version");
    check(
        &sandbox,
        "runuser -u nobody -- ondemand load",
        1,
        &["sudo ondemand load"],
    );
}

/// A new program with the unit of an earlier version: `check` says what is missing.
#[test]
fn units_of_an_earlier_version_must_be_replaced() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    let unit = tests::source_tree().join("units/ondemand.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let three = "CAP_BPF CAP_PERFMON CAP_NET_ADMIN";
    let earlier: String = unit
        .lines()
        .filter(|line| !line.contains("ondemand load") && !line.starts_with("ExecStopPost="))
        .map(|line| match line {
            "CapabilityBoundingSet=" => {
                format!("AmbientCapabilities={three}\nCapabilityBoundingSet={three}\n")
            }
            "SystemCallFilter=bpf capset" => "SystemCallFilter=bpf\n".to_owned(),
            line => {
                let line = line.replace("BindReadOnlyPaths", "BindPaths");
                let line = line.replace(" ondemand-load.service", "");
                line.replace("/run/ondemand-bpf", "/run/ondemand/bpf") + "\n"
            }
        })
        .collect();
    let place = "/usr/lib/systemd/system";
    let name = "ondemand.service";
    sandbox.write(&format!("{place}/{name}"), earlier).unwrap();
    let load = format!("{place}/ondemand-load.service");
    sandbox.run(&["rm", &load]).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    check(&sandbox, "systemctl start ondemand", 1, &[]);
    wait_journal(&sandbox, "programs are not loaded");
    let words = ["ondemand-load.service is not-found", "install -m 644"];
    check(&sandbox, "ondemand check", 1, &words);
    // Loaded by hand, they are of no use to an agent that cannot give up what this unit gives it.
    check(&sandbox, "ondemand load", 0, &[]);
    wait_journal(&sandbox, "of an earlier version");
    sandbox.run(&["systemctl", "stop", "ondemand"]).unwrap();
    service::prepare(&sandbox).unwrap();
    sandbox.run(&["systemctl", "enable", "ondemand"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    check(&sandbox, "ondemand check", 0, &["has no capability"]);
}
