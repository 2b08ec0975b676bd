//! Decides whether the proxy goes on, waits or gives up. Pure.

use std::time::Duration;

use crate::{
    config::Endpoint,
    measure::unit::{ActiveState, Unit},
};

/// How long a unit may be down without a job before this is final. PID 1 queues the backend's
/// start together with the proxy's, but for a moment there may be neither state nor job, for
/// example between a crash and an automatic restart.
pub const DOWN_GRACE: Duration = Duration::from_millis(100);
/// While systemd does not answer, a listener that existed from the start may belong to a backend
/// that is being stopped: it is trusted only after this time. A bus that was killed is back much
/// sooner.
pub const BLIND_GRACE: Duration = Duration::from_secs(3);
/// The same while a reply is outstanding: a bus that hangs, or a PID 1 that is busy, may not be back for long, and
/// no client waits more than two seconds for it.
pub const HANG_GRACE: Duration = Duration::from_millis(1800);

/// The observations.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The backend's address has a listener.
    pub listening: bool,
    /// It is ready for clients, if more than a listener was asked for (`ready`).
    pub ready: bool,
    /// An earlier look found no listener.
    pub was_silent: bool,
    /// How long systemd has not answered.
    pub blind: Duration,
    /// It may still answer.
    pub hangs: bool,
    /// The backend's unit; `None` if systemd does not answer.
    pub unit: Option<Unit>,
    /// The time since the proxy began to wait.
    pub waited: Duration,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The backend is ready.
    Go,
    /// The backend is not ready yet.
    Wait,
    /// The backend will not become ready.
    GiveUp(Why),
}

/// Why the backend will not become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is `failed`.
    Failed,
    /// It is not running, and has no start job.
    Down,
    /// It is active and does not listen.
    NotListening,
    /// It listens, and is not ready.
    NotReady,
    /// It is still activating or deactivating.
    Slow(ActiveState),
    /// Nothing listens, and systemd does not answer.
    Unknown,
}

impl Why {
    /// The message.
    pub fn text(self, unit: &str, backend: &Endpoint, start_timeout: Duration) -> String {
        let seconds = start_timeout.as_secs_f64();
        match self {
            Self::Failed => format!("{unit} has failed"),
            Self::Down => {
                format!("{unit} is not running and has no start job (masked, missing or stopped?)")
            }
            Self::NotListening => {
                format!(
                    "{unit} is active but does not listen on {backend} after {seconds} s (start_timeout)"
                )
            }
            Self::NotReady => {
                format!("{unit} listens, but is not ready after {seconds} s (start_timeout)")
            }
            Self::Slow(state) => {
                format!(
                    "{unit} is still {} after {seconds} s (start_timeout)",
                    state.as_str()
                )
            }
            Self::Unknown => {
                format!("nothing listens on {backend} after {seconds} s (start_timeout)")
            }
        }
    }
}

/// Decides.
pub fn decide(seen: &Seen, start_timeout: Duration) -> Decision {
    let late = seen.waited >= start_timeout;
    let Some(unit) = seen.unit else {
        let grace = if seen.hangs { HANG_GRACE } else { BLIND_GRACE };
        let trusted = seen.was_silent || seen.blind >= grace || late;
        return match seen.listening {
            true if trusted && seen.ready => Decision::Go,
            true if late => Decision::GiveUp(Why::NotReady),
            false if late => Decision::GiveUp(Why::Unknown),
            _ => Decision::Wait,
        };
    };
    if unit.state.is_up() && !unit.job && seen.listening && seen.ready {
        return Decision::Go;
    }
    let down = unit.state.is_down() && !unit.job;
    if down && seen.waited >= DOWN_GRACE {
        let failed = unit.state == ActiveState::Failed;
        return Decision::GiveUp(if failed { Why::Failed } else { Why::Down });
    }
    if late {
        let why = match unit.state.is_up() {
            true if seen.listening && !unit.job => Why::NotReady,
            true => Why::NotListening,
            false => Why::Slow(unit.state),
        };
        return Decision::GiveUp(why);
    }
    Decision::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(90);

    fn unit(state: &str, job: bool) -> Option<Unit> {
        Some(Unit {
            state: ActiveState::parse(state),
            job,
            ..Unit::default()
        })
    }

    #[track_caller]
    fn check(unit: Option<Unit>, listening: bool, seconds: f64, expected: Decision) {
        let seen = Seen {
            listening,
            ready: true,
            was_silent: false,
            blind: Duration::ZERO,
            hangs: false,
            unit,
            waited: Duration::from_secs_f64(seconds),
        };
        assert_eq!(decide(&seen, TIMEOUT), expected);
    }

    #[test]
    fn a_listener_that_may_be_of_the_last_run_is_not_trusted_blindly() {
        let seen = Seen {
            listening: true,
            ready: true,
            was_silent: false,
            blind: BLIND_GRACE / 2,
            hangs: false,
            unit: None,
            waited: BLIND_GRACE * 2,
        };
        assert_eq!(decide(&seen, TIMEOUT), Decision::Wait);
        let appeared = Seen {
            was_silent: true,
            ..seen
        };
        assert_eq!(decide(&appeared, TIMEOUT), Decision::Go);
        let long = Seen {
            blind: BLIND_GRACE,
            ..seen
        };
        assert_eq!(decide(&long, TIMEOUT), Decision::Go);
        let hangs = |blind| Seen {
            blind,
            hangs: true,
            ..seen
        };
        assert_eq!(decide(&hangs(HANG_GRACE / 2), TIMEOUT), Decision::Wait);
        assert_eq!(decide(&hangs(HANG_GRACE), TIMEOUT), Decision::Go);
        let late = Seen {
            waited: TIMEOUT,
            ..seen
        };
        assert_eq!(decide(&late, TIMEOUT), Decision::Go);
        let unready = Seen {
            ready: false,
            ..late
        };
        assert_eq!(decide(&unready, TIMEOUT), Decision::GiveUp(Why::NotReady));
    }

    #[test]
    fn a_listener_that_is_not_ready_is_waited_for() {
        let seen = |seconds| Seen {
            listening: true,
            ready: false,
            was_silent: false,
            blind: Duration::ZERO,
            hangs: false,
            unit: unit("active", false),
            waited: Duration::from_secs(seconds),
        };
        assert_eq!(decide(&seen(0), TIMEOUT), Decision::Wait);
        assert_eq!(decide(&seen(90), TIMEOUT), Decision::GiveUp(Why::NotReady));
        let ready = Seen {
            ready: true,
            ..seen(89)
        };
        assert_eq!(decide(&ready, TIMEOUT), Decision::Go);
    }

    #[test]
    fn decisions() {
        use Decision::{GiveUp, Go, Wait};
        check(unit("active", false), true, 0.0, Go);
        check(unit("active", false), true, 95.0, Go);
        check(unit("active", false), false, 1.0, Wait);
        check(
            unit("active", false),
            false,
            90.0,
            GiveUp(Why::NotListening),
        );
        // A stop is queued: this listener will close.
        check(unit("active", true), true, 1.0, Wait);
        check(unit("deactivating", true), true, 1.0, Wait);
        check(unit("activating", true), true, 1.0, Wait);
        check(
            unit("activating", true),
            false,
            90.0,
            GiveUp(Why::Slow(ActiveState::Activating)),
        );
        check(unit("inactive", true), false, 1.0, Wait);
        check(unit("failed", true), false, 1.0, Wait);
        check(unit("failed", false), false, 0.0, Wait);
        check(unit("failed", false), false, 1.0, GiveUp(Why::Failed));
        check(unit("inactive", false), true, 1.0, GiveUp(Why::Down));
        check(None, true, 0.0, Wait);
        check(None, false, 1.0, Wait);
        check(None, false, 90.0, GiveUp(Why::Unknown));
    }
}
