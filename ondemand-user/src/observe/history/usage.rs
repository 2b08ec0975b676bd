//! The use of one service over time: its runs in the history, and the quiet gaps between
//! arrivals.
//!
//! There is no polling while it is unused: the kernel reports the next connection. While it is
//! used, it is looked at once per second at most. So a gap shorter than [`QUIET`] does not count,
//! unless the service was down in it.

use std::time::Duration;

use ondemand_core::{
    caught::Ways,
    measure::Ktime,
    runs::{Run, RunEvent, StopReason},
};

use super::{Eviction, Turns, What, monotonic};

/// How long a service must be unused before the event of the next connection is requested.
const QUIET: Duration = Duration::from_secs(1);

/// The known use of one service.
#[derive(Default)]
pub struct Usage {
    /// When to look at it again.
    pub wake: Option<Ktime>,
    /// The start of the present or last run in the history.
    pub run: Option<Ktime>,
    state: State,
    told: Vec<What>,
    /// How its clients had come at the end of the previous run.
    ways: Option<Ways>,
    /// Of the present run, and of the wait before it.
    turns: Turns,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Used,
    /// Unused since then. `None`: unknown since when.
    Quiet(Option<Ktime>),
}

impl Usage {
    /// Takes the new records.
    pub fn told(&mut self) -> Vec<What> {
        std::mem::take(&mut self.told)
    }

    /// Takes an event of the application. `ways`: how its clients have come so far; `None`: unknown.
    pub fn happened(&mut self, event: &RunEvent, now: Ktime, ways: Option<Ways>) {
        if let RunEvent::Found(_) = event {
            self.ways = ways;
        }
        match *event {
            // The result of a start or a stop in progress is not known yet.
            RunEvent::Found(found) if found.running => {
                if let Some(ended) = found.down.filter(|down| Some(*down) <= found.began) {
                    let ended = monotonic(ended);
                    self.told.push(What::Before { ended });
                }
                self.up(found.began.or(found.up));
            }
            RunEvent::Found(found) if !found.active => {
                let since = monotonic(found.down.unwrap_or(now));
                let was_up = found.began <= found.up && found.up <= found.down;
                self.told.push(match found.began.filter(|_| was_up) {
                    Some(began) => What::Ran {
                        started: monotonic(began),
                        ended: since,
                    },
                    None => What::Down { since },
                });
            }
            RunEvent::Started(start) => self.up(start.began.or(start.up)),
            RunEvent::Listening { after, .. } => {
                let after = millis(after);
                self.told.push(What::Listening { after });
            }
            RunEvent::FirstByte { after } => {
                let after = millis(after);
                self.told.push(What::FirstByte { after });
            }
            RunEvent::Ended {
                at, reason, run, ..
            } => self.stopped(at, reason, run, ways),
            RunEvent::StartFailed { began, at } => {
                self.up(began);
                self.stopped(at, StopReason::Failed, Run::default(), ways);
            }
            _ => {}
        }
    }

    fn stopped(&mut self, at: Ktime, reason: StopReason, run: Run, ways: Option<Ways>) {
        let since = ways.zip(self.ways).map(|(now, before)| now.since(&before));
        self.ways = ways.or(self.ways);
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.told.push(What::Stopped {
            at: monotonic(at),
            reason,
            connections: number(run.connections),
            received: number(run.received_bytes),
            sent: number(run.sent_bytes),
            proxied: number(run.proxied),
            silent: number(run.silent),
            ways: since,
            turns: std::mem::take(&mut self.turns),
        });
    }

    /// Its start has waited for room.
    pub fn waited(&mut self, span: Duration) {
        self.turns.waited = self.turns.waited.saturating_add(millis(span));
    }

    /// A client had it thawed.
    pub fn thawed(&mut self, span: Duration) {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let turns = &mut self.turns;
        turns.thaws += 1;
        turns.thawing = turns.thawing.saturating_add(micros);
        turns.longest_thaw = turns.longest_thaw.max(micros);
    }

    /// It makes room.
    pub fn evicted(&mut self, why: Eviction) {
        self.turns.evicted = Some(why);
    }

    fn up(&mut self, began: Option<Ktime>) {
        if let Some(began) = began {
            self.run = Some(began);
            self.told.push(What::Up {
                started: monotonic(began),
            });
        }
    }

    /// How long it has been unused, whether it is up or down. `None`: unknown.
    pub fn unused(&self, now: Ktime) -> Option<Duration> {
        match self.state {
            State::Used => Some(Duration::ZERO),
            State::Quiet(since) => now.since(since?),
            State::Unknown => None,
        }
    }

    /// Whether no look has shown its use yet.
    pub fn is_new(&self) -> bool {
        self.state == State::Unknown
    }

    /// Takes what happened before the first look: when its last start began, and its last use.
    pub fn found(&mut self, started: Option<Ktime>, used: Option<Ktime>) {
        let Some(used) = used.map(monotonic) else {
            return;
        };
        let started = started.map(monotonic);
        self.told.push(What::Found { started, used });
    }

    /// Takes a look at the connections. Returns true if the event of the next one must be requested.
    pub fn look(&mut self, now: Ktime, open: Option<u64>, last: Option<Ktime>, up: bool) -> bool {
        self.wake = None;
        let Some(open) = open else {
            return false; // Unknown.
        };
        if let State::Quiet(since) = self.state {
            if open == 0 && last <= since {
                return false;
            }
            // Of a client that has closed again, only the last activity is known.
            let at = if open > 0 { now } else { last.unwrap_or(now) };
            let gap = since.and_then(|since| at.since(since)).map(millis);
            self.told.push(What::Arrived {
                at: monotonic(at),
                gap,
            });
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
            self.told.push(What::Quiet {
                since: monotonic(last),
            });
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

    /// The gap before an arrival, whether to request the next event, and the next look.
    type Seen = (Option<Option<i64>>, bool, Option<u64>);

    /// Looks at (now, open, last, up), milliseconds; expected: gaps, and the next look.
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
        // A gap while it is up, and none shorter than a second.
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
        // A client that connected and closed before the look; then a gap shorter than a second
        // while it is down.
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
