//! The configuration: raw TOML, validated once here, and the types that the rest of the program trusts.

use core::net::SocketAddr;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

mod access;
mod activation;
mod differences;
mod empty;
mod endpoint;
mod error;
mod first_client;
mod freeze;
mod group;
mod keepalive;
mod learning;
mod memory;
mod metrics;
mod names;
mod networks;
mod overlaps;
mod own;
mod parse;
mod parsed;
mod parts;
mod ready;
mod schedule;
mod silence;
mod table;
#[cfg(test)]
mod tests;
mod timespan;
mod unit_names;
mod waiting_page;
mod whatif;
mod work;

pub use activation::Activation;
pub use differences::{Difference, Kind, differences};
pub use error::{Error, Problem};
pub use first_client::FirstClient;
pub use group::Group;
pub use keepalive::KeepAlive;
pub use learning::{ColdStartCost, IdleTimeout, Learning};
pub use memory::MemoryBudget;
pub use names::possible as possible_name;
pub use networks::List;
pub use own::{is_private_front, reachable};
pub use parse::{AGENT_KEYS, GROUP_KEYS, SERVICE_KEYS, service_names};
pub use parts::{DIRECTORY as PARTS, add as add_part, may_be_part};
pub use ready::{By, Ready, Statuses};
pub use schedule::{Minute, Schedule};
pub use table::nearest;
pub use unit_names::{PerUnit, UnitNames, room_unit};
pub use waiting_page::WaitingPage;
pub use whatif::WhatIfBy;
pub use work::Limits;

/// Path of the configuration without `--config`.
pub const DEFAULT_PATH: &str = "/etc/ondemand/ondemand.toml";

/// Maximum number of services: the capacity of the kernel's maps.
pub const MAX_SERVICES: usize = 1024;

/// What an address of UDP begins with.
const UDP: &str = "udp:";

/// Maximum number of services that an error message names.
const MOST_NAMED: usize = 32;

/// Maximum number of front addresses of one service.
pub const MAX_LISTEN: usize = 16;

/// A valid configuration. No code after [`Config::parse`] checks it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The absolute path of its file, for messages and for the unit files that name it.
    pub path: PathBuf,
    /// `[agent]`.
    pub agent: Agent,
    /// `[service.NAME]`, by name.
    pub services: BTreeMap<String, Service>,
    /// `[group.NAME]`, by name.
    pub groups: BTreeMap<String, Group>,
}

/// `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Address of the Prometheus endpoint; `None` turns it off.
    pub metrics: Option<SocketAddr>,
    /// For whom it has what other idle timeouts would have meant.
    pub whatif: WhatIfBy,
    /// Names of this server that requests to it may carry, besides addresses and `localhost`; in lower case.
    pub metrics_names: Vec<String>,
    /// Whether the endpoint has a page for people, too.
    pub page: bool,
    /// The history database; `None` turns it off.
    pub history: Option<PathBuf>,
    /// How long idle services are kept warm. `None`: until their idle timeouts.
    pub memory_budget: Option<MemoryBudget>,
    /// What a cold start costs of a service that does not say it.
    pub cold_start_cost: ColdStartCost,
}

/// `[service.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The key in the file: letters, digits, `-`, `_`, `.`; at most 63 bytes.
    pub name: String,
    /// Where clients arrive. `[::]` here means IPv6 alone; IPv4 has its own `0.0.0.0`.
    pub listen: Vec<Endpoint>,
    /// Whether the application itself listens at these addresses, all of TCP or UDP. Otherwise the front socket does.
    pub own_address: bool,
    /// The front socket's addresses, TCP's or paths: those of `listen`, or private ones.
    pub front: Vec<Endpoint>,
    /// Where the application listens: the first address that reaches it, of TCP if it has one. Never a wildcard
    /// address.
    pub backend: Endpoint,
    /// The application's own unit, `.service`.
    pub unit: String,
    /// When it is idle.
    pub idle_timeout: IdleTimeout,
    /// What a learned idle timeout rests on.
    pub learning: Learning,
    /// When it is kept up, however idle it is.
    pub keep_up: Schedule,
    /// Whether it is started before a client that is expected ([`crate::rhythm`]).
    pub prewarm: bool,
    /// How long it must be unused to be frozen. `None`: it never is.
    pub freeze_after: Option<Duration>,
    /// Whether the memory of the frozen application is given back, to swap and to the files that it came from.
    pub freeze_reclaim: bool,
    /// The group whose services take turns, a key of [`Config::groups`]. `None`: it is up whenever it is wanted.
    pub group: Option<String>,
    /// A connection with no byte either way for this duration is no use. `None`: each open one is.
    pub silent_after: Option<Duration>,
    /// How much work of its own means that it is not idle.
    pub busy: Limits,
    /// Minimum time between a start and a stop.
    pub min_uptime: Duration,
    /// How long the first client is held while the backend starts.
    pub start_timeout: Duration,
    /// When the application is ready for clients. `None`: when it listens, and answers the proxy's first connection.
    pub ready: Option<Ready>,
    /// What browsers see that wait for it. `None`: they wait like everybody else.
    pub waiting_page: Option<WaitingPage>,
    /// Whether the kernel passes new connections directly to the backend while it is up.
    pub steer: bool,
    /// What becomes of clients while it is down.
    pub first_client: FirstClient,
    /// Who holds the socket where clients arrive.
    pub activation: Activation,
    /// Clients that may start the service. Others are served while it is up, and refused while it
    /// is down. Empty: all clients.
    pub wake_from: List,
    /// Clients whose use does not keep the service up. Empty: none.
    pub ignore_from: List,
    /// Whether a connection counts as use only when its client has sent a byte, and starts the service only then.
    pub ignore_empty: bool,
    /// How vanished clients are found. `None`: as the application and the kernel have it.
    pub keepalive: Option<KeepAlive>,
    /// A program that is run before a stop: an exit status other than zero keeps the service up.
    pub veto: Option<PathBuf>,
    /// Who may connect to the paths in `listen`.
    pub access: Access,
}

impl Service {
    /// Whether steering is configured, and has a front and a backend to steer between.
    pub fn can_steer(&self) -> bool {
        self.steer && self.backend.is_tcp() && self.listen.iter().any(Endpoint::is_tcp)
    }

    /// The addresses where datagrams arrive.
    pub fn datagrams(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Udp(address) => Some(*address),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        })
    }

    /// Whether it has such an address.
    pub fn has_datagrams(&self) -> bool {
        self.listen.iter().any(Endpoint::is_udp)
    }
}

/// Who may connect to a front socket with a path: the file's mode and owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits, at most 0o777. connect(2) needs permission to write.
    pub mode: u32,
    /// The owner, a name or a number; `None`: root.
    pub user: Option<String>,
    /// The group, a name or a number; `None`: the group of the owner.
    pub group: Option<String>,
}

/// systemd's own default is 0666: everybody.
impl Default for Access {
    fn default() -> Self {
        Self {
            mode: 0o600,
            user: None,
            group: None,
        }
    }
}

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The same of UDP: `udp:0.0.0.0:53`. Only of an application that keeps its addresses.
    Udp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// Parses an address of the configuration. The error says what to write instead.
impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        endpoint::parse(text)
    }
}

/// Formats an address as the configuration has it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "{UDP}{address}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Endpoint {
    /// Whether it is an address and port of TCP.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Whether it is an address and port of UDP.
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    /// Whether the two addresses cannot both be bound by different owners.
    pub fn overlaps(&self, other: &Self) -> bool {
        endpoint::overlap(self, other, false)
    }
}

impl Config {
    /// Validates `text`, read from `path`: an absolute path, unless it is used in messages only. After it there may be
    /// those of other files ([`add_part`]).
    ///
    /// # Errors
    ///
    /// The message names the file, the line and the key, one line for each problem.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let (agent, services, groups) =
            parse::document(path, text).map_err(|problems| Error::new(path, problems))?;
        Ok(Self {
            path: path.to_owned(),
            agent,
            services,
            groups,
        })
    }

    /// The units of the services, in the order of the services' names.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.services.values().map(|service| service.unit.as_str())
    }

    /// Returns the service called `name`.
    ///
    /// # Errors
    ///
    /// An [`Error`] that names the configured services, or some of them.
    pub fn service(&self, name: &str) -> Result<&Service, Error> {
        self.services.get(name).ok_or_else(|| {
            let message = names::possible(name)
                .map_or_else(|impossible| impossible, |()| self.no_service(name));
            Error::new(&self.path, vec![Problem::file(message)])
        })
    }

    /// For a name that a service could have.
    fn no_service(&self, name: &str) -> String {
        let known: Vec<_> = self.services.keys().map(String::as_str).collect();
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean {near:?}?"),
            None if known.is_empty() => "the file has no [service.NAME] yet".into(),
            None if known.len() > MOST_NAMED => format!(
                "there are: {} and {} more",
                known[..MOST_NAMED].join(", "),
                known.len() - MOST_NAMED
            ),
            None => format!("there are: {}", known.join(", ")),
        };
        format!("no service {name:?}; {hint}")
    }
}

/// Parses a time span (systemd.time(7)), except `infinity`.
///
/// # Errors
///
/// `text` is not a time span; the message shows the format.
pub fn time_span(text: &str) -> Result<Duration, String> {
    timespan::parse(text)
        .ok_or_else(|| format!("{text:?} is not a time span; write it like \"90s\" or \"500ms\""))
}
