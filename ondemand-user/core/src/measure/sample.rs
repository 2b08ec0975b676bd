//! What the kernel's maps hold: counters and sockets of a service, and what woke the agent.

use std::collections::HashMap;

use crate::measure::Ktime;

/// A service's place in the kernel's maps. Stable over restarts of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// The kernel's counters of one way to the application. No field ever decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Connections established.
    pub accepted: u64,
    /// Connections closed.
    pub closed: u64,
    /// Payload bytes that clients sent. Here and below, those of open connections are added when a
    /// reader requests them.
    pub received_bytes: u64,
    /// Payload bytes that clients acknowledged.
    pub sent_bytes: u64,
}

impl Leg {
    /// Open connections. `None`: more closed than accepted, so the counters are not reliable.
    pub fn open(&self) -> Option<u64> {
        self.accepted.checked_sub(self.closed)
    }
}

/// The kernel's measurements of one service at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// When it was taken.
    pub at: Ktime,
    /// Clients served by the proxy.
    pub front: Leg,
    /// Clients steered to the backend.
    pub steered: Leg,
    /// Connections to the backend's own port: the proxy's, or a client's.
    pub back: Leg,
    /// Clients steered to the backend whose use does not keep it up. The sums below exclude them.
    pub ignored: Leg,
    /// Refused SYNs: the service was down, and the clients may not start it.
    pub refused: u64,
    /// Connections older than the counting, as of the last snapshot.
    pub older: u64,
    /// When the last counted connection was established or closed, or the last datagram came. `None`: none yet. Like
    /// `last_lookup`, it may lag by up to one scheduler tick (10 ms).
    pub last_activity: Option<Ktime>,
    /// When the last counted connection was established.
    pub last_open: Option<Ktime>,
    /// Look-ups (arriving SYNs) that the steering program saw.
    pub lookups: u64,
    /// The last of them.
    pub last_lookup: Option<Ktime>,
    /// When a process was first seen to have accepted a connection of the backend's listener, in the last run
    /// in which this was seen.
    pub served: Option<Ktime>,
    /// Datagrams that came, as far as the kernel can tell: several that arrive as one packet are one, and those of connected
    /// sockets are not seen.
    pub datagrams: u64,
    /// Datagrams that were refused: the application was down, and their senders may not start it.
    pub refused_datagrams: u64,
}

impl Sample {
    /// Connected clients: `steered + max(front, back)` and those older than the counting.
    /// `None`: unknown.
    pub fn open(&self) -> Option<u64> {
        Some(self.steered.open()? + self.front.open()?.max(self.back.open()?) + self.older)
    }

    /// Clients accepted in total. A client behind the proxy has two legs and counts once.
    pub fn accepted(&self) -> u64 {
        self.steered.accepted + self.front.accepted.max(self.back.accepted)
    }

    /// The connections that were established and closed so far: the same numbers mean the same open connections.
    pub fn changes(&self) -> (u64, u64) {
        let legs = [&self.front, &self.steered, &self.back];
        legs.iter().fold((0, 0), |(accepted, closed), leg| {
            (accepted + leg.accepted, closed + leg.closed)
        })
    }

    /// Payload bytes from clients.
    pub fn received_bytes(&self) -> u64 {
        self.steered.received_bytes + self.front.received_bytes.max(self.back.received_bytes)
    }

    /// Payload bytes to clients.
    pub fn sent_bytes(&self) -> u64 {
        self.steered.sent_bytes + self.front.sent_bytes.max(self.back.sent_bytes)
    }
}

/// The sockets of one service in the kernel's own tables, independent of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sockets {
    /// Open connections by leg, of those that were counted when accepted.
    pub front: u64,
    /// See [`Sample::steered`].
    pub steered: u64,
    /// See [`Sample::back`].
    pub back: u64,
    /// Open connections outside the counters: older than the attach.
    pub older: u64,
    /// Half-open handshakes on the backend's own listener (request sockets).
    pub half_open: u64,
    /// Listening sockets at the front addresses.
    pub front_listeners: u64,
    /// Listening sockets at the backend's address.
    pub back_listeners: u64,
    /// Of the open connections those that were silent for `silent_after` when the sockets were read.
    pub silent: u64,
}

/// The open connections of a service at one moment, by the times of their last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Silence {
    /// The moment.
    pub at: Ktime,
    /// [`Sample::changes`] then.
    pub changes: (u64, u64),
    /// The last byte that went on any of them, either way.
    pub newest: Ktime,
}

/// All watched sockets at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By slot; services without a socket are absent.
    pub sockets: HashMap<Slot, Sockets>,
}

/// An event from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// The backend of this service started to listen, at this moment.
    Listening(Slot, Ktime),
    /// A socket of a user that is not known to be the application's started to listen at its address, at
    /// this moment.
    Stranger(Slot, Ktime),
    /// A program that binds ports for containers started to listen at the backend's address, at this moment.
    Forwarder(Slot, Ktime),
    /// A socket was bound where the service receives datagrams, at this moment.
    Bound(Slot, Ktime),
    /// A process has accepted a connection of the backend's listener. Sent once per request.
    Accepted(Slot),
    /// A quiet service got its first connection. Sent once per request.
    Opened(Slot),
    /// The last connection went. Sent once each time that it is requested.
    Closed(Slot),
    /// The first byte to a client was acknowledged, at this moment. Requested with
    /// [`KernelEvent::Opened`].
    Answered(Slot, Ktime),
}
