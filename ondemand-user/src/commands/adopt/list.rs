//! `ondemand adopt` without a unit: which running services would be worth it.

use std::{collections::HashSet, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use ondemand_core::words::{Bytes, Span, counted, printable};
use serde::Serialize;

use super::{look::temporary_ports, proposal, refusal};
use crate::{
    commands::status::aligned,
    host::{config_file, unit_files::UnitFiles},
    install::check::runtime::{self, Network, Unit},
    kernel::sockets::by_unit,
    systemd::Systemd,
};

/// A running service that listens. Scripts read it: fields are added, never renamed.
#[derive(Debug, Serialize)]
struct Entry {
    unit: String,
    /// Where clients would start it.
    listen: Vec<String>,
    /// What it takes, and would be saved while it is off.
    memory_bytes: Option<u64>,
    open_connections: u64,
    /// For how long no byte has gone on any open connection; null: none is open, and it is not known when the last was.
    silent_seconds: Option<f64>,
    /// Why it is not proposed; null: it is.
    not_proposed: Option<String>,
}

/// Prints them, the most worthwhile first.
pub async fn run(path: &Path, json: bool) -> Result<()> {
    let systemd = Systemd::connect().await?;
    let files = UnitFiles::here();
    let taken: HashSet<String> = match config_file::load(path) {
        Ok(config) => config.units().map(|unit| files.canonical(unit)).collect(),
        // It is about what is not configured.
        Err(_) => HashSet::new(),
    };
    let ancestors = by_unit::ancestors();
    let mut entries = Vec::new();
    for (unit, sockets) in by_unit::listening()? {
        let addresses = proposal::addresses(&sockets.tcp, &sockets.udp, &temporary_ports());
        if addresses.listen.is_empty() || taken.contains(&unit) || config_file::is_own(&unit) {
            continue;
        }
        let (found, service) = systemd.candidate(&unit).await?;
        let critical = refusal::critical(&unit, &ancestors).map(|it| it.why().to_owned());
        let refused = refusal::refusal(&unit, &found, &service);
        let start = format!("{unit}: ");
        let refused = refused.map(|why| why.strip_prefix(&start).unwrap_or(&why).to_owned());
        let what = runtime::of_unit(&unit, &files);
        let cgroup = service.control_group.as_deref();
        let is_elsewhere = is_elsewhere(&what)
            || cgroup.is_some_and(|cgroup| by_unit::forwarder(cgroup, &sockets.tcp).is_some());
        let container = is_elsewhere.then(|| container(&unit));
        let datagrams = addresses.is_udp_alone().then(|| {
            "it listens for datagrams alone, perhaps to ask others; if it answers clients, adopt it by name".to_owned()
        });
        entries.push(Entry {
            unit,
            listen: addresses.listen.iter().map(ToString::to_string).collect(),
            memory_bytes: service.memory(),
            open_connections: sockets.clients.open,
            silent_seconds: sockets.clients.silent.map(|silent| silent.as_secs_f64()),
            not_proposed: critical.or(refused).or(container).or(datagrams),
        });
    }
    // Docker's daemon has the sockets of its containers.
    for unit in files.names() {
        let what = runtime::of_unit(unit, &files);
        let Some(Network::Own(published)) = what.started.map(|started| started.network) else {
            continue;
        };
        let is_listed = entries.iter().any(|entry| entry.unit == unit);
        if published.is_empty() || is_listed || taken.contains(unit) || unit.contains("@.") {
            continue;
        }
        let (found, service) = systemd.candidate(unit).await?;
        if found.id.as_deref() == Some(unit) && found.is_up() {
            entries.push(Entry {
                unit: unit.to_owned(),
                listen: published.iter().map(ToString::to_string).collect(),
                memory_bytes: service.memory(),
                open_connections: 0,
                silent_seconds: None,
                not_proposed: Some(container(unit)),
            });
        }
    }
    entries.sort_by_key(|entry| {
        let memory = std::cmp::Reverse(entry.memory_bytes);
        (
            entry.not_proposed.is_some(),
            entry.open_connections > 0,
            memory,
        )
    });
    let output = match json {
        true => serde_json::to_string_pretty(&entries)? + "\n",
        false => printable(&text(&entries)),
    };
    std::io::stdout()
        .write_all(output.as_bytes())
        .context("print the list")
}

/// Whether the application is not in the host's network.
fn is_elsewhere(what: &Unit) -> bool {
    let started = what.started.as_ref().map(|started| &started.network);
    matches!(started, Some(Network::Own(_))) || what.other_network.is_some()
}

fn container(unit: &str) -> String {
    format!(
        "its network is not the host's, or it publishes ports of a container; `ondemand adopt {unit}` says what to move"
    )
}

fn text(entries: &[Entry]) -> String {
    let (no, yes): (Vec<_>, Vec<_>) = entries
        .iter()
        .partition(|entry| entry.not_proposed.is_some());
    let mut text = String::new();
    match &yes[..] {
        [] => text.push_str(
            "no running service listens that is not on demand already, or should stay up\n",
        ),
        yes => {
            let head = ["UNIT", "MEMORY", "CLIENTS", "LAST USE", "LISTENS AT"].map(str::to_owned);
            let rows: Vec<_> = std::iter::once(head)
                .chain(yes.iter().map(|entry| row(entry)))
                .collect();
            text += &aligned(&rows, 1..3);
            let memory: u64 = yes.iter().filter_map(|entry| entry.memory_bytes).sum();
            text += &format!(
                "\n{}, {} together while they run; `ondemand adopt {}` shows what it would do for the first, and asks\n",
                counted(yes.len() as u64, "service"),
                Bytes(memory),
                yes[0].unit
            );
        }
    }
    if !no.is_empty() {
        text.push_str("\nnot proposed:\n");
    }
    for entry in no {
        let why = entry.not_proposed.as_deref().unwrap_or_default();
        text += &format!("  {}: {why}\n", entry.unit);
    }
    text
}

fn row(entry: &Entry) -> [String; 5] {
    let silent = entry.silent_seconds.map(ondemand_core::words::span);
    [
        entry.unit.clone(),
        entry
            .memory_bytes
            .map_or("?".into(), |bytes| Bytes(bytes).to_string()),
        entry.open_connections.to_string(),
        silent.map_or("?".into(), |silent| format!("{} ago", Span(silent))),
        entry.listen.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list() {
        let entry = |unit: &str, why: Option<&str>| Entry {
            unit: unit.into(),
            listen: vec!["0.0.0.0:80".into(), "[::]:80".into()],
            memory_bytes: Some(120_000_000),
            open_connections: 0,
            silent_seconds: None,
            not_proposed: why.map(str::to_owned),
        };
        let used = Entry {
            open_connections: 3,
            silent_seconds: Some(90.0),
            memory_bytes: None,
            ..entry("forge.service", None)
        };
        let entries = [
            entry("wiki.service", None),
            used,
            entry("ssh.service", Some("it is the way in")),
        ];
        let expected = "\
UNIT             MEMORY  CLIENTS  LAST USE        LISTENS AT
wiki.service   120.0 MB        0  ?               0.0.0.0:80 [::]:80
forge.service         ?        3  1 min 30 s ago  0.0.0.0:80 [::]:80

2 services, 120.0 MB together while they run; `ondemand adopt wiki.service` shows what it would do for the first, and asks

not proposed:
  ssh.service: it is the way in
";
        assert_eq!(text(&entries), expected);
        ::tests::documents::assert_documented(&serde_json::to_value(&entries).unwrap());
    }
}
