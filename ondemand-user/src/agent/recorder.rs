//! Input of the history. Nothing waits for it or depends on it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::mpsc::SyncSender,
    time::Duration,
};

use ondemand_core::{
    caught::Ways,
    lifecycle::View,
    measure::{Ktime, sample::Sample},
    runs::{RunEvent, StopReason},
};

use super::{Agent, watched::Watched};
use crate::{
    host::clock,
    observe::history::{Record, Usage, What, Writer, monotonic},
    systemd::Systemd,
};

/// Maximum time for a reply about memory.
const PATIENCE: Duration = Duration::from_secs(1);

/// The channel to the history, and the known use of each service.
#[derive(Default)]
pub struct Recorder {
    writer: Option<Writer>,
    services: HashMap<String, Usage>,
}

impl Recorder {
    /// Sets the watched services, and whether they are others than before, and the path of the database. Returns
    /// true if that is another history, which does not know the present state.
    pub fn watch<'a>(
        &mut self,
        path: Option<&Path>,
        names: impl Iterator<Item = &'a String>,
        are_others: bool,
    ) -> bool {
        let is_other = self.writer.as_ref().map(Writer::path) != path;
        if is_other {
            self.finish();
            self.writer = path.and_then(|path| {
                Writer::start(path)
                    .inspect_err(|error| log::warn!("history: not recording: {error:#}"))
                    .ok()
            });
            self.services.clear();
        } else if !are_others {
            return false;
        }
        let services: Vec<String> = names.cloned().collect();
        let watched: HashSet<&String> = services.iter().collect();
        self.services.retain(|name, _| watched.contains(name));
        for name in &services {
            self.services.entry(name.clone()).or_default();
        }
        if let Some(writer) = &mut self.writer {
            let at = monotonic(clock::now());
            writer.write(Record::Watched { services, at });
        }
        is_other
    }

    /// The agent exits.
    pub fn finish(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            let at = monotonic(clock::now());
            writer.write(Record::Ended { at });
            writer.finish();
        }
    }

    /// When this service is to be looked at for the history.
    pub fn due(&self, name: &str) -> Option<Ktime> {
        self.services.get(name)?.wake
    }

    /// How long this service has been unused, whether it is up or down. `None`: unknown.
    pub fn unused(&self, name: &str, now: Ktime) -> Option<Duration> {
        self.services.get(name)?.unused(now)
    }

    /// Takes an event of the application. `ways`: how its clients have come so far; `None`: unknown.
    pub fn happened(&mut self, name: &str, event: &RunEvent, ways: Option<Ways>) {
        if let Some(used) = self.services.get_mut(name) {
            used.happened(event, clock::now(), ways);
            let told = used.told();
            if let Some(writer) = &mut self.writer {
                send(writer, name, told);
            }
        }
    }

    /// What the history is to know of a service's room and thaws, with the end of its run.
    pub fn note(&mut self, name: &str, what: impl FnOnce(&mut Usage)) {
        if let Some(used) = self.services.get_mut(name) {
            what(used);
        }
    }

    /// When its present or last run began. Milliseconds.
    pub fn started(&self, name: &str) -> Option<i64> {
        self.services.get(name)?.run.map(monotonic)
    }

    /// A query to be made before the service is stopped.
    pub fn probe(&self, name: &str) -> Option<Probe> {
        let started = self.services.get(name)?.run?;
        Some(Probe {
            name: name.to_owned(),
            started: monotonic(started),
            records: self.writer.as_ref().map(Writer::sender),
        })
    }
}

/// Queries the resources of a run.
pub struct Probe {
    name: String,
    started: i64,
    /// `None`: there is no history.
    records: Option<SyncSender<Record>>,
}

impl Probe {
    /// Queries systemd, and writes the result to the history, and the CPU time to the metrics.
    pub async fn ask(self, systemd: &Systemd, unit: &str, cpu: impl FnOnce(i64, Duration)) {
        let usage = match tokio::time::timeout(PATIENCE, systemd.usage(unit)).await {
            Ok(Ok(usage)) => usage,
            Ok(Err(error)) => return log::debug!("{error:#}"),
            Err(_) => return log::debug!("{unit}: systemd did not report its memory in time"),
        };
        if let Some(time) = usage.cpu {
            cpu(self.started, time);
        }
        let what = What::Usage {
            started: self.started,
            memory: usage.memory.and_then(|bytes| i64::try_from(bytes).ok()),
            cpu: usage
                .cpu
                .and_then(|time| i64::try_from(time.as_micros()).ok()),
        };
        let name = self.name;
        // A full channel has been logged by the writer.
        if let Some(records) = self.records {
            let _ = records.try_send(Record::Service { name, what });
        }
    }
}

fn send(writer: &mut Writer, name: &str, what: Vec<What>) {
    for what in what {
        let name = name.to_owned();
        writer.write(Record::Service { name, what });
    }
}

impl Agent {
    /// Records the clients that a look at a service saw, and learns from the gaps before them. Returns whether its
    /// idle timeout has changed.
    pub(super) fn record(&mut self, name: &str, view: &View) -> bool {
        let Some(watched) = self.services.get(name) else {
            return false;
        };
        let recorder = &mut self.recorder;
        let Some(used) = recorder.services.get_mut(name) else {
            return false;
        };
        let (open, last) = activity(watched, view.sample.as_ref());
        if let Some(sample) = view.sample.filter(|_| used.is_new()) {
            // Before the programs ran, only the proxy's start shows a client.
            let proxied = view.units.proxy.inactive_exit;
            let counted = sample.last_activity;
            used.found(view.units.backend.inactive_exit, counted.max(proxied));
        }
        let arm = used.look(view.now, open, last, view.units.backend.state.is_up());
        let told = used.told();
        let gaps: Vec<Duration> = told.iter().filter_map(What::gap).collect();
        let has_arrived = told.iter().any(|what| matches!(what, What::Arrived { .. }));
        // A gap that begins is under what is learned from those that are over.
        let (quiet, over): (Vec<What>, _) = told
            .iter()
            .partition(|what| matches!(what, What::Quiet { .. }));
        for what in over {
            self.metrics.used(name, what, watched.learner.timeout());
        }
        if let Some(writer) = &mut recorder.writer {
            send(writer, name, told);
        }
        if arm {
            let slot = watched.slot;
            match self.sampler.arm_opened(slot) {
                // A client may have connected before the event was requested.
                Ok(()) => {
                    let sample = self.sampler.sample(slot).ok();
                    if activity(watched, sample.as_ref()) != (open, last) {
                        used.wake = Some(view.now);
                    }
                }
                Err(error) => log::debug!("{name}: {error:#}"),
            }
        }
        if has_arrived {
            self.returned(name, gaps.last().copied());
            self.is_worth_more(name);
        }
        let has_changed = self.learn(name, &gaps);
        if let Some(watched) = self.services.get(name) {
            for what in quiet {
                self.metrics.used(name, what, watched.learner.timeout());
            }
        }
        has_changed
    }

    /// Records an event of its application.
    pub(super) fn record_run(&mut self, name: &str, event: &RunEvent) {
        let ways = self.services.get(name).and_then(|watched| {
            let sample = self.sampler.sample(watched.slot).ok()?;
            Some(watched.ways(&sample))
        });
        self.recorder.happened(name, event, ways);
        if let RunEvent::Ended { reason, .. } = event
            && *reason != StopReason::Idle
        {
            // It was not foreseen. Its memory is gone, its CPU time is not.
            let (probe, systemd) = (self.recorder.probe(name), self.systemd.caller());
            let unit = self.services.get(name).map(|it| it.service.unit.clone());
            if let (Some(probe), Some(systemd), Some(unit)) = (probe, systemd, unit) {
                let cpu = self.metrics.cpu(name);
                tokio::spawn(async move { probe.ask(&systemd, &unit, cpu).await });
            }
        }
    }

    /// Records the state of the applications in a history that does not know it.
    pub(super) fn record_present(&mut self) {
        for (name, watched) in &mut self.services {
            if let Some(found) = watched.lifecycle.runs().found() {
                let sample = self.sampler.sample(watched.slot).ok();
                let ways = sample.map(|sample| watched.ways(&sample));
                self.recorder.happened(name, &found, ways);
            }
        }
    }
}

/// The number of open connections, and the time of the last activity.
fn activity(watched: &Watched, sample: Option<&Sample>) -> (Option<u64>, Option<Ktime>) {
    let open = sample.and_then(Sample::open);
    let last = sample.and_then(|sample| sample.last_activity);
    if watched.unix_paths().next().is_none() && !watched.service.has_datagrams() {
        return (open, last);
    }
    let open = open.map(|open| open.max(watched.uncounted.open));
    (open, last.max(watched.uncounted.until))
}
