//! The clocks of this host.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use ondemand_core::{holds::Moment, measure::Ktime};

/// The present, on the clock of the kernel's programs and of systemd.
pub fn now() -> Ktime {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    Ktime::from_nanos(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Milliseconds since 1970 for a moment on the kernel's clock.
pub fn wall(at: Ktime) -> i64 {
    let (here, now) = (now(), SystemTime::now());
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = match here.since(at) {
        Some(ago) => now.saturating_sub(ago),
        None => now + at.since(here).unwrap_or_default(),
    };
    i64::try_from(moment.as_millis()).unwrap_or(i64::MAX)
}

/// The present on both clocks of holds.
pub fn moment() -> Moment {
    let uptime =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists on every Linux");
    Moment {
        uptime: uptime.into(),
        wall: Timestamp::now(),
    }
}
