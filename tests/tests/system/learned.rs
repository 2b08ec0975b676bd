//! An idle timeout that is learned from the gaps between clients.

use std::{fs, time::Duration};

use rusqlite::Connection;
use serde_json::Value;
use tests::{
    client::{self, Request},
    metrics,
    pause::idle_for,
    sandbox::Sandbox,
    service::{self, SOON, front, wait_state},
    wait_for,
};

use crate::{history::HISTORY, require_sandbox};

const LEARNED: &str = "/var/lib/ondemand/learned";

/// The lines of `[service.test]`.
fn config(more: &str) -> String {
    service::CONFIG.replace("idle_timeout = \"300ms\"", more)
}

fn write(sandbox: &Sandbox, history: &str, services: &str) {
    let agent = format!("[agent]\nhistory = \"{history}\"\n\n");
    let path = "/etc/ondemand/ondemand.toml";
    sandbox.write(path, format!("{agent}{services}")).unwrap();
}

/// A sandbox with one service, whose agent does not run yet.
fn prepared(history: &str, more: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    write(
        &sandbox,
        history,
        &format!("[service.test]\n{}", config(more)),
    );
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox) {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
}

fn learned(sandbox: &Sandbox) -> Value {
    service::status(sandbox, "test").unwrap()["learned"].clone()
}

fn seconds(learned: &Value, key: &str) -> f64 {
    learned[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {learned}"))
}

/// Waits until as many gaps were learned, and returns what was.
fn wait_gaps(sandbox: &Sandbox, gaps: u64) -> Value {
    wait_for(&format!("{gaps} gaps are learned"), SOON, || {
        let learned = learned(sandbox);
        (learned["gaps"].as_u64()? == gaps).then_some(learned)
    })
    .unwrap_or_else(|error| {
        panic!(
            "{error:#}: {}, {}",
            learned(sandbox),
            sandbox.journal("ondemand.service")
        )
    })
}

/// Clients with this number of gaps of a second and a bit between them.
fn clients(sandbox: &Sandbox, gaps: u64) {
    ask(sandbox);
    for _ in 0..gaps {
        // The quiet time from which on a gap is one.
        idle_for(Duration::from_millis(1_100));
        let before = learned(sandbox)["gaps"].as_u64().unwrap();
        ask(sandbox);
        wait_gaps(sandbox, before + 1);
    }
}

fn restart(sandbox: &Sandbox, between: impl FnOnce()) {
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    between();
    service::start_agent(sandbox).unwrap();
}

#[test]
fn what_was_learned_outlives_the_agent_without_a_history() {
    require_sandbox!();
    let sandbox = prepared("", "idle_timeout = \"auto\"");
    service::start_agent(&sandbox).unwrap();
    let new = learned(&sandbox);
    assert_eq!(
        (new["gaps"].as_u64(), new["in_force"].as_bool()),
        (Some(0), Some(true))
    );
    clients(&sandbox, 3);
    let before = learned(&sandbox);
    assert_ne!(
        before["idle_timeout_seconds"], new["idle_timeout_seconds"],
        "{before}"
    );
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(
        status["idle_timeout_seconds"],
        before["idle_timeout_seconds"]
    );

    restart(&sandbox, || {});
    let after = learned(&sandbox);
    for key in ["gaps", "idle_timeout_seconds", "reason"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    // A file that is damaged is lost, and nothing else.
    restart(&sandbox, || sandbox.write(LEARNED, "\0{\n[1]").unwrap());
    assert_eq!(learned(&sandbox)["gaps"], 0);
    service::wait_journal(&sandbox, "ondemand.service", "learned is damaged", 1).unwrap();
    // What the lines of a changed cost would be is unknown.
    clients(&sandbox, 1);
    write(
        &sandbox,
        "",
        &format!("[service.test]\n{}", config("cold_start_cost = \"1h\"")),
    );
    sandbox.run(&["ondemand", "reload"]).unwrap();
    let after = wait_gaps(&sandbox, 0);
    assert_eq!(seconds(&after, "cold_start_cost_seconds"), 3600.0);
}

#[test]
fn what_was_learned_is_rebuilt_from_the_history() {
    require_sandbox!();
    // Beside a fixed timeout.
    let sandbox = prepared(HISTORY, "idle_timeout = \"1h\"");
    service::start_agent(&sandbox).unwrap();
    clients(&sandbox, 2);
    let before = learned(&sandbox);
    assert_eq!(before["in_force"], false);
    // Both gaps are shorter than either timeout.
    assert!(seconds(&before, "fixed_cost_seconds") > 2.0, "{before}");
    assert_eq!(before["fixed_cost_seconds"], before["learned_cost_seconds"]);
    assert_eq!(service::number(&sandbox, "test", "stops").unwrap(), 0);
    let samples = metrics::scrape(&sandbox).unwrap();
    let sample = |name: &str, labels: &str| metrics::of_test(&samples, name, labels).unwrap();
    let timeout = sample("learned_idle_timeout_seconds", "");
    assert_eq!(timeout, seconds(&before, "idle_timeout_seconds"));
    let few = ",reason=\"few-gaps\"";
    assert_eq!(sample("learned_idle_timeout_reasons_total", few), 2.0);
    let cost = |of: &str| sample("gap_cost_seconds_total", &format!(",timeout=\"{of}\""));
    assert_eq!(cost("fixed"), cost("learned"));
    // The metric is kept in nanoseconds.
    let difference = cost("fixed") - seconds(&before, "fixed_cost_seconds");
    assert!(difference.abs() < 1e-6, "{difference}");

    restart(&sandbox, || {
        sandbox.run(&["rm", LEARNED]).unwrap();
    });
    let after = wait_gaps(&sandbox, 2);
    assert_eq!(after["reason"], before["reason"]);
    // With another cost the same gaps are learned again; with other bounds nothing needs to be.
    let with = |more: &str| {
        write(
            &sandbox,
            HISTORY,
            &format!("[service.test]\n{}", config(more)),
        );
        sandbox.run(&["ondemand", "reload"]).unwrap();
    };
    with("idle_timeout = \"auto\"\ncold_start_cost = \"20s\"");
    let cheap = wait_gaps(&sandbox, 2);
    assert_eq!(seconds(&cheap, "cold_start_cost_seconds"), 20.0);
    with("idle_timeout = \"auto\"\ncold_start_cost = \"20s\"\nidle_timeout_min = \"2h\"");
    let long = wait_gaps(&sandbox, 2);
    assert_eq!(seconds(&long, "idle_timeout_seconds"), 7200.0);
    // As often as its start takes, once that was measured.
    with("idle_timeout = \"auto\"\ncold_start_cost = \"1000x\"");
    let measured = wait_gaps(&sandbox, 2);
    let cost = seconds(&measured, "cold_start_cost_seconds");
    assert!(cost < 300.0, "{measured}");

    // A history that cannot be read costs what it would have told.
    restart(&sandbox, || {
        sandbox.write(HISTORY, "not a database").unwrap()
    });
    service::wait_journal(&sandbox, "ondemand.service", "learned from now on only", 1).unwrap();
    assert_eq!(wait_gaps(&sandbox, 2)["reason"], measured["reason"]);
}

#[test]
fn a_learned_timeout_stops_the_service() {
    require_sandbox!();
    let sandbox = prepared("", "idle_timeout = \"auto\"\nidle_timeout_max = \"5s\"");
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    service::stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(4_500),
    );
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

/// Adds gaps to the history of an agent that does not run.
fn add_past(sandbox: &Sandbox, service: &str, gaps: impl Iterator<Item = u64>) {
    // SQLite does not find files by the way that leads into the sandbox.
    let directory = tempfile::tempdir().unwrap();
    let (copy, path) = (directory.path().join("history.db"), sandbox.path(HISTORY));
    fs::copy(&path, &copy).unwrap();
    let db = Connection::open(&copy).unwrap();
    let sql = "INSERT INTO gap SELECT ?1, id, ?2 FROM service WHERE name = ?3";
    for (number, gap) in gaps.enumerate() {
        let millis = i64::try_from(gap * 1000).unwrap();
        let number = i64::try_from(number).unwrap();
        db.execute(sql, (number, millis, service)).unwrap();
    }
    db.close().unwrap();
    fs::write(path, fs::read(copy).unwrap()).unwrap();
}

/// In minutes and hours that nobody waits for: the first 27 gaps are those of a history, the last ones are real.
#[test]
fn bursts_and_a_rhythm_settle_on_different_timeouts() {
    require_sandbox!();
    let sandbox = prepared(HISTORY, "idle_timeout = \"auto\"");
    let test = config("idle_timeout = \"auto\"");
    let rhythm = test
        .replace(":8000", ":8001")
        .replace(":8080", ":8081")
        .replace("app.", "rhythm.");
    service::write_backend(&sandbox, "rhythm.service", "--listen 127.0.0.1:8081").unwrap();
    let services = format!("[service.test]\n{test}\n[service.rhythm]\n{rhythm}");
    write(&sandbox, HISTORY, &services);
    service::reload(&sandbox, &["test", "rhythm"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    restart(&sandbox, || {
        let bursts = (1..=27).map(|gap| if gap % 9 == 0 { 7000 } else { 20 });
        add_past(&sandbox, "test", bursts);
        add_past(&sandbox, "rhythm", (0..27).map(|_| 3600));
    });
    wait_gaps(&sandbox, 27);
    clients(&sandbox, 2);
    let status = wait_for("both have settled", SOON, || {
        let status = service::statuses(&sandbox).ok()?;
        (status["rhythm"]["learned"]["gaps"] == 27).then_some(status)
    })
    .unwrap();
    let timeout = |name: &str| seconds(&status[name], "idle_timeout_seconds");
    assert!(timeout("test") >= 30.0, "{}", status["test"]);
    assert!(
        (5.0..=8.0).contains(&timeout("rhythm")),
        "{}",
        status["rhythm"]
    );
    // They say why.
    let table = sandbox.run(&["ondemand", "status"]).unwrap();
    for name in ["test", "rhythm"] {
        let reason = status[name]["learned"]["reason"].as_str().unwrap();
        assert!(table.contains(reason), "{table}");
        assert!(reason.contains(" gaps"), "{reason}");
    }
    service::wait_journal(
        &sandbox,
        "ondemand.service",
        "test: its idle timeout is learned: ",
        1,
    )
    .unwrap();
}
