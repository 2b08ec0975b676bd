//! `keepalive`: when the kernel finds that a client has vanished (tcp(7), `SO_KEEPALIVE`).

use std::time::Duration;

use super::{error::Problem, parse::span, table::Value};

/// The default: a vanished client is found after four minutes.
const DEFAULT: Duration = Duration::from_secs(120);
/// The longest that the kernel takes (`MAX_TCP_KEEPIDLE`, include/net/tcp.h), in seconds.
const LONGEST: u32 = 32_767;
/// The number of probes that may stay unanswered. A short time has fewer, but one lost packet must not
/// end a connection.
const PROBES: u32 = 8;
const FEWEST_PROBES: u32 = 3;

/// TCP's keep-alive of clients' connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe, in seconds (`TCP_KEEPIDLE`).
    pub idle: u32,
    /// Seconds between two probes (`TCP_KEEPINTVL`).
    pub interval: u32,
    /// Probes without an answer before the connection ends (`TCP_KEEPCNT`).
    pub probes: u32,
}

impl KeepAlive {
    /// Ends a connection after about twice this silence. Between 1 s and [`LONGEST`].
    pub(super) fn new(idle: Duration) -> Option<Self> {
        let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
        let idle = u32::try_from(seconds)
            .ok()
            .filter(|idle| (1..=LONGEST).contains(idle))?;
        let probes = idle.clamp(FEWEST_PROBES, PROBES);
        Some(Self {
            idle,
            interval: (idle / probes).max(1),
            probes,
        })
    }
}

/// Reads the value; `None`: off.
pub(super) fn read(value: Option<&Value<'_>>) -> Result<Option<KeepAlive>, Problem> {
    let Some(value) = value else {
        return Ok(KeepAlive::new(DEFAULT));
    };
    let example = "\"2min\", or \"off\"";
    if value.string_or_integer(example)? == "off" {
        return Ok(None);
    }
    let found = span(value)?.and_then(KeepAlive::new);
    found.map(Some).ok_or_else(|| {
        value.place.problem(format!(
            "must be between 1 s and {LONGEST} s (9 h), or \"off\"; write it like {example}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vanished_client_is_found_after_twice_the_time() {
        #[track_caller]
        fn check(seconds: f64, expected: Option<(u32, u32, u32)>) {
            let found = KeepAlive::new(Duration::from_secs_f64(seconds));
            let found = found.map(|it| (it.idle, it.interval, it.probes));
            assert_eq!(found, expected, "{seconds}");
        }
        check(120.0, Some((120, 15, 8)));
        check(60.0, Some((60, 7, 8)));
        check(8.0, Some((8, 1, 8)));
        check(5.0, Some((5, 1, 5)));
        check(1.0, Some((1, 1, 3)));
        check(0.2, Some((1, 1, 3)));
        check(32_767.0, Some((32_767, 4_095, 8)));
        check(32_767.5, None);
        check(0.0, None);
    }
}
