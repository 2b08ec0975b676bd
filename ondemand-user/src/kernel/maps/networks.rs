//! The lists of clients in the kernel's format: the map `NETWORKS`, and the bits of the gates that
//! mark which lists exist.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use ondemand_core::{config::Service, measure::sample::Slot};
use ondemand_ebpf::{
    GATE_BYTES, GATE_IGNORE, GATE_OWN, GATE_WAKE, LIST_IGNORE, LIST_WAKE, NETWORK_BITS, Network,
};

use super::watchlist::address_words;

/// The desired contents of the maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// By prefix length in bits and network: whether it is in the list.
    pub networks: BTreeMap<(u32, Network), bool>,
    /// By slot: `GATE_WAKE` and `GATE_IGNORE`, and `GATE_OWN` and `GATE_BYTES` with them. Absent: none.
    pub bits: HashMap<Slot, u64>,
}

/// Computes the lists of all services.
pub fn table<'s>(services: impl Iterator<Item = (Slot, &'s Service)>) -> Lists {
    let mut all = Lists::default();
    for (slot, service) in services {
        if service.own_address {
            *all.bits.entry(slot).or_default() |= GATE_OWN;
        }
        if service.ignore_empty {
            *all.bits.entry(slot).or_default() |= GATE_BYTES;
        }
        for (list, bit, networks) in [
            (LIST_WAKE, GATE_WAKE, &service.wake_from),
            (LIST_IGNORE, GATE_IGNORE, &service.ignore_from),
        ] {
            if networks.is_absent() {
                continue;
            }
            *all.bits.entry(slot).or_default() |= bit;
            for (network, listed) in networks.networks() {
                let key = key(slot, list, network.addr(), network.prefix_len());
                all.networks.insert(key, listed);
            }
            // In the map IPv4 is a part of IPv6, and `::/0` would include all of it.
            let v4 = key(slot, list, Ipv4Addr::UNSPECIFIED.into(), 0);
            all.networks.entry(v4).or_insert(false);
        }
    }
    all
}

fn key(slot: Slot, list: u32, address: IpAddr, prefix: u8) -> (u32, Network) {
    let before = if address.is_ipv4() { 96 } else { 0 };
    let network = Network {
        slot: slot.0,
        list,
        address: address_words(address),
    };
    (NETWORK_BITS + before + u32::from(prefix), network)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ondemand_core::config::Config;

    use super::*;

    /// The entry of the longest prefix, as the kernel finds it (lpm_trie.c).
    fn is_listed(lists: &Lists, slot: u32, list: u32, address: &str) -> bool {
        let (_, wanted) = key(Slot(slot), list, address.parse().unwrap(), 0);
        let bytes = |network: &Network| {
            let words = [network.slot, network.list]
                .into_iter()
                .chain(network.address);
            words.flat_map(u32::to_ne_bytes).collect::<Vec<u8>>()
        };
        let wanted = bytes(&wanted);
        let is_prefix = |prefix: u32, network: &Network| {
            let network = bytes(network);
            (0..prefix as usize).all(|bit| {
                let of = |bytes: &[u8]| bytes[bit / 8] >> (7 - bit % 8) & 1;
                of(&network) == of(&wanted)
            })
        };
        let longest = lists
            .networks
            .iter()
            .filter(|((prefix, network), _)| is_prefix(*prefix, network))
            .max_by_key(|((prefix, _), _)| *prefix);
        longest.is_some_and(|(_, listed)| *listed)
    }

    #[test]
    fn the_narrowest_network_counts() {
        let text = r#"
            [service.a]
            listen = ["0.0.0.0:80", "[::]:80"]
            backend = "127.0.0.1:8080"
            unit = "a.service"
            wake_from = ["10.0.0.0/8", "!10.1.0.0/16", "10.1.2.3", "::/0"]
            ignore_from = "!10.0.0.1"
            [service.b]
            listen = ["0.0.0.0:81"]
            backend = "127.0.0.1:8081"
            unit = "b.service"
        "#;
        let config = Config::parse(Path::new("/o.toml"), text).unwrap();
        let lists = table((7..).map(Slot).zip(config.services.values()));
        assert_eq!(
            lists.bits,
            HashMap::from([(Slot(7), GATE_WAKE | GATE_IGNORE)])
        );
        for (list, address, expected) in [
            (LIST_WAKE, "10.2.0.1", true),
            (LIST_WAKE, "10.1.0.1", false),
            (LIST_WAKE, "10.1.2.3", true),
            (LIST_WAKE, "11.0.0.1", false),
            (LIST_WAKE, "fd00::1", true),
            (LIST_IGNORE, "10.0.0.1", false),
            (LIST_IGNORE, "10.0.0.2", true),
            (LIST_IGNORE, "fd00::1", true),
        ] {
            assert_eq!(is_listed(&lists, 7, list, address), expected, "{address}");
            assert!(!is_listed(&lists, 8, list, address), "{address}");
        }
    }
}
