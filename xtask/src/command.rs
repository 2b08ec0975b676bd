//! Commands that are printed before they are run.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

/// A command to run at the top of the source tree.
pub struct Step {
    words: Vec<String>,
    environment: Vec<(String, String)>,
    is_quiet: bool,
}

impl Step {
    /// A command from its words.
    pub fn new(words: &[&str]) -> Self {
        Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            environment: Vec::new(),
            is_quiet: false,
        }
    }

    /// The cargo that runs this program.
    pub fn cargo(words: &[&str]) -> Self {
        Self::new(&["cargo"]).args(words)
    }

    /// More words.
    pub fn args(mut self, words: &[&str]) -> Self {
        self.words
            .extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Does not print it.
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// As a person would type it.
    pub fn text(&self) -> String {
        let variables = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let words: Vec<String> = variables.chain(self.words.iter().cloned()).collect();
        words.join(" ")
    }
}

/// Prints the command, unless it is quiet, runs it, and waits for its end.
///
/// # Errors
///
/// It cannot be run, or fails.
pub fn run(step: &Step) -> Result<()> {
    if !step.is_quiet {
        println!("+ {}", step.text());
    }
    let (program, arguments) = step.words.split_first().context("an empty command")?;
    let mut command = match (program.as_str(), std::env::var_os("CARGO")) {
        ("cargo", Some(cargo)) if step.words.get(1).is_some_and(|word| word != "install") => {
            Command::new(cargo)
        }
        _ => Command::new(program),
    };
    let status = command
        .args(arguments)
        .envs(step.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))
        .status()
        .with_context(|| format!("run {program}"))?;
    if !status.success() {
        bail!("failed ({status}): {}", step.text());
    }
    Ok(())
}
