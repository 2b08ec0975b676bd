//! When an application is frozen (`freeze_after`), and thawed. Pure, like the stop protocol, and not part of it: to
//! freeze loses nothing. The kernel completes the handshakes of a frozen application's clients, who wait in the queue
//! of its listener, and reports the first of them. So the order is: have that reported, look once more, freeze, and
//! look once more.

use std::time::Duration;

use crate::{
    lifecycle::View,
    measure::{Ktime, sample::Sample},
    policy::Verdict,
};

/// The pause after systemd has refused to freeze it.
const PAUSE: Duration = Duration::from_secs(600);
/// The pause before systemd is asked again to thaw it.
const AGAIN: Duration = Duration::from_millis(100);

/// What the kernel has counted.
type Seen = (u64, u64);

/// What the agent has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Have the next connection reported, and answer with [`Freezing::armed`].
    Arm,
    /// Freeze it, and answer with [`Freezing::frozen`].
    Freeze,
    /// Thaw it, and answer with [`Freezing::thawed`].
    Thaw,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// An earlier agent may have frozen it.
    #[default]
    Unknown,
    Running,
    /// The next connection is reported.
    Armed(Seen),
    Freezing(Seen),
    Frozen(Seen),
    Thawing,
}

/// Whether an application is frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freezing {
    state: State,
    /// Of its run.
    run: Option<Ktime>,
    /// Not before this.
    pause: Option<Ktime>,
}

impl Freezing {
    /// What is to be done now. `after`: how long it must be unused; `None`: it is not to be frozen. `rests`: no stop is
    /// in progress.
    pub fn step(&mut self, view: &View, after: Option<Duration>, rests: bool) -> Option<Command> {
        let backend = &view.units.backend;
        if !backend.state.is_up() {
            // systemd thaws what it stops.
            *self = Self {
                state: State::Running,
                ..Self::default()
            };
            return None;
        }
        if self.run.is_some() && self.run != backend.active_enter {
            *self = Self {
                state: State::Running,
                ..Self::default()
            };
        }
        self.run = backend.active_enter;
        let seen = view.sample.as_ref().map(seen);
        let is_due = rests && self.due(view, after).is_some_and(|at| at <= view.now);
        match self.state {
            State::Unknown if self.pause.is_some_and(|at| at > view.now) => None,
            State::Unknown => self.thaw(),
            State::Running => {
                let _ = seen.filter(|_| is_due)?;
                Some(Command::Arm)
            }
            State::Armed(before) if is_due && seen == Some(before) => {
                self.state = State::Freezing(before);
                Some(Command::Freeze)
            }
            State::Armed(_) => {
                self.state = State::Running;
                None
            }
            // Its answer comes first.
            State::Freezing(_) | State::Thawing => None,
            // A stop begins with one that may be frozen, and systemd thaws it then.
            State::Frozen(before) => match rests && (seen != Some(before) || !is_due) {
                true => self.thaw(),
                false => None,
            },
        }
    }

    /// The next connection is reported from now on; `sample` is newer.
    pub fn armed(&mut self, sample: Option<&Sample>) {
        if let (State::Running, Some(sample)) = (self.state, sample) {
            self.state = State::Armed(seen(sample));
        }
    }

    /// It was frozen, or could not be.
    pub fn frozen(&mut self, done: bool, now: Ktime) {
        if let State::Freezing(before) = self.state {
            self.state = match done {
                true => State::Frozen(before),
                false => State::Running,
            };
            self.pause = (!done).then(|| now + PAUSE);
        }
    }

    /// A connection was reported.
    pub fn called(&mut self) -> Option<Command> {
        match self.state {
            State::Frozen(_) => self.thaw(),
            _ => None,
        }
    }

    /// It was thawed, or could not be.
    pub fn thawed(&mut self, done: bool, now: Ktime) {
        if self.state == State::Thawing {
            self.state = if done { State::Running } else { State::Unknown };
            self.pause = (!done).then(|| now + AGAIN);
        }
    }

    /// Whether it is frozen, as far as known.
    pub fn is_frozen(&self) -> bool {
        matches!(self.state, State::Frozen(_))
    }

    /// Whether it may be frozen by this agent.
    pub fn may_be_frozen(&self) -> bool {
        match self.state {
            // It could not be thawed.
            State::Unknown => self.pause.is_some(),
            State::Running | State::Armed(_) => false,
            State::Freezing(_) | State::Frozen(_) | State::Thawing => true,
        }
    }

    /// When it is to be frozen. `None`: not as things are.
    pub fn due(&self, view: &View, after: Option<Duration>) -> Option<Ktime> {
        let after = after?;
        let since = match view.verdict {
            Verdict::Quiet { since, .. } | Verdict::Idle { since } => since,
            _ => return None,
        };
        let units = &view.units;
        // A proxy that carries nobody may stay for long.
        let is_settled =
            units.backend.is_settled_up() && units.lease.is_settled_up() && !units.proxy.job;
        // On open ones, silent or not, nobody reports a byte.
        let is_unused = view.sample?.open() == Some(0) && view.caught == 0 && view.silent == 0;
        let at = self
            .pause
            .map_or(since + after, |pause| pause.max(since + after));
        (is_settled && is_unused && view.ready).then_some(at)
    }

    fn thaw(&mut self) -> Option<Command> {
        self.state = State::Thawing;
        Some(Command::Thaw)
    }
}

fn seen(sample: &Sample) -> Seen {
    (
        sample.accepted() + sample.ignored.accepted + sample.back.accepted,
        sample.lookups,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{
        sample::Leg,
        unit::{ActiveState, Unit, Units},
    };

    const AFTER: Option<Duration> = Some(Duration::from_secs(10));

    fn at(seconds: u64) -> Ktime {
        Ktime::from_nanos(seconds * 1_000_000_000)
    }

    fn sample(accepted: u64) -> Sample {
        let leg = Leg {
            accepted,
            closed: accepted,
            ..Leg::default()
        };
        Sample {
            at: at(0),
            front: Leg::default(),
            steered: leg,
            back: Leg::default(),
            ignored: Leg::default(),
            refused: 0,
            older: 0,
            last_activity: None,
            last_open: None,
            lookups: accepted,
            last_lookup: None,
            served: None,
            datagrams: 0,
            refused_datagrams: 0,
        }
    }

    /// Unused since the second 100.
    fn view(now: u64, accepted: u64) -> View {
        let unit = |state| Unit {
            state,
            ..Unit::default()
        };
        View {
            now: at(now),
            sample: Some(sample(accepted)),
            verdict: Verdict::Quiet {
                since: at(100),
                idle_at: None,
            },
            units: Units {
                backend: Unit {
                    active_enter: Some(at(50)),
                    ..unit(ActiveState::Active)
                },
                proxy: unit(ActiveState::Inactive),
                lease: unit(ActiveState::Active),
            },
            caught: 0,
            datagrams: 0,
            bound: false,
            listens: true,
            ready: true,
            room: true,
            silent: 0,
        }
    }

    fn running() -> Freezing {
        let mut freezing = Freezing::default();
        assert_eq!(
            freezing.step(&view(101, 1), AFTER, true),
            Some(Command::Thaw)
        );
        freezing.thawed(true, at(101));
        freezing
    }

    fn frozen() -> Freezing {
        let mut freezing = running();
        assert_eq!(freezing.step(&view(109, 1), AFTER, true), None);
        assert_eq!(
            freezing.step(&view(110, 1), AFTER, true),
            Some(Command::Arm)
        );
        freezing.armed(Some(&sample(1)));
        assert_eq!(
            freezing.step(&view(110, 1), AFTER, true),
            Some(Command::Freeze)
        );
        assert_eq!(freezing.step(&view(110, 2), AFTER, true), None);
        freezing.frozen(true, at(110));
        assert!(freezing.is_frozen());
        freezing
    }

    #[test]
    fn the_next_connection_thaws_it() {
        let mut reported = frozen();
        assert_eq!(reported.step(&view(111, 1), AFTER, true), None);
        assert_eq!(reported.called(), Some(Command::Thaw));
        assert_eq!(reported.called(), None);
        // Not reported: it came while systemd froze it.
        let mut found = frozen();
        assert_eq!(found.step(&view(111, 2), AFTER, true), Some(Command::Thaw));
        // systemd does not answer: again.
        found.thawed(false, at(111));
        assert_eq!(found.step(&view(112, 2), AFTER, true), Some(Command::Thaw));
    }

    #[test]
    fn who_comes_before_it_is_frozen_finds_it_running() {
        let mut freezing = running();
        assert_eq!(
            freezing.step(&view(110, 1), AFTER, true),
            Some(Command::Arm)
        );
        freezing.armed(Some(&sample(1)));
        assert_eq!(freezing.step(&view(110, 2), AFTER, true), None);
        assert_eq!(freezing.called(), None);
        assert!(!freezing.is_frozen());
    }

    #[test]
    fn only_what_is_unused_is_frozen() {
        let check = |change: &dyn Fn(&mut View)| {
            let mut view = view(200, 1);
            change(&mut view);
            assert_eq!(running().step(&view, AFTER, true), None, "{view:?}");
        };
        check(&|view| view.caught = 1);
        check(&|view| view.silent = 1);
        check(&|view| view.ready = false);
        check(&|view| view.sample = None);
        check(&|view| view.sample.as_mut().unwrap().steered.closed = 0);
        check(&|view| view.units.lease.state = ActiveState::Inactive);
        check(&|view| view.units.proxy.job = true);
        check(&|view| view.units.backend.job = true);
        check(&|view| view.verdict = Verdict::Busy { open: 1 });
        check(&|view| {
            view.verdict = Verdict::Held {
                since: at(100),
                until: None,
            }
        });
        assert_eq!(running().step(&view(200, 1), None, true), None);
        assert_eq!(running().step(&view(200, 1), AFTER, false), None);
    }

    #[test]
    fn what_is_no_longer_wanted_is_undone() {
        // The key is gone, or somebody holds it.
        assert_eq!(
            frozen().step(&view(200, 1), None, true),
            Some(Command::Thaw)
        );
        let held = View {
            verdict: Verdict::Held {
                since: at(100),
                until: None,
            },
            ..view(200, 1)
        };
        assert_eq!(frozen().step(&held, AFTER, true), Some(Command::Thaw));
        // A stop goes on with it.
        assert_eq!(frozen().step(&view(200, 1), AFTER, false), None);
        // It was restarted by hand, which thaws it.
        let mut restarted = frozen();
        let mut other = view(201, 1);
        other.units.backend.active_enter = Some(at(200));
        other.verdict = Verdict::Quiet {
            since: at(200),
            idle_at: None,
        };
        assert_eq!(restarted.step(&other, AFTER, true), None);
        assert!(!restarted.is_frozen());
    }

    #[test]
    fn what_systemd_refuses_is_left() {
        let mut freezing = running();
        freezing.step(&view(110, 1), AFTER, true);
        freezing.armed(Some(&sample(1)));
        freezing.step(&view(110, 1), AFTER, true);
        freezing.frozen(false, at(110));
        assert_eq!(freezing.step(&view(120, 1), AFTER, true), None);
        assert_eq!(
            freezing.step(&view(711, 1), AFTER, true),
            Some(Command::Arm)
        );
    }
}
