//! The history of a service. Sums saturate instead of wrapping: the numbers may be those of a
//! damaged file.

use std::time::Duration;

use ondemand_core::{caught::Ways, learned::Trial, replay::Replay, runs::StopReason};
use rusqlite::Row;

use super::{
    Known,
    read::{Rivals, unsigned},
};

/// The number of equal parts of a period in the plot of states.
pub const TIMELINE: usize = 240;

/// A period. Milliseconds of the history's clock, or since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first moment.
    pub from: i64,
    /// The first moment after it.
    pub until: i64,
}

impl Period {
    /// The part of a span that is in it.
    pub(super) fn part(self, from: i64, until: i64) -> i64 {
        let (from, until) = (from.max(self.from), until.min(self.until));
        until.saturating_sub(from).max(0)
    }
}

/// Arrivals by hour of the week, local time, starting on Monday at midnight.
pub type Week = Box<[u32; 168]>;

/// The history of one service in a period. Spans are in milliseconds.
#[derive(Debug)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// Its quiet gaps. A gap belongs to the period in which it ends.
    pub replay: Replay,
    /// The same by the learned timeout.
    pub trial: Trial,
    /// Arrivals by hour of the week, local time, starting on Monday at midnight.
    pub week: Week,
    /// How long it was watched.
    pub watched: i64,
    /// How long it was up.
    pub active: i64,
    /// How long it was up in each part of the period.
    pub timeline: Box<[i64; TIMELINE]>,
    /// Starts in the period.
    pub activations: u64,
    /// Times from the start to the application's listener.
    pub cold_starts: Vec<u32>,
    /// Times from the start to the first packet to a client.
    pub first_bytes: Vec<u32>,
    /// Bytes of memory at a stop, times the milliseconds until the next start.
    pub given_back: Known<u128>,
    /// Sum of the runs that ended in the period; CPU time in microseconds.
    pub cpu: Known<u64>,
    /// See `cpu`.
    pub connections: u64,
    /// See `cpu`.
    pub received: u64,
    /// See `cpu`.
    pub sent: u64,
    /// Silent connections that the stops of these runs closed.
    pub silent: u64,
    /// Of the clients those that the proxy carried.
    pub proxied: Known<u64>,
    /// How the others have come.
    pub ways: Known<Ways>,
    /// Of these runs those that ended to make room for another one of their group, and for memory.
    pub evictions: [u64; 2],
    /// How many of these runs waited for room in their group, and how long, in milliseconds.
    pub waits: (u64, u64),
    /// How often clients had it thawed, and how long that took, in microseconds.
    pub thaws: (u64, u64),
    /// The longest of these. Microseconds.
    pub longest_thaw: u64,
    /// Ends of runs, by [`StopReason::code`].
    pub stops: [u64; StopReason::ALL.len()],
    /// Since when it is down, and its memory before.
    pub(super) down: Option<(i64, Option<u64>)>,
    /// The last measured memory.
    pub(super) memory: Option<u64>,
    pub(super) quiet_since: Option<i64>,
    pub(super) watched_until: i64,
}

impl Loaded {
    /// Without any data.
    pub(super) fn new(name: String, quiet_since: Option<i64>, rivals: Rivals<'_>) -> Self {
        Self {
            name,
            quiet_since,
            replay: Replay::new(rivals.0),
            trial: Trial::new(rivals.1),
            week: Box::new([0; 168]),
            watched: 0,
            active: 0,
            timeline: Box::new([0; TIMELINE]),
            activations: 0,
            cold_starts: Vec::new(),
            first_bytes: Vec::new(),
            given_back: Known::default(),
            cpu: Known::default(),
            connections: 0,
            received: 0,
            sent: 0,
            silent: 0,
            proxied: Known::default(),
            ways: Known::default(),
            evictions: [0; 2],
            waits: (0, 0),
            thaws: (0, 0),
            longest_thaw: 0,
            stops: [0; StopReason::ALL.len()],
            down: None,
            memory: None,
            watched_until: i64::MIN,
        }
    }

    /// The memory that was measured last. Bytes.
    pub fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// How long its clients usually wait for a start: half of them no longer.
    pub fn usual_start(&self) -> Option<Duration> {
        let starts = match self.first_bytes.is_empty() {
            false => &self.first_bytes,
            true => &self.cold_starts,
        };
        let mut millis = starts.clone();
        let middle = millis.len().checked_sub(1)? / 2;
        let (_, found, _) = millis.select_nth_unstable(middle);
        Some(Duration::from_millis(u64::from(*found)))
    }

    /// Whether it has any data in the period.
    pub(super) fn is_known(&self) -> bool {
        self.watched > 0 || self.active > 0 || self.replay.arrivals() > 0
    }

    /// What a run had to do with room, and its thaws, from these columns on.
    pub(super) fn take_turns(&mut self, row: &Row<'_>, first: usize) -> rusqlite::Result<()> {
        let column = |place| unsigned(row, first + place);
        match column(0)? {
            Some(1) => self.evictions[0] += 1,
            Some(2) => self.evictions[1] += 1,
            _ => {}
        }
        let add = |(count, sum): &mut (u64, u64), more: u64, length: u64| {
            *count = count.saturating_add(more);
            *sum = sum.saturating_add(length);
        };
        if let Some(waited) = column(1)?.filter(|waited| *waited > 0) {
            add(&mut self.waits, 1, waited);
        }
        if let Some(thaws) = column(2)? {
            add(&mut self.thaws, thaws, column(3)?.unwrap_or(0));
            self.longest_thaw = self.longest_thaw.max(column(4)?.unwrap_or(0));
        }
        Ok(())
    }

    /// At the end of the period it was unused since then.
    pub(super) fn open(&mut self, period: Period, since: Option<i64>) {
        let Some(since) = since else {
            return;
        };
        let end = self.watched_until.min(period.until);
        let length = period.part(since, end);
        let length = (length as u64).saturating_mul(1000);
        self.replay.end(length);
        self.trial.end(length);
    }

    /// It was down for `span` milliseconds, and had this memory before.
    pub(super) fn give_back(&mut self, memory: Option<u64>, span: i64) {
        if span > 0 {
            let given = memory.map(|memory| u128::from(memory) * span as u128);
            self.given_back.add(given);
        }
    }

    /// Adds a time up to the timeline.
    pub(super) fn draw(&mut self, period: Period, from: i64, until: i64) {
        let (from, until) = (from.max(period.from), until.min(period.until));
        let length = period.until.saturating_sub(period.from);
        if from >= until || length <= 0 {
            return;
        }
        // In parts of a part, so that the sums are whole.
        let place = |at: i64| {
            let after = at.saturating_sub(period.from);
            after.saturating_mul(TIMELINE as i64)
        };
        let (first, last) = (place(from), place(until));
        for part in first / length..=(last - 1) / length {
            let (begin, end) = (
                part.saturating_mul(length),
                (part + 1).saturating_mul(length),
            );
            let share = (last.min(end) - first.max(begin)) / TIMELINE as i64;
            let drawn = &mut self.timeline[part as usize];
            *drawn = drawn.saturating_add(share);
        }
    }
}
