//! A terminal in a private system: script(1) runs a program in it, and keeps what it was sent.

use std::{
    fs,
    io::Write as _,
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{sandbox::Sandbox, wait_for};

/// For what should happen soon.
const SOON: Duration = Duration::from_secs(60);
/// Where script(1) writes what the terminal was sent.
const FILE: &str = "/run/terminal.typescript";

/// A program that runs in a terminal; one at a time.
pub struct Terminal<'a> {
    sandbox: &'a Sandbox,
    script: Child,
}

impl<'a> Terminal<'a> {
    /// Runs a command of a shell in a terminal of so many lines and columns.
    ///
    /// # Errors
    ///
    /// script(1) cannot be run.
    pub fn open(sandbox: &'a Sandbox, (lines, columns): (u16, u16), command: &str) -> Result<Self> {
        let command = format!("stty rows {lines} cols {columns}; {command}");
        // Of an earlier one.
        let _ = fs::remove_file(sandbox.path(FILE));
        let script = sandbox
            .command("script")
            .args(["--quiet", "--flush", "--return"])
            .args(["--command", &command, FILE])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("run script")?;
        Ok(Self { sandbox, script })
    }

    /// What the program has written so far.
    pub fn sent(&self) -> Vec<u8> {
        let bytes = fs::read(self.sandbox.path(FILE)).unwrap_or_default();
        // The first line is script's own, and so is the last.
        let begin = bytes.iter().position(|byte| *byte == b'\n');
        let text = &bytes[begin.map_or(bytes.len(), |at| at + 1)..];
        let end = b"\nScript done on ";
        let end = text.windows(end.len()).rposition(|part| part == end);
        text[..end.unwrap_or(text.len())].to_vec()
    }

    /// Waits until the program has written this.
    ///
    /// # Errors
    ///
    /// It does not in time.
    pub fn wait(&self, words: &str) -> Result<()> {
        wait_for(&format!("the terminal shows {words:?}"), SOON, || {
            let sent = self.sent();
            String::from_utf8_lossy(&sent).contains(words).then_some(())
        })
    }

    /// Types something.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        let stdin = self.script.stdin.as_mut().context("the terminal")?;
        stdin.write_all(keys.as_bytes()).context("type")
    }

    /// Waits for the program's end, and returns its status.
    ///
    /// # Errors
    ///
    /// It does not end in time.
    pub fn end(&mut self) -> Result<ExitStatus> {
        wait_for("the program in the terminal ends", SOON, || {
            self.script.try_wait().ok()?
        })
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
