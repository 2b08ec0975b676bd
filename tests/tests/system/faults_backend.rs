//! Applications with habits that a supervisor has to bear, each a service of one system.

use std::{net::SocketAddr, time::Duration};

use tests::{
    client::{self, Kept, Loss, Request},
    pause::idle_for,
    require,
    sandbox::Sandbox,
    service::{self, SOON, number, status, stays, wait_state},
    skip, wait_for,
};

use crate::{
    faults::{said, shell, wait_said},
    require_sandbox,
};

/// Becomes a daemon in the old way: two forks, and a file with the last one's id.
const DAEMON: &str = r#"
import os, socket
listener = socket.create_server(("127.0.0.1", 8101), backlog=4096)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open("/run/forking.pid", "w") as file:
    file.write(str(os.getpid()))
while True:
    client, _ = listener.accept()
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nConnection: close\r\n\r\n" + b"x" * 1024)
    client.close()
"#;

/// Name and the section [Service] of its unit.
const SERVICES: [(&str, &str); 6] = [
    (
        "deaf",
        "ExecStart=/usr/bin/test-backend --listen 127.0.0.1:8100 --deaf\nTimeoutStopSec=700ms\n",
    ),
    (
        "forking",
        "Type=forking\nPIDFile=/run/forking.pid\nExecStart=/usr/bin/python3 /etc/daemon.py\n",
    ),
    (
        "always",
        "ExecStart=/usr/bin/test-backend --listen 127.0.0.1:8102\nRestart=always\nRestartSec=100ms\n",
    ),
    (
        "masked",
        "ExecStart=/usr/bin/test-backend --listen 127.0.0.1:8103\n",
    ),
    (
        "upgraded",
        "ExecStart=/usr/bin/test-backend --listen 127.0.0.1:8104\n",
    ),
    (
        "leaves",
        "ExecStart=/bin/sh -c 'test-backend --listen 127.0.0.1:8105 & sleep 1'\nKillMode=process\n",
    ),
];

fn address(name: &str) -> SocketAddr {
    let index = SERVICES
        .iter()
        .position(|(known, _)| *known == name)
        .unwrap();
    SocketAddr::from(([127, 0, 0, 1], 8000 + index as u16))
}

fn write_unit(sandbox: &Sandbox, name: &str, section: &str) {
    // Where a package puts it, so that it can be masked.
    let place = format!("/usr/lib/systemd/system/{name}.service");
    sandbox
        .write(&place, format!("[Service]\n{section}"))
        .unwrap();
}

fn set_up() -> Sandbox {
    let sandbox = service::installed().unwrap();
    sandbox.write("/etc/daemon.py", DAEMON).unwrap();
    let mut config = String::new();
    for (index, (name, section)) in SERVICES.iter().enumerate() {
        write_unit(&sandbox, name, section);
        config += &format!(
            "[service.{name}]\nlisten = [\"{}\"]\nbackend = \"127.0.0.1:{}\"\n\
             unit = \"{name}.service\"\nidle_timeout = \"300ms\"\nmin_uptime = \"0s\"\n\
             start_timeout = \"5s\"\nsteer = true\n\n",
            address(name),
            8100 + index,
        );
    }
    service::write_config(&sandbox, &config).unwrap();
    let names = SERVICES.map(|(name, _)| name);
    service::reload(&sandbox, &names).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn try_to_ask(sandbox: &Sandbox, name: &str) -> Result<(), Loss> {
    let answer = sandbox.in_network(|| client::get(address(name), Request::default()));
    answer.unwrap().map(drop)
}

#[track_caller]
fn ask(sandbox: &Sandbox, name: &str) {
    try_to_ask(sandbox, name).unwrap_or_else(|loss| panic!("{name}: {loss}"));
}

#[track_caller]
fn wait_steered(sandbox: &Sandbox, name: &str) {
    wait_for(&format!("{name} is steered"), SOON, || {
        (status(sandbox, name).ok()?["route"] == "steered").then_some(())
    })
    .unwrap();
}

#[test]
fn applications_with_odd_habits() {
    require_sandbox!();
    require!(skip::missing(&["python3"]));
    let sandbox = set_up();
    ignores_the_request_to_end(&sandbox);
    becomes_a_daemon(&sandbox);
    is_restarted_by_systemd(&sandbox);
    is_masked(&sandbox);
    is_upgraded(&sandbox);
    leaves_a_process_behind(&sandbox);
}

/// It is killed in the end, and clients that connect meanwhile are served by the next one.
#[track_caller]
fn ignores_the_request_to_end(sandbox: &Sandbox) {
    ask(sandbox, "deaf");
    wait_state(sandbox, "deaf.service", "deactivating").unwrap();
    ask(sandbox, "deaf");
    wait_said(
        sandbox,
        1,
        &[
            "deaf: stopped after",
            "its unit has failed",
            "journalctl -u deaf.service",
        ],
    );
    wait_state(sandbox, "deaf.service", "failed").unwrap();
    ask(sandbox, "deaf");
    assert_eq!(number(sandbox, "deaf", "starts").unwrap(), 3);
}

#[track_caller]
fn becomes_a_daemon(sandbox: &Sandbox) {
    for _ in 0..2 {
        ask(sandbox, "forking");
        wait_steered(sandbox, "forking");
        ask(sandbox, "forking");
        wait_state(sandbox, "forking.service", "inactive").unwrap();
    }
}

/// Not after a stop for idleness; after a crash it is, and it is looked after as before.
#[track_caller]
fn is_restarted_by_systemd(sandbox: &Sandbox) {
    ask(sandbox, "always");
    wait_state(sandbox, "always.service", "inactive").unwrap();
    let longer_than_restart_sec = Duration::from_millis(400);
    stays(
        sandbox,
        "always.service",
        "inactive",
        longer_than_restart_sec,
    );
    ask(sandbox, "always");
    wait_steered(sandbox, "always");
    shell(sandbox, "systemctl kill --signal=KILL always.service");
    wait_for("systemd has started it again", SOON, || {
        (number(sandbox, "always", "starts").ok()? >= 3).then_some(())
    })
    .unwrap();
    wait_state(sandbox, "always.service", "inactive").unwrap();
    ask(sandbox, "always");
}

/// While it is masked it could not be started again: it is not stopped. Its clients are served.
#[track_caller]
fn is_masked(sandbox: &Sandbox) {
    ask(sandbox, "masked");
    let kept = sandbox.in_network(|| Kept::connect(address("masked")));
    shell(sandbox, "systemctl mask masked.service");
    wait_said(
        sandbox,
        1,
        &["masked: not managed", "masked.service cannot be used"],
    );
    drop(kept);
    ask(sandbox, "masked");
    stays(sandbox, "masked.service", "active", Duration::from_secs(1)); // several idle timeouts
    ask(sandbox, "masked");
    shell(sandbox, "systemctl unmask masked.service");
    wait_said(sandbox, 1, &["masked: managed again"]);
    wait_state(sandbox, "masked.service", "inactive").unwrap();
    ask(sandbox, "masked");
}

/// Its unit file changes while it runs and a client is connected; the next start is of the new one.
#[track_caller]
fn is_upgraded(sandbox: &Sandbox) {
    ask(sandbox, "upgraded");
    wait_steered(sandbox, "upgraded");
    let mut kept = sandbox
        .in_network(|| Kept::connect(address("upgraded")))
        .unwrap()
        .unwrap();
    let section = "ExecStart=/usr/bin/test-backend --workers 2 --listen 127.0.0.1:8104\n";
    write_unit(sandbox, "upgraded", section);
    shell(sandbox, "systemctl daemon-reload");
    idle_for(Duration::from_secs(1)); // several idle timeouts
    kept.ask().unwrap();
    ask(sandbox, "upgraded");
    assert_eq!(number(sandbox, "upgraded", "open_connections").unwrap(), 1);
    drop(kept);
    wait_state(sandbox, "upgraded.service", "inactive").unwrap();
    ask(sandbox, "upgraded");
    let line = shell(
        sandbox,
        "systemctl show --property=ExecStart upgraded.service",
    );
    assert!(line.contains("--workers 2"), "{line}");
    wait_state(sandbox, "upgraded.service", "inactive").unwrap();
}

/// systemd reports it as down while something of it still listens: no client is steered there.
#[track_caller]
fn leaves_a_process_behind(sandbox: &Sandbox) {
    // Long enough for its first process to end.
    let kept = sandbox.in_network(|| Kept::connect(address("leaves")));
    wait_state(sandbox, "leaves.service", "inactive").unwrap();
    let journal = "ondemand.service";
    wait_for("the end is noticed", SOON, || {
        (said(
            sandbox,
            journal,
            &["leaves: was stopped by another program or a person"],
        ) > 0)
            .then_some(())
    })
    .unwrap();
    assert_eq!(status(sandbox, "leaves").unwrap()["route"], "proxied");
    drop(kept);
    // The next one starts it again, and whichever process listens answers.
    ask(sandbox, "leaves");
}
