//! Applications that keep their addresses when something comes or goes: the agent, the programs, the application itself, its
//! service.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, SOON, wait_state},
    wait_for,
};

use crate::{
    held::{ask, asleep, peer, with_a_neighbour},
    own_address::{config, is_native},
    require_sandbox,
    steering::{parse, wait_route},
    stranger::{add_neighbour, outside},
};

pub(crate) fn kill_agent(sandbox: &Sandbox) {
    let no_restart = "[Service]\nRestart=no\n";
    let place = "/etc/systemd/system/ondemand.service.d/once.conf";
    sandbox.write(place, no_restart).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let words = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
    sandbox.run(&words).unwrap();
    wait_state(sandbox, "ondemand.service", "failed").unwrap();
}

#[test]
fn clients_are_served_without_an_agent() {
    require_sandbox!();
    let sandbox = with_a_neighbour(&config("held"), "--listen [::]:8000");
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
    wait_route(&sandbox, "native");
    kill_agent(&sandbox);
    // The gate is open, and the application up.
    assert!(is_native(&sandbox, "127.0.0.1:8000"));
    // It goes: the kernel closes the gate.
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        peer(ask(&sandbox, true, to));
    }
    let state = sandbox.property("ondemand-test.service", "ActiveState");
    assert_eq!(state.unwrap(), "active", "the proxy has served");
    // And it is back: the gate is open as before.
    wait_for("clients meet the application", SOON, || {
        is_native(&sandbox, "127.0.0.1:8000").then_some(())
    })
    .unwrap();
}

/// Before the first agent of a boot, as the load unit leaves it.
#[test]
fn clients_are_served_before_the_first_agent() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{}", config("held"))).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    // What sockets.target does at boot, in the order of the units.
    let units = ["ondemand-load.service", "ondemand-test.socket"];
    for unit in units {
        sandbox.run(&["systemctl", "start", unit]).unwrap();
    }
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        let seen = peer(ask(&sandbox, true, to)).ip().to_canonical();
        assert_eq!(seen, parse(to).ip());
    }
    service::start_agent(&sandbox).unwrap();
    asleep(&sandbox);
}

/// The configuration changes, and no agent runs.
#[test]
fn apply_tells_the_kernel_where_no_agent_does() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    service::write_config(&sandbox, "").unwrap();
    sandbox
        .run(&["systemctl", "start", "ondemand-load.service"])
        .unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{}", config("held"))).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
}

/// If the programs cannot be loaded, nothing could start the application for a client.
#[test]
fn without_programs_the_application_is_started_and_stays_up() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{}", config("held"))).unwrap();
    let broken = "[Service]\nExecStart=\nExecStart=/bin/false\n";
    let place = "/etc/systemd/system/ondemand-load.service.d/broken.conf";
    sandbox.write(place, broken).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    assert!(
        sandbox
            .run(&["systemctl", "start", "ondemand-load.service"])
            .is_err()
    );
    wait_state(&sandbox, "app.service", "active").unwrap();
    wait_for("the application answers", SOON, || {
        ask(&sandbox, false, "127.0.0.1:8000").ok()
    })
    .unwrap();
    service::stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(600),
    );
}

#[test]
fn a_crashed_applications_clients_start_it_again() {
    require_sandbox!();
    let config = config("held").replace("300ms", "1h");
    let sandbox = with_a_neighbour(&config, "--listen [::]:8000");
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
    for _ in 0..4 {
        wait_route(&sandbox, "native");
        wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
        let words = ["systemctl", "kill", "--signal=KILL", "app.service"];
        sandbox.run(&words).unwrap();
        wait_state(&sandbox, "app.service", "failed").unwrap();
        // The gate may be open still: the kernel sees that nobody listens.
        peer(ask(&sandbox, true, "10.77.0.1:8000"));
    }
}

/// An application that runs, with clients, when it comes into the configuration.
#[test]
fn an_application_that_runs_is_taken_in_and_let_go_without_a_cut() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    service::write_config(&sandbox, "").unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let started = sandbox.main_pid("app.service").unwrap();
    let request = Request {
        keep_alive: true,
        ..Request::default()
    };
    let mut kept = outside(&sandbox, || client::connect(parse("10.77.0.1:8000"))).unwrap();
    // It gets another name meanwhile.
    let named = |name: &str| format!("[service.{name}]\n{}", config("held"));
    let configs = [named("test"), named("renamed"), String::new()];
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut count = 0;
            while !end.load(Ordering::Relaxed) {
                peer(ask(&sandbox, true, "10.77.0.1:8000"));
                count += 1;
            }
            count
        });
        for text in &configs {
            service::write_config(&sandbox, text).unwrap();
            sandbox.run(&["ondemand", "apply"]).unwrap();
            outside(&sandbox, || client::ask(&mut kept, request)).unwrap();
        }
        end.store(true, Ordering::Relaxed);
        assert!(clients.join().unwrap() > 10);
    });
    assert_eq!(sandbox.main_pid("app.service").unwrap(), started);
    drop(kept);
    // Let go, it is nobody's; taken in again, it is stopped when it is idle, and started by a client.
    service::stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(500),
    );
    service::write_config(&sandbox, &configs[0]).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    asleep(&sandbox);
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
}

/// The front socket leaves the address to an application that has listened elsewhere before.
#[test]
fn an_application_gets_its_address_back() {
    require_sandbox!();
    let moved = format!("{}backend = \"127.0.0.1:8080\"\n", config("held"));
    let sandbox = with_a_neighbour(&moved, "--listen 127.0.0.1:8080");
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
    asleep(&sandbox);
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    let own = format!("[service.test]\n{}", config("held"));
    service::write_config(&sandbox, &own).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        peer(ask(&sandbox, true, to));
        asleep(&sandbox);
    }
    // And back.
    service::write_backend(&sandbox, "app.service", "--listen 127.0.0.1:8080").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{moved}")).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
}
