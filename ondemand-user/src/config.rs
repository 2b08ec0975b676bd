//! The configuration: raw TOML, checked once here, and the types that the rest of the program trusts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A checked configuration. No code after [`Config::load`] checks it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, for messages and for the unit files that name it.
    pub path: PathBuf,
    /// `[agent]`.
    pub agent: Agent,
    /// `[service.NAME]`, by name.
    pub services: BTreeMap<String, Service>,
}

/// `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Address of the Prometheus endpoint; `None` turns it off.
    pub metrics: Option<SocketAddr>,
    /// The history database; `None` turns it off.
    pub history: Option<PathBuf>,
}

/// `[service.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The key in the file: letters, digits, `-`, `_`, `.`; at most 63 bytes.
    pub name: String,
    /// The front socket's addresses.
    pub listen: Vec<Endpoint>,
    /// Where the application listens.
    pub backend: Endpoint,
    /// The application's own unit, `.service`.
    pub unit: String,
    /// Quiet for so long means idle. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Never stopped sooner after its start.
    pub min_uptime: Duration,
    /// How long the first client is held while the backend starts.
    pub start_timeout: Duration,
    /// Whether the kernel hands new connections straight to the backend while it is warm.
    pub steer: bool,
    /// A program asked before a stop: an exit status other than zero keeps the service up.
    pub veto: Option<PathBuf>,
}

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl Service {
    /// `ondemand-NAME.socket`, the front socket.
    pub fn socket_unit(&self) -> String {
        format!("ondemand-{}.socket", self.name)
    }

    /// `ondemand-NAME.service`, the proxy.
    pub fn proxy_unit(&self) -> String {
        format!("ondemand-{}.service", self.name)
    }

    /// `ondemand-NAME.target`, the lease.
    pub fn lease_unit(&self) -> String {
        format!("ondemand-{}.target", self.name)
    }
}

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    ///
    /// The message names the file, the line and the key.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let _ = path;
        anyhow::bail!("not written yet")
    }
}
