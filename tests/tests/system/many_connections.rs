//! The proxy under many connections: its memory is bounded, and so is what it logs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::{
    built,
    client::{self, Request},
    pause::idle_for,
    require_long,
    sandbox::Sandbox,
    service::{CONFIG, FRONT, SOON, front, number, on_demand},
    skip, wait_for,
};

use crate::require_sandbox;

const PROXY: &str = "ondemand-test.service";
/// Clients that request much and read nothing.
const STALLED: usize = 2_000;
/// What the proxy may take for them, in KiB.
const MOST: u64 = 50 * 1024;

/// Clients that stay connected after an answer.
const IDLE: usize = 1_000;
/// Clients that download at the same time, and how much: more than the kernel's buffers take.
const DOWNLOADS: usize = 40;
const DOWNLOAD: usize = 4_000_000;
/// What the proxy may take for each client that carries nothing, in KiB.
const MOST_EACH: f64 = 8.0;
/// What it may have more than at its start when they are gone, in KiB. Some of it is shared: buffers for the next ones.
const LEFT: u64 = 4 * 1024;

/// As many connections as one proxy carries, each with two descriptors.
const ALL: usize = 30_000;
/// The proxy's descriptors, with some for itself.
const DESCRIPTORS: u64 = 2 * ALL as u64 + 1_000;
/// What the proxy may take for all of them, in KiB.
const MOST_OF_ALL: u64 = 500 * 1024;

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

/// The same, when it changes no more.
fn settled(sandbox: &Sandbox) -> u64 {
    let mut last = 0;
    wait_for("the proxy's memory stays as it is", SOON, || {
        idle_for(Duration::from_millis(300));
        let now = resident(sandbox);
        let is_still = now == last;
        last = now;
        is_still.then_some(now)
    })
    .unwrap()
}

/// As many descriptors as this process may have.
fn many_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// The number of connections that one proxy can have here, at most [`ALL`]: only a host that lets root raise the limit
/// of descriptors has enough of them.
fn all_that_are_possible() -> usize {
    if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_err() {
        many_descriptors();
    }
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let possible = most.saturating_sub(1_000) as usize / 2;
    if possible < ALL {
        skip::say(format_args!(
            "{ALL} connections, as a process may have {most} descriptors: {possible} instead"
        ));
    }
    ALL.min(possible)
}

/// Limits what the kernel keeps for each socket of this sandbox, in bytes (tcp(7)). All of them together would take
/// the memory that the host has for TCP, which then drops what arrives, of other tests too.
fn limit_buffers(sandbox: &Sandbox, most: usize) {
    for name in ["tcp_rmem", "tcp_wmem"] {
        let line = format!("echo 4096 16384 {most} >/proc/sys/net/ipv4/{name}");
        sandbox.run(&["sh", "-c", &line]).unwrap();
    }
}

fn wait_open(sandbox: &Sandbox, connections: u64) {
    wait_for("the clients are counted", SOON, || {
        let open = number(sandbox, "test", "open_connections").ok()?;
        (open == connections).then_some(())
    })
    .unwrap();
}

/// Requests an answer of this size on a connection that stays.
fn request(stream: &mut TcpStream, bytes: usize) {
    let request = format!("GET /?bytes={bytes} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

/// Reads an answer with a body of this size.
fn receive(stream: &mut TcpStream, bytes: usize) {
    let mut buffer = vec![0; 65_536];
    let (mut received, mut head) = (0, None);
    while head.is_none_or(|head| received < head + bytes) {
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the answer breaks off");
        let end = buffer[..count]
            .windows(4)
            .position(|end| end == b"\r\n\r\n");
        head = head.or(end.map(|at| received + at + 4));
        received += count;
    }
}

#[test]
fn connections_that_carry_nothing_take_no_buffers_and_leave_no_memory() {
    require_sandbox!();
    many_descriptors();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    limit_buffers(&sandbox, 1 << 20);
    let connect = |count: usize| -> Vec<TcpStream> {
        let connect = || (0..count).map(|_| client::connect(front()).unwrap());
        sandbox.in_network(|| connect().collect()).unwrap()
    };
    let exchange = |stream: &mut TcpStream| {
        request(stream, 1000);
        receive(stream, 1000);
    };
    exchange(&mut connect(1)[0]);
    let before = settled(&sandbox);
    // Each fills the kernel's buffers and one of the proxy's.
    let mut downloads = connect(DOWNLOADS);
    for stream in &mut downloads {
        request(stream, DOWNLOAD);
    }
    let loaded = settled(&sandbox);
    for stream in &mut downloads {
        receive(stream, DOWNLOAD);
    }
    let afterwards = settled(&sandbox);
    let mut idle = connect(IDLE);
    idle.iter_mut().for_each(exchange);
    wait_open(&sandbox, (DOWNLOADS + IDLE) as u64);
    let many = settled(&sandbox);
    // They still work.
    exchange(&mut downloads[0]);
    idle.iter_mut().step_by(100).for_each(exchange);
    drop((downloads, idle));
    wait_open(&sandbox, 0);
    idle_for(Duration::from_secs(1)); // it returns memory once a second at most
    let last = settled(&sandbox);
    println!(
        "{before} KiB, with {DOWNLOADS} stalled downloads {loaded}, when they are read {afterwards}, with {IDLE} \
         idle clients {many}, without clients {last}"
    );
    let each = (many - before) as f64 / (DOWNLOADS + IDLE) as f64;
    assert!(each < MOST_EACH, "{each:.1} KiB for each connection");
    assert!(
        afterwards < before + LEFT,
        "{afterwards} KiB after downloads"
    );
    assert!(last < before + LEFT, "{last} KiB without connections");
}

#[test]
fn as_many_connections_as_a_proxy_carries_take_little_memory() {
    require_sandbox!();
    if !skip::is_own_machine() {
        require_long!("it opens as many connections as the limits of the host allow");
    }
    let count = all_that_are_possible();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let holder = "/usr/bin/test-holder";
    sandbox
        .install(&built("test-holder").unwrap(), holder)
        .unwrap();
    let unit = format!(
        "[Service]\nExecStart={holder} --listen 127.0.0.1:8080\nLimitNOFILE={DESCRIPTORS}\n"
    );
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    let ports = "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range";
    sandbox
        .run(&["sh", "-c", &format!("systemctl daemon-reload && {ports}")])
        .unwrap();
    let hold = |count: usize| {
        let mut holder = sandbox
            .command(holder)
            .args(["--connect", FRONT, "--from", "127.0.0.1", "--connections"])
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        (holder, output)
    };
    let let_go = |(mut holder, mut output): (Child, BufReader<ChildStdout>)| {
        drop(holder.stdin.take());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        holder.wait().unwrap();
        assert_eq!(line, "lost 0\n");
    };
    let first = hold(1);
    let before = settled(&sandbox);
    let all = hold(count - 1);
    wait_open(&sandbox, count as u64);
    let many = settled(&sandbox);
    let_go(all);
    wait_open(&sandbox, 1);
    idle_for(Duration::from_secs(1)); // it returns memory once a second at most
    let last = settled(&sandbox);
    let_go(first);
    println!("{before} KiB with one connection, {many} with {count}, {last} with one");
    assert!(
        many < MOST_OF_ALL * count as u64 / ALL as u64,
        "{many} KiB with {count}"
    );
    assert!(last < before + LEFT, "{last} KiB, {before} before");
}

#[test]
fn clients_that_do_not_read_take_little_memory() {
    require_sandbox!();
    many_descriptors();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    limit_buffers(&sandbox, 64 << 10);
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
                request(&mut stream, 20_000_000);
                stream
            };
            (0..STALLED).map(stall).collect()
        })
        .unwrap();
    wait_open(&sandbox, STALLED as u64);
    // It has read for each of them what it will.
    let last = settled(&sandbox);
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
