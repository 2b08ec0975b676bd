//! The clocks of this host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use nix::time::{ClockId, clock_getres, clock_gettime};
use ondemand_core::{holds::Moment, measure::Ktime};

use super::ablation;

/// The present, on the clock of the kernel's programs and of systemd.
pub fn now() -> Ktime {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    Ktime::from_nanos(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The kernel's tick, the length of a `jiffy`: the coarse clocks advance by it (`hrtimer_get_res`).
pub fn tick() -> Duration {
    // 100 Hz is the least that a kernel can have.
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::from_millis(10), Duration::from)
}

/// The wall clock. Milliseconds since 1970.
pub fn wall() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    now.saturating_add(ablation::wall_ahead())
}

/// The kernel's id of this boot (random(4)); empty if it cannot be read.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
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
