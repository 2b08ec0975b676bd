//! A real Prometheus with everything that is shipped for it.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{
    client::{self, Request},
    documents,
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

#[test]
fn promtool_takes_what_the_collector_scrapes() {
    require!(prometheus::unavailable());
    let text = documents::document("docs/monitoring.md");
    let (_, block) = text.split_once("```yaml\nreceivers:\n").unwrap();
    let (_, config) = block.split_once("    config:\n").unwrap();
    let inner = config.lines().take_while(|line| line.starts_with("      "));
    let config: String = inner.map(|line| format!("{}\n", &line[6..])).collect();
    assert!(config.contains("ondemand"), "{config}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config).unwrap();
    promtool(&["check", "config", file.path().to_str().unwrap()], "").unwrap();
}

/// A dashboard that is shipped.
pub(crate) fn dashboard(file: &str) -> Value {
    let text = std::fs::read_to_string(shipped().join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What Grafana puts in the place of variables; the longest of several names that begin alike comes first.
const VARIABLES: [(&str, &str); 10] = [
    ("$__rate_interval", "1m"),
    ("$__range_s", "60"),
    ("$__range", "1m"),
    ("$job", ".*"),
    ("$instance", ".*"),
    ("$service", ".*"),
    ("$price", "0.005"),
    ("$share", "0.8"),
    ("$cold_start_cost", "300"),
    ("${datasource}", "any"),
];

/// The queries of a dashboard, its variables filled in, with the panels' titles.
pub(crate) fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let mut query = text(&target["expr"]);
            for (variable, value) in VARIABLES {
                query = query.replace(variable, value);
            }
            assert!(!query.contains('$'), "{query}");
            queries.push((text(&panel["title"]), query));
        }
    }
    queries
}

/// No Grafana is to be had here: what it wants of a dashboard, as far as it is known (its JSON model).
#[test]
fn the_dashboards_are_whole() {
    let mut uids = BTreeSet::new();
    for file in ["dashboard.json", "fleet.json"] {
        let dashboard = dashboard(file);
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()));
        assert!(dashboard["schemaVersion"].as_u64() >= Some(36), "{file}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: BTreeSet<&str> = variables
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        let text = dashboard["panels"].to_string();
        for (name, _) in VARIABLES {
            let name = name.trim_matches(['$', '{', '}']);
            let is_used =
                text.contains(&format!("${name}")) || text.contains(&format!("${{{name}}}"));
            assert!(
                name.starts_with("__") || !is_used || names.contains(name),
                "{file}: {name} is not defined"
            );
        }
        let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
            let kind = panel["type"].as_str().unwrap();
            let kinds = [
                "stat",
                "timeseries",
                "table",
                "bargauge",
                "barchart",
                "heatmap",
                "gauge",
                "state-timeline",
            ];
            assert!(kinds.contains(&kind), "{title}: {kind}");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
            for (other, ox, oy, ow, oh) in &places {
                let apart = x + w <= *ox || ox + ow <= x || y + h <= *oy || oy + oh <= y;
                assert!(apart, "{title} covers {other}");
            }
            places.push((title, x, y, w, h));
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{title}"
            );
            let mut letters = BTreeSet::new();
            for target in panel["targets"].as_array().unwrap() {
                assert!(letters.insert(target["refId"].as_str().unwrap()), "{title}");
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
    }
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
    for (panel, query) in queries(&dashboard("dashboard.json")) {
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
