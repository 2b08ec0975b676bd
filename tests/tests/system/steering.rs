//! While a service is up its clients go straight to the backend; whatever cannot be steered
//! takes the proxy.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering,
};

use serde_json::Value;
use tests::{
    client::{self, Answer, Loss, Request},
    sandbox::Sandbox,
    service::{SOON, front, number, on_demand, status, wait_state},
    wait_for,
};

use crate::{
    counts::{self, Sums},
    require_sandbox,
};

/// Never idle during the test, unless it overrides this.
pub(crate) const CONFIG: &str = r#"
listen = ["127.0.0.1:8000"]
backend = "127.0.0.1:8080"
unit = "app.service"
idle_timeout = "1h"
min_uptime = "0s"
start_timeout = "10s"
steer = true
first_client = "proxied"
"#;

const BOTH_FAMILIES: &str = r#"["127.0.0.1:8000", "[::1]:8000"]"#;

pub(crate) fn parse(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Whether the application saw the client itself, with its own address and port.
fn saw_client(answer: &Answer, client: SocketAddr) -> bool {
    let seen = parse(answer.header("X-Peer").unwrap());
    let plain = |ip: IpAddr| ip.to_canonical();
    (plain(seen.ip()), seen.port()) == (plain(client.ip()), client.port())
}

/// One request, and whether it was steered.
pub(crate) fn ask_with(
    sandbox: &Sandbox,
    address: SocketAddr,
    request: Request,
) -> Result<(Answer, bool), Loss> {
    sandbox
        .in_network(|| {
            let mut stream = client::connect(address)?;
            let local = stream.local_addr().unwrap();
            let answer = client::ask(&mut stream, request)?;
            let steered = saw_client(&answer, local);
            Ok((answer, steered))
        })
        .unwrap()
}

/// Whether a request to the front is steered.
#[track_caller]
pub(crate) fn is_steered(sandbox: &Sandbox, address: SocketAddr) -> bool {
    match ask_with(sandbox, address, Request::default()) {
        Ok((_, steered)) => steered,
        Err(loss) => panic!("{address}: {loss}"),
    }
}

/// Waits until the status names this route.
#[track_caller]
pub(crate) fn wait_route(sandbox: &Sandbox, route: &str) {
    let mut last = Value::Null;
    let reached = wait_for(&format!("clients are {route}"), SOON, || {
        last = status(sandbox, "test").ok()?;
        (last["route"] == route).then_some(())
    });
    assert!(reached.is_ok(), "{last}");
}

/// A sandbox in which the service is up and its gate open. One request has been made.
#[track_caller]
pub(crate) fn warm(config: &str, backend: &str) -> Sandbox {
    let sandbox = on_demand(config, backend).unwrap();
    assert!(
        !is_steered(&sandbox, front()),
        "the first client is proxied"
    );
    wait_route(&sandbox, "steered");
    sandbox
}

#[test]
fn the_first_client_is_proxied_and_the_next_ones_are_steered() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    for _ in 0..20 {
        assert!(is_steered(&sandbox, front()));
    }
    let status = counts::settled(&sandbox);
    assert_eq!(status["front"]["accepted"], 1, "{status}");
    assert_eq!(status["back"]["accepted"], 1, "{status}");
    assert_eq!(status["steered"]["accepted"], 20, "{status}");
    assert_eq!(status["accepted_connections"], 21, "{status}");
    // The proxy abandons the response to a client that half-closes; the backend does not.
    let request = Request {
        half_close: true,
        download: 1 << 20,
        ..Request::default()
    };
    let (answer, steered) = ask_with(&sandbox, front(), request).unwrap();
    assert!(steered);
    assert_eq!(answer.body, 1 << 20);
}

#[test]
fn proxied_steered_and_direct_clients_are_counted_once() {
    require_sandbox!();
    let config = CONFIG.replace(r#"["127.0.0.1:8000"]"#, BOTH_FAMILIES);
    let sandbox = on_demand(&config, "").unwrap();
    let sums = Sums::default();
    let keep_alive = Request {
        keep_alive: true,
        ..Request::default()
    };
    // Accepted by the proxy during the start, and held until the end.
    let mut held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    let ask_held = |stream: &mut _| {
        let answer = client::ask(stream, keep_alive).unwrap();
        sums.sent.fetch_add(answer.sent, Ordering::Relaxed);
        sums.received.fetch_add(answer.received, Ordering::Relaxed);
    };
    sums.connections.fetch_add(1, Ordering::Relaxed);
    ask_held(&mut held);
    wait_route(&sandbox, "steered");

    let upload = Request {
        upload: 300,
        ..Request::default()
    };
    let half_close = Request {
        half_close: true,
        ..Request::default()
    };
    let large = Request {
        download: 8 << 20,
        upload: 8 << 20,
        ..Request::default()
    };
    counts::load(&sandbox, front(), 2_000, upload, &sums);
    counts::load(&sandbox, front(), 200, half_close, &sums);
    counts::load(&sandbox, front(), 4, large, &sums);
    counts::load(&sandbox, parse("127.0.0.1:8080"), 500, upload, &sums);
    // The backend has no IPv6: these take the proxy.
    counts::load(&sandbox, parse("[::1]:8000"), 500, upload, &sums);
    ask_held(&mut held);
    // The others' last packets may be under way.
    wait_for("one is open", SOON, || {
        (number(&sandbox, "test", "open_connections").ok()? == 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", status(&sandbox, "test")));
    drop(held);
    counts::check(&sandbox, &sums);
    let status = counts::settled(&sandbox);
    assert_eq!(status["front"]["accepted"], 501, "{status}");
    assert_eq!(status["steered"]["accepted"], 2_204, "{status}");
    assert_eq!(status["back"]["accepted"], 1_001, "{status}");
}

/// Starts a service with these front addresses and this backend, which runs with `options`,
/// and checks for each client whether it is steered; `None`: it must not be served.
#[track_caller]
fn check_addresses(listen: &str, backend: &str, options: &str, clients: &[(&str, Option<bool>)]) {
    let config = CONFIG
        .replace(r#"["127.0.0.1:8000"]"#, listen)
        .replace("127.0.0.1:8080", backend);
    let sandbox = on_demand(&config, options).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    // Nobody is steered before a connection was accepted.
    assert!(!is_steered(&sandbox, parse(clients[0].0)));
    wait_route(&sandbox, "steered");
    for (client, expected) in clients {
        let asked = ask_with(&sandbox, parse(client), Request::default());
        let steered = match &asked {
            Ok((_, steered)) => Some(*steered),
            Err(Loss::Connect(_)) => None,
            Err(loss) => panic!("{listen} {options} {client}: {loss}"),
        };
        assert_eq!(
            steered, *expected,
            "front {listen}, backend {backend} {options}, client of {client}"
        );
    }
}

#[test]
fn only_the_configured_addresses_and_the_families_of_the_backend_are_steered() {
    require_sandbox!();
    let (v4, v6) = ("127.0.0.1:8000", "[::1]:8000");
    let (v4_back, v6_back) = ("127.0.0.1:8080", "[::1]:8080");
    let other = "127.0.0.2:8000";
    let (yes, no, nobody) = (Some(true), Some(false), None);
    check_addresses(
        r#"["127.0.0.1:8000"]"#,
        v4_back,
        "",
        &[(v4, yes), (other, nobody), (v6, nobody)],
    );
    check_addresses(
        r#"["0.0.0.0:8000"]"#,
        v4_back,
        "",
        &[(v4, yes), (other, yes), (v6, nobody)],
    );
    check_addresses(
        r#"["[::]:8000"]"#,
        v6_back,
        "--listen [::1]:8080",
        &[(v6, yes), (v4, nobody)],
    );
    check_addresses(
        r#"["[::1]:8000"]"#,
        v6_back,
        "--listen [::1]:8080",
        &[(v6, yes)],
    );
    // A backend that is bound to a wildcard.
    check_addresses(
        BOTH_FAMILIES,
        v4_back,
        "--listen 0.0.0.0:8080",
        &[(v4, yes), (v6, no)],
    );
    check_addresses(
        BOTH_FAMILIES,
        v4_back,
        "--listen [::]:8080",
        &[(v4, yes), (v6, yes)],
    );
    // IPv4 on an IPv6 socket, as Java has it.
    check_addresses(
        BOTH_FAMILIES,
        v4_back,
        "--listen [::ffff:127.0.0.1]:8080",
        &[(v4, yes), (v6, no)],
    );
}

#[test]
fn the_gate_is_closed_by_a_stop_and_opened_by_the_next_start() {
    require_sandbox!();
    let config = CONFIG.replace("1h", "600ms");
    let sandbox = on_demand(&config, "").unwrap();
    for round in 1..=3 {
        assert!(
            !is_steered(&sandbox, front()),
            "round {round}: a cold start"
        );
        assert_eq!(number(&sandbox, "test", "starts").unwrap(), round);
        let mut steered = 0;
        wait_for("clients are steered again", SOON, || {
            steered += u64::from(is_steered(&sandbox, front()));
            (steered >= 5).then_some(())
        })
        .unwrap();
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        // systemd may be queried before it has notified the agent.
        let status = wait_for("the agent has seen the stop", SOON, || {
            let status = status(&sandbox, "test").ok()?;
            (status["state"] == "inactive").then_some(status)
        })
        .unwrap();
        assert_eq!(status["route"], "proxied", "{status}");
        assert_eq!(status["stops_by_reason"]["idle"], round, "{status}");
        assert_eq!(status["count_drift"], 0, "{status}");
    }
}
