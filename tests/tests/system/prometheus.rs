//! A real Prometheus with everything that is shipped for it.

use serde_json::Value;
use tests::{
    client::{self, Request},
    metrics::on_demand,
    prometheus::{self, Prometheus, promtool, shipped},
    require,
    sandbox::{Cgroups, Sandbox},
    service::{CONFIG, SOON, front, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

#[test]
fn promtool_takes_what_is_shipped() {
    require!(prometheus::unavailable());
    promtool(&["check", "config", "prometheus.yml"], "").unwrap();
    promtool(&["check", "rules", "ondemand.rules.yml"], "").unwrap();
    promtool(&["test", "rules", "ondemand.rules.test.yml"], "").unwrap();
}

/// The queries of the dashboard, its variables filled in, with the panels' titles.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(shipped().join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let mut query = text(&target["expr"]);
            for (variable, value) in [
                ("$job", ".*"),
                ("$instance", ".*"),
                ("$service", ".*"),
                ("$__rate_interval", "1m"),
            ] {
                query = query.replace(variable, value);
            }
            assert!(!query.contains('$'), "{query}");
            queries.push((text(&panel["title"]), query));
        }
    }
    queries
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    require_sandbox!();
    require!(prometheus::unavailable());
    // Memory is accounted only where this machine does.
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    let sandbox = on_demand(sandbox, CONFIG, "").unwrap();
    let prometheus = Prometheus::start(&sandbox).unwrap();
    let number = |query: &str| prometheus.number(query).unwrap();
    let ask = || {
        let answer = sandbox.in_network(|| client::get(front(), Request::default()));
        answer.unwrap().unwrap();
    };
    wait_for("the agent is scraped", SOON, || {
        (number("up{job=\"ondemand\"}") == Some(1.0)).then_some(())
    })
    .unwrap();
    for round in 1..=2 {
        ask();
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        let stops = "ondemand_stops_total{service=\"test\",reason=\"idle\"}";
        wait_for("Prometheus knows of the stop", SOON, || {
            (number(stops) == Some(f64::from(round))).then_some(())
        })
        .unwrap();
    }
    let metadata = prometheus.api("metadata?metric=ondemand_active_seconds");
    let metadata = metadata.unwrap().to_string();
    for part in ["\"type\":\"counter\"", "\"unit\":\"seconds\""] {
        assert!(metadata.contains(part), "{metadata}");
    }
    assert_eq!(
        number("ondemand_idle_timeout_seconds{instance=\"localhost:9464\"}"),
        Some(0.3)
    );

    // Idle time is known only while it runs.
    let held = sandbox.in_network(|| client::connect(front()).unwrap());
    let accounted = number("ondemand_saved_memory_byte_seconds_total").is_some();
    for (panel, query) in queries() {
        if !accounted && query.contains("saved_memory") {
            skip::part(format!("memory is not accounted here: {panel}"));
            continue;
        }
        let found = wait_for(&panel, SOON, || {
            let result = prometheus.query(&query).unwrap();
            (!result.is_empty()).then_some(result)
        });
        let found = found.unwrap_or_else(|error| panic!("{error:#}: {query}"));
        eprintln!("{panel}: {}", found[0]["value"][1]);
    }
    drop(held);

    // All rules are evaluated, and nothing is alarming about a service that is dormant.
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let rules = prometheus.api("rules").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() > 20);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }

    // An agent that is gone is known.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    wait_for("the alert is pending", SOON, || {
        let alerts = prometheus.api("alerts").ok()?.to_string();
        alerts.contains("OndemandAgentDown").then_some(())
    })
    .unwrap();
}
