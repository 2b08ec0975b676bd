//! The use of one service over time: its runs, and the quiet gaps between arrivals.
//!
//! Nothing is polled while nobody comes: the kernel tells of the next connection. While
//! somebody uses the service it is looked at once a second at most. So a gap shorter than
//! [`QUIET`] is not one, unless the service was down in it.

use std::time::Duration;

use ondemand_core::measure::unit::ActiveState;

use super::{Command, Counter, Ktime, Note, StopReason, Unit, View, What, wall};
use crate::observe::history::REASONS;

/// Nobody has to be there for so long before the kernel is asked to tell of the next one.
const QUIET: Duration = Duration::from_secs(1);

/// What is known of the use of one service.
#[derive(Default)]
pub struct Usage {
    /// When to look at it again.
    pub wake: Option<Ktime>,
    /// The begin of the start of the present or last run that the history knows.
    pub run: Option<Ktime>,
    /// What systemd said of that start.
    start: Unit,
    seen: bool,
    /// Clients, bytes in and bytes out of runs before.
    counted: Option<[u64; 3]>,
    state: State,
    is_up: bool,
    /// When the application began to listen, until it is told.
    listens: Option<Ktime>,
    /// Whether the listener of the present run is known.
    listened: bool,
    /// Since when the first answer of the present run is waited for.
    unanswered: Option<Ktime>,
    /// The last first byte to a client that the kernel told of.
    answered: Option<Ktime>,
    told: Vec<What>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Used,
    /// Nobody has been there since. `None`: nobody knows since when.
    Quiet(Option<Ktime>),
}

impl Usage {
    /// What there is to tell since the last time.
    pub fn told(&mut self) -> Vec<What> {
        std::mem::take(&mut self.told)
    }

    /// The application began to listen.
    pub fn listens(&mut self, at: Ktime) {
        self.listens = Some(at);
        if self.is_up {
            self.tell_listening();
        }
    }

    /// Tells of the first listener of the present run. It may be known before the start is, and
    /// before the end of the run before.
    fn tell_listening(&mut self) {
        if let Some(listens) = self.listens
            && !self.listened
            && let Some(took) = self.start.since_start(listens)
        {
            self.told.push(What::Listening {
                after: millis(took),
            });
            self.listened = true;
            self.unanswered = Some(listens);
            self.tell_first_byte();
        }
    }

    /// A client has the first byte of an answer.
    pub fn answered(&mut self, at: Ktime) {
        self.answered = Some(at);
        self.tell_first_byte();
    }

    /// Tells of the first answer of the present run. It may be known before the start is.
    fn tell_first_byte(&mut self) {
        if self.unanswered.is_some()
            && let Some(took) = self.answered.and_then(|at| self.start.since_start(at))
        {
            self.told.push(What::FirstByte {
                after: millis(took),
            });
            self.unanswered = None;
        }
    }

    /// Follows the runs of the application. Gives why one ended, if one did.
    pub fn follow(&mut self, view: &View, commands: &[Command]) -> Option<StopReason> {
        let backend = &view.units.backend;
        let counts = view.sample.map(|sample| {
            [
                sample.accepted(),
                sample.received_bytes(),
                sample.sent_bytes(),
            ]
        });
        self.counted = self.counted.or(counts);
        if !self.seen {
            self.first_view(backend, view.now);
        }
        let mut ended = None;
        for command in commands {
            match command {
                Command::Count(Counter::Start(_)) => self.started(backend),
                Command::Count(Counter::Stop(reason)) => {
                    ended = Some(*reason);
                    self.stopped(backend, view.now, counts, *reason);
                }
                Command::Say(Note::StartFailed) => {
                    self.started(backend);
                    self.stopped(backend, view.now, None, StopReason::Failed);
                }
                _ => {}
            }
        }
        ended
    }

    fn first_view(&mut self, backend: &Unit, now: Ktime) {
        match backend.state {
            ActiveState::Active | ActiveState::Reloading => self.started(backend),
            ActiveState::Inactive | ActiveState::Failed => {
                let since = wall(backend.inactive_enter.unwrap_or(now));
                self.told.push(What::Down { since });
            }
            // What comes of it will be seen.
            ActiveState::Activating | ActiveState::Deactivating => {}
            ActiveState::Unknown => return,
        }
        self.seen = true;
    }

    fn started(&mut self, backend: &Unit) {
        let Some(began) = backend.inactive_exit.or(backend.active_enter) else {
            return;
        };
        (self.run, self.start) = (Some(began), *backend);
        self.told.push(What::Up {
            started: wall(began),
        });
        (self.is_up, self.listened) = (true, false);
        self.tell_listening();
    }

    fn stopped(
        &mut self,
        backend: &Unit,
        now: Ktime,
        counts: Option<[u64; 3]>,
        reason: StopReason,
    ) {
        let down = backend.inactive_enter.filter(|at| Some(*at) > self.run);
        let before = self.counted.or(counts).unwrap_or_default();
        let counts = counts.unwrap_or(before);
        let [connections, received, sent] =
            [0, 1, 2].map(|i| i64::try_from(counts[i].saturating_sub(before[i])).unwrap_or(0));
        self.counted = Some(counts);
        self.unanswered = None;
        self.is_up = false;
        let name = reason.as_str();
        self.told.push(What::Stopped {
            at: wall(down.unwrap_or(now)),
            // The history knows all of the names.
            reason: REASONS.iter().position(|known| *known == name).unwrap_or(3),
            connections,
            received,
            sent,
        });
    }

    /// A look at the connections. True: the kernel is to tell of the next one.
    pub fn look(&mut self, now: Ktime, open: Option<u64>, last: Option<Ktime>, up: bool) -> bool {
        self.wake = None;
        let Some(open) = open else {
            return false; // Nobody can tell.
        };
        // Nobody waits for an answer: it was not started by a client.
        if open == 0
            && let Some(listens) = self.unanswered
            && now
                .since(listens)
                .is_some_and(|unanswered| unanswered > QUIET)
        {
            self.unanswered = None;
        }
        self.gap(now, open, last, up)
    }

    fn gap(&mut self, now: Ktime, open: u64, last: Option<Ktime>, up: bool) -> bool {
        if let State::Quiet(since) = self.state {
            if open == 0 && last <= since {
                return false;
            }
            // Of somebody who has gone again only the last sign is known.
            let at = if open > 0 { now } else { last.unwrap_or(now) };
            let gap = since.and_then(|since| at.since(since)).map(millis);
            self.told.push(What::Arrived { at: wall(at), gap });
            self.state = State::Used;
        }
        if open > 0 {
            self.state = State::Used;
            return false;
        }
        if let Some(last) = last
            && up
            && now.since(last).is_some_and(|quiet| quiet < QUIET)
        {
            self.state = State::Used;
            self.wake = Some(last + QUIET);
            return false;
        }
        self.state = State::Quiet(last);
        if let Some(last) = last {
            self.told.push(What::Quiet { since: wall(last) });
        }
        true
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Ktime {
        Ktime::from_nanos(ms * 1_000_000)
    }

    /// The gap before an arrival, whether the kernel is to tell of the next, and the next look.
    type Seen = (Option<Option<i64>>, bool, Option<u64>);

    /// Looks at (now, open, last, up), milliseconds; what comes of each: gaps, and the next look.
    #[track_caller]
    fn check(looks: &[(u64, u64, Option<u64>, bool)], expected: &[Seen]) {
        let mut usage = Usage::default();
        let mut found = Vec::new();
        for (now, open, last, up) in looks {
            let arm = usage.look(ms(*now), Some(*open), last.map(ms), *up);
            let gap = usage.told().iter().find_map(|what| match what {
                What::Arrived { gap, .. } => Some(*gap),
                _ => None,
            });
            found.push((gap, arm, usage.wake.map(|wake| wake.as_nanos() / 1_000_000)));
        }
        assert_eq!(found, expected, "{looks:?}");
    }

    #[test]
    fn gaps() {
        // The first arrival ever.
        check(
            &[(5_000, 0, None, false), (9_000, 1, Some(9_000), false)],
            &[(None, true, None), (Some(None), false, None)],
        );
        // A gap while it is up, and none of less than a second.
        check(
            &[
                (1_000, 1, Some(900), true),
                (2_000, 0, Some(2_000), true),
                (3_000, 0, Some(2_500), true),
                (3_500, 0, Some(2_500), true),
                (9_500, 1, Some(9_500), true),
            ],
            &[
                (None, false, None),
                (None, false, Some(3_000)),
                (None, false, Some(3_500)),
                (None, true, None),
                (Some(Some(7_000)), false, None),
            ],
        );
        // Whoever came and went before the look; then a gap of less than a second while it is
        // down.
        check(
            &[
                (1_000, 0, Some(0), true),
                (4_010, 0, Some(4_000), false),
                (4_400, 1, Some(4_400), false),
            ],
            &[
                (None, true, None),
                (Some(Some(4_000)), true, None),
                (Some(Some(400)), false, None),
            ],
        );
    }

    fn start(begin: u64) -> Unit {
        Unit {
            inactive_exit: Some(ms(begin)),
            inactive_enter: Some(ms(begin - 100)),
            ..Unit::default()
        }
    }

    /// A run that begins at one second and listens at two.
    fn listening() -> Usage {
        let mut usage = Usage {
            start: start(1_000),
            is_up: true,
            ..Usage::default()
        };
        usage.listens(ms(2_000));
        usage
    }

    fn first_byte(usage: &mut Usage) -> Option<i64> {
        usage.told().iter().find_map(|what| match what {
            What::FirstByte { after } => Some(*after),
            _ => None,
        })
    }

    #[test]
    fn the_first_byte() {
        let mut usage = listening();
        assert!(!usage.look(ms(2_500), Some(1), Some(ms(900)), true));
        usage.answered(ms(2_600));
        assert_eq!(first_byte(&mut usage), Some(1_600));
        usage.answered(ms(9_000));
        assert_eq!(first_byte(&mut usage), None, "of a run there is one");
        // Known before the listener is.
        let mut usage = listening();
        (usage.listened, usage.unanswered) = (false, None);
        usage.answered(ms(2_600));
        usage.listens(ms(2_000));
        assert_eq!(first_byte(&mut usage), Some(1_600));
        // Known before the end of the run before is.
        let mut usage = listening();
        usage.told();
        usage.listens(ms(9_000));
        assert_eq!(usage.told().len(), 0);
        (usage.start, usage.listened) = (start(8_000), false);
        usage.tell_listening();
        assert!(matches!(
            usage.told()[..],
            [What::Listening { after: 1_000 }]
        ));
        // An answer of the run before.
        let mut usage = listening();
        usage.answered(ms(890));
        assert_eq!(first_byte(&mut usage), None);
        // Started by hand; the first client comes later.
        let mut usage = listening();
        usage.look(ms(3_500), Some(0), None, true);
        usage.answered(ms(60_000));
        assert_eq!(first_byte(&mut usage), None);
    }

    #[test]
    fn unknown_is_no_arrival() {
        let mut usage = Usage::default();
        assert!(usage.look(ms(2_000), Some(0), Some(ms(1)), true));
        assert!(!usage.look(ms(3_000), None, None, true));
        assert!(usage.wake.is_none());
        assert!(!usage.look(ms(4_000), Some(1), Some(ms(4_000)), true));
        let gap = Some(3_999);
        assert!(
            usage
                .told()
                .iter()
                .any(|what| matches!(what, What::Arrived { gap: found, .. } if *found == gap))
        );
    }
}
