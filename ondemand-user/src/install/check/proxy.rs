//! Whether the proxy of a service can run, and its application: as far as their units in systemd show it, and what
//! the agent has seen.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use ondemand_core::config::Service;

use super::{common::Manager, finding::Finding};
use crate::{
    bus::{names, report::Report},
    install::units::pacing,
    systemd::{Facts, Systemd},
};

/// The subject of the findings.
const WHAT: &str = "proxy";

/// How long the agent may take for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the agent says of all services. `None`: none answers, which another check says.
pub async fn ask_agent(systemd: &Systemd) -> Option<Report> {
    let call = systemd.connection().call_method(
        Some(names::NAME),
        names::PATH,
        Some(names::INTERFACE),
        "Status",
        &(),
    );
    let reply = tokio::time::timeout(PATIENCE, call).await.ok()?.ok()?;
    let text: String = reply.body().deserialize().ok()?;
    serde_json::from_str(&text).ok()
}

/// What does not work, by service, as the agent has seen it.
pub fn seen_by_agent(report: &Report) -> BTreeMap<String, String> {
    let problems = report.services.iter();
    let problems =
        problems.filter_map(|service| Some((service.name.clone(), service.problem.clone()?)));
    // Why it is not managed is found here, too.
    problems
        .filter(|(_, problem)| !problem.starts_with("not managed"))
        .collect()
}

/// What the agent has seen of a service.
pub fn seen(problem: &str) -> Finding {
    let about_proxy = problem.starts_with("its proxy");
    let what = if about_proxy { WHAT } else { "failures" };
    let next = "the command in it shows why; then correct that";
    match about_proxy {
        true => Finding::error(what, problem, next),
        // The next client starts it again.
        false => Finding::warning(what, problem, next),
    }
}

/// Looks at the proxy's unit, with `facts` of it, and its text if that is all of it.
pub async fn look(
    service: &Service,
    facts: &Facts,
    text: Option<&str>,
    manager: &Manager<'_>,
) -> Option<Finding> {
    let unit = service.proxy_unit();
    if facts.load_state.as_deref() != Some("loaded") {
        return None; // Its file is another check's.
    }
    if facts.is_skipped() {
        return Some(Finding::error(
            WHAT,
            format!("systemd does not start {unit}: a condition or an assertion of it is not met"),
            format!(
                "`systemctl status {unit}` shows which; `systemctl cat {unit}` shows the drop-in with it"
            ),
        ));
    }
    match cannot_run(&unit, facts, text, manager).await {
        Ok(why) => why.map(|why| {
            Finding::error(
                WHAT,
                format!(
                    "{unit} cannot run: {why}; clients that find the service stopped are not served"
                ),
                format!("journalctl -u {unit}, and `systemctl cat {unit}` for drop-ins"),
            )
        }),
        Err(error) => Some(Finding::unknown(WHAT, &error)),
    }
}

async fn cannot_run(
    unit: &str,
    facts: &Facts,
    text: Option<&str>,
    manager: &Manager<'_>,
) -> Result<Option<String>> {
    let systemd = manager.systemd;
    let user = match text {
        Some(text) => text
            .lines()
            .find_map(|line| line.strip_prefix("User=").map(str::to_owned)),
        None => systemd.user_of(unit).await?,
    };
    if let Some(user) = user
        && !user.is_empty()
        && user.parse::<u32>().is_err()
        && manager.is_missing(&user)
    {
        return Ok(Some(format!("its user {user} does not exist")));
    }
    if facts.condition_timestamp_monotonic == Some(0) {
        return Ok(None); // It has never been started.
    }
    let own = [pacing::DONE, pacing::GAVE_UP, pacing::LOOK_AGAIN];
    let end = systemd.last_failure(unit, &own.map(i32::from)).await?;
    // Somebody's doing, or that of a stop that took too long.
    let by_hand = ["SIGTERM", "SIGKILL", "SIGINT"].map(|signal| format!("killed by {signal}"));
    Ok(end.filter(|end| !by_hand.contains(end)))
}
