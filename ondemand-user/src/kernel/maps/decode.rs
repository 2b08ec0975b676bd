//! Decodes the bytes of the kernel's programs into the types that both sides share.

use std::{
    io::{ErrorKind, Read},
    net::IpAddr,
};

use anyhow::{Result, ensure};
use bytes::{Buf, BytesMut};
use ondemand_core::{
    caught::{Datagram, Packet},
    measure::{
        Ktime,
        sample::{KernelEvent, Slot},
    },
};
use ondemand_ebpf::{
    Client, EVENT_ACCEPTED, EVENT_ANSWERED, EVENT_BOUND, EVENT_CLOSED, EVENT_FORWARDER,
    EVENT_LISTENING, EVENT_OPENED, EVENT_STRANGER, EVENT_UNLISTENED, Event, SocketRecord,
};

use super::watchlist::address_of;

/// Bytes per read from an iterator: the maximum that the kernel returns (`bpf_seq_read`,
/// kernel/bpf/bpf_iter.c: eight pages).
const PIECE: usize = 32 * 1024;

/// The meaning of a message of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// An event for the agent.
    Event(KernelEvent),
    /// A listener of this service was closed.
    Unlistened(Slot),
    /// A kind that this agent does not know.
    Unknown(Event),
}

/// Decodes a message of the ring buffer. `None`: it is too short.
pub(crate) fn message(mut item: &[u8]) -> Option<Message> {
    let event = Event {
        kind: item.try_get_u32_ne().ok()?,
        slot: item.try_get_u32_ne().ok()?,
        at: item.try_get_u64_ne().ok()?,
    };
    let slot = Slot(event.slot);
    let at = Ktime::from_nanos(event.at);
    Some(match event.kind {
        EVENT_LISTENING => Message::Event(KernelEvent::Listening(slot, at)),
        EVENT_ACCEPTED => Message::Event(KernelEvent::Accepted(slot)),
        EVENT_FORWARDER => Message::Event(KernelEvent::Forwarder(slot, at)),
        EVENT_STRANGER => Message::Event(KernelEvent::Stranger(slot, at)),
        EVENT_BOUND => Message::Event(KernelEvent::Bound(slot, at)),
        EVENT_OPENED => Message::Event(KernelEvent::Opened(slot)),
        EVENT_CLOSED => Message::Event(KernelEvent::Closed(slot)),
        EVENT_ANSWERED => Message::Event(KernelEvent::Answered(slot, at)),
        EVENT_UNLISTENED => Message::Unlistened(slot),
        _ => Message::Unknown(event),
    })
}

/// Decodes a caught packet, and when it came. `None`: it is none that matters.
pub(crate) fn caught(mut item: &[u8]) -> Option<(Packet, Ktime)> {
    let at = item.try_get_u64_ne().ok()?;
    let device = item.try_get_u32_ne().ok()?;
    let len = item.try_get_u32_ne().ok()?;
    let packet = Packet::parse(item.get(..len as usize)?, device)?;
    Some((packet, Ktime::from_nanos(at)))
}

/// Decodes a datagram that is held, and when it came. `None`: it is not whole.
pub(crate) fn datagram(mut item: &[u8]) -> Option<(Datagram, Ktime)> {
    let at = item.try_get_u64_ne().ok()?;
    let device = item.try_get_u32_ne().ok()?;
    let len = item.try_get_u32_ne().ok()?;
    let mut address = || -> Option<IpAddr> {
        let mut words = [0; 4];
        for word in &mut words {
            *word = item.try_get_u32_ne().ok()?;
        }
        Some(address_of(words))
    };
    let (from, to) = (address()?, address()?);
    let datagram = Datagram::new(from, to, item.get(..len as usize)?, device)?;
    Some((datagram, Ktime::from_nanos(at)))
}

/// Reads the output of an iterator in pieces: a host may have a million sockets.
///
/// # Errors
///
/// It cannot be read, or ends in the middle of a record.
pub(crate) fn records(from: impl Read) -> Result<Vec<SocketRecord>> {
    let mut records = Vec::new();
    each(from, record, |record| records.push(record))?;
    Ok(records)
}

/// The same of the iterator `clients`, without keeping them.
///
/// # Errors
///
/// As for [`records`].
pub(crate) fn clients(from: impl Read, take: impl FnMut(Client)) -> Result<()> {
    each(from, client, take)
}

fn each<T>(
    mut from: impl Read,
    next: impl Fn(&mut BytesMut) -> Option<T>,
    mut take: impl FnMut(T),
) -> Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let left = buffer.len();
        buffer.resize(left + PIECE, 0);
        let read = loop {
            match from.read(&mut buffer[left..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        buffer.truncate(left + read);
        while let Some(item) = next(&mut buffer) {
            take(item);
        }
        if read == 0 {
            ensure!(
                buffer.is_empty(),
                "the kernel's list of sockets ends in the middle of a record"
            );
            return Ok(());
        }
    }
}

/// As [`record`].
fn client(buffer: &mut BytesMut) -> Option<Client> {
    if buffer.remaining() < size_of::<Client>() {
        return None;
    }
    Some(Client {
        slot: buffer.get_u32_ne(),
        leg: buffer.get_u32_ne(),
        address: [(); 4].map(|()| buffer.get_u32_ne()),
        port: buffer.get_u32_ne(),
        silent: buffer.get_u32_ne(),
        since: buffer.get_u64_ne(),
    })
}

/// Takes a record from the front of `buffer`. `None`: there is no complete one.
fn record(buffer: &mut BytesMut) -> Option<SocketRecord> {
    if buffer.remaining() < size_of::<SocketRecord>() {
        return None;
    }
    Some(SocketRecord {
        slot: buffer.get_u32_ne(),
        role: buffer.get_u32_ne(),
        leg: buffer.get_u32_ne(),
        state: buffer.get_u32_ne(),
        port: buffer.get_u32_ne(),
        family: buffer.get_u32_ne(),
        address: [(); 4].map(|()| buffer.get_u32_ne()),
    })
}

/// Decodes a name of the maps. `None`: the slot is unused.
pub(crate) fn name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|byte| *byte == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_never_read_beyond_its_end() {
        let bytes = [EVENT_OPENED, 7, 1, 0].map(u32::to_ne_bytes).concat();
        for end in 0..bytes.len() {
            assert_eq!(message(&bytes[..end]), None, "{end}");
        }
        let opened = Some(Message::Event(KernelEvent::Opened(Slot(7))));
        assert_eq!(message(&bytes), opened);
    }

    #[test]
    fn what_the_kernel_dates_keeps_its_moment() {
        let (slot, at) = (Slot(7), Ktime::from_nanos(1 << 40));
        for (kind, expected) in [
            (EVENT_LISTENING, KernelEvent::Listening(slot, at)),
            (EVENT_ANSWERED, KernelEvent::Answered(slot, at)),
            (EVENT_CLOSED, KernelEvent::Closed(slot)),
        ] {
            let mut bytes = [kind, 7].map(u32::to_ne_bytes).concat();
            bytes.extend(at.as_nanos().to_ne_bytes());
            assert_eq!(message(&bytes), Some(Message::Event(expected)));
        }
    }

    /// Returns its contents in pieces of seven bytes.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let most = buffer.len().min(7);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn records_are_whole() {
        assert_eq!(records(&[][..]).unwrap(), []);
        assert_eq!(records(&[1; 40][..]).unwrap()[0].slot, 0x0101_0101);
        let words: Vec<u8> = (0..20_u32).flat_map(u32::to_ne_bytes).collect();
        let read = records(Slow(&words)).unwrap();
        assert_eq!(read, records(&words[..]).unwrap());
        let [_, second] = read[..] else {
            panic!("{read:?}");
        };
        assert_eq!((second.slot, second.family), (10, 15));
        assert_eq!(second.address, [16, 17, 18, 19]);
        assert!(records(Slow(&words[..79])).is_err());
    }

    #[test]
    fn a_name_ends_at_its_first_nul() {
        assert_eq!(name(b"wiki\0x\0").as_deref(), Some("wiki"));
        assert_eq!(name(b"wiki").as_deref(), Some("wiki"));
        assert_eq!(name(&[0; 64]), None);
        assert_eq!(name(&[]), None);
    }
}
