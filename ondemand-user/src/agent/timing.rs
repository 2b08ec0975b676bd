//! The duration of samples and snapshots, for measurements of the agent.

use std::time::Instant;

/// The target of these log lines: `ONDEMAND_LOG=info,ondemand::timing=trace` shows them.
const TARGET: &str = "ondemand::timing";

/// Does `work`, and logs its duration if requested.
pub(super) fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    if !log::log_enabled!(target: TARGET, log::Level::Trace) {
        return work();
    }
    let begin = Instant::now();
    let done = work();
    log::trace!(target: TARGET, "{what}: {} ns", begin.elapsed().as_nanos());
    done
}
