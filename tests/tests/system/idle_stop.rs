//! When a service is stopped, and when it is not.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Request},
    pause::{idle_for, think},
    sandbox::Sandbox,
    service::{self, CONFIG, front, number, on_demand, status, stays, wait_state},
    wait_for,
};

use crate::require_sandbox;

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

/// Microseconds of CLOCK_MONOTONIC when a unit last left the active state.
fn active_exit(sandbox: &Sandbox) -> Duration {
    let text = sandbox
        .property("app.service", "ActiveExitTimestampMonotonic")
        .unwrap();
    Duration::from_micros(text.parse().unwrap())
}

fn monotonic() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap()
        .into()
}

#[test]
fn stopped_after_the_idle_timeout_and_at_most_a_second_later() {
    require_sandbox!();
    for (timeout, rounds) in [(300u64, 3), (1_500, 2)] {
        let config = CONFIG.replace("300ms", &format!("{timeout}ms"));
        let sandbox = on_demand(&config, "").unwrap();
        for _ in 0..rounds {
            ask(&sandbox);
            let quiet_since = monotonic();
            wait_state(&sandbox, "app.service", "inactive").unwrap();
            let after = active_exit(&sandbox).saturating_sub(quiet_since);
            // The client's last packet is a moment older than what this test calls quiet.
            let slack = Duration::from_millis(20);
            assert!(
                after + slack >= Duration::from_millis(timeout),
                "{timeout} ms: after {after:?}"
            );
            assert!(
                after <= Duration::from_millis(timeout + 1_000),
                "{timeout} ms: after {after:?}"
            );
        }
        assert_eq!(number(&sandbox, "test", "stops").unwrap(), rounds);
    }
}

#[test]
fn a_silent_connection_keeps_it_up() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    for address in [front(), "127.0.0.1:8080".parse().unwrap()] {
        ask(&sandbox);
        let silent = sandbox
            .in_network(|| client::connect(address).unwrap())
            .unwrap();
        stays(&sandbox, "app.service", "active", Duration::from_secs(2)); // several idle timeouts
        assert_eq!(number(&sandbox, "test", "open_connections").unwrap(), 1);
        drop(silent);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
}

#[test]
fn not_stopped_before_its_minimum_uptime() {
    require_sandbox!();
    let config = CONFIG.replace("\"0s\"", "\"3s\"");
    let sandbox = on_demand(&config, "").unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let entered = sandbox
        .property("app.service", "ActiveEnterTimestampMonotonic")
        .unwrap();
    let entered = Duration::from_micros(entered.parse().unwrap());
    assert!(active_exit(&sandbox) - entered >= Duration::from_secs(3));
}

#[test]
fn a_service_started_by_hand_takes_the_lease_and_is_stopped_when_idle() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "stops").unwrap(), 1);
}

#[test]
fn a_veto_program_keeps_it_up() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    sandbox.write("/usr/bin/checker", "").unwrap();
    let script = sandbox.path("/tmp/checker.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\necho \"$ONDEMAND_SERVICE $ONDEMAND_UNIT\" >>/run/ondemand/asked\n\
         test -e /run/allow || { echo still indexing; exit 1; }\n",
    )
    .unwrap();
    sandbox.install(&script, "/usr/bin/checker").unwrap();
    let config = format!("[service.test]\n{CONFIG}veto = \"/usr/bin/checker\"\n");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_for("the program is run twice", service::SOON, || {
        let asked = std::fs::read_to_string(sandbox.path("/run/ondemand/asked")).ok()?;
        (asked.lines().count() >= 2).then(|| assert!(asked.starts_with("test app.service")))
    })
    .unwrap();
    assert_eq!(
        sandbox.property("app.service", "ActiveState").unwrap(),
        "active"
    );
    assert!(number(&sandbox, "test", "vetoes").unwrap() >= 2);
    assert!(
        sandbox
            .journal("ondemand.service")
            .contains("still indexing")
    );
    sandbox.write("/run/allow", "").unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn a_dry_run_says_what_it_would_stop() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    sandbox
        .write(
            "/etc/systemd/system/ondemand.service.d/dry.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/ondemand agent --dry-run\n",
        )
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_for("the agent logs it", service::SOON, || {
        sandbox
            .journal("ondemand.service")
            .contains("would be stopped")
            .then_some(())
    })
    .unwrap();
    assert_eq!(
        sandbox.property("app.service", "ActiveState").unwrap(),
        "active"
    );
}

#[test]
fn a_reload_takes_a_new_configuration_and_loses_no_count() {
    require_sandbox!();
    let slow = CONFIG.replace("300ms", "1h");
    let sandbox = on_demand(&slow, "").unwrap();
    // Past the proxy: one that runs keeps its own, older idle time.
    let back = "127.0.0.1:8080".parse().unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_for("the application listens", service::SOON, || {
        sandbox
            .in_network(|| client::get(back, Request::default()))
            .unwrap()
            .ok()
    })
    .unwrap();
    for _ in 0..4 {
        sandbox
            .in_network(|| client::get(back, Request::default()))
            .unwrap()
            .unwrap();
    }
    let keep = Request {
        keep_alive: true,
        ..Request::default()
    };
    let mut held = sandbox
        .in_network(|| client::connect(back).unwrap())
        .unwrap();
    client::ask(&mut held, keep).unwrap();
    // A broken file changes nothing.
    service::write_config(&sandbox, "[service.test]\nlisten = 7\n").unwrap();
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap_err();
    wait_for("the agent refuses the file", service::SOON, || {
        sandbox
            .journal("ondemand.service")
            .contains("listen")
            .then_some(())
    })
    .unwrap();
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 6);
    // A good one is taken, the open connection is still known.
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
    wait_for("the new timeout", service::SOON, || {
        let status = status(&sandbox, "test").ok()?;
        (status["idle_timeout_seconds"].as_f64() == Some(0.3)).then_some(())
    })
    .unwrap();
    idle_for(Duration::from_secs(1)); // several of the new idle timeouts
    assert_eq!(number(&sandbox, "test", "open_connections").unwrap(), 1);
    client::ask(&mut held, keep).unwrap();
    drop(held);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "accepted_connections").unwrap(), 6);
}

#[test]
fn a_stopped_agent_leaves_the_service_working() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    ask(&sandbox);
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        ask(&sandbox);
        think(Duration::from_millis(400)); // longer than the idle timeout
    }
    assert_eq!(
        sandbox.property("app.service", "ActiveState").unwrap(),
        "active"
    );
    let layout = format!("v{}", ondemand_ebpf::LAYOUT_VERSION);
    let pins = sandbox.path("/sys/fs/bpf/ondemand").join(layout);
    assert!(pins.join("link_connections").exists());
    service::start_agent(&sandbox).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn unix_front_and_unix_backend() {
    require_sandbox!();
    let config = CONFIG
        .replace("\"127.0.0.1:8000\"", "\"/run/front.sock\"")
        .replace("\"127.0.0.1:8080\"", "\"/run/app.sock\"");
    let sandbox = on_demand(&config, "--listen /run/app.sock").unwrap();
    let path = sandbox.path("/run/front.sock");
    for _ in 0..2 {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(service::SOON)).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
        // Held open, silent, for several timeouts.
        stays(&sandbox, "app.service", "active", Duration::from_secs(1));
        assert!(number(&sandbox, "test", "open_connections").unwrap() >= 1);
        drop(stream);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
}
