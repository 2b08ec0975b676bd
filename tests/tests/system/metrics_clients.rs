//! Scrapers that misbehave, and addresses that are taken.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tests::{
    client,
    http::{self, Reply},
    metrics::{address, on_demand, scrape, write_config},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front},
    wait_for,
};

use crate::require_sandbox;

fn boot() -> Sandbox {
    on_demand(Sandbox::boot().unwrap(), CONFIG, "").unwrap()
}

#[test]
fn only_metrics_are_told_and_only_to_who_asks_properly() {
    require_sandbox!();
    let sandbox = boot();
    #[track_caller]
    fn check(sandbox: &Sandbox, text: &str, status: u16) -> Reply {
        let reply = http::send(sandbox, address(), text).unwrap();
        assert_eq!(reply.status, status, "{text:.60}: {reply:?}");
        reply
    }
    let check = |text: &str, status| check(&sandbox, text, status);
    check("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
    check("GET /metrics?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
    let head = check("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
    assert_eq!(head.body, "");
    let index = check("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
    assert!(index.body.contains("/metrics"));
    for path in ["/nothing", "/metrics/", "//metrics", "/../etc/passwd"] {
        check(
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            404,
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "ODD"] {
        let text =
            format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let reply = check(&text, 405);
        assert!(reply.head.contains("allow: get, head"), "{reply:?}");
    }
    // A page in a browser whose own name resolves to this host (DNS rebinding).
    for host in [
        "evil.example",
        "evil.example:9464",
        "127.0.0.1.evil.example",
    ] {
        let reply = check(
            &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            403,
        );
        assert!(!reply.body.contains("ondemand_"), "{reply:?}");
    }
    for host in ["127.0.0.1:9464", "[::1]:1", "LOCALHOST", ""] {
        check(
            &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            200,
        );
    }
    check("GET /metrics HTTP/1.0\r\n\r\n", 200);
    let long = "a".repeat(10 << 10);
    check(
        &format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nA: {long}\r\n\r\n"),
        431,
    );
    let reply = http::send(
        &sandbox,
        address(),
        &format!("GET /{long} HTTP/1.1\r\n\r\n"),
    )
    .unwrap();
    assert!((400..500).contains(&reply.status), "{reply:?}");
    check("nonsense\r\n\r\n", 400);
    check("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
}

#[test]
fn who_holds_connections_open_keeps_nobody_else_out() {
    require_sandbox!();
    let sandbox = boot();
    let connect = |count: usize| -> Vec<TcpStream> {
        sandbox
            .in_network(|| {
                (0..count)
                    .map(|_| TcpStream::connect(address()).unwrap())
                    .collect()
            })
            .unwrap()
    };
    let silent = connect(400);
    let begin = Instant::now();
    scrape(&sandbox).unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    drop(silent);

    // One byte of a head every second: it is not waited for.
    let mut slow = connect(1).pop().unwrap();
    let begin = Instant::now();
    let mut byte = [0];
    slow.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let closed = loop {
        let _ = slow.write_all(b"G");
        match slow.read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(1..) => {}
            Ok(0) | Err(_) => break begin.elapsed(),
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "still open");
    };
    assert!(closed < Duration::from_secs(12), "{closed:?}");

    // Clients that send a request and do not read the response.
    let mut deaf = connect(50);
    for stream in &mut deaf {
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    let begin = Instant::now();
    scrape(&sandbox).unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    // Meanwhile services are managed.
    sandbox
        .in_network(|| client::get(front(), client::Request::default()))
        .unwrap()
        .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn an_address_that_is_taken_is_said_and_tried_again() {
    require_sandbox!();
    let sandbox = Sandbox::boot().unwrap();
    let taken = sandbox
        .in_network(|| TcpListener::bind(address()).unwrap())
        .unwrap();
    let sandbox = on_demand(sandbox, CONFIG, "").unwrap();
    wait_for("the agent logs it", SOON, || {
        let journal = sandbox.journal("ondemand.service");
        journal
            .contains("metrics cannot be served at 127.0.0.1:9464")
            .then_some(())
    })
    .unwrap();
    sandbox
        .in_network(|| client::get(front(), client::Request::default()))
        .unwrap()
        .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
    drop(taken);
    wait_for("metrics are served", SOON, || scrape(&sandbox).ok()).unwrap();
}

#[test]
fn scrapes_go_on_while_the_configuration_is_read_again() {
    require_sandbox!();
    let sandbox = boot();
    let services = format!("[service.test]\n{CONFIG}");
    let reload = |address: &str| {
        write_config(&sandbox, address, &services).unwrap();
        sandbox.run(&["systemctl", "reload", "ondemand.service"])
    };
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            for _ in 0..100 {
                scrape(&sandbox).unwrap();
            }
        });
        for _ in 0..5 {
            reload("127.0.0.1:9464").unwrap();
        }
        scraper.join().unwrap();
    });
    reload("[::1]:9999").unwrap();
    let other = "[::1]:9999".parse().unwrap();
    wait_for("served at the other address", SOON, || {
        http::get(&sandbox, other, "/metrics", "").ok()
    })
    .unwrap();
    assert!(scrape(&sandbox).is_err(), "still at the first address");
    reload("").unwrap();
    wait_for("served nowhere", SOON, || {
        http::get(&sandbox, other, "/metrics", "")
            .is_err()
            .then_some(())
    })
    .unwrap();
    // An invalid one changes nothing, and is reported with its place.
    reload("127.0.0.1:9464").unwrap();
    wait_for("served again", SOON, || scrape(&sandbox).ok()).unwrap();
    reload("127.0.0.1").unwrap_err();
    wait_for("the agent logs it", SOON, || {
        let journal = sandbox.journal("ondemand.service");
        journal
            .contains("/etc/ondemand/ondemand.toml:2: agent.metrics")
            .then_some(())
    })
    .unwrap();
    scrape(&sandbox).unwrap();
}
