//! What only tests do to the stop protocol: leave out a protection, to show what is lost without
//! it, and kill the agent at a step, to show that nothing is lost by that; a wall clock that is wrong; and places that
//! fail as no place should.
//!
//! Only a program that was built with the cargo feature `ablation` can.

use std::{env, fs};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ondemand_core::lifecycle::ablation::Protection;

#[cfg(all(feature = "ablation", not(debug_assertions)))]
compile_error!("the feature `ablation` is for tests: it must not be in a release build");

/// The protections that `ONDEMAND_LEAVES_OUT` names.
pub fn left_out() -> &'static [Protection] {
    if !cfg!(feature = "ablation") {
        return &[];
    }
    match env::var("ONDEMAND_LEAVES_OUT").as_deref() {
        Ok("gate") => &[Protection::Gate],
        Ok("half-open-check") => &[Protection::HalfOpen],
        _ => &[],
    }
}

/// A moment at which the agent can be killed, in the order of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The veto program has been started.
    Asking,
    /// The service is idle, the gate still open.
    Idle,
    /// The gate is closed.
    GateClosed,
    /// The snapshot is taken, nothing is decided.
    Looked,
    /// The lease is about to be released.
    Releasing,
    /// systemd has queued the release.
    ReleaseQueued,
    /// The lease is released, and the agent has not read the units since.
    Released,
    /// The agent waits for the backend's end.
    Settling,
    /// The backend is down.
    Stopped,
    /// The lease is about to be taken again.
    Retaking,
    /// systemd has queued the start of the lease.
    RetakeQueued,
    /// The lease is taken again, and the agent has not read the units since.
    Retaken,
    /// The backend is up and held, the gate still closed.
    Opening,
    /// The gate is open.
    Opened,
    /// A service is about to be frozen.
    Freezing,
    /// It is frozen, and the agent knows it.
    Frozen,
    /// It is about to be thawed.
    Thawing,
}

impl Moment {
    /// Its name in tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Idle => "idle",
            Self::GateClosed => "gate-closed",
            Self::Looked => "looked",
            Self::Releasing => "releasing",
            Self::ReleaseQueued => "release-queued",
            Self::Released => "released",
            Self::Settling => "settling",
            Self::Stopped => "stopped",
            Self::Retaking => "retaking",
            Self::RetakeQueued => "retake-queued",
            Self::Retaken => "retaken",
            Self::Opening => "opening",
            Self::Opened => "opened",
            Self::Freezing => "freezing",
            Self::Frozen => "frozen",
            Self::Thawing => "thawing",
        }
    }
}

/// Kills this process, like `kill -9`, if the file that `ONDEMAND_DIES_AT` names contains the
/// name of this moment. Removes that file before, so that it happens once and the test sees it.
pub fn reached(moment: Moment) {
    step(moment.name());
}

/// The same at a step of a command, which has this name.
pub fn step(name: &str) {
    if !cfg!(feature = "ablation") {
        return;
    }
    let Ok(path) = env::var("ONDEMAND_DIES_AT") else {
        return;
    };
    if fs::read_to_string(&path).is_ok_and(|text| text == name) && fs::remove_file(&path).is_ok() {
        // This does not return.
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}

/// How far the wall clock is ahead of the host's: the milliseconds in the file that `ONDEMAND_WALL_AHEAD`
/// names. No namespace has a wall clock of its own (time_namespaces(7)).
pub fn wall_ahead() -> i64 {
    if !cfg!(feature = "ablation") {
        return 0;
    }
    let file = env::var("ONDEMAND_WALL_AHEAD").ok();
    let text = file.and_then(|path| fs::read_to_string(path).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Panics if `ONDEMAND_PANICS_IN` names this place.
pub fn panic_in(place: &str) {
    let named = || env::var("ONDEMAND_PANICS_IN").is_ok_and(|named| named == place);
    if cfg!(feature = "ablation") && named() {
        panic!("on request, in {place}");
    }
}
