//! What the agent, its maps, its disk or the application have too little of.

use std::{fmt::Write as _, time::Duration};

use tests::{
    client::{self, Kept, Request},
    metrics, require,
    sandbox::{Cgroups, Sandbox},
    service::{SOON, front, number, stays, wait_state},
    skip, wait_for,
};

use crate::{
    faults::{agent_pid, run_of_app, shell, wait_said},
    require_sandbox,
    steering::CONFIG,
};

fn set_up() -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    // Room for one page of files each, which others use up.
    shell(
        &sandbox,
        "mkdir -p /run/ondemand /var/lib/ondemand; for dir in /run/ondemand /var/lib/ondemand; do \
         mount -t tmpfs -o size=256k,mode=0700 none $dir; done",
    );
    let config = CONFIG.replace("1h", "300ms");
    metrics::on_demand(sandbox, &config, "").unwrap()
}

fn try_to_ask(sandbox: &Sandbox, query: &'static str) -> Result<client::Answer, client::Loss> {
    let request = Request {
        query,
        ..Request::default()
    };
    sandbox
        .in_network(|| client::get(front(), request))
        .unwrap()
}

#[track_caller]
fn ask(sandbox: &Sandbox) {
    try_to_ask(sandbox, "").unwrap();
}

/// The user who may set the limits of a process without CAP_SYS_RESOURCE: its own (`prlimit(2)`).
const AS_THE_AGENT: &str = "setpriv --reuid=ondemand-agent --regid=ondemand-agent --clear-groups";

#[test]
fn too_little_of_something() {
    require_sandbox!();
    require!(skip::missing(&["python3", "prlimit"]));
    let sandbox = set_up();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    no_descriptors_left(&sandbox);
    a_full_disk(&sandbox);
    a_flood_of_events(&sandbox);
    more_services_than_there_is_room_for(&sandbox);
    an_application_that_takes_too_much_memory(&sandbox);
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}

/// Without descriptors the sockets cannot be looked at: nothing is stopped until there are some.
#[track_caller]
fn no_descriptors_left(sandbox: &Sandbox) {
    let pid = agent_pid(sandbox);
    // It is up until its sockets cannot be looked at any more.
    let client = sandbox.in_network(|| Kept::connect(front())).unwrap();
    shell(
        sandbox,
        &format!("{AS_THE_AGENT} prlimit --pid {pid} --nofile=3:4096"),
    );
    let run = run_of_app(sandbox);
    drop(client.unwrap());
    wait_said(sandbox, 1, &["Too many open files"]);
    wait_said(sandbox, 1, &["test: kept: its sockets could not be read"]);
    ask(sandbox);
    stays(sandbox, "app.service", "active", Duration::from_secs(1)); // several idle timeouts
    assert_eq!(run_of_app(sandbox), run);
    shell(
        sandbox,
        &format!("{AS_THE_AGENT} prlimit --pid {pid} --nofile=4096:4096"),
    );
    wait_state(sandbox, "app.service", "inactive").unwrap();
    assert_eq!(agent_pid(sandbox), pid, "the agent has ended");
    // With too few from the start it does not become ready, wherever it notices.
    for limit in [16, 17] {
        let line = format!(
            "systemctl stop ondemand.service; prlimit --nofile={limit} timeout 10 ondemand agent; \
             echo $?; systemctl start ondemand.service"
        );
        let ended = sandbox.command("sh").args(["-c", &line]).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.stdout, b"1\n", "{limit}: {text}");
        assert!(text.contains("Too many open files"), "{limit}: {text}");
        // And what was counted is still there.
        assert!(
            !text.contains("counters restart at zero"),
            "{limit}: {text}"
        );
    }
}

/// Neither its records nor a hold can be written: it logs this, and works.
#[track_caller]
fn a_full_disk(sandbox: &Sandbox) {
    let fill = "for dir in /run/ondemand /var/lib/ondemand; do \
                head -c 1M /dev/zero >$dir/filler 2>/dev/null || :; done";
    shell(sandbox, fill);
    ask(sandbox);
    wait_state(sandbox, "app.service", "inactive").unwrap();
    let full = "No space left on device";
    wait_said(sandbox, 1, &["counters will not outlive the agent", full]);
    let refused = sandbox.run(&["ondemand", "hold", "test"]).unwrap_err();
    let refused = format!("{refused:#}");
    let what = "it will be lost when the agent exits: write /var/lib/ondemand/holds";
    assert!(
        refused.contains(what) && refused.contains(full),
        "{refused}"
    );
    // It is held nevertheless.
    ask(sandbox);
    stays(sandbox, "app.service", "active", Duration::from_secs(1)); // several idle timeouts
    shell(sandbox, "rm /run/ondemand/filler /var/lib/ondemand/filler");
    sandbox.run(&["ondemand", "release", "test"]).unwrap();
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

/// Listens and closes again, twelve thousand times: more events than the ring buffer holds.
const FLOOD: &str = r#"
import socket
for _ in range(6000):
    socket.create_server(("127.0.0.1", 8080)).close()
"#;

/// An agent that could not read for a while: what does not fit is lost, and nothing hangs by that.
#[track_caller]
fn a_flood_of_events(sandbox: &Sandbox) {
    let pid = agent_pid(sandbox);
    sandbox.write("/run/flood.py", FLOOD).unwrap();
    shell(
        sandbox,
        &format!("kill -STOP {pid}; python3 /run/flood.py; kill -CONT {pid}"),
    );
    let start = std::time::Instant::now();
    number(sandbox, "test", "stops").unwrap();
    eprintln!("answers {:.1?} after a flood", start.elapsed());
    for _ in 0..2 {
        ask(sandbox);
        wait_state(sandbox, "app.service", "inactive").unwrap();
    }
    assert_eq!(agent_pid(sandbox), pid, "the agent has ended");
}

/// The agent keeps its present configuration.
#[track_caller]
fn more_services_than_there_is_room_for(sandbox: &Sandbox) {
    let config = CONFIG.replace("1h", "300ms");
    let mut many = format!("[service.test]\n{config}\n");
    for index in 0..1024 {
        writeln!(
            many,
            "[service.more{index}]\nlisten = [\"127.0.0.2:{}\"]\nbackend = \"127.0.0.3:{}\"\n\
             unit = \"more{index}.service\"",
            10_000 + index,
            20_000 + index
        )
        .unwrap();
    }
    let metrics = metrics::address().to_string();
    metrics::write_config(sandbox, &metrics, &many).unwrap();
    let refused = sandbox.run(&["ondemand", "reload"]).unwrap_err();
    let refused = format!("{refused:#}");
    assert!(refused.contains("1025 services"), "{refused}");
    wait_said(
        sandbox,
        1,
        &["1025 services", "the agent keeps its present configuration"],
    );
    let refused = sandbox.run(&["ondemand", "check"]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("1025 services"),
        "{refused:#}"
    );
    ask(sandbox);
    wait_state(sandbox, "app.service", "inactive").unwrap();
    metrics::write_config(sandbox, &metrics, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["ondemand", "reload"]).unwrap();
}

/// The kernel kills it. Its client is lost with it, the next one starts it again.
#[track_caller]
fn an_application_that_takes_too_much_memory(sandbox: &Sandbox) {
    let limit = "[Service]\nMemoryMax=64M\nMemorySwapMax=0\n";
    let place = "/etc/systemd/system/app.service.d/limit.conf";
    sandbox.write(place, limit).unwrap();
    shell(sandbox, "systemctl daemon-reload");
    ask(sandbox);
    try_to_ask(sandbox, "eat=200").unwrap_err();
    wait_said(sandbox, 1, &["test: failed", "journalctl -u app.service"]);
    wait_for("a client is answered again", SOON, || {
        try_to_ask(sandbox, "").ok()
    })
    .unwrap();
    wait_state(sandbox, "app.service", "inactive").unwrap();
}
