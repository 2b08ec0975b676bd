//! What the agent's loop tells of its services for a scrape.

use std::time::Duration;

use ondemand_core::{
    caught::{DatagramTally, Tally},
    learned,
    measure::{sample::Sample, unit::ActiveState},
    room,
};

use super::{kept::Kept, ledger::Ledger};

/// The agent's present state of a service. `None`: unknown, which gives no sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The name in the configuration.
    pub service: String,
    /// The state of the application's unit.
    pub state: Option<ActiveState>,
    /// The kernel's counters.
    pub sample: Option<Sample>,
    /// Open connections.
    pub open: Option<u64>,
    /// How long it has been unused; only while it is up.
    pub idle: Option<Duration>,
    /// How long it has been unused, whether it is up or down.
    pub unused: Option<Duration>,
    /// What keeps it up. `None`: it is down, or that is unknown.
    pub kept: Option<Kept>,
    /// Its idle timeout; `None`: infinite.
    pub idle_timeout: Option<Duration>,
    /// What was learned of it: an idle timeout, and what that would have meant.
    pub learned: (Duration, learned::Tally),
    /// Whether its application is ready. `None`: it is down, or that is not asked.
    pub ready: Option<bool>,
    /// Its clients that were held.
    pub held: Tally,
    /// Whether it may be frozen, whether it is, and how often it was.
    pub frozen: (bool, bool, u64),
    /// What has become of its room. `None`: it needs none.
    pub room: Option<room::Tally>,
    /// Starts ahead of a client that came, and of one that did not.
    pub prewarms: [u64; 2],
    /// Its datagrams that were held. `None`: it receives none.
    pub datagrams: Option<DatagramTally>,
}

/// What is in force of the configuration's file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Configuration {
    /// Whether the last reading of the file succeeded.
    pub last_reload_successful: bool,
    /// When what is in force was read, in seconds since 1970.
    pub last_reload_success: Option<f64>,
}

/// The agent's present state.
#[derive(Clone, Debug, PartialEq)]
pub struct Observations {
    /// Its configuration.
    pub configuration: Configuration,
    /// All services.
    pub services: Vec<Observation>,
}

/// A service and its counters.
pub type Row = (Observation, Ledger);
