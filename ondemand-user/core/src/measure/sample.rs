//! What the kernel's maps hold: counters and sockets of a service, and what woke the agent.

use std::collections::HashMap;

use crate::measure::Ktime;

/// A service's place in the kernel's maps. Stable over restarts of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// What the kernel counted on one way to the application. Every field only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Connections established.
    pub accepted: u64,
    /// Connections closed.
    pub closed: u64,
    /// Payload bytes that clients sent. Those of open connections are added when somebody looks,
    /// here and below.
    pub received_bytes: u64,
    /// Payload bytes that clients acknowledged.
    pub sent_bytes: u64,
}

impl Leg {
    /// Connections open now. `None`: more closed than accepted, so the counters cannot be trusted.
    pub fn open(&self) -> Option<u64> {
        self.accepted.checked_sub(self.closed)
    }
}

/// What the kernel knew about one service at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// When it was read.
    pub at: Ktime,
    /// Clients served by the proxy.
    pub front: Leg,
    /// Clients handed straight to the backend.
    pub steered: Leg,
    /// Connections to the backend's own port: the proxy's, or a client's.
    pub back: Leg,
    /// Clients handed straight to the backend whose use does not keep it up. Not among the sums
    /// below.
    pub ignored: Leg,
    /// SYNs that were refused: the service was down, and the clients may not wake it.
    pub refused: u64,
    /// Connections that are older than the counting, as the last snapshot saw them.
    pub older: u64,
    /// When the last counted connection was established or closed. `None`: there was none yet.
    /// May be up to one scheduler tick (10 ms) older than the truth, as `last_lookup`.
    pub last_activity: Option<Ktime>,
    /// Look-ups (arriving SYNs) seen by the steering program.
    pub lookups: u64,
    /// When the last one was.
    pub last_lookup: Option<Ktime>,
}

impl Sample {
    /// Clients connected now: `steered + max(front, back)` and those older than the counting.
    /// `None`: unknown.
    pub fn open(&self) -> Option<u64> {
        Some(self.steered.open()? + self.front.open()?.max(self.back.open()?) + self.older)
    }

    /// Clients accepted in all. A proxied client has two legs and is counted once.
    pub fn accepted(&self) -> u64 {
        self.steered.accepted + self.front.accepted.max(self.back.accepted)
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

/// The sockets of one service as the kernel's own tables show them, independent of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sockets {
    /// Open connections by leg, those that were counted when they were accepted.
    pub front: u64,
    /// See [`Sample::steered`].
    pub steered: u64,
    /// See [`Sample::back`].
    pub back: u64,
    /// Open connections that were not counted: older than the attach.
    pub older: u64,
    /// Half-open handshakes on the backend's own listener (request sockets).
    pub half_open: u64,
    /// Listening sockets at the front addresses.
    pub front_listeners: u64,
    /// Listening sockets at the backend's address.
    pub back_listeners: u64,
}

/// A look at every watched socket at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By slot; a service without any socket is absent.
    pub sockets: HashMap<Slot, Sockets>,
}

/// What woke the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// The backend of this service began to listen, at this moment.
    Listening(Slot, Ktime),
    /// The first connection of a quiet service came. Sent once each time that it is requested.
    Opened(Slot),
    /// The last connection went. Sent once each time that it is requested.
    Closed(Slot),
    /// The first byte to a client was acknowledged, at this moment. Requested with
    /// [`KernelEvent::Opened`].
    Answered(Slot, Ktime),
}
