//! Clients that vanish without a word, as a laptop that is closed: their connections end, and keep up
//! neither this run of the application nor the next one.

use std::{io::Write as _, net::TcpStream, time::Duration};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, SOON, front, number, status, wait_state},
    wait_for,
};

use crate::{
    require_sandbox,
    steering::{CONFIG, is_steered, parse, wait_route, warm},
    stranger::{add_neighbour, outside},
};

/// A service with fronts of both families.
fn service(name: &str, front: u16, backend: &str, keepalive: &str) -> String {
    format!(
        "[service.{name}]\nlisten = [\"0.0.0.0:{front}\", \"[::]:{front}\"]\nbackend = \"{backend}\"\n\
         unit = \"{name}.service\"\nidle_timeout = \"200ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n\
         keepalive = \"{keepalive}\"\n"
    )
}

/// A client of the other network that has had an answer, and stays connected.
fn connected(sandbox: &Sandbox, to: &str) -> TcpStream {
    let to = parse(to);
    outside(sandbox, || {
        let mut stream = client::connect(to).unwrap();
        let kept = Request {
            keep_alive: true,
            ..Request::default()
        };
        client::ask(&mut stream, kept).unwrap();
        stream
    })
}

/// From now on nothing arrives, on either side.
fn cut(sandbox: &Sandbox) {
    sandbox
        .run(&["ip", "-n", "other", "link", "set", "far", "down"])
        .unwrap();
}

#[test]
fn a_client_that_vanished_is_found_on_every_way_to_the_application() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    // With its backend's family each has one way: clients of the other family are proxied.
    let services = [
        ("test", 8000, "127.0.0.1:8080", "1s"),
        ("other", 8001, "[::1]:8081", "1s"),
        ("off", 8002, "127.0.0.1:8082", "off"),
    ];
    let mut config = String::new();
    for (name, front, backend, keepalive) in services {
        let options = format!("--listen {backend}");
        service::write_backend(&sandbox, &format!("{name}.service"), &options).unwrap();
        config += &service(name, front, backend, keepalive);
    }
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &services.map(|(name, ..)| name)).unwrap();
    service::start_agent(&sandbox).unwrap();
    let mut clients = Vec::new();
    for (name, front, ..) in services {
        clients.push(connected(&sandbox, &format!("10.77.0.1:{front}")));
        let steered = wait_for("it is steered", SOON, || {
            (status(&sandbox, name).ok()?["route"] == "steered").then_some(())
        });
        steered.unwrap();
        clients.push(connected(&sandbox, &format!("10.77.0.1:{front}")));
        clients.push(connected(&sandbox, &format!("[fd77::1]:{front}")));
        let status = status(&sandbox, name).unwrap();
        let open = |leg: &str| {
            let count = |key: &str| status[leg][key].as_u64().unwrap();
            count("accepted") - count("closed")
        };
        assert!(open("front") >= 1 && open("steered") >= 1, "{status}");
        assert_eq!(open("front") + open("steered"), 3, "{status}");
    }
    cut(&sandbox);
    for (name, ..) in &services[..2] {
        wait_state(&sandbox, &format!("{name}.service"), "inactive").unwrap();
        let status = status(&sandbox, name).unwrap();
        assert_eq!(status["stops_by_reason"]["idle"], 1, "{status}");
        assert_eq!(status["count_drift"], 0, "{status}");
    }
    // The kernel's own times are hours.
    service::stays(&sandbox, "off.service", "active", Duration::from_secs(1));
    assert_eq!(number(&sandbox, "off", "open_connections").unwrap(), 3);
}

/// The time until a new steered client is asked whether it is there, as `ss` has it.
fn keepalive(sandbox: &Sandbox) -> Option<String> {
    let kept = Request {
        keep_alive: true,
        ..Request::default()
    };
    let mut stream = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    client::ask(&mut stream, kept).unwrap();
    let timers = sandbox.run(&["ss", "-Htno", "sport = :8000"]).unwrap();
    let timer = timers.split("keepalive,").nth(1)?;
    timer.split(',').next().map(str::to_owned)
}

#[test]
fn the_default_is_two_minutes_and_a_shorter_time_of_the_application_stays() {
    require_sandbox!();
    for (options, expected) in [
        ("", ["1min", "2min"]),
        ("--keepalive-s 600", ["1min", "2min"]),
        // Seconds, which `ss` prints with a fraction or rounded.
        ("--keepalive-s 7", ["6", "7"]),
    ] {
        let timer = keepalive(&warm(CONFIG, options)).unwrap();
        let found = expected.iter().any(|start| timer.starts_with(start));
        assert!(found, "{options}: {timer}");
    }
}

#[test]
fn another_time_is_that_of_the_next_connection() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    for (value, expected) in [
        ("5min", vec!["4min", "5min"]),
        ("30s", vec!["29", "30"]),
        ("off", vec![]),
        ("2min", vec!["1min", "2min"]),
    ] {
        let config = format!("[service.test]\n{CONFIG}keepalive = \"{value}\"\n");
        service::write_config(&sandbox, &config).unwrap();
        sandbox.run(&["ondemand", "reload"]).unwrap();
        let timer = keepalive(&sandbox);
        let found = timer.as_ref().map_or(expected.is_empty(), |timer| {
            expected.iter().any(|start| timer.starts_with(start))
        });
        assert!(found, "{value}: {timer:?}");
    }
}

#[test]
fn what_an_ended_run_has_left_to_the_kernel_is_no_use_of_the_next_one() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    service::write_backend(&sandbox, "test.service", "").unwrap();
    let config = service("test", 8000, "127.0.0.1:8080", "off");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    assert!(!is_steered(&sandbox, front()), "a cold start");
    wait_route(&sandbox, "steered");
    // It asks for more than any buffer holds, and reads nothing of it.
    let mut greedy = outside(&sandbox, || {
        client::connect(parse("10.77.0.1:8000")).unwrap()
    });
    let unread = "GET /?bytes=100000000 HTTP/1.1\r\nHost: test\r\n\r\n";
    greedy.write_all(unread.as_bytes()).unwrap();
    wait_for("it is steered", SOON, || {
        (status(&sandbox, "test").ok()?["steered"]["accepted"] == 1).then_some(())
    })
    .unwrap();
    wait_for("its answer is waiting", SOON, || {
        let sockets = sandbox.run(&["ss", "-Htn", "sport = :8000"]).ok()?;
        let waits = |line: &str| line.split_whitespace().nth(2)?.parse().ok();
        sockets
            .lines()
            .filter_map(waits)
            .max()
            .filter(|bytes: &u64| *bytes > 0)
    })
    .unwrap();
    cut(&sandbox);
    let pid = sandbox.main_pid("test.service").unwrap().to_string();
    sandbox.run(&["kill", "-KILL", &pid]).unwrap();
    wait_state(&sandbox, "test.service", "failed").unwrap();
    let left = || {
        sandbox
            .run(&["ss", "-Htn", "state", "fin-wait-1", "sport = :8000"])
            .unwrap()
    };
    assert!(left().contains("10.77.0.2"), "{}", left());
    // The next run: it stops when this client has gone.
    wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
    assert!(!is_steered(&sandbox, front()));
    wait_state(&sandbox, "test.service", "inactive").unwrap();
    assert!(left().contains("10.77.0.2"), "{}", left());
    let status = status(&sandbox, "test").unwrap();
    assert_eq!(status["count_drift"], 0, "{status}");
    assert_eq!(status["open_connections"], 0, "{status}");
    assert_eq!(status["stops_by_reason"]["idle"], 1, "{status}");
}
