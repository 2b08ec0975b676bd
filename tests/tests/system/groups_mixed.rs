//! Groups whose services have clients of different kinds: at a socket unit of the application, datagrams, connections.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Request},
    datagrams::Client,
    sandbox::Sandbox,
    service::{self, SOON, number, status},
};

use crate::require_sandbox;

/// Name, address, the lines of its table, and the options of its application.
const SERVICES: [(&str, &str, &str, &str); 3] = [
    (
        "native",
        "127.0.0.1:8001",
        "activation = \"native\"",
        "--inherited",
    ),
    ("udp", "udp:127.0.0.1:8002", "", "--udp 127.0.0.1:8002"),
    ("tcp", "127.0.0.1:8003", "", "--listen 127.0.0.1:8003"),
];
/// Of all of them.
const IDLE: Duration = Duration::from_millis(1500);

/// Services that take turns, whose applications fail if two of them are up. The agent runs.
fn group() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let mut config = "[group.gpu]\nat_most = 1\n".to_owned();
    for (name, listen, lines, options) in SERVICES {
        let unit = format!("{name}.service");
        service::write_backend(&sandbox, &unit, options).unwrap();
        let card =
            "[Service]\nExecStartPre=/bin/mkdir /run/card\nExecStopPost=-/bin/rmdir /run/card\n";
        let place = format!("/etc/systemd/system/{unit}.d/card.conf");
        sandbox.write(&place, card).unwrap();
        config += &format!(
            "[service.{name}]\nlisten = [\"{listen}\"]\nunit = \"{unit}\"\ngroup = \"gpu\"\nidle_timeout = \"{}ms\"\n\
             min_uptime = \"0s\"\nstart_timeout = \"20s\"\n{lines}\n",
            IDLE.as_millis()
        );
    }
    service::write_own_socket(&sandbox, "native.service", "127.0.0.1:8001").unwrap();
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &SERVICES.map(|it| it.0)).unwrap();
    sandbox
        .run(&["systemctl", "start", "native.socket"])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn port(name: &str) -> SocketAddr {
    let listen = SERVICES.iter().find(|it| it.0 == name).unwrap().1;
    listen.trim_start_matches("udp:").parse().unwrap()
}

/// Returns how long that took.
fn ask(sandbox: &Sandbox, name: &str) -> Duration {
    let begin = Instant::now();
    let journal = || {
        sandbox
            .run(&["journalctl", "--no-pager", "-o", "short-precise"])
            .unwrap()
    };
    match name {
        "udp" => {
            let client = sandbox
                .in_network(|| Client::new(port(name)))
                .unwrap()
                .unwrap();
            let asked = client.ask(b"who", SOON);
            asked.unwrap_or_else(|error| panic!("{name}: {error}: {}", journal()));
        }
        _ => {
            let answer = sandbox.in_network(|| client::get(port(name), Request::default()));
            let answer = answer.unwrap();
            answer.unwrap_or_else(|loss| panic!("{name}: {loss}: {}", journal()));
        }
    }
    begin.elapsed()
}

#[test]
fn each_kind_of_clients_has_its_turn() {
    require_sandbox!();
    let sandbox = group();
    let turns = ["native", "tcp", "udp", "native", "udp", "tcp", "native"];
    let mut before = "";
    for name in turns {
        let took = ask(&sandbox, name);
        println!("{name} after {before}: {took:?}");
        let up = SERVICES.map(|it| it.0).into_iter().filter(|other| {
            let unit = format!("{other}.service");
            sandbox.property(&unit, "ActiveState").unwrap() == "active"
        });
        assert_eq!(up.collect::<Vec<_>>(), [name]);
        // Whose clients are not seen to leave is in use for its idle timeout.
        if before == "udp" {
            assert!(took > IDLE / 2, "{took:?}");
        }
        before = name;
    }
    for (name, ..) in SERVICES {
        let starts = turns.iter().filter(|it| **it == name).count() as u64;
        assert_eq!(number(&sandbox, name, "starts").unwrap(), starts, "{name}");
        assert_eq!(
            sandbox
                .property(&format!("{name}.service"), "Result")
                .unwrap(),
            "success"
        );
    }
    let evicted: u64 = SERVICES
        .iter()
        .map(|it| {
            let known = status(&sandbox, it.0).unwrap();
            known["room"]["evictions_for_group"].as_u64().unwrap()
        })
        .sum();
    assert!(evicted >= 3, "{evicted}");
}
