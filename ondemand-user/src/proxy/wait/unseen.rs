//! A backend of which the kernel does not tell whether it listens: the modules of sock_diag are missing, or its
//! sockets are not allowed. It counts as ready when its unit is active and it can be connected to.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use ondemand_core::{config::Endpoint, measure::unit::Unit};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};

/// Maximum time of an attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// How long an active unit is left to make the directory of its Unix socket, before this process is taken for one
/// that does not see it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The attempts at one backend.
#[derive(Default)]
pub struct Unseen {
    /// Since when the unit is seen active and the socket's file is not there.
    absent_since: Option<Instant>,
}

impl Unseen {
    /// Whether it can be connected to. `None`: that is not tried, since the unit is known not to be active.
    /// `unit`: its state, if systemd answers.
    pub async fn answers(&mut self, backend: &Endpoint, unit: Option<&Unit>) -> Option<bool> {
        if unit.is_some_and(|unit| !unit.is_settled_up()) {
            self.absent_since = None;
            return None;
        }
        let connect = async {
            match backend {
                Endpoint::Tcp(address) => TcpStream::connect(address).await.map(drop),
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(drop),
                // The unit's state is all that there is.
                Endpoint::Udp(_) => Ok(()),
            }
        };
        let attempt = timeout(ATTEMPT, connect).await;
        let result = attempt.unwrap_or_else(|_| Err(io::Error::from(ErrorKind::TimedOut)));
        let is_absent = result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if !is_absent || unit.is_none() {
            self.absent_since = None;
        } else {
            self.absent_since.get_or_insert_with(Instant::now);
        }
        Some(result.is_ok())
    }

    /// Whether a Unix socket may be there and not be seen by this process ([`super::OutOfSight`]).
    pub fn may_be_out_of_sight(&self) -> bool {
        self.absent_since
            .is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}
