//! What would be done many times a second.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two times.
pub const APART: Duration = Duration::from_secs(1);

/// Something that is done at most once a second. Pure: time is an argument.
#[derive(Default)]
pub struct OnceASecond(Option<Instant>);

impl OnceASecond {
    /// When it may be done again: `now`, or later.
    pub fn earliest(&self, now: Instant) -> Instant {
        self.0.map_or(now, |last| now.max(last + APART))
    }

    /// It is done.
    pub fn done(&mut self, now: Instant) {
        self.0 = Some(now);
    }
}

/// Decides when to log a complaint.
#[derive(Default)]
pub struct Seldom {
    lines: OnceASecond,
    suppressed: u64,
}

impl Seldom {
    /// Whether to log it now: the number of times that it was not logged since the last line.
    pub fn occurs(&mut self, now: Instant) -> Option<u64> {
        if self.lines.earliest(now) > now {
            self.suppressed += 1;
            return None;
        }
        self.lines.done(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_counts_the_others() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        let mut at = |ms| seldom.occurs(start + Duration::from_millis(ms));
        assert_eq!(at(0), Some(0));
        assert_eq!(at(100), None);
        assert_eq!(at(999), None);
        assert_eq!(at(1_000), Some(2));
        assert_eq!(at(1_500), None);
        assert_eq!(at(9_000), Some(1));
        assert_eq!(at(10_000), Some(0));
    }
}
