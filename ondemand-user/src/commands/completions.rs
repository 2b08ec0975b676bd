//! What shells complete: commands and options from the words of the command line, services from the
//! configuration.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, ValueEnum};
use clap_complete::{
    CompleteEnv, CompletionCandidate,
    env::{Bash, EnvCompleter, Fish, Zsh},
};
use ondemand_core::config::DEFAULT_PATH;

use super::{args::Cli, pages};
use crate::host::config_file;

/// Set by what [`print`] prints: the program shall print completions, and nothing else.
const ASKED: &str = "ONDEMAND_COMPLETES";

/// zsh loads a file of completions when it needs the first of them, by calling it, and expects them from this call.
const FIRST_OF_ZSH: &str = "\
if [[ ${funcstack[1]} == _ondemand ]]; then
    _clap_dynamic_completer_ondemand
fi
";

/// A shell whose completions can be printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[expect(
    missing_docs,
    reason = "the names of the shells are the words for them"
)]
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// Prints completions and exits, if a shell has called the program for them.
pub fn complete() {
    // What clap_complete does then removes the variable, so it must be the first thing that happens.
    if env::var_os(ASKED).is_some() {
        CompleteEnv::with_factory(Cli::command)
            .var(ASKED)
            .complete();
    }
}

/// Prints the script for a shell.
///
/// # Errors
///
/// It cannot be printed.
pub fn print(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Fish => &Fish,
        Shell::Zsh => &Zsh,
    };
    shell
        .write_registration(ASKED, "ondemand", "ondemand", "ondemand", &mut script)
        .context("write the completions")?;
    if shell.is("zsh") {
        script.extend(FIRST_OF_ZSH.as_bytes());
    }
    io::stdout()
        .write_all(&script)
        .context("print the completions")
}

/// The services of the configuration that is named in the line which is being typed, or of the usual one.
pub fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    let words: Vec<_> = env::args_os().collect();
    let named = words.iter().enumerate().find_map(|(i, word)| {
        let word = word.to_str()?;
        match word.strip_prefix("--config=") {
            Some(path) => Some(PathBuf::from(path)),
            None if word == "--config" => words.get(i + 1).map(PathBuf::from),
            None => None,
        }
    });
    let path = named.unwrap_or_else(|| DEFAULT_PATH.into());
    // A configuration that is wrong or may not be read completes nothing; a message would be in the way.
    let Ok(config) = config_file::load(&path) else {
        return Vec::new();
    };
    let services = config.services.values();
    candidates(
        current,
        services.map(|service| (service.name.as_str(), service.unit.as_str())),
    )
}

/// The topics of `ondemand help`, and the commands.
pub fn topics(current: &OsStr) -> Vec<CompletionCandidate> {
    let cli = Cli::command();
    let commands = cli.get_subcommands().map(clap::Command::get_name);
    let mut topics: Vec<&str> = pages::topics().collect();
    topics.extend(commands);
    candidates(current, topics.into_iter().map(|name| (name, "")))
}

fn candidates<'a>(
    current: &OsStr,
    all: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<CompletionCandidate> {
    let begin = current.to_string_lossy();
    all.filter(|(name, _)| name.starts_with(&*begin))
        .map(|(name, about)| {
            let about = (!about.is_empty()).then(|| about.to_owned().into());
            CompletionCandidate::new(name).help(about)
        })
        .collect()
}
