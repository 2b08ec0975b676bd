//! The terminal: taken at the begin, and given back as it was however the program ends.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anyhow::{Context as _, Result, bail};
use ratatui::{DefaultTerminal, Frame};

/// Says whether there is a terminal that can be drawn on.
///
/// # Errors
///
/// There is none; the message says what to do instead.
pub fn require_terminal() -> Result<()> {
    let instead = "use `ondemand status`, or `ondemand status --json` for scripts";
    for (there, what) in [
        (io::stdout().is_terminal(), "output"),
        (io::stdin().is_terminal(), "input"),
    ] {
        if !there {
            bail!("`ondemand top` needs a terminal, and its {what} is none; {instead}");
        }
    }
    match env::var("TERM").as_deref() {
        Ok("") | Err(_) => bail!("TERM is not set, so nobody knows how to draw here; {instead}"),
        Ok("dumb") => bail!("TERM=dumb is a terminal that cannot be drawn on; {instead}"),
        Ok(_) => Ok(()),
    }
}

/// The terminal in raw mode, on its other screen.
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal. A panic gives it back too, before it prints its message.
    ///
    /// # Errors
    ///
    /// The terminal does not do it.
    pub fn take() -> Result<Self> {
        // A terminal that was taken half is given back.
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        Ok(Self {
            terminal: terminal.context("take the terminal")?,
        })
    }

    /// Draws, in the terminal's present size.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        self.terminal.draw(draw).context("draw on the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // After a panic it has been given back. A second time would put the cursor on the message.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}
