//! Formats the metrics.

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use nix::sys::sysinfo::sysinfo;
use ondemand_core::{
    caught::{DatagramTally, Loss, Tally},
    config::WhatIfBy,
    learned::{self, Kind},
    lifecycle::note::VetoReason,
    measure::{sample::Sample, unit::ActiveState},
    room,
    runs::StopReason,
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    histogram::Histogram,
    kept::Kept,
    ledger::Ledger,
    uses::Uses,
    waits::{Waits, Way},
    whatif,
};

/// The agent's present state of a service. `None`: unknown, which gives no sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The name in the configuration.
    pub service: String,
    /// The state of the application's unit.
    pub state: Option<ActiveState>,
    /// The kernel's counters.
    pub sample: Option<Sample>,
    /// Open connections.
    pub open: Option<u64>,
    /// How long it has been unused; only while it is up.
    pub idle: Option<Duration>,
    /// How long it has been unused, whether it is up or down.
    pub unused: Option<Duration>,
    /// What keeps it up. `None`: it is down, or that is unknown.
    pub kept: Option<Kept>,
    /// Its idle timeout; `None`: infinite.
    pub idle_timeout: Option<Duration>,
    /// What was learned of it: an idle timeout, and what that would have meant.
    pub learned: (Duration, learned::Tally),
    /// Whether its application is ready. `None`: it is down, or that is not asked.
    pub ready: Option<bool>,
    /// Its clients that were held.
    pub held: Tally,
    /// Whether it may be frozen, whether it is, and how often it was.
    pub frozen: (bool, bool, u64),
    /// What has become of its room. `None`: it needs none.
    pub room: Option<room::Tally>,
    /// Starts ahead of a client that came, and of one that did not.
    pub prewarms: [u64; 2],
    /// Its datagrams that were held. `None`: it receives none.
    pub datagrams: Option<DatagramTally>,
}

/// What is in force of the configuration's file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Configuration {
    /// Whether the last reading of the file succeeded.
    pub last_reload_successful: bool,
    /// When what is in force was read, in seconds since 1970.
    pub last_reload_success: Option<f64>,
}

/// The agent's present state.
#[derive(Clone, Debug, PartialEq)]
pub struct Observations {
    /// Its configuration.
    pub configuration: Configuration,
    /// All services.
    pub services: Vec<Observation>,
}

/// A service and its counters.
pub type Row = (Observation, Ledger);

const STATES: [ActiveState; 5] = [
    ActiveState::Inactive,
    ActiveState::Activating,
    ActiveState::Active,
    ActiveState::Deactivating,
    ActiveState::Failed,
];

/// Formats all metrics as OpenMetrics text.
///
/// # Errors
///
/// None occurs: writing to a string cannot fail.
pub fn open_metrics(
    rows: Vec<Row>,
    configuration: Configuration,
    by: WhatIfBy,
    uses: &Uses,
) -> Result<String, fmt::Error> {
    let a_service = if by == WhatIfBy::Service { 8192 } else { 4096 };
    let mut text = String::with_capacity(8192 + rows.len() * a_service);
    let mut more = String::new();
    whatif::add(&mut more, by, &rows, uses)?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(All {
        rows,
        configuration,
        waits: *uses.waits(),
    }));
    encode_registry(&mut text, &registry)?;
    text.push_str(&more);
    encode_eof(&mut text)?;
    Ok(text)
}

/// Converts to the text format before OpenMetrics (version 0.0.4), which promtool and older
/// collectors read: there the name of a counter ends in `_total` in its descriptor too, and `info`
/// is not a type. Units stay as comments.
pub fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let lines: Vec<&str> = open_metrics.lines().collect();
    let mut suffix = "";
    for (index, line) in lines.iter().enumerate() {
        let mut words = line.splitn(4, ' ');
        let (Some("#"), Some(keyword), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        if keyword == "HELP" {
            // The next line has the type.
            let kind = lines.get(index + 1).and_then(|line| line.split(' ').nth(3));
            suffix = match kind {
                Some("counter") => "_total",
                Some("info") => "_info",
                _ => "",
            };
        }
        let rest = if rest == "info" { "gauge" } else { rest };
        text.push_str(&format!("# {keyword} {name}{suffix} {rest}\n"));
    }
    text
}

#[derive(Debug)]
struct All {
    rows: Vec<Row>,
    configuration: Configuration,
    waits: Waits,
}

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let connections = Unit::Other("connections".into());
        let byte_seconds = Unit::Other("byte_seconds".into());
        let (bytes, seconds) = (Unit::Bytes, Unit::Seconds);
        let mut all = Families {
            encoder: &mut encoder,
            rows: &self.rows,
        };

        all.gauge(
            "ondemand_open",
            Some(&connections),
            "Open connections of clients.",
        )?
        .gauges(|row| row.open)?;
        all.counter(
            "ondemand_accepted",
            Some(&connections),
            "Accepted connections of clients.",
        )?
        .counters(|row, _| row.sample.map(|sample| sample.accepted()))?;
        all.counter(
            "ondemand_ignored",
            Some(&connections),
            "Connections of clients that do not keep the service up (ignore_from).",
        )?
        .counters(|row, _| row.sample.map(|sample| sample.ignored.accepted))?;
        all.counter(
            "ondemand_held_clients",
            None,
            "Clients that were held while the service was down, by where they were sent: application, front, none (they gave up before).",
        )?
        .ways()?;
        all.counter(
            "ondemand_held",
            Some(&seconds),
            "Time for which those of them were held that were sent on, in sum.",
        )?
        .counters(|row, _| Some(row.held.held.as_secs_f64()))?;
        all.counter(
            "ondemand_datagrams",
            None,
            "Datagrams of clients, as far as the kernel can tell: several that arrive as one packet are one, and those of connected sockets are not seen.",
        )?
        .counters(|row, _| row.datagrams.and(row.sample).map(|sample| sample.datagrams))?;
        all.counter(
            "ondemand_held_datagrams",
            None,
            "Datagrams that were held while the service was down or stopped, and were sent to the application.",
        )?
        .counters(|row, _| row.datagrams.map(|datagrams| datagrams.sent))?;
        all.counter(
            "ondemand_lost_datagrams",
            None,
            "Datagrams that were held, and were not sent, by reason: no-room, late (too long a start), refused (by the kernel).",
        )?
        .losses()?;
        all.counter(
            "ondemand_refused_datagrams",
            None,
            "Datagrams that were refused, because the service was down and their senders may not start it (wake_from, public addresses).",
        )?
        .counters(|row, _| row.datagrams.and(row.sample).map(|sample| sample.refused_datagrams))?;
        all.counter(
            "ondemand_refused",
            Some(&connections),
            "Refused attempts to connect of clients that may not start the service, while it was down (wake_from).",
        )?
        .counters(|row, _| row.sample.map(|sample| sample.refused))?;
        all.counter(
            "ondemand_received",
            Some(&bytes),
            "Payload that clients sent over TCP.",
        )?
        .counters(|row, _| row.sample.map(|sample| sample.received_bytes()))?;
        all.counter(
            "ondemand_sent",
            Some(&bytes),
            "Payload that clients acknowledged over TCP.",
        )?
        .counters(|row, _| row.sample.map(|sample| sample.sent_bytes()))?;
        all.gauge(
            "ondemand_idle",
            Some(&seconds),
            "Time since the last use of the service. 0 while a connection is open, absent while it is down.",
        )?
        .gauges(|row| row.idle.map(|idle| idle.as_secs_f64()))?;
        all.gauge(
            "ondemand_unused",
            Some(&seconds),
            "Time since the last use of the service, whether it is up or down. 0 while it is used.",
        )?
        .gauges(|row| row.unused.map(|unused| unused.as_secs_f64()))?;
        all.gauge(
            "ondemand_idle_timeout",
            Some(&seconds),
            "Time without use after which the service is stopped. Infinite: never.",
        )?
        .gauges(|row| {
            Some(
                row.idle_timeout
                    .map_or(f64::INFINITY, |timeout| timeout.as_secs_f64()),
            )
        })?;
        all.gauge(
            "ondemand_learned_idle_timeout",
            Some(&seconds),
            "Idle timeout that was learned from the service's own gaps, whether it is in force or not.",
        )?
        .gauges(|row| Some(row.learned.0.as_secs_f64()))?;
        all.counter(
            "ondemand_learned_idle_timeout_reasons",
            None,
            "Gaps between clients, by what the learned idle timeout rested on: few-gaps, lost (too much, so it was the fixed one), all-gaps, like-the-last (gaps after one like the last).",
        )?
        .kinds()?;
        all.counter(
            "ondemand_gap_cost",
            Some(&seconds),
            "Cost of the gaps between clients, time up and idle and cold starts at what they cost, by idle timeout: fixed (the configured one; with auto, that of a cold start's cost), learned.",
        )?
        .costs()?;
        all.counter(
            "ondemand_prewarms",
            None,
            "Starts ahead of a client that was expected (prewarm): used (it came), wasted (it did not).",
        )?
        .prewarms()?;
        all.gauge(
            "ondemand_state",
            None,
            "1 for the state of the service's unit, 0 for the others. Inactive means dormant, not faulty.",
        )?
        .states()?;
        all.gauge(
            "ondemand_kept_up",
            None,
            "1 for what keeps the running service up, 0 for the others: clients, timeout (unused, but not yet for its idle timeout), never (it has none), held, needed (by another service), idle (it is being stopped, or that is vetoed), unmanaged, unknown. Absent while it is down.",
        )?
        .kept()?;
        all.gauge(
            "ondemand_frozen",
            None,
            "1 if the running application is frozen (freeze_after), 0 if not. Absent where it never is.",
        )?
        .gauges(|row| row.frozen.0.then_some(u32::from(row.frozen.1)))?;
        all.counter(
            "ondemand_freezes",
            None,
            "How often the application was frozen (freeze_after).",
        )?
        .counters(|row, _| row.frozen.0.then_some(row.frozen.2))?;
        all.counter(
            "ondemand_evictions",
            None,
            "Stops of the idle service to make room: for group (a client of another service of its group waited), for memory (memory_budget).",
        )?
        .evictions()?;
        all.counter(
            "ondemand_room_waits",
            None,
            "How often the service waited for room in its group, until there was some.",
        )?
        .counters(|row, _| Some(row.room?.waits))?;
        all.counter(
            "ondemand_room_wait",
            Some(&seconds),
            "How long the service waited for room in its group.",
        )?
        .counters(|row, _| Some(row.room?.waited.as_secs_f64()))?;
        all.gauge(
            "ondemand_ready",
            None,
            "1 if the running application has said that it is ready, 0 if not yet (ready). Absent while it is down.",
        )?
        .gauges(|row| row.ready.map(u32::from))?;
        all.counter(
            "ondemand_starts",
            None,
            "Starts of the service, whatever caused them.",
        )?
        .counters(|_, ledger| Some(ledger.starts))?;
        all.family(
            "ondemand_start_duration",
            Some(&seconds),
            "Time from the begin of a start until the service was up and listened.",
            MetricType::Histogram,
        )?
        .histograms(|ledger| &ledger.start_durations)?;
        all.counter(
            "ondemand_stops",
            None,
            "Ends of the service: idle (stopped because unused), requested (by `ondemand stop`), external (stopped otherwise, or exited), failed.",
        )?
        .reasons(StopReason::SEEN.map(StopReason::as_str), |ledger| &ledger.stops)?;
        all.counter(
            "ondemand_stop_vetoes",
            None,
            "Stops that were started and not completed, by reason.",
        )?
        .reasons(VetoReason::ALL.map(VetoReason::as_str), |ledger| {
            &ledger.vetoes
        })?;
        all.counter(
            "ondemand_active",
            Some(&seconds),
            "Time for which the service ran, from the begin of its starts to the end of its stops.",
        )?
        .counters(|row, ledger| row.state.map(|_| ledger.times.active()))?;
        all.counter(
            "ondemand_inactive",
            Some(&seconds),
            "Time for which the service did not run.",
        )?
        .counters(|row, ledger| row.state.map(|_| ledger.times.inactive()))?;
        all.counter(
            "ondemand_saved_memory",
            Some(&byte_seconds),
            "Last measured memory of the service, times the time for which it was stopped (except after failures).",
        )?
        .counters(|row, ledger| row.state.and_then(|_| ledger.times.saved_byte_seconds()))?;
        all.counter(
            "ondemand_used_memory",
            Some(&byte_seconds),
            "Last measured memory of the service, times the time for which it ran.",
        )?
        .counters(|row, ledger| row.state.and_then(|_| ledger.times.used_byte_seconds()))?;
        all.gauge(
            "ondemand_memory",
            Some(&bytes),
            "Memory of the service while it runs, as it was last measured, whether it is up or down.",
        )?
        .figures(|ledger| ledger.times.memory())?;
        all.counter(
            "ondemand_cpu",
            Some(&seconds),
            "CPU time of the service, as it was last measured.",
        )?
        .counters(|_, ledger| ledger.cpu.seconds())?;
        all.counter(
            "ondemand_count_drift",
            None,
            "Number of differences between the kernel's counters and its tables of sockets.",
        )?
        .counters(|_, ledger| Some(ledger.drift))?;
        let configuration = &self.configuration;
        all.counter(
            "ondemand_proxy_failures",
            None,
            "Ends of the proxy after which systemd starts it again: it cannot run, or it crashed.",
        )?
        .counters(|_, ledger| Some(ledger.proxy_failures))?;
        all.counter(
            "ondemand_restarts",
            None,
            "Restarts of the service by systemd itself (Restart=), which are no use of it.",
        )?
        .counters(|_, ledger| Some(ledger.restarts))?;
        let mut waits = encoder.encode_descriptor(
            "ondemand_client_wait",
            "How long clients waited because a service did not run, of all services, by way: held (until it was sent to the application), proxied (the first client of a start, until the first byte of its answer), native (each start, until the application was active), thawed (until the application was).",
            Some(&seconds),
            MetricType::Histogram,
        )?;
        for way in Way::ALL {
            let (sum, count, buckets) = self.waits.histogram(way);
            waits
                .encode_family(&[("way", way.as_str())])?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        if let Some(memory) = host_memory() {
            encoder
                .encode_descriptor(
                    "ondemand_host_memory",
                    "Memory of the host.",
                    Some(&bytes),
                    MetricType::Gauge,
                )?
                .encode_gauge(&memory)?;
        }
        encoder
            .encode_descriptor(
                "ondemand_config_last_reload_successful",
                "1 if the configuration's file is in force, 0 if it is wrong and an older one is.",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&u64::from(configuration.last_reload_successful))?;
        if let Some(at) = configuration.last_reload_success {
            encoder
                .encode_descriptor(
                    "ondemand_config_last_reload_success_timestamp",
                    "When the configuration in force was read, since 1970.",
                    Some(&seconds),
                    MetricType::Gauge,
                )?
                .encode_gauge(&at)?;
        }
        encoder
            .encode_descriptor(
                "ondemand_build",
                "The running agent.",
                None,
                MetricType::Info,
            )?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

/// In bytes. Not from /proc, of which the agent sees nothing but processes.
fn host_memory() -> Option<u64> {
    sysinfo().ok().map(|info| info.ram_total())
}

/// Encodes the families one after the other.
struct Families<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    rows: &'a [Row],
}

impl Families<'_, '_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
        kind: MetricType,
    ) -> Result<Family<'s>, fmt::Error> {
        Ok(Family {
            encoder: self.encoder.encode_descriptor(name, help, unit, kind)?,
            rows: self.rows,
        })
    }

    fn gauge<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
    ) -> Result<Family<'s>, fmt::Error> {
        self.family(name, unit, help, MetricType::Gauge)
    }

    fn counter<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
    ) -> Result<Family<'s>, fmt::Error> {
        self.family(name, unit, help, MetricType::Counter)
    }
}

/// One metric of all services.
struct Family<'e> {
    encoder: MetricEncoder<'e>,
    rows: &'e [Row],
}

impl Family<'_> {
    fn every(
        mut self,
        mut write: impl FnMut(MetricEncoder<'_>, &Observation, &Ledger) -> fmt::Result,
    ) -> fmt::Result {
        for (observation, ledger) in self.rows {
            let labels = [("service", observation.service.as_str())];
            write(self.encoder.encode_family(&labels)?, observation, ledger)?;
        }
        Ok(())
    }

    fn gauges<N: EncodeGaugeValue>(self, value: impl Fn(&Observation) -> Option<N>) -> fmt::Result {
        self.every(|mut encoder, row, _| value(row).map_or(Ok(()), |n| encoder.encode_gauge(&n)))
    }

    fn figures(self, value: impl Fn(&Ledger) -> Option<u64>) -> fmt::Result {
        self.every(|mut encoder, _, ledger| {
            value(ledger).map_or(Ok(()), |n| encoder.encode_gauge(&n))
        })
    }

    /// Encodes a gauge per reason for being up, of which one is 1.
    fn kept(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let Some(kept) = observation.kept else {
                continue;
            };
            for reason in Kept::ALL {
                let labels = [
                    ("service", observation.service.as_str()),
                    ("reason", reason.as_str()),
                ];
                let value = u64::from(reason == kept);
                self.encoder.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counters<N: EncodeCounterValue>(
        self,
        value: impl Fn(&Observation, &Ledger) -> Option<N>,
    ) -> fmt::Result {
        self.every(|mut encoder, row, ledger| {
            value(row, ledger).map_or(Ok(()), |n| count(&mut encoder, &n))
        })
    }

    fn histograms(self, histogram: impl Fn(&Ledger) -> &Histogram) -> fmt::Result {
        self.every(|mut encoder, _, ledger| {
            let (sum, count, buckets) = {
                let histogram = histogram(ledger);
                (histogram.sum(), histogram.count(), histogram.buckets())
            };
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    /// Encodes a counter per reason.
    fn reasons<const N: usize>(
        mut self,
        reasons: [&'static str; N],
        counts: impl Fn(&Ledger) -> &BTreeMap<String, u64>,
    ) -> fmt::Result {
        for (observation, ledger) in self.rows {
            for reason in reasons {
                let labels = [
                    ("service", observation.service.as_str()),
                    ("reason", reason),
                ];
                let value = counts(ledger).get(reason).copied().unwrap_or(0);
                count(&mut self.encoder.encode_family(&labels)?, &value)?;
            }
        }
        Ok(())
    }

    /// Encodes where clients that were held were sent.
    fn ways(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let held = &observation.held;
            for (way, number) in [
                ("application", held.to_application),
                ("front", held.to_front),
                ("none", held.gave_up),
            ] {
                let labels = [("service", observation.service.as_str()), ("to", way)];
                count(&mut self.encoder.encode_family(&labels)?, &number)?;
            }
        }
        Ok(())
    }

    /// Encodes why datagrams that were held are lost.
    fn losses(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let Some(datagrams) = observation.datagrams else {
                continue;
            };
            for why in Loss::ALL {
                let service = observation.service.as_str();
                let labels = [("service", service), ("reason", why.as_str())];
                let number = datagrams.lost[why as usize];
                count(&mut self.encoder.encode_family(&labels)?, &number)?;
            }
        }
        Ok(())
    }

    /// Encodes a counter per kind of reason of a learned timeout.
    fn kinds(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let counts = observation.learned.1.reasons;
            for (kind, number) in Kind::ALL.into_iter().zip(counts) {
                let labels = [
                    ("service", observation.service.as_str()),
                    ("reason", kind.as_str()),
                ];
                count(&mut self.encoder.encode_family(&labels)?, &number)?;
            }
        }
        Ok(())
    }

    /// Encodes what became of starts ahead of a client.
    fn prewarms(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            for (result, number) in ["used", "wasted"].into_iter().zip(observation.prewarms) {
                let labels = [
                    ("service", observation.service.as_str()),
                    ("result", result),
                ];
                count(&mut self.encoder.encode_family(&labels)?, &number)?;
            }
        }
        Ok(())
    }

    /// Encodes stops to make room.
    fn evictions(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let Some(room) = observation.room else {
                continue;
            };
            for (reason, number) in [("group", room.for_group), ("memory", room.for_memory)] {
                let labels = [("service", observation.service.as_str()), ("for", reason)];
                count(&mut self.encoder.encode_family(&labels)?, &number)?;
            }
        }
        Ok(())
    }

    /// Encodes what gaps cost, per timeout.
    fn costs(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let tally = &observation.learned.1;
            for (timeout, cost) in [("fixed", tally.fixed_cost), ("learned", tally.learned_cost)] {
                let labels = [
                    ("service", observation.service.as_str()),
                    ("timeout", timeout),
                ];
                count(&mut self.encoder.encode_family(&labels)?, &cost)?;
            }
        }
        Ok(())
    }

    /// Encodes a gauge per state, of which one is 1.
    fn states(mut self) -> fmt::Result {
        for (observation, _) in self.rows {
            let Some(state) = observation.state else {
                continue;
            };
            for candidate in STATES.map(ActiveState::as_str) {
                let labels = [
                    ("service", observation.service.as_str()),
                    ("state", candidate),
                ];
                let value = u64::from(candidate == state.as_str());
                self.encoder.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn count(encoder: &mut MetricEncoder<'_>, value: &impl EncodeCounterValue) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
}
