//! The clocks of this host.

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use ondemand_core::{holds::Moment, measure::Ktime};

/// The present, as the kernel's programs and systemd stamp it.
pub fn now() -> Ktime {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    Ktime::from_nanos(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The present on both clocks that holds need.
pub fn moment() -> Moment {
    let uptime =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists on every Linux");
    Moment {
        uptime: uptime.into(),
        wall: Timestamp::now(),
    }
}
