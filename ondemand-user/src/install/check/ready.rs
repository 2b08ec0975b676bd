//! Whether `ready` is what the application says.

use ondemand_core::{
    config::Service,
    probing::{NotYet, shown},
    words::Span,
};

use super::finding::Finding;
use crate::host::probe;

/// Asks the application, if it is up.
pub async fn look(service: &Service, is_up: bool) -> Option<Finding> {
    const WHAT: &str = "ready";
    let ready = service.ready.as_ref()?;
    if !is_up {
        // Something else may have the address now, such as a front socket, which would start another application.
        let message =
            format!("its clients wait until {ready} says that it is ready: asked when it is up");
        return Some(Finding::ok(WHAT, message));
    }
    let answer: Result<(), NotYet> = probe::ask(ready).await;
    Some(match answer {
        Ok(()) => Finding::ok(WHAT, format!("{ready} says that it is ready")),
        Err(why) => Finding::warning(
            WHAT,
            format!(
                "it is up, and {ready} {}: clients of a start would be closed after {} (start_timeout)",
                shown(&why),
                Span(service.start_timeout)
            ),
            format!("correct `ready`, or see journalctl -u {}", service.unit),
        ),
    })
}
