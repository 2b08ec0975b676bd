//! Which addresses are watched, and for whom: the contents of the maps `ENDPOINTS` and
//! `PORTS`, computed from the configuration.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ondemand_ebpf::{Endpoint, MAX_SERVICES, Owner, PORT_WORDS, ROLE_BACKEND, ROLE_FRONT};

use super::Slot;

/// The TCP addresses of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The front socket's.
    pub front: Vec<SocketAddr>,
    /// The backend's; `None` for a Unix socket.
    pub backend: Option<SocketAddr>,
}

/// An address in the form of [`Endpoint::address`].
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

/// Every endpoint and its owner.
///
/// An application may bind the wildcard where its configured address is a specific one, so
/// a backend's port is also watched on the wildcards, unless something else was configured
/// there. A front on `[::]` serves IPv6 alone (`BindIPv6Only=` of the generated socket).
pub fn endpoints(netns: u64, services: &BTreeMap<Slot, Addresses>) -> HashMap<Endpoint, Owner> {
    let endpoint = |ip: IpAddr, port: u16| Endpoint {
        netns,
        address: address_words(ip),
        port: u32::from(port),
        pad: 0,
    };
    let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let mut table = HashMap::new();
    let mut aliases = Vec::new();
    for (slot, service) in services {
        let front = Owner {
            slot: slot.0,
            role: ROLE_FRONT,
        };
        for address in &service.front {
            table.insert(endpoint(address.ip(), address.port()), front);
        }
        if let Some(address) = service.backend {
            let backend = Owner {
                slot: slot.0,
                role: ROLE_BACKEND,
            };
            table.insert(endpoint(address.ip(), address.port()), backend);
            aliases.push((endpoint(v6, address.port()), backend));
            if address.is_ipv4() {
                aliases.push((endpoint(v4, address.port()), backend));
            }
        }
    }
    for (alias, owner) in aliases {
        table.entry(alias).or_insert(owner);
    }
    table
}

/// The bitmap of all watched ports.
pub fn port_words<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Vec<u64> {
    let mut words = vec![0; PORT_WORDS as usize];
    for endpoint in endpoints {
        words[(endpoint.port >> 6) as usize] |= 1 << (endpoint.port & 63);
    }
    words
}

/// Chooses a slot for each name: the one it had, else one that was never used, else one
/// whose former owner is neither configured nor connected any more.
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
                (Slot(slot as u32), Addresses { front, backend })
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
            pad: 0,
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
    fn ports_are_bits() {
        let table = table(&[(&["10.0.0.1:80"], Some("127.0.0.1:65535"))]);
        let words = port_words(table.keys());
        assert_eq!(words[1], 1 << 16);
        assert_eq!(words[1023], 1 << 63);
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 2);
    }

    #[test]
    fn a_name_keeps_its_slot() {
        let known = BTreeMap::from([(Slot(0), "a".to_owned()), (Slot(1), "b".to_owned())]);
        let assigned = assign_slots(&known, &["b", "c"], |_| true).unwrap();
        assert_eq!(assigned, [(Slot(1), false), (Slot(2), true)]);
    }

    #[test]
    fn a_slot_is_reused_last_and_only_when_nobody_is_connected() {
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
