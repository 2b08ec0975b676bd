//! The ways of a service's clients beside ordinary connections, as sums.

use std::time::Duration;

use super::{DatagramTally, Tally};
use crate::measure::sample::Sample;

/// What has come of clients that were held, refused, or sent datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Clients that were held.
    pub held: Tally,
    /// [`Sample::refused`].
    pub refused: u64,
    /// [`Sample::datagrams`].
    pub datagrams: u64,
    /// [`Sample::refused_datagrams`].
    pub refused_datagrams: u64,
    /// Datagrams that were held: those that were sent to the application.
    pub sent_datagrams: u64,
    /// Datagrams that were held: the others.
    pub lost_datagrams: u64,
}

impl Ways {
    /// Those of a service.
    pub fn new(sample: &Sample, held: Tally, datagrams: DatagramTally) -> Self {
        Self {
            held,
            refused: sample.refused,
            datagrams: sample.datagrams,
            refused_datagrams: sample.refused_datagrams,
            sent_datagrams: datagrams.sent,
            lost_datagrams: datagrams.lost(),
        }
    }

    /// What has been added to these since then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let held = self.held.held.saturating_sub(before.held.held);
        self.with(before, u64::saturating_sub, held)
    }

    /// Both together, capped at the largest numbers.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let held = self.held.held.saturating_add(other.held.held);
        self.with(other, u64::saturating_add, held)
    }

    fn with(&self, other: &Self, both: fn(u64, u64) -> u64, held: Duration) -> Self {
        let number = |of: fn(&Self) -> u64| both(of(self), of(other));
        Self {
            held: Tally {
                to_application: number(|of| of.held.to_application),
                to_front: number(|of| of.held.to_front),
                late: number(|of| of.held.late),
                gave_up: number(|of| of.held.gave_up),
                held,
            },
            refused: number(|of| of.refused),
            datagrams: number(|of| of.datagrams),
            refused_datagrams: number(|of| of.refused_datagrams),
            sent_datagrams: number(|of| of.sent_datagrams),
            lost_datagrams: number(|of| of.lost_datagrams),
        }
    }

    /// How long a client was held on average, of those that were sent on. `None`: none was.
    pub fn mean_held(&self) -> Option<Duration> {
        let sent = self.held.to_application + self.held.to_front;
        let nanos = self.held.held.as_nanos().checked_div(u128::from(sent))?;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added() {
        let ways = |number| Ways {
            held: Tally {
                to_application: number,
                to_front: 1,
                held: Duration::from_millis(10 * number),
                ..Tally::default()
            },
            refused: number,
            datagrams: 2 * number,
            ..Ways::default()
        };
        let added = ways(5).since(&ways(2));
        assert_eq!((added.held.to_application, added.held.to_front), (3, 0));
        assert_eq!((added.refused, added.datagrams), (3, 6));
        assert_eq!(added.mean_held(), Some(Duration::from_millis(10)));
        assert_eq!(Ways::default().mean_held(), None);
        let both = added.and(&ways(2));
        assert_eq!((both.held.to_application, both.datagrams), (5, 10));
        assert_eq!(both.held.held, Duration::from_millis(50));
        // The kernel's counters began anew.
        assert_eq!(ways(2).since(&ways(5)).datagrams, 0);
    }
}
