//! `ondemand report --prometheus` of a real agent, scraped by a real Prometheus, against the report of its history.

use std::time::Instant;

use serde_json::Value;
use tests::{
    client::{self, Request},
    prometheus::{self, Prometheus},
    require,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    wait_for,
};

use crate::require_sandbox;

fn report(sandbox: &Sandbox, more: &[&str]) -> Value {
    let words = [&["ondemand", "report", "--json"], more].concat();
    let text = sandbox.run(&words).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_metrics_of_an_agent_say_what_its_history_says() {
    require_sandbox!();
    require!(prometheus::unavailable());
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let agent = "[agent]\nmetrics = \"127.0.0.1:9464\"\nwhatif = \"service\"\n";
    let config = format!("{agent}[service.test]\n{CONFIG}");
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let prometheus = Prometheus::start(&sandbox).unwrap();
    for round in 1..=2 {
        let answer = sandbox.in_network(|| client::get(front(), Request::default()));
        answer.unwrap().unwrap();
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        let stops = "ondemand_stops_total{service=\"test\",reason=\"idle\"}";
        wait_for("Prometheus knows of the stop", SOON, || {
            (prometheus.number(stops).unwrap() == Some(f64::from(round))).then_some(())
        })
        .unwrap();
    }
    let begin = Instant::now();
    let url = ["--prometheus", "http://127.0.0.1:9090"];
    let fleet = report(&sandbox, &[&url[..], &["--last", "1h"]].concat());
    let host = &fleet["hosts"][0];
    assert_eq!(host["name"], "localhost:9464", "{fleet}");
    let own = wait_for("the history has both runs", SOON, || {
        let own = report(&sandbox, &[]);
        (own["total"]["stops_by_reason"]["idle"] == 2).then_some(own)
    });
    let passed = begin.elapsed().as_secs_f64() + 1.0;
    let (own, fleet) = (&own.unwrap()["total"], &fleet["total"]);
    for field in [
        "arrivals",
        "activations",
        "connections",
        "received_bytes",
        "sent_bytes",
        "stops_by_reason",
    ] {
        assert_eq!(fleet[field], own[field], "{field}");
        assert_eq!(fleet[field], host[field], "{field}");
    }
    assert_eq!(fleet["cold_start"]["count"], own["cold_start"]["count"]);
    // A moment passes between the two.
    let rows = [fleet, own].map(|it| it["what_if"].as_array().unwrap());
    assert_eq!(rows[0].len(), rows[1].len());
    for (one, other) in rows[0].iter().zip(rows[1]) {
        assert_eq!(one["timeout_seconds"], other["timeout_seconds"]);
        assert_eq!(one["cold_starts"], other["cold_starts"], "{one}");
        let [one, other] = [one, other].map(|it| it["warm_idle_seconds"].as_f64().unwrap());
        assert!((one - other).abs() < passed, "{one}, {other}");
    }
    assert_eq!(
        fleet["learned"]["cold_starts"],
        own["learned"]["cold_starts"]
    );
    let [one, other] = [fleet, own].map(|it| it["active_seconds"].as_f64().unwrap());
    assert!((one - other).abs() < passed, "{one}, {other}");
    let text = sandbox
        .run(&["ondemand", "report", url[0], url[1]])
        .unwrap();
    assert!(
        text.contains("HOW MANY HOSTS: 1 service on 1 host"),
        "{text}"
    );
}
