//! How long a proxy stays up without a client.

use std::time::Duration;

use crate::config::Service;

/// How long the proxy stays up after its last connection.
///
/// A steered service needs it for its first clients only. For an unsteered one, the proxy must not
/// stop and start between two clients, and must be gone at the end of the agent's idle timeout.
pub fn exit_idle_time(service: &Service) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    const STEERED: Duration = Duration::from_secs(1);
    const SHORTEST: Duration = Duration::from_millis(50);
    // A learned one may be as short as it is allowed to be, and the proxy is not told.
    let time = match service.idle_timeout.or(service.learning.shortest) {
        None if service.steer => STEERED,
        None => LONGEST,
        Some(idle) if service.steer => STEERED.min(idle / 2),
        Some(idle) => LONGEST.min(idle / 10 * 9),
    };
    time.max(SHORTEST)
}
