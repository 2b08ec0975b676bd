use std::time::Duration;

use ondemand_core::{
    caught::{DatagramTally, Tally},
    learned,
    measure::{
        Ktime,
        sample::{Leg, Sample},
        unit::ActiveState,
    },
    room,
};

use super::{
    super::{exposition::plain, kept::Kept},
    *,
};

pub(crate) fn row(service: &str) -> Row {
    let leg = Leg {
        accepted: 7,
        closed: 5,
        received_bytes: 100,
        sent_bytes: 200,
    };
    let sample = Sample {
        at: Ktime::default(),
        front: leg,
        steered: Leg::default(),
        back: leg,
        ignored: leg,
        refused: 4,
        older: 0,
        last_activity: None,
        last_open: None,
        lookups: 0,
        last_lookup: None,
        served: None,
        datagrams: 30,
        refused_datagrams: 5,
    };
    let observation = Observation {
        service: service.into(),
        state: Some(ActiveState::Active),
        sample: Some(sample),
        open: Some(2),
        idle: Some(Duration::ZERO),
        unused: Some(Duration::ZERO),
        kept: Some(Kept::Clients),
        idle_timeout: Some(Duration::from_millis(1500)),
        learned: (
            Duration::from_secs(90),
            learned::Tally {
                reasons: [3, 0, 1, 20],
                fixed_cost: 600.5,
                learned_cost: 90.25,
            },
        ),
        ready: Some(false),
        held: Tally {
            to_application: 6,
            to_front: 1,
            late: 1,
            gave_up: 2,
            held: Duration::from_millis(2500),
        },
        frozen: (true, true, 4),
        room: Some(room::Tally {
            for_group: 2,
            for_memory: 1,
            waits: 3,
            waited: Duration::from_millis(1500),
        }),
        prewarms: [2, 1],
        datagrams: Some(DatagramTally {
            sent: 8,
            lost: [0, 1, 0],
        }),
    };
    let mut ledger = Ledger::default();
    ledger.starts = 1;
    ledger.cpu.measured(1, Duration::from_secs(2));
    ledger.start_durations.observe(Duration::from_millis(300));
    ledger.stops.insert("idle".into(), 3);
    (observation, ledger)
}

const CONFIGURATION: Configuration = Configuration {
    last_reload_successful: true,
    last_reload_success: Some(1.5),
};

/// In a boot in which no gap between clients was seen.
fn text(rows: &[Row]) -> String {
    let uses = Uses::open("/proc/none".into());
    open_metrics(rows, &CONFIGURATION, WhatIfBy::Total, &uses)
}

/// The samples of a metric.
fn samples<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    text.lines().filter(of_it).collect()
}

#[test]
fn every_metric_has_its_name_its_help_its_type_and_its_unit() {
    let text = text(&[row("wiki")]);
    #[track_caller]
    fn check(text: &str, family: &str, kind: &str, unit: &str, sample: &str) {
        let help = format!("# HELP {family} ");
        assert!(text.lines().any(|line| line.starts_with(&help)), "{help}");
        let kind = format!("# TYPE {family} {kind}");
        assert!(text.lines().any(|line| line == kind), "{kind}");
        let unit_line = format!("# UNIT {family} {unit}");
        assert_eq!(text.lines().any(|line| line == unit_line), !unit.is_empty());
        assert!(
            text.lines().any(|line| line == sample),
            "{sample} in\n{text}"
        );
    }
    for (family, kind, unit, sample) in [
        (
            "open_connections",
            "gauge",
            "connections",
            "open_connections{service=\"wiki\"} 2",
        ),
        (
            "accepted_connections",
            "counter",
            "connections",
            "accepted_connections_total{service=\"wiki\"} 7",
        ),
        (
            "unused_seconds",
            "gauge",
            "seconds",
            "unused_seconds{service=\"wiki\"} 0",
        ),
        (
            "whatif_cold_starts",
            "counter",
            "",
            "whatif_cold_starts_total{timeout=\"604800\"} 0",
        ),
        (
            "whatif_idle_seconds",
            "counter",
            "seconds",
            "whatif_idle_seconds_total{timeout=\"auto\"} 0",
        ),
        ("ready", "gauge", "", "ready{service=\"wiki\"} 0"),
        (
            "kept_up",
            "gauge",
            "",
            "kept_up{service=\"wiki\",reason=\"clients\"} 1",
        ),
        (
            "client_wait_seconds",
            "histogram",
            "seconds",
            "client_wait_seconds_count{way=\"native\"} 0",
        ),
        (
            "cpu_seconds",
            "counter",
            "seconds",
            "cpu_seconds_total{service=\"wiki\"} 2",
        ),
        (
            "held_clients",
            "counter",
            "",
            "held_clients_total{service=\"wiki\",to=\"front\"} 1",
        ),
        (
            "held_seconds",
            "counter",
            "seconds",
            "held_seconds_total{service=\"wiki\"} 2.5",
        ),
        (
            "datagrams",
            "counter",
            "",
            "datagrams_total{service=\"wiki\"} 30",
        ),
        (
            "held_datagrams",
            "counter",
            "",
            "held_datagrams_total{service=\"wiki\"} 8",
        ),
        (
            "lost_datagrams",
            "counter",
            "",
            "lost_datagrams_total{service=\"wiki\",reason=\"late\"} 1",
        ),
        (
            "refused_datagrams",
            "counter",
            "",
            "refused_datagrams_total{service=\"wiki\"} 5",
        ),
        (
            "received_bytes",
            "counter",
            "bytes",
            "received_bytes_total{service=\"wiki\"} 100",
        ),
        (
            "sent_bytes",
            "counter",
            "bytes",
            "sent_bytes_total{service=\"wiki\"} 200",
        ),
        (
            "idle_seconds",
            "gauge",
            "seconds",
            "idle_seconds{service=\"wiki\"} 0",
        ),
        (
            "idle_timeout_seconds",
            "gauge",
            "seconds",
            "idle_timeout_seconds{service=\"wiki\"} 1.5",
        ),
        (
            "learned_idle_timeout_seconds",
            "gauge",
            "seconds",
            "learned_idle_timeout_seconds{service=\"wiki\"} 90",
        ),
        (
            "learned_idle_timeout_reasons",
            "counter",
            "",
            "learned_idle_timeout_reasons_total{service=\"wiki\",reason=\"like-the-last\"} 20",
        ),
        (
            "gap_cost_seconds",
            "counter",
            "seconds",
            "gap_cost_seconds_total{service=\"wiki\",timeout=\"fixed\"} 600.5",
        ),
        (
            "state",
            "gauge",
            "",
            "state{service=\"wiki\",state=\"active\"} 1",
        ),
        (
            "state",
            "gauge",
            "",
            "state{service=\"wiki\",state=\"inactive\"} 0",
        ),
        (
            "config_last_reload_successful",
            "gauge",
            "",
            "config_last_reload_successful 1",
        ),
        (
            "config_last_reload_success_timestamp_seconds",
            "gauge",
            "seconds",
            "config_last_reload_success_timestamp_seconds 1.5",
        ),
        ("starts", "counter", "", "starts_total{service=\"wiki\"} 1"),
        (
            "start_duration_seconds",
            "histogram",
            "seconds",
            "start_duration_seconds_bucket{le=\"0.5\",service=\"wiki\"} 1",
        ),
        (
            "start_duration_seconds",
            "histogram",
            "seconds",
            "start_duration_seconds_bucket{le=\"0.25\",service=\"wiki\"} 0",
        ),
        (
            "start_duration_seconds",
            "histogram",
            "seconds",
            "start_duration_seconds_sum{service=\"wiki\"} 0.3",
        ),
        (
            "stops",
            "counter",
            "",
            "stops_total{service=\"wiki\",reason=\"idle\"} 3",
        ),
        (
            "stops",
            "counter",
            "",
            "stops_total{service=\"wiki\",reason=\"failed\"} 0",
        ),
        (
            "stop_vetoes",
            "counter",
            "",
            "stop_vetoes_total{service=\"wiki\",reason=\"half-open\"} 0",
        ),
        (
            "active_seconds",
            "counter",
            "seconds",
            "active_seconds_total{service=\"wiki\"} 0",
        ),
        (
            "inactive_seconds",
            "counter",
            "seconds",
            "inactive_seconds_total{service=\"wiki\"} 0",
        ),
        (
            "count_drift",
            "counter",
            "",
            "count_drift_total{service=\"wiki\"} 0",
        ),
    ] {
        check(
            &text,
            &format!("ondemand_{family}"),
            kind,
            unit,
            &format!("ondemand_{sample}"),
        );
    }
    assert!(text.contains("# UNIT ondemand_saved_memory_byte_seconds byte_seconds\n"));
    assert!(text.contains("# TYPE ondemand_build info\nondemand_build_info{version=\""));
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn unknown_is_no_sample() {
    let (mut observation, ledger) = row("wiki");
    observation.state = None;
    observation.sample = None;
    observation.open = None;
    observation.idle = None;
    observation.idle_timeout = None;
    let text = text(&[(observation, ledger), row("other")]);
    for name in [
        "open_connections",
        "accepted_connections_total",
        "received_bytes_total",
        "sent_bytes_total",
        "idle_seconds",
        "active_seconds_total",
        "inactive_seconds_total",
    ] {
        let samples = samples(&text, &format!("ondemand_{name}"));
        assert_eq!(samples.len(), 1, "{name}");
        assert!(samples[0].contains("other"), "{name}");
    }
    assert!(samples(&text, "ondemand_saved_memory_byte_seconds_total").is_empty());
    assert_eq!(samples(&text, "ondemand_state").len(), 5);
    // What the agent counted is known, and so is what was configured.
    assert_eq!(samples(&text, "ondemand_starts_total").len(), 2);
    assert!(text.contains("ondemand_idle_timeout_seconds{service=\"wiki\"} +Inf\n"));
}

#[test]
fn the_older_format_names_counters_in_full() {
    let text = plain(&text(&[row("wiki")]));
    for line in [
        "# TYPE ondemand_starts_total counter",
        "# UNIT ondemand_sent_bytes_total bytes",
        "# TYPE ondemand_build_info gauge",
        "# TYPE ondemand_idle_seconds gauge",
        "# TYPE ondemand_start_duration_seconds histogram",
        "ondemand_starts_total{service=\"wiki\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let helps = text.lines().filter(|line| line.starts_with("# HELP "));
    assert_eq!(helps.count(), 47);
}

#[test]
fn the_manual_has_every_metric_and_no_other() {
    let text = plain(&text(&[row("wiki")]));
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let served: Vec<&str> = types.map(|line| line.split(' ').next().unwrap()).collect();
    assert!(served.len() > 10, "{served:?}");
    let manual = ::tests::documents::document("MANUAL.md");
    let section = manual.split("\n## Metrics\n").nth(1).unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `ondemand_"));
    let described: Vec<String> = rows
        .map(|row| format!("ondemand_{}", row.split('`').next().unwrap()))
        .collect();
    assert_eq!(described, served);
}
