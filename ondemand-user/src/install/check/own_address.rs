//! Checks of an application that keeps the addresses where its clients arrive, and is up.

use ondemand_core::config::{Endpoint, Service, reachable};

use super::{finding::Finding, holders::Sockets};

/// It listens at some of its addresses, and not at all of them.
pub fn look(service: &Service, sockets: &Sockets) -> Option<Finding> {
    let listens = |endpoint: &&Endpoint| match endpoint {
        Endpoint::Tcp(address) => !sockets.at(&Endpoint::Tcp(reachable(*address))).is_empty(),
        Endpoint::Unix(_) => true,
    };
    let (there, missing): (Vec<_>, Vec<_>) = service.listen.iter().partition(listens);
    if missing.is_empty() || there.is_empty() {
        return None;
    }
    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
    let (unit, missing) = (&service.unit, missing.join(", "));
    Some(Finding::warning(
        "listen",
        format!(
            "{unit} is active and does not listen on {missing}: the proxy carries the clients there"
        ),
        format!("let it listen there, or remove {missing} from listen"),
    ))
}
