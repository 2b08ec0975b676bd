//! Runs of the backend, whatever caused them: starts, listeners, first bytes and ends are recognised
//! here and nowhere else. Others subscribe to the events.
//!
//! What each counts since when:
//!
//! | subscriber | counts | since |
//! | --- | --- | --- |
//! | `status`, the bus, the log | events | the agent began to watch the service: events are of what is younger than that by systemd's stamps, whenever the agent heard of it |
//! | the metrics | the same events, and from [`RunEvent::Found`] what happened while no agent ran, as far as systemd's stamps tell | the service was first watched since boot: their record outlives the agent |
//! | the history | the same, but an end that no agent saw as [`StopReason::Unseen`], and a failed start as a run that ended at once | for as long as the database keeps it |
//!
//! A start counts when the unit becomes active, a stop when a unit that was active is not any more. A
//! failed start is neither. A start takes from its begin until the unit is active and the application
//! listens ([`RunEvent::Ready`]); where the listener is not seen, until the unit is active. A run that
//! was found has no start that could be counted, and its listener and first byte tell nothing.

mod event;
mod stamps;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use event::{Run, RunEvent, StopReason};
pub use stamps::{Change, Stamps, Start};

use crate::measure::{Ktime, sample::Sample, unit::Unit};

/// By how much systemd may be late with the stamp of a start.
const STAMPED_LATE: Duration = Duration::from_secs(1);
/// A run without a client for this long after its listener appeared was not begun by a client.
const UNANSWERED: Duration = Duration::from_secs(1);

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The present.
    pub now: Ktime,
    /// The application's unit.
    pub backend: &'a Unit,
    /// The kernel's counters. `None`: unknown.
    pub sample: Option<&'a Sample>,
    /// Whether the kernel tells when the application begins to listen.
    pub announced: bool,
}

/// The agent released the lease.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// How long the service had not been used.
    pub quiet: Duration,
    /// Whether the agent was asked for the stop.
    pub asked: bool,
}

/// Accepted connections, received and sent bytes.
type Counts = [u64; 3];

/// The present run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Current {
    began: Option<Ktime>,
    up: Option<Ktime>,
    /// The end of the run before.
    before: Option<Ktime>,
    /// Whether its start was seen.
    whole: bool,
    /// Whether its first listener is known, or cannot be.
    listened: bool,
    /// What the start took for systemd, until its listener is known.
    took: Option<Duration>,
    /// Since when its first answer is waited for.
    unanswered: Option<Ktime>,
    /// Whether its stop has begun.
    ending: bool,
}

impl Current {
    /// `whole`: its start is seen.
    fn new(stamps: &Stamps, whole: bool) -> Self {
        let Start { began, up } = stamps.start();
        Self {
            began,
            up,
            before: stamps.down,
            whole,
            listened: !whole,
            took: None,
            unanswered: None,
            ending: false,
        }
    }

    /// How long after the start's begin this moment is. `None`: it was before.
    ///
    /// systemd stamps a start after it has forked (`service_set_state` follows `service_spawn`,
    /// src/core/service.c), so on a busy machine what the new process does may seem to be a little
    /// earlier. What is later than the end of the run before belongs to this one.
    fn since_begin(&self, at: Ktime) -> Option<Duration> {
        let begin = self.began?;
        let early = begin.since(at).is_some_and(|early| early < STAMPED_LATE);
        if early && self.before.is_none_or(|end| at > end) {
            return Some(Duration::ZERO);
        }
        at.since(begin)
    }
}

/// Recognises the runs of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Runs {
    /// When the watch began. `None`: with the first look.
    since: Option<Ktime>,
    /// `None`: there was no look yet.
    stamps: Option<Stamps>,
    current: Option<Current>,
    /// The counters when the last run ended: a run's first client is counted before it is up.
    base: Option<Counts>,
    /// The begin of the last start that succeeded or was reported as failed.
    reported: Option<Ktime>,
    /// The last listener: it may be known before its start is.
    listens: Option<Ktime>,
    /// The last first byte that a client acknowledged.
    answered: Option<Ktime>,
}

impl Runs {
    /// Those of a backend that is watched from this moment on.
    pub fn since(watched: Ktime) -> Self {
        Self {
            since: Some(watched),
            ..Self::default()
        }
    }

    /// The application began to listen. Takes effect with the next look.
    pub fn listens(&mut self, at: Ktime) {
        self.listens = Some(at);
    }

    /// A client has the first byte of an answer. Takes effect with the next look.
    pub fn answered(&mut self, at: Ktime) {
        self.answered = Some(at);
    }

    /// What a subscriber that comes late is told first.
    pub fn found(&self) -> Option<RunEvent> {
        self.stamps.map(RunEvent::Found)
    }

    /// What happened since the last look. `released`: an end is that of the agent's own stop.
    pub fn follow(&mut self, look: &Look<'_>, mut released: Option<Released>) -> Vec<RunEvent> {
        let mut events = Vec::new();
        self.base = self.base.or(look.sample.map(counts));
        let Some(stamps) = Stamps::of(look.backend) else {
            return events;
        };
        let before = match self.stamps {
            Some(before) => before,
            None => self.begin(&stamps, look.now, &mut events),
        };
        for change in stamps.since(&before) {
            match change {
                Change::Began => events.push(RunEvent::Began { at: stamps.began }),
                Change::Up => {
                    self.end(look, None, false, released.take(), &mut events);
                    self.start(&stamps, look.announced, &mut events);
                }
                Change::Down | Change::Failed => {
                    let (at, failed) = (stamps.down, change == Change::Failed);
                    if failed && self.current.is_none() && self.reported != stamps.began {
                        self.reported = stamps.began;
                        let (began, at) = (stamps.began, at.unwrap_or(look.now));
                        events.push(RunEvent::StartFailed { began, at });
                    }
                    self.end(look, at, failed, released.take(), &mut events);
                    events.push(RunEvent::Down { at, failed });
                }
            }
        }
        self.stamps = Some(stamps);
        self.hear(&mut events);
        if let Some(current) = &mut self.current {
            let nobody = look.sample.and_then(Sample::open) == Some(0);
            let waited = current.unanswered.and_then(|at| look.now.since(at));
            if nobody && waited.is_some_and(|waited| waited > UNANSWERED) {
                current.unanswered = None;
            }
            let ending = !look.backend.state.is_up();
            if ending && !std::mem::replace(&mut current.ending, ending) {
                events.push(RunEvent::Ending);
            }
        }
        events
    }

    /// The first look: what was before the watch is found, what is younger happened.
    fn begin(&mut self, stamps: &Stamps, now: Ktime, events: &mut Vec<RunEvent>) -> Stamps {
        let since = *self.since.get_or_insert(now);
        let before = stamps.as_of(since);
        events.push(RunEvent::Found(before));
        if before.running || !before.active {
            self.reported = before.began;
        }
        self.current = before.running.then(|| Current::new(&before, false));
        before
    }

    fn start(&mut self, stamps: &Stamps, announced: bool, events: &mut Vec<RunEvent>) {
        let (start, mut current) = (stamps.start(), Current::new(stamps, true));
        events.push(RunEvent::Started(start));
        self.reported = stamps.began;
        current.took = start.took();
        // Of a start that is older than the watch the listener may be, too.
        let awaited = announced && start.began > self.since;
        if let Some(took) = current.took.take_if(|_| !awaited) {
            events.push(RunEvent::Ready { took });
        }
        self.current = Some(current);
        self.hear(events);
    }

    /// Takes what the kernel told for the present run, if it belongs to that.
    fn hear(&mut self, events: &mut Vec<RunEvent>) {
        let Some(current) = &mut self.current else {
            return;
        };
        if !current.listened
            && let Some(at) = self.listens
            && let Some(after) = current.since_begin(at)
        {
            current.listened = true;
            current.unanswered = Some(at);
            events.push(RunEvent::Listening { at, after });
            if let Some(took) = current.took.take() {
                let took = took.max(after);
                events.push(RunEvent::Ready { took });
            }
        }
        if current.unanswered.is_some()
            && let Some(at) = self.answered
            && let Some(after) = current.since_begin(at)
        {
            current.unanswered = None;
            events.push(RunEvent::FirstByte { after });
        }
    }

    fn end(
        &mut self,
        look: &Look<'_>,
        at: Option<Ktime>,
        failed: bool,
        released: Option<Released>,
        events: &mut Vec<RunEvent>,
    ) {
        let run = self.so_far(look.now, look.sample);
        let Some(current) = self.current.take() else {
            return;
        };
        // It never listened.
        if let Some(took) = current.took {
            events.push(RunEvent::Ready { took });
        }
        let reason = match released {
            Some(Released { asked: true, .. }) => StopReason::Requested,
            Some(_) => StopReason::Idle,
            None if failed => StopReason::Failed,
            None => StopReason::External,
        };
        let at = at.filter(|at| Some(*at) > current.began);
        events.push(RunEvent::Ended {
            at: at.unwrap_or(look.now),
            reason,
            quiet: released.map_or(Duration::ZERO, |released| released.quiet),
            failed,
            run,
        });
        self.base = look.sample.map(counts).or(self.base);
    }

    /// When the present run became active. `None` inside: systemd does not say.
    pub fn started(&self) -> Option<Option<Ktime>> {
        self.current.map(|run| run.up)
    }

    /// The kernel's counts since the start of the present run.
    pub fn so_far(&self, now: Ktime, sample: Option<&Sample>) -> Run {
        let Some(run) = self.current else {
            return Run::default();
        };
        let grown = |place: usize| {
            let both = sample.map(counts).zip(self.base);
            both.map_or(0, |(now, then)| now[place].saturating_sub(then[place]))
        };
        Run {
            connections: grown(0),
            received_bytes: grown(1),
            sent_bytes: grown(2),
            up: run.up.and_then(|up| now.since(up)).unwrap_or_default(),
            whole: run.whole,
        }
    }
}

fn counts(sample: &Sample) -> Counts {
    [
        sample.accepted(),
        sample.received_bytes(),
        sample.sent_bytes(),
    ]
}
