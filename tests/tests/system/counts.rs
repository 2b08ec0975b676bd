//! Connections and bytes equal what the clients did, exactly.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use tests::{
    client::{self, Request},
    pause::idle_for,
    sandbox::Sandbox,
    service::{self, front, number, on_demand, status},
    wait_for,
};

use crate::require_sandbox;

/// Never idle during the test.
const CONFIG: &str = r#"
listen = ["127.0.0.1:8000", "[::1]:8000"]
backend = "127.0.0.1:8080"
unit = "app.service"
idle_timeout = "1h"
steer = false
"#;

fn back() -> SocketAddr {
    "127.0.0.1:8080".parse().unwrap()
}

/// The sandbox with the application running, for clients that go to it past the front.
fn started(options: &str) -> Sandbox {
    let sandbox = on_demand(CONFIG, options).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_for("the application listens", service::SOON, || {
        let listening = sandbox.run(&["ss", "-Hltn", "sport = :8080"]).ok()?;
        (!listening.is_empty()).then_some(())
    })
    .unwrap();
    sandbox
}

/// What the clients of one test did.
#[derive(Default)]
pub(crate) struct Sums {
    pub(crate) connections: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Sums {
    pub(crate) fn add(&self, answer: &client::Answer) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(answer.sent, Ordering::Relaxed);
        self.received.fetch_add(answer.received, Ordering::Relaxed);
    }
}

/// Runs `count` requests from four threads, and waits until the kernel has seen them end.
pub(crate) fn load(
    sandbox: &Sandbox,
    address: SocketAddr,
    count: u64,
    request: Request,
    sums: &Sums,
) {
    let failures = Mutex::new(Vec::new());
    sandbox
        .in_network(|| {
            thread::scope(|scope| {
                for worker in 0..4 {
                    let failures = &failures;
                    scope.spawn(move || {
                        for _ in (worker..count).step_by(4) {
                            match client::get(address, request) {
                                Ok(answer) => sums.add(&answer),
                                Err(loss) => failures.lock().unwrap().push(loss),
                            }
                        }
                    });
                }
            });
        })
        .unwrap();
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} requests failed: {:?}",
        failures.len(),
        failures.first()
    );
}

/// The status once no connection is open.
pub(crate) fn settled(sandbox: &Sandbox) -> Value {
    wait_for("every connection is closed", service::SOON, || {
        let status = status(sandbox, "test").ok()?;
        (status["open_connections"] == 0).then_some(status)
    })
    .unwrap()
}

#[track_caller]
pub(crate) fn check(sandbox: &Sandbox, sums: &Sums) {
    let status = settled(sandbox);
    let counted = |key: &str| status[key].as_u64().unwrap();
    let did = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
    assert_eq!(
        counted("accepted_connections"),
        did(&sums.connections),
        "{status}"
    );
    assert_eq!(counted("received_bytes"), did(&sums.sent), "{status}");
    assert_eq!(counted("sent_bytes"), did(&sums.received), "{status}");
    assert_eq!(counted("count_drift"), 0, "{status}");
}

#[test]
fn ten_thousand_short_connections() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let sums = Sums::default();
    load(&sandbox, front(), 5_000, Request::default(), &sums);
    load(
        &sandbox,
        back(),
        4_000,
        Request {
            upload: 300,
            ..Request::default()
        },
        &sums,
    );
    load(
        &sandbox,
        front(),
        500,
        Request {
            half_close: true,
            ..Request::default()
        },
        &sums,
    );
    load(
        &sandbox,
        "[::1]:8000".parse().unwrap(),
        500,
        Request::default(),
        &sums,
    );
    check(&sandbox, &sums);
    let status = settled(&sandbox);
    assert_eq!(status["front"]["accepted"], 6_000, "{status}");
    assert_eq!(status["back"]["accepted"], 10_000, "{status}");
}

#[test]
fn a_thousand_at_once() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let sums = Sums::default();
    let request = Request {
        keep_alive: true,
        ..Request::default()
    };
    sandbox
        .in_network(|| {
            let mut streams: Vec<TcpStream> = (0..1_000)
                .map(|_| client::connect(front()).unwrap())
                .collect();
            let totals: Vec<(u64, u64)> = streams
                .iter_mut()
                .map(|stream| {
                    let answer = client::ask(stream, request).unwrap();
                    (answer.sent, answer.received)
                })
                .collect();
            for (sent, received) in totals {
                sums.connections.fetch_add(1, Ordering::Relaxed);
                sums.sent.fetch_add(sent, Ordering::Relaxed);
                sums.received.fetch_add(received, Ordering::Relaxed);
            }
            assert_eq!(number(&sandbox, "test", "open_connections").unwrap(), 1_000);
        })
        .unwrap();
    check(&sandbox, &sums);
}

#[test]
fn a_gibibyte() {
    require_sandbox!();
    let sandbox = started("");
    let sums = Sums::default();
    let half = 256 << 20; // twice, each way
    load(
        &sandbox,
        back(),
        2,
        Request {
            download: half,
            upload: half,
            ..Request::default()
        },
        &sums,
    );
    check(&sandbox, &sums);
}

#[test]
fn counting_goes_on_while_the_agent_is_killed_and_started() {
    require_sandbox!();
    let sandbox = started("");
    let sums = Sums::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (sandbox, sums, done) = (&sandbox, &sums, &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                load(sandbox, back(), 500, Request::default(), sums);
            }
        });
        for _ in 0..3 {
            let seen = sums.connections.load(Ordering::Relaxed);
            let more = wait_for("more requests", service::SOON, || {
                (sums.connections.load(Ordering::Relaxed) >= seen + 300).then_some(())
            });
            let killed = sandbox.run(&["systemctl", "kill", "--signal=KILL", "ondemand.service"]);
            let again = wait_for("a new agent", service::SOON, || {
                status(sandbox, "test").ok()
            });
            if more.is_err() || killed.is_err() || again.is_err() {
                done.store(true, Ordering::Relaxed);
                panic!("{more:?} {killed:?} {again:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    check(&sandbox, &sums);
}

#[test]
fn resets_half_closes_and_handshakes_that_are_not_finished() {
    require_sandbox!();
    let sandbox = started("");
    let sums = Sums::default();
    sandbox
        .in_network(|| {
            // Closed with unread data and SO_LINGER 0: a reset.
            for _ in 0..200 {
                let stream = client::connect(back()).unwrap();
                let linger = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &linger).unwrap();
                sums.connections.fetch_add(1, Ordering::Relaxed);
            }
            // Half closed without a request: the server ends it.
            for _ in 0..200 {
                let mut stream = client::connect(back()).unwrap();
                stream.write_all(b"half a req").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).unwrap();
                sums.connections.fetch_add(1, Ordering::Relaxed);
                sums.sent.fetch_add(10, Ordering::Relaxed);
            }
            // A connect that is abandoned before the reply: nothing waits for it. The loopback
            // replies at once, so the rest is a connection and a reset.
            for _ in 0..50 {
                let socket = nix::sys::socket::socket(
                    nix::sys::socket::AddressFamily::Inet,
                    nix::sys::socket::SockType::Stream,
                    nix::sys::socket::SockFlag::SOCK_NONBLOCK,
                    None,
                )
                .unwrap();
                let address = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 8081);
                let _ = nix::sys::socket::connect(socket.as_raw_fd(), &address);
            }
        })
        .unwrap();
    check(&sandbox, &sums);
}

#[test]
fn an_mptcp_listener_counts_a_client_once() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "--mptcp").unwrap();
    let sums = Sums::default();
    load(&sandbox, front(), 200, Request::default(), &sums);
    load(&sandbox, back(), 100, Request::default(), &sums);
    let status = settled(&sandbox);
    assert_eq!(status["accepted_connections"], 300, "{status}");
    assert_eq!(
        status["received_bytes"],
        sums.sent.load(Ordering::Relaxed),
        "{status}"
    );
}

#[test]
fn workers_that_share_a_port_and_a_wildcard_listener() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "--workers 4 --listen [::]:8080").unwrap();
    let sums = Sums::default();
    load(&sandbox, front(), 400, Request::default(), &sums);
    load(&sandbox, back(), 400, Request::default(), &sums);
    load(
        &sandbox,
        "[::1]:8080".parse().unwrap(),
        400,
        Request::default(),
        &sums,
    );
    check(&sandbox, &sums);
}

#[test]
fn an_ipv6_backend() {
    require_sandbox!();
    let config = CONFIG.replace("\"127.0.0.1:8080\"", "\"[::1]:8080\"");
    let sandbox = on_demand(&config, "--listen [::1]:8080").unwrap();
    let sums = Sums::default();
    load(&sandbox, front(), 200, Request::default(), &sums);
    load(
        &sandbox,
        "[::1]:8080".parse().unwrap(),
        100,
        Request::default(),
        &sums,
    );
    check(&sandbox, &sums);
}

#[test]
fn a_unix_backend_behind_a_tcp_front() {
    require_sandbox!();
    let config = CONFIG.replace("\"127.0.0.1:8080\"", "\"/run/app.sock\"");
    let sandbox = on_demand(&config, "--listen /run/app.sock").unwrap();
    let sums = Sums::default();
    load(
        &sandbox,
        front(),
        300,
        Request {
            upload: 100,
            ..Request::default()
        },
        &sums,
    );
    check(&sandbox, &sums);
}

#[test]
fn connections_older_than_the_agent_are_seen() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = CONFIG.replace("1h", "300ms") + "min_uptime = \"0s\"\n";
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox
        .in_network(|| {
            let request = Request {
                keep_alive: true,
                ..Request::default()
            };
            let mut old: Vec<TcpStream> = (0..20)
                .map(|_| {
                    let mut stream = client::connect(front()).unwrap();
                    client::ask(&mut stream, request).unwrap();
                    stream
                })
                .collect();
            service::start_agent(&sandbox).unwrap();
            assert!(number(&sandbox, "test", "open_connections").unwrap() >= 20);
            // Quiet for several timeouts, and still served by the same process.
            idle_for(Duration::from_millis(1_500));
            for stream in &mut old {
                client::ask(stream, request).unwrap();
            }
            assert_eq!(number(&sandbox, "test", "stops").unwrap(), 0);
        })
        .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
}
