//! Waiting for events, with deadlines. What is no event is in [`crate::pause`].

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::patience;

/// Calls `probe` until it returns something. Waits for events that cannot be listened to.
///
/// # Errors
///
/// It did not happen in time (see [`patience`]); the message names the event.
pub fn wait_for<T>(what: &str, deadline: Duration, probe: impl FnMut() -> Option<T>) -> Result<T> {
    wait_closely(what, deadline, Duration::from_millis(10), probe)
}

/// The same, with another interval: if 10 ms would be too late for the next action.
///
/// # Errors
///
/// Like [`wait_for`].
pub fn wait_closely<T>(
    what: &str,
    deadline: Duration,
    every: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = deadline * patience();
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            bail!("{what}: not within {deadline:?}");
        }
        thread::sleep(every);
    }
}
