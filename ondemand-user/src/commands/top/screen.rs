//! The terminal: set up at the start, and restored however the program ends.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anyhow::{Context as _, Result, bail};
use ratatui::{DefaultTerminal, Frame};

/// Checks that there is a terminal that can be drawn on.
///
/// # Errors
///
/// There is none; the message names the alternative.
pub fn require_terminal() -> Result<()> {
    let instead = "use `ondemand status`, or `ondemand status --json` for scripts";
    for (there, what) in [
        (io::stdout().is_terminal(), "output"),
        (io::stdin().is_terminal(), "input"),
    ] {
        if !there {
            bail!("`ondemand top` needs a terminal, and its {what} is not one; {instead}");
        }
    }
    match env::var("TERM").as_deref() {
        Ok("") | Err(_) => bail!("TERM is not set, so the terminal's type is unknown; {instead}"),
        Ok("dumb") => bail!("TERM=dumb: the terminal cannot be drawn on; {instead}"),
        Ok(_) => Ok(()),
    }
}

/// The terminal in raw mode, on its alternate screen.
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Sets up the terminal. A panic restores it before the message is printed.
    ///
    /// # Errors
    ///
    /// The terminal refuses.
    pub fn take() -> Result<Self> {
        // A terminal that was set up in part is restored.
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        Ok(Self {
            terminal: terminal.context("set up the terminal")?,
        })
    }

    /// Draws in the terminal's present size.
    ///
    /// # Errors
    ///
    /// The terminal was closed.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        self.terminal.draw(draw).context("draw on the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // After a panic it was restored. A second time would move the cursor onto the message.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}
