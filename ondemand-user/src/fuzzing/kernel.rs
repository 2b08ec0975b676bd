//! Input from the kernel and its programs.

use std::{collections::BTreeMap, path::Path};

use ondemand_core::measure::sample::Slot;
use ondemand_ebpf::SocketRecord;

use crate::kernel::{
    maps::{
        decode::{self, Message},
        snapshot,
    },
    sockets::sock_diag as netlink,
};

/// A part of a sock_diag dump: never more sockets than messages fit in, each with an address or
/// a path.
pub fn sock_diag(data: &[u8]) {
    let (tcp, unix) = netlink::decode(data);
    // A header, and the minimum body of each.
    if let Ok(listeners) = tcp {
        assert!(listeners.len() * (16 + 72) <= data.len());
    }
    if let Ok(sockets) = unix {
        assert!(sockets.len() * (16 + 16 + 5) <= data.len());
        assert!(sockets.iter().all(|socket| socket.path != Path::new("")));
    }
}

/// A message of the ring buffer, or a name in the maps.
pub fn events(data: &[u8]) {
    match decode::message(data) {
        None => assert!(data.len() < 16),
        Some(Message::Event(_) | Message::Unlistened(_) | Message::Unknown(_)) => {}
    }
    if let Some(name) = decode::name(data) {
        assert!(!name.is_empty() && !name.contains('\0'));
    }
}

/// The socket tables: each record is counted at most once.
pub fn sockets(data: &[u8]) {
    let size = size_of::<SocketRecord>();
    let Ok(records) = decode::records(data) else {
        assert_ne!(data.len() % size, 0);
        return;
    };
    assert_eq!(records.len(), data.len() / size);
    // Even ports have an owner.
    let owner = |endpoint: &ondemand_ebpf::Endpoint| {
        endpoint
            .port
            .is_multiple_of(2)
            .then(|| ondemand_ebpf::Owner {
                slot: endpoint.port % 1024,
                role: 1 + endpoint.address[3] % 2,
                place: 0,
                alias: 0,
            })
    };
    let snapshot = snapshot::summarize(&records, owner, 7);
    let sockets: BTreeMap<Slot, _> = snapshot.sockets.into_iter().collect();
    let counted: u64 = sockets
        .values()
        .map(|sockets| {
            sockets.front
                + sockets.steered
                + sockets.back
                + sockets.older
                + sockets.half_open
                + sockets.front_listeners
                + sockets.back_listeners
        })
        .sum();
    assert!(counted <= records.len() as u64);
}
