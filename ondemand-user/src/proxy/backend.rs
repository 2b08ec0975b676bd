//! The application, as the connections of one proxy see it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ondemand_core::config::Endpoint;
use tokio::{
    net::{TcpStream, UnixStream},
    time::Instant,
};

use super::{
    is_absent,
    source::{self, Ends},
    stranger::{self, Guard},
    stream::Stream,
};
use crate::{host::complaints::Complaints, kernel::sockets::listening::Application};

/// How long to retry a backend that was ready before: it may be restarting.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two attempts.
pub const PAUSE: Duration = Duration::from_millis(20);
/// A start that needs attempts for longer than this is logged.
const WORTH_SAYING: Duration = Duration::from_secs(1);

/// Where connections are carried to.
pub struct Backend {
    /// The service's name, for messages.
    name: String,
    endpoint: Endpoint,
    application: Application,
    guard: Guard,
    /// Until when its start may go on.
    starting_until: Mutex<Instant>,
    answered: AtomicBool,
    /// What was logged once in the proxy's life.
    complaints: Mutex<Complaints<Complaint>>,
}

/// What a proxy logs once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Complaint {
    Late,
    GaveUp,
    LooksLocal,
    Stranger,
}

impl Backend {
    /// One that may not be ready before that moment.
    pub fn new(
        name: &str,
        application: Application,
        guard: Guard,
        starting_until: Instant,
    ) -> Self {
        Self {
            name: name.to_owned(),
            endpoint: application.backend.clone(),
            application,
            guard,
            starting_until: Mutex::new(starting_until),
            answered: AtomicBool::new(false),
            complaints: Mutex::default(),
        }
    }

    /// Whether this complaint is the first of its kind: its text may differ from client to client.
    fn is_first(&self, kind: Complaint) -> bool {
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complaints.is_new(kind, "")
    }

    /// Connects for a client with these ends. A backend that nothing listens at is tried again for a
    /// short while.
    ///
    /// # Errors
    ///
    /// It cannot be connected to.
    pub async fn connect(&self, ends: Option<Ends>) -> io::Result<Stream> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.try_connect(ends).await {
                Err(error) if is_absent(&error, &self.endpoint) && Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// One attempt.
    ///
    /// # Errors
    ///
    /// It cannot be connected to.
    pub async fn try_connect(&self, ends: Option<Ends>) -> io::Result<Stream> {
        let connected = async {
            self.guard.look().await?;
            match &self.endpoint {
                Endpoint::Tcp(_) if let Some(ends) = ends.filter(|_| self.is_own()) => {
                    self.connect_own(ends).await.map(Stream::Tcp)
                }
                Endpoint::Tcp(address) => source::connect(*address, ends).await.map(Stream::Tcp),
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
                Endpoint::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        };
        connected.await.inspect_err(|error| {
            if stranger::is_stranger(error) && self.is_first(Complaint::Stranger) {
                log::warn!("{}: closing clients: {error}", self.name);
            }
            if source::looks_local(error) && self.is_first(Complaint::LooksLocal) {
                log::warn!(
                    "{}: closing clients of the network: {error}, and {} must not take them for local ones",
                    self.name,
                    self.endpoint
                );
            }
        })
    }

    /// Whether the application keeps the addresses where clients arrive.
    fn is_own(&self) -> bool {
        !self.application.own.is_empty()
    }

    /// Connects to the address that the client arrived at. If nothing listens there, as with an application that
    /// listens in one family alone, to another of the same port.
    async fn connect_own(&self, ends: Ends) -> io::Result<TcpStream> {
        let arrived = source::canonical(ends.arrived);
        let mut result = self.connect_at(arrived, ends).await;
        for other in self.application.others(arrived) {
            match &result {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    result = self.connect_at(other, ends).await;
                }
                _ => break,
            }
        }
        result
    }

    async fn connect_at(&self, address: SocketAddr, ends: Ends) -> io::Result<TcpStream> {
        self.guard.look_at(address).await?;
        source::connect_inside(address, ends).await
    }

    /// Whether a failure may mean that it is not ready yet.
    pub fn is_starting(&self) -> bool {
        !self.answered.load(Ordering::Relaxed) && Instant::now() < self.starting_until()
    }

    /// Until when it may be not ready yet.
    pub fn starting_until(&self) -> Instant {
        *self
            .starting_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the patience with its start soon: the proxy has to exit, and its clients delay that.
    pub fn hurry(&self) {
        let mut until = self
            .starting_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *until = (*until).min(Instant::now() + PATIENCE);
    }

    /// It has sent a byte, to a client that has waited for this time.
    pub fn answers(&self, waited: Duration) {
        let is_first = !self.answered.swap(true, Ordering::Relaxed);
        if is_first && waited > WORTH_SAYING {
            log::info!(
                "{}: {} answered after {:.1} s of attempts",
                self.name,
                self.endpoint,
                waited.as_secs_f64()
            );
        }
    }

    /// It did not answer a client, which has waited for this time. Logged once.
    pub fn is_late(&self, waited: Duration, why: &str) {
        if waited > WORTH_SAYING && self.is_first(Complaint::Late) {
            log::warn!(
                "{}: {} listens but is not ready, trying again until start_timeout: {why}",
                self.name,
                self.endpoint
            );
        }
    }

    /// A client waited for an answer in vain. Logged once.
    pub fn gave_up(&self, waited: Duration, why: &str) {
        if self.is_first(Complaint::GaveUp) {
            log::warn!(
                "{}: {} did not answer the first clients within {:.1} s of attempts: {why}",
                self.name,
                self.endpoint,
                waited.as_secs_f64()
            );
        }
    }

    /// Whether a failed connect(2) means that it is not ready yet, while it is starting.
    pub fn is_not_there(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::ConnectionReset || is_absent(error, &self.endpoint)
    }
}
