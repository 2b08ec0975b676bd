//! What the agent counts of one service, in a form that outlives the agent.
//!
//! Starts and stops are recognised by systemd's time stamps, not by having been watched: what
//! happened while no agent ran is found when the next one first sees the unit. What happened
//! twice in that time is counted once, because systemd keeps only the last stamps.

use std::{collections::BTreeMap, time::Duration};

use ondemand_core::{
    lifecycle::{Counter, note::StopReason},
    measure::{
        Ktime,
        unit::{ActiveState, Unit},
    },
};
use serde::{Deserialize, Serialize};

use super::{histogram::Histogram, times::Times};

/// The counters of one service. All of them only ever grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The application's unit. Stamps of another one mean nothing.
    unit: String,
    /// Starts of the backend.
    pub starts: u64,
    /// How long they took.
    pub start_durations: Histogram,
    /// Ends of its runs, by [`StopReason::as_str`].
    pub stops: BTreeMap<String, u64>,
    /// Stops that were not carried through, by `VetoReason::as_str`.
    pub vetoes: BTreeMap<String, u64>,
    /// Differences between the counters and the socket tables.
    pub drift: u64,
    /// How long it ran, and how long it did not.
    pub times: Times,
    /// Whether the unit was seen before.
    seen: bool,
    /// When the last run that was counted became active.
    run: Option<Ktime>,
    /// Whether it goes on.
    running: bool,
    /// Why it ends, when it ends.
    end: Option<String>,
    /// The start that is not over before its application listens.
    starting: Option<Starting>,
    /// When a listener was seen last.
    listened: Option<Ktime>,
}

/// A start that systemd calls done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Starting {
    begin: Ktime,
    /// What it took for systemd.
    took: Duration,
}

impl Ledger {
    /// Makes it one about `unit`. What was counted of another unit stays counted.
    pub fn set_unit(&mut self, unit: &str) {
        if self.unit == unit {
            return;
        }
        unit.clone_into(&mut self.unit);
        self.times.forget();
        self.seen = false;
        self.running = false;
        self.end = None;
        self.starting = None;
    }

    /// The lifecycle counted something. Starts are not taken from it: see [`Ledger::follow`].
    pub fn count(&mut self, counter: Counter) {
        match counter {
            Counter::Start(_) => {}
            Counter::Stop(reason) if self.running => self.end = Some(reason.as_str().into()),
            Counter::Stop(_) => {}
            Counter::Veto(reason) => {
                add_one(self.vetoes.entry(reason.as_str().into()).or_default());
                self.end = None;
            }
            Counter::Drift => add_one(&mut self.drift),
        }
    }

    /// The lease is being released, or taken again. If the run ends after its release, that is
    /// why, even if the agent does not live to see it.
    pub fn lease(&mut self, released: bool) {
        self.end = released.then(|| StopReason::Idle.as_str().into());
    }

    /// The application began to listen.
    pub fn listens(&mut self, at: Ktime) {
        self.listened = Some(at);
        if let Some(starting) = self.starting.take() {
            self.started(starting);
        }
    }

    /// Takes over what systemd says of the unit. `announced`: a start is not over before
    /// [`Ledger::listens`], which will be called. True: something has changed.
    pub fn follow(&mut self, unit: &Unit, announced: bool, now: Ktime) -> bool {
        let times_changed = self.times.follow(unit, now);
        let up = match unit.state {
            ActiveState::Active | ActiveState::Reloading => true,
            ActiveState::Activating | ActiveState::Inactive | ActiveState::Failed => false,
            // Neither up nor down yet.
            ActiveState::Deactivating | ActiveState::Unknown => return times_changed,
        };
        let new = unit.active_enter.is_some() && unit.active_enter != self.run;
        if !std::mem::replace(&mut self.seen, true) {
            // What was before the first look is nobody's.
            self.run = unit.active_enter;
            self.running = up;
            return true;
        }
        let failed = unit.state == ActiveState::Failed;
        if self.running && (new || !up) {
            self.ended(failed && !new);
        }
        if new {
            self.run = unit.active_enter;
            add_one(&mut self.starts);
            self.begun(unit, announced && up);
            if !up {
                self.ended(failed);
            }
        }
        let changed = times_changed || new || self.running != up;
        self.running = up;
        changed
    }

    fn begun(&mut self, unit: &Unit, announced: bool) {
        let stamps = unit.inactive_exit.zip(unit.active_enter);
        let Some((begin, took)) = stamps.and_then(|(begin, end)| Some((begin, end.since(begin)?)))
        else {
            return;
        };
        let starting = Starting { begin, took };
        if announced
            && self
                .listened
                .is_none_or(|at| unit.since_start(at).is_none())
        {
            self.starting = Some(starting);
        } else {
            self.started(starting);
        }
    }

    /// A start is over when the application listens and systemd says so, whatever comes later.
    fn started(&mut self, starting: Starting) {
        let listened = self.listened.and_then(|at| at.since(starting.begin));
        self.start_durations
            .observe(starting.took.max(listened.unwrap_or_default()));
    }

    fn ended(&mut self, failed: bool) {
        let reason = if failed {
            StopReason::Failed
        } else {
            StopReason::External
        };
        let reason = self.end.take().unwrap_or_else(|| reason.as_str().into());
        add_one(self.stops.entry(reason).or_default());
        // It never listened.
        if let Some(starting) = self.starting.take() {
            self.start_durations.observe(starting.took);
        }
    }
}

/// A counter that was read from a damaged file may be at its end.
fn add_one(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondemand_core::lifecycle::note::VetoReason;

    fn at(seconds: u64) -> Ktime {
        Ktime::from_nanos(seconds * 1_000_000_000)
    }

    /// Begun at `begun`, active since one second later, inactive since `ended`.
    fn unit(state: &str, begun: u64, ended: u64) -> Unit {
        let stamp = |seconds: u64| (seconds > 0).then(|| at(seconds));
        Unit {
            state: ActiveState::parse(state),
            inactive_exit: stamp(begun),
            active_enter: stamp(begun).map(|at| at + Duration::from_secs(1)),
            inactive_enter: stamp(ended),
            ..Unit::default()
        }
    }

    /// Follows `steps`, then compares starts and the stops as `reason=count`.
    #[track_caller]
    fn check(steps: &[(&str, u64, u64)], starts: u64, stops: &str) {
        let mut ledger = Ledger::default();
        for (index, (state, begun, ended)) in steps.iter().enumerate() {
            ledger.follow(&unit(state, *begun, *ended), false, at(100 + index as u64));
        }
        let text = |(reason, count): (&String, &u64)| format!("{reason}={count}");
        let found: Vec<String> = ledger.stops.iter().map(text).collect();
        assert_eq!((ledger.starts, found.join(" ").as_str()), (starts, stops));
        assert_eq!(ledger.start_durations.count(), starts);
    }

    #[test]
    fn runs_are_recognised_by_their_stamps() {
        check(&[("active", 5, 0)], 0, "");
        check(&[("inactive", 5, 7)], 0, "");
        check(&[("inactive", 0, 0), ("active", 5, 0)], 1, "");
        check(&[("active", 5, 0), ("inactive", 5, 9)], 0, "external=1");
        check(&[("active", 5, 0), ("failed", 5, 9)], 0, "failed=1");
        check(
            &[("active", 5, 0), ("deactivating", 5, 0), ("inactive", 5, 9)],
            0,
            "external=1",
        );
        check(&[("active", 5, 0), ("active", 12, 9)], 1, "external=1");
        // A run of which nobody saw anything.
        check(&[("inactive", 5, 7), ("inactive", 10, 12)], 1, "external=1");
        check(
            &[("active", 5, 0), ("failed", 10, 12)],
            1,
            "external=1 failed=1",
        );
        // A crash, and systemd's own restart.
        check(
            &[("active", 5, 0), ("activating", 5, 9), ("active", 11, 9)],
            1,
            "external=1",
        );
        // Told twice.
        check(&[("active", 5, 0), ("active", 5, 0)], 0, "");
        check(&[("active", 5, 0), ("unknown", 5, 0)], 0, "");
    }

    #[test]
    fn the_reason_is_the_lifecycles_or_what_an_earlier_agent_began() {
        #[track_caller]
        fn check(prepare: impl FnOnce(&mut Ledger), expected: &str) {
            let mut ledger = Ledger::default();
            ledger.follow(&unit("active", 5, 0), false, at(10));
            prepare(&mut ledger);
            ledger.follow(&unit("inactive", 5, 12), false, at(13));
            assert_eq!(ledger.stops.keys().collect::<Vec<_>>(), [expected]);
        }
        check(|_| {}, "external");
        check(|ledger| ledger.lease(true), "idle");
        check(
            |ledger| {
                ledger.lease(true);
                ledger.lease(false);
            },
            "external",
        );
        check(
            |ledger| {
                ledger.lease(true);
                ledger.count(Counter::Veto(VetoReason::Needed));
            },
            "external",
        );
        check(
            |ledger| ledger.count(Counter::Stop(StopReason::Failed)),
            "failed",
        );
    }

    #[test]
    fn a_start_is_over_when_the_application_listens_and_systemd_says_so() {
        /// Seconds at which it listens, before and after systemd calls it active at 6.
        #[track_caller]
        fn check(before: Option<u64>, after: Option<u64>, expected: f64) {
            let mut ledger = Ledger::default();
            ledger.follow(&unit("inactive", 0, 0), true, at(1));
            if let Some(seconds) = before {
                ledger.listens(at(seconds));
            }
            ledger.follow(&unit("active", 5, 0), true, at(6));
            if let Some(seconds) = after {
                ledger.listens(at(seconds));
            }
            ledger.follow(&unit("inactive", 5, 20), true, at(20));
            let durations = &ledger.start_durations;
            assert_eq!((durations.count(), durations.sum()), (1, expected));
        }
        check(None, None, 1.0);
        check(Some(5), None, 1.0);
        check(Some(2), Some(8), 3.0);
        check(None, Some(8), 3.0);
        check(None, Some(6), 1.0);
    }

    #[test]
    fn another_unit_is_another_life() {
        let mut ledger = Ledger::default();
        ledger.set_unit("a.service");
        ledger.follow(&unit("active", 5, 0), false, at(10));
        ledger.follow(&unit("inactive", 5, 12), false, at(13));
        ledger.set_unit("b.service");
        ledger.follow(&unit("active", 7, 0), false, at(14));
        assert_eq!((ledger.starts, ledger.stops.len()), (0, 1));
        ledger.set_unit("b.service");
        ledger.follow(&unit("inactive", 7, 15), false, at(16));
        assert_eq!(ledger.stops.values().sum::<u64>(), 2);
    }
}
