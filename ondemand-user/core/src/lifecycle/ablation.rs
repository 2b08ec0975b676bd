//! Changes of the stop protocol for tests: a protection can be left out, to show what is lost without it.
//!
//! Without the cargo feature `ablation` nothing is left out, whatever the options are.

use super::{Lifecycle, Options};

#[cfg(all(feature = "ablation", not(debug_assertions)))]
compile_error!("the feature `ablation` is for tests: it must not be in a release build");

/// A protection that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// The gate is closed for the last look, and while the backend is not up.
    Gate,
    /// The gate is closed before the snapshot starts.
    GateFirst,
    /// The state of the gate after an earlier agent is unknown.
    GateUnknown,
    /// The gate opens only when the backend is active.
    Active,
    /// The gate opens only when the lease is held.
    LeaseHeld,
    /// The gate opens only for a listener at which connections are accepted.
    Accepted,
    /// The last look: the counters have not moved.
    Counters,
    /// The last look: the sockets show no connection.
    Connections,
    /// The last look: the sockets show no half-open handshake.
    HalfOpen,
    /// The last look: the policy's verdict is still idle.
    StillIdle,
    /// Nothing is stopped while the proxy is up.
    ProxyDown,
    /// The protocol waits for the end of the stop.
    Settling,
    /// A backend without its lease is about to stop, until the lease is taken again.
    Unleased,
    /// The lease is taken again if the backend is needed.
    Retaking,
    /// A job that was replaced by another one has ended, too.
    Canceled,
    /// A proxy without its backend is stopped.
    Orphan,
    /// The proxy is signalled to exit when a stop is requested.
    Dismissal,
    /// A requested stop is refused when it takes too long.
    Patience,
    /// systemd's own restarts are no use.
    Restarts,
    /// The permission for one connection ends when the gate is closed for the last look.
    Pass,
    /// One connection passes the gate only when the backend is active.
    PassActive,
    /// A request is answered by the end of its run, whatever caused the end.
    RunEnded,
}

impl Options {
    pub(super) fn leaves_out(&self, protection: Protection) -> bool {
        cfg!(feature = "ablation") && self.leaves_out.contains(&protection)
    }
}

impl Lifecycle {
    pub(super) fn leaves_out(&self, protection: Protection) -> bool {
        self.options.leaves_out(protection)
    }
}
