//! `ondemand status`: a table for people, JSON for scripts.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use ondemand_core::words::{Bytes, Span, printable};

use crate::{
    bus::report::{Clients, Report, Service},
    commands::client::Client,
    host::program,
};

/// Prints the agent's status.
///
/// # Errors
///
/// There is no agent, or access is denied.
pub async fn run(name: Option<&str>, json: bool) -> Result<()> {
    let agent = Client::connect().await?;
    let mut text = agent.status().await?;
    let mut clients = Clients::default();
    if let Some(name) = name {
        let listed = agent.clients(name).await?;
        text = only(&text, name, &listed).context("parse the agent's reply")?;
        clients = serde_json::from_str(&listed).context("parse the agent's reply")?;
    }
    let output = if json {
        // Passed through, to keep the fields of a newer agent.
        let value: serde_json::Value =
            serde_json::from_str(&text).context("parse the agent's reply")?;
        serde_json::to_string_pretty(&value)? + "\n"
    } else {
        let report: Report = serde_json::from_str(&text)
            .context("parse the agent's reply (is its version different?)")?;
        let clients = name.map(|_| list(&clients)).unwrap_or_default();
        printable(&(table(&report) + &clients + &outdated(&program::outdated())))
    };
    match std::io::stdout().write_all(output.as_bytes()) {
        // The reader has closed the pipe, as in `ondemand status | head -1`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("print the status"),
    }
}

/// The report of one service, with its connections.
fn only(report: &str, name: &str, clients: &str) -> serde_json::Result<String> {
    let mut report: serde_json::Value = serde_json::from_str(report)?;
    let clients: serde_json::Value = serde_json::from_str(clients)?;
    if let Some(services) = report["services"].as_array_mut() {
        services.retain(|service| service["name"] == name);
        for service in services.iter_mut().filter_map(|it| it.as_object_mut()) {
            service.extend(clients.as_object().cloned().unwrap_or_default());
        }
    }
    serde_json::to_string(&report)
}

/// Who keeps a service up.
fn list(open: &Clients) -> String {
    if open.clients.is_empty() {
        return "\nno connection is open\n".into();
    }
    let span = |seconds: f64| Span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let here = |since: &str| {
        let since: jiff::Timestamp = since.parse().ok()?;
        let here = since.to_zoned(jiff::tz::TimeZone::system());
        Some(here.strftime("%F %T").to_string())
    };
    let head = ["CLIENT", "WAY", "SINCE", "OPEN FOR", "SILENT FOR"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head)
        .chain(open.clients.iter().map(|client| {
            let since = client.since.as_deref().and_then(here);
            let silent = client.silent_seconds.map(|silent| span(silent).to_string());
            [
                client.address.clone(),
                client.way.clone(),
                since.unwrap_or_else(|| "?".into()),
                span(client.open_seconds).to_string(),
                silent.unwrap_or_else(|| "?".into()),
            ]
        }))
        .collect();
    let mut text = "\n".to_owned() + &aligned(&rows, 0..0);
    if open.clients_left_out > 0 {
        text += &format!("and {} more, silent for longer\n", open.clients_left_out);
    }
    text
}

/// The last line, after an upgrade.
fn outdated(units: &[String]) -> String {
    match units {
        [] => String::new(),
        units => format!(
            "\nstill running the program from before an upgrade: {}; `ondemand check` says until when\n",
            units.join(", ")
        ),
    }
}

const HEAD: [&str; 9] = [
    "NAME",
    "STATE",
    "ROUTE",
    "OPEN",
    "TOTAL",
    "IN",
    "OUT",
    "IDLE/TIMEOUT",
    "DETAIL",
];
/// Columns of figures.
const RIGHT: std::ops::Range<usize> = 3..7;

/// Formats the report as a table.
fn table(report: &Report) -> String {
    let mut text = report
        .configuration
        .notice()
        .map(|notice| notice + "\n\n")
        .unwrap_or_default();
    if report.services.is_empty() {
        return text + "no service is configured\n";
    }
    let rows: Vec<[String; 9]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(report.services.iter().map(row))
        .collect();
    text += &aligned(&rows, RIGHT);
    if report.dry_run {
        text.push_str("\ndry run: the agent logs what it would stop, and stops nothing\n");
    }
    text
}

/// `right`: columns of figures.
pub(super) fn aligned<const N: usize>(
    rows: &[[String; N]],
    right: std::ops::Range<usize>,
) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if right.contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(service: &Service) -> [String; 9] {
    let span = |seconds: f64| Span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let idle = service
        .idle_seconds
        .map_or("-".into(), |idle| span(idle).to_string());
    let timeout = service
        .idle_timeout_seconds
        .map_or("infinity".into(), |idle| span(idle).to_string());
    [
        service.name.clone(),
        service.state.clone(),
        service.route.clone(),
        service
            .open_connections
            .map_or("?".into(), |open| open.to_string()),
        service.accepted_connections.to_string(),
        Bytes(service.received_bytes).to_string(),
        Bytes(service.sent_bytes).to_string(),
        format!("{idle}/{timeout}"),
        service.detail_here(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bus::report::{Configuration, Counts, OpenConnection};

    fn report() -> Report {
        let wiki = Service {
            name: "wiki".into(),
            unit: "wiki.service".into(),
            state: "active".into(),
            route: "steered".into(),
            open_connections: Some(2),
            accepted_connections: 1234,
            received_bytes: 56_789,
            sent_bytes: 3_400_000,
            idle_seconds: Some(0.25),
            idle_timeout_seconds: Some(600.0),
            starts: 1,
            stops_by_reason: BTreeMap::from([("idle".into(), 0)]),
            vetoes_by_reason: BTreeMap::from([("activity".into(), 0)]),
            last_start_duration_seconds: Some(0.84),
            front: Counts {
                accepted: 1,
                closed: 1,
            },
            steered: Counts {
                accepted: 1233,
                closed: 1231,
            },
            memory_bytes: Some(1 << 20),
            detail: "2 connections open".into(),
            ..Service::default()
        };
        let llm = Service {
            name: "llm".into(),
            unit: "llm.service".into(),
            state: "inactive".into(),
            route: "proxied".into(),
            detail: "starts with the next connection".into(),
            ..Service::default()
        };
        Report {
            version: "0.1.0".into(),
            dry_run: false,
            configuration: Configuration {
                path: "/etc/ondemand/ondemand.toml".into(),
                last_reload_successful: true,
                last_reload_success: Some("2026-11-28T12:00:00Z".into()),
                ..Configuration::default()
            },
            services: vec![llm, wiki],
        }
    }

    #[test]
    fn people_get_a_table() {
        let expected = "\
NAME  STATE     ROUTE    OPEN  TOTAL       IN     OUT  IDLE/TIMEOUT   DETAIL
llm   inactive  proxied     ?      0      0 B     0 B  -/infinity     starts with the next connection
wiki  active    steered     2   1234  56.8 kB  3.4 MB  250 ms/10 min  2 connections open
";
        assert_eq!(table(&report()), expected);
        assert_eq!(table(&Report::default()), "no service is configured\n");
        let dry = Report {
            dry_run: true,
            ..report()
        };
        assert!(
            table(&dry)
                .ends_with("\ndry run: the agent logs what it would stop, and stops nothing\n")
        );
    }

    #[test]
    fn who_keeps_it_up_is_listed() {
        let client = OpenConnection {
            address: "10.7.0.2:4711".into(),
            way: "steered".into(),
            since: None,
            open_seconds: 7200.0,
            silent_seconds: Some(60.0),
        };
        let other = OpenConnection {
            address: "[::1]:5".into(),
            way: "proxied".into(),
            silent_seconds: None,
            open_seconds: 0.25,
            ..client.clone()
        };
        let open = Clients {
            clients: vec![client, other],
            clients_left_out: 3,
        };
        let expected = "
CLIENT         WAY      SINCE  OPEN FOR  SILENT FOR
10.7.0.2:4711  steered  ?      2 h       1 min
[::1]:5        proxied  ?      250 ms    ?
and 3 more, silent for longer
";
        assert_eq!(list(&open), expected);
        assert_eq!(list(&Clients::default()), "\nno connection is open\n");
        let report = serde_json::to_string(&report()).unwrap();
        let text = only(&report, "wiki", &serde_json::to_string(&open).unwrap()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        ::tests::documents::assert_documented(&json);
        assert_eq!(json["services"].as_array().unwrap().len(), 1);
        assert_eq!(json["services"][0]["clients"][1]["address"], "[::1]:5");
        assert_eq!(json["services"][0]["clients_left_out"], 3);
    }

    #[test]
    fn a_wrong_configuration_is_in_the_first_line() {
        let wrong = |error: &str, copy: Option<&str>| {
            let mut report = report();
            report.configuration.error = Some(error.into());
            report.configuration.copy = copy.map(str::to_owned);
            let text = table(&report);
            text.lines().next().unwrap().to_owned()
        };
        assert_eq!(
            wrong("/o.toml:2: service.a: x", None),
            "WRONG CONFIGURATION, the one before stays in force: /o.toml:2: service.a: x; correct it, \
             then `systemctl reload ondemand`"
        );
        let line = wrong(
            "/o.toml:2: x\n/o.toml:3: y\n/o.toml:4: z",
            Some("/c of 2026"),
        );
        assert!(
            line.contains(
                "a copy is in force, /c of 2026: /o.toml:2: x (and 2 more: `ondemand check`)"
            ),
            "{line}"
        );
    }

    #[test]
    fn scripts_get_these_names() {
        let json = serde_json::to_value(report()).unwrap();
        ::tests::documents::assert_documented(&json);
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(
            keys(&json),
            ["configuration", "dry_run", "services", "version"]
        );
        assert_eq!(
            keys(&json["configuration"]),
            [
                "changed",
                "copy",
                "error",
                "last_reload_success",
                "last_reload_successful",
                "path",
                "units_error"
            ]
        );
        assert_eq!(
            keys(&json["services"][1]),
            [
                "accepted_connections",
                "back",
                "count_drift",
                "datagrams",
                "detail",
                "front",
                "frozen",
                "held",
                "held_clients",
                "held_until",
                "idle_seconds",
                "idle_timeout_seconds",
                "ignored",
                "kept_up",
                "last_start_duration_seconds",
                "learned",
                "listen",
                "memory_bytes",
                "name",
                "not_ready",
                "older_connections",
                "open_connections",
                "prewarm",
                "problem",
                "proxy_failures",
                "ready",
                "received_bytes",
                "refused_connections",
                "restarts",
                "route",
                "sent_bytes",
                "starts",
                "state",
                "steered",
                "stops",
                "stops_by_reason",
                "stops_in_seconds",
                "unit",
                "usual_start_seconds",
                "vetoes",
                "vetoes_by_reason",
                "working",
            ]
        );
        assert_eq!(
            json["services"][1]["steered"],
            serde_json::json!({"accepted": 1233, "closed": 1231})
        );
        assert_eq!(json["services"][0]["idle_seconds"], serde_json::Value::Null);
        assert_eq!(
            json["services"][0]["idle_timeout_seconds"],
            serde_json::Value::Null
        );
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back, report());
    }
}
