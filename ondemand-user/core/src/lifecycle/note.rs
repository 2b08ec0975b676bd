//! What the agent decided, in words for people.

use std::{fmt, time::Duration};

use log::Level;

use crate::{
    measure::sample::Sockets,
    runs::Run,
    words::{Span, counted},
};

/// Why a stop was not carried through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VetoReason {
    /// Somebody came between the first look and the last.
    Activity,
    /// A handshake is half done.
    HalfOpen,
    /// The kernel's counters and its socket tables differ.
    Drift,
    /// The program of `veto =` said so.
    Program,
    /// The proxy was started while the lease was released.
    Proxy,
    /// Something else needs the backend.
    Needed,
    /// systemd did not carry out the job.
    Refused,
    /// Something could not be measured.
    Unknown,
}

impl VetoReason {
    /// All of them, for metrics.
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

/// What keeps a service up, with the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// So many connections came; zero if it was only a look-up (a SYN).
    Activity(u64),
    /// So many handshakes are half done.
    HalfOpen(u64),
    /// What the socket tables show while the counters say that nothing is open.
    Drift(Sockets),
    /// The first line that the veto program wrote, or why it could not be asked.
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
            Self::Activity(0) => f.write_str("somebody spoke to it while stopping"),
            Self::Activity(count) => {
                write!(f, "{} came while stopping", counted(*count, "connection"))
            }
            Self::HalfOpen(count) => write!(f, "{} half done", counted(*count, "handshake")),
            Self::Drift(sockets) => write!(
                f,
                "the counters say that nothing is open, the socket tables show {} at the front, \
                 {} steered, {} at the backend, {} uncounted",
                sockets.front, sockets.steered, sockets.back, sockets.older
            ),
            Self::Program(line) => write!(f, "{line}"),
            Self::Proxy => f.write_str("the proxy was started while stopping"),
            Self::Needed(after) => write!(
                f,
                "it still runs {} after its lease was released, so another unit needs it or its \
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
    /// The proxy is stopped, because its backend is gone.
    OrphanedProxy,
    /// Idle, and kept up nevertheless.
    Kept {
        /// Why.
        cause: Cause,
        /// Not tried again sooner.
        again: Duration,
        /// The same cause as the last time, and nobody came since.
        repeated: bool,
    },
    /// What a dry run would have done.
    WouldStop {
        /// How long nobody has used it.
        quiet: Duration,
        /// What it did so far.
        run: Run,
    },
    /// The backend runs without its lease, which is taken now.
    TakingLease,
    /// The lease could not be taken.
    LeaseRefused(String),
}

impl Note {
    /// How loud to say it.
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
                "is gone and its proxy is not: ends the proxy, the next client starts both",
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
            Self::TakingLease => f.write_str("runs without its lease, takes it again"),
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
            "kept: 1 connection came while stopping (veto: activity); no new attempt for 250 ms",
        );
        check(
            kept(Cause::HalfOpen(2)),
            "kept: 2 handshakes half done (veto: half-open); no new attempt for 250 ms",
        );
        check(
            kept(Cause::Program("a backup runs".into())),
            "kept: a backup runs (veto: program); no new attempt for 250 ms",
        );
    }
}
