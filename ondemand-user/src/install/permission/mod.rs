//! What the agent's user is given, by root: a polkit rule for the units of the configuration, and
//! a directory in the BPF file system. ondemand.service runs `ondemand permit` before the agent.

mod pins;
pub mod rule;

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::{User, geteuid};

use crate::{
    host::config_file,
    kernel::{BPFFS, DIRECTORY},
};

/// The user that `units/sysusers.d/ondemand.conf` makes for the agent. Not that of the proxies:
/// they handle clients' bytes, and may stop nothing.
pub const USER: &str = "ondemand-agent";

/// Where polkitd looks for rules in every version that knows them (polkit(8), 0.106 and later).
/// /run/polkit-1 is read by newer ones alone. A generator could not write here: newer versions of
/// systemd let it write to its own directories only.
const RULES: &str = "/etc/polkit-1/rules.d";
/// The file there.
pub const RULE: &str = "/etc/polkit-1/rules.d/50-ondemand.rules";

/// Gives `user` what the agent needs for the configuration at `config`.
///
/// # Errors
///
/// The configuration is wrong, there is no such user, or something cannot be given; what can be
/// given is, all the same.
pub fn run(config: &Path, user: &str) -> Result<()> {
    if !geteuid().is_root() {
        bail!("only root may give permissions away: `sudo ondemand permit`");
    }
    let found = User::from_name(user).with_context(|| format!("look up the user {user}"))?;
    let found = found.with_context(|| {
        format!("there is no user {user}; `systemd-sysusers` makes the one of the package")
    })?;
    let pins = pins::give(Path::new(BPFFS), DIRECTORY, found.uid, found.gid)
        .context("give the agent its directory in the BPF file system");
    let rule = if found.uid.is_root() {
        // PID 1 does not ask polkit about root.
        rule::remove(Path::new(RULE))
    } else {
        config_file::load(config)
            .and_then(|config| rule::write(&config, user, Path::new(RULES), Path::new(RULE)))
    };
    match (pins, rule) {
        (Err(one), Err(other)) => Err(anyhow!("{one:#}; {other:#}")),
        (pins, rule) => pins.and(rule),
    }
}

/// Before the agent reads its configuration again, which may have new services. Only where there
/// is a rule already; a wrong configuration is the agent's to explain.
pub fn renew(config: &Path) {
    let ours = std::fs::read_to_string(RULE).is_ok_and(|text| text.starts_with(rule::MARK));
    if !ours || !geteuid().is_root() {
        return;
    }
    if let Ok(config) = config_file::load(config)
        && let Err(error) = rule::write(&config, USER, Path::new(RULES), Path::new(RULE))
    {
        eprintln!("ondemand: {error:#}");
    }
}
