//! The proxy under many connections: its memory is bounded, and so is what it logs.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::{
    client::{self, Request},
    pause::idle_for,
    sandbox::Sandbox,
    service::{CONFIG, SOON, front, number, on_demand},
    wait_for,
};

use crate::require_sandbox;

const PROXY: &str = "ondemand-test.service";
/// Clients that request much and read nothing.
const STALLED: usize = 2_000;
/// What the proxy may take for them, in KiB.
const MOST: u64 = 150 * 1024;

/// Resident memory of the proxy, in KiB.
fn resident(sandbox: &Sandbox) -> u64 {
    let pid = sandbox.main_pid(PROXY).unwrap();
    let status = sandbox
        .run(&["cat", &format!("/proc/{pid}/status")])
        .unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn clients_that_do_not_read_take_little_memory() {
    require_sandbox!();
    let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1).unwrap();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let ask = || {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
            .unwrap()
    };
    ask();
    let before = resident(&sandbox);
    let stalled: Vec<TcpStream> = sandbox
        .in_network(|| {
            let stall = |_| {
                let mut stream = client::connect(front()).unwrap();
                let request = "GET /?bytes=20000000 HTTP/1.1\r\nHost: test\r\n\r\n";
                stream.write_all(request.as_bytes()).unwrap();
                stream
            };
            (0..STALLED).map(stall).collect()
        })
        .unwrap();
    wait_for("all clients are connected", SOON, || {
        let open = number(&sandbox, "test", "open_connections").ok()?;
        (open == STALLED as u64).then_some(())
    })
    .unwrap();
    // It has read for each of them what it will.
    let mut last = 0;
    wait_for("the proxy takes no more memory", SOON, || {
        idle_for(Duration::from_millis(300));
        let now = resident(&sandbox);
        let is_still = now == last;
        last = now;
        is_still.then_some(())
    })
    .unwrap();
    println!("{before} KiB, with {STALLED} stalled clients {last} KiB");
    assert!(last < MOST, "{last} KiB");
    // One that reads is served meanwhile.
    ask();
    drop(stalled);
}

#[test]
fn descriptors_that_run_out_are_one_line_a_second() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let few = "[Service]\nLimitNOFILE=64\n";
    let place = format!("/etc/systemd/system/{PROXY}.d/few.conf");
    sandbox.write(&place, few).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let ask = || {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
    };
    ask().unwrap();
    let begin = Instant::now();
    let many: Vec<TcpStream> = sandbox
        .in_network(|| (0..80).map(|_| client::connect(front()).unwrap()).collect())
        .unwrap();
    let lines = || sandbox.journal(PROXY).matches("accept: ").count();
    wait_for("it is logged", SOON, || (lines() > 0).then_some(())).unwrap();
    idle_for(Duration::from_secs(3));
    let (count, took) = (lines() as u64, begin.elapsed().as_secs());
    assert!(count >= 3 && count <= took + 2, "{count} lines in {took} s");
    let journal = sandbox.journal(PROXY);
    assert!(journal.contains("not logged"), "{journal}");
    // It goes on by itself.
    drop(many);
    wait_for("clients are served again", SOON, || ask().ok()).unwrap();
}
