//! Checks of groups and of `memory_budget`: what is right in the file and has no effect, or another one than it seems.

use std::{collections::BTreeMap, fs};

use futures_util::{StreamExt as _, stream};
use ondemand_core::{
    config::{Config, Group, MemoryBudget},
    room::memory,
    words::{Bytes, counted},
};

use super::{AT_ONCE, common::Manager, finding::Finding};
use crate::bus::report::{Report, is_up};

const GROUP: &str = "group";
const BUDGET: &str = "budget";

/// Looks at all groups. `report`: of the agent, if it answers.
pub fn groups(config: &Config, report: Option<&Report>) -> Vec<Finding> {
    let held: Vec<&str> = report
        .into_iter()
        .flat_map(|report| &report.services)
        .filter(|service| is_up(&service.state) && (service.held || service.kept_up))
        .map(|service| service.name.as_str())
        .collect();
    let groups = config.groups.iter();
    groups
        .map(|(name, group)| {
            let members = config.services.values();
            let members = members.filter(|service| service.group.as_ref() == Some(name));
            let members: Vec<&str> = members.map(|service| service.name.as_str()).collect();
            look_at_group(name, *group, &members, &held)
        })
        .collect()
}

fn look_at_group(name: &str, group: Group, members: &[&str], held: &[&str]) -> Finding {
    let at_most = group.at_most;
    let services = counted(members.len() as u64, "service");
    let are_held = members.iter().filter(|member| held.contains(member));
    if members.is_empty() {
        Finding::warning(
            GROUP,
            format!("no service is in the group {name}"),
            format!("write group = {name:?} in those that take turns, or remove [group.{name}]"),
        )
    } else if at_most as usize >= members.len() {
        Finding::warning(
            GROUP,
            format!(
                "the group {name} has {services} ({}), and at_most = {at_most}: they never wait for each other",
                members.join(", ")
            ),
            "lower at_most, or add the services that take turns with them",
        )
    } else if are_held.count() >= at_most as usize {
        Finding::warning(
            GROUP,
            format!(
                "so many services of the group {name} are held, or in their times of use, as may be up: no other one of it \
                 can start"
            ),
            "ondemand release NAME, for one of those that `ondemand status` shows as held",
        )
    } else {
        Finding::ok(
            GROUP,
            format!("of the group {name}, with {services}, {at_most} may be up at once"),
        )
    }
}

/// Looks at the budget, and by name at the services.
pub async fn budget(
    config: &Config,
    manager: Option<&Manager<'_>>,
    report: Option<&Report>,
) -> (Option<Finding>, BTreeMap<String, Vec<Finding>>) {
    let mut by_service: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    let Some(budget) = config.agent.memory_budget else {
        return (None, by_service);
    };
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    let host = meminfo.as_deref().and_then(memory::total);
    if let MemoryBudget::Bytes(bytes) = budget {
        for service in report.into_iter().flat_map(|report| &report.services) {
            let memory = service.memory_bytes.or(service.given_back_bytes);
            let found = memory.and_then(|memory| too_large(memory, bytes));
            if let Some(found) = found.filter(|_| config.services.contains_key(&service.name)) {
                let of = by_service.entry(service.name.clone()).or_default();
                of.push(found.of(&service.name));
            }
        }
    }
    if let Some(manager) = manager {
        let looks = config.services.values().map(|service| async move {
            let accounted = manager.systemd.accounts_memory(&service.unit).await;
            (accounted == Some(false)).then(|| unaccounted(&service.unit).of(&service.name))
        });
        let found: Vec<Option<Finding>> = stream::iter(looks.collect::<Vec<_>>())
            .buffered(AT_ONCE)
            .collect()
            .await;
        for finding in found.into_iter().flatten() {
            let name = finding.service.clone().unwrap_or_default();
            by_service.entry(name).or_default().push(finding);
        }
    }
    (Some(of_host(budget, host)), by_service)
}

fn too_large(memory: u64, budget: u64) -> Option<Finding> {
    (memory > budget).then(|| {
        Finding::warning(
            BUDGET,
            format!(
                "it took {} when that was read last, more than memory_budget ({}): while it is up no other service stays warm, \
                 and it goes itself as soon as it is idle",
                Bytes(memory),
                Bytes(budget)
            ),
            "raise memory_budget",
        )
    })
}

fn unaccounted(unit: &str) -> Finding {
    Finding::warning(
        BUDGET,
        format!(
            "the memory of {unit} is not accounted: it does not count for memory_budget, and goes when it is idle"
        ),
        format!("set MemoryAccounting=yes (systemctl edit {unit}), and restart it"),
    )
}

/// `host`: its memory in bytes, if that is known.
fn of_host(budget: MemoryBudget, host: Option<u64>) -> Finding {
    let Some(host) = host else {
        let next = "mount /proc, where the agent reads what is available";
        return Finding::warning(
            BUDGET,
            "/proc/meminfo does not tell the host's memory",
            next,
        );
    };
    match budget {
        MemoryBudget::Bytes(bytes) if bytes > host => Finding::warning(
            BUDGET,
            format!(
                "memory_budget is {}, and the host has {}: memory is short before an idle service goes",
                Bytes(bytes),
                Bytes(host)
            ),
            "write less, or memory_budget = \"auto\"",
        ),
        MemoryBudget::Auto { reserve } if reserve >= host => Finding::warning(
            BUDGET,
            format!(
                "reserve is {}, and the host has {}: each service goes as soon as it is idle",
                Bytes(reserve),
                Bytes(host)
            ),
            "write less",
        ),
        MemoryBudget::Bytes(bytes) => Finding::ok(
            BUDGET,
            format!(
                "idle services stay up while all take {} at most",
                Bytes(bytes)
            ),
        ),
        MemoryBudget::Auto { reserve } => Finding::ok(
            BUDGET,
            format!(
                "idle services stay up while {} are available",
                Bytes(reserve)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::check::Level;

    #[test]
    fn groups_that_have_no_effect() {
        #[track_caller]
        fn check(at_most: u32, members: &[&str], held: &[&str], expected: Level) {
            let found = look_at_group("gpu", Group { at_most }, members, held);
            assert_eq!(found.level, expected, "{found:?}");
            assert_eq!(found.next.is_some(), expected != Level::Ok, "{found:?}");
        }
        check(1, &["a", "b"], &[], Level::Ok);
        check(1, &[], &[], Level::Warning);
        check(1, &["a"], &[], Level::Warning);
        check(2, &["a", "b"], &[], Level::Warning);
        check(2, &["a", "b", "c"], &["a", "x"], Level::Ok);
        check(2, &["a", "b", "c"], &["a", "c"], Level::Warning);
    }

    #[test]
    fn budgets_that_are_not_what_they_seem() {
        let level = |budget, host| of_host(budget, host).level;
        let auto = |reserve| MemoryBudget::Auto { reserve };
        assert_eq!(level(MemoryBudget::Bytes(8), Some(8)), Level::Ok);
        assert_eq!(level(MemoryBudget::Bytes(9), Some(8)), Level::Warning);
        assert_eq!(level(auto(7), Some(8)), Level::Ok);
        assert_eq!(level(auto(8), Some(8)), Level::Warning);
        assert_eq!(level(auto(7), None), Level::Warning);
        assert!(too_large(9, 8).is_some() && too_large(8, 8).is_none());
    }
}
