//! What only tests do to the stop protocol: leave out a protection, to show what is lost without it.
//!
//! Nothing is left out without the cargo feature `ablation`, whatever the options say.

use super::{Lifecycle, Options};

#[cfg(all(feature = "ablation", not(debug_assertions)))]
compile_error!("the feature `ablation` is for tests: it must not be in a release build");

/// A protection that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// The gate is closed for the last look, and while the backend is not up.
    Gate,
    /// The gate is closed before the snapshot is begun.
    GateFirst,
    /// What an earlier agent left of the gate is not known.
    GateUnknown,
    /// The gate opens only when the backend is active.
    Active,
    /// The gate opens only when the lease is held.
    LeaseHeld,
    /// The last look: the counters have not moved.
    Counters,
    /// The last look: the sockets show no connection.
    Connections,
    /// The last look: the sockets show no half-open handshake.
    HalfOpen,
    /// The last look: the policy still says idle.
    StillIdle,
    /// Nothing is stopped while the proxy is up.
    ProxyDown,
    /// The end of the stop is waited for.
    Settling,
    /// A backend without its lease is about to stop, until the lease is taken again.
    Unleased,
    /// The lease is taken again if the backend is needed.
    Retaking,
    /// A job in whose place came another has ended, too.
    Canceled,
    /// A proxy without its backend is stopped.
    Orphan,
    /// The proxy is told to leave when somebody asks for a stop.
    Dismissal,
    /// A stop that somebody asked for is refused when it takes too long.
    Patience,
    /// The end of the run that somebody asked for is its answer, whoever brought it about.
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
