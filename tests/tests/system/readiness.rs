//! The first client is held until the application can answer, and not longer than that.

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Loss, Request},
    require_long,
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, number, on_demand, status, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

fn ask(sandbox: &Sandbox) -> Result<client::Answer, Loss> {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
}

#[test]
fn the_first_client_of_a_slow_simple_service_is_answered() {
    require_sandbox!();
    for options in [
        "--start-delay-ms 700",
        "--start-delay-ms 700 --notify",
        "--accept-delay-ms 500",
    ] {
        let sandbox = on_demand(CONFIG, options).unwrap();
        for start in 1..=2 {
            let answer = ask(&sandbox).unwrap_or_else(|loss| panic!("{options}: {loss}"));
            assert!(
                answer.took >= Duration::from_millis(500),
                "{options}: {:?}",
                answer.took
            );
            let started = number(&sandbox, "test", "starts").unwrap();
            assert_eq!(started, start, "{options}");
            // The start is a part of what its client waited for, and most of the delay a part of the
            // start: systemd notes its time when it has forked, and the application may have begun.
            let least = if options.contains("start-delay") {
                0.6
            } else {
                0.0
            };
            wait_for("the start's length", SOON, || {
                let status = status(&sandbox, "test").ok()?;
                let took = status["last_start_duration_seconds"].as_f64()?;
                (least..=answer.took.as_secs_f64())
                    .contains(&took)
                    .then_some(())
            })
            .unwrap_or_else(|error| panic!("{options}: {error}: {:?}", status(&sandbox, "test")));
            wait_state(&sandbox, "app.service", "inactive").unwrap();
        }
    }
}

#[test]
fn the_application_is_started_before_the_proxy() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    // By their names alone the proxy would be the first.
    service::write_backend(&sandbox, "wiki.service", "").unwrap();
    let config = format!("[service.test]\n{CONFIG}").replace("app.service", "wiki.service");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    for _ in 0..3 {
        ask(&sandbox).unwrap();
        let started = |unit: &str| -> u64 {
            let time = sandbox.property(unit, "ExecMainStartTimestampMonotonic");
            time.unwrap().parse().unwrap()
        };
        let (application, proxy) = (started("wiki.service"), started("ondemand-test.service"));
        assert!(application <= proxy, "{application} µs, {proxy} µs");
        let stop = ["systemctl", "stop", "ondemand-test.target", "wiki.service"];
        sandbox.run(&stop).unwrap();
    }
}

#[test]
fn many_clients_of_one_cold_start_are_all_answered() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "--start-delay-ms 500").unwrap();
    let answers = sandbox
        .in_network(|| {
            thread::scope(|scope| {
                let clients: Vec<_> = (0..200)
                    .map(|_| scope.spawn(|| client::get(front(), Request::default())))
                    .collect();
                clients
                    .into_iter()
                    .map(|client| client.join().unwrap())
                    .collect::<Vec<_>>()
            })
        })
        .unwrap();
    for answer in answers {
        answer.unwrap();
    }
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 1);
}

/// The client is closed within `from..to`, the journal has the reason, and the next one tries again.
#[track_caller]
fn check_gives_up(config: &str, options: &str, from: Duration, to: Duration, why: &str) {
    let sandbox = on_demand(config, options).unwrap();
    for attempt in 1..=2 {
        let start = Instant::now();
        let loss = ask(&sandbox).expect_err("an answer from a backend that cannot answer");
        let took = start.elapsed();
        assert!(
            matches!(
                loss,
                Loss::Closed | Loss::Receive(std::io::ErrorKind::ConnectionReset)
            ),
            "{options}: {loss}"
        );
        assert!(
            took >= from && took <= to,
            "{options}: closed after {took:?}"
        );
        service::wait_journal(&sandbox, "ondemand-test.service", why, attempt)
            .unwrap_or_else(|error| panic!("{options}: {error:#}"));
    }
    // The socket is still there for the next, and nothing spins.
    assert_eq!(
        sandbox
            .property("ondemand-test.socket", "ActiveState")
            .unwrap(),
        "active"
    );
    let restarts = sandbox.journal("app.service").matches("Started").count()
        + sandbox.journal("app.service").matches("Starting").count();
    assert!(restarts <= 8, "{options}: {restarts} starts for 2 clients");
}

/// It listens, and loses connections for this time: its first clients are answered after it.
#[track_caller]
fn check_waited_for(way: &str, unready: Duration) {
    let options = format!("--unready {way} --unready-ms {}", unready.as_millis());
    let sandbox = on_demand(CONFIG, &options).unwrap();
    let request = Request {
        upload: 20_000,
        ..Request::default()
    };
    let answers = sandbox
        .in_network(|| {
            thread::scope(|scope| {
                let clients = [(); 3].map(|()| scope.spawn(|| client::get(front(), request)));
                clients.map(|client| client.join().unwrap())
            })
        })
        .unwrap();
    for answer in answers {
        let answer = answer.unwrap_or_else(|loss| panic!("{way}: {loss}"));
        let late = unready + Duration::from_secs(3);
        assert!(answer.took < late, "{way}: {:?}", answer.took);
        assert!(answer.took >= unready / 2, "{way}: {:?}", answer.took);
    }
    let words = "is not ready, trying again";
    let journal = service::wait_journal(&sandbox, "ondemand-test.service", words, 1).unwrap();
    assert_eq!(journal.matches(words).count(), 1, "{way}: {journal}");
}

#[test]
fn a_backend_that_listens_and_loses_its_first_connections() {
    require_sandbox!();
    require_long!("ready has it with fewer");
    check_waited_for("reset", Duration::from_secs(3));
    check_waited_for("refuse", Duration::from_secs(4));
    if skip::is_long() {
        check_waited_for("close", Duration::from_secs(3));
        check_waited_for("read", Duration::from_secs(3));
    }
}

#[test]
fn a_backend_that_loses_all_connections_is_not_waited_for_longer_than_start_timeout() {
    require_sandbox!();
    // It must not be stopped before the second client comes, which would be a start like the first.
    let config = CONFIG.replace("\"10s\"", "\"3s\"").replace("300ms", "1h");
    let sandbox = on_demand(&config, "--unready reset --unready-ms 60000").unwrap();
    let start = Instant::now();
    let loss = ask(&sandbox).expect_err("an answer from a backend that resets");
    let took = start.elapsed();
    assert_eq!(loss, Loss::Receive(std::io::ErrorKind::ConnectionReset));
    assert!(
        took >= Duration::from_millis(2_500),
        "closed after {took:?}"
    );
    assert!(took < Duration::from_secs(8), "closed after {took:?}");
    let words = "did not answer the first clients";
    service::wait_journal(&sandbox, "ondemand-test.service", words, 1).unwrap();
    // It is up, and its start is over: the next one is not held.
    let start = Instant::now();
    ask(&sandbox).expect_err("an answer from a backend that resets");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "closed after {took:?}");
}

#[test]
fn a_backend_that_crashes_at_its_start() {
    require_sandbox!();
    let soon = Duration::from_secs(8);
    check_gives_up(CONFIG, "--crash", Duration::ZERO, soon, "app.service");
    check_gives_up(
        CONFIG,
        "--crash --notify",
        Duration::ZERO,
        soon,
        "app.service",
    );
}

#[test]
fn a_backend_that_never_listens() {
    require_sandbox!();
    let config = CONFIG.replace("\"10s\"", "\"1500ms\"");
    let (from, to) = (Duration::from_millis(1_400), Duration::from_secs(10));
    check_gives_up(&config, "--never-listen", from, to, "127.0.0.1:8080");
    // Type=notify that never becomes ready: it hangs in activating.
    check_gives_up(
        &config,
        "--notify --start-delay-ms 60000",
        from,
        to,
        "app.service",
    );
}

#[test]
fn a_backend_that_systemd_restarts_again_and_again() {
    require_sandbox!();
    // Its crashes take the proxy along; the client's wait is still one.
    let sandbox = on_demand(&CONFIG.replace("\"10s\"", "\"3s\""), "--crash").unwrap();
    let restart = "[Service]\nRestart=always\nRestartSec=300ms\n";
    sandbox
        .write("/etc/systemd/system/app.service.d/restart.conf", restart)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let start = Instant::now();
    ask(&sandbox).expect_err("an answer from a backend that crashes");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "closed after {took:?}");
}

#[test]
fn a_backend_that_crashes_under_its_proxy_is_started_by_a_next_client() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    ask(&sandbox).unwrap();
    assert_eq!(
        sandbox
            .property("ondemand-test.service", "ActiveState")
            .unwrap(),
        "active"
    );
    sandbox
        .run(&["systemctl", "kill", "--signal=KILL", "app.service"])
        .unwrap();
    wait_for("a client is answered again", SOON, || ask(&sandbox).ok()).unwrap();
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 2);
}

#[test]
fn a_backend_that_is_stopped_by_hand_is_started_by_the_next_client() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    ask(&sandbox).unwrap();
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    ask(&sandbox).unwrap();
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 2);
}

#[test]
fn a_proxy_that_is_told_to_end_lets_its_clients_finish() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let ask = |query| {
        let request = Request {
            query,
            ..Request::default()
        };
        sandbox
            .in_network(|| client::get(front(), request))
            .unwrap()
    };
    ask("").unwrap();
    let proxy = "ondemand-test.service";
    let first = sandbox.main_pid(proxy).unwrap();
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask("wait=1500"));
        wait_for("it is being served", SOON, || {
            (number(&sandbox, "test", "open_connections").ok()? == 1).then_some(())
        })
        .unwrap();
        sandbox.run(&["systemctl", "stop", proxy]).unwrap();
        slow.join().unwrap().unwrap();
    });
    // The next client gets a proxy of its own; the application is the same.
    ask("").unwrap();
    assert_ne!(sandbox.main_pid(proxy).unwrap(), first);
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 1);
}
