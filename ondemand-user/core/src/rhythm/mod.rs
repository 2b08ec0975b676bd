//! When a service's next client is expected, so that it is up before that client (`prewarm`).
//!
//! A *return* is a use after a gap that was longer than the idle timeout: its client waits for a start, unless the
//! service was started before. [`Rhythm`] remembers the last ones, and knows some [`Pattern`]s that returns may follow:
//! the time since the last return, and the time of the hour, of the day and of the week. Each foretells windows in
//! which it would have the service up, and is judged by what these would have cost and saved, whether they are acted on
//! or not: a return in one saves a cold start and costs the wait for it; a window without one was in vain. The best
//! pattern is acted on once it has earned [`TRUST`], until it has lost that. Traffic without a rhythm earns nothing.
//!
//! People live by the wall clock of their place, programs elsewhere by that of theirs: patterns of the day exist for
//! the local time and for UTC, and at a change to or from daylight saving time the wrong one loses.
//!
//! It is a function of its arguments, in about 2 KB.

mod fit;
mod pattern;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

pub use pattern::Kind;
use pattern::Pattern;
use serde::{Deserialize, Serialize};

/// Maximum number of returns that are remembered.
const MOST: usize = 64;
/// What a pattern must have saved before it is acted on. Cold starts.
pub const TRUST: f64 = 0.5;
/// What it may have saved up for worse times, and what it may have to make good. Cold starts.
const SAVED_UP: f64 = 3.0;
const OWED: f64 = 1.0;
/// How much of it is left after each window, or return.
const FADES: f64 = 0.97;

/// No clock shows more. Seconds.
const FARTHEST: i64 = 1 << 38;

/// A moment of the wall clock, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    utc: i64,
    local: i64,
}

impl Moment {
    /// `utc` is the time since 1970, `local` what the local wall clock shows, as if that were UTC.
    pub fn new(utc: i64, local: i64) -> Self {
        let [utc, local] = [utc, local].map(|at| at.clamp(-FARTHEST, FARTHEST));
        Self { utc, local }
    }

    /// The same so much earlier.
    fn before(self, span: i64) -> Self {
        Self::new(
            self.utc.saturating_sub(span),
            self.local.saturating_sub(span),
        )
    }
}

/// What a window's cost depends on besides its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// A cold start is as bad as so much time up and idle.
    pub cold_start: Duration,
    /// How long a start takes.
    pub start: Duration,
    /// How long the service is up after its last use.
    pub idle_timeout: Duration,
}

impl Terms {
    fn cost(&self) -> f64 {
        self.cold_start.as_secs_f64()
    }

    /// A start of which nobody waits for the end costs as long as it takes.
    fn start(&self) -> f64 {
        self.start.as_secs_f64().max(1.0)
    }
}

/// A time in which the service is to be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it begins. Seconds of the pattern's clock.
    pub opens: i64,
    /// When it is over, if nobody has come.
    pub closes: i64,
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// How long until the service is to be started; zero: now.
    pub opens_in: Duration,
    /// How long until nobody is expected any more.
    pub closes_in: Duration,
    /// By which pattern.
    pub kind: Kind,
}

/// What is known of the returns of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rhythm {
    returns: VecDeque<Moment>,
    /// When the first return was, of all.
    since: Option<Moment>,
    patterns: Vec<Pattern>,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            returns: VecDeque::new(),
            since: None,
            patterns: Kind::ALL.map(Pattern::new).into(),
        }
    }
}

impl Rhythm {
    /// Takes a use that began `at` after a gap. A gap that the service was up in is none to learn from.
    pub fn returned(&mut self, at: Moment, gap: Duration, terms: &Terms) {
        if gap <= terms.idle_timeout {
            return;
        }
        let down = at.before(seconds(gap.saturating_sub(terms.idle_timeout)));
        for pattern in &mut self.patterns {
            pattern.pass(at, Some(down), terms);
            pattern.judge(at, down, terms);
        }
        self.since.get_or_insert(at);
        if self.returns.len() == MOST {
            self.returns.pop_front();
            self.since = self.returns.front().copied();
        }
        // After a step of the clock the order would be wrong, and with it all that is concluded.
        if self.returns.back().is_some_and(|last| last.utc > at.utc) {
            self.returns.clear();
            self.since = Some(at);
        }
        self.returns.push_back(at);
        let since = self.since.unwrap_or(at);
        for pattern in &mut self.patterns {
            pattern.fit(self.returns.iter().copied(), since, terms);
            pattern.expect(at);
        }
    }

    /// Judges windows that are over. `quiet`: for how long the service has been unused; `None`: it is in use.
    pub fn pass(&mut self, now: Moment, quiet: Option<Duration>, terms: &Terms) {
        let down = quiet.map(|quiet| now.before(seconds(quiet.saturating_sub(terms.idle_timeout))));
        for pattern in &mut self.patterns {
            pattern.pass(now, down, terms);
        }
    }

    /// When the next client is expected, if that can be said.
    pub fn expected(&self, now: Moment) -> Option<Expected> {
        let trusted = self.patterns.iter().filter_map(|pattern| {
            let window = pattern.trusted_window()?;
            (window.closes > pattern.kind().clock(now)).then_some((pattern, window))
        });
        let (best, window) = trusted.max_by(|(a, _), (b, _)| a.lately().total_cmp(&b.lately()))?;
        let now = best.kind().clock(now);
        let until = |at: i64| Duration::from_secs(u64::try_from(at - now).unwrap_or(0));
        Some(Expected {
            opens_in: until(window.opens),
            closes_in: until(window.closes),
            kind: best.kind(),
        })
    }

    /// The number of returns that it rests on.
    pub fn returns(&self) -> usize {
        self.returns.len()
    }

    /// Whether it is a state that could have come from returns: for one that was stored.
    pub fn is_sound(&self) -> bool {
        let kinds = self.patterns.iter().map(Pattern::kind);
        let moments = self.returns.iter().chain(&self.since);
        self.returns.len() <= MOST
            && moments
                .copied()
                .all(|at| at == Moment::new(at.utc, at.local))
            && kinds.eq(Kind::ALL)
            && self.patterns.iter().all(Pattern::is_sound)
    }
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}
