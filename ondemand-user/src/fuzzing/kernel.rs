//! Input from the kernel and its programs.

use std::{collections::BTreeMap, path::Path};

use ondemand_core::{
    caught::{Datagrams, Packet},
    measure::sample::Slot,
};
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

/// Packets and datagrams of clients that are held. What is sent again is as long as its own headers say, goes to where it
/// came from, and is the same when it is read again.
pub fn caught(data: &[u8]) {
    if let Some((packet, _)) = decode::caught(data) {
        let sent = packet.to_send();
        let again = Packet::parse(&sent, packet.device).expect("what is sent is a packet");
        assert_eq!(
            (again.from, again.to, again.sequence, again.kind),
            (packet.from, packet.to, packet.sequence, packet.kind)
        );
        assert_eq!(again.to_send(), sent);
        assert!(sent.len() <= data.len());
    }
    if let Some((datagram, at)) = decode::datagram(data) {
        let sent = datagram.to_send();
        // The header of IPv4 or IPv6 before what came; and what came is after the stamp, two words and two addresses.
        let header = if datagram.from.is_ipv4() { 20 } else { 40 };
        assert!(sent.len() <= header + data.len() - 48);
        let mut held = Datagrams::default();
        held.take(datagram.clone(), at, 0);
        assert_eq!(held.release(&[datagram.to.port()]), [datagram]);
        assert!(held.is_empty() && held.bytes() == 0);
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
