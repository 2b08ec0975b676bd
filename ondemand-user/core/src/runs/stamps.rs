//! The changes of a unit between two looks, by systemd's stamps.

use std::time::Duration;

use crate::measure::{
    Ktime,
    unit::{ActiveState, Unit},
};

/// A unit's stamps, and its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamps {
    /// When it last began to start (`InactiveExitTimestampMonotonic`).
    pub began: Option<Ktime>,
    /// When it last became active (`ActiveEnterTimestampMonotonic`).
    pub up: Option<Ktime>,
    /// When it last became inactive (`InactiveEnterTimestampMonotonic`).
    pub down: Option<Ktime>,
    /// It is starting, up or stopping.
    pub active: bool,
    /// It is up, or was until its stop began.
    pub running: bool,
    /// It is down and failed.
    pub failed: bool,
}

/// A start that is complete for systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// When it began. `None`: unknown.
    pub began: Option<Ktime>,
    /// When the unit became active. `None`: unknown.
    pub up: Option<Ktime>,
}

impl Start {
    /// Its duration for systemd.
    pub fn took(&self) -> Option<Duration> {
        self.up?.since(self.began?)
    }
}

/// A change of a unit, in the order of precedence at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It became inactive, or `Failed`.
    Down,
    /// It failed.
    Failed,
    /// It began to start.
    Began,
    /// It became active.
    Up,
}

impl Stamps {
    /// The stamps of `unit`. `None`: its state is unknown.
    pub fn of(unit: &Unit) -> Option<Self> {
        let (began, up) = (unit.inactive_exit, unit.active_enter);
        let running = match unit.state {
            ActiveState::Unknown => return None,
            // The stop may be that of a failed start.
            ActiveState::Deactivating => up.is_some() && up >= began,
            state => state.is_up(),
        };
        Some(Self {
            began,
            up,
            down: unit.inactive_enter,
            active: !unit.state.is_down(),
            running,
            failed: unit.state == ActiveState::Failed,
        })
    }

    /// The stamps at an earlier moment, as far as the present ones show them.
    pub fn as_of(&self, moment: Ktime) -> Self {
        let until = |at: Option<Ktime>| at.filter(|at| *at <= moment);
        let (began, up, down) = (until(self.began), until(self.up), until(self.down));
        let before = Self {
            began,
            up,
            down,
            ..*self
        };
        let (active, running) = match self.stamped(&before).first() {
            None => return *self,
            Some(Change::Began) => (false, false),
            Some(Change::Up) => (true, false),
            Some(_) => (true, up >= began),
        };
        Self {
            active,
            running,
            failed: false,
            ..before
        }
    }

    /// The last of these stamps.
    pub fn latest(&self) -> Option<Ktime> {
        self.began.max(self.up).max(self.down)
    }

    /// The start in these stamps.
    pub fn start(&self) -> Start {
        let is_before_up = |began: &Ktime| self.up.is_none_or(|up| *began <= up);
        Start {
            began: self.began.filter(is_before_up),
            up: self.up,
        }
    }

    /// The changes whose stamps differ from `before`, in their order.
    fn stamped(&self, before: &Self) -> Vec<Change> {
        let new = |now: Option<Ktime>, then| now.filter(|_| now != then);
        let mut stamped = [
            (new(self.down, before.down), Change::Down),
            (new(self.began, before.began), Change::Began),
            (new(self.up, before.up), Change::Up),
        ];
        stamped.sort();
        let stamped = stamped.into_iter().filter(|(at, _)| at.is_some());
        stamped.map(|(_, change)| change).collect()
    }

    /// The changes between `before` and these stamps, in their order. systemd keeps the last stamps only:
    /// what happened twice is seen once. If a stamp is missing, the state decides.
    pub fn since(&self, before: &Self) -> Vec<Change> {
        let mut changes = self.stamped(before);
        let state = |changes: &[Change]| {
            let begin = (before.active, before.running);
            let after = |(_, running), change: &Change| match change {
                Change::Down | Change::Failed => (false, false),
                Change::Began => (true, running),
                Change::Up => (true, true),
            };
            changes.iter().fold(begin, after)
        };
        let (active, running) = state(&changes);
        // It failed without a start, or `systemctl reset-failed`.
        let reset = changes.is_empty() && !self.active && self.failed != before.failed;
        if (active && !self.active) || (running && !self.running) || reset {
            changes.push(Change::Down);
        }
        if self.active && !state(&changes).0 {
            changes.push(Change::Began);
        }
        if self.running && !state(&changes).1 {
            changes.push(Change::Up);
        }
        if let Some(last @ Change::Down) = changes.last_mut().filter(|_| self.failed) {
            *last = Change::Failed;
        }
        changes
    }
}
