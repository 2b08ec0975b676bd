//! The agent's state of the services, as published on the bus.

mod ways;

use std::collections::BTreeMap;

use ondemand_core::{
    measure::sample::Leg,
    words::{Bytes, counted},
};
use serde::{Deserialize, Serialize};

pub use self::ways::{Datagrams, HeldClients};
use super::names;

/// The state of all services. Scripts read it: fields are added, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The agent's version.
    pub version: String,
    /// Whether the agent only logs what it would stop.
    pub dry_run: bool,
    /// The configuration in force.
    #[serde(default)]
    pub configuration: Configuration,
    /// By name.
    pub services: Vec<Service>,
}

/// Whether a service in this state takes memory.
pub fn is_up(state: &str) -> bool {
    !matches!(state, "inactive" | "failed")
}

impl Report {
    /// One line about all services; `None`: there is none.
    pub fn summary(&self) -> Option<String> {
        let all = self.services.len();
        let up = self.services.iter().filter(|it| is_up(&it.state)).count();
        let back = self.services.iter().filter_map(|it| it.given_back_bytes);
        let back: u64 = back.sum();
        let problems = self.services.iter().filter(|it| it.problem.is_some());
        let problems = problems.count() as u64;
        let mut text = format!("{up} of {all} up");
        // What they took before their last stop: of this moment, and not of a day.
        if back > 0 {
            text += &format!(", {} given back now", Bytes(back));
        }
        if problems > 0 {
            text += &format!(", {}", counted(problems, "problem"));
        }
        (all > 0).then_some(text)
    }
}

/// The configuration's file, and what is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// The file.
    pub path: String,
    /// Whether the last reading of the file succeeded, by the agent and by systemd's generator, so that it is in
    /// force.
    pub last_reload_successful: bool,
    /// When what is in force was read (RFC 3339); of a copy, when it was written.
    pub last_reload_success: Option<String>,
    /// Why the file is not in force, one line for each problem; null: it is.
    pub error: Option<String>,
    /// What systemd's generator did instead of making the units of the file, when it ran last; null: it has made
    /// them.
    pub units_error: Option<String>,
    /// Whether the file has changed since it was read last.
    pub changed: bool,
    /// The copy of an older file that is in force instead, since the agent's start; null: none.
    pub copy: Option<String>,
}

impl Configuration {
    /// The first line for people, if there is anything to say.
    pub fn notice(&self) -> Option<String> {
        let changed = || {
            let path = &self.path;
            format!("{path} has changed since it was read: run `systemctl daemon-reload`")
        };
        self.trouble().or_else(|| self.changed.then(changed))
    }

    /// Why the file is not in force, and what is, on one line. `None`: it is.
    pub fn trouble(&self) -> Option<String> {
        let Some(error) = &self.error else {
            let units = self.units_error.as_ref()?;
            return Some(format!(
                "CONFIGURATION NOT IN FORCE in systemd: when its generators ran, {units}; the file is correct now: run \
                 `systemctl daemon-reload`"
            ));
        };
        let mut problems = error.lines();
        let first = problems.next().unwrap_or_default();
        let more = match problems.count() {
            0 => String::new(),
            more => format!(" (and {more} more: `ondemand check`)"),
        };
        let kept = match &self.copy {
            Some(copy) => format!("a copy is in force, {copy}"),
            None => "the one before stays in force".to_owned(),
        };
        Some(format!(
            "WRONG CONFIGURATION, {kept}: {first}{more}; correct it, then `systemctl reload ondemand`"
        ))
    }
}

/// The room of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    /// Its group; null: none.
    pub group: Option<String>,
    /// How long it has waited for room; null: it does not wait.
    pub waits_seconds: Option<f64>,
    /// Whether it is idle, and the first to go when room is needed.
    pub goes_next: bool,
    /// How often it was stopped to make room in its group, since the agent began to watch it.
    pub evictions_for_group: u64,
    /// The same for its memory.
    pub evictions_for_memory: u64,
    /// How often it waited for room, until there was some.
    pub waits: u64,
    /// How long, in all.
    pub waited_seconds: f64,
}

/// The state of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// The name in the configuration.
    pub name: String,
    /// The application's unit.
    pub unit: String,
    /// Where its clients connect.
    pub listen: Vec<String>,
    /// `inactive`, `activating`, `active`, `deactivating`, `failed` or `unknown`.
    pub state: String,
    /// `native`: new connections, or datagrams, reach the application, which keeps its address; `steered`: connections are
    /// steered to the backend; `held`: it receives datagrams alone, and is down; otherwise `proxied`.
    pub route: String,
    /// Connections open now; null: unknown.
    pub open_connections: Option<u64>,
    /// Connections accepted in total.
    pub accepted_connections: u64,
    /// Payload bytes from clients.
    pub received_bytes: u64,
    /// Payload bytes to clients.
    pub sent_bytes: u64,
    /// How long it has been unused; null: it is used, down, or unknown.
    pub idle_seconds: Option<f64>,
    /// Its idle timeout; null: never stopped.
    pub idle_timeout_seconds: Option<f64>,
    /// What was learned of it; with a fixed idle timeout, to compare.
    pub learned: Learned,
    /// When its next client is expected, if it is to be up then (`prewarm`); null: it is not to be.
    #[serde(default)]
    pub prewarm: Option<Prewarm>,
    /// Time until it is stopped without a client; null: it is used, held, down or unknown, or never.
    pub stops_in_seconds: Option<f64>,
    /// Starts since the agent began to watch it ([`ondemand_core::runs`]).
    pub starts: u64,
    /// Ends of its unit since then.
    pub stops: u64,
    /// The same by reason: `idle`, `requested`, `external`, `failed`.
    pub stops_by_reason: BTreeMap<String, u64>,
    /// Stops that were not carried through, since then.
    pub vetoes: u64,
    /// The same by reason.
    pub vetoes_by_reason: BTreeMap<String, u64>,
    /// How long its last start since then took, until it was up and, where that is known, listened.
    pub last_start_duration_seconds: Option<f64>,
    /// How long its start usually takes: the median of the last ones that are known; null: none is.
    pub usual_start_seconds: Option<f64>,
    /// Clients served by the proxy.
    pub front: Counts,
    /// Clients steered to the backend.
    pub steered: Counts,
    /// Connections to the backend's own address: the proxy's and others.
    pub back: Counts,
    /// Clients that do not keep it up; the other fields exclude them.
    pub ignored: Counts,
    /// Attempts to connect of clients that may not start it, while it was down.
    pub refused_connections: u64,
    /// Clients that were held while it was down or stopped.
    #[serde(default)]
    pub held_clients: HeldClients,
    /// Datagrams; null: it receives none.
    pub datagrams: Option<Datagrams>,
    /// Open connections that are older than the counting.
    pub older_connections: u64,
    /// How often the counters and the kernel's socket tables differed.
    pub count_drift: u64,
    /// Memory of its unit; null: unknown or down.
    pub memory_bytes: Option<u64>,
    /// Memory that its last stop gave back, as measured before it; null: it is not down, or unknown.
    pub given_back_bytes: Option<u64>,
    /// Whether it is held, that is, stays up however idle it is.
    pub held: bool,
    /// Whether it is kept up by `keep_up` now, however idle it is.
    pub kept_up: bool,
    /// Its turns in its group, and its memory; null: it has no group, and there is no `memory_budget`.
    pub room: Option<Room>,
    /// Whether its application is frozen (`freeze_after`): its next client thaws it.
    #[serde(default)]
    pub frozen: bool,
    /// End of the hold (RFC 3339); null: until it is released, or it is not held.
    pub held_until: Option<String>,
    /// Failures of its proxy since the agent began to watch it.
    pub proxy_failures: u64,
    /// Restarts of its unit by systemd itself since then.
    pub restarts: u64,
    /// Whether the present run of its application was ready for clients (`ready`); null: it is down, or that is not
    /// asked.
    pub ready: Option<bool>,
    /// Who was asked, and what it says instead; null: it is ready, down, or was not asked yet.
    pub not_ready: Option<String>,
    /// Whether it worked without a client when that was last looked at (`busy_cpu`, `busy_io`); null: unknown, down, or not
    /// asked.
    pub working: Option<bool>,
    /// What does not work; null: nothing is known. `detail` begins with it.
    pub problem: Option<String>,
    /// Why it is up, or what happens next: one sentence.
    pub detail: String,
}

impl Service {
    /// Its `detail`, with the end of its hold in this process' time zone.
    pub fn detail_here(&self) -> String {
        let until = self.held_until.as_deref().filter(|_| self.held);
        match until.and_then(|text| text.parse::<jiff::Timestamp>().ok()) {
            Some(until) => {
                let until = until.to_zoned(jiff::tz::TimeZone::system());
                format!("{}, until {}", self.detail, until.strftime("%F %H:%M"))
            }
            None => self.detail.clone(),
        }
    }

    /// End of the hold, in microseconds since 1970; 0: it is not held; [`names::NO_NUMBER`]: until
    /// it is released.
    pub fn held_until_micros(&self) -> u64 {
        if !self.held {
            return 0;
        }
        let until = self.held_until.as_deref();
        let until = until.and_then(|text| text.parse::<jiff::Timestamp>().ok());
        until
            .and_then(|until| u64::try_from(until.as_microsecond()).ok())
            .unwrap_or(names::NO_NUMBER)
    }
}

/// A service that is started before its clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prewarm {
    /// Starts ahead of a client that came, since the agent began to watch the service.
    pub used: u64,
    /// The same, of one that did not come.
    pub wasted: u64,
    /// In how many seconds the next client is expected, at the earliest; null: nothing is known.
    pub expected_after_seconds: Option<f64>,
    /// The same, at the latest.
    pub expected_before_seconds: Option<f64>,
    /// What says so: `interval`, `hour`, `day`, `workday`, `week` or `day-utc`; null: nothing does.
    pub pattern: Option<String>,
}

/// What was learned of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// The idle timeout that was learned.
    pub idle_timeout_seconds: f64,
    /// Whether it is in force.
    pub in_force: bool,
    /// Why it is what it is: one sentence.
    pub reason: String,
    /// The number of gaps between two uses that it rests on.
    pub gaps: u64,
    /// What a cold start costs: as much as to be up and idle for so long.
    pub cold_start_cost_seconds: f64,
    /// What the gaps cost since the agent began to watch the service, by that: with the configured idle timeout; if
    /// that is the learned one, with the cost of a cold start for a timeout.
    pub fixed_cost_seconds: f64,
    /// The same with the learned one.
    pub learned_cost_seconds: f64,
}

/// The open connections of a service, those that were used last first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clients {
    /// At most a hundred.
    pub clients: Vec<OpenConnection>,
    /// How many more there are.
    pub clients_left_out: u64,
}

/// An open connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenConnection {
    /// The client's address and port.
    pub address: String,
    /// `steered`, `proxied`, `ignored`, or `direct`: at the backend's own address.
    pub way: String,
    /// When it was established (RFC 3339).
    pub since: Option<String>,
    /// For how long it has been open.
    pub open_seconds: f64,
    /// For how long no byte has gone either way; null: unknown.
    pub silent_seconds: Option<f64>,
}

/// Connections on one way to the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Accepted in total.
    pub accepted: u64,
    /// Closed.
    pub closed: u64,
}

impl From<Leg> for Counts {
    fn from(leg: Leg) -> Self {
        Self {
            accepted: leg.accepted,
            closed: leg.closed,
        }
    }
}
