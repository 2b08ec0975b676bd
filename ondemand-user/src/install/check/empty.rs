//! Whether front sockets keep back connections without a byte (`ignore_empty`).

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, anyhow};
use nix::unistd::geteuid;
use ondemand_core::config::{Config, Endpoint, Service};

use super::finding::Finding;
use crate::install::sieve;

const WHAT: &str = "empty";

/// Which listeners of PID 1 keep them back; `None`: no service wants it.
pub fn sieves(config: &Config) -> Option<Result<BTreeMap<SocketAddr, bool>>> {
    let wanted = config.services.values().any(|it| it.ignore_empty);
    wanted.then(|| match geteuid().is_root() {
        true => sieve::look(),
        false => Err(anyhow!(
            "only root sees what front sockets keep back (sudo ondemand check)"
        )),
    })
}

/// Checks those of one service that are open.
pub fn look(
    service: &Service,
    sieves: Option<&Result<BTreeMap<SocketAddr, bool>>>,
) -> Option<Finding> {
    if !service.ignore_empty {
        return None;
    }
    let sieves = match sieves? {
        Ok(sieves) => sieves,
        Err(error) => return Some(Finding::unknown(WHAT, &anyhow!("{error:#}"))),
    };
    let state = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp(address) => Some((*address, *sieves.get(address)?)),
        Endpoint::Udp(_) | Endpoint::Unix(_) => None,
    };
    let open: Vec<(SocketAddr, bool)> = service.front.iter().filter_map(state).collect();
    let without = open.iter().filter(|(_, is_put)| !is_put);
    let without: Vec<String> = without.map(|(address, _)| address.to_string()).collect();
    if !without.is_empty() {
        let front = service.socket_unit();
        let command = format!("ondemand sieve {}", without.join(" "));
        let words: Vec<&str> = command.split(' ').collect();
        return Some(
            Finding::warning(
                WHAT,
                format!(
                    "{front} does not keep back connections without a byte: each starts {} (ignore_empty)",
                    service.unit
                ),
                format!("{command}; journalctl -u {front} says why it was not done"),
            )
            .fixed_by(&words),
        );
    }
    // Of one that is not open there is a finding already.
    (!open.is_empty()).then(|| {
        Finding::ok(
            WHAT,
            format!(
                "a connection without a byte starts nothing: {} keeps it back",
                service.socket_unit()
            ),
        )
    })
}
