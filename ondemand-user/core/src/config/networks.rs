//! Lists of client networks, `wake_from` and `ignore_from`.

use core::net::IpAddr;
use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    error::Problem,
    table::{Place, Value},
};

/// Maximum number of networks in one list.
pub const MAX_LISTED: usize = 256;

const EXAMPLE: &str = r#"["192.168.1.0/24", "!192.168.1.5", "fd00::/8"]"#;

/// Networks, and whether each is listed or excepted. The longest prefix that contains an address
/// decides; an address in no network is not in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(BTreeMap<IpNet, bool>);

impl List {
    /// Whether the list is absent: the key is not in the file.
    pub fn is_absent(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks, and whether each is listed or excepted.
    pub fn networks(&self) -> impl Iterator<Item = (IpNet, bool)> + '_ {
        self.0.iter().map(|(network, listed)| (*network, *listed))
    }

    /// Formats the list as the configuration has it.
    pub fn words(&self) -> String {
        let words: Vec<_> = self
            .networks()
            .map(|(network, listed)| format!("{}{network}", if listed { "" } else { "!" }))
            .collect();
        words.join(", ")
    }
}

/// Parses a list.
pub(super) fn list(value: &Value<'_>, problems: &mut Vec<Problem>) -> Option<List> {
    let texts = match value.strings(EXAMPLE) {
        Ok(texts) => texts,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let count = texts.len();
    if count == 0 || count > MAX_LISTED {
        let message = match count {
            0 => format!("no network; write it like {EXAMPLE}, or remove the key"),
            _ => format!("{count} networks; the maximum is {MAX_LISTED}"),
        };
        problems.push(value.place.problem(message));
        return None;
    }
    let mut networks: BTreeMap<IpNet, bool> = BTreeMap::new();
    let before = problems.len();
    for (place, text) in texts {
        match network(text) {
            Err(message) => problems.push(place.problem(message)),
            Ok((network, listed)) => {
                if networks.insert(network, listed).is_some() {
                    problems.push(twice(&place, &network));
                }
            }
        }
    }
    if problems.len() > before {
        return None;
    }
    if networks.values().all(|listed| !listed) {
        // A list with exceptions only starts from all addresses.
        networks.entry(Ipv4Net::default().into()).or_insert(true);
        networks.entry(Ipv6Net::default().into()).or_insert(true);
    }
    Some(List(networks))
}

fn twice(place: &Place<'_>, network: &IpNet) -> Problem {
    place.problem(format!("{network} is in the list twice; remove one"))
}

/// Parses an address or a network; a `!` before it marks an exception.
fn network(text: &str) -> Result<(IpNet, bool), String> {
    let (bare, listed) = match text.strip_prefix('!') {
        Some(bare) => (bare, false),
        None => (text, true),
    };
    let sign = if listed { "" } else { "!" };
    let network = match bare.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => bare.parse::<IpNet>().map_err(|_| {
            format!("{text:?} is not an address or a network; write it like \"192.168.1.0/24\", \"!192.168.1.5\" or \"fd00::/8\"")
        })?,
    };
    if network != network.trunc() {
        return Err(format!(
            "{text:?} has host bits set; write \"{sign}{}\" for the network or \"{sign}{}\" for the address",
            network.trunc(),
            network.addr()
        ));
    }
    if let IpAddr::V6(address) = network.addr()
        && let Some(v4) = address.to_ipv4_mapped()
    {
        return Err(format!(
            "{text:?} is an IPv4-mapped IPv6 address; write \"{sign}{v4}\" with an IPv4 prefix length"
        ));
    }
    Ok((network, listed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{self, parse, wiki};

    #[test]
    fn lists() {
        let text = wiki("wake_from = [\"10.0.0.0/8\", \"!10.1.2.3\"]\nignore_from = \"!fd00::/8\"");
        let service = &parse(&text).unwrap().services["wiki"];
        assert_eq!(service.wake_from.words(), "10.0.0.0/8, !10.1.2.3/32");
        assert_eq!(service.ignore_from.words(), "0.0.0.0/0, ::/0, !fd00::/8");
        let refused = |line: &str, expected: &str| {
            tests::check(
                &wiki(line),
                &format!("/etc/o.toml:5: service.wiki.{expected}"),
            );
        };
        refused("wake_from = []", "wake_from: no network; write it like");
        refused(
            "ignore_from = 5",
            "ignore_from: expected an array of strings",
        );
        refused(
            "wake_from = [\"10.0.0.1\", \"!10.0.0.1/32\"]",
            "wake_from: 10.0.0.1/32 is in the list twice",
        );
        refused(
            "ignore_from = \"home\"",
            "ignore_from: \"home\" is not an address",
        );
        refused(
            "wake_from = \"::1\"\nsteer = false",
            "wake_from: requires steer = true",
        );
        let many = (0..=MAX_LISTED).map(|n| format!("\"10.0.{}.{}\"", n / 256, n % 256));
        let many = many.collect::<Vec<_>>().join(", ");
        refused(
            &format!("wake_from = [{many}]"),
            "wake_from: 257 networks; the maximum is 256",
        );
        let unix = wiki("wake_from = \"::1\"")
            .replace("[\"0.0.0.0:80\", \"[::]:80\"]", "\"/run/wiki.sock\"");
        tests::check(&unix, "requires a TCP or UDP address in `listen`");
    }

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (network(text), expected) {
            (Ok((network, listed)), Ok(expected)) => {
                let sign = if listed { "" } else { "!" };
                assert_eq!(format!("{sign}{network}"), expected);
            }
            (Err(message), Err(expected)) => assert!(message.contains(expected), "{message}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn networks() {
        check("10.0.0.0/8", Ok("10.0.0.0/8"));
        check("10.1.2.3", Ok("10.1.2.3/32"));
        check("!fd00::/8", Ok("!fd00::/8"));
        check("::1", Ok("::1/128"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check(
            "10.1.2.3/8",
            Err("write \"10.0.0.0/8\" for the network or \"10.1.2.3\""),
        );
        check("!10.1.2.3/8", Err("write \"!10.0.0.0/8\""));
        check("::ffff:10.1.2.3", Err("write \"10.1.2.3\""));
        check("::ffff:10.0.0.0/104", Err("write \"10.0.0.0\""));
        for text in [
            "",
            "!",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "home",
            "!!10.0.0.1",
            "10.0.0.1:80",
        ] {
            check(text, Err("not an address or a network"));
        }
    }
}
