//! The application, as the connections of one proxy see it.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ondemand_core::config::Endpoint;
use tokio::{net::UnixStream, time::Instant};

use super::{
    carry::Stream,
    is_absent,
    source::{self, Ends},
};

/// How long to retry a backend that was ready before: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two attempts.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Where connections are carried to.
pub struct Backend {
    /// The service's name, for messages.
    name: String,
    endpoint: Endpoint,
    said_looks_local: AtomicBool,
}

impl Backend {
    /// One of this service.
    pub fn new(name: &str, endpoint: Endpoint) -> Self {
        Self {
            name: name.to_owned(),
            endpoint,
            said_looks_local: AtomicBool::new(false),
        }
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
    async fn try_connect(&self, ends: Option<Ends>) -> io::Result<Stream> {
        let connected = match &self.endpoint {
            Endpoint::Tcp(address) => source::connect(*address, ends).await.map(Stream::Tcp),
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        };
        connected.inspect_err(|error| {
            if source::looks_local(error) && !self.said_looks_local.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{}: closing clients of the network: {error}, and {} must not take them for local ones",
                    self.name,
                    self.endpoint
                );
            }
        })
    }
}
