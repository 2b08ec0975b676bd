//! The agent's decisions as log messages.

use std::{fmt, time::Duration};

use log::Level;

use crate::{
    measure::sample::Sockets,
    runs::Run,
    words::{Span, counted},
};

/// Why a stop was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VetoReason {
    /// A client connected between the first look and the last.
    Activity,
    /// A handshake is half open.
    HalfOpen,
    /// The kernel's counters and its socket tables differ.
    Drift,
    /// The program of `veto =` refused.
    Program,
    /// The proxy was started while the lease was released.
    Proxy,
    /// Another unit needs the backend.
    Needed,
    /// systemd did not carry out the job.
    Refused,
    /// Something could not be measured.
    Unknown,
}

impl VetoReason {
    /// All reasons, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Activity,
        Self::HalfOpen,
        Self::Drift,
        Self::Program,
        Self::Proxy,
        Self::Needed,
        Self::Refused,
        Self::Unknown,
    ];

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Activity => "activity",
            Self::HalfOpen => "half-open",
            Self::Drift => "drift",
            Self::Program => "program",
            Self::Proxy => "proxy",
            Self::Needed => "needed",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a service stays up, with the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The number of new connections; zero if there was only a look-up (a SYN).
    Activity(u64),
    /// The number of half-open handshakes.
    HalfOpen(u64),
    /// The connections in the socket tables, while the counters have none open.
    Drift(Sockets),
    /// The first line of the veto program's output, or why it could not be run.
    Program(String),
    /// The proxy was started.
    Proxy,
    /// The backend did not stop, this long after the lease's release.
    Needed(Duration),
    /// systemd's answer.
    Refused(String),
    /// What could not be measured.
    Unknown(String),
}

impl Cause {
    /// Its name.
    pub fn reason(&self) -> VetoReason {
        match self {
            Self::Activity(_) => VetoReason::Activity,
            Self::HalfOpen(_) => VetoReason::HalfOpen,
            Self::Drift(_) => VetoReason::Drift,
            Self::Program(_) => VetoReason::Program,
            Self::Proxy => VetoReason::Proxy,
            Self::Needed(_) => VetoReason::Needed,
            Self::Refused(_) => VetoReason::Refused,
            Self::Unknown(_) => VetoReason::Unknown,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activity(0) => f.write_str("a SYN arrived while stopping"),
            Self::Activity(count) => {
                write!(
                    f,
                    "{} arrived while stopping",
                    counted(*count, "connection")
                )
            }
            Self::HalfOpen(count) => write!(f, "{} half open", counted(*count, "handshake")),
            Self::Drift(sockets) => write!(
                f,
                "the counters have no open connection, but the socket tables show {} at the front, \
                 {} steered, {} at the backend, {} uncounted",
                sockets.front, sockets.steered, sockets.back, sockets.older
            ),
            Self::Program(line) => write!(f, "{line}"),
            Self::Proxy => f.write_str("the proxy was started while stopping"),
            Self::Needed(after) => write!(
                f,
                "it is still running {} after its lease was released: another unit needs it, or its \
                 drop-in is missing",
                Span(*after)
            ),
            Self::Refused(why) => write!(f, "systemd did not release its lease: {why}"),
            Self::Unknown(what) => f.write_str(what),
        }
    }
}

/// One decision about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The proxy is being stopped, because its backend is down.
    OrphanedProxy,
    /// The service is idle, but stays up.
    Kept {
        /// The cause.
        cause: Cause,
        /// The pause before the next attempt.
        again: Duration,
        /// The cause is the same as before, and no client has connected since.
        repeated: bool,
    },
    /// What would have been stopped without the dry run.
    WouldStop {
        /// How long the service has been unused.
        quiet: Duration,
        /// The counts so far.
        run: Run,
    },
    /// The backend runs without its lease, which is being taken.
    TakingLease,
    /// The lease could not be taken.
    LeaseRefused(String),
}

impl Note {
    /// The level of the log line.
    pub fn level(&self) -> Level {
        match self {
            Self::Kept { repeated: true, .. } => Level::Debug,
            Self::Kept {
                cause: Cause::Drift(_) | Cause::Refused(_),
                ..
            }
            | Self::LeaseRefused(_) => Level::Warn,
            _ => Level::Info,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OrphanedProxy => f.write_str(
                "its backend is down but its proxy is up: stopping the proxy, the next client starts both",
            ),
            Self::Kept { cause, again, .. } => write!(
                f,
                "kept: {cause} (veto: {}); no new attempt for {}",
                cause.reason().as_str(),
                Span(*again)
            ),
            Self::WouldStop { quiet, run } => {
                write!(
                    f,
                    "would be stopped after {} quiet ({run}); dry run",
                    Span(*quiet)
                )
            }
            Self::TakingLease => f.write_str("is running without its lease, taking it again"),
            Self::LeaseRefused(why) => write!(f, "its lease could not be taken: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: impl fmt::Display, expected: &str) {
        assert_eq!(value.to_string(), expected);
    }

    #[test]
    fn decisions() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let run = Run {
            connections: 1,
            received_bytes: 0,
            sent_bytes: 3_400_000,
            proxied: 0,
            silent: 0,
            up: minutes(60),
            whole: true,
        };
        check(
            Note::WouldStop {
                quiet: minutes(10),
                run,
            },
            "would be stopped after 10 min quiet (1 connection, 3.4 MB out since its start 1 h \
             ago); dry run",
        );
        let kept = |cause| Note::Kept {
            cause,
            again: Duration::from_millis(250),
            repeated: false,
        };
        check(
            kept(Cause::Activity(1)),
            "kept: 1 connection arrived while stopping (veto: activity); no new attempt for 250 ms",
        );
        check(
            kept(Cause::HalfOpen(2)),
            "kept: 2 handshakes half open (veto: half-open); no new attempt for 250 ms",
        );
        check(
            kept(Cause::Program("a backup runs".into())),
            "kept: a backup runs (veto: program); no new attempt for 250 ms",
        );
    }
}
