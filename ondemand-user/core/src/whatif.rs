//! What other idle timeouts would have meant, as counters that only grow: [`crate::replay`], gap by gap, in a form
//! that adds up over services, hosts and months, and that outlives the agent.
//!
//! Its input is what the history is told of the same uses, in the same milliseconds, so that both come to the same
//! sums. A gap counts when it is over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::replay::{Replay, Timeouts};

/// Starts closer than this are the same start: a client connects just before the start that it causes. Milliseconds.
pub const SAME_START: i64 = 2_000;
/// A use this long after the last one is the same one. Milliseconds.
const SAME_USE: i64 = 1_000;

/// When a client connected that no agent saw: it began a run, or used one that an agent saw quiet. All times are
/// milliseconds of one clock. `None`: there was none.
///
/// `quiet`: since when the service was unused when it was last looked at. `started`: when its last start began. `used`:
/// its last use.
pub fn unseen(quiet: Option<i64>, started: Option<i64>, used: i64) -> Option<i64> {
    let started = started.filter(|started| used >= started.saturating_sub(SAME_START));
    match (started, quiet) {
        (Some(started), Some(quiet)) if started > quiet => Some(started),
        (_, Some(quiet)) if used > quiet.saturating_add(SAME_USE) => Some(used),
        (Some(started), None) => Some(started),
        _ => None,
    }
}

/// The gaps of one service, by the timeouts of [`Timeouts::ladder`] and by the learned one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhatIf {
    replay: Replay,
    /// With the learned timeout.
    auto: Auto,
    /// The gap that is not over.
    quiet: Option<Quiet>,
    /// The last arrival. Milliseconds of `CLOCK_MONOTONIC`.
    arrived: Option<i64>,
}

/// The outcome of the learned timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auto {
    /// Clients that would have waited for a cold start.
    pub cold_starts: u64,
    /// Time up and unused. Microseconds.
    pub warm_idle: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Quiet {
    /// Milliseconds of `CLOCK_MONOTONIC`.
    since: i64,
    /// The learned timeout when the gap began. Microseconds.
    learned: u64,
}

impl Default for WhatIf {
    fn default() -> Self {
        Self {
            replay: Replay::new(Timeouts::ladder()),
            auto: Auto::default(),
            quiet: None,
            arrived: None,
        }
    }
}

impl WhatIf {
    /// It is unused since then: milliseconds of `CLOCK_MONOTONIC`, as in what follows. `learned`: the timeout that is
    /// learned by now. What an earlier agent had learned when the same gap began stays in force for it.
    pub fn quiet(&mut self, since: i64, learned: Duration) {
        let learned = self.quiet.map_or(micros(learned), |quiet| quiet.learned);
        self.quiet = Some(Quiet { since, learned });
    }

    /// A client connected, after this many milliseconds; `None`: unknown how many. `learned`: the timeout that was
    /// learned from the gaps before, should the begin of this one be unknown.
    pub fn arrived(&mut self, at: i64, gap: Option<i64>, learned: Duration) {
        self.arrived = Some(at);
        let quiet = self.quiet.take();
        let Some(gap) = gap.and_then(|gap| u64::try_from(gap).ok()) else {
            self.replay.first();
            self.auto.cold_starts = self.auto.cold_starts.saturating_add(1);
            return;
        };
        let gap = gap.saturating_mul(1000);
        self.replay.gap(Timeouts::ladder(), gap);
        let timeout = quiet.map_or(micros(learned), |quiet| quiet.learned);
        let auto = &mut self.auto;
        auto.cold_starts = auto.cold_starts.saturating_add(u64::from(gap > timeout));
        auto.warm_idle = auto.warm_idle.saturating_add(gap.min(timeout));
    }

    /// What the first look of an agent finds: see [`unseen`].
    pub fn found(&mut self, started: Option<i64>, used: i64, learned: Duration) {
        let quiet = self.quiet.map(|quiet| quiet.since);
        let Some(at) = unseen(quiet, started, used) else {
            return;
        };
        let is_known = |arrived: i64| arrived >= at.saturating_sub(SAME_START);
        if !self.arrived.is_some_and(is_known) {
            self.arrived(at, quiet.map(|quiet| at.saturating_sub(quiet)), learned);
        }
    }

    /// Adds the gaps of another service.
    pub fn merge(&mut self, other: &Self) {
        self.replay.merge(&other.replay);
        let (auto, more) = (&mut self.auto, &other.auto);
        auto.cold_starts = auto.cold_starts.saturating_add(more.cold_starts);
        auto.warm_idle = auto.warm_idle.saturating_add(more.warm_idle);
    }

    /// The outcomes of the timeouts of [`Timeouts::ladder`].
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// The outcome of the learned timeout.
    pub fn auto(&self) -> Auto {
        self.auto
    }

    /// Whether it is a state that could have come from gaps: for one that was stored.
    pub fn is_sound(&self) -> bool {
        self.replay.has(Timeouts::ladder())
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Learning,
        learned::{Learned, Trial},
        replay::LADDER,
    };

    /// Microseconds by timeout.
    fn outcomes(whatif: &WhatIf) -> Vec<(u64, u64, u128)> {
        let outcomes = whatif.replay().outcomes(Timeouts::ladder());
        let row = |it: crate::replay::Outcome| (it.timeout, it.cold_starts, it.warm_idle);
        outcomes.into_iter().map(row).collect()
    }

    /// Gaps in milliseconds: from a moment to a month, the edges of the ladder and a millisecond beside them; the same
    /// on every host.
    fn gaps(mut seed: u64) -> Vec<Option<i64>> {
        let mut next = move || {
            // xorshift64*
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            seed.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
        };
        let mut gap = || match next() % 8 {
            0 => None,
            1 | 2 => {
                let edge = LADDER[next() as usize % LADDER.len()] as i64 * 1000;
                Some(edge - 1 + (next() % 3) as i64)
            }
            _ => Some((next() % (1 << (next() % 32))) as i64),
        };
        (0..400).map(|_| gap()).collect()
    }

    #[test]
    fn each_step_is_the_replay_whoever_watches() {
        for seed in 1..50 {
            let terms = Learning::default().terms(None);
            let (mut replay, mut trial) = (Replay::new(Timeouts::ladder()), Trial::new(terms));
            let (mut whatif, mut learned, mut now) = (WhatIf::default(), Learned::new(terms), 1000);
            for (index, gap) in gaps(seed).into_iter().enumerate() {
                match gap {
                    None => {
                        replay.first();
                        trial.first();
                    }
                    Some(gap) => {
                        replay.gap(Timeouts::ladder(), gap as u64 * 1000);
                        trial.gap(gap as u64 * 1000);
                    }
                }
                // Two agents are killed now and then: what one has written is read by the next one.
                if index % 3 == 0 {
                    let text = serde_json::to_string(&whatif).unwrap();
                    assert_eq!(serde_json::from_str::<WhatIf>(&text).unwrap(), whatif);
                    assert!(whatif.is_sound() && text.len() < 1024, "{text}");
                }
                let Some(gap) = gap else {
                    now += 5000;
                    whatif.arrived(now, None, Duration::ZERO);
                    continue;
                };
                whatif.quiet(now, learned.timeout());
                let arrived = now + gap;
                if index % 5 == 0 && gap > 3000 {
                    // An agent that had not learned as much finds it still unused, and is killed. The next one finds
                    // the start that the client has caused, and its connection is closed.
                    whatif.found(Some(now - 100), now, Duration::ZERO);
                    whatif.quiet(now, Duration::from_secs(1));
                    whatif.found(Some(arrived), arrived + 2500, Duration::ZERO);
                    // And one more finds nothing new.
                    whatif.found(Some(arrived), arrived + 2500, Duration::ZERO);
                } else {
                    whatif.arrived(arrived, Some(gap), Duration::ZERO);
                }
                learned.learn(Duration::from_millis(gap as u64));
                now = arrived + 2500;
            }
            let expected = replay.outcomes(Timeouts::ladder());
            let expected = expected
                .iter()
                .map(|it| (it.timeout, it.cold_starts, it.warm_idle));
            assert_eq!(outcomes(&whatif), expected.collect::<Vec<_>>(), "{seed}");
            let (auto, outcome) = (whatif.auto(), trial.outcome());
            assert_eq!(auto.cold_starts, outcome.cold_starts, "{seed}");
            assert_eq!(u128::from(auto.warm_idle), outcome.warm_idle, "{seed}");
        }
    }

    #[test]
    fn a_client_that_no_agent_saw() {
        #[track_caller]
        fn check(quiet: Option<i64>, started: Option<i64>, used: i64, expected: Option<i64>) {
            assert_eq!(unseen(quiet, started, used), expected);
        }
        // It began a run, or used one.
        check(Some(10_000), Some(20_000), 21_000, Some(20_000));
        check(Some(10_000), Some(20_000), 19_000, Some(20_000));
        check(Some(10_000), Some(5_000), 21_000, Some(21_000));
        check(Some(10_000), None, 21_000, Some(21_000));
        // The first one that is known.
        check(None, Some(20_000), 21_000, Some(20_000));
        // Nobody came.
        check(Some(10_000), Some(5_000), 10_900, None);
        check(Some(10_000), Some(20_000), 9_000, None);
        check(None, Some(20_000), 9_000, None);
        check(None, None, 9_000, None);
        check(Some(i64::MAX), Some(i64::MIN), i64::MIN, None);
    }

    #[test]
    fn sums_of_services_are_sums_of_outcomes() {
        let (mut sum, mut expected) = (WhatIf::default(), Vec::new());
        for seed in [7, 8] {
            let mut one = WhatIf::default();
            for (index, gap) in gaps(seed).into_iter().enumerate() {
                one.arrived(index as i64, gap, Duration::from_secs(60));
            }
            sum.merge(&one);
            expected.push(one);
        }
        let [one, other] = [&expected[0], &expected[1]].map(outcomes);
        let rows = one.iter().zip(&other);
        let rows = rows.map(|(one, other)| (one.0, one.1 + other.1, one.2 + other.2));
        assert_eq!(outcomes(&sum), rows.collect::<Vec<_>>());
        assert_eq!(
            sum.auto().warm_idle,
            expected[0].auto().warm_idle + expected[1].auto().warm_idle
        );
    }

    #[test]
    fn a_damaged_record_overflows_nothing() {
        let most = u64::MAX;
        let text = format!(
            r#"{{"replay":{{"buckets":[{}],"first":{most},"open":{most}}},
                "auto":{{"cold_starts":{most},"warm_idle":{most}}},
                "quiet":{{"since":{},"learned":{most}}},"arrived":{}}}"#,
            vec![format!("[{most},{most}]"); LADDER.len() + 1].join(","),
            i64::MIN,
            i64::MIN
        );
        let mut whatif: WhatIf = serde_json::from_str(&text).unwrap();
        assert!(whatif.is_sound());
        whatif.found(Some(i64::MAX), i64::MAX, Duration::MAX);
        whatif.arrived(i64::MAX, Some(i64::MAX), Duration::MAX);
        whatif.arrived(i64::MIN, Some(i64::MIN), Duration::ZERO);
        whatif.merge(&whatif.clone());
        assert_eq!(outcomes(&whatif)[0].1, most);
        let short = text.replacen(&format!("[[{most},{most}],"), "[", 1);
        assert!(!serde_json::from_str::<WhatIf>(&short).unwrap().is_sound());
    }
}
