//! A report as text.

use std::fmt::{self, Write as _};

use ondemand_core::words::{Bytes, Span, counted, span};

use super::{
    model::{Measured, Quantiles, Report, Service, WEEKDAYS, seconds},
    plan::text as plan,
};

/// Maximum number of services in the table: the busiest.
const MOST_ROWS: usize = 40;
/// Maximum number of reasons: those of the busiest.
const MOST_REASONS: usize = 10;

/// Formats the report.
///
/// # Errors
///
/// None: writing to a string cannot fail.
pub fn write(report: &Report) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let services = counted(report.services.len() as u64, "service");
    writeln!(
        text,
        "{} {}: {services}, {}",
        report.source,
        report.file,
        span_of(report.seconds)
    )?;
    writeln!(text, "{}\n", period(report))?;
    if !report.headline.is_empty() {
        writeln!(text, "{}\n", report.headline)?;
    }
    for note in &report.notes {
        writeln!(text, "Note: {note}.")?;
    }
    if !report.notes.is_empty() {
        writeln!(text)?;
    }
    if let Some(measured) = &report.total.measured {
        write_measured(&mut text, report, measured)?;
    }
    write_use(&mut text, report)?;
    write_what_if(&mut text, report)?;
    if let Some(budgets) = &report.budgets {
        budgets.write(&mut text)?;
    }
    if let Some(plan) = &report.plan {
        plan::write(&mut text, plan)?;
    }
    if let Some(capacity) = &report.capacity {
        capacity.write(&mut text)?;
    }
    if let Some(hosts) = &report.hosts {
        write_services(&mut text, "HOST", hosts)?;
        writeln!(text)?;
    }
    write_services(&mut text, "SERVICE", &report.services)?;
    if report.hosts.is_none() {
        write_reasons(&mut text, report)?;
    }
    Ok(text)
}

/// The start and end of the period.
pub fn period(report: &Report) -> String {
    let at = |seconds: f64| {
        let shown = jiff::Timestamp::from_second(seconds as i64).ok();
        let zone = match report.source {
            "history" | "prometheus" => jiff::tz::TimeZone::system(),
            _ => jiff::tz::TimeZone::UTC,
        };
        shown.map_or_else(
            || format!("{seconds} s"),
            |at| at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        )
    };
    if report.source == "trace" && report.from < super::A_YEAR {
        format!("from {} s to {} s of the trace", report.from, report.until)
    } else {
        format!(
            "from {} to {} ({})",
            at(report.from),
            at(report.until),
            report.time_zone
        )
    }
}

/// The zone of hours and weekdays.
pub fn zone(report: &Report) -> &str {
    match report.time_zone.as_str() {
        "trace" => "as in the trace, whose first day is Thu",
        zone => zone,
    }
}

/// Formats seconds.
pub fn span_of(seconds: f64) -> Span {
    Span(span(seconds))
}

/// The text for figures that systemd does not account.
const UNKNOWN: &str = "unknown (systemd does not account it)";

/// Formats CPU time, and its energy.
pub fn cpu(measured: &Measured) -> String {
    let Some(cpu) = measured.cpu_seconds else {
        return UNKNOWN.to_owned();
    };
    let energy = measured.cpu_kwh.map(|kwh| format!(", {kwh:.3} kWh"));
    format!("{}{}", span_of(cpu), energy.unwrap_or_default())
}

/// Formats `12 GiB-hours`, and their price.
pub fn given_back(report: &Report, measured: &Measured) -> String {
    let Some(given_back) = measured.memory_gib_hours_given_back else {
        return UNKNOWN.to_owned();
    };
    let mut text = format!("{given_back:.2} GiB-hours");
    if let Some(money) = measured.money_given_back {
        // Writing to a string cannot fail.
        let _ = write!(text, ", worth {}", report.money(money));
    }
    text
}

/// Formats `p50 1.2 s, p95 3 s, max 4 s`.
pub fn quantiles(of: &Quantiles) -> String {
    let figures = [
        ("p50", of.p50_seconds),
        ("p95", of.p95_seconds),
        ("max", of.max_seconds),
    ];
    let known = figures.iter().filter_map(|(what, seconds)| {
        let seconds = span_of((*seconds)?);
        Some(format!("{what} {seconds}"))
    });
    let known: Vec<String> = known.collect();
    match known.is_empty() {
        true => "none measured".to_owned(),
        false => known.join(", "),
    }
}

/// Formats `idle 3, failed 1`.
pub fn stops(measured: &Measured) -> String {
    let rows = measured.stops_by_reason.iter();
    let rows: Vec<String> = rows
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    match rows.is_empty() {
        true => "none".to_owned(),
        false => rows.join(", "),
    }
}

fn write_measured(text: &mut String, report: &Report, measured: &Measured) -> fmt::Result {
    let known = measured.active_seconds + measured.inactive_seconds;
    let share = |seconds: f64| 100.0 * seconds / known.max(f64::MIN_POSITIVE);
    writeln!(text, "WHAT WAS")?;
    for (what, seconds) in [
        ("active", measured.active_seconds),
        ("inactive", measured.inactive_seconds),
    ] {
        let span = span_of(seconds).to_string();
        writeln!(text, "  {what:<13} {span} ({:.1} %)", share(seconds))?;
    }
    writeln!(text, "  activations   {}", measured.activations)?;
    writeln!(text, "  stops         {}", stops(measured))?;
    writeln!(text, "  cold start    {}", quantiles(&measured.cold_start))?;
    writeln!(text, "  first byte    {}", quantiles(&measured.first_byte))?;
    let price = report.price_per_gib_hour.map(|price| {
        let currency = report
            .currency
            .as_ref()
            .map_or(String::new(), |of| format!(" {of}"));
        format!(" (at {price}{currency} a GiB-hour)")
    });
    let price = price.unwrap_or_default();
    writeln!(
        text,
        "  given back    {}{price}",
        given_back(report, measured)
    )?;
    writeln!(text, "  CPU used      {}", cpu(measured))?;
    let silent = match measured.silent_connections {
        None | Some(0) => String::new(),
        Some(silent) => format!(", {silent} silent ones closed by stops"),
    };
    writeln!(
        text,
        "  traffic       {}, {} in, {} out{silent}",
        connections(measured),
        Bytes(measured.received_bytes),
        Bytes(measured.sent_bytes)
    )?;
    for (what, ways) in ways(measured) {
        writeln!(text, "  {what:<13} {ways}")?;
    }
    if let Some(room) = room(measured) {
        writeln!(text, "  room          {room}")?;
    }
    if let Some(thaws) = thaws(measured) {
        writeln!(text, "  thawed        {thaws}")?;
    }
    writeln!(text)
}

/// How clients have come besides, as far as some have.
pub(super) fn ways(measured: &Measured) -> impl Iterator<Item = (&'static str, String)> {
    let ways = [
        ("clients", measured.ways.clients()),
        ("datagrams", measured.ways.datagrams()),
    ];
    let known = ways.into_iter();
    known.filter_map(|(what, text)| Some((what, text?)))
}

/// `3 stops for another one of the group, 2 for memory; 4 starts waited for room, 12 s in all`.
pub(super) fn room(measured: &Measured) -> Option<String> {
    let known = |count: Option<u64>| count.filter(|count| *count > 0);
    let group = known(measured.evictions_for_group)
        .map(|count| format!("{} for another one of the group", counted(count, "stop")));
    let memory = known(measured.evictions_for_memory)
        .map(|count| format!("{} for memory", counted(count, "stop")));
    let waits = known(measured.room_waits).map(|count| {
        let waited = measured.room_wait_seconds.unwrap_or_default();
        format!(
            "{} waited for room, {} in all",
            counted(count, "start"),
            span_of(waited)
        )
    });
    let all: Vec<String> = [group, memory, waits].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// `120 times by a client, 1.2 ms in the mean, 8 ms at most`.
pub(super) fn thaws(measured: &Measured) -> Option<String> {
    let times = counted(measured.thaws?, "time");
    let (mean, max) = measured.thaw_mean_seconds.zip(measured.thaw_max_seconds)?;
    Some(format!(
        "{times} by a client, {:.1} ms in the mean, {:.1} ms at most",
        mean * 1e3,
        max * 1e3
    ))
}

/// `445 connections (30 by the proxy)`.
pub(super) fn connections(measured: &Measured) -> String {
    let all = counted(measured.connections, "connection");
    match measured.proxied_connections {
        Some(proxied) if measured.connections > 0 => format!("{all} ({proxied} by the proxy)"),
        _ => all,
    }
}

fn write_use(text: &mut String, report: &Report) -> fmt::Result {
    let total = &report.total;
    writeln!(
        text,
        "WHEN IT WAS USED: {}",
        match total.arrivals {
            Some(arrivals) => counted(arrivals, "arrival"),
            None => "not in the metrics".to_owned(),
        }
    )?;
    let hours = total.busiest_hours.iter();
    let hours = hours.map(|hour| format!("{} {:02}h ({})", hour.weekday, hour.hour, hour.arrivals));
    let hours: Vec<String> = hours.collect();
    if !hours.is_empty() {
        let zone = zone(report);
        writeln!(text, "  busiest hours ({zone}): {}", hours.join(", "))?;
    }
    let mut most: Vec<usize> = (0..total.week_up.len()).collect();
    most.retain(|hour| total.week_up[*hour] > 0);
    most.sort_by_key(|hour| std::cmp::Reverse(total.week_up[*hour]));
    let most = most.iter().take(5).map(|hour| {
        let up = span_of(total.week_up[*hour] as f64);
        format!("{} {:02}h ({up})", WEEKDAYS[hour / 24], hour % 24)
    });
    let most: Vec<String> = most.collect();
    if !most.is_empty() {
        writeln!(text, "  most up ({}): {}", zone(report), most.join(", "))?;
    }
    let gaps: u64 = total.gaps.iter().map(|gaps| gaps.count).sum();
    writeln!(text, "  quiet before an arrival, {}:", counted(gaps, "gap"))?;
    let most = total.gaps.iter().map(|gaps| gaps.count).max().unwrap_or(0);
    for row in total.gaps.iter().filter(|row| row.count > 0) {
        let limit = match row.up_to_seconds {
            Some(limit) => format!("up to {}", span_of(limit)),
            None => "longer".to_owned(),
        };
        let bar = "#".repeat((row.count as f64 / most as f64 * 40.0).ceil() as usize);
        writeln!(text, "  {limit:>14}  {:>10}  {bar}", row.count)?;
    }
    writeln!(text)
}

fn write_what_if(text: &mut String, report: &Report) -> fmt::Result {
    let total = &report.total;
    let cost = span_of(report.cold_start_cost_seconds);
    writeln!(
        text,
        "OTHER IDLE TIMEOUTS, one for all (cost: the time up and idle, and {cost} for each cold start)"
    )?;
    writeln!(
        text,
        "  {:>14}  {:>12}  {:>16}  {:>16}",
        "IDLE TIMEOUT", "COLD STARTS", "UP AND IDLE", "COST"
    )?;
    let best = total.recommended.as_ref().map(|best| best.timeout_seconds);
    for outcome in &total.what_if.outcomes {
        let timeout = seconds(outcome.timeout.into());
        writeln!(
            text,
            "{} {:>14}  {:>12}  {:>16}  {:>16}",
            if best == Some(timeout) { '>' } else { ' ' },
            span_of(timeout).to_string(),
            outcome.cold_starts,
            span_of(seconds(outcome.warm_idle)).to_string(),
            span_of(seconds(outcome.cost(total.what_if.cold_start_cost))).to_string(),
        )?;
    }
    if let Some(learned) = &total.learned {
        writeln!(
            text,
            "  {:>14}  {:>12}  {:>16}  {:>16}",
            "auto",
            learned.cold_starts,
            span_of(learned.warm_idle_seconds).to_string(),
            span_of(learned.cost_seconds).to_string()
        )?;
        if total.arrivals > Some(0) {
            writeln!(text, "\nauto: {}.", learned.reason)?;
        }
    }
    if total.recommended.is_some() {
        writeln!(text, "\nEvidence: {}.", total.evidence)?;
    }
    match &total.recommended {
        Some(best) => {
            let timeout = span_of(best.timeout_seconds);
            writeln!(
                text,
                "Recommended: idle_timeout {timeout}; {}.\n",
                best.reason
            )
        }
        None => writeln!(text, "\nRecommended: none{}.\n", why_none(total)),
    }
}

/// Why there is no recommendation: a part of a sentence.
pub fn why_none(total: &Service) -> String {
    match total.evidence.missing() {
        Some(missing) if total.arrivals > Some(0) => {
            format!(" yet, for lack of evidence: {missing}")
        }
        _ if total.arrivals.is_none() => {
            ", because what-if figures are not in the metrics".to_owned()
        }
        _ => ", because there were no arrivals".to_owned(),
    }
}

/// The services, or the hosts, under this head.
fn write_services(text: &mut String, head: &str, services: &[Service]) -> fmt::Result {
    let mut rows: Vec<&Service> = services.iter().collect();
    rows.sort_by_key(|service| std::cmp::Reverse(service.arrivals));
    let left_out = rows.len().saturating_sub(MOST_ROWS);
    rows.truncate(MOST_ROWS);
    let width = rows
        .iter()
        .map(|row| row.name.chars().count().min(40))
        .max();
    let width = width.unwrap_or(0).max(head.len());
    let measured = services.iter().any(|service| service.measured.is_some());
    write!(text, "{head:<width$}  {:>9}", "ARRIVALS")?;
    if measured {
        let heads = [
            "ACTIVE",
            "INACTIVE",
            "STARTS",
            "COLD P50/P95/MAX",
            "GIVEN BACK",
            "CPU",
        ];
        row_of(text, heads)?;
    }
    writeln!(
        text,
        "  {:>11}  {:>11}  {:>12}  {:>11}  {:>11}  {:>12}",
        "BEST", "COLD STARTS", "UP AND IDLE", "AUTO", "COLD STARTS", "UP AND IDLE"
    )?;
    for row in rows {
        let name: String = row.name.chars().take(40).collect();
        let arrivals = row
            .arrivals
            .map_or("-".to_owned(), |count| count.to_string());
        write!(text, "{name:<width$}  {arrivals:>9}")?;
        if let Some(measured) = &row.measured {
            let cold = &measured.cold_start;
            let cold = [cold.p50_seconds, cold.p95_seconds, cold.max_seconds];
            let cold = cold.map(|took| took.map_or("-".into(), |took| span_of(took).to_string()));
            let mut given_back = measured
                .memory_gib_hours_given_back
                .map_or("-".to_owned(), |given_back| format!("{given_back:.2} GiBh"));
            let cpu = measured.cpu_seconds;
            let cpu = cpu.map_or("-".to_owned(), |cpu| span_of(cpu).to_string());
            if let Some(money) = measured.money_given_back {
                given_back += &format!(" = {money:.2}");
            }
            let cells = [
                &span_of(measured.active_seconds).to_string(),
                &span_of(measured.inactive_seconds).to_string(),
                &measured.activations.to_string(),
                &cold.join("/"),
                &given_back,
                &cpu,
            ];
            row_of(text, cells.map(String::as_str))?;
        }
        let best = row.recommended.as_ref();
        let best = best.map_or_else(
            || ["-".to_owned(), String::new(), String::new()],
            |best| {
                [
                    span_of(best.timeout_seconds).to_string(),
                    best.cold_starts.to_string(),
                    span_of(best.warm_idle_seconds).to_string(),
                ]
            },
        );
        let learned = row.learned.as_ref();
        let learned = learned.map_or_else(
            || ["-".to_owned(), String::new(), String::new()],
            |learned| {
                [
                    learned.timeout(),
                    learned.cold_starts.to_string(),
                    span_of(learned.warm_idle_seconds).to_string(),
                ]
            },
        );
        for [timeout, cold_starts, warm_idle] in [best, learned] {
            write!(text, "  {timeout:>11}  {cold_starts:>11}  {warm_idle:>12}")?;
        }
        writeln!(text)?;
    }
    if left_out > 0 {
        writeln!(
            text,
            "and {left_out} more with fewer arrivals; --json has all of them"
        )?;
    }
    Ok(())
}

/// Why the learned timeouts are what they are.
fn write_reasons(text: &mut String, report: &Report) -> fmt::Result {
    let mut rows: Vec<&Service> = report.services.iter().collect();
    rows.sort_by_key(|service| std::cmp::Reverse(service.arrivals));
    writeln!(text, "\nWHY AUTO, AFTER THE LAST GAP")?;
    for row in rows.iter().take(MOST_REASONS) {
        let name: String = row.name.chars().take(40).collect();
        let reason = row
            .learned
            .as_ref()
            .map_or("unknown", |it| it.reason.as_str());
        writeln!(text, "  {name}: {reason}")?;
    }
    match rows.len().saturating_sub(MOST_REASONS) {
        0 => Ok(()),
        more => writeln!(text, "  and {more} more; --json has all of them"),
    }
}

/// The measurements of a service, or their heads.
fn row_of(text: &mut String, cells: [&str; 6]) -> fmt::Result {
    for (cell, width) in cells.iter().zip([12, 12, 7, 24, 22, 12]) {
        write!(text, "  {cell:>width$}")?;
    }
    Ok(())
}
