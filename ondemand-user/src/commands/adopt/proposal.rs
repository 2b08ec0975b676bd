//! What is proposed for a unit: pure.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ondemand_core::config::{Endpoint, MAX_LISTEN, possible_name};

use crate::kernel::sockets::sock_diag::TcpListener;

/// A start that takes longer than this wants more than the usual start timeout.
const SLOW_START: Duration = Duration::from_secs(30);

/// Where the application will be reached, and what is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those of `listen`.
    pub listen: Vec<Endpoint>,
    /// Others, with the reason why they start nothing.
    pub others: Vec<(String, &'static str)>,
}

impl Addresses {
    /// Whether there are addresses of datagrams alone.
    pub fn is_udp_alone(&self) -> bool {
        self.listen
            .iter()
            .all(|endpoint| matches!(endpoint, Endpoint::Udp(_)))
    }
}

/// Which of these sockets clients start the service at. `udp`: with whether one of IPv6 excludes IPv4. `temporary`: the
/// ports that the kernel gives to those who ask for none.
pub fn addresses(
    tcp: &[TcpListener],
    udp: &[(SocketAddr, bool)],
    temporary: &RangeInclusive<u16>,
) -> Addresses {
    let tcp = reached(
        tcp.iter()
            .map(|listener| (listener.address, listener.v6_only)),
    );
    let udp = reached(udp.iter().copied());
    let is_temporary = |address: &SocketAddr| temporary.contains(&address.port());
    // An application may have been given such a port by its configuration. Of UDP it is one that it asks others from.
    let all_are = tcp.iter().all(is_temporary);
    let tcp = tcp
        .into_iter()
        .map(|address| (Endpoint::Tcp(address), all_are || !is_temporary(&address)));
    let udp = udp
        .into_iter()
        .map(|address| (Endpoint::Udp(address), !is_temporary(&address)));
    let mut found = Addresses::default();
    for (endpoint, is_lasting) in tcp.chain(udp) {
        let why = match is_lasting {
            false => "a port that the kernel chooses, which is another one at the next start",
            true if found.listen.len() == MAX_LISTEN => "more than 16 addresses",
            true => {
                found.listen.push(endpoint);
                continue;
            }
        };
        found.others.push((endpoint.to_string(), why));
    }
    found
}

/// The addresses at which sockets are reached, each once, in the order of their ports.
fn reached(sockets: impl Iterator<Item = (SocketAddr, bool)>) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    for (mut address, v6_only) in sockets {
        address.set_ip(address.ip().to_canonical());
        found.insert(address);
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !v6_only {
            found.insert(SocketAddr::new(
                Ipv4Addr::UNSPECIFIED.into(),
                address.port(),
            ));
        }
    }
    let wildcards: Vec<_> = found
        .iter()
        .filter(|it| it.ip().is_unspecified())
        .copied()
        .collect();
    found.retain(|address| {
        let is_covered = |wildcard: &SocketAddr| {
            wildcard != address
                && wildcard.port() == address.port()
                && wildcard.is_ipv4() == address.is_ipv4()
        };
        !wildcards.iter().any(is_covered)
    });
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|address| (address.port(), *address));
    found
}

/// The name of a unit's service: that of the unit, as far as a service can have it.
pub fn name_of(unit: &str) -> String {
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    let plain = |c: char| match c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
        true => c,
        false => '-',
    };
    let name: String = stem.chars().map(plain).take(63).collect();
    let name = name.trim_start_matches(['-', '.']).to_owned();
    match possible_name(&name).is_ok() && !["generator", "load", "open", "permit"].contains(&&*name)
    {
        true => name,
        false => format!("app-{name}").chars().take(63).collect(),
    }
}

/// The lines of the service. `backend`: where the application listens, if that is not where clients connect, and whether
/// they can be steered there. `start`: how long its last start took.
pub fn text(
    name: &str,
    unit: &str,
    listen: &[Endpoint],
    backend: Option<(&Endpoint, bool)>,
    start: Option<Duration>,
) -> String {
    let quoted = match name.contains('.') {
        true => format!("{name:?}"),
        false => name.to_owned(),
    };
    let listen: Vec<_> = listen
        .iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    let (place, backend) = match backend {
        None => ("where it listens, and clients connect", String::new()),
        Some((backend, is_steered)) => {
            let steer = match is_steered {
                true => "",
                false => "steer = false  # the proxy carries all clients\n",
            };
            let backend = format!("backend = \"{backend}\"  # where it listens\n{steer}");
            ("where clients connect", backend)
        }
    };
    let mut text = format!(
        "# Made by `ondemand adopt {unit}`; `ondemand abandon {name}` takes it back.\n\
         # After a change: `ondemand apply`.\n\
         [service.{quoted}]\n\
         listen = [{}]  # {place}\n\
         {backend}unit = \"{}\"\n\
         idle_timeout = \"10min\"  # or \"auto\": learned from its clients\n",
        listen.join(", "),
        unit.replace('\\', "\\\\"),
    );
    if let Some(start) = start.filter(|start| *start > SLOW_START) {
        let minutes = (start.as_secs() * 3).div_ceil(60);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "start_timeout = \"{minutes}min\"  # its last start took {} s",
            start.as_secs()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ondemand_core::config::Config;

    use super::*;

    fn listener(address: &str, v6_only: bool) -> TcpListener {
        TcpListener {
            address: address.parse().unwrap(),
            v6_only,
            inode: 0,
            uid: 0,
            cgroup: None,
            queued: 0,
            backlog: 128,
        }
    }

    #[test]
    fn what_clients_start_it_at() {
        #[track_caller]
        fn check(tcp: &[(&str, bool)], udp: &[&str], listen: &[&str], others: &[&str]) {
            let tcp: Vec<_> = tcp.iter().map(|(at, only)| listener(at, *only)).collect();
            let udp: Vec<_> = udp.iter().map(|at| (at.parse().unwrap(), false)).collect();
            let found = addresses(&tcp, &udp, &(32768..=60999));
            let printed: Vec<_> = found.listen.iter().map(ToString::to_string).collect();
            assert_eq!(printed, listen);
            let printed: Vec<_> = found.others.iter().map(|(at, _)| at.as_str()).collect();
            assert_eq!(printed, others);
        }
        check(&[("0.0.0.0:80", false)], &[], &["0.0.0.0:80"], &[]);
        check(&[("[::]:80", true)], &[], &["[::]:80"], &[]);
        check(&[("[::]:80", false)], &[], &["0.0.0.0:80", "[::]:80"], &[]);
        check(
            &[("0.0.0.0:80", false), ("[::]:80", true)],
            &[],
            &["0.0.0.0:80", "[::]:80"],
            &[],
        );
        // Covered by a wildcard of the same port and family.
        check(
            &[
                ("0.0.0.0:80", false),
                ("127.0.0.1:80", false),
                ("[::1]:80", true),
            ],
            &[],
            &["0.0.0.0:80", "[::1]:80"],
            &[],
        );
        check(
            &[("[::ffff:127.0.0.1]:81", false), ("127.0.0.1:80", false)],
            &[],
            &["127.0.0.1:80", "127.0.0.1:81"],
            &[],
        );
        check(
            &[("0.0.0.0:22", false), ("127.0.0.1:40001", false)],
            &["0.0.0.0:53", "0.0.0.0:40002"],
            &["0.0.0.0:22", "udp:0.0.0.0:53"],
            &["127.0.0.1:40001", "udp:0.0.0.0:40002"],
        );
        check(&[("0.0.0.0:50000", false)], &[], &["0.0.0.0:50000"], &[]);
        check(&[], &["[::]:53"], &["udp:0.0.0.0:53", "udp:[::]:53"], &[]);
        check(&[], &["0.0.0.0:50000"], &[], &["udp:0.0.0.0:50000"]);
        let many: Vec<_> = (1..=18)
            .map(|port| listener(&format!("0.0.0.0:{port}"), false))
            .collect();
        let found = addresses(&many, &[], &(32768..=60999));
        assert_eq!((found.listen.len(), found.others.len()), (16, 2));
    }

    #[test]
    fn names_and_texts_are_those_of_a_configuration() {
        for (unit, name) in [
            ("wiki.service", "wiki"),
            ("wiki@a.service", "wiki-a"),
            (r"dev-\x41.service", "dev--x41"),
            ("-.service", "app-"),
            ("load.service", "app-load"),
            ("a.b.service", "a.b"),
        ] {
            assert_eq!(name_of(unit), name);
            let listen = ["0.0.0.0:80".parse().unwrap(), "[::]:80".parse().unwrap()];
            for start in [
                None,
                Some(Duration::from_secs(2)),
                Some(Duration::from_secs(100)),
            ] {
                let text = text(name, unit, &listen, None, start);
                let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
                let service = &config.services[name];
                assert!(service.own_address && service.unit == unit, "{text}");
                let timeout = match start {
                    Some(start) if start > SLOW_START => 300,
                    _ => 90,
                };
                assert_eq!(service.start_timeout.as_secs(), timeout);
            }
        }
        let listen = ["0.0.0.0:80".parse().unwrap()];
        for (backend, is_steered) in [
            ("127.0.0.1:81", true),
            ("127.0.0.1:81", false),
            ("/run/wiki/sock", true),
        ] {
            let backend = backend.parse().unwrap();
            let text = text(
                "wiki",
                "wiki.service",
                &listen,
                Some((&backend, is_steered)),
                None,
            );
            let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
            let service = &config.services["wiki"];
            assert_eq!((service.own_address, service.steer), (false, is_steered));
            assert_eq!(service.backend, backend);
        }
        let long = format!("{}.service", "x".repeat(200));
        assert_eq!(name_of(&long).len(), 63);
    }
}
