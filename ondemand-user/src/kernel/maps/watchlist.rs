//! The watched addresses and their owners: the contents of the maps `ENDPOINTS` and `PORTS`,
//! computed from the configuration.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ondemand_core::measure::sample::Slot;
use ondemand_ebpf::{
    DATAGRAM, Endpoint, MAX_SERVICES, Owner, PORT_FRONT, PORT_SLOT_BITS, PORT_UDP, PORT_WATCHED,
    ROLE_BACKEND, ROLE_FRONT, ROLE_OWN, STREAM,
};

/// The addresses of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The front socket's.
    pub front: Vec<SocketAddr>,
    /// The backend's; `None` for a Unix socket.
    pub backend: Option<SocketAddr>,
    /// The application's, if it keeps the addresses where clients arrive.
    pub own: Vec<SocketAddr>,
    /// Those of UDP where it receives datagrams.
    pub datagrams: Vec<SocketAddr>,
    /// The front socket's of UDP.
    pub datagram_fronts: Vec<SocketAddr>,
}

impl Addresses {
    /// The ports of [`Self::own`], in the order of [`Owner::place`].
    pub fn ports(&self) -> Vec<u16> {
        ports(&self.own)
    }

    /// The ports of [`Self::datagrams`], and the [`Owner::place`] of each: these follow those of [`Self::own`].
    pub fn datagram_ports(&self) -> impl Iterator<Item = (u16, u32)> {
        let before = self.ports().len() as u32;
        ports(&self.datagrams).into_iter().zip(before..)
    }
}

fn ports(addresses: &[SocketAddr]) -> Vec<u16> {
    let mut ports = Vec::new();
    for address in addresses {
        if !ports.contains(&address.port()) {
            ports.push(address.port());
        }
    }
    ports
}

/// Converts an address to the form of [`Endpoint::address`].
pub fn address_words(ip: IpAddr) -> [u32; 4] {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// The reverse of [`address_words`].
pub fn address_of(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_ne_bytes();
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Returns every endpoint and its owner.
///
/// An application may bind the wildcard where its configured address is a specific one, so
/// its port is also watched on the wildcards, unless something else was configured
/// there. A front on `[::]` serves IPv6 only (`BindIPv6Only=` of the generated socket).
pub fn endpoints(netns: u64, services: &BTreeMap<Slot, Addresses>) -> HashMap<Endpoint, Owner> {
    let endpoint_of = |protocol: u32, ip: IpAddr, port: u16| Endpoint {
        netns,
        address: address_words(ip),
        port: u32::from(port),
        protocol,
    };
    let endpoint = |ip, port| endpoint_of(STREAM, ip, port);
    let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let mut table = HashMap::new();
    let mut aliases = Vec::new();
    for (slot, service) in services {
        let owner = |role, place| Owner {
            slot: slot.0,
            role,
            place,
            alias: 0,
        };
        let front = owner(ROLE_FRONT, 0);
        for address in &service.front {
            table.insert(endpoint(address.ip(), address.port()), front);
        }
        for address in &service.datagram_fronts {
            table.insert(endpoint_of(DATAGRAM, address.ip(), address.port()), front);
        }
        let backend = service.backend.map(|at| (at, owner(ROLE_BACKEND, 0)));
        let ports = service.ports();
        let own = service.own.iter().map(|at| {
            let place = ports.iter().position(|port| *port == at.port());
            (*at, owner(ROLE_OWN, place.unwrap_or(0) as u32))
        });
        let places: HashMap<u16, u32> = service.datagram_ports().collect();
        let datagrams = service.datagrams.iter().map(|at| {
            let place = places.get(&at.port()).copied().unwrap_or(0);
            (DATAGRAM, *at, owner(ROLE_OWN, place))
        });
        let streams = own.chain(backend);
        let streams = streams.map(|(address, application)| (STREAM, address, application));
        for (protocol, address, application) in streams.chain(datagrams) {
            let endpoint = |ip| endpoint_of(protocol, ip, address.port());
            table.insert(endpoint(address.ip()), application);
            let alias = Owner {
                alias: 1,
                ..application
            };
            aliases.push((endpoint(v6), alias));
            if address.is_ipv4() {
                aliases.push((endpoint(v4), alias));
            }
        }
    }
    for (alias, owner) in aliases {
        table.entry(alias).or_insert(owner);
    }
    table
}

/// Returns the word of each watched port ([`PORT_WATCHED`]). Where a front socket on the wildcard, or an application
/// that keeps it and no other port, is the only owner of a port in its family, the word names its slot, and no address
/// is looked up.
pub fn port_words(table: &HashMap<Endpoint, Owner>) -> BTreeMap<u32, u32> {
    let wildcards: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let wildcards = wildcards.map(address_words);
    let is_v4 = |address: &[u32; 4]| address[..3] == wildcards[0][..3];
    let mut owners: HashMap<(u32, bool), u32> = HashMap::new();
    let streams = || table.iter().filter(|(at, _)| at.protocol == STREAM);
    for (endpoint, _) in streams() {
        let of_port = (endpoint.port, is_v4(&endpoint.address));
        *owners.entry(of_port).or_default() += 1;
    }
    let has_others: HashSet<u32> = streams()
        .filter(|(_, owner)| owner.place > 0)
        .map(|(_, owner)| owner.slot)
        .collect();
    let mut words = BTreeMap::new();
    for endpoint in table.keys().filter(|at| at.protocol == DATAGRAM) {
        *words.entry(endpoint.port).or_default() |= PORT_UDP;
    }
    for (endpoint, owner) in streams() {
        let word = words.entry(endpoint.port).or_default();
        *word |= PORT_WATCHED;
        if owner.role == ROLE_BACKEND {
            continue;
        }
        *word |= PORT_FRONT;
        if has_others.contains(&owner.slot) {
            continue;
        }
        let v4 = is_v4(&endpoint.address);
        if wildcards.contains(&endpoint.address) && owners[&(endpoint.port, v4)] == 1 {
            let shift = if v4 { 0 } else { PORT_SLOT_BITS };
            *word |= (owner.slot + 1) << shift;
        }
    }
    words
}

/// Chooses a slot for each name: its present slot, else one that was never used, else one
/// whose former owner is neither configured nor connected.
///
/// Returns the slots in the order of `wanted`, and which of them are new; `None` if there
/// are more names than slots.
pub fn assign_slots(
    known: &BTreeMap<Slot, String>,
    wanted: &[&str],
    is_free: impl Fn(Slot) -> bool,
) -> Option<Vec<(Slot, bool)>> {
    let by_name: HashMap<&str, Slot> = known
        .iter()
        .map(|(slot, name)| (name.as_str(), *slot))
        .collect();
    let unused = (0..MAX_SERVICES)
        .map(Slot)
        .filter(|slot| !known.contains_key(slot));
    let abandoned = known
        .iter()
        .filter(|(slot, name)| !wanted.contains(&name.as_str()) && is_free(**slot))
        .map(|(slot, _)| *slot);
    let mut fresh = unused.chain(abandoned);
    wanted
        .iter()
        .map(|name| match by_name.get(name) {
            Some(slot) => Some((*slot, false)),
            None => fresh.next().map(|slot| (slot, true)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(services: &[(&[&str], Option<&str>)]) -> HashMap<Endpoint, Owner> {
        let services = services
            .iter()
            .enumerate()
            .map(|(slot, (front, backend))| {
                let front = front.iter().map(|text| text.parse().unwrap()).collect();
                let backend = backend.map(|text| text.parse().unwrap());
                (
                    Slot(slot as u32),
                    Addresses {
                        front,
                        backend,
                        own: Vec::new(),
                        datagrams: Vec::new(),
                        datagram_fronts: Vec::new(),
                    },
                )
            })
            .collect();
        endpoints(7, &services)
    }

    #[track_caller]
    fn check(table: &HashMap<Endpoint, Owner>, address: &str, expected: Option<(u32, u32)>) {
        let address: SocketAddr = address.parse().unwrap();
        let key = Endpoint {
            netns: 7,
            address: address_words(address.ip()),
            port: u32::from(address.port()),
            protocol: STREAM,
        };
        assert_eq!(
            table.get(&key).map(|owner| (owner.slot, owner.role)),
            expected,
            "{address}"
        );
    }

    #[test]
    fn owners_of_addresses() {
        let table = table(&[
            (&["10.0.0.1:80"], Some("127.0.0.1:8080")),
            (&["10.0.0.2:80", "[fd00::1]:80"], Some("127.0.0.2:8080")),
            (&["192.168.1.5:9000"], Some("127.0.0.1:9000")),
            (&["[::]:443"], None),
        ]);
        check(&table, "10.0.0.1:80", Some((0, ROLE_FRONT)));
        check(&table, "10.0.0.2:80", Some((1, ROLE_FRONT)));
        check(&table, "[fd00::1]:80", Some((1, ROLE_FRONT)));
        check(&table, "10.0.0.3:80", None);
        check(&table, "0.0.0.0:80", None);
        check(&table, "127.0.0.1:8080", Some((0, ROLE_BACKEND)));
        check(&table, "127.0.0.2:8080", Some((1, ROLE_BACKEND)));
        check(&table, "0.0.0.0:8080", Some((0, ROLE_BACKEND)));
        check(&table, "[::]:8080", Some((0, ROLE_BACKEND)));
        check(&table, "192.168.1.5:9000", Some((2, ROLE_FRONT)));
        check(&table, "127.0.0.1:9000", Some((2, ROLE_BACKEND)));
        check(&table, "[::]:443", Some((3, ROLE_FRONT)));
        check(&table, "0.0.0.0:443", None);
        check(&table, "[::ffff:127.0.0.1]:8080", Some((0, ROLE_BACKEND)));
    }

    #[test]
    fn words_of_ports() {
        const V6: u32 = PORT_SLOT_BITS;
        let front = PORT_WATCHED | PORT_FRONT;
        let table = table(&[
            (&["0.0.0.0:80", "[::]:80"], Some("127.0.0.1:65535")),
            (&["0.0.0.0:81"], Some("127.0.0.1:8081")),
            (&["10.0.0.1:82"], Some("10.0.0.2:82")),
            (&["0.0.0.0:83"], Some("127.0.0.1:8083")),
            (&["10.0.0.1:83", "[::]:83"], None),
        ]);
        let words = port_words(&table);
        let expected = [
            (80, front | 1 | 1 << V6),
            (81, front | 2),
            (82, front),
            // Two services on one port: the address decides.
            (83, front | 5 << V6),
            (8081, PORT_WATCHED),
            (8083, PORT_WATCHED),
            (65535, PORT_WATCHED),
        ];
        assert_eq!(words, BTreeMap::from(expected));
    }

    #[test]
    fn datagrams_have_endpoints_and_places_of_their_own() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let dns = Addresses {
            front: parse(&["127.64.0.1:21000"]),
            backend: None,
            own: parse(&["0.0.0.0:53", "[::]:53"]),
            datagrams: parse(&["0.0.0.0:53", "[::]:53", "127.0.0.1:5353"]),
            datagram_fronts: Vec::new(),
        };
        assert_eq!(dns.ports(), [53]);
        let ports: Vec<_> = dns.datagram_ports().collect();
        assert_eq!(ports, [(53, 1), (5353, 2)]);
        let table = endpoints(7, &BTreeMap::from([(Slot(0), dns)]));
        let of = |text: &str, protocol| {
            let address: SocketAddr = text.parse().unwrap();
            let key = Endpoint {
                netns: 7,
                address: address_words(address.ip()),
                port: u32::from(address.port()),
                protocol,
            };
            table.get(&key).map(|owner| (owner.place, owner.alias))
        };
        assert_eq!(of("0.0.0.0:53", STREAM), Some((0, 0)));
        assert_eq!(of("[::]:53", DATAGRAM), Some((1, 0)));
        assert_eq!(of("127.0.0.1:5353", DATAGRAM), Some((2, 0)));
        assert_eq!(of("0.0.0.0:5353", DATAGRAM), Some((2, 1)));
        assert_eq!(of("127.0.0.1:5353", STREAM), None);
        let words = port_words(&table);
        // The slot alone decides for TCP, as if there were no datagrams.
        let both = 1 | 1 << PORT_SLOT_BITS;
        assert_eq!(words[&53], PORT_WATCHED | PORT_FRONT | PORT_UDP | both);
        assert_eq!(words[&5353], PORT_UDP);
    }

    #[test]
    fn a_name_keeps_its_slot() {
        let known = BTreeMap::from([(Slot(0), "a".to_owned()), (Slot(1), "b".to_owned())]);
        let assigned = assign_slots(&known, &["b", "c"], |_| true).unwrap();
        assert_eq!(assigned, [(Slot(1), false), (Slot(2), true)]);
    }

    #[test]
    fn a_slot_is_reused_last_and_only_without_connections() {
        let known: BTreeMap<Slot, String> = (0..MAX_SERVICES)
            .map(|slot| (Slot(slot), format!("s{slot}")))
            .collect();
        let names: Vec<String> = (1..MAX_SERVICES).map(|slot| format!("s{slot}")).collect();
        let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        wanted.push("new");
        assert_eq!(
            assign_slots(&known, &wanted, |_| true).unwrap().last(),
            Some(&(Slot(0), true))
        );
        assert_eq!(assign_slots(&known, &wanted, |_| false), None);
    }
}
