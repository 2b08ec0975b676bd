//! A report as a self-contained page: no library, no font, no network. Its own program draws the plots and the table.

use std::fmt::{Error, Write as _};

use anyhow::{Context as _, Result};
use ondemand_core::{
    replay::Outcome,
    words::{Bytes, counted},
};

use super::{
    data,
    model::{Report, Service, seconds},
    plan::{Plan, text as plan},
    text::{connections, cpu, given_back, period, quantiles, span_of, stops, ways, why_none, zone},
};
use crate::observe::page::{self, escaped};

/// Only what is in the page runs, and it reaches nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'";

/// Formats the page.
///
/// # Errors
///
/// None: writing to a string cannot fail.
pub fn write(report: &Report) -> Result<String> {
    whole(report).context("write the page")
}

/// A plot: its `id`, title and caption.
type Figure = (&'static str, &'static str, String);

fn figures(report: &Report) -> Vec<Figure> {
    let mut figures = vec![
        ("gaps", "Gaps between uses", "What a timeout is chosen by".to_owned()),
        (
            "what-if",
            "Other idle timeouts",
            "<span class=\"first\">Cold starts</span> and <span class=\"second\">time up and idle</span> with each idle \
             timeout; dashed: with the learned one; the upright line is the best of them"
                .to_owned(),
        ),
    ];
    if report.total.measured.is_some() {
        let caption =
            "When it was up: a stronger colour means longer. Of all services, those that save most"
                .to_owned();
        figures.push(("states", "States", caption));
    }
    // Metrics do not say when clients came, but when services were up.
    let up = !report.total.week_up.is_empty();
    if report.hosts.is_none() || up {
        let zone = escaped(zone(report));
        let what = if up {
            "Time up of all together"
        } else {
            "Arrivals"
        };
        figures.push((
            "week",
            if up { "The week" } else { "When clients come" },
            format!("{what}, by hour and weekday ({zone})"),
        ));
    }
    figures
}

/// Formats a moment, as short as the period allows.
pub(super) fn moment(report: &Report, at: f64) -> String {
    let format = match report.seconds {
        ..600.0 => "%H:%M:%S",
        ..172_800.0 => "%a %H:%M",
        ..31_536_000.0 => "%b %-d %H:%M",
        _ => "%Y-%m-%d",
    };
    let at = jiff::Timestamp::from_second(at as i64).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system())
        .strftime(format)
        .to_string()
}

fn whole(report: &Report) -> Result<String, Error> {
    let mut html = String::new();
    let style = page::STYLE;
    writeln!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>ondemand report</title>\n<style>\n{style}</style></head>\n<body>"
    )?;
    writeln!(html, "<h1>ondemand report</h1>")?;
    let mut services = counted(report.services.len() as u64, "service");
    if let Some(hosts) = &report.hosts {
        services += &format!(", {}", counted(hosts.len() as u64, "host"));
    }
    writeln!(
        html,
        "<p class=\"quiet\">{services}, {}, {}<br>{} {}</p>",
        span_of(report.seconds),
        escaped(&period(report)),
        report.source,
        escaped(&report.file)
    )?;
    if !report.headline.is_empty() {
        writeln!(html, "<p id=\"headline\">{}</p>", escaped(&report.headline))?;
    }
    if !report.notes.is_empty() {
        let notes = report
            .notes
            .iter()
            .map(|note| format!("<li>{}</li>", escaped(note)));
        writeln!(html, "<ul id=\"notes\">{}</ul>", notes.collect::<String>())?;
    }
    tiles(&mut html, report)?;
    match &report.total.recommended {
        Some(best) => {
            let (timeout, reason) = (span_of(best.timeout_seconds), escaped(&best.reason));
            writeln!(
                html,
                "<p class=\"best\">By {}: <b>idle_timeout {timeout} is recommended for all</b>; {reason}.</p>",
                report.total.evidence
            )?;
        }
        None => {
            let why = escaped(&why_none(&report.total));
            writeln!(html, "<p class=\"best\">Recommended: none{why}.</p>")?;
        }
    }
    if let Some(capacity) = &report.capacity {
        writeln!(
            html,
            "<h2>How many hosts</h2><p id=\"capacity\">{}</p>",
            escaped(&capacity.words())
        )?;
    }
    writeln!(
        html,
        "<noscript><p class=\"best\">The plots and the table of services need JavaScript, which this browser does not run; \
         `ondemand report` prints the same figures.</p></noscript>\n\
         <section id=\"plots\"><h2><span id=\"subject\">All services</span> <button id=\"all\" hidden>show all \
         services</button></h2><p class=\"quiet\" id=\"why\"></p><div class=\"plots\">"
    )?;
    for (id, title, caption) in figures(report) {
        writeln!(
            html,
            "<figure id=\"{id}\"><h2>{title}</h2><output></output><figcaption>{caption}</figcaption></figure>"
        )?;
    }
    writeln!(html, "</div></section>")?;
    what_if(&mut html, report)?;
    if let Some(plan) = &report.plan {
        plan_of(&mut html, plan)?;
    }
    if let Some(hosts) = &report.hosts {
        by_host(&mut html, report, hosts)?;
    }
    writeln!(
        html,
        "<h2>Services</h2><p class=\"quiet\"><input id=\"search\" type=\"search\" placeholder=\"search\" aria-label=\"search \
         for services\"> <output id=\"found\"></output> Those that save most come first; a click on a head sorts, one on a \
         service shows its plots.</p>\n<div class=\"scroll\"><table id=\"services\"></table></div>"
    )?;
    let data = data::json(report, |at| moment(report, at));
    let (plots, program) = (page::PLOTS, include_str!("page.js"));
    writeln!(
        html,
        "<script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{plots}{program}</script>\n</body></html>"
    )?;
    Ok(html)
}

fn tiles(html: &mut String, report: &Report) -> Result<(), Error> {
    let total = &report.total;
    let mut tiles = vec![("arrivals", count(total.arrivals))];
    if let Some(measured) = &total.measured {
        let known = (measured.active_seconds + measured.inactive_seconds).max(f64::MIN_POSITIVE);
        let share =
            |seconds: f64| format!("{} ({:.1} %)", span_of(seconds), 100.0 * seconds / known);
        tiles.extend([
            ("active", share(measured.active_seconds)),
            ("inactive", share(measured.inactive_seconds)),
            ("activations", measured.activations.to_string()),
            ("stops", stops(measured)),
            ("cold start", quantiles(&measured.cold_start)),
            ("memory given back", given_back(report, measured)),
            (
                "traffic",
                format!(
                    "{}, {} in, {} out",
                    connections(measured),
                    Bytes(measured.received_bytes),
                    Bytes(measured.sent_bytes)
                ),
            ),
        ]);
        tiles.extend(ways(measured));
        // Not all metrics have these.
        if report.hosts.is_none() || measured.first_byte.count > 0 {
            tiles.push(("first byte", quantiles(&measured.first_byte)));
        }
        if report.hosts.is_none() || measured.cpu_seconds.is_some() {
            tiles.push(("CPU used", cpu(measured)));
        }
    }
    let hours = total.busiest_hours.iter().take(3);
    let hours: Vec<String> = hours
        .map(|hour| format!("{} {:02}h", hour.weekday, hour.hour))
        .collect();
    if report.hosts.is_none() {
        tiles.push(("busiest hours", hours.join(", ")));
    }
    writeln!(html, "<div class=\"tiles\">")?;
    for (what, figure) in tiles {
        writeln!(html, "<div><span>{what}</span><b>{figure}</b></div>")?;
    }
    writeln!(html, "</div>")
}

/// The best timeout, its neighbours and the learned one; all of them on request.
fn what_if(html: &mut String, report: &Report) -> Result<(), Error> {
    let total = &report.total;
    let (outcomes, cost) = (&total.what_if.outcomes, total.what_if.cold_start_cost);
    let best = total.recommended.as_ref().map(|best| best.timeout_seconds);
    let is_best = |outcome: &Outcome| best == Some(seconds(outcome.timeout.into()));
    let rows = |html: &mut String, outcomes: &[Outcome]| {
        outcomes.iter().try_for_each(|outcome| {
            let class = if is_best(outcome) {
                " class=\"chosen\""
            } else {
                ""
            };
            writeln!(
                html,
                "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                span_of(seconds(outcome.timeout.into())),
                outcome.cold_starts,
                span_of(seconds(outcome.warm_idle)),
                span_of(seconds(outcome.cost(cost)))
            )
        })
    };
    let head =
        "<tr><th>Idle timeout</th><th>Cold starts</th><th>Up and idle</th><th>Cost</th></tr>";
    let span = span_of(report.cold_start_cost_seconds);
    writeln!(
        html,
        "<h2>The same idle timeout for all</h2><p class=\"quiet\">The cost is the time up and idle, and {span} for each cold \
         start.</p><div class=\"scroll\"><table id=\"what-if-table\">{head}"
    )?;
    // Without a recommendation, what people would try.
    let place = outcomes
        .iter()
        .position(is_best)
        .unwrap_or(outcomes.len() / 2);
    let few = place.saturating_sub(1)..(place + 2).min(outcomes.len());
    rows(html, &outcomes[few])?;
    if let Some(learned) = &total.learned {
        writeln!(
            html,
            "<tr><td>auto (learned for each)</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            learned.cold_starts,
            span_of(learned.warm_idle_seconds),
            span_of(learned.cost_seconds)
        )?;
    }
    writeln!(html, "</table></div>")?;
    writeln!(
        html,
        "<details><summary>all {} that were compared</summary><div class=\"scroll\"><table>{head}",
        counted(outcomes.len() as u64, "timeout")
    )?;
    rows(html, outcomes)?;
    writeln!(html, "</table></div></details>")
}

/// How many hosts would carry it.
fn plan_of(html: &mut String, of: &Plan) -> Result<(), Error> {
    writeln!(
        html,
        "<h2>How many hosts</h2><p class=\"quiet\">{}. {} (tried: {}).</p>",
        plan::head(of),
        plan::CAPTION,
        plan::tried(of)
    )?;
    let policies = of.policies.iter();
    let rows = policies.map(|it| (it.recommended, plan::cells(it)));
    table(html, "hosts", &plan::HEADS, rows)?;
    writeln!(
        html,
        "<p class=\"quiet\">{}; {}.</p>",
        plan::BUDGET_CAPTION,
        plan::budget(of)
    )?;
    let is_best = |hosts| of.budget_hosts == Some(hosts);
    let budgets = of.budget.iter();
    let rows = budgets.map(|it| (is_best(it.placed.hosts), plan::budget_cells(it)));
    table(html, "budget", &plan::BUDGET_HEADS, rows)
}

/// A table, whose rows may be chosen.
fn table(
    html: &mut String,
    id: &str,
    heads: &[&str],
    rows: impl Iterator<Item = (bool, Vec<String>)>,
) -> Result<(), Error> {
    let of = |tag: &str, cells: &[&str]| -> String {
        let cells = cells.iter();
        cells.map(|it| format!("<{tag}>{it}</{tag}>")).collect()
    };
    let head = of("th", heads);
    write!(
        html,
        "<div class=\"scroll\"><table id=\"{id}\"><tr>{head}</tr>"
    )?;
    for (is_chosen, cells) in rows {
        let class = if is_chosen { " class=\"chosen\"" } else { "" };
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        write!(html, "\n<tr{class}>{}</tr>", of("td", &cells))?;
    }
    writeln!(html, "\n</table></div>")
}

/// The hosts of a fleet. A figure has its number, by which it is sorted.
fn by_host(html: &mut String, report: &Report, hosts: &[Service]) -> Result<(), Error> {
    let heads = [
        "Host",
        "Arrivals",
        "Off",
        "Starts",
        "Given back",
        "Best timeout",
        "Cold starts",
        "auto: cold starts",
    ];
    writeln!(
        html,
        "<h2>Hosts</h2>\n<div class=\"scroll\"><table id=\"by-host\"><thead><tr>{}</tr></thead><tbody>",
        heads.map(|head| format!("<th>{head}</th>")).concat()
    )?;
    for host in hosts {
        let measured = host.measured.as_ref();
        let off = measured.and_then(|it| it.off_ratio);
        let saved = measured.and_then(|it| it.memory_gib_hours_given_back);
        let best = host.recommended.as_ref();
        let best_timeout = best.map(|best| best.timeout_seconds);
        let learned = host.learned.as_ref();
        let plain = |number: Option<u64>| (number.map(|it| it as f64), count(number));
        let cells = [
            plain(host.arrivals),
            (
                off,
                off.map_or("-".into(), |off| format!("{:.1} %", 100.0 * off)),
            ),
            plain(measured.map(|it| it.activations)),
            (
                saved,
                measured.map_or("-".into(), |it| given_back(report, it)),
            ),
            (
                best_timeout,
                best_timeout.map_or("-".into(), |it| span_of(it).to_string()),
            ),
            plain(best.map(|best| best.cold_starts)),
            plain(learned.map(|learned| learned.cold_starts)),
        ];
        write!(html, "<tr><td>{}</td>", escaped(&host.name))?;
        for (number, text) in cells {
            match number {
                Some(number) => write!(html, "<td data-number=\"{number}\">{text}</td>")?,
                None => write!(html, "<td>{text}</td>")?,
            }
        }
        writeln!(html, "</tr>")?;
    }
    writeln!(html, "</tbody></table></div>")
}

/// A number, or that it is unknown.
fn count(count: Option<u64>) -> String {
    count.map_or("-".to_owned(), |count| count.to_string())
}
