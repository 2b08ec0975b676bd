//! `ondemand status`: a table for people, JSON for scripts.

mod past;
mod screen;

use std::{fmt::Write as _, io::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use ondemand_core::words::{Bytes, Span, printable};
use screen::Screen;

use crate::{
    bus::report::{Clients, Report, Service, is_up},
    commands::{args::Status, client::Client},
    host::program,
};

/// How often `--watch` looks.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints the agent's status.
///
/// # Errors
///
/// There is no agent, access is denied, or there is no such service.
pub async fn run(options: &Status) -> Result<()> {
    let agent = Client::connect().await?;
    let screen = Screen::of_stdout();
    loop {
        let mut text = show(&agent, options, screen).await?;
        if options.watch && screen.is_terminal {
            // From the top left, each line to its end, and then what is left below (ECMA-48: CUP, EL, ED).
            text = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        }
        let mut stdout = std::io::stdout();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            // The reader has closed the pipe, as in `ondemand status | head -1`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("print the status")?,
        }
        if !options.watch {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
        if !screen.is_terminal {
            println!();
        }
    }
}

/// What is printed.
async fn show(agent: &Client, options: &Status, screen: Screen) -> Result<String> {
    let mut text = agent.status().await?;
    // Of a thousand services it is a megabyte: it is parsed once.
    let parse = |text: &str| -> Result<Report> {
        serde_json::from_str(text).context("parse the agent's reply (is its version different?)")
    };
    let mut report = None;
    let mut about = String::new();
    if let Some(asked) = &options.name {
        let mut all = parse(&text)?;
        let name = name_among(&all, asked).to_owned();
        let listed = agent.clients(&name).await?;
        let clients: Clients = serde_json::from_str(&listed).context("parse the agent's reply")?;
        if options.json {
            text = only(&text, &name, &listed).context("parse the agent's reply")?;
        } else {
            all.services.retain(|service| service.name == name);
            let unit = all.services.first().map(|service| service.unit.clone());
            let ways = all.services.first().and_then(Service::ways);
            about = ways.map(|ways| format!("\n{ways}\n")).unwrap_or_default();
            about += &list(&clients);
            about += &past::of(&name, &unit.unwrap_or_default()).await;
            report = Some(all);
        }
    }
    if options.json {
        // Passed through, to keep the fields of a newer agent.
        let mut value: serde_json::Value =
            serde_json::from_str(&text).context("parse the agent's reply")?;
        if options.active
            && let Some(services) = value["services"].as_array_mut()
        {
            services.retain(|service| is_up(service["state"].as_str().unwrap_or_default()));
        }
        return Ok(serde_json::to_string_pretty(&value)? + "\n");
    }
    let mut report = match report {
        Some(report) => report,
        None => {
            let report = parse(&text)?;
            about = total(&report);
            report
        }
    };
    if options.active {
        report.services.retain(|service| is_up(&service.state));
    }
    let table = printable(&table(&report, screen.width));
    Ok(screen.paint(&table, &report) + &printable(&(about + &outdated(&program::outdated()))))
}

/// The service that a person means: by its name, or by its unit with or without `.service`. Otherwise what was asked
/// for, without `.service`.
pub(super) fn name_among<'a>(report: &'a Report, asked: &'a str) -> &'a str {
    let mut services = report.services.iter();
    if services.clone().any(|service| service.name == asked) {
        return asked;
    }
    let stem = asked.strip_suffix(".service").unwrap_or(asked);
    let is_it = |service: &&Service| service.unit.strip_suffix(".service") == Some(stem);
    match services.find(is_it) {
        Some(service) => &service.name,
        None => stem,
    }
}

/// The line below all services.
fn total(report: &Report) -> String {
    let summary = report.summary();
    summary
        .map(|text| format!("\n{text}\n"))
        .unwrap_or_default()
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

/// Who is connected to a service, its last starts and stops, and the last lines of its journal.
pub(super) async fn past(name: &str, unit: &str) -> String {
    let clients = async {
        let listed = Client::connect().await?.clients(name).await?;
        anyhow::Ok(list(&serde_json::from_str(&listed)?))
    };
    let (clients, past) = tokio::join!(clients, past::of(name, unit));
    clients.unwrap_or_else(|error| format!("\nits clients are unknown: {error:#}\n")) + &past
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

const HEAD: [&str; 10] = [
    "NAME",
    "STATE",
    "ROUTE",
    "OPEN",
    "TOTAL",
    "IN",
    "OUT",
    "MEMORY",
    "IDLE/TIMEOUT",
    "DETAIL",
];
/// Columns of figures.
const RIGHT: std::ops::Range<usize> = 3..8;
/// Columns that are left out where a terminal is too narrow, the first first.
const DISPENSABLE: [usize; 6] = [5, 6, 4, 2, 7, 8];
/// The width of the last column for which others are left out.
const WANTED: usize = 30;

/// Formats the report as a table of at most `width` columns.
fn table(report: &Report, width: Option<usize>) -> String {
    let mut text = report
        .configuration
        .notice()
        .map(|notice| notice + "\n\n")
        .unwrap_or_default();
    if report.services.is_empty() {
        return text + "no service is configured\n";
    }
    let mut services: Vec<&Service> = report.services.iter().collect();
    services.sort_by_key(|service| service.problem.is_none());
    let rows: Vec<[String; 10]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(services.into_iter().map(row))
        .collect();
    text += &fitted(rows, width);
    if report.dry_run {
        text.push_str("\ndry run: the agent logs what it would stop, and stops nothing\n");
    }
    text
}

/// The rows as lines of at most this width.
fn fitted(mut rows: Vec<[String; 10]>, width: Option<usize>) -> String {
    let Some(width) = width else {
        return aligned(&rows, RIGHT);
    };
    let taken = |rows: &[[String; 10]]| -> usize {
        let of = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let columns = (0..9).filter_map(of).filter(|width| *width > 0);
        columns.map(|width| width + 2).sum()
    };
    for column in DISPENSABLE {
        if taken(&rows) + WANTED <= width {
            break;
        }
        rows.iter_mut().for_each(|row| row[column].clear());
    }
    let text = aligned(&rows, RIGHT);
    let cut = |line: &str| match line.chars().count() > width {
        true => line
            .chars()
            .take(width.saturating_sub(1))
            .chain(['\u{2026}'])
            .collect(),
        false => line.to_owned(),
    };
    text.lines().map(|line| cut(line) + "\n").collect()
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
            // Left out.
            if *width == 0 {
                continue;
            }
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

fn row(service: &Service) -> [String; 10] {
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
        match (service.memory_bytes, service.given_back_bytes) {
            (Some(bytes), _) => Bytes(bytes).to_string(),
            // What it does not take.
            (None, Some(bytes)) => format!("-{}", Bytes(bytes)),
            (None, None) => "-".into(),
        },
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
            given_back_bytes: Some(20_000_000),
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
NAME  STATE     ROUTE    OPEN  TOTAL       IN     OUT    MEMORY  IDLE/TIMEOUT   DETAIL
llm   inactive  proxied     ?      0      0 B     0 B  -20.0 MB  -/infinity     starts with the next connection
wiki  active    steered     2   1234  56.8 kB  3.4 MB    1.0 MB  250 ms/10 min  2 connections open
";
        assert_eq!(table(&report(), None), expected);
        assert_eq!(table(&report(), Some(200)), expected);
        let narrow = "\
NAME  STATE     OPEN    MEMORY  IDLE/TIMEOUT   DETAIL
llm   inactive     ?  -20.0 MB  -/infinity     starts with the next connection
wiki  active       2    1.0 MB  250 ms/10 min  2 connections open
";
        assert_eq!(table(&report(), Some(80)), narrow);
        let narrowest = "\
NAME  STATE     OPEN  DETAIL
llm   inactive     ?  starts with the\u{2026}
wiki  active       2  2 connections o\u{2026}
";
        assert_eq!(table(&report(), Some(38)), narrowest);
        assert_eq!(total(&report()), "\n1 of 2 up, 20.0 MB given back now\n");
        assert_eq!(
            table(&Report::default(), None),
            "no service is configured\n"
        );
        assert_eq!(total(&Report::default()), "");
        // Problems first.
        let mut broken = report();
        broken.services[1].problem = Some("its proxy cannot run".into());
        let text = table(&broken, None);
        assert!(text.lines().nth(1).unwrap().starts_with("wiki"), "{text}");
        assert!(total(&broken).ends_with(", 1 problem\n"));
        let dry = Report {
            dry_run: true,
            ..report()
        };
        assert!(
            table(&dry, None)
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
            let text = table(&report, None);
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
                "given_back_bytes",
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
                "room",
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

    #[test]
    fn a_service_has_several_names() {
        let mut report = report();
        report.services[0].unit = "llama.service".into();
        for (asked, name) in [
            ("wiki", "wiki"),
            ("wiki.service", "wiki"),
            ("llm", "llm"),
            ("llama", "llm"),
            ("llama.service", "llm"),
            ("none.service", "none"),
        ] {
            assert_eq!(name_among(&report, asked), name);
        }
    }

    /// Of this thread: other programs do not change it.
    fn processor_time() -> Duration {
        let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
        Duration::from(nix::time::clock_gettime(clock).unwrap())
    }

    /// The time is in proportion to the number of services, whatever the machine.
    #[test]
    fn a_thousand_services_take_no_more_than_their_share() {
        let of = |count: usize| {
            let mut report = report();
            let one = report.services[1].clone();
            report.services = (0..count)
                .map(|n| Service {
                    name: format!("s{n}"),
                    ..one.clone()
                })
                .collect();
            let begin = processor_time();
            let text = serde_json::to_string(&report).unwrap();
            let report: Report = serde_json::from_str(&text).unwrap();
            let lines = table(&report, Some(120)).lines().count();
            assert_eq!(lines, count + 1);
            processor_time() - begin
        };
        let least = |count| (0..5).map(|_| of(count)).min().unwrap();
        let (few, many) = (least(100), least(1000));
        assert!(many < few * 30, "{few:?} {many:?}");
    }
}
