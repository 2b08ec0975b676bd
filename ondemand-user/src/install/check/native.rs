//! Checks of an application that takes its listener from a socket unit of its own (`activation = "native"`).

use anyhow::Result;
use ondemand_core::config::{Endpoint, Service, reachable};

use super::{
    addresses::taken,
    finding::Finding,
    holders::{Holder, Sockets},
};

const WHAT: &str = "activation";

/// Checks who listens where its clients arrive. It is systemd, whether the application is up or not.
pub fn look(service: &Service, sockets: &Sockets) -> Vec<Finding> {
    let each = service.listen.iter();
    each.map(|endpoint| {
        at(endpoint, service, sockets).unwrap_or_else(|error| Finding::unknown(WHAT, &error))
    })
    .collect()
}

fn at(endpoint: &Endpoint, service: &Service, sockets: &Sockets) -> Result<Finding> {
    let unit = &service.unit;
    let socket = unit.replace(".service", ".socket");
    let place = match endpoint {
        Endpoint::Tcp(address) => Endpoint::Tcp(reachable(*address)),
        path => path.clone(),
    };
    let there = sockets.at(&place);
    let Some(first) = there.first() else {
        return Ok(Finding::error(
            WHAT,
            format!(
                "nobody listens on {endpoint}: no active socket unit of systemd passes it to {unit}"
            ),
            format!(
                "systemctl enable --now {socket}; or remove `activation`, if {unit} listens there itself"
            ),
        ));
    };
    Ok(match sockets.holder(first.inode) {
        None | Some(Holder { pid: 1, .. }) => Finding::ok(
            WHAT,
            format!("a socket unit of systemd holds {endpoint} for {unit}"),
        ),
        holder => taken(WHAT, endpoint, first, holder, unit),
    })
}
