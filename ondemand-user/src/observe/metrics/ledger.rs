//! The agent's counters of one service, in a form that outlives the agent.
//!
//! Starts and stops are those that [`ondemand_core::runs`] recognizes. What happened without an agent
//! is found when the next one first sees the unit, by comparing systemd's stamps with those of the
//! record: what happened twice in that time is counted once.

use std::{collections::BTreeMap, time::Duration};

use ondemand_core::{
    lifecycle::Counter,
    measure::Ktime,
    runs::{Change, RunEvent, Stamps, Start, StopReason},
};
use serde::{Deserialize, Serialize};

use super::{histogram::Histogram, times::Times, told::Told};

/// The counters of one service. None ever decreases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The application's unit. Stamps of another one have no meaning.
    unit: String,
    /// Starts of the backend.
    pub starts: u64,
    /// How long they took.
    pub start_durations: Histogram,
    /// Ends of its runs, by [`StopReason::as_str`].
    pub stops: BTreeMap<String, u64>,
    /// Stops that were not completed, by `VetoReason::as_str`.
    pub vetoes: BTreeMap<String, u64>,
    /// Differences between the counters and the socket tables.
    pub drift: u64,
    /// Failures of the proxy.
    #[serde(default)]
    pub proxy_failures: u64,
    /// Restarts of the backend by systemd itself.
    #[serde(default)]
    pub restarts: u64,
    /// How long it ran, and how long it did not.
    pub times: Times,
    /// What it computed.
    #[serde(default)]
    pub cpu: Cpu,
    /// What the agents have counted themselves.
    #[serde(default)]
    pub told: Told,
    /// Whether the unit was seen before.
    seen: bool,
    /// When the last counted run became active.
    run: Option<Ktime>,
    /// Whether this run continues.
    running: bool,
    /// The reason of its end, if no agent sees it.
    end: Option<String>,
    /// The start that is not complete.
    starting: Option<Starting>,
    /// When a start's listener was last seen. For people who read the record.
    listened: Option<Ktime>,
}

/// CPU time of all runs, from measurements that begin anew with each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    sum: Duration,
    /// The begin of the run that was measured last, in milliseconds, and its time.
    run: Option<(i64, Duration)>,
}

impl Cpu {
    /// Takes a measurement of the run that began at `started`.
    pub fn measured(&mut self, started: i64, time: Duration) {
        let before = self.run.filter(|(of, _)| *of == started);
        let before = before.map_or(Duration::ZERO, |(_, before)| before);
        self.sum = self.sum.saturating_add(time.saturating_sub(before));
        self.run = Some((started, time.max(before)));
    }

    /// Seconds. `None`: it was never measured.
    pub fn seconds(&self) -> Option<f64> {
        (self.run.is_some() || !self.sum.is_zero()).then_some(self.sum.as_secs_f64())
    }
}

/// A start that is complete for systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Starting {
    begin: Ktime,
    /// Its duration for systemd.
    took: Duration,
}

impl Ledger {
    /// Sets the unit. Counts of another unit are kept.
    pub fn set_unit(&mut self, unit: &str) {
        if self.unit == unit {
            return;
        }
        unit.clone_into(&mut self.unit);
        self.times.forget();
        self.cpu.run = None;
        self.seen = false;
        self.running = false;
        self.end = None;
        self.starting = None;
    }

    /// Takes a counter of the lifecycle.
    pub fn count(&mut self, counter: Counter) {
        match counter {
            Counter::Veto(reason) => {
                add_one(self.vetoes.entry(reason.as_str().into()).or_default());
                self.end = None;
            }
            Counter::Drift => add_one(&mut self.drift),
            Counter::ProxyFailed => add_one(&mut self.proxy_failures),
            Counter::Restarted => add_one(&mut self.restarts),
        }
    }

    /// The lease is being released, or taken again. A release is the reason of a run's end that
    /// follows, even if the agent dies before.
    pub fn lease(&mut self, released: bool) {
        self.end = released.then(|| StopReason::Idle.as_str().into());
    }

    /// Takes an event of the backend. Returns true if it changed something.
    pub fn take(&mut self, event: &RunEvent, now: Ktime) -> bool {
        match *event {
            RunEvent::Found(found) => self.find(&found, now),
            RunEvent::Began { at } => self.times.turn(true, false, at, now),
            RunEvent::Started(start) => self.started(start),
            RunEvent::Listening { at, .. } => self.listened = Some(at),
            RunEvent::Ready { took } => self.ready(took),
            RunEvent::Ended { reason, .. } => self.ended(reason),
            RunEvent::Down { at, failed } => self.times.turn(false, failed, at, now),
            RunEvent::FirstByte { .. } | RunEvent::Ending | RunEvent::StartFailed { .. } => {
                return false;
            }
        }
        true
    }

    /// Counts what happened since the previous agent. Without a previous agent nothing is counted.
    fn find(&mut self, found: &Stamps, now: Ktime) {
        let known = self.times.known(now).filter(|_| self.seen);
        self.seen = true;
        let Some(known) = known else {
            (self.run, self.running) = (found.up, found.running);
            return self.times.begin(found, now);
        };
        let known = Stamps {
            up: self.run,
            running: self.running,
            ..known
        };
        for change in found.since(&known) {
            if change != Change::Began && self.running {
                let reason = match change {
                    Change::Failed => StopReason::Failed,
                    _ => StopReason::External,
                };
                let name = |reason: &StopReason| Some(reason.as_str()) == self.end.as_deref();
                let begun = StopReason::SEEN.into_iter().find(name);
                self.ended(begun.unwrap_or(reason));
            }
            match change {
                Change::Began => self.times.turn(true, false, found.began, now),
                Change::Up => {
                    self.started(found.start());
                    if let Some(took) = found.start().took() {
                        self.ready(took);
                    }
                }
                Change::Down | Change::Failed => {
                    let failed = change == Change::Failed;
                    self.times.turn(false, failed, found.down, now);
                }
            }
        }
    }

    fn started(&mut self, start: Start) {
        add_one(&mut self.starts);
        (self.run, self.running) = (start.up, true);
        let begun = start.began.zip(start.took());
        self.starting = begun.map(|(begin, took)| Starting { begin, took });
    }

    fn ready(&mut self, took: Duration) {
        self.starting = None;
        self.start_durations.observe(took);
    }

    fn ended(&mut self, reason: StopReason) {
        (self.running, self.end) = (false, None);
        add_one(self.stops.entry(reason.as_str().into()).or_default());
        // The agent that saw its begin died before it was ready.
        if let Some(starting) = self.starting.take() {
            self.start_durations.observe(starting.took);
        }
    }
}

/// A counter from a damaged file may be at its maximum.
fn add_one(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use ondemand_core::{
        lifecycle::note::VetoReason,
        measure::unit::{ActiveState, Unit},
        runs::{Look, Runs},
    };

    use super::*;

    fn at(seconds: u64) -> Ktime {
        Ktime::from_nanos(seconds * 1_000_000_000)
    }

    /// Started at `begun`, active since one second later, inactive since `ended`.
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

    /// A look of the agent with these runs.
    fn look(ledger: &mut Ledger, runs: &mut Runs, unit: &Unit, now: Ktime) {
        let look = Look {
            now,
            backend: unit,
            sample: None,
            announced: true,
        };
        for event in runs.follow(&look, None) {
            ledger.take(&event, now);
        }
    }

    /// Returns starts, and stops as `reason=count`.
    fn counted(ledger: &Ledger) -> (u64, String) {
        let text = |(reason, count): (&String, &u64)| format!("{reason}={count}");
        let found: Vec<String> = ledger.stops.iter().map(text).collect();
        (ledger.starts, found.join(" "))
    }

    /// Follows `steps`, all by one agent and each by another one: the counts are the same.
    #[track_caller]
    fn check(steps: &[(&str, u64, u64)], starts: u64, stops: &str) {
        for agents_die in [false, true] {
            let (mut ledger, mut runs) = (Ledger::default(), Runs::default());
            for (index, (state, begun, ended)) in steps.iter().enumerate() {
                if agents_die {
                    runs = Runs::default();
                }
                let unit = unit(state, *begun, *ended);
                look(&mut ledger, &mut runs, &unit, at(100 + index as u64));
            }
            assert_eq!(counted(&ledger), (starts, stops.to_owned()));
            let awaited = u64::from(ledger.starting.is_some());
            assert_eq!(ledger.start_durations.count() + awaited, starts);
        }
    }

    #[test]
    fn cpu_time_is_a_sum_of_runs() {
        let mut cpu = Cpu::default();
        assert_eq!(cpu.seconds(), None);
        for (run, time, sum) in [
            (1, 2, 2.0),
            (1, 5, 5.0),
            (1, 4, 5.0),
            (1, 6, 6.0),
            (9, 1, 7.0),
        ] {
            cpu.measured(run, Duration::from_secs(time));
            assert_eq!(cpu.seconds(), Some(sum), "{run} {time}");
        }
        cpu.measured(9, Duration::MAX);
        assert_eq!(cpu.run, Some((9, Duration::MAX)));
    }

    #[test]
    fn runs_are_counted_whoever_saw_them() {
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
        // An unseen run.
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
        // Reported twice.
        check(&[("active", 5, 0), ("active", 5, 0)], 0, "");
        check(&[("active", 5, 0), ("unknown", 5, 0)], 0, "");
    }

    #[test]
    fn a_run_that_begins_as_the_agent_comes_is_counted_once() {
        let (mut ledger, mut runs) = (Ledger::default(), Runs::since(at(10)));
        look(&mut ledger, &mut runs, &unit("active", 11, 0), at(20));
        assert_eq!(counted(&ledger), (1, String::new()));
        // It ends, and another one starts before the next agent looks.
        let mut runs = Runs::since(at(30));
        look(&mut ledger, &mut runs, &unit("active", 33, 31), at(40));
        assert_eq!(counted(&ledger), (2, "external=1".into()));
        assert_eq!(ledger.run, Some(at(34)));
    }

    #[test]
    fn the_reason_is_what_an_earlier_agent_began() {
        #[track_caller]
        fn check(prepare: impl FnOnce(&mut Ledger), expected: &str) {
            let mut ledger = Ledger::default();
            let first = unit("active", 5, 0);
            look(&mut ledger, &mut Runs::default(), &first, at(10));
            prepare(&mut ledger);
            let last = unit("inactive", 5, 12);
            look(&mut ledger, &mut Runs::default(), &last, at(13));
            assert_eq!(counted(&ledger), (0, format!("{expected}=1")));
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
    }

    #[test]
    fn a_start_is_observed_once() {
        /// When it listens, and whether the agent dies before; then the start's duration.
        #[track_caller]
        fn check(listens: Option<u64>, agent_dies: bool, expected: f64) {
            let (mut ledger, mut runs) = (Ledger::default(), Runs::default());
            look(&mut ledger, &mut runs, &unit("inactive", 0, 0), at(1));
            look(&mut ledger, &mut runs, &unit("active", 5, 0), at(6));
            assert_eq!((ledger.starts, ledger.start_durations.count()), (1, 0));
            if agent_dies {
                runs = Runs::default();
                look(&mut ledger, &mut runs, &unit("active", 5, 0), at(7));
            }
            if let Some(seconds) = listens {
                runs.listens(at(seconds));
            }
            look(&mut ledger, &mut runs, &unit("active", 5, 0), at(9));
            look(&mut ledger, &mut runs, &unit("inactive", 5, 20), at(20));
            let durations = &ledger.start_durations;
            assert_eq!((durations.count(), durations.sum()), (1, expected));
        }
        check(None, false, 1.0);
        check(Some(8), false, 3.0);
        check(Some(6), false, 1.0);
        check(None, true, 1.0);
        // Its listener may have been there before.
        check(Some(8), true, 1.0);
    }

    #[test]
    fn another_unit_is_another_life() {
        let mut ledger = Ledger::default();
        ledger.set_unit("a.service");
        let mut runs = Runs::default();
        look(&mut ledger, &mut runs, &unit("active", 5, 0), at(10));
        look(&mut ledger, &mut runs, &unit("inactive", 5, 12), at(13));
        ledger.set_unit("b.service");
        let mut runs = Runs::default();
        look(&mut ledger, &mut runs, &unit("active", 7, 0), at(14));
        assert_eq!((ledger.starts, ledger.stops.len()), (0, 1));
        ledger.set_unit("b.service");
        look(&mut ledger, &mut runs, &unit("inactive", 7, 15), at(16));
        assert_eq!(ledger.stops.values().sum::<u64>(), 2);
    }
}
