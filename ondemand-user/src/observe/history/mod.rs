//! What happened, for capacity planning: an SQLite database beside the agent.
//!
//! The agent hands records to a thread of its own and never waits for it. The database keeps
//! [`KEPT_DAYS`] days and stays below [`LARGEST`] bytes: what is older is forgotten.

mod hours;
mod known;
mod loaded;
mod open;
pub(crate) mod read;
mod store;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

pub use known::Known;
pub use loaded::{Loaded, Period, TIMELINE};
use ondemand_core::runs::StopReason;
pub use read::read;
pub use usage::Usage;
pub use writer::Writer;

/// For so many days things are remembered: a year, and a month to compare with.
pub const KEPT_DAYS: i64 = 400;
/// The database does not become larger; the oldest is forgotten sooner instead. Bytes.
pub const LARGEST: i64 = 448 << 20;

const MILLIS_A_DAY: i64 = 86_400_000;

/// Something that happened. Times are milliseconds since 1970, spans milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// These services are watched from now on, and no others.
    Watched {
        /// Their names.
        services: Vec<String>,
        /// When.
        at: i64,
    },
    /// The agent ends; nothing is watched.
    Ended {
        /// When.
        at: i64,
    },
    /// Something happened to this service.
    Service {
        /// Its name.
        name: String,
        /// What.
        what: What,
    },
}

/// What happened to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is up. Its start is known from before, unless nobody saw it.
    Up {
        /// When its start began.
        started: i64,
    },
    /// It is down, which is known from before, unless nobody saw it.
    Down {
        /// Since when.
        since: i64,
    },
    /// The application listens.
    Listening {
        /// After the begin of its start.
        after: i64,
    },
    /// The first packet to a client.
    FirstByte {
        /// After the begin of its start.
        after: i64,
    },
    /// What a run takes, or took.
    Usage {
        /// When its start began.
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
        /// Clients accepted since the run before.
        connections: i64,
        /// Payload bytes from clients.
        received: i64,
        /// Payload bytes to clients.
        sent: i64,
    },
    /// Nobody uses it.
    Quiet {
        /// Since when.
        since: i64,
    },
    /// Somebody came.
    Arrived {
        /// When.
        at: i64,
        /// For so long nobody had used it; `None`: nobody knows.
        gap: Option<i64>,
    },
}
