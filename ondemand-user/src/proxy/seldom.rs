//! A complaint that would be repeated many times a second.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines.
const APART: Duration = Duration::from_secs(1);

/// Decides when to log it. Pure: time is an argument.
#[derive(Default)]
pub struct Seldom {
    last: Option<Instant>,
    suppressed: u64,
}

impl Seldom {
    /// Whether to log it now: the number of times that it was not logged since the last line.
    pub fn occurs(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + APART) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
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
