//! Checks that root loads the programs, and that the agent has no capability for it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::geteuid;
use ondemand_core::config::{Config, DEFAULT_PATH};

use super::finding::Finding;
use crate::{
    host::capabilities::Sets,
    kernel::{BPFFS, DIRECTORY, requirements},
    systemd::{Facts, Systemd},
};

const WHAT: &str = "programs";
/// The agent's unit.
const AGENT: &str = "ondemand.service";
/// The one that loads the programs at boot.
const UNIT: &str = "ondemand-load.service";
/// `CAP_BPF`, which older kernels demand of the agent.
const BPF: u64 = 1 << 39;

/// Checks the unit that loads the programs, who owns their pins, and the capabilities of a running agent.
/// `None`: the agent is not installed, or the configuration is not its.
pub async fn look(systemd: &Systemd, config: &Config) -> Option<Finding> {
    if config.path.to_str() != Some(DEFAULT_PATH) {
        return None;
    }
    let read = async {
        let agent = systemd.facts(AGENT).await?;
        let is_installed = agent.load_state.as_deref() == Some("loaded");
        let unit = systemd.facts(UNIT).await?;
        anyhow::Ok(is_installed.then_some((agent, unit)))
    };
    let (agent, unit) = match read.await {
        Ok(found) => found?,
        Err(error) => return Some(Finding::unknown(WHAT, &error)),
    };
    let status = match systemd.main_process(AGENT).await {
        Ok(Some(pid)) => fs::read_to_string(format!("/proc/{pid}/status")).ok(),
        _ => None,
    };
    let is_up = agent.active_state.as_deref() == Some("active");
    let held = status.as_deref().and_then(Sets::parse);
    Some(
        of_agent(held, requirements::demands_capability())
            .or_else(|| of_unit(&unit))
            .or_else(|| is_up.then(of_pins).flatten())
            .unwrap_or_else(|| {
                let agent = match held {
                    Some(_) => "; the agent has no capability",
                    None => "",
                };
                Finding::ok(WHAT, format!("{UNIT} loads them as root{agent}"))
            }),
    )
}

fn of_agent(held: Option<Sets>, demands: bool) -> Option<Finding> {
    let held = held?;
    let allowed = if demands { BPF } else { 0 };
    let more = (held.permitted | held.effective | held.ambient) & !allowed;
    (more != 0).then(|| {
        Finding::error(
            WHAT,
            format!(
                "the agent runs with capabilities ({more:x}), which together are as good as root: its unit is of \
                 an earlier version, or a drop-in gives them"
            ),
            format!(
                "install units/ondemand.service and units/{UNIT} of this version; systemctl cat {AGENT} shows \
                 drop-ins; then systemctl daemon-reload && systemctl restart ondemand"
            ),
        )
    })
}

fn of_unit(unit: &Facts) -> Option<Finding> {
    let load = unit.load_state.as_deref().unwrap_or_default();
    if load != "loaded" {
        return Some(Finding::error(
            WHAT,
            format!("{UNIT} is {load}: no programs are loaded at boot before the agent starts"),
            format!(
                "install -m 644 units/{UNIT} /usr/lib/systemd/system/; then systemctl daemon-reload && systemctl \
                 enable --now {UNIT}"
            ),
        ));
    }
    if unit.active_state.as_deref() == Some("failed") {
        return Some(Finding::error(
            WHAT,
            format!("{UNIT} has failed: the eBPF programs could not be loaded"),
            format!("journalctl --boot --unit {UNIT}"),
        ));
    }
    let enabled = unit.unit_file_state.as_deref().unwrap_or_default();
    (!enabled.starts_with("enabled")).then(|| {
        Finding::warning(
            WHAT,
            format!("{UNIT} is not enabled ({enabled}): the programs are loaded when the agent starts, not early"),
            format!("systemctl enable {UNIT}"),
        )
        .fixed_by(&["systemctl", "enable", UNIT])
    })
}

/// Only root may enter the BPF file system.
fn of_pins() -> Option<Finding> {
    if !geteuid().is_root() {
        return None;
    }
    let path = Path::new(BPFFS).join(DIRECTORY);
    let data = fs::symlink_metadata(&path).ok();
    let is_roots = data.is_some_and(|data| data.uid() == 0 && data.mode() & 0o022 == 0);
    (!is_roots).then(|| {
        Finding::error(
            WHAT,
            format!(
                "{} is not root's: the agent's user could replace what is in it",
                path.display()
            ),
            "systemctl restart ondemand",
        )
        // Before the agent root makes them anew.
        .fixed_by(&["systemctl", "restart", AGENT])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::check::Level;

    #[test]
    fn what_an_earlier_installation_must_change() {
        let held = |mask: u64| {
            Some(Sets {
                permitted: mask,
                effective: mask,
                ambient: 0,
                bounding: mask,
            })
        };
        assert_eq!(of_agent(None, false), None);
        assert_eq!(of_agent(held(0), false), None);
        assert_eq!(of_agent(held(BPF), true), None);
        for (mask, demands) in [
            (BPF, false),
            (0xc0_0000_1000, false),
            (0xc0_0000_1000, true),
        ] {
            let found = of_agent(held(mask), demands).unwrap();
            assert_eq!(found.level, Level::Error, "{found:?}");
            assert!(found.message.contains("earlier version"), "{found:?}");
        }
        #[track_caller]
        fn check(load: &str, active: &str, enabled: &str, expected: Option<(Level, &str)>) {
            let unit = Facts {
                load_state: Some(load.into()),
                active_state: Some(active.into()),
                unit_file_state: Some(enabled.into()),
                ..Facts::default()
            };
            let found = of_unit(&unit);
            assert_eq!(
                found.as_ref().map(|found| found.level),
                expected.map(|it| it.0)
            );
            let next = found.and_then(|found| found.next).unwrap_or_default();
            assert!(next.contains(expected.map_or("", |it| it.1)), "{next}");
        }
        check(
            "not-found",
            "inactive",
            "",
            Some((Level::Error, "install -m 644")),
        );
        check(
            "loaded",
            "failed",
            "enabled",
            Some((Level::Error, "journalctl")),
        );
        check(
            "loaded",
            "active",
            "disabled",
            Some((Level::Warning, "systemctl enable")),
        );
        check("loaded", "active", "enabled", None);
        check("loaded", "active", "enabled-runtime", None);
    }
}
