//! `ignore_empty`: whether a connection must have sent a byte to count as use.

use super::{Endpoint, error::Problem, table::Value};

/// Reads the value. `listen`: `None` is wrong by itself.
pub(super) fn read(
    value: Option<&Value<'_>>,
    listen: Option<&[Endpoint]>,
) -> Result<bool, Problem> {
    let Some(value) = value else {
        return Ok(false);
    };
    let ignored = value.boolean()?;
    if ignored && listen.is_some_and(|all| !all.iter().any(Endpoint::is_tcp)) {
        return Err(value.place.problem(
            "requires a TCP address in `listen`: of a Unix socket the kernel does not tell whether a client has sent a byte",
        ));
    }
    Ok(ignored)
}
