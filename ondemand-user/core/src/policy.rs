//! Decides whether a service is idle. Pure: time and measurements are arguments, and it cannot fail.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use crate::{
    config::Service,
    measure::{
        Ktime,
        sample::{Sample, Silence},
    },
    work::{self, Unknown, Work},
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
    /// A connection without a byte for this duration is no use. `None`: each open one is.
    pub silent_after: Option<Duration>,
    /// A connection that was closed before its client sent a byte was no use; nor was its look-up.
    pub ignores_empty: bool,
}

impl Rules {
    /// The rules of a requested stop: it waits for no timeout, only for a client that may be
    /// connecting: the stamps are coarse, and a SYN cookie leaves only its look-up.
    pub const AT_ONCE: Self = Self {
        idle_timeout: Some(Duration::ZERO),
        min_uptime: Duration::ZERO,
        silent_after: None,
        ignores_empty: false,
    };
}

impl Rules {
    /// Of a service whose learned idle timeout is `learned`.
    pub fn new(service: &Service, learned: Duration) -> Self {
        Self {
            idle_timeout: service.idle_timeout.or(learned),
            min_uptime: service.min_uptime,
            silent_after: service.silent_after,
            ignores_empty: service.ignore_empty,
        }
    }
}

/// What is known besides the kernel's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// Whether it works without a client. `None`: that does not matter.
    pub work: Option<Work>,
    /// When bytes went on its open connections, as far as that was looked at.
    pub silence: Option<Silence>,
    /// Whether the application of another service needs it. `None`: none does.
    pub need: Option<Need>,
}

/// The need of services whose units pull in this one's (`Requires=`, `Wants=` and the like). It is use, like that of a client:
/// systemd would not stop it, or would stop them with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// One of them is up, or its state is unknown.
    Present,
    /// All of them are down, the last one since then.
    Until(Ktime),
}

/// A request to keep a service up, however idle it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it expires. `None`: when it is released.
    pub until: Option<Ktime>,
}

/// How long it is known that connections are silent: a byte may come at any time.
pub const SILENCE_KNOWN: Duration = Duration::from_millis(500);

/// The last byte of the open connections, if all of them are silent for long enough: then they are no use.
fn silent_since(rules: &Rules, now: Ktime, sample: &Sample, facts: &Facts) -> Option<Ktime> {
    let (after, seen) = (rules.silent_after?, facts.silence?);
    let is_known = now.since(seen.at)? < SILENCE_KNOWN && seen.changes == sample.changes();
    let has_all = sample.older == 0 && facts.uncounted == 0;
    (is_known && has_all && seen.newest + after <= seen.at).then_some(seen.newest)
}

/// The earliest moment at which the silence of its open connections could make a service idle, by what is known. `None`:
/// no connection is open, it is in use otherwise, or silence does not matter.
pub fn silence_due(rules: &Rules, sample: &Sample, facts: &Facts) -> Option<Ktime> {
    let (idle_timeout, after, started) = (rules.idle_timeout?, rules.silent_after?, facts.started?);
    let is_open = sample.open()? > 0;
    // Of these the times of the last bytes are not known.
    if !is_open || sample.older > 0 || facts.uncounted > 0 || facts.no_front {
        return None;
    }
    if facts.need == Some(Need::Present) {
        return None;
    }
    let longest = after.max(idle_timeout);
    let known = facts
        .silence
        .filter(|seen| seen.changes.0 == sample.changes().0);
    let last = match (known, sample.last_open) {
        // The next look may find the same byte a tick later.
        (Some(seen), _) => Some(seen.newest + STAMP_SLACK + longest),
        // The last one to be established may be open, if none was closed since.
        (None, Some(open)) if sample.last_activity <= Some(open) => {
            Some(open + STAMP_SLACK + longest)
        }
        (None, _) => None,
    };
    let hold = match facts.hold {
        Some(Hold { until: None }) => return None,
        Some(Hold { until }) => until,
        None => None,
    };
    let all = [
        last,
        hold,
        Some(started + idle_timeout.max(rules.min_uptime)),
        sample
            .last_activity
            .map(|at| at + STAMP_SLACK + idle_timeout),
        facts.uncounted_until.map(|at| at + idle_timeout),
        needed_until(facts).map(|at| at + idle_timeout),
    ];
    all.into_iter().flatten().max()
}

fn needed_until(facts: &Facts) -> Option<Ktime> {
    match facts.need {
        Some(Need::Until(at)) => Some(at),
        Some(Need::Present) | None => None,
    }
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
    /// No connection is open, and another service needs it.
    Needed {
        /// When the idle clock started.
        since: Ktime,
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
    /// Whether it works is not known, although that matters.
    Work(Unknown),
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
            Self::Work(Unknown::Cpu) => {
                "its CPU time is not accounted (busy_cpu): CPUAccounting=yes in its unit makes systemd do that"
            }
            Self::Work(Unknown::Io) => {
                "its bytes of disks are not accounted (busy_io): IOAccounting=yes in its unit makes systemd do that, \
                 with cgroup2 alone"
            }
            Self::Work(Unknown::Cgroup) => {
                "what its cgroup uses cannot be read (busy_cpu, busy_io)"
            }
            Self::NoStart => "systemd does not report when the backend started",
        })
    }
}

/// Decides whether a service whose backend is up is in use.
///
/// The idle clock starts at the latest of these: the last begin or end of a connection, the last
/// look-up, the backend's start, the end of the last service that needs it. So a service that was started by hand and never used becomes
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
    let silent = silent_since(rules, now, sample, facts).filter(|_| open > 0);
    if open > 0 && silent.is_none() {
        return Verdict::Busy { open };
    }
    let Some(started) = facts.started else {
        return Verdict::Unknown(Reason::NoStart);
    };
    // Most look-ups are of connections that may stay empty: then none says anything. The half-open check finds a
    // client whose handshake is under way.
    let looked = sample.last_lookup.filter(|_| !rules.ignores_empty);
    let stamps = [
        Some(started),
        sample.last_activity,
        looked,
        facts.uncounted_until,
        silent,
        facts.work.and_then(|work| work.worked),
        needed_until(facts),
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
    if facts.need == Some(Need::Present) {
        return Verdict::Needed { since };
    }
    let Some(idle_timeout) = rules.idle_timeout else {
        return Verdict::Quiet {
            since,
            idle_at: None,
        };
    };
    let last_use = sample.last_activity.map_or(started, |at| at.max(started));
    let cap = last_use + idle_timeout.saturating_mul(LOOKUP_CAP);
    let looked_up = |at: Ktime| (at + STAMP_SLACK + idle_timeout).min(cap);
    // A cookie leaves no trace but its look-up, so there is no cap.
    let cookie = sample.last_lookup.filter(|_| facts.syn_cookies);
    let idle_at = [
        Some(started + idle_timeout.max(rules.min_uptime)),
        sample
            .last_activity
            .map(|at| at + STAMP_SLACK + idle_timeout),
        looked.map(looked_up),
        cookie.map(|at| at + STAMP_SLACK + COOKIE_GRACE),
        facts.uncounted_until.map(|at| at + idle_timeout),
        silent.map(|at| at + idle_timeout),
        needed_until(facts).map(|at| at + idle_timeout),
        facts
            .work
            .and_then(|work| work.worked)
            .map(|at| at + idle_timeout),
    ];
    let idle_at = idle_at.into_iter().flatten().max().unwrap_or(now);
    if now >= idle_at {
        let Some(work) = facts.work.filter(|work| !work.is_calm(now)) else {
            return Verdict::Idle { since };
        };
        if let Some(unknown) = work.unknown {
            return Verdict::Unknown(Reason::Work(unknown));
        }
        // A window is under way, or begins.
        let window = work::window(idle_timeout);
        let ends = work.due(idle_at, window).max(now + STAMP_SLACK);
        Verdict::Quiet {
            since,
            idle_at: Some(ends),
        }
    } else {
        Verdict::Quiet {
            since,
            idle_at: Some(idle_at),
        }
    }
}
