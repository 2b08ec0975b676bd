//! Checks of an application that keeps the addresses where its clients arrive, and is up.

use std::net::SocketAddr;

use ondemand_core::config::{Endpoint, Service, reachable};

use super::{finding::Finding, holders::Sockets};
use crate::kernel::sockets::listening::is_listening;

/// What of its datagrams starts it.
pub fn datagrams(service: &Service) -> Option<Finding> {
    let all: Vec<String> = service
        .datagrams()
        .map(|at| Endpoint::Udp(at).to_string())
        .collect();
    let from = match service.wake_from.is_absent() {
        true => {
            "those from this host and private networks (wake_from names others, a source can be forged)"
        }
        false => "those from the networks of wake_from",
    };
    (!all.is_empty()).then(|| {
        let (unit, all) = (&service.unit, all.join(", "));
        Finding::ok(
            "datagrams",
            format!(
                "{unit} receives them on {all}; {from} start it; broadcast and multicast are not seen: they neither start it \
                 nor keep it up"
            ),
        )
    })
}

/// It listens, or receives datagrams, at some of its addresses, and not at all of them.
pub fn look(service: &Service, sockets: &Sockets) -> Option<Finding> {
    // (What cannot be read is there.)
    let receives = |address: &SocketAddr| {
        let at = Endpoint::Udp(reachable(*address));
        is_listening(&at).unwrap_or(true)
    };
    let listens = |endpoint: &&Endpoint| match endpoint {
        Endpoint::Udp(address) => receives(address),
        Endpoint::Tcp(address) => !sockets.at(&Endpoint::Tcp(reachable(*address))).is_empty(),
        Endpoint::Unix(_) => true,
    };
    let (there, missing): (Vec<_>, Vec<_>) = service.listen.iter().partition(listens);
    if missing.is_empty() || there.is_empty() {
        return None;
    }
    let datagrams = match missing.iter().any(|endpoint| endpoint.is_udp()) {
        true => "; datagrams there are lost",
        false => "",
    };
    let streams = match missing.iter().any(|endpoint| endpoint.is_tcp()) {
        true => "the proxy carries the clients there",
        false => "nobody else does",
    };
    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
    let (unit, missing) = (&service.unit, missing.join(", "));
    Some(Finding::warning(
        "listen",
        format!("{unit} is active and does not listen on {missing}: {streams}{datagrams}"),
        format!("let it listen there, or remove {missing} from listen"),
    ))
}
