//! Applications that keep the addresses where their clients arrive.

use std::{thread, time::Duration};

use tests::{
    client::{self, Loss, Request},
    sandbox::Sandbox,
    service::{self, SOON, number, status},
    wait_for,
};

use crate::{
    counts,
    held::{ask, asleep, peer, with_a_neighbour},
    require_sandbox,
    steering::{parse, wait_route},
    steering_faults::listeners,
    stranger::{add_neighbour, outside},
};

/// The lines of `[service.test]`, without `first_client`.
const CONFIG: &str = "listen = [\"0.0.0.0:8000\", \"[::]:8000\"]\nunit = \"app.service\"\n\
                      idle_timeout = \"300ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n";

/// The ways of a first client.
const WAYS: [&str; 2] = ["held", "proxied"];

pub(crate) fn config(way: &str) -> String {
    format!("{CONFIG}first_client = \"{way}\"\n")
}

/// Whether the client at this end was itself seen by the application.
pub(crate) fn is_native(sandbox: &Sandbox, to: &str) -> bool {
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
            // After its answer: whoever is in its queue then is reset, here as anywhere.
            wait_for("its listener is closed", SOON, || {
                (listeners(&sandbox, 8000) < expected).then_some(())
            })
            .unwrap();
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

/// No program sees the end of its listener by a change of state. The next client is held, and meets the next run.
#[test]
fn the_next_client_of_an_application_that_is_older_than_the_programs_is_served() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let slow = "--listen 127.0.0.1:8000 --start-delay-ms 300";
    service::write_backend(&sandbox, "app.service", slow).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    let get = || {
        sandbox
            .in_network(|| client::get(service::front(), Request::default()))
            .unwrap()
    };
    wait_for("it listens", SOON, || get().ok()).unwrap();
    let config = config("held")
        .replace("\"0.0.0.0:8000\", \"[::]:8000\"", "\"127.0.0.1:8000\"")
        .replace("300ms", "1h");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    get().unwrap();
    wait_for("it is stopped", SOON, || {
        sandbox.run(&["ondemand", "stop", "test"]).ok()
    })
    .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
    get().unwrap();
}
