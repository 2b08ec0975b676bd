//! Events of a backend, as values and as log messages.

use std::{fmt, time::Duration};

use log::Level;

use super::stamps::{Stamps, Start};
use crate::{
    measure::Ktime,
    words::{Bytes, Span, counted},
};

/// Why a run of the backend ended, by its number in the history's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopReason {
    /// It was unused: the agent released the lease.
    Idle = 0,
    /// It was stopped by something other than the agent, or exited.
    External = 1,
    /// It failed.
    Failed = 2,
    /// No agent saw the end. In the history only.
    Unseen = 3,
    /// It was stopped on request to the agent.
    Requested = 4,
}

impl StopReason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 5] = [
        Self::Idle,
        Self::External,
        Self::Failed,
        Self::Unseen,
        Self::Requested,
    ];

    /// The reasons of ends that an agent saw: `status` and the metrics count these.
    pub const SEEN: [Self; 4] = [Self::Idle, Self::Requested, Self::External, Self::Failed];

    /// Its number in the history's database, which never changes.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// The reason with this number. `None`: there is none.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Its name in metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::External => "external",
            Self::Failed => "failed",
            Self::Unseen => "unknown",
            Self::Requested => "requested",
        }
    }
}

/// The kernel's counts of one run of the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Clients accepted.
    pub connections: u64,
    /// Payload bytes from clients.
    pub received_bytes: u64,
    /// Payload bytes to clients.
    pub sent_bytes: u64,
    /// Of the clients those that the proxy carried. The others met the application itself.
    pub proxied: u64,
    /// Open connections that its stop closed: no byte went on them (`silent_after`).
    pub silent: u64,
    /// How long it has been up.
    pub up: Duration,
    /// False: it was up before the agent's first view, and the counts start there.
    pub whole: bool,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} out since {} {} ago",
            counted(self.connections, "connection"),
            Bytes(self.sent_bytes),
            if self.whole {
                "its start"
            } else {
                "it was first seen; started"
            },
            Span(self.up)
        )
    }
}

/// An event of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// The unit's state at the start of its watch. It comes first, and once; its contents are older
    /// than the watch.
    Found(Stamps),
    /// The unit began to start.
    Began {
        /// When, by systemd's stamp.
        at: Option<Ktime>,
    },
    /// The unit became active: a start.
    Started(Start),
    /// The application listens. Comes after `Started`, once for each start.
    Listening {
        /// When.
        at: Ktime,
        /// Time since the start began.
        after: Duration,
    },
    /// The start is complete: the unit is active and, if the kernel reports its listener, the
    /// application listens.
    Ready {
        /// Time since the start began.
        took: Duration,
    },
    /// A client whose connection caused the run got the first byte of its response.
    FirstByte {
        /// Time since the start began.
        after: Duration,
    },
    /// The stop of the run has begun.
    Ending,
    /// The run ended: a stop.
    Ended {
        /// When.
        at: Ktime,
        /// The reason.
        reason: StopReason,
        /// How long it had been unused, if the agent ended it.
        quiet: Duration,
        /// Whether its unit failed while stopping.
        failed: bool,
        /// The counts of the run.
        run: Run,
    },
    /// The unit failed before it became active: neither a start nor a stop.
    StartFailed {
        /// When the start began.
        began: Option<Ktime>,
        /// When the unit failed.
        at: Ktime,
    },
    /// The unit is down: the end of a run, or of an attempt to start.
    Down {
        /// When, by systemd's stamp.
        at: Option<Ktime>,
        /// Whether it failed.
        failed: bool,
    },
}

impl RunEvent {
    /// Whether the unit's own log has details.
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::StartFailed { .. } | Self::Ended { failed: true, .. }
        )
    }

    /// The level of the log line. `None`: it is not logged. The end of a run is its one line: systemd logs
    /// its start.
    pub fn level(&self) -> Option<Level> {
        match self {
            Self::StartFailed { .. } => Some(Level::Warn),
            Self::Ended {
                reason: StopReason::Failed,
                ..
            } => Some(Level::Warn),
            Self::Ended { .. } => Some(Level::Info),
            Self::Started(_) | Self::Listening { .. } => Some(Level::Debug),
            _ => None,
        }
    }
}

impl fmt::Display for RunEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(start) => match start.took() {
                // Type=simple is active as soon as its process exists: that duration means nothing.
                Some(took) if took >= Duration::from_millis(5) => {
                    write!(f, "started in {}", Span(took))
                }
                _ => f.write_str("started"),
            },
            Self::Listening { after, .. } => {
                write!(f, "listening {} after its start", Span(*after))
            }
            Self::StartFailed { .. } => f.write_str("start failed, its unit has failed"),
            Self::Ended {
                reason: reason @ (StopReason::Idle | StopReason::Requested),
                quiet,
                failed,
                run,
                ..
            } => {
                let why = match reason {
                    StopReason::Requested => " on request,",
                    _ => "",
                };
                write!(f, "stopped{why} after {} quiet ({run})", Span(*quiet))?;
                if run.silent > 0 {
                    write!(f, "; closed {}", counted(run.silent, "silent connection"))?;
                }
                match failed {
                    true => f.write_str("; its unit has failed"),
                    false => Ok(()),
                }
            }
            Self::Ended {
                failed: false, run, ..
            } => write!(f, "was stopped by another program or a person ({run})"),
            Self::Ended {
                failed: true, run, ..
            } => write!(f, "failed ({run})"),
            // Not logged.
            other => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(event: RunEvent, level: Level, expected: &str) {
        assert_eq!(event.level(), Some(level));
        assert_eq!(event.to_string(), expected);
    }

    #[test]
    fn words() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let ms = |ms: u64| Ktime::from_nanos(ms * 1_000_000);
        let started = |up| {
            RunEvent::Started(Start {
                began: Some(ms(1_000)),
                up,
            })
        };
        check(started(Some(ms(1_840))), Level::Debug, "started in 840 ms");
        check(started(Some(ms(1_004))), Level::Debug, "started");
        check(started(None), Level::Debug, "started");
        let listening = RunEvent::Listening {
            at: ms(1_300),
            after: Duration::from_millis(300),
        };
        let listens = "listening 300 ms after its start";
        check(listening, Level::Debug, listens);
        let run = Run {
            connections: 12,
            received_bytes: 0,
            sent_bytes: 3_400_000,
            proxied: 0,
            silent: 0,
            up: minutes(60),
            whole: true,
        };
        let ended = |reason, quiet, failed, run| RunEvent::Ended {
            at: ms(5_000),
            reason,
            quiet: minutes(quiet),
            failed,
            run,
        };
        check(
            ended(StopReason::Idle, 10, false, run),
            Level::Info,
            "stopped after 10 min quiet (12 connections, 3.4 MB out since its start 1 h ago)",
        );
        check(
            ended(StopReason::Requested, 1, false, run),
            Level::Info,
            "stopped on request, after 1 min quiet (12 connections, 3.4 MB out since its start 1 h \
             ago)",
        );
        let found = Run {
            whole: false,
            ..run
        };
        check(
            ended(StopReason::Idle, 10, true, found),
            Level::Info,
            "stopped after 10 min quiet (12 connections, 3.4 MB out since it was first seen; \
             started 1 h ago); its unit has failed",
        );
        check(
            ended(StopReason::External, 0, false, run),
            Level::Info,
            "was stopped by another program or a person (12 connections, 3.4 MB out since its start 1 h ago)",
        );
        check(
            ended(StopReason::Failed, 0, true, run),
            Level::Warn,
            "failed (12 connections, 3.4 MB out since its start 1 h ago)",
        );
    }

    #[test]
    fn codes_never_change() {
        let codes = StopReason::ALL.map(|reason| (reason.code(), reason.as_str()));
        let expected = [
            (0, "idle"),
            (1, "external"),
            (2, "failed"),
            (3, "unknown"),
            (4, "requested"),
        ];
        assert_eq!(codes, expected);
        for reason in StopReason::ALL {
            assert_eq!(StopReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(StopReason::from_code(5), None);
        assert_eq!(StopReason::from_code(-1), None);
    }
}
