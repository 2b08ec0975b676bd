//! The events of the kernel's programs.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use ondemand_core::{
    caught::{Datagram, Packet},
    measure::{
        Ktime,
        sample::{KernelEvent, Slot},
    },
};
use tokio::io::unix::AsyncFd;

use super::{
    Sampler,
    catching::Catching,
    datagrams::Datagrams,
    decode::{self, Message},
};
use crate::kernel::sockets::sock_diag::tcp_listener_at;

/// What the kernel tells.
#[derive(Debug)]
pub enum News {
    /// Something has happened.
    Event(KernelEvent),
    /// Packets of clients that are held, and when they came.
    Caught(Vec<(Packet, Ktime)>),
    /// Datagrams that are held, and when they came.
    Datagrams(Vec<(Datagram, Ktime)>),
}

impl Sampler {
    /// Waits for the next event. Cancel safe.
    ///
    /// # Errors
    ///
    /// The ring buffer cannot be watched.
    pub async fn next_event(&mut self) -> Result<News> {
        loop {
            let message = match next(self.events.get_mut()) {
                Some(message) => message,
                None => {
                    // A thousand listeners that were closed together, or while no agent ran, cost one search.
                    self.find_other_listeners();
                    tokio::select! {
                        message = wait(&mut self.events) => message?,
                        packets = next_caught(&mut self.catching) => {
                            return Ok(News::Caught(packets?));
                        }
                        datagrams = next_datagrams(&mut self.datagrams) => {
                            return Ok(News::Datagrams(datagrams?));
                        }
                    }
                }
            };
            match message {
                Message::Event(event) => return Ok(News::Event(event)),
                Message::Unlistened(slot) => drop(self.unlistened.insert(slot)),
                Message::Unknown(event) => {
                    log::debug!("ignored an unknown kernel event: {event:?}")
                }
            }
        }
    }

    /// With several listeners (SO_REUSEPORT), the closed one may be the one that steering used.
    fn find_other_listeners(&mut self) {
        let closed = std::mem::take(&mut self.unlistened);
        // A walk over the tables passes all buckets of the host: 2 ms and more, where this takes microseconds.
        if !closed.into_iter().any(|slot| self.may_listen(slot)) {
            return;
        }
        // Without listeners the proxy serves, so the agent goes on.
        if let Err(error) = self.records("adopt") {
            log::warn!("cannot search for listeners, the proxy serves: {error:#}");
        }
    }

    /// Whether a listener may be at the address of the application: true if that is unknown.
    fn may_listen(&self, slot: Slot) -> bool {
        let watched = self.watched.get(&slot);
        let backend = watched.and_then(|of| of.backend);
        // (It is never a wildcard, for which the kernel would not find the listeners of single addresses.)
        backend
            .is_some_and(|address| tcp_listener_at(address).map_or(true, |found| found.is_some()))
    }
}

async fn next_caught(catching: &mut Option<Catching>) -> Result<Vec<(Packet, Ktime)>> {
    match catching {
        Some(catching) => catching.next().await,
        None => std::future::pending().await,
    }
}

async fn next_datagrams(holding: &mut Option<Datagrams>) -> Result<Vec<(Datagram, Ktime)>> {
    match holding {
        Some(holding) => holding.next().await,
        None => std::future::pending().await,
    }
}

/// The next message that is there.
fn next(events: &mut RingBuf<MapData>) -> Option<Message> {
    loop {
        // What cannot be decoded is skipped.
        if let Some(message) = decode::message(&events.next()?) {
            return Some(message);
        }
    }
}

async fn wait(events: &mut AsyncFd<RingBuf<MapData>>) -> Result<Message> {
    loop {
        let mut guard = events
            .readable_mut()
            .await
            .context("wait for the kernel's events")?;
        if let Some(message) = next(guard.get_inner_mut()) {
            return Ok(message);
        }
        guard.clear_ready();
    }
}
