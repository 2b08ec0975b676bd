//! Holds: services that stay up on request, however idle they are. Pure: both clocks are
//! arguments.
//!
//! A hold lasts for the requested time. While the host is up, it is measured on `CLOCK_BOOTTIME`,
//! which cannot be set. Across a reboot, the rest follows from the wall clock, and is never more
//! than before: a clock that was set back cannot lengthen a hold.

mod file;

use std::{collections::BTreeMap, fmt, time::Duration};

pub use file::{parse, text};
use jiff::{Timestamp, Unit};

use crate::words::Span;

/// Both clocks at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since boot, with the time spent suspended (`CLOCK_BOOTTIME`).
    pub uptime: Duration,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// The wall clock's time after `span`, rounded to the second: a finer value would differ at each
    /// computation.
    fn after(&self, span: Duration) -> Timestamp {
        let exact = self.wall.saturating_add(span).unwrap_or(Timestamp::MAX);
        exact.round(Unit::Second).unwrap_or(exact)
    }
}

/// The remaining time of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Until it is released.
    UntilReleased,
    /// Until it expires.
    For(Duration),
}

impl Left {
    /// Microseconds of the wall clock since 1970, as on the bus; `u64::MAX` without an end.
    pub fn until_micros(self, now: &Moment) -> u64 {
        match self {
            Self::UntilReleased => u64::MAX,
            Self::For(left) => u64::try_from(now.after(left).as_microsecond()).unwrap_or(0),
        }
    }

    /// The end by the wall clock. `None`: there is none.
    pub fn until(self, now: &Moment) -> Option<Timestamp> {
        match self {
            Self::UntilReleased => None,
            Self::For(left) => Some(now.after(left)),
        }
    }
}

/// For display: `held until released`, `held for 2 h`.
impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UntilReleased => f.write_str("held until released"),
            Self::For(left) => write!(f, "held for {}", Span(*left)),
        }
    }
}

/// All holds, by service. A service that is not configured may have one: it may be configured again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Their ends, on the clock of [`Moment::uptime`]; `None`: held until released.
    ends: BTreeMap<String, Option<Duration>>,
}

impl Holds {
    /// Holds a service for `span`, or until it is released. It replaces an earlier hold.
    pub fn set(&mut self, service: &str, span: Option<Duration>, now: &Moment) -> Left {
        let end = span.map(|span| now.uptime.saturating_add(span));
        self.ends.insert(service.to_owned(), end);
        span.map_or(Left::UntilReleased, Left::For)
    }

    /// Ends a hold. Returns false if there was none.
    pub fn release(&mut self, service: &str) -> bool {
        self.ends.remove(service).is_some()
    }

    /// The rest of a service's hold. `None`: it is not held.
    pub fn left(&self, service: &str, now: &Moment) -> Option<Left> {
        left(*self.ends.get(service)?, now)
    }

    /// Removes the expired holds, and returns their services.
    pub fn expire(&mut self, now: &Moment) -> Vec<String> {
        let ended = |end: &Option<Duration>| left(*end, now).is_none();
        let ended: Vec<String> = self
            .ends
            .iter()
            .filter(|(_, end)| ended(end))
            .map(|(service, _)| service.clone())
            .collect();
        self.ends.retain(|service, _| !ended.contains(service));
        ended
    }

    /// The time until the next hold expires.
    pub fn next_end(&self, now: &Moment) -> Option<Duration> {
        let ends = self.ends.values().flatten();
        ends.map(|end| end.saturating_sub(now.uptime)).min()
    }
}

fn left(end: Option<Duration>, now: &Moment) -> Option<Left> {
    match end {
        None => Some(Left::UntilReleased),
        Some(end) => {
            let left = end.saturating_sub(now.uptime);
            (left > Duration::ZERO).then_some(Left::For(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uptime: u64) -> Moment {
        Moment {
            uptime: Duration::from_secs(uptime),
            wall: Timestamp::from_second(1_800_000_000).unwrap(),
        }
    }

    #[track_caller]
    fn check(holds: &Holds, service: &str, uptime: u64, expected: Option<Left>) {
        assert_eq!(
            holds.left(service, &at(uptime)),
            expected,
            "{service} {uptime}"
        );
    }

    #[test]
    fn a_hold_lasts_as_long_as_was_asked() {
        let mut holds = Holds::default();
        let hour = Duration::from_secs(3_600);
        assert_eq!(holds.set("wiki", Some(hour), &at(100)), Left::For(hour));
        assert_eq!(holds.set("llm", None, &at(100)), Left::UntilReleased);
        check(&holds, "wiki", 100, Some(Left::For(hour)));
        check(
            &holds,
            "wiki",
            3_699,
            Some(Left::For(Duration::from_secs(1))),
        );
        check(&holds, "wiki", 3_700, None);
        check(&holds, "llm", 99_999_999, Some(Left::UntilReleased));
        check(&holds, "ci", 100, None);
        assert_eq!(
            holds.next_end(&at(3_000)),
            Some(Duration::from_secs(700)),
            "the endless one has no end"
        );
        assert_eq!(holds.expire(&at(3_699)), [""; 0]);
        assert_eq!(holds.expire(&at(3_700)), ["wiki"]);
        assert_eq!(holds.expire(&at(3_700)), [""; 0]);
        // A new one replaces the old.
        holds.set("llm", Some(hour), &at(4_000));
        check(&holds, "llm", 7_600, None);
        assert!(holds.release("llm"));
        assert!(!holds.release("llm"));
        // The longest possible request does not overflow.
        let left = holds.set("llm", Some(Duration::MAX), &at(4_000));
        assert_eq!(left.until(&at(4_000)), Some(Timestamp::MAX));
    }
}
