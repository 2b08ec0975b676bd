//! Socket records of the kernel's iterator, counted by service.

use std::collections::HashMap;

use ondemand_core::measure::sample::{Slot, Snapshot};
use ondemand_ebpf::{
    Endpoint, LEG_BACK, LEG_FRONT, LEG_IGNORED, LEG_LEFT, LEG_PROBE, LEG_STEERED, NO_SLOT, Owner,
    ROLE_FRONT, ROLE_OTHER, STREAM, SocketRecord,
};

use super::watchlist;

// States of include/net/tcp_states.h that are not an open connection.
const TIME_WAIT: u32 = 6;
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
const NEW_SYN_RECV: u32 = 12;

/// Counts records by service. A connection without a tag belongs to the owner of its local
/// address, or of the wildcard there.
pub(crate) fn summarize(
    records: &[SocketRecord],
    owner_of: impl Fn(&Endpoint) -> Option<Owner>,
    netns: u64,
) -> Snapshot {
    let wildcards = [
        watchlist::address_words(std::net::Ipv4Addr::UNSPECIFIED.into()),
        watchlist::address_words(std::net::Ipv6Addr::UNSPECIFIED.into()),
    ];
    // The listeners of units at addresses that are not configured.
    let others: HashMap<_, _> = records
        .iter()
        .filter(|record| record.state == LISTEN && record.role == ROLE_OTHER)
        .map(|record| ((record.address, record.port), record.slot))
        .collect();
    let mut snapshot = Snapshot::default();
    for record in records {
        let owner = if record.slot == NO_SLOT {
            let configured = std::iter::once(record.address)
                .chain(wildcards)
                .find_map(|address| {
                    owner_of(&Endpoint {
                        netns,
                        address,
                        port: record.port,
                        protocol: STREAM,
                    })
                });
            let other = others.get(&(record.address, record.port));
            configured.or_else(|| {
                let slot = *other.filter(|_| record.state == NEW_SYN_RECV)?;
                Some(owner(slot, ROLE_OTHER))
            })
        } else {
            Some(owner(record.slot, record.role))
        };
        let Some(owner) = owner else { continue };
        let sockets = snapshot.sockets.entry(Slot(owner.slot)).or_default();
        match (record.state, record.leg) {
            (LISTEN, _) if owner.role == ROLE_FRONT => sockets.front_listeners += 1,
            (LISTEN, _) => sockets.back_listeners += 1,
            (NEW_SYN_RECV, _) if owner.role != ROLE_FRONT => sockets.half_open += 1,
            (NEW_SYN_RECV | TIME_WAIT | CLOSE, _) => {}
            (_, LEG_FRONT) => sockets.front += 1,
            (_, LEG_STEERED) => sockets.steered += 1,
            (_, LEG_BACK) => sockets.back += 1,
            // They end with the service, have ended with an earlier run of it, or are the agent's own.
            (_, LEG_IGNORED | LEG_LEFT | LEG_PROBE) => {}
            _ => sockets.older += 1,
        }
    }
    snapshot
}

fn owner(slot: u32, role: u32) -> Owner {
    Owner {
        slot,
        role,
        place: 0,
        alias: 0,
    }
}
