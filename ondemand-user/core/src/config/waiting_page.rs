//! `waiting_page`: what browsers see that wait for a start.

use std::path::PathBuf;

use super::{Endpoint, error::Problem, names, table::Value};

/// The page for browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingPage {
    /// This program's own.
    Builtin,
    /// The operator's template.
    File(PathBuf),
}

/// Reads the value. `None`: browsers wait like everybody else. `backend`: where the application listens, if it is valid.
pub(super) fn read(
    value: Option<&Value<'_>>,
    backend: Option<&Endpoint>,
) -> Result<Option<WaitingPage>, Problem> {
    let Some(value) = value else {
        return Ok(None);
    };
    let page = match value.boolean() {
        Ok(false) => return Ok(None),
        Ok(true) => WaitingPage::Builtin,
        Err(_) => {
            let path =
                value.string("true, or a template such as \"/etc/ondemand/waiting.html\"")?;
            let path = names::absolute_path(path).map_err(|message| {
                value.place.problem(format!(
                    "{message} (true for the page that ondemand has, or the path of a template)"
                ))
            })?;
            WaitingPage::File(path)
        }
    };
    // Its proxy may have to leave its clients to the next one, and cannot do that once it has taken them.
    if backend.is_some_and(|backend| !backend.is_tcp()) {
        return Err(value.place.problem(
            "requires an application that listens at an address and port: `backend` is a Unix socket",
        ));
    }
    Ok(Some(page))
}
