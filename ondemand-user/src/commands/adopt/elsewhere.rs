//! An application that listens elsewhere than where its clients connect: a container with a published port, or whatever was
//! moved aside. What has to be moved, and what to call then: pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ondemand_core::config::{Config, Endpoint};

use crate::install::check::runtime::{Network, Published, Runtime, Unit};

/// Where clients connect, and where the application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// `listen`.
    pub listen: Vec<Endpoint>,
    /// `backend`.
    pub backend: Endpoint,
}

impl Moved {
    /// Of the text of an adoption that was not finished. `None`: that one keeps its address.
    pub fn of(text: &str, name: &str) -> Option<Self> {
        let config = Config::parse(std::path::Path::new(""), text).ok()?;
        let service = config.services.get(name).filter(|it| !it.own_address)?;
        Some(Self {
            listen: service.listen.clone(),
            backend: service.backend.clone(),
        })
    }
}

/// A unit, and where it is changed.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name.
    pub unit: &'a str,
    /// The file that a generator has made it of.
    pub source: Option<&'a str>,
}

const UNSEEN: &str = "the firewall leads clients past the host's sockets, where nobody sees them, so it cannot keep its address";

/// Why a unit cannot keep its address, and what to do, by its files. `None`: it can, as far as they say.
pub fn advice(place: Place<'_>, what: &Unit) -> Option<String> {
    let unit = place.unit;
    let Some(started) = &what.started else {
        let key = what.other_network.as_deref()?;
        return Some(format!(
            "{unit} is in a network namespace of its own ({key}), where it cannot have the host's addresses; name where \
             clients connect, and the address at which this host reaches it: {}",
            call(unit, None, None)
        ));
    };
    let Network::Own(published) = &started.network else {
        return None;
    };
    let begin = format!("{unit} is {} with a network of its own", started.runtime);
    let is_here = |port: &&Published| port.address().ip().is_loopback();
    if let Some(port) = published.iter().find(|port| !is_here(port)) {
        let moved = aside(port.address());
        let more = match published.len() {
            1 => String::new(),
            _ => ". Its other ports start nothing, and a stop would cut their clients".to_owned(),
        };
        return Some(format!(
            "{begin}, published at {port}: {UNSEEN}. {}: write `{}` in place of `{}`. Then, in one go, since nobody is \
             served in between: `{} && {}`{more}",
            place.edit(),
            port.moved_to(moved),
            port.written,
            place.restart(),
            call(unit, Some(port.address()), Some(moved)).trim_matches('`'),
        ));
    }
    if let Some(port) = published.iter().find(is_here) {
        let inside = port.inside().unwrap_or(port.address().port());
        let front = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), inside);
        return Some(format!(
            "{begin}, published at {port}, where only this host reaches it; name where its clients connect, too: {}",
            call(unit, Some(front), Some(port.address()))
        ));
    }
    Some(match started.runtime {
        Runtime::Nspawn | Runtime::Libvirt => format!(
            "{begin}; name where clients connect, and its own address: {}",
            call(unit, None, None)
        ),
        runtime => format!(
            "{begin}, and its unit does not say which ports it publishes; publish one on loopback ({}), and name that, and \
             where clients connect: {}",
            runtime.publish(),
            call(unit, None, None)
        ),
    })
}

/// The same of a unit whose files do not say so: one of its processes, `program`, holds the port for a container.
pub fn forwarded(place: Place<'_>, program: &str, address: SocketAddr) -> String {
    let unit = place.unit;
    let moved = aside(address);
    format!(
        "{unit} publishes the port of a container at {address} ({program}): {UNSEEN}. Publish it at {moved} instead \
         (-p {moved}:PORT); then, in one go, since nobody is served in between: `{} && {}`",
        place.restart(),
        call(unit, Some(address), Some(moved)).trim_matches('`'),
    )
}

impl Place<'_> {
    fn edit(&self) -> String {
        match self.source {
            Some(file) => format!("In {file}"),
            None => format!("`systemctl edit --full {}`", self.unit),
        }
    }

    fn restart(&self) -> String {
        format!("systemctl daemon-reload && systemctl restart {}", self.unit)
    }
}

/// Where nobody but this host reaches a port.
fn aside(from: SocketAddr) -> SocketAddr {
    let port = match from.port() {
        port @ ..=55_535 => port + 10_000,
        port => port - 10_000,
    };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn call(unit: &str, listen: Option<SocketAddr>, backend: Option<SocketAddr>) -> String {
    let listen = listen.map_or("0.0.0.0:PORT".to_owned(), |it| it.to_string());
    let backend = backend.map_or("ADDRESS:PORT".to_owned(), |it| it.to_string());
    format!("`ondemand adopt {unit} --listen {listen} --backend {backend}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unit: &str, expected: &[&str]) {
        let what = Unit::parse(&format!("[Service]\n{unit}\n"));
        let quadlet = unit.contains("SourcePath").then_some("/etc/wiki.container");
        let place = Place {
            unit: "wiki.service",
            source: quadlet,
        };
        let text = advice(place, &what);
        match (&text, expected) {
            (None, []) => {}
            (Some(text), [_, ..]) => {
                for part in expected {
                    assert!(text.contains(part), "{unit}: {text}");
                }
            }
            _ => panic!("{unit}: {text:?}"),
        }
    }

    #[test]
    fn what_to_move_is_said_word_by_word() {
        check(
            "ExecStart=/usr/bin/docker run --rm -p 8000:80 wiki",
            &[
                "published at 0.0.0.0:8000",
                "`systemctl edit --full wiki.service`: write `127.0.0.1:18000:80` in place of `8000:80`",
                "systemctl restart wiki.service && ondemand adopt wiki.service --listen 0.0.0.0:8000 --backend \
                 127.0.0.1:18000`",
            ],
        );
        check(
            "ExecStart=podman run --publish=10.0.0.1:60000:80/tcp wiki",
            &[
                "write `127.0.0.1:50000:80` in place of `10.0.0.1:60000:80/tcp`",
                "--listen 10.0.0.1:60000 --backend 127.0.0.1:50000`",
            ],
        );
        check(
            "SourcePath=/etc/wiki.container\nExecStart=podman run -p [::]:80:80 wiki",
            &[
                "In /etc/wiki.container: write `127.0.0.1:10080:80` in place of `[::]:80:80`",
                "--listen [::]:80",
            ],
        );
        check(
            "ExecStart=docker run -p 80:80 -p 22:22 forge",
            &["--listen 0.0.0.0:80 ", "Its other ports"],
        );
        // Moved already.
        check(
            "ExecStart=docker run -p 127.0.0.1:18000:80 wiki",
            &["`ondemand adopt wiki.service --listen 0.0.0.0:80 --backend 127.0.0.1:18000`"],
        );
        for unknown in [
            "docker start -a wiki",
            "docker compose up",
            "docker run -p 80 wiki",
        ] {
            check(
                &format!("ExecStart={unknown}"),
                &["does not say", "--backend ADDRESS:PORT"],
            );
        }
        check(
            "ExecStart=systemd-nspawn -n --boot",
            &["its own address", "--backend ADDRESS:PORT"],
        );
        check(
            "ExecStart=/usr/bin/wiki\nPrivateNetwork=yes",
            &["PrivateNetwork=yes", "--backend ADDRESS:PORT"],
        );
        // In the host's network.
        check("ExecStart=podman run --network=host wiki", &[]);
        check("ExecStart=/usr/bin/wiki -p 80:80", &[]);
    }

    #[test]
    fn a_half_done_one_is_known_by_its_text() {
        let own = "[service.a]\nunit = \"a.service\"\nlisten = [\"0.0.0.0:80\"]\n";
        assert_eq!(Moved::of(own, "a"), None);
        let moved = Moved::of(&format!("{own}backend = \"127.0.0.1:81\"\n"), "a").unwrap();
        assert_eq!(moved.backend.to_string(), "127.0.0.1:81");
        assert_eq!(moved.listen.len(), 1);
    }
}
