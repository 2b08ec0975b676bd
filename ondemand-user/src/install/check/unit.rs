//! Checks of an application's unit: whether it can be started, and stopped.

use std::process::{Command, Stdio};

use ondemand_core::{
    config::{Service, UnitNames, nearest},
    words::on_one_line,
};

use super::{common::Manager, finding::Finding};
use crate::{host::unit_files::UnitFiles, systemd::Facts};

/// The last line in the journal of a unit, if this user may read it.
pub(super) fn last_line(unit: &str) -> Option<String> {
    let last = |of: String| {
        let output = Command::new("journalctl")
            .args([
                "--quiet",
                "--no-pager",
                "--output=cat",
                "--boot",
                "--lines=1",
            ])
            .arg(of)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.trim();
        (!line.is_empty()).then(|| on_one_line(line))
    };
    // Its own words, or else what systemd says of it.
    last(format!("_SYSTEMD_UNIT={unit}")).or_else(|| last(format!("--unit={unit}")))
}

/// The last run or start of the application failed.
pub(super) fn failed(service: &Service, facts: &Facts) -> Option<Finding> {
    if facts.active_state.as_deref() != Some("failed") {
        return None;
    }
    let unit = &service.unit;
    let own = facts.id.as_deref().unwrap_or(unit);
    let last = last_line(own).map(|line| format!(": {line}"));
    Some(Finding::error(
        "unit",
        format!("{unit} has failed{}", last.unwrap_or_default()),
        format!("journalctl -u {unit}; its next client starts it again"),
    ))
}

/// The existing unit that `unit` probably means.
fn near(unit: &str) -> String {
    let files = UnitFiles::here();
    let names: Vec<&str> = files.names().collect();
    nearest(unit, &names)
        .map(|near| format!("did you mean {near}? "))
        .unwrap_or_default()
}

/// Checks whether the application's unit can be started.
pub(super) fn usable(service: &Service, facts: &Facts) -> Finding {
    const WHAT: &str = "unit";
    let unit = &service.unit;
    match facts.load_state.as_deref().unwrap_or_default() {
        "loaded" => {
            let path = facts
                .fragment_path
                .as_deref()
                .filter(|path| !path.is_empty());
            let path = path.map(|path| format!(", {path}")).unwrap_or_default();
            let id = facts.id.as_deref().filter(|id| *id != unit);
            let alias = id
                .map(|id| format!(", an alias of {id}"))
                .unwrap_or_default();
            Finding::ok(WHAT, format!("{unit} is loaded{alias}{path}"))
        }
        "not-found" => Finding::error(
            WHAT,
            format!("{unit} does not exist"),
            format!(
                "{}create it, or correct `unit` of service.{} (`systemctl list-unit-files` shows \
                 the existing ones); then systemctl daemon-reload",
                near(unit),
                service.name
            ),
        ),
        "masked" => Finding::error(
            WHAT,
            format!("{unit} is masked: it cannot be started"),
            format!("systemctl unmask {unit}"),
        ),
        state => {
            let text = facts.load_error.as_ref().map(|(_, text)| text.as_str());
            let text = text.filter(|text| !text.is_empty()).unwrap_or(state);
            Finding::error(
                WHAT,
                format!("{unit} cannot be loaded: {text}"),
                format!("systemd-analyze verify {unit}"),
            )
        }
    }
}

/// The units, other than ondemand's, that pin the application's unit.
pub(super) fn pins<'a>(service: &Service, facts: &'a Facts) -> Vec<&'a str> {
    let lists = [
        &facts.wanted_by,
        &facts.required_by,
        &facts.requisite_of,
        &facts.bound_by,
        &facts.upheld_by,
    ];
    others(service, lists.into_iter().flatten().flatten())
}

/// These units, without ondemand's own.
fn others<'a>(service: &Service, units: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let UnitNames { proxy, lease, .. } = service.unit_names();
    let own = [proxy, lease];
    let mut units: Vec<_> = units
        .map(String::as_str)
        .filter(|unit| !own.iter().any(|own| own == unit))
        .collect();
    units.sort_unstable();
    units.dedup();
    units
}

/// A unit that is up and needs the application keeps it up for ever.
pub(super) async fn needed(
    service: &Service,
    facts: &Facts,
    manager: &Manager<'_>,
) -> Option<Finding> {
    let mut active = Vec::new();
    let known = manager.pins(facts.id.as_deref().unwrap_or(&service.unit));
    let pins = match &known {
        Some(known) => others(service, known.iter()),
        None => pins(service, facts),
    };
    for unit in pins {
        // A chain, in which they take turns.
        if !manager.is_application(unit) && !manager.is_down(unit).await.ok()? {
            active.push(unit);
        }
    }
    let first = active.first()?;
    let unit = &service.unit;
    let next = if first.ends_with(".target") {
        format!("systemctl disable {unit}; its clients start it")
    } else {
        format!("to let it stop nevertheless, remove {unit} from Wants= and Requires= there")
    };
    let message = format!(
        "{unit} is never stopped while these units need it: {}",
        active.join(", ")
    );
    Some(Finding::warning("stop", message, next))
}
