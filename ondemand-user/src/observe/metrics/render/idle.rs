//! How long services are unused, and their idle timeouts.

use ondemand_core::learned::Kind;

use super::super::{exposition::Exposition, observation::Row};

pub(super) fn write(text: &mut Exposition, rows: &[Row]) {
    text.gauge(
        "ondemand_idle_seconds",
        "seconds",
        "Time since the last use of the service. 0 while a connection is open, absent while it is down.",
    )
    .each(rows, |row, _| row.idle.map(|idle| idle.as_secs_f64()));
    text.gauge(
        "ondemand_unused_seconds",
        "seconds",
        "Time since the last use of the service, whether it is up or down. 0 while it is used.",
    )
    .each(rows, |row, _| row.unused.map(|unused| unused.as_secs_f64()));
    text.gauge(
        "ondemand_idle_timeout_seconds",
        "seconds",
        "Time without use after which the service is stopped. Infinite: never.",
    )
    .each(rows, |row, _| {
        Some(
            row.idle_timeout
                .map_or(f64::INFINITY, |timeout| timeout.as_secs_f64()),
        )
    });
    text.gauge(
        "ondemand_learned_idle_timeout_seconds",
        "seconds",
        "Idle timeout that was learned from the service's own gaps, whether it is in force or not.",
    )
    .each(rows, |row, _| Some(row.learned.0.as_secs_f64()));
    text.counter(
        "ondemand_learned_idle_timeout_reasons",
        "",
        "Gaps between clients, by what the learned idle timeout rested on: few-gaps, lost (too much, so it was the fixed one), all-gaps, like-the-last (gaps after one like the last).",
    )
    .by(rows, "reason", |row, _| {
        let mut counts = row.learned.1.reasons.into_iter();
        Some(Kind::ALL.map(|kind| (kind.as_str(), counts.next().unwrap_or(0))))
    });
    text.counter(
        "ondemand_gap_cost_seconds",
        "seconds",
        "Cost of the gaps between clients, time up and idle and cold starts at what they cost, by idle timeout: fixed (the configured one; with auto, that of a cold start's cost), learned.",
    )
    .by(rows, "timeout", |row, _| {
        let tally = &row.learned.1;
        Some([("fixed", tally.fixed_cost), ("learned", tally.learned_cost)])
    });
    text.counter(
        "ondemand_prewarms",
        "",
        "Starts ahead of a client that was expected (prewarm): used (it came), wasted (it did not).",
    )
    .by(rows, "result", |row, _| {
        let [used, wasted] = row.prewarms;
        Some([("used", used), ("wasted", wasted)])
    });
}
