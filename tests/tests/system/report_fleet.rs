//! `ondemand report --prometheus` of real agents, scraped by a real Prometheus, against the reports of their histories.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    client::{self, Request},
    pause::idle_for,
    prometheus::{self, Prometheus},
    require,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    wait_for,
};

use crate::{
    fleet::{agent, connect},
    require_sandbox,
};

/// How often the service of each host is used.
const RUNS: [u64; 2] = [2, 1];

fn report(sandbox: &Sandbox, more: &[&str]) -> Value {
    let words = [&["ondemand", "report", "--json"], more].concat();
    let text = sandbox.run(&words).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn host(number: usize, first: Option<&Sandbox>) -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    if let Some(first) = first {
        connect(first, &sandbox, number);
    }
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = format!(
        "[agent]\nmetrics = \"{}\"\nwhatif = \"service\"\n[service.test]\n{CONFIG}",
        agent(number)
    );
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// Uses the service so often, until its history has all stops.
fn use_(sandbox: &Sandbox, runs: u64) -> Value {
    for _ in 0..runs {
        // A gap of less than a second is none in the metrics.
        idle_for(Duration::from_millis(1100));
        let answer = sandbox.in_network(|| client::get(front(), Request::default()));
        answer.unwrap().unwrap();
        wait_state(sandbox, "app.service", "inactive").unwrap();
    }
    let own = wait_for("the history has all runs", SOON, || {
        let own = report(sandbox, &[]);
        (own["total"]["stops_by_reason"]["idle"] == runs).then(|| own["total"].clone())
    });
    own.unwrap()
}

/// A sum over the hosts' own reports.
fn sum(own: &[Value], field: impl Fn(&Value) -> &Value) -> f64 {
    own.iter().map(|own| field(own).as_f64().unwrap()).sum()
}

#[test]
fn the_metrics_of_agents_say_what_their_histories_say() {
    require_sandbox!();
    require!(prometheus::unavailable());
    let first = host(0, None);
    let second = host(1, Some(&first));
    let addresses = [agent(0), agent(1)];
    let prometheus = Prometheus::scraping(&first, &addresses.each_ref().map(String::as_str));
    let prometheus = prometheus.unwrap();
    let begin = Instant::now();
    let own = [use_(&first, RUNS[0]), use_(&second, RUNS[1])];
    let stops = "sum(ondemand_stops_total{service=\"test\",reason=\"idle\"})";
    wait_for("Prometheus knows of all stops", SOON, || {
        let known = prometheus.number(stops).unwrap();
        (known == Some((RUNS[0] + RUNS[1]) as f64)).then_some(())
    })
    .unwrap();
    let url = ["--prometheus", "http://127.0.0.1:9090"];
    let fleet = report(&first, &[&url[..], &["--last", "1h"]].concat());
    // A moment passes between the reports.
    let passed = 2.0 * begin.elapsed().as_secs_f64() + 1.0;
    let total = &fleet["total"];
    let hosts = fleet["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 2, "{fleet}");
    for (own, name) in own.iter().zip(&addresses) {
        let host = hosts.iter().find(|host| host["name"] == name.as_str());
        let host = host.unwrap_or_else(|| panic!("{name}: {fleet}"));
        assert_eq!(host["stops_by_reason"], own["stops_by_reason"]);
        assert_eq!(
            host["learned"]["cold_starts"],
            own["learned"]["cold_starts"]
        );
        assert_eq!(host["cold_start"]["count"], own["cold_start"]["count"]);
        assert_eq!(host["first_byte"]["count"], own["first_byte"]["count"]);
        for field in COUNTS {
            assert_eq!(host[field], own[field], "{field} of {name}");
        }
    }
    for field in COUNTS {
        assert_eq!(
            total[field].as_f64(),
            Some(sum(&own, |own| &own[field])),
            "{field}"
        );
    }
    for (number, row) in total["what_if"].as_array().unwrap().iter().enumerate() {
        let rows = own.each_ref().map(|own| own["what_if"][number].clone());
        assert_eq!(row["timeout_seconds"], rows[0]["timeout_seconds"]);
        let cold_starts = row["cold_starts"].as_f64();
        assert_eq!(
            cold_starts,
            Some(sum(&rows, |row| &row["cold_starts"])),
            "{row}"
        );
        let idle = row["warm_idle_seconds"].as_f64().unwrap();
        let expected = sum(&rows, |row| &row["warm_idle_seconds"]);
        assert!((idle - expected).abs() < passed, "{row}: {expected}");
    }
    let active = total["active_seconds"].as_f64().unwrap();
    let expected = sum(&own, |own| &own["active_seconds"]);
    assert!((active - expected).abs() < passed, "{active}, {expected}");
    let text = first.run(&["ondemand", "report", url[0], url[1]]).unwrap();
    assert!(
        text.contains("HOW MANY HOSTS: 2 services on 2 hosts"),
        "{text}"
    );
}

/// What is the same in both reports.
const COUNTS: [&str; 5] = [
    "arrivals",
    "activations",
    "connections",
    "received_bytes",
    "sent_bytes",
];
