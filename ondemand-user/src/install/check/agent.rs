//! Whether the agent runs, and if not, why.

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use zbus::fdo::DBusProxy;

use super::{finding::Finding, unit::last_line};
use crate::{
    bus::names,
    systemd::{Standing, Systemd},
};

/// The agent's unit.
pub const UNIT: &str = "ondemand.service";

/// Why no agent runs, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Why.
    pub why: String,
    /// The command that ends it.
    pub next: String,
    /// The same word by word, if that is all of it and harmless.
    pub fix: Option<Vec<String>>,
}

/// Checks whether the agent runs.
pub async fn look(systemd: &Systemd) -> Finding {
    const WHAT: &str = "agent";
    let running = async {
        let bus = DBusProxy::new(systemd.connection()).await?;
        anyhow::Ok(bus.name_has_owner(names::NAME.try_into()?).await?)
    };
    match running.await {
        Ok(true) => Finding::ok(WHAT, "running"),
        Ok(false) => match absence(systemd).await {
            Ok(Absence { why, next, fix }) => Finding {
                fix,
                ..Finding::warning(
                    WHAT,
                    format!("not running: clients start services, but none is stopped; {why}"),
                    next,
                )
            },
            Err(error) => Finding::unknown(WHAT, &error),
        },
        Err(error) => Finding::unknown(WHAT, &error),
    }
}

/// Why the agent's name has no owner on the bus.
///
/// # Errors
///
/// PID 1 does not answer.
pub async fn absence(systemd: &Systemd) -> Result<Absence> {
    let standing = systemd.standing(UNIT).await?;
    let end = match standing.active_state.as_str() {
        "failed" | "activating" => systemd.last_end(UNIT).await?,
        _ => None,
    };
    let is_ended = standing.is_restarting() || standing.active_state == "failed";
    let line = is_ended.then(|| last_line(UNIT)).flatten();
    Ok(explain(&standing, end.as_deref(), line.as_deref()))
}

/// `end`: how its process ended; `line`: its last line in the journal.
fn explain(standing: &Standing, end: Option<&str>, line: Option<&str>) -> Absence {
    let journal = format!("journalctl -u {UNIT}");
    let details = |words: &str| {
        let end = end.map(|end| format!(" ({end})")).unwrap_or_default();
        let line = line.map(|line| format!(": {line}")).unwrap_or_default();
        format!("{UNIT} {words}{end}{line}")
    };
    let is_enabled = standing.unit_file_state.starts_with("enabled");
    let start = match is_enabled {
        true => format!("systemctl start {UNIT}"),
        false => format!("systemctl enable --now {UNIT}"),
    };
    let not_enabled = match is_enabled {
        true => "",
        false => ", and it is not enabled",
    };
    let (why, next) = match (standing.load_state.as_str(), standing.active_state.as_str()) {
        ("not-found", _) => (
            format!("{UNIT} is not installed"),
            "install it (README, Install), then systemctl daemon-reload && systemctl enable --now \
             ondemand.service"
                .to_owned(),
        ),
        ("masked", _) => (
            format!("{UNIT} is masked"),
            format!("systemctl unmask {UNIT} && systemctl enable --now {UNIT}"),
        ),
        ("loaded", "active" | "reloading") => (
            format!(
                "{UNIT} is active, but its name on the bus, {}, has no owner",
                names::NAME
            ),
            format!("{journal}; is org.ondemand1.conf installed?"),
        ),
        ("loaded", "activating") if standing.is_restarting() => {
            (details("has failed, and is started again"), journal)
        }
        ("loaded", "activating") => {
            let text = &standing.status_text;
            let text = match text.is_empty() {
                true => String::new(),
                false => format!(": {text}"),
            };
            (format!("{UNIT} is starting{text}"), journal)
        }
        ("loaded", "deactivating") => (format!("{UNIT} is being stopped"), start.clone()),
        ("loaded", "failed") => (details("has failed"), format!("{journal}; then {start}")),
        ("loaded", _) if standing.is_skipped() => {
            let unmet = standing.unmet();
            let unmet = match unmet.is_empty() {
                true => String::new(),
                false => format!(": {}", unmet.join(", ")),
            };
            (
                format!("{UNIT} was not started, because a condition of it is not met{unmet}"),
                format!("systemctl status {UNIT}"),
            )
        }
        ("loaded", _) => match local(standing.inactive_since) {
            Some(at) => (
                format!("{UNIT} was stopped at {at}{not_enabled}"),
                start.clone(),
            ),
            None => (
                match is_enabled {
                    true => format!("{UNIT} is enabled, and was not started in this boot"),
                    false => format!("{UNIT} is not enabled"),
                },
                start.clone(),
            ),
        },
        (state, _) => (
            format!("{UNIT} cannot be loaded ({state})"),
            format!("systemd-analyze verify {UNIT}"),
        ),
    };
    let fix = (next == start).then(|| start.split(' ').map(str::to_owned).collect());
    Absence { why, next, fix }
}

/// In the caller's time zone.
fn local(at: Option<u64>) -> Option<String> {
    let at = Timestamp::from_microsecond(i64::try_from(at?).ok()?).ok()?;
    let at = at.to_zoned(TimeZone::system());
    Some(at.strftime("%F %H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_command() {
        #[track_caller]
        fn check(
            [load, active, sub, file]: [&str; 4],
            more: impl FnOnce(&mut Standing),
            [why, next]: [&str; 2],
        ) {
            let mut standing = Standing {
                load_state: load.into(),
                active_state: active.into(),
                sub_state: sub.into(),
                unit_file_state: file.into(),
                ..Standing::default()
            };
            more(&mut standing);
            let end = (active == "failed").then_some("exit status 2");
            let found = explain(&standing, end, end.map(|_| "the last line"));
            assert!(found.why.contains(why), "{found:?}");
            assert!(found.next.starts_with(next), "{found:?}");
            // To read something is not to mend it.
            let is_start =
                next.starts_with("systemctl start") || next.starts_with("systemctl enable");
            assert_eq!(found.fix.is_some(), is_start, "{found:?}");
        }
        let none = |_: &mut Standing| {};
        check(
            ["not-found", "inactive", "dead", ""],
            none,
            ["is not installed", "install it"],
        );
        check(
            ["masked", "inactive", "dead", "masked"],
            none,
            ["is masked", "systemctl unmask"],
        );
        check(
            ["loaded", "inactive", "dead", "disabled"],
            none,
            ["is not enabled", "systemctl enable --now"],
        );
        check(
            ["loaded", "inactive", "dead", "enabled"],
            none,
            ["was not started in this boot", "systemctl start"],
        );
        let stopped =
            |standing: &mut Standing| standing.inactive_since = Some(1_700_000_000_000_000);
        check(
            ["loaded", "inactive", "dead", "enabled"],
            stopped,
            ["was stopped at 2023-11-1", "systemctl start"],
        );
        check(
            ["loaded", "inactive", "dead", "disabled"],
            stopped,
            ["and it is not enabled", "systemctl enable --now"],
        );
        check(
            ["loaded", "failed", "failed", "enabled"],
            none,
            [
                "has failed (exit status 2): the last line",
                "journalctl -u ondemand.service; then systemctl start",
            ],
        );
        check(
            ["loaded", "activating", "auto-restart", "enabled"],
            none,
            ["is started again", "journalctl"],
        );
        let waits = |standing: &mut Standing| standing.status_text = "waiting for a file".into();
        check(
            ["loaded", "activating", "start", "enabled"],
            waits,
            ["is starting: waiting for a file", "journalctl"],
        );
        let unmet = |standing: &mut Standing| {
            standing.condition_result = false;
            standing.conditions = vec![("ConditionPathExists=/x".into(), false)];
            standing.tried = true;
        };
        check(
            ["loaded", "inactive", "dead", "enabled"],
            unmet,
            ["not met: ConditionPathExists=/x", "systemctl status"],
        );
        check(
            ["loaded", "active", "running", "enabled"],
            none,
            ["has no owner", "journalctl"],
        );
        check(
            ["bad-setting", "inactive", "dead", ""],
            none,
            ["bad-setting", "systemd-analyze"],
        );
    }
}
