//! Checks of chains: services whose applications need each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;
use ondemand_core::config::{Config, Endpoint, Service};

use super::{common::Manager, finding::Finding};
use crate::{
    host::unit_files::UnitFiles,
    install::units,
    kernel::sockets::{
        owner::{Cgroups, cgroups_of},
        sock_diag::{TcpConnection, tcp_connections},
    },
    systemd::Known,
};

const WHAT: &str = "chain";

/// Which services have to do with which others.
#[derive(Debug, Default)]
struct Links<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Links<'a> {
    fn add(&mut self, one: &'a str, other: &'a str) {
        self.0.entry(one).or_default().insert(other);
    }

    fn of(&self, one: &str) -> impl Iterator<Item = &'a str> {
        self.0.get(one).into_iter().flatten().copied()
    }

    /// The shortest way from a service back to itself, which is first and last.
    fn circle(&self, start: &'a str) -> Option<Vec<&'a str>> {
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                for next in self.of(way.last().copied().unwrap_or(start)) {
                    let mut way = way.clone();
                    way.push(next);
                    if next == start {
                        return Some(way);
                    }
                    if seen.insert(next) {
                        longer.push(way);
                    }
                }
            }
            ways = longer;
        }
        None
    }
}

/// Looks at all services; what is found, by service.
pub async fn look(
    config: &Config,
    files: &UnitFiles,
    manager: Option<&Manager<'_>>,
) -> BTreeMap<String, Vec<Finding>> {
    let mut found: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    let Some(manager) = manager.filter(|_| config.services.len() > 1) else {
        return found;
    };
    let mut put = |name: &str, finding: Finding| {
        let findings = found.entry(name.to_owned()).or_default();
        findings.push(finding.of(name));
    };
    let (needs, after) = match by_units(config, files, manager).await {
        Ok(links) => links,
        Err(error) => {
            for name in units::related(config, files) {
                put(name, Finding::unknown(WHAT, &error));
            }
            return found;
        }
    };
    let unit_of = |name: &str| config.services.get(name).map_or("", |it| it.unit.as_str());
    for name in config.services.keys() {
        for other in needs.of(name) {
            let (unit, its) = (unit_of(name), unit_of(other));
            if after.of(name).any(|it| it == other) {
                let message = format!(
                    "{unit} needs {its} (service {other}), which starts first and stays up as long as it"
                );
                put(name, Finding::ok(WHAT, message));
            } else {
                put(
                    name,
                    Finding::warning(
                        WHAT,
                        format!(
                            "{unit} needs {its} (service {other}), and does not wait for it: both start at once"
                        ),
                        format!("add After={its} to the section [Unit] (systemctl edit {unit})"),
                    ),
                );
            }
        }
        if let Some(circle) = after.circle(name) {
            let units: Vec<_> = circle.iter().map(|name| unit_of(name)).collect();
            let first = unit_of(name);
            put(
                name,
                Finding::error(
                    WHAT,
                    format!(
                        "a circle of After=: {}; systemd breaks it by leaving one of them out of a start",
                        units.join(" starts after ")
                    ),
                    format!(
                        "remove one After= (or Before=) of them; `systemd-analyze verify {first}` shows where it is"
                    ),
                ),
            );
        } else if let Some(circle) = needs.circle(name) {
            let units: Vec<_> = circle.iter().map(|name| unit_of(name)).collect();
            put(
                name,
                Finding::warning(
                    WHAT,
                    format!(
                        "{}: they keep each other up, and none of them is ever stopped",
                        units.join(" needs ")
                    ),
                    "remove one of these Wants= or Requires=; where they need each other now and then, clients of `listen` start them",
                ),
            );
        }
    }
    for (name, circle) in connected(config, manager).await {
        let message = format!(
            "{}: as long as these connections are open, none of them is ever stopped",
            circle.join(" is connected to ")
        );
        put(
            &name,
            Finding::warning(
                WHAT,
                message,
                format!(
                    "silent_after = \"10min\" in service.{name}: connections without a byte are no use then"
                ),
            ),
        );
    }
    found
}

/// Who needs whom, and who starts after whom, as PID 1 has it.
async fn by_units<'a>(
    config: &'a Config,
    files: &UnitFiles,
    manager: &Manager<'_>,
) -> Result<(Links<'a>, Links<'a>)> {
    let (mut needs, mut after) = (Links::default(), Links::default());
    let mut owners: HashMap<String, &str> = HashMap::new();
    for service in config.services.values() {
        owners.insert(files.canonical(&service.unit), &service.name);
    }
    let related = units::related(config, files);
    let units: Vec<String> = related
        .iter()
        .filter_map(|name| Some(config.services.get(*name)?.unit.clone()))
        .collect();
    let readings = manager.systemd.read(&units).await?;
    for (name, (_, reading)) in related.iter().zip(&readings) {
        let mut known = Known::default();
        known.apply(reading);
        for (links, units) in [
            (&mut needs, &known.dependencies.needs),
            (&mut after, &known.dependencies.after),
        ] {
            let others = units.iter().filter_map(|unit| owners.get(unit));
            for other in others.filter(|other| *other != name) {
                links.add(name, other);
            }
        }
    }
    Ok((needs, after))
}

/// The circles of services whose processes are connected to each other, by the first service of each.
async fn connected(config: &Config, manager: &Manager<'_>) -> Vec<(String, Vec<String>)> {
    let Ok(connections) = tcp_connections() else {
        return Vec::new();
    };
    let mut cgroups: Vec<(&Service, Cgroups)> = Vec::new();
    let has_clients = |service: &&Service| {
        let at = |connection: &TcpConnection| is_at(service, connection);
        connections.iter().any(at)
    };
    for service in config.services.values().filter(has_clients) {
        if let Ok(group) = manager.systemd.control_group(&service.unit).await {
            cgroups.push((service, cgroups_of(&group)));
        }
    }
    let mut links = Links::default();
    for (service, own) in &cgroups {
        for connection in connections.iter().filter(|it| is_at(service, it)) {
            // The other end of it.
            let client = connections
                .iter()
                .find(|it| (it.local, it.peer) == (connection.peer, connection.local));
            let Some(cgroup) = client.and_then(|client| client.cgroup) else {
                continue;
            };
            if own.has(cgroup) {
                continue;
            }
            if let Some((other, _)) = cgroups.iter().find(|(_, all)| all.has(cgroup)) {
                links.add(&other.name, &service.name);
            }
        }
    }
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for name in config.services.keys() {
        if found.iter().any(|(_, circle)| circle.contains(name)) {
            continue;
        }
        if let Some(circle) = links.circle(name) {
            found.push((
                name.clone(),
                circle.into_iter().map(str::to_owned).collect(),
            ));
        }
    }
    found
}

/// Whether it is a connection of the service's clients.
fn is_at(service: &Service, connection: &TcpConnection) -> bool {
    let endpoints = service.listen.iter().chain([&service.backend]);
    let mut addresses = endpoints.filter_map(|endpoint| match endpoint {
        Endpoint::Tcp(address) => Some(*address),
        Endpoint::Udp(_) | Endpoint::Unix(_) => None,
    });
    addresses.any(|address| {
        let local = connection.local;
        address.port() == local.port()
            && (address.ip().is_unspecified() || address.ip() == local.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_with_the_shortest_way() {
        let mut links = Links::default();
        for (one, other) in [
            ("a", "b"),
            ("b", "c"),
            ("c", "d"),
            ("d", "b"),
            ("c", "b"),
            ("e", "e"),
        ] {
            links.add(one, other);
        }
        assert_eq!(links.circle("a"), None);
        assert_eq!(links.circle("b").unwrap(), ["b", "c", "b"]);
        assert_eq!(links.circle("d").unwrap(), ["d", "b", "c", "d"]);
        assert_eq!(links.circle("e").unwrap(), ["e", "e"]);
        assert_eq!(links.circle("nobody"), None);
    }
}
