//! Input of the observers: the metrics, the history, `status`, the bus and the log.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ondemand_core::{
    lifecycle::Step,
    measure::{Ktime, unit::ActiveState},
    policy::Verdict,
    runs::{RunEvent, StopReason},
};

use tokio::sync::oneshot;

use super::{Agent, watched::Watched};
use crate::{
    host::{
        ablation::{self, Moment},
        clock,
    },
    observe::metrics::{Kept, Observation, Observations, Question, Way},
};

/// The shortest interval between two counts of the bytes of open connections.
const BYTES_EVERY: Duration = Duration::from_millis(200);
/// How often a service that runs is measured, if the metrics are scraped.
const MEASURE_EVERY: Duration = Duration::from_secs(300);
/// How long after the first byte the agent may hear of it.
const LATE: Duration = Duration::from_secs(1);
/// The number of services that a scrape has measured, at most.
const MOST_MEASURED: usize = 16;
/// Maximum share of the time for it.
const BYTES_SHARE: u32 = 50;

impl Agent {
    /// Adds the bytes that open connections have transferred so far to the counters, for a reader.
    /// Otherwise they are added at the close.
    pub(super) fn count_open_bytes(&mut self) {
        let begin = clock::now();
        let is_open = |watched: &Watched| {
            let sample = self.sampler.sample(watched.slot).ok();
            sample.and_then(|sample| sample.open()) != Some(0)
        };
        if begin < self.next_bytes || !self.services.values().any(is_open) {
            return;
        }
        if let Err(error) = self.sampler.add_open_bytes() {
            log::debug!("bytes of open connections: {error:#}");
        }
        let end = clock::now();
        let took = end.since(begin).unwrap_or_default();
        self.next_bytes = end + BYTES_EVERY.max(took * BYTES_SHARE);
    }

    /// Answers the thread that serves the metrics and the page.
    pub(super) fn tell(&mut self, question: Question) {
        match question {
            Question::Scrape(answer) => self.observe(answer),
            Question::Table(answer) => self.show(answer),
        }
    }

    fn observe(&mut self, answer: oneshot::Sender<Observations>) {
        self.measure_some(clock::now());
        let services = self.services.values();
        // The scraper may be gone.
        let _ = answer.send(Observations {
            configuration: self.source.observe(),
            services: services.map(|watched| self.observation(watched)).collect(),
        });
    }

    fn observation(&self, watched: &Watched) -> Observation {
        let view = self.view(watched);
        let sample = match &view {
            Some(view) => view.sample,
            None => self.sampler.sample(watched.slot).ok(),
        };
        let state = view.map(|view| view.units.backend.state);
        let idle = view.filter(|view| view.units.backend.state.is_up());
        let idle = idle.and_then(|view| match view.verdict {
            Verdict::Busy { .. } => Some(Duration::ZERO),
            Verdict::Quiet { since, .. }
            | Verdict::Held { since, .. }
            | Verdict::Needed { since }
            | Verdict::Idle { since } => view.now.since(since),
            Verdict::Unknown(_) => None,
        });
        let up = view.filter(|view| view.units.backend.state.is_up());
        let kept = up.map(|view| what_keeps(watched, &view.verdict));
        Observation {
            service: watched.service.name.clone(),
            state: state.filter(|state| *state != ActiveState::Unknown),
            sample,
            open: watched.open(sample.as_ref()),
            idle,
            unused: self.recorder.unused(&watched.service.name, clock::now()),
            kept,
            ready: watched.shows_ready(state),
            idle_timeout: watched.idle_timeout(),
            learned: (watched.learner.timeout(), watched.learner.tally()),
            held: watched.held.tally(),
            frozen: (
                watched.service.freeze_after.is_some(),
                watched.freezing.is_frozen(),
                watched.freezes,
            ),
            room: self.needs_room(watched).then_some(watched.placed.tally),
            prewarms: watched.prewarming.counts(),
            datagrams: watched
                .service
                .has_datagrams()
                .then(|| watched.datagrams.tally()),
        }
    }

    /// Publishes an event of a service's application to all subscribers.
    pub(super) fn happened(&mut self, name: &str, event: &RunEvent) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        watched.tally.happened(event);
        let is_native = watched.service.activation.is_native();
        let is_stopped = matches!(
            watched.lifecycle.current(),
            Step::Releasing(_) | Step::Settling { stop: Some(_), .. }
        );
        self.announcer.happened(name, event);
        self.metrics.happened(name, *event);
        if let Some(level) = event.level() {
            let more = match event.is_failure() {
                true => format!("; see `journalctl -u {}`", watched.service.unit),
                false => String::new(),
            };
            log::log!(level, "{name}: {event}{more}");
        }
        if let RunEvent::Listening { after, .. } = event {
            self.learn_start(name, *after);
        }
        // The history has with the end of a run for what it was.
        if let RunEvent::Ended { reason, .. } = event {
            self.left(name, *reason);
        }
        self.record_run(name, event);
        match event {
            RunEvent::FirstByte { after } => self.waited_for_start(name, *after),
            // Of a listener that PID 1 holds the kernel reports no first byte.
            RunEvent::Ready { took } if is_native => self.metrics.waited(Way::Native, *took),
            // The last chance to measure what this stop by another program gives back. What the agent stops was measured
            // before that, and is less by now.
            RunEvent::Ending if !is_stopped => self.measure_memory(name),
            RunEvent::Ended {
                reason: StopReason::Idle | StopReason::Requested,
                ..
            } => ablation::reached(Moment::Stopped),
            _ => {}
        }
    }

    /// Follows the application of a service that is not managed.
    pub(super) fn follow_unmanaged(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let Some(known) = self.systemd.known(&watched.units.backend) else {
            return;
        };
        let sample = self.sampler.sample(watched.slot).ok();
        let events = watched
            .lifecycle
            .follow(clock::now(), &known.unit, sample.as_ref());
        for event in events {
            self.happened(name, &event);
        }
    }

    /// Asks systemd for the service's memory: a stop gives it back. systemd answers in the order of
    /// the calls, so a call before a stop returns the memory before the stop.
    pub(super) fn measure_memory(&self, name: &str) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (unit, measured) = (watched.service.unit.clone(), self.metrics.memory(name));
        let memory = Arc::clone(&watched.memory);
        tokio::spawn(async move {
            match systemd.memory(&unit).await {
                Ok(Some(bytes)) => {
                    memory.store(bytes, Ordering::Relaxed);
                    measured(bytes);
                }
                Ok(None) => {}
                Err(error) => log::debug!("{error:#}"),
            }
        });
    }

    /// The first client of a start has the first byte of its answer.
    fn waited_for_start(&self, name: &str, after: Duration) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let proxy = self.systemd.known(&watched.units.proxy);
        if watched.held.sent_within(after + LATE, clock::now()) {
            return; // Each of those was counted.
        }
        // Otherwise somebody else has started it.
        if proxy.is_some_and(|proxy| proxy.unit.state.is_up()) {
            self.metrics.waited(Way::Proxied, after);
        }
    }

    /// Measures services that run and were not measured for a while, since without a stop nobody else does. A scrape
    /// asks for few of them, so that PID 1 is not kept from its work.
    fn measure_some(&mut self, now: Ktime) {
        let Some(systemd) = self.systemd.caller() else {
            return;
        };
        let mut due = MOST_MEASURED;
        for (name, watched) in &mut self.services {
            let is_up = |unit: &String| {
                self.systemd
                    .known(unit)
                    .is_some_and(|known| known.unit.state == ActiveState::Active)
            };
            if watched
                .measured_at
                .is_some_and(|at| now < at + MEASURE_EVERY)
                || !is_up(&watched.service.unit)
            {
                continue;
            }
            watched.measured_at = Some(now);
            let (unit, started) = (watched.service.unit.clone(), self.recorder.started(name));
            let (systemd, stored) = (systemd.clone(), Arc::clone(&watched.memory));
            let (memory, cpu) = (self.metrics.memory(name), self.metrics.cpu(name));
            tokio::spawn(async move {
                match systemd.usage(&unit).await {
                    Ok(usage) => {
                        if let Some(bytes) = usage.memory {
                            stored.store(bytes, Ordering::Relaxed);
                            memory(bytes);
                        }
                        if let Some((started, time)) = started.zip(usage.cpu) {
                            cpu(started, time);
                        }
                    }
                    Err(error) => log::debug!("{error:#}"),
                }
            });
            due -= 1;
            if due == 0 {
                return;
            }
        }
    }
}

/// What keeps a running service up.
fn what_keeps(watched: &Watched, verdict: &Verdict) -> Kept {
    if watched.problem.is_some() {
        return Kept::Unmanaged;
    }
    match verdict {
        Verdict::Busy { .. } => Kept::Clients,
        Verdict::Quiet { idle_at: None, .. } => Kept::Never,
        Verdict::Quiet { .. } => Kept::Timeout,
        Verdict::Held { .. } => Kept::Held,
        Verdict::Needed { .. } => Kept::Needed,
        Verdict::Idle { .. } => Kept::Idle,
        Verdict::Unknown(_) => Kept::Unknown,
    }
}
