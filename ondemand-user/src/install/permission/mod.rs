//! The permissions of the agent's user, granted by root: a polkit rule for the units of the
//! configuration, and a directory in the BPF file system. ondemand.service runs `ondemand permit`
//! before the agent.

mod pins;
pub mod rule;

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::{User, geteuid};
use ondemand_core::{config::Config, words::printable};

use crate::{
    host::config_file,
    install::units::last_good,
    kernel::{BPFFS, DIRECTORY},
};

/// The agent's user, from `units/sysusers.d/ondemand.conf`. The proxies have another one: they
/// handle clients' bytes, and may not stop units.
pub const USER: &str = "ondemand-agent";

/// The directory that every polkitd with rules reads (polkit(8), 0.106 and later). Only newer ones
/// read /run/polkit-1. A generator could not write here: newer versions of systemd restrict it to
/// its own directories.
const RULES: &str = "/etc/polkit-1/rules.d";
/// The rule's file.
pub const RULE: &str = "/etc/polkit-1/rules.d/50-ondemand.rules";

/// Grants `user` what the agent needs for the configuration at `config`.
///
/// # Errors
///
/// The configuration is invalid, the user does not exist, or a permission cannot be granted; the
/// others are granted nevertheless.
pub fn run(config: &Path, user: &str) -> Result<()> {
    if !geteuid().is_root() {
        bail!("only root may grant permissions: `sudo ondemand permit`");
    }
    let found = User::from_name(user).with_context(|| format!("look up the user {user}"))?;
    let found = found.with_context(|| {
        format!("the user {user} does not exist; `systemd-sysusers` creates that of the package")
    })?;
    let pins = pins::give(Path::new(BPFFS), DIRECTORY, found.uid, found.gid)
        .context("create the agent's directory in the BPF file system");
    let read = read(config);
    let rule = if found.uid.is_root() {
        // PID 1 does not ask polkit about root.
        rule::remove(Path::new(RULE))
    } else {
        read.and_then(|config| rule::write(&config, user, Path::new(RULES), Path::new(RULE)))
    };
    match (pins, rule) {
        (Err(one), Err(other)) => Err(anyhow!("{one:#}; {other:#}")),
        (pins, rule) => pins.and(rule),
    }
}

/// Reads the configuration, and keeps a copy of a valid one for the generator at the next boot: the
/// agent's user could write its own copy, and root executes what follows from it.
fn read(path: &Path) -> Result<Config> {
    let text = config_file::text(path)?;
    let config = config_file::parse(path, &text)?;
    if let Err(error) = last_good::keep_for_boot(path, &text) {
        eprintln!("ondemand: {}", printable(&format!("{error:#}")));
    }
    Ok(config)
}

/// Renews the rule before the agent reads its configuration again, which may have new services. Only
/// if there is a rule already; the agent reports an invalid configuration.
pub fn renew(config: &Path) {
    let ours = std::fs::read_to_string(RULE).is_ok_and(|text| text.starts_with(rule::MARK));
    if !ours || !geteuid().is_root() {
        return;
    }
    if let Ok(config) = read(config)
        && let Err(error) = rule::write(&config, USER, Path::new(RULES), Path::new(RULE))
    {
        eprintln!("ondemand: {}", printable(&format!("{error:#}")));
    }
}
