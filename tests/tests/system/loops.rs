//! What cannot run is not started again and again while a client waits.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tests::{
    client::{self, Request},
    pause::observe_for,
    sandbox::Sandbox,
    service::{self, wait_state},
};

use crate::require_sandbox;

/// Name, and a drop-in of its proxy with which it cannot run.
const PROXIES: [(&str, &str); 8] = [
    ("user", "[Service]\nUser=missing\n"),
    (
        "program",
        "[Service]\nExecStart=\nExecStart=/usr/bin/nothing\n",
    ),
    ("namespace", "[Service]\nBindReadOnlyPaths=/nothing\n"),
    ("filter", "[Service]\nSystemCallFilter=~epoll_create1\n"),
    ("zero", "[Service]\nExecStart=\nExecStart=/bin/true\n"),
    ("one", "[Service]\nExecStart=\nExecStart=/bin/false\n"),
    ("condition", "[Unit]\nConditionPathExists=/nothing\n"),
    ("assert", "[Unit]\nAssertPathExists=/nothing\n"),
];
/// Its backend is a Unix socket, whose proxy ends to be started again at once in a good case.
const UNIX: (&str, &str) = ("unix", "[Service]\nUser=missing\n");

fn address(name: &str) -> SocketAddr {
    let index = PROXIES.iter().position(|(known, _)| *known == name);
    let index = index.unwrap_or(PROXIES.len());
    SocketAddr::from(([127, 0, 0, 1], 8000 + index as u16))
}

fn drop_in(name: &str) -> String {
    format!("/etc/systemd/system/ondemand-{name}.service.d/broken.conf")
}

/// A system with a service for each kind. No proxy can run.
fn broken_proxies() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let mut config = String::new();
    let all = PROXIES.iter().chain([&UNIX]);
    for (name, text) in all.clone() {
        let listens = match *name {
            "unix" => "/run/unix.sock".into(),
            _ => format!("127.0.0.1:{}", 100 + address(name).port()),
        };
        let unit = format!("{name}.service");
        service::write_backend(&sandbox, &unit, &format!("--listen {listens}")).unwrap();
        sandbox.write(&drop_in(name), text).unwrap();
        config += &format!(
            "[service.{name}]\nlisten = [\"{}\"]\nbackend = \"{listens}\"\nunit = \"{unit}\"\n\
             idle_timeout = \"1s\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\nsteer = false\n\n",
            address(name),
        );
    }
    service::write_config(&sandbox, &config).unwrap();
    let names: Vec<&str> = all.map(|(name, _)| *name).collect();
    service::reload(&sandbox, &names).unwrap();
    sandbox
}

fn connect(sandbox: &Sandbox, name: &str) -> TcpStream {
    let stream = sandbox.in_network(|| client::connect(address(name)));
    stream
        .unwrap()
        .unwrap_or_else(|loss| panic!("{name}: {loss}"))
}

/// How often PID 1 has begun to start the proxy, and how often it has skipped a start.
fn attempts(sandbox: &Sandbox, name: &str) -> (usize, usize) {
    let journal = sandbox.journal(&format!("ondemand-{name}.service"));
    let count = |words: &str| journal.lines().filter(|line| line.contains(words)).count();
    let skipped = count("skipped") + count("Assertion failed") + count("Starting requested");
    (count("Started "), skipped)
}

#[test]
fn a_proxy_that_cannot_run_is_not_started_for_ever() {
    require_sandbox!();
    let sandbox = broken_proxies();
    let names = || PROXIES.iter().chain([&UNIX]).map(|(name, _)| *name);
    // One stays, and one is gone at once: both are in the queue.
    let waiting: Vec<TcpStream> = names()
        .map(|name| {
            drop(connect(&sandbox, name));
            connect(&sandbox, name)
        })
        .collect();
    observe_for(Duration::from_secs(6), || {});
    for name in names() {
        let (started, skipped) = attempts(&sandbox, name);
        println!("{name}: started {started} times, skipped {skipped} times");
        assert!(
            started <= 2 && skipped <= 20,
            "{name}: {started}, {skipped}"
        );
        assert!(started + skipped > 0, "{name}");
    }
    drop(waiting);
    // The socket that PID 1 has given up comes back by itself, the others have never gone.
    for name in names() {
        std::fs::remove_file(sandbox.path(&drop_in(name))).unwrap();
    }
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    for name in names() {
        wait_state(&sandbox, &format!("ondemand-{name}.socket"), "active").unwrap();
        let answer = sandbox.in_network(|| client::get(address(name), Request::default()));
        answer
            .unwrap()
            .unwrap_or_else(|loss| panic!("{name}: {loss}"));
    }
}
