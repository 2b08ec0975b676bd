//! The proxy carries clients to the application, and to no other user's process that has taken its
//! address while it was down.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use ondemand_core::{config::Endpoint, measure::unit::Owner};
use tokio::time::{Instant, timeout};

use super::source;
use crate::{
    kernel::sockets::{
        owner::{Whose, owner_by_place, whose, words},
        sock_diag::tcp_listener_at,
    },
    systemd::Systemd,
};

/// How long a client waits for systemd's reply, which usually takes some milliseconds.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long systemd is not asked after it has not answered.
const SILENCE: Duration = Duration::from_secs(5);

/// Watches who listens at the application's address.
pub struct Guard {
    unit: String,
    /// The address, if it is one of this host's: of another one the kernel does not know the listener.
    address: Option<SocketAddr>,
    /// The user whose listener was the application's. Root's always is.
    user: AtomicU32,
    bus: Mutex<Bus>,
}

impl Guard {
    /// For the application of a unit.
    pub fn new(unit: &str, backend: &Endpoint) -> Self {
        let address = match backend {
            Endpoint::Tcp(address) => Some(source::canonical(*address)),
            Endpoint::Udp(_) | Endpoint::Unix(_) => None,
        };
        Self {
            unit: unit.to_owned(),
            address: address.filter(|address| source::is_of_this_host(*address)),
            user: AtomicU32::new(0),
            bus: Mutex::default(),
        }
    }

    /// Fails if a connection would be accepted by a stranger's listener. What is unknown is no stranger:
    /// neither a listener that the kernel does not find, nor one of a unit that systemd does not describe.
    /// It takes some microseconds.
    ///
    /// # Errors
    ///
    /// It is a [`Stranger`], which [`is_stranger`] recognizes.
    pub async fn look(&self) -> io::Result<()> {
        match self.address {
            Some(address) => self.look_at(address).await,
            None => Ok(()),
        }
    }

    /// The same for another address of this host.
    ///
    /// # Errors
    ///
    /// As [`Self::look`].
    pub async fn look_at(&self, address: SocketAddr) -> io::Result<()> {
        let listener = match tcp_listener_at(address) {
            Ok(Some(listener)) => listener,
            Ok(None) => return Ok(()),
            Err(error) => {
                log::debug!("{error:#}");
                return Ok(());
            }
        };
        if listener.uid == 0 || listener.uid == self.user.load(Ordering::Relaxed) {
            return Ok(());
        }
        let owner = match self.owner().await {
            Ok(owner) => owner,
            Err(error) => {
                log::debug!("whose listener {address} is: {error:#}");
                match owner_by_place(&self.unit) {
                    Some(owner) => owner,
                    None => return Ok(()),
                }
            }
        };
        if whose(&listener, &owner) == Whose::Stranger {
            let text = words(&listener, address, &self.unit);
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                Stranger(text),
            ));
        }
        self.user.store(listener.uid, Ordering::Relaxed);
        Ok(())
    }

    /// Asks systemd, if it has answered before within the last seconds, or was not asked.
    async fn owner(&self) -> Result<Owner> {
        let (known, silent_since) = {
            let bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
            (bus.systemd.clone(), bus.silent_since)
        };
        ensure!(
            silent_since.is_none_or(|since| since.elapsed() >= SILENCE),
            "systemd did not answer"
        );
        let ask = async {
            let systemd = match known {
                Some(systemd) => systemd,
                None => Systemd::connect().await?,
            };
            let owner = systemd.owner(&self.unit).await?;
            anyhow::Ok((systemd, owner))
        };
        let answer = timeout(PATIENCE, ask).await;
        let answer = answer.map_err(anyhow::Error::from).flatten();
        let mut bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that has failed is not used again.
        *bus = Bus {
            systemd: answer.as_ref().ok().map(|(systemd, _)| systemd.clone()),
            silent_since: answer.is_err().then(Instant::now),
        };
        answer.map(|(_, owner)| owner)
    }
}

/// The connection to systemd.
#[derive(Default)]
struct Bus {
    systemd: Option<Systemd>,
    silent_since: Option<Instant>,
}

/// Whether the connection was not made because a stranger would have accepted it.
pub fn is_stranger(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stranger>())
}

#[derive(Debug)]
struct Stranger(String);

impl std::error::Error for Stranger {}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
