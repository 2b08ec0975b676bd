//! Chains: an application that needs that of another service. They start and stop in order, and no client is lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    client::{self, Answer, Kept, Loss, Request},
    sandbox::Sandbox,
    service::{self, number, status, stays, wait_state},
    skip, wait_for,
};

use crate::{require_sandbox, steering::parse};

const WEB: &str = "127.0.0.1:8000";
const DB: &str = "127.0.0.1:9000";

/// Two services at their own addresses. `relation`: of web.service with db.service; `options`: of the database.
fn chain(relation: &str, options: &str, more: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    let unit = |name: &str, at: &str, options: &str, relation: &str| {
        let text = format!(
            "[Unit]\n{relation}\n[Service]\nExecStart=/usr/bin/test-backend --listen {at} {options}\n"
        );
        let path = format!("/etc/systemd/system/{name}.service");
        sandbox.write(&path, text).unwrap();
        format!(
            "[service.{name}]\nlisten = \"{at}\"\nunit = \"{name}.service\"\nidle_timeout = \"300ms\"\n\
             min_uptime = \"0s\"\nstart_timeout = \"10s\"\n{more}\n"
        )
    };
    let config = unit("db", DB, options, "") + &unit("web", WEB, "", relation);
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["db", "web"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox, at: &str) -> Result<Answer, Loss> {
    sandbox
        .in_network(|| client::get(parse(at), Request::default()))
        .unwrap()
}

fn stamp(sandbox: &Sandbox, unit: &str, property: &str) -> u64 {
    let value = sandbox.property(unit, property).unwrap();
    value.parse().unwrap()
}

/// Once a start, a run and a stop, in order.
fn goes_in_order(sandbox: &Sandbox, first: &str) {
    let answer = ask(sandbox, WEB).unwrap();
    let took = answer.took;
    assert!(
        took >= Duration::from_millis(500),
        "{first}: the database was not ready: {took:?}"
    );
    // Nobody is connected, and web is kept: its database is in use.
    sandbox.run(&["ondemand", "hold", "web"]).unwrap();
    sandbox.run(&["ondemand", "start", "web"]).unwrap();
    wait_state(sandbox, "ondemand-web.service", "inactive").unwrap();
    stays(sandbox, "db.service", "active", Duration::from_secs(1));
    let db = status(sandbox, "db").unwrap();
    assert!(
        db["detail"].as_str().unwrap().contains("needed by web"),
        "{db}"
    );
    let refused = sandbox.run(&["ondemand", "stop", "db"]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("web is up and needs it"),
        "{refused:#}"
    );
    // No attempt was made: its lease was held all the time.
    assert_eq!(db["vetoes"], 0, "{db}");
    sandbox.run(&["ondemand", "release", "web"]).unwrap();
    wait_state(sandbox, "web.service", "inactive").unwrap();
    wait_state(sandbox, "db.service", "inactive").unwrap();
    let [web, db] = ["web.service", "db.service"]
        .map(|unit| stamp(sandbox, unit, "InactiveEnterTimestampMonotonic"));
    // Its idle time begins with the end of the other.
    assert!(db >= web + 300_000, "{first}: {web} {db}");
    for name in ["web", "db"] {
        let status = status(sandbox, name).unwrap();
        assert_eq!(status["vetoes"], 0, "{status}");
        assert_eq!(status["starts"], status["stops"], "{status}");
    }
}

#[test]
fn what_an_application_needs_starts_before_it_and_stops_after_it() {
    require_sandbox!();
    for (relation, first) in [
        ("Requires=db.service\nAfter=db.service", "held"),
        ("Wants=db.service\nAfter=db.service", "proxied"),
    ] {
        let more = format!("first_client = \"{first}\"");
        // Its unit is active long before it listens.
        let sandbox = chain(relation, "--start-delay-ms 600", &more);
        let check = sandbox.run(&["ondemand", "check"]).unwrap();
        assert!(
            check.contains("web.service needs db.service (service db)"),
            "{check}"
        );
        assert!(!check.contains("never stopped"), "{check}");
        goes_in_order(&sandbox, first);
        assert_eq!(number(&sandbox, "db", "starts").unwrap(), 1);
    }
}

#[test]
fn what_an_application_needs_has_clients_of_its_own() {
    require_sandbox!();
    let sandbox = chain("Requires=db.service\nAfter=db.service", "", "");
    ask(&sandbox, WEB).unwrap();
    let mut kept = sandbox
        .in_network(|| Kept::connect(parse(DB)).unwrap())
        .unwrap();
    wait_state(&sandbox, "web.service", "inactive").unwrap();
    stays(&sandbox, "db.service", "active", Duration::from_secs(1));
    kept.ask().unwrap();
    drop(kept);
    wait_state(&sandbox, "db.service", "inactive").unwrap();
    // Alone it starts alone.
    ask(&sandbox, DB).unwrap();
    assert_eq!(
        sandbox.property("web.service", "ActiveState").unwrap(),
        "inactive"
    );
    wait_state(&sandbox, "db.service", "inactive").unwrap();
}

#[test]
fn a_database_that_is_being_stopped_is_there_for_the_next_start() {
    require_sandbox!();
    let (rounds, relations): (u64, &[&str]) = match skip::is_long() {
        true => (50, &["Wants=db.service", "Requires=db.service"]),
        false => (3, &["Wants=db.service"]),
    };
    for relation in relations {
        let sandbox = chain(
            &format!("{relation}\nAfter=db.service"),
            "--stop-delay-ms 200",
            "first_client = \"held\"",
        );
        ask(&sandbox, WEB).unwrap();
        for round in 0..rounds {
            wait_for("the database is stopped", service::SOON, || {
                let state = sandbox.property("db.service", "ActiveState").ok()?;
                (state == "deactivating" || state == "inactive").then_some(())
            })
            .unwrap();
            // All of its stop is in these rounds.
            tests::pause::think(Duration::from_millis(40 * round % 200));
            let begin = Instant::now();
            ask(&sandbox, WEB).unwrap_or_else(|loss| panic!("{relation}, {round}: {loss}"));
            let states = ["web.service", "db.service"]
                .map(|unit| sandbox.property(unit, "ActiveState").unwrap());
            assert_eq!(
                states,
                ["active", "active"],
                "{relation}, {round}: {:?}",
                begin.elapsed()
            );
        }
        // And a database that its last client has left just now.
        thread::scope(|scope| {
            let clients = [WEB, DB].map(|at| {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    for round in 0..rounds * 3 {
                        ask(sandbox, at).unwrap_or_else(|loss| panic!("{at}, {round}: {loss}"));
                        tests::pause::think(Duration::from_millis(250 + 20 * (round % 10)));
                    }
                })
            });
            for client in clients {
                client.join().unwrap();
            }
        });
        wait_state(&sandbox, "web.service", "inactive").unwrap();
        wait_state(&sandbox, "db.service", "inactive").unwrap();
    }
}

/// What `ondemand check` finds about the chain of a service: level, message, next step.
fn finding(sandbox: &Sandbox, service: &str) -> Vec<(String, String)> {
    let text = sandbox
        .run(&["sh", "-c", "ondemand check --json || true"])
        .unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let chains = all
        .iter()
        .filter(|it| it["what"] == "chain" && it["service"] == service);
    let words = |it: &Value| {
        let level = it["level"].as_str().unwrap().to_owned();
        (level, format!("{} {}", it["message"], it["next"]))
    };
    chains.map(words).collect()
}

#[test]
fn circles_are_told() {
    require_sandbox!();
    let sandbox = chain("Wants=db.service", "", "");
    const BOTH: &[&str] = &["web", "db"];
    #[track_caller]
    fn check(sandbox: &Sandbox, relations: [&str; 2], of: &[&str], level: &str, words: &str) {
        for (name, relation) in ["web", "db"].iter().zip(relations) {
            let path = format!("/etc/systemd/system/{name}.service.d/chain.conf");
            sandbox
                .write(&path, format!("[Unit]\n{relation}\n"))
                .unwrap();
        }
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        for name in of {
            let found = finding(sandbox, name);
            let is_it = |(is, text): &(String, String)| is == level && text.contains(words);
            assert!(found.iter().any(is_it), "{name}, {relations:?}: {found:?}");
        }
    }
    let web = &["web"];
    check(&sandbox, ["", ""], web, "warning", "add After=db.service");
    let wants = ["", "Wants=web.service"];
    check(&sandbox, wants, BOTH, "warning", "keep each other up");
    let after = ["After=db.service", "After=web.service\nWants=web.service"];
    check(&sandbox, after, BOTH, "error", "a circle of After=");
    let before = ["After=db.service\nBefore=db.service", "Wants=web.service"];
    check(&sandbox, before, BOTH, "error", "a circle of After=");
    // By PartOf= the one is stopped with the other, so it is needed, too.
    let part = ["PartOf=db.service\nAfter=db.service", ""];
    check(&sandbox, part, web, "ok", "starts first");
}

/// A process of the unit that stays connected to this port.
fn connected(sandbox: &Sandbox, name: &str, port: u16) {
    let connect = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}; exec cat <&3) &");
    let path = format!("/etc/systemd/system/{name}.service");
    let text = std::fs::read_to_string(sandbox.path(&path)).unwrap();
    let program = text.split_once("ExecStart=").unwrap().1.trim();
    let text = format!("[Service]\nExecStart=/bin/bash -c '{connect} exec {program}'\n");
    sandbox.write(&path, text).unwrap();
}

#[test]
fn an_application_that_is_connected_to_another_keeps_it_up() {
    require_sandbox!();
    let sandbox = chain("", "", "");
    connected(&sandbox, "web", 9000);
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    ask(&sandbox, WEB).unwrap();
    sandbox.run(&["ondemand", "hold", "web"]).unwrap();
    wait_state(&sandbox, "db.service", "active").unwrap();
    wait_state(&sandbox, "ondemand-db.service", "active").unwrap();
    stays(&sandbox, "db.service", "active", Duration::from_secs(1));
    assert!(finding(&sandbox, "web").is_empty());
    sandbox.run(&["ondemand", "release", "web"]).unwrap();
    wait_state(&sandbox, "web.service", "inactive").unwrap();
    wait_state(&sandbox, "db.service", "inactive").unwrap();
    // Both of them, so that none is ever idle.
    connected(&sandbox, "db", 8000);
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    ask(&sandbox, WEB).unwrap();
    let words = "is connected to";
    wait_for("the circle is told", service::SOON, || {
        let found = [finding(&sandbox, "web"), finding(&sandbox, "db")].concat();
        found
            .iter()
            .any(|(level, text)| level == "warning" && text.contains(words))
            .then_some(())
    })
    .unwrap();
    stays(&sandbox, "db.service", "active", Duration::from_secs(1));
}
