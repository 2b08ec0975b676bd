//! Checks whether the agent may have systemd stop the configured services.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::Result;
use nix::unistd::{User, geteuid};
use ondemand_core::config::{Config, DEFAULT_PATH};

use super::finding::Finding;
use crate::{
    install::permission::{RULE, rule},
    systemd::Systemd,
};

const WHAT: &str = "permission";
/// The agent's unit.
const UNIT: &str = "ondemand.service";
/// What has the users (sysusers.d(5)).
const USERS: &str = "/usr/lib/sysusers.d/ondemand.conf";
/// The alternative to polkit.
const ROOT: &str = "or run the agent as root (units/examples/root.conf)";

/// Checks the user of the agent's unit, polkit and the agent's rule. `None`: the unit is not
/// installed, or is for another configuration.
pub async fn look(systemd: &Systemd, config: &Config) -> Option<Finding> {
    if config.path.to_str() != Some(DEFAULT_PATH) {
        return None;
    }
    match (systemd.user_of(UNIT).await, systemd.has_polkit().await) {
        (Ok(None), _) => None,
        (Ok(Some(user)), Ok(polkit)) => Some(judge(&user, polkit, config)),
        (Err(error), _) | (_, Err(error)) => Some(Finding::unknown(WHAT, &error)),
    }
}

fn judge(user: &str, polkit: bool, config: &Config) -> Finding {
    if matches!(user, "" | "root" | "0") {
        return Finding::ok(WHAT, "the agent runs as root: it needs no rule of polkit");
    }
    if !matches!(User::from_name(user), Ok(Some(_))) {
        let finding = Finding::error(
            WHAT,
            format!("the agent's user {user} does not exist: the agent cannot be started"),
            "install sysusers.d/ondemand.conf and run systemd-sysusers",
        );
        return match Path::new(USERS).exists() {
            true => finding.fixed_by(&["systemd-sysusers", USERS]),
            false => finding,
        };
    }
    let mode = fs::metadata(&config.path).map(|data| data.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o044 == 0) {
        return Finding::error(
            WHAT,
            format!(
                "{} is readable by its owner only: the agent, as {user}, cannot be started",
                config.path.display()
            ),
            format!("chmod a+r {}", config.path.display()),
        );
    }
    if !polkit {
        return Finding::error(
            WHAT,
            format!("polkit is not installed: the agent, as {user}, may not stop services"),
            format!("install it (Debian: apt install polkitd) and restart the agent, {ROOT}"),
        );
    }
    let expected = rule::text(config, user);
    match (rule_text(), geteuid().is_root()) {
        (Ok(Some(found)), _) if found == expected => Finding::ok(
            WHAT,
            format!("{RULE} lets the agent, as {user}, stop these services only"),
        ),
        (Ok(Some(_)), _) => Finding::error(
            WHAT,
            format!(
                "{RULE} does not match this configuration: the agent may not stop all services"
            ),
            "systemctl reload ondemand; or ondemand permit",
        )
        .fixed_by(&["ondemand", "permit", "--user", user]),
        // Its directory may be unreadable for others.
        (Ok(None), true) => Finding::error(
            WHAT,
            format!("{RULE} is missing: the agent, as {user}, may not stop services"),
            "systemctl restart ondemand; or ondemand permit",
        )
        .fixed_by(&["ondemand", "permit", "--user", user]),
        (Ok(None), false) => Finding::warning(
            WHAT,
            format!("{RULE} could not be read"),
            "sudo ondemand check",
        ),
        (Err(error), _) => Finding::unknown(WHAT, &error),
    }
}

fn rule_text() -> Result<Option<String>> {
    match fs::read_to_string(RULE) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::check::Level;

    #[test]
    fn what_the_agent_lacks() {
        let config = Config::parse(Path::new(DEFAULT_PATH), "").unwrap();
        #[track_caller]
        fn check(user: &str, polkit: bool, config: &Config, level: Level, expected: &str) {
            let found = judge(user, polkit, config);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.message.contains(expected), "{found:?}");
        }
        check("root", false, &config, Level::Ok, "as root");
        check("", false, &config, Level::Ok, "as root");
        check("no-such-user", true, &config, Level::Error, "no-such-user");
        check("nobody", false, &config, Level::Error, "polkit is not");
    }
}
