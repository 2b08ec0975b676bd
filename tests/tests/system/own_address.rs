//! Applications that keep the addresses where their clients arrive.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{
    client::{self, Answer, Loss, Request},
    sandbox::Sandbox,
    service::{self, SOON, number, status, wait_state},
    wait_for,
};

use crate::{
    counts, require_sandbox,
    steering::parse,
    stranger::{add_neighbour, outside},
};

/// The lines of `[service.test]`, without `first_client`.
const CONFIG: &str = "listen = [\"0.0.0.0:8000\", \"[::]:8000\"]\nunit = \"app.service\"\n\
                      idle_timeout = \"300ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n";

/// The ways of a first client.
const WAYS: [&str; 2] = ["held", "proxied"];

fn config(way: &str) -> String {
    format!("{CONFIG}first_client = \"{way}\"\n")
}

/// A sandbox with the service, and a neighbour.
fn with_a_neighbour(config: &str, options: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", options).unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox, from_outside: bool, to: &str) -> Result<Answer, Loss> {
    let to = parse(to);
    match from_outside {
        true => outside(sandbox, || client::get(to, Request::default())),
        false => sandbox
            .in_network(|| client::get(to, Request::default()))
            .unwrap(),
    }
}

#[track_caller]
fn peer(answer: Result<Answer, Loss>) -> SocketAddr {
    parse(answer.unwrap().header("X-Peer").unwrap())
}

fn asleep(sandbox: &Sandbox) {
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

#[track_caller]
fn wait_route(sandbox: &Sandbox, route: &str) {
    let mut last = Value::Null;
    let reached = wait_for(&format!("clients are {route}"), SOON, || {
        last = status(sandbox, "test").ok()?;
        (last["route"] == route).then_some(())
    });
    assert!(reached.is_ok(), "{last}");
}

/// Whether the client at this end was itself seen by the application.
fn is_native(sandbox: &Sandbox, to: &str) -> bool {
    let to = parse(to);
    sandbox
        .in_network(|| {
            let mut stream = client::connect(to).unwrap();
            let local = stream.local_addr().unwrap();
            let answer = client::ask(&mut stream, Request::default()).unwrap();
            let seen = parse(answer.header("X-Peer").unwrap());
            seen.port() == local.port() && seen.ip().to_canonical() == local.ip()
        })
        .unwrap()
}

fn kill_agent(sandbox: &Sandbox) {
    let no_restart = "[Service]\nRestart=no\n";
    let place = "/etc/systemd/system/ondemand.service.d/once.conf";
    sandbox.write(place, no_restart).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let words = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
    sandbox.run(&words).unwrap();
    wait_state(sandbox, "ondemand.service", "failed").unwrap();
}

fn counts(sandbox: &Sandbox, leg: &str) -> u64 {
    let status = counts::settled(sandbox);
    status[leg]["accepted"].as_u64().unwrap()
}

#[test]
fn an_application_keeps_its_address_and_every_client_is_served() {
    require_sandbox!();
    for way in WAYS {
        let sandbox = with_a_neighbour(&config(way), "--listen [::]:8000");
        for (from_outside, to, expected) in [
            (true, "10.77.0.1:8000", "10.77.0.2"),
            (true, "[fd77::1]:8000", "fd77::2"),
            (false, "127.0.0.1:8000", "127.0.0.1"),
            (false, "[::1]:8000", "::1"),
        ] {
            asleep(&sandbox);
            let first = peer(ask(&sandbox, from_outside, to)).ip().to_canonical();
            if way == "held" || !from_outside {
                assert_eq!(first.to_string(), expected, "{way} {to}");
            } else {
                // The proxy's: the address of this host that the client arrived at.
                assert_eq!(first, parse(to).ip(), "{way} {to}");
            }
            // From then on each client is the application's own.
            wait_for("clients meet the application", SOON, || {
                let seen = peer(ask(&sandbox, from_outside, to)).ip().to_canonical();
                (seen.to_string() == expected).then_some(())
            })
            .unwrap();
        }
    }
}

/// The proxied first client is counted once, although it makes two connections to one address.
#[test]
fn each_client_is_counted_once() {
    require_sandbox!();
    let config = config("proxied").replace("300ms", "1h");
    let sandbox = with_a_neighbour(&config, "--listen [::]:8000");
    assert!(!is_native(&sandbox, "127.0.0.1:8000"));
    wait_route(&sandbox, "native");
    for to in ["127.0.0.1:8000", "[::1]:8000", "10.77.0.1:8000"] {
        assert!(is_native(&sandbox, to), "{to}");
    }
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
    let [front, back, steered] = ["front", "back", "steered"].map(|leg| counts(&sandbox, leg));
    assert_eq!([front, back, steered], [1, 1, 4]);
    let status = status(&sandbox, "test").unwrap();
    assert_eq!(status["accepted_connections"], 5, "{status}");
    assert_eq!(status["count_drift"], 0, "{status}");
}

/// `ExecStartPost=` that asks the application at its own address, as health checks do, before it is active.
#[test]
fn an_application_that_asks_itself_while_it_starts_is_not_held() {
    require_sandbox!();
    for way in WAYS {
        let sandbox = service::installed().unwrap();
        add_neighbour(&sandbox);
        service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
        let asks = "[Service]\nExecStartPost=/bin/bash -c 'for i in $(seq 100); do \
                    exec 3<>/dev/tcp/127.0.0.1/8000 && exit 0; sleep 0.1; done; exit 1'\n";
        let place = "/etc/systemd/system/app.service.d/asks.conf";
        sandbox.write(place, asks).unwrap();
        service::write_config(&sandbox, &format!("[service.test]\n{}", config(way))).unwrap();
        service::reload(&sandbox, &["test"]).unwrap();
        service::start_agent(&sandbox).unwrap();
        for _ in 0..2 {
            asleep(&sandbox);
            let answer = ask(&sandbox, true, "10.77.0.1:8000").unwrap();
            assert!(
                answer.took < Duration::from_secs(5),
                "{way}: {:?}",
                answer.took
            );
        }
    }
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

#[test]
fn the_private_address_is_nobodys() {
    require_sandbox!();
    let sandbox = with_a_neighbour(&config("held"), "--listen [::]:8000");
    let listen = sandbox.property("ondemand-test.socket", "Listen").unwrap();
    let private: Vec<&str> = listen
        .split_whitespace()
        .filter(|it| it.contains(':'))
        .collect();
    assert_eq!(private.len(), 2, "{listen}");
    for address in private {
        let refused = sandbox
            .in_network(|| client::connect(parse(address)))
            .unwrap();
        assert!(
            matches!(
                refused,
                Err(Loss::Connect(std::io::ErrorKind::ConnectionRefused))
            ),
            "{refused:?}"
        );
    }
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 0);
}

/// It listens in one family, and clients come over both.
#[test]
fn an_application_of_one_family_serves_both() {
    require_sandbox!();
    for (way, listen) in [("held", "0.0.0.0:8000"), ("proxied", "[::1]:8000")] {
        let sandbox = with_a_neighbour(&config(way), &format!("--listen {listen}"));
        for to in ["127.0.0.1:8000", "[::1]:8000"] {
            for _ in 0..2 {
                asleep(&sandbox);
                let answer = ask(&sandbox, false, to).unwrap();
                assert!(answer.took < Duration::from_secs(5), "{listen} {to}");
            }
        }
    }
}

/// A connection that the front socket has accepted at the address would block it.
#[test]
fn an_application_without_so_reuseaddr_can_bind_its_address() {
    require_sandbox!();
    let sandbox = with_a_neighbour(&config("proxied"), "--listen 0.0.0.0:8000 --no-reuse");
    for _ in 0..3 {
        asleep(&sandbox);
        peer(ask(&sandbox, true, "10.77.0.1:8000"));
    }
    assert_eq!(
        sandbox.property("app.service", "Result").unwrap(),
        "success"
    );
}

/// Nobody else can bind it either, while the application is down.
#[test]
fn the_address_of_an_application_that_is_down_cannot_be_taken() {
    require_sandbox!();
    let sandbox = with_a_neighbour(&config("held"), "--listen [::]:8000");
    let steal = |user: &str, address: &str| {
        let uid = format!("--uid={user}");
        let words = [
            "systemd-run",
            "--wait",
            "--collect",
            &uid,
            "--property=RuntimeMaxSec=2s",
        ];
        let thief = ["/usr/bin/test-backend", "--listen", address];
        sandbox
            .run(&[&words[..], &thief[..]].concat())
            .unwrap_err()
            .to_string()
    };
    for address in ["0.0.0.0:8000", "127.0.0.1:8000", "[::]:8000", "[::1]:8000"] {
        let began = std::time::Instant::now();
        steal("nobody", address);
        // It has failed at once, and was not ended.
        assert!(began.elapsed() < Duration::from_secs(2), "{address}");
    }
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
}

/// The gate opens when the application listens at all of its ports, and each of them wakes it.
#[test]
fn an_application_may_have_several_ports() {
    require_sandbox!();
    for way in WAYS {
        let config = config(way).replace("\"[::]:8000\"", "\"[::]:8000\", \"0.0.0.0:8022\"");
        let options = "--listen [::]:8000 --also 0.0.0.0:8022 --also-delay-ms 300";
        let sandbox = with_a_neighbour(&config, options);
        for to in [
            "10.77.0.1:8022",
            "10.77.0.1:8000",
            "[fd77::1]:8000",
            "10.77.0.1:8022",
        ] {
            asleep(&sandbox);
            thread::scope(|scope| {
                let other = scope.spawn(|| ask(&sandbox, false, "127.0.0.1:8022").unwrap());
                peer(ask(&sandbox, true, to));
                other.join().unwrap();
            });
        }
    }
}

/// MPTCP's listeners cannot be steered to, and SO_REUSEPORT's share clients: both are served as without ondemand.
#[test]
fn special_listeners_are_native() {
    require_sandbox!();
    for options in ["--mptcp", "--workers 3"] {
        let config = config("held").replace("300ms", "1h");
        let sandbox = with_a_neighbour(&config, &format!("--listen [::]:8000 {options}"));
        assert_eq!(
            peer(ask(&sandbox, true, "10.77.0.1:8000"))
                .ip()
                .to_canonical()
                .to_string(),
            "10.77.0.2"
        );
        wait_route(&sandbox, "native");
        let workers: std::collections::BTreeSet<String> = (0..40)
            .map(|_| {
                ask(&sandbox, true, "10.77.0.1:8000")
                    .unwrap()
                    .header("X-Worker")
                    .unwrap()
                    .to_owned()
            })
            .collect();
        let expected = if options.contains("workers") { 3 } else { 1 };
        assert_eq!(workers.len(), expected);
        if expected > 1 {
            // One of them closes its listener; the others go on.
            let request = Request {
                query: "?close",
                ..Request::default()
            };
            outside(&sandbox, || client::get(parse("10.77.0.1:8000"), request)).unwrap();
            for _ in 0..10 {
                let peer = peer(ask(&sandbox, true, "10.77.0.1:8000"));
                assert_eq!(peer.ip().to_canonical().to_string(), "10.77.0.2");
            }
        }
    }
}

#[test]
fn lists_of_clients_hold_at_own_addresses() {
    require_sandbox!();
    let config = format!(
        "{}wake_from = [\"127.0.0.0/8\"]\nignore_from = [\"10.0.0.0/8\"]\n",
        config("held")
    );
    let sandbox = with_a_neighbour(&config, "--listen [::]:8000");
    let refused = ask(&sandbox, true, "10.77.0.1:8000").unwrap_err();
    assert!(
        matches!(
            refused,
            Loss::Connect(std::io::ErrorKind::ConnectionRefused)
        ),
        "{refused:?}"
    );
    let request = Request {
        keep_alive: true,
        ..Request::default()
    };
    let inside = sandbox.in_network(|| {
        let mut inside = client::connect(parse("127.0.0.1:8000")).unwrap();
        client::ask(&mut inside, request).unwrap();
        inside
    });
    wait_route(&sandbox, "native");
    let mut kept = outside(&sandbox, || client::connect(parse("10.77.0.1:8000"))).unwrap();
    outside(&sandbox, || client::ask(&mut kept, request)).unwrap();
    drop(inside);
    // It does not keep it up.
    asleep(&sandbox);
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
    let configs = [format!("[service.test]\n{}", config("held")), String::new()];
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

/// A program that publishes a container's port: clients from elsewhere never pass the host's sockets.
#[test]
fn a_published_port_at_the_own_address_is_never_stopped() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    sandbox
        .run(&["cp", "/usr/bin/test-backend", "/usr/bin/conmon"])
        .unwrap();
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    let forwarder = "[Service]\nExecStart=\nExecStart=/usr/bin/conmon --listen [::]:8000\n";
    let place = "/etc/systemd/system/app.service.d/conmon.conf";
    sandbox.write(place, forwarder).unwrap();
    let config = format!("[service.test]\n{}", config("held"));
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
    let words = "publishes a container's port";
    service::wait_journal(&sandbox, "ondemand.service", words, 1).unwrap();
    service::stays(&sandbox, "app.service", "active", Duration::from_secs(1));
    let found = sandbox.run(&["ondemand", "check"]).unwrap_err().to_string();
    assert!(found.contains("never stopped"), "{found}");
}

#[test]
fn check_knows_applications_that_keep_their_addresses() {
    require_sandbox!();
    let config = config("held").replace("300ms", "1h");
    let sandbox = with_a_neighbour(&config, "--listen 0.0.0.0:8000");
    let check = || {
        let words = ["sh", "-c", "ondemand check || true"];
        sandbox.run(&words).unwrap()
    };
    let found = check();
    assert!(found.contains("keeps its address"), "{found}");
    assert!(!found.contains("used by"), "{found}");
    peer(ask(&sandbox, true, "10.77.0.1:8000"));
    let found = check();
    let words = "does not listen on [::]:8000: the proxy carries";
    assert!(found.contains(words), "{found}");
    // TEST-NET-1, RFC 5737.
    let elsewhere = config.replace("0.0.0.0", "192.0.2.1");
    service::write_config(&sandbox, &format!("[service.test]\n{elsewhere}")).unwrap();
    let found = check();
    let words = "192.0.2.1 is not an address of this host yet: app.service cannot listen";
    assert!(found.contains(words), "{found}");
}
