//! Bytes of the kernel's programs as the types that both sides share.

use anyhow::{Result, ensure};
use aya::Pod;
use ondemand_core::measure::{
    Ktime,
    sample::{KernelEvent, Slot},
};
use ondemand_ebpf::{
    EVENT_ANSWERED, EVENT_CLOSED, EVENT_LISTENING, EVENT_OPENED, EVENT_UNLISTENED, Event,
    SocketRecord,
};

/// What a message of the ring buffer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// For the agent.
    Event(KernelEvent),
    /// Of several listeners (SO_REUSEPORT) the one that steering held may be the one that went.
    Unlistened,
    /// Of a kind that this agent does not know.
    Unknown(Event),
}

/// A message of the ring buffer. `None`: it is too short for one.
pub(crate) fn message(item: &[u8]) -> Option<Message> {
    let event: Event = value(item)?;
    let slot = Slot(event.slot);
    let at = Ktime::from_nanos(event.at);
    Some(match event.kind {
        EVENT_LISTENING => Message::Event(KernelEvent::Listening(slot, at)),
        EVENT_OPENED => Message::Event(KernelEvent::Opened(slot)),
        EVENT_CLOSED => Message::Event(KernelEvent::Closed(slot)),
        EVENT_ANSWERED => Message::Event(KernelEvent::Answered(slot, at)),
        EVENT_UNLISTENED => Message::Unlistened,
        _ => Message::Unknown(event),
    })
}

/// What an iterator wrote.
///
/// # Errors
///
/// It ends in the middle of a record.
pub(crate) fn records(bytes: &[u8]) -> Result<Vec<SocketRecord>> {
    let chunks = bytes.chunks_exact(size_of::<SocketRecord>());
    ensure!(
        chunks.remainder().is_empty(),
        "the kernel's list of sockets ends in the middle of a record"
    );
    Ok(chunks.filter_map(value).collect())
}

/// A name as the maps have it. `None`: nobody's.
pub(crate) fn name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|byte| *byte == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// The value at the front of `bytes`, which need not be aligned. `None`: they are too few.
fn value<T: Pod>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: there are as many bytes as the type has, and as it is `Pod` any bytes are a value of it.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_at_any_alignment_and_never_beyond_the_end() {
        let mut bytes = vec![0xff];
        for word in [EVENT_OPENED, 7, 1, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        for start in 0..bytes.len() {
            let event: Option<Event> = value(&bytes[start..]);
            assert_eq!(event.is_some(), start < 2, "{start}");
        }
        let opened = Some(Message::Event(KernelEvent::Opened(Slot(7))));
        assert_eq!(message(&bytes[1..]), opened);
        assert_eq!(message(&bytes[2..]), None);
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

    #[test]
    fn records_are_whole() {
        assert_eq!(records(&[]).unwrap(), []);
        assert_eq!(records(&[1; 80]).unwrap().len(), 2);
        assert_eq!(records(&[1; 40]).unwrap()[0].slot, 0x0101_0101);
        assert!(records(&[1; 79]).is_err());
    }

    #[test]
    fn a_name_ends_at_its_first_nul() {
        assert_eq!(name(b"wiki\0x\0").as_deref(), Some("wiki"));
        assert_eq!(name(b"wiki").as_deref(), Some("wiki"));
        assert_eq!(name(&[0; 64]), None);
        assert_eq!(name(&[]), None);
    }
}
