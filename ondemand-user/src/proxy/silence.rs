//! When the last byte went on any of the proxy's connections. The agent, which knows the same of all connections of a
//! service, asks the proxy to leave when none is used: the proxy compares once more.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How much later than the kernel the proxy takes a byte.
const SLACK: Duration = Duration::from_millis(50);

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// In milliseconds since then.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A byte went, or a client came.
pub fn ends() {
    let now = u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX);
    LAST.store(now, Ordering::Relaxed);
}

/// Whether no byte went for this time.
pub fn lasts(after: Duration) -> bool {
    let last = Duration::from_millis(LAST.load(Ordering::Relaxed));
    BEGAN.elapsed().saturating_sub(last) + SLACK >= after
}
