//! Decides whether a service is idle. Pure: time and measurements are arguments, and it cannot fail.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use crate::{
    config::Service,
    measure::{Ktime, sample::Sample},
};

/// Maximum lag of the kernel's stamps. They come from the coarse clock, which advances once per
/// tick; a tick is at most 10 ms (`CONFIG_HZ=100`).
pub const STAMP_SLACK: Duration = Duration::from_millis(10);

/// How long a look-up keeps a service up while SYN cookies are being sent: a cookie leaves no
/// request socket, so only time excludes an unfinished handshake.
pub const COOKIE_GRACE: Duration = Duration::from_secs(2);

/// For how many idle timeouts after the last connection look-ups alone keep a service up. A
/// look-up without a connection is a port scan, or a client with a slow handshake, which the
/// half-open check finds behind the closed gate: a scan must not keep a service up for ever.
pub const LOOKUP_CAP: u32 = 4;

/// The configuration of one service's stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Quiet for this duration means idle. `None`: never idle.
    pub idle_timeout: Option<Duration>,
    /// Minimum time between a start and a stop.
    pub min_uptime: Duration,
}

impl Rules {
    /// The rules of a requested stop: it waits for no timeout, only for a client that may be
    /// connecting: the stamps are coarse, and a SYN cookie leaves only its look-up.
    pub const AT_ONCE: Self = Self {
        idle_timeout: Some(Duration::ZERO),
        min_uptime: Duration::ZERO,
    };
}

impl Rules {
    /// Of a service whose learned idle timeout is `learned`.
    pub fn new(service: &Service, learned: Duration) -> Self {
        Self {
            idle_timeout: service.idle_timeout.or(learned),
            min_uptime: service.min_uptime,
        }
    }
}

/// What is known besides the kernel's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// When the backend became active (systemd's `ActiveEnterTimestampMonotonic`).
    pub started: Option<Ktime>,
    /// Open connections that the counters do not cover: those of Unix sockets.
    pub uncounted: u64,
    /// Until when such a connection, or one older than the counting, may have been active.
    pub uncounted_until: Option<Ktime>,
    /// Whether the kernel sent SYN cookies recently (`TcpExt: SyncookiesSent`).
    pub syn_cookies: bool,
    /// Whether a client at one of its addresses would be refused once it is down.
    pub no_front: bool,
    /// The hold, if there is one.
    pub hold: Option<Hold>,
}

/// A request to keep a service up, however idle it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it expires. `None`: when it is released.
    pub until: Option<Ktime>,
}

/// Whether a service is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Connections are open.
    Busy {
        /// The number of connections.
        open: u64,
    },
    /// No connection is open, but not yet for the idle timeout.
    Quiet {
        /// When the idle clock started.
        since: Ktime,
        /// When it becomes idle. `None`: never, its idle timeout is infinite.
        idle_at: Option<Ktime>,
    },
    /// The service was unused for its idle timeout.
    Idle {
        /// When the idle clock started.
        since: Ktime,
    },
    /// No connection is open, and the service is held.
    Held {
        /// When the idle clock started.
        since: Ktime,
        /// When the hold expires. `None`: when it is released.
        until: Option<Ktime>,
    },
    /// Unknown. It stops nothing.
    Unknown(Reason),
}

/// Why the verdict is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel's counters could not be read.
    NoSample,
    /// More connections closed than were accepted.
    NegativeOpen,
    /// A stamp lies in the future.
    Clock,
    /// systemd does not report when the backend started.
    NoStart,
    /// The front socket does not listen at all of its addresses.
    NoFront,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSample => "the kernel's counters could not be read",
            Self::NegativeOpen => "the kernel counted more connections closed than accepted",
            Self::Clock => "the clock ran backwards",
            Self::NoFront => {
                "its front socket does not listen at all of its addresses, so clients would be refused"
            }
            Self::NoStart => "systemd does not report when the backend started",
        })
    }
}

/// Decides whether a service whose backend is up is in use.
///
/// The idle clock starts at the latest of these: the last begin or end of a connection, the last
/// look-up, the backend's start. So a service that was started by hand and never used becomes
/// idle too, its idle timeout after the start.
pub fn decide(rules: &Rules, now: Ktime, sample: Option<&Sample>, facts: &Facts) -> Verdict {
    let Some(sample) = sample else {
        return Verdict::Unknown(Reason::NoSample);
    };
    let Some(counted) = sample.open() else {
        return Verdict::Unknown(Reason::NegativeOpen);
    };
    // Where the front is a Unix socket and the backend TCP, each client has a TCP connection
    // behind it: the larger number counts each client once.
    let open = counted.max(facts.uncounted);
    if open > 0 {
        return Verdict::Busy { open };
    }
    let Some(started) = facts.started else {
        return Verdict::Unknown(Reason::NoStart);
    };
    let stamps = [
        Some(started),
        sample.last_activity,
        sample.last_lookup,
        facts.uncounted_until,
    ];
    let since = stamps.into_iter().flatten().max().unwrap_or(started);
    if since > now || sample.at > now {
        return Verdict::Unknown(Reason::Clock);
    }
    if facts.no_front {
        return Verdict::Unknown(Reason::NoFront);
    }
    if let Some(Hold { until }) = facts.hold {
        return Verdict::Held { since, until };
    }
    let Some(idle_timeout) = rules.idle_timeout else {
        return Verdict::Quiet {
            since,
            idle_at: None,
        };
    };
    let last_use = sample.last_activity.map_or(started, |at| at.max(started));
    let cap = last_use + idle_timeout.saturating_mul(LOOKUP_CAP);
    let looked_up = |at: Ktime| {
        let postponed = (at + STAMP_SLACK + idle_timeout).min(cap);
        // A cookie leaves no trace but its look-up, so there is no cap.
        let cookie = facts.syn_cookies.then(|| at + STAMP_SLACK + COOKIE_GRACE);
        cookie.map_or(postponed, |cookie| postponed.max(cookie))
    };
    let idle_at = [
        Some(started + idle_timeout.max(rules.min_uptime)),
        sample
            .last_activity
            .map(|at| at + STAMP_SLACK + idle_timeout),
        sample.last_lookup.map(looked_up),
        facts.uncounted_until.map(|at| at + idle_timeout),
    ];
    let idle_at = idle_at.into_iter().flatten().max().unwrap_or(now);
    if now >= idle_at {
        Verdict::Idle { since }
    } else {
        Verdict::Quiet {
            since,
            idle_at: Some(idle_at),
        }
    }
}
