//! Applications that keep the addresses where their clients arrive, and the private addresses of their front sockets.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::HashSet;

use super::{Endpoint, Service, error::Problem, parsed::Parsed, table::Place};

/// The ports of private addresses: below those that the kernel gives to clients (`net.ipv4.ip_local_port_range`), and
/// above those of most programs.
const FIRST_PORT: u16 = 21_000;
const PORTS: u16 = 11_000;

/// Where an application listens that has no `backend`: at the first address where clients arrive.
///
/// `places`: of the addresses, for the problems.
pub(super) fn backend(
    listen: &[Endpoint],
    places: &[Place],
    steer: Option<bool>,
    service: &Place,
) -> Result<Endpoint, Vec<Problem>> {
    let mut problems = Vec::new();
    for (endpoint, place) in listen.iter().zip(places) {
        if matches!(endpoint, Endpoint::Unix(_)) {
            problems.push(place.problem(format!(
                "{endpoint} is a path, which an application cannot keep; add backend = \"/run/app.sock\", the path that \
                 it listens on"
            )));
        }
    }
    if steer == Some(false) {
        problems.push(service.problem(
            "steer = false needs a backend: an application without one listens where its clients arrive".to_owned(),
        ));
    }
    let first = listen.iter().find(|endpoint| endpoint.is_tcp());
    match first.or(listen.first()) {
        Some(Endpoint::Tcp(first)) if problems.is_empty() => Ok(Endpoint::Tcp(reachable(*first))),
        Some(Endpoint::Udp(first)) if problems.is_empty() => Ok(Endpoint::Udp(reachable(*first))),
        _ => Err(problems),
    }
}

/// What is wrong with addresses of UDP in `listen` of a service with a backend: datagrams are neither proxied nor
/// steered.
pub(super) fn moved(listen: &[Endpoint], places: &[Place]) -> Vec<Problem> {
    let all = listen.iter().zip(places);
    all.filter(|(endpoint, _)| endpoint.is_udp())
        .map(|(endpoint, place)| {
            place.problem(format!(
                "{endpoint} is for applications that keep their addresses: remove backend, and let the application \
                 listen there itself; or remove {endpoint}"
            ))
        })
        .collect()
}

/// Keys of `[service.NAME]` that are about connections, of which an application that listens at addresses of UDP alone
/// has none.
pub(super) const OF_CONNECTIONS: [&str; 7] = [
    "first_client",
    "ignore_empty",
    "silent_after",
    "keepalive",
    "ready",
    "ready_status",
    "waiting_page",
];

/// An address that reaches a socket bound to this one.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Gives the front sockets of these services their private addresses of TCP, one for each family of `listen` (one that
/// receives datagrams alone has one, too, although nobody comes there), and the same of UDP for each in which datagrams
/// arrive: derived from the services' names, so that they stay as they are. No two services have the same port, nor one that the
/// configuration names; of two that would, the one whose name comes later has the next.
pub(super) fn assign(services: &mut [Parsed]) {
    let port = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp(address) | Endpoint::Udp(address) => Some(address.port()),
        Endpoint::Unix(_) => None,
    };
    let named = services.iter().flat_map(|parsed| {
        let service = &parsed.service;
        service.listen.iter().chain([&service.backend])
    });
    let mut taken: HashSet<u16> = named.filter_map(port).collect();
    let mut own: Vec<&mut Service> = services
        .iter_mut()
        .map(|parsed| &mut parsed.service)
        .filter(|service| service.own_address)
        .collect();
    own.sort_by(|a, b| a.name.cmp(&b.name));
    for service in own {
        let hash = hash(&service.name);
        let mut offset = (hash % u64::from(PORTS)) as u16;
        while !taken.insert(FIRST_PORT + offset) {
            offset = (offset + 1) % PORTS;
        }
        let [.., a, b, c] = hash.to_be_bytes();
        // 127.64.0.0/10, without addresses that end in 0 or 255.
        let v4 = Ipv4Addr::new(127, 64 | a & 63, b, 1 + c % 254);
        let is_v4 = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp(at) | Endpoint::Udp(at) if at.is_ipv4());
        let families: [(bool, IpAddr); 2] = [
            (service.listen.iter().any(is_v4), v4.into()),
            (
                !service.listen.iter().all(is_v4),
                Ipv6Addr::LOCALHOST.into(),
            ),
        ];
        let addresses = families.into_iter().filter(|(is_wanted, _)| *is_wanted);
        let addresses = addresses.map(|(_, ip)| SocketAddr::new(ip, FIRST_PORT + offset));
        let receives = |at: &SocketAddr| {
            let mut datagrams = service.datagrams();
            datagrams.any(|own| own.is_ipv4() == at.is_ipv4())
        };
        let datagrams = addresses.clone().filter(receives).map(Endpoint::Udp);
        service.front = addresses.map(Endpoint::Tcp).chain(datagrams).collect();
    }
}

/// Whether it may be the private address of a front socket.
pub fn is_private_front(endpoint: &Endpoint) -> bool {
    let (Endpoint::Tcp(address) | Endpoint::Udp(address)) = endpoint else {
        return false;
    };
    let is_there = match address.ip() {
        IpAddr::V4(ip) => ip.octets()[0] == 127 && ip.octets()[1] >> 6 == 1,
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    is_there && (FIRST_PORT..FIRST_PORT + PORTS).contains(&address.port())
}

/// FNV-1a, 64 bits: the same on all hosts and in all versions, which the standard library does not promise of its own.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{
        super::{
            MAX_SERVICES,
            tests::{check, check_instead, parse},
        },
        is_private_front,
    };

    #[test]
    fn an_application_without_a_backend_keeps_its_address() {
        let text =
            "[service.wiki]\nlisten = [\"0.0.0.0:80\", \"[::]:80\"]\nunit = \"wiki.service\"";
        let config = parse(text).unwrap();
        let wiki = &config.services["wiki"];
        assert!(wiki.own_address && wiki.can_steer());
        assert_eq!(wiki.backend.to_string(), "127.0.0.1:80");
        let front: Vec<_> = wiki.front.iter().map(ToString::to_string).collect();
        // They must not change with the version.
        assert_eq!(front, ["127.105.42.66:24081", "[::1]:24081"]);
        let one = parse(&text.replace("\"0.0.0.0:80\", ", "")).unwrap();
        let wiki = &one.services["wiki"];
        assert_eq!(wiki.backend.to_string(), "[::1]:80");
        assert_eq!(wiki.front.len(), 1);
        assert!(is_private_front(&wiki.front[0]));
        let moved = parse(&format!("{text}\nbackend = \"127.0.0.1:8080\"")).unwrap();
        let wiki = &moved.services["wiki"];
        assert!(!wiki.own_address && !is_private_front(&wiki.front[0]));
        assert_eq!(wiki.front, wiki.listen);
    }

    #[test]
    fn datagrams_arrive_at_the_application_itself() {
        let of =
            |listen: &str| format!("[service.dns]\nlisten = {listen}\nunit = \"dns.service\"\n");
        let both = r#"["udp:0.0.0.0:53", "udp:[::]:53", "0.0.0.0:53"]"#;
        let config = parse(&of(both)).unwrap();
        let dns = &config.services["dns"];
        assert!(dns.own_address && dns.has_datagrams() && dns.can_steer());
        let listen: Vec<_> = dns.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["udp:0.0.0.0:53", "udp:[::]:53", "0.0.0.0:53"]);
        assert_eq!(dns.backend.to_string(), "127.0.0.1:53");
        let front: Vec<_> = dns.front.iter().map(ToString::to_string).collect();
        let port = front[1].strip_prefix("[::1]:").unwrap();
        assert_eq!(
            front[2..],
            [format!("udp:{}", front[0]), format!("udp:[::1]:{port}")]
        );
        assert!(dns.front.iter().all(is_private_front));
        let config = parse(&of("\"udp:[::]:53\"")).unwrap();
        let dns = &config.services["dns"];
        assert!(dns.own_address && !dns.can_steer());
        assert_eq!(dns.backend.to_string(), "udp:[::1]:53");
        assert!(dns.front.len() == 2 && dns.front.iter().all(is_private_front));
        // TCP's ports are others: two services may share a number.
        let other = "[service.web]\nlisten = \"0.0.0.0:53\"\nunit = \"web.service\"\n";
        parse(&(of("\"udp:0.0.0.0:53\"") + other)).unwrap();
    }

    #[test]
    fn what_does_not_go_with_datagrams() {
        #[track_caller]
        fn check_udp(listen: &str, lines: &str, expected: &str) {
            let text = format!("[service.a]\nlisten = {listen}\nunit = \"a.service\"\n{lines}");
            check(&text, expected);
        }
        let one = r#""udp:0.0.0.0:53""#;
        check_udp(
            r#"["udp:0.0.0.0:53", "0.0.0.0:80"]"#,
            "backend = \"127.0.0.1:80\"",
            "/etc/o.toml:2: service.a.listen: udp:0.0.0.0:53 is for applications that keep their addresses: remove backend",
        );
        check_udp(
            one,
            "backend = \"udp:127.0.0.1:54\"",
            "/etc/o.toml:4: service.a.backend: \"udp:127.0.0.1:54\" is of UDP, whose datagrams are not passed on; remove",
        );
        check_udp(one, "steer = false", "steer = false needs a backend");
        check_udp(
            r#"["udp:0.0.0.0:53", "/run/a"]"#,
            "",
            "/run/a is a path, which an application cannot keep",
        );
        for line in [
            "first_client = \"held\"",
            "ignore_empty = true",
            "silent_after = \"1h\"",
            "keepalive = \"off\"",
            "ready = \"tcp:127.0.0.1:80\"",
            "waiting_page = true",
        ] {
            check_udp(
                one,
                line,
                "is about connections, and `listen` has addresses of UDP alone",
            );
        }
        let mixed = r#"["udp:0.0.0.0:53", "0.0.0.0:53"]"#;
        let text =
            format!("[service.a]\nlisten = {mixed}\nunit = \"a.service\"\nfirst_client = \"held\"");
        parse(&text).unwrap();
        check_udp(
            r#"["udp:0.0.0.0:53", "udp:127.0.0.1:53"]"#,
            "",
            "udp:127.0.0.1:53 overlaps udp:0.0.0.0:53",
        );
        check_udp(one, "socket_mode = \"0660\"", "requires a path in `listen`");
        check_udp(one, "activation = \"native\"", "is for connections alone");
        check_udp(r#""udp:53""#, "", "port without an address");
        check_udp(r#""udp:224.0.0.1:53""#, "", "multicast or broadcast");
        check_udp(r#""udp:/run/x""#, "", "not an address");
    }

    #[test]
    fn no_two_front_sockets_have_one_port() {
        let services: String = (0..MAX_SERVICES)
            .map(|n| {
                format!(
                    "[service.s{n}]\nlisten = \"[::1]:{}\"\nunit = \"s{n}.service\"\n",
                    21_000 + n
                )
            })
            .collect();
        let config = parse(&services).unwrap();
        let fronts: HashSet<_> = config.services.values().map(|it| &it.front[0]).collect();
        assert_eq!(fronts.len(), MAX_SERVICES);
        let listen: HashSet<_> = config.services.values().map(|it| &it.listen[0]).collect();
        assert!(fronts.is_disjoint(&listen));
    }

    #[test]
    fn what_cannot_be_kept() {
        check_instead(
            "backend",
            "steer = false",
            "/etc/o.toml:1: service.wiki: steer = false needs a backend",
        );
        check(
            "[service.b]\nlisten = \"/run/b\"\nunit = \"b.service\"",
            "/etc/o.toml:2: service.b.listen: /run/b is a path, which an application cannot keep; add backend",
        );
    }
}
