//! What people want to know first, in one sentence.

use ondemand_core::words::counted;

use super::{
    model::{Measured, Report},
    text::span_of,
};

/// Formats it; empty if nothing is known.
pub fn of(report: &Report) -> String {
    let parts = match &report.total.measured {
        Some(measured) => measured_parts(report, measured),
        None => replayed_parts(report),
    };
    let mut text = parts.join("; ");
    if !text.is_empty() {
        text += ".";
    }
    text
}

fn measured_parts(report: &Report, measured: &Measured) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(off) = measured.off_ratio {
        parts.push(format!("Off {} of the time", percent(off)));
    }
    if let Some(less) = measured.memory_gib_less.filter(|less| *less > 0.0) {
        let worth = measured.money_given_back;
        let worth = worth.map_or(String::new(), |worth| {
            format!(", worth {}", report.money(worth))
        });
        parts.push(format!("{} less memory on average{worth}", gib(less)));
    }
    let waited = &measured.first_byte;
    if let Some(median) = waited.p50_seconds {
        let clients = counted(waited.count, "client");
        parts.push(format!(
            "{clients} waited for a start, {} at the median",
            span_of(median)
        ));
    } else if measured.activations > 0 {
        parts.push(counted(measured.activations, "start"));
    }
    let learned = report.total.learned.as_ref();
    let learned = learned.filter(|_| report.total.arrivals > Some(0) && !parts.is_empty());
    if let Some(learned) = learned {
        parts.push(format!(
            "with auto {} would have waited, and {} up and unused",
            counted(learned.cold_starts, "client"),
            span_of(learned.warm_idle_seconds)
        ));
    }
    let fewer = report
        .capacity
        .as_ref()
        .and_then(|capacity| capacity.hosts_fewer);
    if let Some(fewer) = fewer.filter(|fewer| *fewer > 0) {
        parts.push(format!(
            "{} fewer would carry at p99 what was up at the same time",
            counted(fewer as u64, "host")
        ));
    }
    parts
}

fn replayed_parts(report: &Report) -> Vec<String> {
    let total = &report.total;
    let waits = |cold_starts: u64| {
        format!(
            "{cold_starts} of {} would wait for a start",
            counted(total.arrivals.unwrap_or(0), "client")
        )
    };
    let mut parts = Vec::new();
    if let Some(best) = &total.recommended {
        parts.push(format!(
            "With {} for all, {}",
            span_of(best.timeout_seconds),
            waits(best.cold_starts)
        ));
    }
    if let Some(learned) = &total.learned {
        parts.push(format!(
            "{} auto, {}, at {} up and unused",
            if parts.is_empty() { "With" } else { "with" },
            waits(learned.cold_starts),
            span_of(learned.warm_idle_seconds)
        ));
    }
    if let Some(plan) = &report.plan {
        let learned = plan.policies.iter().find(|it| it.timeout_seconds.is_none());
        if let Some(needed) = learned.and_then(|it| it.hosts_at_p99) {
            parts.push(format!(
                "with auto {} of {} would carry at p99 what is up at the same time",
                needed,
                counted(plan.hosts.into(), "host")
            ));
        }
        if plan.budget_hosts.is_some() {
            parts.push(super::plan::text::budget(plan));
        }
    }
    parts
}

/// `81 %`, with a digit more where it tells something.
fn percent(ratio: f64) -> String {
    let percent = 100.0 * ratio;
    let plain = (1.0..=99.0).contains(&percent) || percent == 0.0 || percent == 100.0;
    if plain {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.2} %")
    }
}

/// `3.2 GiB`, `120 MiB`.
pub(super) fn gib(gib: f64) -> String {
    match gib {
        1.0.. => format!("{gib:.1} GiB"),
        0.01.. => format!("{:.0} MiB", gib * 1024.0),
        _ => format!("{:.1} MiB", gib * 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_as_long_as_they_tell_something() {
        let check = |found: String, expected: &str| assert_eq!(found, expected);
        check(percent(0.813), "81 %");
        check(percent(0.0), "0 %");
        check(percent(0.9987), "99.87 %");
        check(percent(0.001), "0.10 %");
        check(gib(3.24), "3.2 GiB");
        check(gib(0.5), "512 MiB");
        check(gib(0.001), "1.0 MiB");
    }
}
