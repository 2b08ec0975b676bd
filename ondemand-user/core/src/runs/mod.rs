//! Runs of the backend, whatever caused them. Only this module recognizes starts, listeners, first
//! bytes and ends; others subscribe to its events.
//!
//! What each subscriber counts, and since when:
//!
//! | subscriber | counts | since |
//! | --- | --- | --- |
//! | `status`, the bus, the log | events | the agent started to watch the service: an event counts if it is later by systemd's stamps, whenever the agent learned of it |
//! | the metrics | the same events, and from [`RunEvent::Found`] what happened without an agent, as far as systemd's stamps show it | the service was first watched since boot: their record outlives the agent |
//! | the history | the same, with [`StopReason::Unseen`] for an end that no agent saw, and a failed start as a run that ended at once | the oldest record in the database |
//!
//! A start counts when the unit becomes active, a stop when an active unit no longer is. A failed
//! start counts as neither. A start lasts from its begin until the unit is active and the application
//! listens ([`RunEvent::Ready`]); if the listener is not seen, until the unit is active. A run that
//! was found has no start to count, and its listener and first byte are not reported.

mod event;
mod stamps;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use event::{Run, RunEvent, StopReason};
pub use stamps::{Change, Stamps, Start};

use crate::measure::{Ktime, sample::Sample, unit::Unit};

/// Maximum delay of systemd's stamp of a start.
const STAMPED_LATE: Duration = Duration::from_secs(1);
/// Maximum delay of systemd's signals. The kernel tells of a new listener at once: when it is known, the end of
/// the run before may not be, nor the start that the listener belongs to.
const NEWS: Duration = Duration::from_secs(2);
/// A run without a client for this long after its listener appeared was not caused by a client.
const UNANSWERED: Duration = Duration::from_secs(1);

/// The input at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The present.
    pub now: Ktime,
    /// The application's unit.
    pub backend: &'a Unit,
    /// The kernel's counters. `None`: unknown.
    pub sample: Option<&'a Sample>,
    /// Whether the kernel reports the application's listener.
    pub announced: bool,
}

/// A release of the lease by the agent.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// How long the service had been unused.
    pub quiet: Duration,
    /// Whether the stop was requested.
    pub asked: bool,
    /// Open connections on which no byte went.
    pub silent: u64,
}

/// Accepted connections, received and sent bytes, connections that the proxy carried.
type Counts = [u64; 4];

/// The present run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Current {
    began: Option<Ktime>,
    up: Option<Ktime>,
    /// The end of the previous run.
    before: Option<Ktime>,
    /// Whether its start was seen.
    whole: bool,
    /// Whether its first listener is known, or cannot be.
    listened: bool,
    /// Duration of the start for systemd, until its listener is known.
    took: Option<Duration>,
    /// Since when its first response is awaited.
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

    /// The time from the start's begin to `at`. `None`: `at` was before the start.
    ///
    /// systemd stamps a start after it has forked (`service_set_state` follows `service_spawn`,
    /// src/core/service.c). So on a busy machine an act of the new process may seem slightly
    /// earlier than its start. What is later than the end of the previous run belongs to this one.
    fn since_begin(&self, at: Ktime) -> Option<Duration> {
        let begin = self.began?;
        let early = begin.since(at).is_some_and(|early| early < STAMPED_LATE);
        if early && self.before.is_none_or(|end| at > end) {
            return Some(Duration::ZERO);
        }
        at.since(begin)
    }
}

/// Recognizes the runs of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Runs {
    /// When the watch started. `None`: with the first look.
    since: Option<Ktime>,
    /// `None`: before the first look.
    stamps: Option<Stamps>,
    current: Option<Current>,
    /// The counters at the end of the last run: a run's first client is counted before it is up.
    base: Option<Counts>,
    /// The begin of the last start that succeeded, or that was reported as failed.
    reported: Option<Ktime>,
    /// The last listener: it may be known before its start.
    listens: Option<Ktime>,
    /// The last first byte that a client acknowledged.
    answered: Option<Ktime>,
}

impl Runs {
    /// For a backend that is watched from this moment on.
    pub fn since(watched: Ktime) -> Self {
        Self {
            since: Some(watched),
            ..Self::default()
        }
    }

    /// The application started to listen. Takes effect with the next look.
    pub fn listens(&mut self, at: Ktime) {
        self.listens = Some(at);
    }

    /// A client got the first byte of a response. Takes effect with the next look.
    pub fn answered(&mut self, at: Ktime) {
        self.answered = Some(at);
    }

    /// The first event for a late subscriber.
    pub fn found(&self) -> Option<RunEvent> {
        self.stamps.map(RunEvent::Found)
    }

    /// Returns the events since the last look. `released`: an end belongs to the agent's own stop.
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
                    self.start(&stamps, look, &mut events);
                }
                Change::Down | Change::Failed => {
                    let (at, failed) = (stamps.down, change == Change::Failed);
                    if failed && self.current.is_none() && self.reported != stamps.began {
                        self.reported = stamps.began;
                        let (began, at) = (stamps.began, at.unwrap_or(look.now));
                        events.push(RunEvent::StartFailed { began, at });
                    }
                    // What was before the end is of the run that ends.
                    if self.listens <= at {
                        self.hear(&stamps, look.now, &mut events);
                    }
                    self.end(look, at, failed, released.take(), &mut events);
                    events.push(RunEvent::Down { at, failed });
                }
            }
        }
        self.stamps = Some(stamps);
        self.hear(&stamps, look.now, &mut events);
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

    /// The first look: what is older than the watch is found, what is later happened.
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

    fn start(&mut self, stamps: &Stamps, look: &Look<'_>, events: &mut Vec<RunEvent>) {
        let (start, mut current) = (stamps.start(), Current::new(stamps, true));
        events.push(RunEvent::Started(start));
        self.reported = stamps.began;
        current.took = start.took();
        // If the start is older than the watch, the listener may be, too.
        let awaited = look.announced && start.began > self.since;
        if let Some(took) = current.took.take_if(|_| !awaited) {
            events.push(RunEvent::Ready { took });
        }
        self.current = Some(current);
        self.hear(stamps, look.now, events);
    }

    /// When it is decided whether a listener that is known belongs to the present run.
    pub fn due(&self) -> Option<Ktime> {
        let current = self.current.as_ref().filter(|run| !run.listened)?;
        let at = self.listens?;
        current.since_begin(at).map(|_| at + NEWS)
    }

    /// Takes the kernel's reports for the present run, if they belong to it. A listener that appears long after the
    /// start may be that of the next run, of which systemd has not told yet.
    fn hear(&mut self, stamps: &Stamps, now: Ktime, events: &mut Vec<RunEvent>) {
        let is_told = |at: Ktime| stamps.latest() >= Some(at) || now >= at + NEWS;
        let Some(current) = &mut self.current else {
            return;
        };
        if !current.listened
            && let Some(at) = self.listens
            && let Some(after) = current.since_begin(at)
            && (after <= STAMPED_LATE || is_told(at))
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
        let run = Run {
            silent: released.map_or(0, |released| released.silent),
            ..self.so_far(look.now, look.sample)
        };
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

    /// When the present run became active. `None` inside: systemd does not report it.
    pub fn started(&self) -> Option<Option<Ktime>> {
        self.current.map(|run| run.up)
    }

    /// The last start: when it became active, or when one that failed began.
    pub fn last_start(&self) -> Option<Ktime> {
        self.stamps.and_then(|stamps| stamps.up).max(self.reported)
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
            proxied: grown(3),
            silent: 0,
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
        sample.front.accepted,
    ]
}
