//! How long a service ran and how long it did not, by systemd's time stamps.

use std::time::Duration;

use ondemand_core::{measure::Ktime, runs::Stamps};
use serde::{Deserialize, Serialize};

/// Sums of time spans. None ever decreases.
///
/// A service runs from the begin of its start to the end of its stop: both sums together are the
/// time since it was first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    active: Duration,
    inactive: Duration,
    /// Bytes times nanoseconds.
    saved: u128,
    /// The same of the time for which it ran.
    #[serde(default)]
    used: u128,
    /// The last measurement, in bytes.
    memory: Option<u64>,
    /// The present state, as far as known.
    present: Option<Present>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Present {
    active: bool,
    /// A failed unit gives memory back too, but this is not a saving.
    failed: bool,
    /// Everything before it is summed.
    until: Ktime,
    /// The stamps of the changes that are accounted for.
    begun: Option<Ktime>,
    ended: Option<Ktime>,
}

impl Times {
    /// Seconds from the begin of starts to the end of stops.
    pub fn active(&self) -> f64 {
        self.active.as_secs_f64()
    }

    /// Seconds between them.
    pub fn inactive(&self) -> f64 {
        self.inactive.as_secs_f64()
    }

    /// Unused memory, times seconds. `None`: the service's memory is unknown.
    pub fn saved_byte_seconds(&self) -> Option<f64> {
        self.memory.map(|_| self.saved as f64 / 1e9)
    }

    /// Used memory, times seconds. `None`: the service's memory is unknown.
    pub fn used_byte_seconds(&self) -> Option<f64> {
        self.memory.map(|_| self.used as f64 / 1e9)
    }

    /// Its memory when it was last measured, in bytes.
    pub fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// A measurement of the service's memory in bytes.
    pub fn measured(&mut self, memory: u64) {
        if self.present.is_some_and(|present| present.active) {
            self.memory = Some(memory);
        }
    }

    /// The next state belongs to another unit.
    pub fn forget(&mut self) {
        self.memory = None;
        self.present = None;
    }

    /// The stamps that are accounted for, without that of its last run, and the unit's state then.
    /// `None`: unknown, or of another boot.
    pub fn known(&self, now: Ktime) -> Option<Stamps> {
        let present = self.present.filter(|present| present.until <= now)?;
        Some(Stamps {
            began: present.begun,
            down: present.ended,
            active: present.active,
            failed: present.failed,
            ..Stamps::default()
        })
    }

    /// Starts with systemd's present state: what was before is unknown.
    pub fn begin(&mut self, stamps: &Stamps, now: Ktime) {
        self.present = Some(Present {
            active: stamps.active,
            failed: stamps.failed,
            until: now,
            begun: stamps.began,
            ended: stamps.down,
        });
    }

    /// The unit began to start, or is down. `at`: systemd's stamp, if there is one.
    pub fn turn(&mut self, active: bool, failed: bool, at: Option<Ktime>, now: Ktime) {
        self.advance(at.map_or(now, |at| at.min(now)));
        if let Some(present) = &mut self.present {
            (present.active, present.failed) = (active, failed);
            let stamp = match active {
                true => &mut present.begun,
                false => &mut present.ended,
            };
            *stamp = at.or(*stamp);
        }
    }

    /// Adds the time until `to`, if nothing has changed until then.
    pub fn advance(&mut self, to: Ktime) {
        let Some(present) = &mut self.present else {
            return;
        };
        let Some(span) = to.since(present.until) else {
            return; // That much is summed already.
        };
        present.until = to;
        if present.active {
            self.active = self.active.saturating_add(span);
            if let Some(memory) = self.memory {
                self.used = self
                    .used
                    .saturating_add(u128::from(memory) * span.as_nanos());
            }
            return;
        }
        self.inactive = self.inactive.saturating_add(span);
        if let Some(memory) = self.memory.filter(|_| !present.failed) {
            self.saved = self
                .saved
                .saturating_add(u128::from(memory) * span.as_nanos());
        }
    }
}

#[cfg(test)]
mod tests {
    use ondemand_core::{
        measure::unit::{ActiveState, Unit},
        runs::Change,
    };

    use super::*;

    /// Passes systemd's state of the unit, as the metrics get it.
    fn follow(times: &mut Times, unit: &Unit, now: Ktime) -> bool {
        let Some(stamps) = Stamps::of(unit) else {
            return false;
        };
        let Some(known) = times.known(now) else {
            times.begin(&stamps, now);
            return true;
        };
        let changes = stamps.since(&known);
        for change in &changes {
            match change {
                Change::Began => times.turn(true, false, stamps.began, now),
                Change::Down => times.turn(false, false, stamps.down, now),
                Change::Failed => times.turn(false, true, stamps.down, now),
                Change::Up => {}
            }
        }
        changes.iter().any(|change| *change != Change::Up)
    }

    fn at(seconds: u64) -> Ktime {
        Ktime::from_nanos(seconds * 1_000_000_000)
    }

    fn unit(state: &str, begun: u64, ended: u64) -> Unit {
        let stamp = |seconds: u64| (seconds > 0).then(|| at(seconds));
        Unit {
            state: ActiveState::parse(state),
            inactive_exit: stamp(begun),
            inactive_enter: stamp(ended),
            ..Unit::default()
        }
    }

    /// Steps: systemd's state (state, begun, ended) and when; then the sums at `end`.
    #[track_caller]
    fn check(steps: &[(&str, u64, u64, u64)], end: u64, active: f64, inactive: f64, saved: f64) {
        let mut times = Times::default();
        for (state, begun, ended, now) in steps {
            follow(&mut times, &unit(state, *begun, *ended), at(*now));
            times.measured(100);
        }
        times.advance(at(end));
        assert_eq!(
            (times.active(), times.inactive()),
            (active, inactive),
            "active, inactive"
        );
        assert_eq!(times.saved_byte_seconds().unwrap_or(0.0), saved, "saved");
    }

    #[test]
    fn spans_are_dated_by_systemd() {
        // What was before the first look is not counted.
        check(&[("active", 5, 0, 10)], 15, 5.0, 0.0, 0.0);
        check(&[("inactive", 0, 0, 10)], 15, 0.0, 5.0, 0.0);
        check(
            &[("active", 5, 0, 10), ("inactive", 5, 12, 14)],
            20,
            2.0,
            8.0,
            800.0,
        );
        // Starting and stopping count as running.
        check(
            &[
                ("inactive", 0, 0, 10),
                ("activating", 12, 0, 12),
                ("active", 12, 0, 14),
                ("deactivating", 12, 0, 16),
                ("inactive", 12, 17, 17),
            ],
            18,
            5.0,
            3.0,
            100.0,
        );
        check(
            &[("active", 5, 0, 10), ("failed", 5, 12, 14)],
            20,
            2.0,
            8.0,
            0.0,
        );
        // `systemctl reset-failed`.
        check(
            &[
                ("active", 5, 0, 10),
                ("failed", 5, 12, 14),
                ("inactive", 5, 12, 16),
            ],
            20,
            2.0,
            8.0,
            800.0,
        );
        check(
            &[("active", 5, 0, 10), ("unknown", 0, 0, 14)],
            20,
            10.0,
            0.0,
            0.0,
        );
    }

    #[test]
    fn what_nobody_saw_is_counted_as_far_as_the_stamps_tell() {
        // A restart: down from 12 to 13.
        check(
            &[("active", 5, 0, 10), ("active", 13, 12, 20)],
            20,
            9.0,
            1.0,
            100.0,
        );
        // A whole run from 12 to 15.
        check(
            &[("inactive", 0, 5, 10), ("inactive", 12, 15, 20)],
            20,
            3.0,
            7.0,
            0.0,
        );
        // At least one more restart, which left no stamp.
        check(
            &[("active", 5, 0, 10), ("inactive", 13, 15, 20)],
            20,
            5.0,
            5.0,
            500.0,
        );
    }

    #[test]
    fn late_news_take_nothing_back() {
        let mut times = Times::default();
        follow(&mut times, &unit("active", 5, 0), at(10));
        times.advance(at(20));
        assert!(follow(&mut times, &unit("inactive", 5, 15), at(21)));
        assert_eq!((times.active(), times.inactive()), (10.0, 0.0));
        times.advance(at(22));
        assert_eq!((times.active(), times.inactive()), (10.0, 2.0));
        times.advance(at(12));
        assert_eq!((times.active(), times.inactive()), (10.0, 2.0));
        assert!(
            !follow(&mut times, &unit("inactive", 5, 15), at(23)),
            "no news"
        );
    }

    #[test]
    fn another_boot_begins_anew_and_keeps_the_sums() {
        let mut times = Times::default();
        follow(&mut times, &unit("active", 5, 0), at(100));
        times.advance(at(110));
        follow(&mut times, &unit("active", 1, 0), at(2));
        times.advance(at(5));
        assert_eq!(times.active(), 13.0);
    }
}
