//! How long a proxy stays without a client.

use std::time::Duration;

use crate::config::Service;

/// How long the proxy stays when it has no connection left.
///
/// A steered service needs it for its first clients only. An unsteered one must not see the
/// proxy come and go between two clients, and the agent's idle timeout must find it gone.
pub fn exit_idle_time(service: &Service) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    const STEERED: Duration = Duration::from_secs(1);
    const SHORTEST: Duration = Duration::from_millis(50);
    let time = match service.idle_timeout {
        None if service.steer => STEERED,
        None => LONGEST,
        Some(idle) if service.steer => STEERED.min(idle / 2),
        Some(idle) => LONGEST.min(idle / 10 * 9),
    };
    time.max(SHORTEST)
}
