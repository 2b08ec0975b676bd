//! A report as a self-contained page: no script, no font, no network.

use std::fmt::{Error, Write as _};

use anyhow::{Context as _, Result};
use ondemand_core::words::{Bytes, counted};

use super::{
    model::{Report, Service, seconds},
    plots,
    text::{cpu, given_back, period, quantiles, span_of, stops, why_none, zone},
};

/// Maximum number of services in the table: those with most arrivals.
const MOST_ROWS: usize = 200;

/// Formats the page.
///
/// # Errors
///
/// A plot cannot be drawn.
pub fn write(report: &Report) -> Result<String> {
    let figures = figures(report)?;
    page(report, &figures).context("write the page")
}

struct Figure {
    id: &'static str,
    title: &'static str,
    caption: String,
    svg: String,
}

fn figures(report: &Report) -> Result<Vec<Figure>> {
    let total = &report.total;
    let mut figures = vec![
        Figure {
            id: "gaps",
            title: "Gaps between uses",
            caption: format!(
                "{} between two uses, by length",
                counted(total.gaps.iter().map(|gaps| gaps.count).sum(), "gap")
            ),
            svg: plots::gaps(total)?,
        },
        Figure {
            id: "what-if",
            title: "Other idle timeouts",
            caption: format!(
                "<span class=\"first\">Cold starts</span> (left) and <span class=\"second\">{} up \
                 and idle</span> (right) with each idle timeout; the line is the recommended one",
                plots::what_if_unit(total).0
            ),
            svg: plots::what_if(total)?,
        },
    ];
    if total.measured.is_some() {
        let rows = plots::timeline_rows(report).len();
        let left_out = report.services.len() - rows;
        let mut caption = "When each service was up: a stronger colour means longer".to_owned();
        if left_out > 0 {
            caption += &format!("; {left_out} more with fewer arrivals are not shown");
        }
        figures.push(Figure {
            id: "states",
            title: "States",
            caption,
            svg: plots::timeline(report, |at| moment(report, at))?,
        });
    }
    figures.push(Figure {
        id: "week",
        title: "The week",
        caption: format!("Arrivals by hour and weekday ({})", escaped(zone(report))),
        svg: plots::heat_map(total)?,
    });
    Ok(figures)
}

/// Formats a moment on an axis, as short as the period allows.
fn moment(report: &Report, at: f64) -> String {
    let format = match report.seconds {
        ..172_800.0 => "%H:%M",
        ..31_536_000.0 => "%b %-d",
        _ => "%Y-%m-%d",
    };
    let at = jiff::Timestamp::from_second(at as i64).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system())
        .strftime(format)
        .to_string()
}

fn page(report: &Report, figures: &[Figure]) -> Result<String, Error> {
    let mut html = String::new();
    let style = include_str!("page.css");
    writeln!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>ondemand report</title>\n<style>\n{style}</style></head>\n<body>"
    )?;
    writeln!(html, "<h1>ondemand report</h1>")?;
    let services = counted(report.services.len() as u64, "service");
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
    writeln!(html, "<div class=\"plots\">")?;
    for figure in figures {
        writeln!(
            html,
            "<figure id=\"{}\"><h2>{}</h2>{}<figcaption>{}</figcaption></figure>",
            figure.id, figure.title, figure.svg, figure.caption
        )?;
    }
    writeln!(html, "</div>")?;
    what_if(&mut html, report)?;
    services_table(&mut html, report)?;
    writeln!(html, "</body></html>")?;
    Ok(html)
}

fn tiles(html: &mut String, report: &Report) -> Result<(), Error> {
    let total = &report.total;
    let mut tiles = vec![("arrivals", total.arrivals.to_string())];
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
            ("first byte", quantiles(&measured.first_byte)),
            ("memory given back", given_back(report, measured)),
            ("CPU used", cpu(measured)),
            (
                "traffic",
                format!(
                    "{}, {} in, {} out",
                    counted(measured.connections, "connection"),
                    Bytes(measured.received_bytes),
                    Bytes(measured.sent_bytes)
                ),
            ),
        ]);
    }
    let hours = total.busiest_hours.iter().take(3);
    let hours: Vec<String> = hours
        .map(|hour| format!("{} {:02}h", hour.weekday, hour.hour))
        .collect();
    tiles.push(("busiest hours", hours.join(", ")));
    writeln!(html, "<div class=\"tiles\">")?;
    for (what, figure) in tiles {
        writeln!(html, "<div><span>{what}</span><b>{figure}</b></div>")?;
    }
    writeln!(html, "</div>")
}

fn what_if(html: &mut String, report: &Report) -> Result<(), Error> {
    let total = &report.total;
    writeln!(
        html,
        "<h2>The same idle timeout for all</h2><p class=\"quiet\">A cold start is as bad \
         as {} up and idle.</p><div class=\"scroll\"><table id=\"what-if-table\"><tr><th>Idle \
         timeout</th><th>Cold starts</th><th>Up and idle</th><th>Cost</th></tr>",
        span_of(report.cold_start_cost_seconds)
    )?;
    let best = total.recommended.as_ref().map(|best| best.timeout_seconds);
    for outcome in &total.what_if.outcomes {
        let timeout = seconds(outcome.timeout.into());
        let class = if best == Some(timeout) {
            " class=\"chosen\""
        } else {
            ""
        };
        writeln!(
            html,
            "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            span_of(timeout),
            outcome.cold_starts,
            span_of(seconds(outcome.warm_idle)),
            span_of(seconds(outcome.cost(total.what_if.cold_start_cost)))
        )?;
    }
    writeln!(html, "</table></div>")
}

fn services_table(html: &mut String, report: &Report) -> Result<(), Error> {
    let mut rows: Vec<&Service> = report.services.iter().collect();
    rows.sort_by_key(|service| std::cmp::Reverse(service.arrivals));
    let left_out = rows.len().saturating_sub(MOST_ROWS);
    rows.truncate(MOST_ROWS);
    let measured = report.total.measured.is_some();
    let more = match measured {
        true => {
            "<th>Active</th><th>Inactive</th><th>Starts</th><th>Cold start p95</th><th>Memory \
             given back</th><th>CPU</th>"
        }
        false => "",
    };
    writeln!(
        html,
        "<h2>Services</h2><div class=\"scroll\"><table id=\"services\"><tr><th>Service</th>\
         <th>Arrivals</th>{more}<th>Best timeout</th><th>Its cold starts</th><th>Its time up \
         and idle</th></tr>"
    )?;
    for row in rows {
        write!(
            html,
            "<tr><td>{}</td><td>{}</td>",
            escaped(&row.name),
            row.arrivals
        )?;
        if let Some(measured) = &row.measured {
            let p95 = measured.cold_start.p95_seconds;
            write!(
                html,
                "<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                span_of(measured.active_seconds),
                span_of(measured.inactive_seconds),
                measured.activations,
                p95.map_or("-".into(), |p95| span_of(p95).to_string()),
                match measured.memory_gib_hours_given_back {
                    Some(_) => given_back(report, measured),
                    None => "-".to_owned(),
                },
                measured
                    .cpu_seconds
                    .map_or("-".to_owned(), |cpu| span_of(cpu).to_string())
            )?;
        }
        match &row.recommended {
            Some(best) => writeln!(
                html,
                "<td title=\"{}\">{}</td><td>{}</td><td>{}</td></tr>",
                escaped(&best.reason),
                span_of(best.timeout_seconds),
                best.cold_starts,
                span_of(best.warm_idle_seconds)
            )?,
            None => writeln!(html, "<td>-</td><td>-</td><td>-</td></tr>")?,
        }
    }
    writeln!(html, "</table></div>")?;
    if left_out > 0 {
        writeln!(
            html,
            "<p class=\"quiet\">{left_out} more with fewer arrivals.</p>"
        )?;
    }
    Ok(())
}

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}
