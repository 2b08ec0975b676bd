//! Tells the history what happens. It observes: nothing waits for it, nothing depends on it.

use std::{
    collections::HashMap,
    path::Path,
    sync::mpsc::SyncSender,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

mod usage;

use ondemand_core::{
    lifecycle::{
        Command, Counter, View,
        note::{Note, StopReason},
    },
    measure::{Ktime, sample::Sample, unit::Unit},
};
use usage::Usage;

use super::{Agent, watched::Watched};
use crate::{
    host::clock,
    observe::history::{Record, What, Writer},
    systemd::Systemd,
};

/// How long a question about memory may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the history, and what is known of each service's use.
#[derive(Default)]
pub struct Recorder {
    writer: Option<Writer>,
    services: HashMap<String, Usage>,
}

impl Recorder {
    /// Watches these services and no others, and writes to `path`.
    pub fn watch<'a>(&mut self, path: Option<&Path>, names: impl Iterator<Item = &'a String>) {
        if self.writer.as_ref().map(Writer::path) != path {
            self.finish();
            self.writer = path.and_then(|path| {
                Writer::start(path)
                    .inspect_err(|error| log::warn!("history: goes on without it: {error:#}"))
                    .ok()
            });
            self.services.clear();
        }
        let services: Vec<String> = names.cloned().collect();
        self.services.retain(|name, _| services.contains(name));
        for name in &services {
            self.services.entry(name.clone()).or_default();
        }
        if let Some(writer) = &mut self.writer {
            let at = wall(clock::now());
            writer.write(Record::Watched { services, at });
        }
    }

    /// The agent ends.
    pub fn finish(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            let at = wall(clock::now());
            writer.write(Record::Ended { at });
            writer.finish();
        }
    }

    /// The next moment at which a service is to be looked at.
    pub fn due(&self) -> Option<Ktime> {
        self.services.values().filter_map(|used| used.wake).min()
    }

    /// Whether that moment has come for this one.
    pub fn is_due(&self, name: &str, now: Ktime) -> bool {
        let used = self.services.get(name);
        used.and_then(|used| used.wake).is_some_and(|at| at <= now)
    }

    /// The application began to listen.
    pub fn listens(&mut self, name: &str, at: Ktime) {
        if let (Some(writer), Some(used)) = (&mut self.writer, self.services.get_mut(name)) {
            used.listens(at);
            send(writer, name, used.told());
        }
    }

    /// A client has the first byte of its answer.
    pub fn answered(&mut self, name: &str, at: Ktime) {
        if let (Some(writer), Some(used)) = (&mut self.writer, self.services.get_mut(name)) {
            used.answered(at);
            send(writer, name, used.told());
        }
    }

    /// To be asked before the service is stopped.
    pub fn probe(&self, name: &str) -> Option<Probe> {
        let started = self.services.get(name)?.run?;
        Some(Probe {
            name: name.to_owned(),
            started: wall(started),
            records: self.writer.as_ref()?.sender(),
        })
    }
}

/// Asks systemd what a run takes.
pub struct Probe {
    name: String,
    started: i64,
    records: SyncSender<Record>,
}

impl Probe {
    /// Asks, and tells the history.
    pub async fn ask(self, systemd: &Systemd, unit: &str) {
        let usage = match tokio::time::timeout(PATIENCE, systemd.usage(unit)).await {
            Ok(Ok(usage)) => usage,
            Ok(Err(error)) => return log::debug!("{error:#}"),
            Err(_) => return log::debug!("{unit}: systemd takes too long to tell its memory"),
        };
        let what = What::Usage {
            started: self.started,
            memory: usage.memory.and_then(|bytes| i64::try_from(bytes).ok()),
            cpu: usage
                .cpu
                .and_then(|time| i64::try_from(time.as_micros()).ok()),
        };
        let name = self.name;
        // A full channel has been complained of by whoever filled it.
        let _ = self.records.try_send(Record::Service { name, what });
    }
}

fn send(writer: &mut Writer, name: &str, what: Vec<What>) {
    for what in what {
        let name = name.to_owned();
        writer.write(Record::Service { name, what });
    }
}

/// Milliseconds since 1970 of a moment on the kernel's clock.
fn wall(at: Ktime) -> i64 {
    let (now, here) = (SystemTime::now(), clock::now());
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = match here.since(at) {
        Some(ago) => now.saturating_sub(ago),
        None => now + at.since(here).unwrap_or_default(),
    };
    i64::try_from(moment.as_millis()).unwrap_or(i64::MAX)
}

impl Agent {
    /// What a look at a service saw, and what came of it.
    pub(super) fn record(&mut self, name: &str, view: &View, commands: &[Command]) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let recorder = &mut self.recorder;
        let (Some(writer), Some(used)) = (&mut recorder.writer, recorder.services.get_mut(name))
        else {
            return;
        };
        let ended = used.follow(view, commands);
        let (open, last) = activity(watched, view.sample.as_ref());
        let arm = used.look(view.now, open, last, view.units.backend.state.is_up());
        send(writer, name, used.told());
        if arm {
            let slot = watched.slot;
            match self.sampler.arm_opened(slot) {
                // Somebody may have come before the kernel was asked to tell.
                Ok(()) => {
                    let sample = self.sampler.sample(slot).ok();
                    if activity(watched, sample.as_ref()) != (open, last) {
                        used.wake = Some(view.now);
                    }
                }
                Err(error) => log::debug!("{name}: {error:#}"),
            }
        }
        if ended.is_some_and(|reason| reason != StopReason::Idle) {
            // Nobody knew beforehand. Memory is gone with it, CPU time is not.
            let (probe, systemd) = (self.recorder.probe(name), self.systemd.caller());
            let unit = watched.service.unit.clone();
            if let (Some(probe), Some(systemd)) = (probe, systemd) {
                tokio::spawn(async move { probe.ask(&systemd, &unit).await });
            }
        }
    }
}

/// How many connections are open, and when the last sign of life was.
fn activity(watched: &Watched, sample: Option<&Sample>) -> (Option<u64>, Option<Ktime>) {
    let open = sample.and_then(Sample::open);
    let last = sample.and_then(|sample| sample.last_activity);
    if watched.unix_paths().next().is_none() {
        return (open, last);
    }
    let open = open.map(|open| open.max(watched.uncounted.open));
    (open, last.max(watched.uncounted.until))
}
