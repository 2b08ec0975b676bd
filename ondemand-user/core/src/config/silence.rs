//! `silent_after`: from when on an open connection without a byte is no use.

use std::time::Duration;

use super::{error::Problem, parse::span, table::Value};

/// Below this, a client that thinks is cut.
const LEAST: Duration = Duration::from_secs(1);
/// The kernel's times wrap around: after 24 days, where it has 1,000 ticks a second.
const MOST: Duration = Duration::from_secs(20 * 86_400);

/// Reads the value. `None`: never.
pub(super) fn read(value: Option<&Value<'_>>) -> Result<Option<Duration>, Problem> {
    let Some(value) = value else {
        return Ok(None);
    };
    let (least, most) = (LEAST.as_secs(), MOST.as_secs() / 86_400);
    match span(value)? {
        Some(span) if !(LEAST..=MOST).contains(&span) => Err(value.place.problem(format!(
            "must be between {least} s and {most} days, for which the kernel tells how long a connection was silent; write \
             it like \"30min\", or \"infinity\" for never"
        ))),
        span => Ok(span),
    }
}
