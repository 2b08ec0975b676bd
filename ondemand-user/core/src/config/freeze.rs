//! `freeze_after`: when an idle application is frozen instead of left running.

use std::time::Duration;

use super::{Endpoint, IdleTimeout, error::Problem, parse::span, table::Value, work::Limits};

/// Below this, freezing costs more than it saves: it takes systemd some milliseconds.
const LEAST: Duration = Duration::from_millis(100);

/// What else is configured that decides whether it can be.
pub(super) struct Rest<'a> {
    pub idle_timeout: Option<IdleTimeout>,
    pub busy: Option<Limits>,
    pub listen: Option<&'a [Endpoint]>,
    pub backend: Option<&'a Endpoint>,
}

/// Reads `freeze_reclaim`. `frozen`: whether it is ever frozen; `None`: that is not valid.
pub(super) fn reclaim(value: Option<&Value<'_>>, frozen: Option<bool>) -> Result<bool, Problem> {
    let Some(value) = value else {
        return Ok(false);
    };
    match value.boolean()? {
        true if frozen == Some(false) => Err(value.place.problem(
            "is about the memory of an application that is frozen; add freeze_after, or remove this",
        )),
        reclaim => Ok(reclaim),
    }
}

/// Reads the value. `None`: never.
pub(super) fn read(
    value: Option<&Value<'_>>,
    rest: &Rest<'_>,
) -> Result<Option<Duration>, Problem> {
    let Some(value) = value else {
        return Ok(None);
    };
    let Some(after) = span(value)? else {
        return Ok(None);
    };
    let all = rest.listen.into_iter().flatten().chain(rest.backend);
    let message = if after < LEAST {
        "must be at least \"100ms\": to freeze and thaw takes some milliseconds".to_owned()
    } else if matches!(rest.idle_timeout, Some(IdleTimeout::After(timeout)) if timeout <= after) {
        "is not before idle_timeout, when the service is stopped: write less, or more there (\"infinity\": it is only \
         frozen)"
            .to_owned()
    } else if rest.busy.is_some_and(|busy| busy.exist()) {
        "and busy_cpu or busy_io exclude each other: a frozen application works on nothing; remove one of them".to_owned()
    } else if all.into_iter().any(|endpoint| !endpoint.is_tcp()) {
        "requires TCP addresses: of other clients the kernel does not tell in time, so nobody would thaw it".to_owned()
    } else {
        return Ok(Some(after));
    };
    Err(value.place.problem(message))
}
