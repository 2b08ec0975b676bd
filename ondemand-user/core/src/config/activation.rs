//! `activation`: who holds the socket where clients arrive.

use super::{error::Problem, table::Value};

/// Who holds the socket where clients arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The application itself, or the front socket while it is down.
    #[default]
    Front,
    /// systemd, by the application's own socket unit: the application takes it over when it starts (sd_listen_fds(3)).
    Native,
}

impl Activation {
    /// Whether the application has a socket unit of its own.
    pub fn is_native(self) -> bool {
        self == Self::Native
    }
}

const EXAMPLE: &str = "\"native\", or remove it";

/// Reads the value. `others`: keys that are there and mean nothing with `"native"`, and why.
pub(super) fn read(
    value: Option<&Value<'_>>,
    others: &[(bool, &str)],
) -> Result<Activation, Problem> {
    let Some(value) = value else {
        return Ok(Activation::Front);
    };
    match value.string(EXAMPLE)? {
        "native" => {}
        other => {
            let message = format!("{other:?} is not known; write {EXAMPLE}");
            return Err(value.place.problem(message));
        }
    }
    match others.iter().find(|(is_there, _)| *is_there) {
        Some((_, why)) => Err(value.place.problem(format!("\"native\" {why}"))),
        None => Ok(Activation::Native),
    }
}
