//! A report from the history.

use std::path::Path;

use ondemand_core::runs::StopReason;

use super::{
    Terms,
    model::{Measured, Quantiles, Report, Service},
    ways::Counted,
};
use crate::observe::history::{Known, Loaded, Period, TIMELINE};

/// Byte-milliseconds in a GiB-hour.
const GIB_HOUR: f64 = (1_u64 << 30) as f64 * 3.6e6;

/// Computes the report.
pub fn report(path: &Path, period: Period, loaded: Vec<Loaded>, terms: &Terms) -> Report {
    let mut starts = (Vec::new(), Vec::new());
    let mut all = Measured::default();
    let (mut given_back, mut cpu) = (Known::default(), Known::default());
    let mut services = Vec::with_capacity(loaded.len());
    for mut one in loaded {
        starts.0.extend_from_slice(&one.cold_starts);
        starts.1.extend_from_slice(&one.first_bytes);
        given_back.merge(&one.given_back);
        cpu.merge(&one.cpu);
        let measured = measure(&mut one, terms);
        add(&mut all, &measured);
        let gaps = (&one.replay, &one.trial);
        let week = one.week.as_slice();
        let mut service = Service::new(
            &one.name,
            gaps,
            week,
            measured.active_seconds + measured.inactive_seconds,
            &terms.timeouts,
            terms.cold_start_cost,
        );
        service.measured = Some(measured);
        let part = period.until.saturating_sub(period.from).max(1) as f32 / TIMELINE as f32;
        service.timeline = one.timeline.iter().map(|up| *up as f32 / part).collect();
        services.push(service);
    }
    all.cold_start = Quantiles::of(&mut starts.0);
    all.first_byte = Quantiles::of(&mut starts.1);
    all.memory_gib_hours_given_back = gib_hours(&given_back);
    all.cpu_seconds = cpu_seconds(&cpu);
    let span = (period.from as f64 / 1e3, period.until as f64 / 1e3);
    all.conclude(span.1 - span.0, terms);
    let zone = jiff::tz::TimeZone::system();
    let zone = zone.iana_name().unwrap_or("local time").to_owned();
    Report::new("history", path, span, zone, services, Some(all), terms)
}

fn measure(one: &mut Loaded, terms: &Terms) -> Measured {
    let stops = StopReason::ALL.into_iter().zip(one.stops);
    let stops = stops.map(|(reason, count)| (reason.as_str(), count));
    let mut measured = Measured {
        activations: one.activations,
        active_seconds: one.active as f64 / 1e3,
        inactive_seconds: (one.watched - one.active).max(0) as f64 / 1e3,
        cold_start: Quantiles::of(&mut one.cold_starts),
        first_byte: Quantiles::of(&mut one.first_bytes),
        memory_gib_hours_given_back: gib_hours(&one.given_back),
        cpu_seconds: cpu_seconds(&one.cpu),
        connections: one.connections,
        received_bytes: one.received,
        sent_bytes: one.sent,
        proxied_connections: one.proxied.known(),
        ways: Counted(one.ways.known()),
        silent_connections: Some(one.silent),
        evictions_for_group: Some(one.evictions[0]),
        evictions_for_memory: Some(one.evictions[1]),
        room_waits: Some(one.waits.0),
        room_wait_seconds: Some(one.waits.1 as f64 / 1e3),
        thaws: Some(one.thaws.0),
        thaw_mean_seconds: (one.thaws.0 > 0).then(|| one.thaws.1 as f64 / 1e6 / one.thaws.0 as f64),
        thaw_max_seconds: (one.thaws.0 > 0).then(|| one.longest_thaw as f64 / 1e6),
        stops_by_reason: stops.filter(|(_, count)| *count > 0).collect(),
        ..Measured::default()
    };
    let watched = measured.active_seconds + measured.inactive_seconds;
    measured.conclude(watched, terms);
    measured
}

impl Measured {
    /// Computes what follows from the others, in this number of seconds.
    pub(super) fn conclude(&mut self, seconds: f64, terms: &Terms) {
        let watched = self.active_seconds + self.inactive_seconds;
        let given_back = self.memory_gib_hours_given_back;
        let hours = seconds / 3600.0;
        self.off_ratio = (watched > 0.0).then(|| self.inactive_seconds / watched);
        self.memory_gib_less = given_back.filter(|_| hours > 0.0).map(|sum| sum / hours);
        self.money_given_back = given_back
            .zip(terms.price_per_gib_hour)
            .map(|(sum, price)| sum * price);
        let joules = self
            .cpu_seconds
            .zip(terms.watts_per_cpu)
            .map(|(time, watts)| time * watts);
        self.cpu_kwh = joules.map(|joules| joules / 3.6e6);
    }
}

fn gib_hours(given_back: &Known<u128>) -> Option<f64> {
    given_back.known().map(|sum| sum as f64 / GIB_HOUR)
}

fn cpu_seconds(cpu: &Known<u64>) -> Option<f64> {
    cpu.known().map(|micros| micros as f64 / 1e6)
}

fn add(all: &mut Measured, one: &Measured) {
    all.activations += one.activations;
    all.active_seconds += one.active_seconds;
    all.inactive_seconds += one.inactive_seconds;
    all.connections = all.connections.saturating_add(one.connections);
    all.received_bytes = all.received_bytes.saturating_add(one.received_bytes);
    all.sent_bytes = all.sent_bytes.saturating_add(one.sent_bytes);
    all.ways.add(one.ways);
    let thawing = |of: &Measured| {
        of.thaw_mean_seconds
            .zip(of.thaws)
            .map(|(mean, count)| mean * count as f64)
    };
    let thawing = either(thawing(all), thawing(one), |all, one| all + one);
    for (all, one) in [
        (&mut all.proxied_connections, one.proxied_connections),
        (&mut all.silent_connections, one.silent_connections),
        (&mut all.evictions_for_group, one.evictions_for_group),
        (&mut all.evictions_for_memory, one.evictions_for_memory),
        (&mut all.room_waits, one.room_waits),
        (&mut all.thaws, one.thaws),
    ] {
        *all = either(*all, one, u64::saturating_add);
    }
    all.room_wait_seconds = either(all.room_wait_seconds, one.room_wait_seconds, |all, one| {
        all + one
    });
    all.thaw_max_seconds = either(all.thaw_max_seconds, one.thaw_max_seconds, f64::max);
    let thaws = all.thaws.filter(|thaws| *thaws > 0);
    all.thaw_mean_seconds = thawing.zip(thaws).map(|(sum, thaws)| sum / thaws as f64);
    for (reason, count) in &one.stops_by_reason {
        *all.stops_by_reason.entry(reason).or_default() += count;
    }
}

/// Of two that may be unknown.
fn either<T>(one: Option<T>, other: Option<T>, both: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(both(one, other)),
        (one, None) | (None, one) => one,
    }
}
