//! The history for capacity planning: an SQLite database beside the agent.
//!
//! The agent passes records to a separate thread and never waits for it. The database keeps
//! [`KEPT_DAYS`] days and stays below [`LARGEST`] bytes: older records are deleted.

pub mod arrivals;
mod calendar;
mod hours;
mod known;
mod loaded;
mod mend;
pub(crate) mod open;
pub mod past;
pub(crate) mod read;
mod store;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

use std::time::Duration;

pub use calendar::{Moment, monotonic};
pub use known::Known;
pub use loaded::{Loaded, Period, TIMELINE};
use ondemand_core::{caught::Ways, runs::StopReason};
pub use read::read;
pub use usage::Usage;
pub use writer::Writer;

/// How many days are kept: a year, and a month for comparison. Days on which the host runs, since a wall clock
/// that is years ahead must not delete anything.
pub const KEPT_DAYS: i64 = 400;
/// Maximum size of the database; the oldest records are deleted earlier to stay below it. Bytes.
pub const LARGEST: i64 = 448 << 20;

const MILLIS_A_DAY: i64 = 86_400_000;

/// An event. Times are milliseconds of `CLOCK_MONOTONIC` ([`monotonic`]), spans milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// From now on these services are watched, and no others.
    Watched {
        /// Their names.
        services: Vec<String>,
        /// When.
        at: i64,
    },
    /// The agent exits; nothing is watched.
    Ended {
        /// When.
        at: i64,
    },
    /// An event of this service.
    Service {
        /// Its name.
        name: String,
        /// The event.
        what: What,
    },
}

/// For what an idle service was stopped early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Clients of another service of its group waited, or too many of the group were up.
    ForGroup = 1,
    /// Its memory.
    ForMemory = 2,
}

/// What a run had to do with room, and how its clients found it frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Whether its end made room.
    pub evicted: Option<Eviction>,
    /// How long its start waited for room in its group. Milliseconds.
    pub waited: i64,
    /// How often a client had it thawed.
    pub thaws: i64,
    /// How long these took together. Microseconds.
    pub thawing: i64,
    /// The longest of them. Microseconds.
    pub longest_thaw: i64,
}

/// An event of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is up. Its start was recorded before, unless it was not seen.
    Up {
        /// When its start began.
        started: i64,
    },
    /// It is down, which was recorded before, unless it was not seen.
    Down {
        /// Since when.
        since: i64,
    },
    /// The run before the present one is over, which no agent saw.
    Before {
        /// When it ended.
        ended: i64,
    },
    /// It is down after a run of which an agent may have seen nothing.
    Ran {
        /// When its start began.
        started: i64,
        /// When it ended.
        ended: i64,
    },
    /// The application listens.
    Listening {
        /// Time since its start.
        after: i64,
    },
    /// The first packet to a client.
    FirstByte {
        /// Time since its start.
        after: i64,
    },
    /// The resources of a run.
    Usage {
        /// When the run started.
        started: i64,
        /// Bytes.
        memory: Option<i64>,
        /// CPU time in microseconds.
        cpu: Option<i64>,
    },
    /// It ended.
    Stopped {
        /// When.
        at: i64,
        /// Why.
        reason: StopReason,
        /// Clients accepted since the previous run.
        connections: i64,
        /// Payload bytes from clients.
        received: i64,
        /// Payload bytes to clients.
        sent: i64,
        /// Of the clients those that the proxy carried.
        proxied: i64,
        /// Connections on which no byte went, and that its stop closed.
        silent: i64,
        /// Clients that were held or refused, and datagrams, since the previous run; `None`: unknown.
        ways: Option<Ways>,
        /// Its room, and its thaws.
        turns: Turns,
    },
    /// It is unused.
    Quiet {
        /// Since when.
        since: i64,
    },
    /// What the first look of an agent finds. If it was used since an agent last saw it, a client connected
    /// meanwhile.
    Found {
        /// When its last start in this boot began.
        started: Option<i64>,
        /// When it was last used.
        used: i64,
    },
    /// A client connected.
    Arrived {
        /// When.
        at: i64,
        /// How long it had been unused; `None`: unknown.
        gap: Option<i64>,
    },
}

impl What {
    /// The gap between two uses that it ends, if it does and its length is known.
    pub fn gap(&self) -> Option<Duration> {
        match self {
            Self::Arrived { gap, .. } => Some(Duration::from_millis(u64::try_from((*gap)?).ok()?)),
            _ => None,
        }
    }
}
