//! The permissions of the agent's user, granted by root: a polkit rule for the units of the
//! configuration. ondemand.service runs `ondemand permit` before the agent.

pub mod rule;

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{User, geteuid};
use ondemand_core::{
    config::{Config, DEFAULT_PATH},
    words::printable,
};

use crate::{host::config_file, install::units::last_good};

/// The agent's user, from `units/sysusers.d/ondemand.conf`. The proxies have another one: they
/// handle clients' bytes, and may not stop units.
pub const USER: &str = "ondemand-agent";

/// The directory that every polkitd with rules reads (polkit(8), 0.106 and later). Only newer ones
/// read /run/polkit-1. A generator could not write here: newer versions of systemd restrict it to
/// its own directories.
const RULES: &str = "/etc/polkit-1/rules.d";
/// The rule's file.
pub const RULE: &str = "/etc/polkit-1/rules.d/50-ondemand.rules";

/// The units that the agent may freeze, by the present rule.
pub fn frozen() -> BTreeSet<String> {
    std::fs::read_to_string(RULE).map_or_else(|_| BTreeSet::new(), |text| rule::frozen(&text))
}

/// The user of the present rule, or else that of the package.
pub fn user() -> String {
    let text = std::fs::read_to_string(RULE).ok();
    let ours = text.filter(|text| text.starts_with(rule::MARK));
    ours.and_then(|text| rule::user(&text))
        .unwrap_or_else(|| USER.to_owned())
}

/// Grants `user` what the agent needs for the configuration at `config`.
///
/// # Errors
///
/// The configuration is invalid, the user does not exist, or the rule cannot be written.
pub fn run(config: &Path, user: &str) -> Result<()> {
    if !geteuid().is_root() {
        bail!("only root may grant permissions: `sudo ondemand permit`");
    }
    let found = User::from_name(user).with_context(|| format!("look up the user {user}"))?;
    let found = found.with_context(|| {
        format!("the user {user} does not exist; `systemd-sysusers` creates that of the package")
    })?;
    if found.uid.is_root() {
        // PID 1 does not ask polkit about root. The copy for the next boot is kept all the same.
        let read = read(config);
        return rule::remove(Path::new(RULE)).and(read.map(drop));
    }
    write_rule(config, user)
}

/// Writes the rule of the configuration at `path`; where that is invalid, of the last valid one, which stays
/// in force.
fn write_rule(path: &Path, user: &str) -> Result<()> {
    let write = |config: &Config| rule::write(config, user, Path::new(RULES), Path::new(RULE));
    let error = match read(path) {
        Ok(config) => return write(&config),
        Err(error) => error,
    };
    if path == Path::new(DEFAULT_PATH)
        && let Some(copy) = last_good::find(path)
    {
        write(&copy.config)?;
    }
    Err(error)
}

/// Reads the configuration, and keeps a copy of a valid one for the generator at the next boot: the
/// agent's user could write its own copy, and root executes what follows from it.
fn read(path: &Path) -> Result<Config> {
    let text = config_file::text(path)?;
    let config = config_file::parse_here(path, &text)?;
    if let Err(error) = last_good::keep_for_boot(path, &text) {
        eprintln!("ondemand: {}", printable(&format!("{error:#}")));
    }
    Ok(config)
}

/// Renews the rule before the agent reads its configuration again, which may have new services. Only
/// if this is root, and there is a rule already.
///
/// # Errors
///
/// The configuration is invalid, or the rule cannot be written.
pub fn renew(config: &Path) -> Result<()> {
    let ours = std::fs::read_to_string(RULE).is_ok_and(|text| text.starts_with(rule::MARK));
    if !ours || !geteuid().is_root() {
        return Ok(());
    }
    write_rule(config, &user())
}
