//! `ondemand report`: the measurements, and the effect of other idle timeouts.

mod budgets;
mod data;
pub mod drawing;
mod evidence;
mod fleet;
mod headline;
mod learned;
mod measured;
mod model;
mod page;
mod plan;
mod text;
pub mod trace;
mod ways;

use std::{
    fmt,
    io::{BufWriter, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use model::{Report, Service};
use ondemand_core::{
    config::MemoryBudget,
    learned::{SHORTEST, Terms as Learning},
    replay::{MOST_TIMEOUTS, Timeouts},
    words::{Span, printable},
};

use trace::Source;

use crate::{
    commands::args,
    host::{config_file, identity},
    observe::history::{self, Loaded, arrivals},
};

/// A request that cannot be answered. The program exits with 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage(String);

impl std::error::Error for Usage {}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A trace with times below this counts from its own start and not from 1970. Seconds.
const A_YEAR: f64 = 365.0 * 86_400.0;

/// The parameters of a report.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The timeouts to compare.
    pub timeouts: Timeouts,
    /// The warm-idle time that is as bad as one cold start. Microseconds.
    pub cold_start_cost: u64,
    /// What a learned timeout rests on besides the gaps.
    pub learning: Learning,
    /// The price of memory, in any currency.
    pub price_per_gib_hour: Option<f64>,
    /// Its currency.
    pub currency: Option<String>,
    /// What a CPU that is used takes, in watts.
    pub watts_per_cpu: Option<f64>,
}

/// Computes the report and prints it, or writes it as a page.
///
/// # Errors
///
/// Its input cannot be read, or the request cannot be answered ([`Usage`]).
pub fn run(config: &Path, options: &args::Report) -> Result<()> {
    let terms = terms(options)?;
    let report = match (&options.trace, &options.prometheus) {
        (Some(path), _) => from_trace(path, options, &terms)?,
        (None, Some(url)) => fleet::report(url, options, &terms)?,
        (None, None) => from_history(config, options, &terms)?,
    };
    match &options.html {
        Some(path) => write_page(&report, path),
        None if options.page_data => {
            print_text(&data::lines(&report, |at| page::moment(&report, at)))
        }
        None => print(&report, options.json),
    }
}

fn write_page(report: &Report, path: &Path) -> Result<()> {
    let page = page::write(report)?;
    if path == Path::new("-") {
        return print_text(&page);
    }
    std::fs::write(path, page).with_context(|| format!("write {}", path.display()))?;
    eprintln!("ondemand: wrote {}; open it in a browser", path.display());
    Ok(())
}

fn terms(options: &args::Report) -> Result<Terms> {
    let timeouts = match options.timeouts.as_slice() {
        [] => Timeouts::default(),
        spans => Timeouts::new(spans).ok_or_else(|| {
            let count = spans.len();
            Usage(format!(
                "--timeouts: {count} timeouts; the maximum is {MOST_TIMEOUTS}"
            ))
        })?,
    };
    // The agent's own bounds. With a trace it may do what the fixed timeouts may that it is compared with.
    let shortest = match options.trace {
        Some(_) => Duration::from_secs(1),
        None => SHORTEST,
    };
    let shortest = options.idle_timeout_min.unwrap_or(shortest);
    let longest = options.idle_timeout_max.unwrap_or(Duration::MAX);
    if longest < shortest {
        let text = format!(
            "--idle-timeout-max: {} is less than the shortest, {}: no timeout is between them",
            Span(longest),
            Span(shortest)
        );
        return Err(Usage(text).into());
    }
    Ok(Terms {
        timeouts,
        learning: Learning::new(options.cold_start_cost, shortest, longest),
        cold_start_cost: micros(options.cold_start_cost),
        price_per_gib_hour: options.price_per_gib_hour,
        currency: options.currency.clone(),
        watts_per_cpu: options.watts_per_cpu,
    })
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn from_trace(path: &Path, options: &args::Report, terms: &Terms) -> Result<Report> {
    let mut source = Source::open(path)?;
    if options.hosts.is_some() {
        source = source.twice()?;
    }
    let trace = source.replay(&terms.timeouts, terms.learning)?;
    let known = trace.services.iter().map(|service| service.name.as_str());
    select(&options.services, known, &path.display().to_string())?;
    let services = trace
        .services
        .into_iter()
        .filter(|service| options.services.is_empty() || options.services.contains(&service.name));
    let cost = terms.cold_start_cost;
    let span = (trace.span.0 as f64 / 1e6, trace.span.1 as f64 / 1e6);
    let watched = span.1 - span.0;
    let services = services.map(|service| {
        let gaps = (&service.replay, &service.trial);
        let week = service.week.as_slice();
        Service::new(&service.name, gaps, week, watched, &terms.timeouts, cost)
    });
    let services = services.collect();
    let zone = match span.0 < A_YEAR {
        true => "trace",
        false => "UTC",
    };
    let mut report = Report::new("trace", path, span, zone.into(), services, None, terms);
    if let Some((hosts, memory)) = options.hosts.zip(options.memory_per_host) {
        let fleet = plan::Fleet {
            hosts,
            memory,
            memory_of_each: options.memory,
            start_of_each: micros(options.start_duration),
        };
        report.plan = Some(plan::of(&mut source, &fleet, &report, terms)?);
        report.headline = headline::of(&report);
    }
    Ok(report)
}

fn from_history(config: &Path, options: &args::Report, terms: &Terms) -> Result<Report> {
    let (path, budget) = match &options.history {
        Some(path) => (path.clone(), None),
        None => {
            let agent = config_file::load(config)?.agent;
            let path = agent.history.ok_or_else(|| {
                Usage(format!(
                    "{} turns the history off (agent.history); use --history FILE, or --trace FILE for \
                     a trace",
                    config.display()
                ))
            })?;
            (path, agent.memory_budget)
        }
    };
    let budget = options.memory_budget.map(MemoryBudget::Bytes).or(budget);
    if terms.timeouts.micros()[0] < 1_000_000 {
        let text = "--timeouts: the history has no gaps shorter than one second; start with 1s";
        return Err(Usage(text.into()).into());
    }
    let now = history::Moment::now();
    let until = options.until.unwrap_or(now.wall).min(now.wall);
    let before = |span: Duration| until - i64::try_from(span.as_millis()).unwrap_or(until);
    let since = options.since.or(options.last.map(before));
    if since.is_some_and(|since| since >= until) {
        let text = "the period is empty: it must start before its end, and before now";
        return Err(Usage(text.into()).into());
    }
    // The agent's user can write there.
    let read = || history::read(&path, since, until, (&terms.timeouts, terms.learning), &now);
    let (period, loaded) = identity::as_owner(&path, read)
        .with_context(|| format!("read {} as its owner", path.display()))??;
    let known = loaded.iter().map(|service| service.name.as_str());
    select(&options.services, known, &path.display().to_string())?;
    let wanted =
        |service: &Loaded| options.services.is_empty() || options.services.contains(&service.name);
    let loaded: Vec<Loaded> = loaded.into_iter().filter(wanted).collect();
    let budgets = match budget {
        None => None,
        Some(budget) => {
            let (names, sizes) = budgets::sizes(&loaded);
            let read = || arrivals::read(&path, since, until, &names, &now);
            let uses = identity::as_owner(&path, read)
                .with_context(|| format!("read {} as its owner", path.display()))??;
            Some(budgets::of(budget, loaded.len(), &sizes, &uses))
        }
    };
    let mut report = measured::report(&path, period, loaded, terms);
    report.budgets = budgets;
    Ok(report)
}

/// Checks that all the `wanted` services are known.
fn select<'a>(
    wanted: &[String],
    known: impl Iterator<Item = &'a str>,
    source: &str,
) -> Result<(), Usage> {
    if wanted.is_empty() {
        return Ok(());
    }
    let known: Vec<&str> = known.collect();
    for name in wanted {
        if !known.contains(&name.as_str()) {
            let mut there = known[..known.len().min(10)].join(", ");
            if known.len() > 10 {
                there += ", ...";
            }
            return Err(Usage(format!(
                "{source} has no service {name:?}; it has: {there}"
            )));
        }
    }
    Ok(())
}

fn print(report: &Report, json: bool) -> Result<()> {
    if !json {
        let text = text::write(report).context("write the report")?;
        return print_text(&printable(&text));
    }
    let mut output = BufWriter::new(std::io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut output, report)
        .map_err(std::io::Error::from)
        .and_then(|()| writeln!(output))
        .and_then(|()| output.flush());
    printed(written)
}

fn print_text(text: &str) -> Result<()> {
    printed(std::io::stdout().lock().write_all(text.as_bytes()))
}

fn printed(result: std::io::Result<()>) -> Result<()> {
    match result {
        // The reader has closed the pipe, as in `ondemand report | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("print the report"),
    }
}
