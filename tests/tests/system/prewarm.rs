//! Services that are up before a client that is expected.

use std::{fs, net::SocketAddr, time::Duration};

use rusqlite::Connection;
use serde_json::Value;
use tests::{
    client::{self, Kept, Request},
    metrics,
    sandbox::Sandbox,
    service::{self, SOON, front, stays, wait_journal, wait_state},
    wait_for,
};

use crate::{
    history::HISTORY,
    require_sandbox,
    times_of_use::{MONDAY, in_week, set},
};

const HOUR: i64 = 3600;

/// A sandbox with an agent that has run at half past seven in the evening, and does not run. `more`: lines of the service, and
/// others.
fn prepared(more: &str) -> Sandbox {
    let sandbox = in_week(&format!(
        "[agent]\nhistory = \"{HISTORY}\"\nmetrics = \"{}\"\n\n[service.test]\n{}prewarm = true\n{more}",
        metrics::address(),
        service::CONFIG
    ));
    set(&sandbox, 20 * HOUR - 1800);
    service::start_agent(&sandbox).unwrap();
    wait_for("the history exists", SOON, || {
        sandbox.path(HISTORY).exists().then_some(())
    })
    .unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    sandbox
}

/// Records a client at each hour until seven in the evening.
fn add_hourly(sandbox: &Sandbox) {
    // SQLite does not find files by the way that leads into the sandbox.
    let directory = tempfile::tempdir().unwrap();
    let (copy, path) = (directory.path().join("history.db"), sandbox.path(HISTORY));
    fs::copy(&path, &copy).unwrap();
    let db = Connection::open(&copy).unwrap();
    let sql = "INSERT INTO gap SELECT ?1 - wall + since, id, 3600000 FROM service, clock WHERE name = 'test'";
    for hour in 0..20 {
        let wall = (MONDAY + hour * HOUR) * 1000;
        db.execute(sql, [wall]).unwrap();
    }
    db.close().unwrap();
    fs::write(path, fs::read(copy).unwrap()).unwrap();
}

/// The clock is looked at when the configuration is read.
fn pass(sandbox: &Sandbox, seconds: i64) {
    set(sandbox, seconds);
    sandbox.run(&["ondemand", "reload"]).unwrap();
}

fn prewarm(sandbox: &Sandbox) -> Value {
    service::status(sandbox, "test").unwrap()["prewarm"].clone()
}

#[test]
fn it_is_up_before_its_hourly_client_and_not_for_long() {
    require_sandbox!();
    let sandbox = prepared("");
    add_hourly(&sandbox);
    // It is expected from a quarter of a minute before the hour.
    set(&sandbox, 20 * HOUR - 18);
    service::start_agent(&sandbox).unwrap();
    wait_for("a client is expected", SOON, || {
        prewarm(&sandbox)["expected_after_seconds"].as_f64()
    })
    .unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
    let detail = service::status(&sandbox, "test").unwrap()["detail"].to_string();
    assert!(
        detail.contains("up for a client that is expected until 20:00"),
        "{detail}"
    );
    let ask = || client::get(front(), Request::default());
    sandbox.in_network(ask).unwrap().unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let known = prewarm(&sandbox);
    assert_eq!(
        (&known["used"], &known["wasted"]),
        (&1.into(), &0.into()),
        "{known}"
    );

    // An hour later nobody comes.
    let now = |seconds| pass(&sandbox, seconds);
    now(21 * HOUR - 10);
    wait_state(&sandbox, "app.service", "active").unwrap();
    now(21 * HOUR + 120);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    wait_journal(&sandbox, "ondemand.service", "nobody came", 1).unwrap();
    for result in ["used", "wasted"] {
        let labels = format!(",result=\"{result}\"");
        metrics::wait_value(&sandbox, "prewarms_total", &labels, 1.0).unwrap();
    }

    // Whoever wants it to be down has it down, and at the next hour it is up again.
    now(22 * HOUR - 10);
    wait_state(&sandbox, "app.service", "active").unwrap();
    sandbox.run(&["ondemand", "stop", "test"]).unwrap();
    now(22 * HOUR - 5);
    stays(&sandbox, "app.service", "inactive", Duration::from_secs(1));
}

#[test]
fn one_that_is_only_expected_takes_no_place_from_a_client() {
    require_sandbox!();
    let other = "[group.pair]\nat_most = 1\n[service.other]\nlisten = [\"127.0.0.1:8002\"]\nunit = \"other.service\"\n\
                 group = \"pair\"\nidle_timeout = \"300ms\"\nmin_uptime = \"0s\"\n";
    let sandbox = prepared(&format!("group = \"pair\"\n{other}"));
    add_hourly(&sandbox);
    service::write_backend(&sandbox, "other.service", "--listen 127.0.0.1:8002").unwrap();
    service::reload(&sandbox, &["test", "other"]).unwrap();
    set(&sandbox, 20 * HOUR - 600);
    service::start_agent(&sandbox).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 8002));
    let kept = sandbox.in_network(|| {
        let mut kept = Kept::connect(address).unwrap();
        kept.ask().unwrap();
        kept
    });
    // Its place is taken.
    pass(&sandbox, 20 * HOUR - 10);
    wait_journal(
        &sandbox,
        "ondemand.service",
        "there is no room to start it ahead",
        1,
    )
    .unwrap();
    stays(
        &sandbox,
        "app.service",
        "inactive",
        Duration::from_millis(500),
    );
    drop(kept);
    wait_state(&sandbox, "other.service", "inactive").unwrap();

    // It is up in its next window, until a client of the other one comes.
    pass(&sandbox, 20 * HOUR + 120);
    pass(&sandbox, 21 * HOUR - 10);
    wait_state(&sandbox, "app.service", "active").unwrap();
    let ask = || client::get(address, Request::default());
    sandbox.in_network(ask).unwrap().unwrap();
    wait_journal(
        &sandbox,
        "ondemand.service",
        "test: making room for other",
        1,
    )
    .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(prewarm(&sandbox)["wasted"], 0);
}
