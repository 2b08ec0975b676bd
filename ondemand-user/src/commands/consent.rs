//! Questions to the person at the terminal.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::{Context as _, Result};

/// Why a command does nothing. The program exits with 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A refusal as an error.
pub fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Refusal(why.into()).into())
}

/// Asks a question that `y` answers with yes, and all else with no. `yes`: it was answered on the command line.
///
/// # Errors
///
/// There is no terminal to ask at.
pub fn ask(question: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return refuse(format!(
            "there is no terminal to ask at ({question}); add --yes to answer yes, or --dry-run to see what would be done"
        ));
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush().context("ask")?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
