//! A backend with no listener of this host's: on another host, in another network namespace, behind a
//! translation of addresses as for a container's published port. It is ready when it can be connected to.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use ondemand_core::{config::Endpoint, measure::unit::Unit};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::kernel::sockets::listening::is_listening;

/// How long an application of this host is left to listen, after its unit is active, before its address is
/// tried: the connection would be one more for the application.
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum time of an attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The attempts at one backend.
pub struct Elsewhere {
    address: Option<SocketAddr>,
    /// Whether the address is one of this host's.
    is_here: bool,
    /// When the next attempt may begin. `None`: the unit was not seen active yet.
    next: Option<Instant>,
    /// Whether one has succeeded since then.
    answers: bool,
}

impl Elsewhere {
    /// Before any attempt.
    pub fn new(backend: &Endpoint) -> Self {
        let address = match backend {
            Endpoint::Tcp(address) => Some(*address),
            Endpoint::Udp(_) | Endpoint::Unix(_) => None,
        };
        let bind = |address: SocketAddr| UdpSocket::bind((address.ip(), 0));
        let error = address.and_then(|address| bind(address).err());
        Self {
            address,
            is_here: error.is_none_or(|error| error.kind() != ErrorKind::AddrNotAvailable),
            next: None,
            answers: false,
        }
    }

    /// Whether it can be connected to. `unit`: its state, if systemd answers.
    pub async fn answers(&mut self, unit: Option<&Unit>) -> bool {
        let Some(address) = self.address else {
            return false;
        };
        if !unit.is_some_and(Unit::is_settled_up) {
            self.next = None;
            self.answers = false;
            return false;
        }
        if self.answers {
            return true;
        }
        let now = Instant::now();
        let patience = if self.is_here {
            PATIENCE
        } else {
            Duration::ZERO
        };
        if now < *self.next.get_or_insert(now + patience) {
            return false;
        }
        // One that listens by now is found at the next look, without a connection.
        if self.is_here && is_listening(&Endpoint::Tcp(address)).unwrap_or(true) {
            return false;
        }
        let attempt = timeout(ATTEMPT, TcpStream::connect(address)).await;
        self.next = Some(Instant::now() + PAUSE);
        self.answers = matches!(attempt, Ok(Ok(_)));
        if self.answers {
            log::info!("nobody of this host listens on {address}, which answers");
        }
        self.answers
    }
}
