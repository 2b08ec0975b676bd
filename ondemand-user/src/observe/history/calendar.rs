//! The history's own clock, and its dates.
//!
//! All times in the tables are on one clock, which runs only while the host does: the milliseconds of
//! `CLOCK_MONOTONIC` (clock_gettime(2)) of all boots, one after the other. A length is a difference on
//! it, so nothing that befalls the wall clock can change one, and time in which the host was off or
//! suspended belongs to no span. It is not `CLOCK_BOOTTIME`, which goes on in a suspend: a suspended host
//! runs nothing, and idle timeouts and systemd's time stamps stand still, too.
//!
//! The wall clock only says when. It is compared with the other at each write; where it has moved (it was
//! set, the host was suspended or booted) a new [`Segment`] starts.

use ondemand_core::measure::Ktime;

use crate::host::clock;

/// A smaller movement of the wall clock is none. `CLOCK_MONOTONIC` is slewed like the wall clock, so they
/// differ by steps alone. Milliseconds.
const STEP: i64 = 1_000;
/// 2025-01-01: no history is older, so an earlier date is that of a clock that was not set yet.
/// Milliseconds since 1970.
pub const EARLIEST: i64 = 1_735_689_600_000;

/// The host's clocks at the same moment. Milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The kernel's id of this boot (random(4), `boot_id`).
    pub boot: String,
    /// `CLOCK_MONOTONIC`.
    pub monotonic: i64,
    /// Since 1970.
    pub wall: i64,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self {
            boot: clock::boot_id(),
            monotonic: monotonic(clock::now()),
            wall: clock::wall(),
        }
    }
}

/// A moment as in the records. Milliseconds of `CLOCK_MONOTONIC`.
pub fn monotonic(at: Ktime) -> i64 {
    i64::try_from(at.as_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// A stretch of one boot in which the wall clock went like the history's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its start on the history's clock.
    pub since: i64,
    /// The boot; empty before version 2 of the tables.
    pub boot: String,
    /// `CLOCK_MONOTONIC` at its start.
    pub monotonic: i64,
    /// The wall clock at its start.
    pub wall: i64,
    /// The last sign of life, on the history's clock.
    pub until: i64,
}

/// What differs from the segment before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: it is the same one.
    None,
    /// The wall clock has moved.
    Step,
    /// It is another boot.
    Boot,
}

impl Segment {
    /// The segment at this moment, after the last one. What was open in an older boot ended at the last
    /// sign of life of that.
    pub fn follow(last: Option<&Self>, now: &Moment) -> (Self, Turn) {
        let Some(last) = last.filter(|last| last.boot == now.boot) else {
            let since = last.map_or(0, |last| last.until.saturating_add(1));
            let segment = Self {
                since,
                boot: now.boot.clone(),
                monotonic: 0,
                // A suspend before the first look is not known, and dates what was before it too late.
                wall: now.wall.saturating_sub(now.monotonic),
                until: since.saturating_add(now.monotonic.max(0)),
            };
            return (segment, Turn::Boot);
        };
        let present = last.at(now.monotonic);
        let moved = now.wall.saturating_sub(last.wall_at(present));
        let mut segment = last.clone();
        if moved.saturating_abs() <= STEP {
            segment.until = last.until.max(present);
            return (segment, Turn::None);
        }
        // What was recorded before the last sign of life had its date.
        segment.since = last.until.saturating_add(1).min(present).max(last.since);
        segment.monotonic = last.monotonic_at(segment.since);
        segment.wall = now
            .wall
            .saturating_sub(present.saturating_sub(segment.since));
        segment.until = segment.since.max(present);
        (segment, Turn::Step)
    }

    /// The time on the history's clock for one of `CLOCK_MONOTONIC` in this boot.
    pub fn at(&self, monotonic: i64) -> i64 {
        let after = monotonic.saturating_sub(self.monotonic);
        self.since.saturating_add(after)
    }

    fn monotonic_at(&self, at: i64) -> i64 {
        self.monotonic.saturating_add(at.saturating_sub(self.since))
    }

    fn wall_at(&self, at: i64) -> i64 {
        self.wall.saturating_add(at.saturating_sub(self.since))
    }
}

/// All segments, dated.
#[derive(Clone, Debug)]
pub struct Calendar {
    /// At least one, ascending by both clocks.
    segments: Vec<Segment>,
}

impl Calendar {
    /// Dates segments, in their order, as seen from `now`. `None`: there are none.
    ///
    /// A date that cannot be true gives way to the ones after it, because a clock is set to become right:
    /// what ended after its successor began, or began before [`EARLIEST`], ended when that began. So the
    /// minutes before the first answer of a time server have a date, and so has a day under a clock that
    /// was years ahead.
    pub fn new(mut segments: Vec<Segment>, now: &Moment) -> Option<Self> {
        let last = segments.last()?;
        // If the agent has not run since the boot, nothing is known of it.
        if last.boot == now.boot {
            let (present, turn) = Segment::follow(Some(last), now);
            if turn == Turn::None || present.since == last.since {
                segments.pop();
            }
            segments.push(present);
        }
        let mut limit = now.wall;
        for segment in segments.iter_mut().rev() {
            let length = segment.until.saturating_sub(segment.since).max(0);
            if segment.wall < EARLIEST || segment.wall.saturating_add(length) > limit {
                segment.wall = limit.saturating_sub(length);
            }
            limit = segment.wall;
        }
        Some(Self { segments })
    }

    /// The end of what is known, on the history's clock.
    pub fn end(&self) -> i64 {
        self.segments.last().map_or(0, |last| last.until)
    }

    /// The first moment on the history's clock that is not before this date.
    pub fn at(&self, wall: i64) -> i64 {
        let next = self.segments.partition_point(|it| it.wall <= wall);
        let end = self.segments.get(next).map(|it| it.since);
        let Some(segment) = next.checked_sub(1).map(|place| &self.segments[place]) else {
            return end.unwrap_or(0);
        };
        let at = segment
            .since
            .saturating_add(wall.saturating_sub(segment.wall));
        at.min(end.unwrap_or(i64::MAX))
    }

    /// The date of a moment on the history's clock.
    pub fn wall(&self, at: i64) -> i64 {
        self.segments[self.place(at)].wall_at(at)
    }

    fn place(&self, at: i64) -> usize {
        let next = self.segments.partition_point(|it| it.since <= at);
        next.saturating_sub(1)
    }

    /// The dates of a span, in pieces between which the wall clock moved.
    pub fn pieces(&self, from: i64, until: i64) -> impl Iterator<Item = (i64, i64)> + '_ {
        let segments = self.segments.iter().enumerate().skip(self.place(from));
        segments
            .map_while(move |(place, segment)| {
                let begin = match place {
                    0 => from,
                    _ => from.max(segment.since),
                };
                let next = self.segments.get(place + 1);
                let end = until.min(next.map_or(i64::MAX, |next| next.since));
                (begin < until).then(|| (segment.wall_at(begin), segment.wall_at(end)))
            })
            .filter(|(begin, end)| begin < end)
    }
}

#[cfg(test)]
mod tests;
