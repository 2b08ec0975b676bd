//! `first_client`: what becomes of clients of a service that is down.

use super::{Endpoint, error::Problem, table::Value};

/// What becomes of clients of a service that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstClient {
    /// The kernel holds them where that is quick and sure, and the front socket takes the others.
    #[default]
    Auto,
    /// The kernel holds them, for a second at most. The front socket takes those whose address may be forged.
    Held,
    /// The front socket takes all of them.
    Proxied,
}

const EXAMPLE: &str = "\"auto\", \"held\" or \"proxied\"";

/// Reads the value. `steer` and `listen`: `None` is wrong by itself.
pub(super) fn read(
    value: Option<&Value<'_>>,
    steer: Option<bool>,
    ignore_empty: Option<bool>,
    listen: Option<&[Endpoint]>,
    backend: Option<&Endpoint>,
) -> Result<FirstClient, Problem> {
    let Some(value) = value else {
        // Of a client that is held nobody knows what it sends.
        return Ok(match ignore_empty {
            Some(true) => FirstClient::Proxied,
            _ => FirstClient::Auto,
        });
    };
    let first = match value.string(EXAMPLE)? {
        "auto" if ignore_empty == Some(true) => FirstClient::Proxied,
        "auto" => FirstClient::Auto,
        "held" => FirstClient::Held,
        "proxied" => FirstClient::Proxied,
        other => {
            let message = format!("{other:?} is none of {EXAMPLE}");
            return Err(value.place.problem(message));
        }
    };
    let message = if first != FirstClient::Held {
        return Ok(first);
    } else if steer == Some(false) {
        "\"held\" requires steer = true: clients that were held go straight to the application"
    } else if ignore_empty == Some(true) {
        "\"held\" means that a client's first packet starts the service, before it has sent a byte; remove `ignore_empty`"
    } else if listen.is_some_and(|all| !all.iter().any(Endpoint::is_tcp)) {
        "\"held\" requires a TCP address in `listen`: the clients of a Unix socket wait in its queue"
    } else if backend.is_some_and(|backend| !backend.is_tcp()) {
        "\"held\" requires a TCP address as `backend`: clients that were held go straight to the application"
    } else {
        return Ok(first);
    };
    Err(value.place.problem(message))
}
