//! The use of one service over time: its runs, and the quiet gaps between arrivals.
//!
//! Nothing is polled while nobody comes: the kernel tells of the next connection. While
//! somebody uses the service it is looked at once a second at most. So a gap shorter than
//! [`QUIET`] is not one, unless the service was down in it.

use std::time::Duration;

use super::{Command, Counter, Ktime, Note, Sample, StopReason, Unit, View, What, wall};
use crate::{history::REASONS, lifecycle::unit::ActiveState};

/// Nobody has to be there for so long before the kernel is asked to tell of the next one.
const QUIET: Duration = Duration::from_secs(1);
/// The first packet to a client is looked for this soon after the last look, or an eighth of
/// the time since the application listens: so it is known to an eighth.
const SOON: Duration = Duration::from_millis(5);
/// And no longer than this.
const LONGEST: Duration = Duration::from_secs(600);

/// What is known of the use of one service.
#[derive(Default)]
pub struct Usage {
    /// When to look at it again.
    pub wake: Option<Ktime>,
    /// The begin of the start of the present or last run that the history knows.
    pub run: Option<Ktime>,
    seen: bool,
    /// Clients, bytes in and bytes out of runs before.
    counted: Option<[u64; 3]>,
    state: State,
    is_up: bool,
    /// When the application began to listen, until it is told.
    listens: Option<Ktime>,
    /// Whether the listener of the present run is known.
    listened: bool,
    first_byte: Option<FirstByte>,
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

struct FirstByte {
    began: Ktime,
    listens: Ktime,
    /// Packets to clients when it began to listen.
    before: Option<u64>,
}

impl Usage {
    /// What there is to tell since the last time.
    pub fn told(&mut self) -> Vec<What> {
        std::mem::take(&mut self.told)
    }

    /// The application began to listen.
    pub fn listens(&mut self, now: Ktime) {
        self.listens = Some(now);
        self.wake = Some(now);
        if self.is_up {
            self.tell_listening();
        }
    }

    /// Tells of the first listener of the present run. It may be known before the start is.
    fn tell_listening(&mut self) {
        let Some(listens) = self.listens.take() else {
            return;
        };
        let Some((began, took)) = self.run.and_then(|run| Some((run, listens.since(run)?))) else {
            return;
        };
        if !std::mem::replace(&mut self.listened, true) {
            self.told.push(What::Listening {
                after: millis(took),
            });
            self.first_byte = Some(FirstByte {
                began,
                listens,
                before: None,
            });
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
        self.run = Some(began);
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
        self.first_byte = None;
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
        let arm = self.gap(now, open, last, up);
        if let Some(at) = self.next_look(now, open) {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        arm
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

    /// For the first packet to a client there is no event.
    fn next_look(&mut self, now: Ktime, open: u64) -> Option<Ktime> {
        let waiting = self.first_byte.as_ref()?;
        let since = now.since(waiting.listens).unwrap_or_default();
        if open == 0 || since > LONGEST {
            self.first_byte = None;
            return None;
        }
        Some(now + SOON.max(since / 8))
    }

    /// Whether the first packet has gone to a client.
    pub fn find_first_byte(&mut self, sample: &Sample) {
        let Some(waiting) = &mut self.first_byte else {
            return;
        };
        let packets = sample.front.sent_packets + sample.steered.sent_packets;
        let before = *waiting.before.get_or_insert(packets);
        if packets > before
            && self.run == Some(waiting.began)
            && let Some(took) = sample.last_activity.and_then(|at| at.since(waiting.began))
        {
            self.told.push(What::FirstByte {
                after: millis(took),
            });
            self.first_byte = None;
        }
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
