//! Starts, stops, and what runs took.

use ondemand_core::{lifecycle::note::VetoReason, runs::StopReason};

use super::super::{
    exposition::{Exposition, Kind},
    observation::Row,
};

pub(super) fn write(text: &mut Exposition, rows: &[Row]) {
    text.counter(
        "ondemand_starts",
        "",
        "Starts of the service, whatever caused them.",
    )
    .each(rows, |_, ledger| Some(ledger.starts));
    let mut durations = text.family(
        Kind::Histogram,
        "ondemand_start_duration_seconds",
        "seconds",
        "Time from the begin of a start until the service was up and listened.",
    );
    for (row, ledger) in rows {
        let of = &ledger.start_durations;
        durations.histogram(
            &[("service", &row.service)],
            of.sum(),
            of.count(),
            &of.buckets(),
        );
    }
    text.counter(
        "ondemand_stops",
        "",
        "Ends of the service: idle (stopped because unused), requested (by `ondemand stop`), external (stopped otherwise, or exited), failed.",
    )
    .by(rows, "reason", |_, ledger| {
        let count = |reason: &str| ledger.stops.get(reason).copied().unwrap_or(0);
        Some(StopReason::SEEN.map(|reason| (reason.as_str(), count(reason.as_str()))))
    });
    text.counter(
        "ondemand_stop_vetoes",
        "",
        "Stops that were started and not completed, by reason.",
    )
    .by(rows, "reason", |_, ledger| {
        let count = |reason: &str| ledger.vetoes.get(reason).copied().unwrap_or(0);
        Some(VetoReason::ALL.map(|reason| (reason.as_str(), count(reason.as_str()))))
    });
    text.counter(
        "ondemand_active_seconds",
        "seconds",
        "Time for which the service ran, from the begin of its starts to the end of its stops.",
    )
    .each(rows, |row, ledger| row.state.map(|_| ledger.times.active()));
    text.counter(
        "ondemand_inactive_seconds",
        "seconds",
        "Time for which the service did not run.",
    )
    .each(rows, |row, ledger| {
        row.state.map(|_| ledger.times.inactive())
    });
    text.counter(
        "ondemand_saved_memory_byte_seconds",
        "byte_seconds",
        "Last measured memory of the service, times the time for which it was stopped (except after failures).",
    )
    .each(rows, |row, ledger| row.state.and_then(|_| ledger.times.saved_byte_seconds()));
    text.counter(
        "ondemand_used_memory_byte_seconds",
        "byte_seconds",
        "Last measured memory of the service, times the time for which it ran.",
    )
    .each(rows, |row, ledger| {
        row.state.and_then(|_| ledger.times.used_byte_seconds())
    });
    text.gauge(
        "ondemand_memory_bytes",
        "bytes",
        "Memory of the service while it runs, as it was last measured, whether it is up or down.",
    )
    .each(rows, |_, ledger| ledger.times.memory());
    text.counter(
        "ondemand_cpu_seconds",
        "seconds",
        "CPU time of the service, as it was last measured.",
    )
    .each(rows, |_, ledger| ledger.cpu.seconds());
    text.counter(
        "ondemand_count_drift",
        "",
        "Number of differences between the kernel's counters and its tables of sockets.",
    )
    .each(rows, |_, ledger| Some(ledger.drift));
    text.counter(
        "ondemand_proxy_failures",
        "",
        "Ends of the proxy after which systemd starts it again: it cannot run, or it crashed.",
    )
    .each(rows, |_, ledger| Some(ledger.proxy_failures));
    text.counter(
        "ondemand_restarts",
        "",
        "Restarts of the service by systemd itself (Restart=), which are no use of it.",
    )
    .each(rows, |_, ledger| Some(ledger.restarts));
}
