//! Bytes of connections: TCP's own counts, added to the service's at the close, and for open
//! connections when a reader requests them. No program runs per packet.
//!
//! Both happen under the socket's lock (tcp_set_state's callers; `bpf_iter_tcp_seq_show`,
//! net/ipv4/tcp_ipv4.c), so a tag's added bytes never have two concurrent writers.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_jiffies64, bpf_skc_to_tcp_sock},
    programs::SockOpsContext,
};
use ondemand_ebpf::{Counters, NO_TICKS, Tag};

use crate::{
    context::{LAST_ACK, field, index, word},
    maps::atomic_add,
};

// TCP states, include/net/tcp_states.h.
const FIN_WAIT2: u32 = 5;
const CLOSING: u32 = 11;

/// Offset of `skc_flags` in `struct sock_common`. Set by the loader, from the running kernel's BTF;
/// .rodata is frozen, so the verifier sees a constant.
#[unsafe(no_mangle)]
static OFFSET_FLAGS: Global<u32> = Global::new(0);
/// Offsets in `struct tcp_sock`.
#[unsafe(no_mangle)]
static OFFSET_WRITE_SEQ: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_BYTES_RECEIVED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_BYTES_ACKED: Global<u32> = Global::new(0);

/// TCP's count of one connection since its start.
struct Total {
    received: u64,
    sent: u64,
}

/// A connection closes: adds the bytes that are not counted yet. TCP counts a received FIN and an
/// acknowledged one as a byte each (tcp_rcv_nxt_update and tcp_snd_una_update in
/// net/ipv4/tcp_input.c): these are subtracted.
#[inline(always)]
pub fn add_last(
    ctx: &SockOpsContext,
    socket: *mut c_void,
    tag: &mut Tag,
    counters: *mut Counters,
    old_state: u32,
) {
    let una = word!(ctx.ops, snd_una);
    // SAFETY: the context is valid during the whole program.
    let mut total = unsafe {
        Total {
            received: (*ctx.ops).bytes_received,
            sent: (*ctx.ops).bytes_acked,
        }
    };
    // SAFETY: a socket of the context; the result is a trusted pointer or null, and the
    // offsets are the running kernel's.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if !tcp.is_null() {
            total.received -= received_fin(tcp.cast());
            let end: u32 = field(tcp.cast(), OFFSET_WRITE_SEQ.load());
            let fin_acknowledged = old_state == FIN_WAIT2
                || ((old_state == CLOSING || old_state == LAST_ACK) && una == end);
            total.sent -= u64::from(fin_acknowledged);
        }
    }
    add(&total, tag, counters);
}

/// Adds the bytes that a connection has transferred so far. Its own FIN was not acknowledged yet, unless
/// its state says so.
///
/// # Safety
///
/// `tcp` is a BTF pointer to a `struct tcp_sock`.
#[inline(always)]
pub unsafe fn add_so_far(tcp: *mut c_void, state: u32, tag: &mut Tag, counters: *mut Counters) {
    // SAFETY: guaranteed by the caller; the offsets are the running kernel's.
    let total = unsafe {
        Total {
            received: field::<u64>(tcp, OFFSET_BYTES_RECEIVED.load()) - received_fin(tcp),
            sent: field::<u64>(tcp, OFFSET_BYTES_ACKED.load()) - u64::from(state == FIN_WAIT2),
        }
    };
    add(&total, tag, counters);
}

/// Offset of `lsndtime` in `struct tcp_sock`: when the last payload was sent (`tcp_event_data_sent`). Zero: this
/// kernel has none. A connection begins with both times at its establishment (`tcp_create_openreq_child`).
#[unsafe(no_mangle)]
static OFFSET_LSNDTIME: Global<u32> = Global::new(0);
/// Offset of `icsk_ack.lrcvtime` in `struct inet_connection_sock`, with which a `tcp_sock` begins: when the last
/// payload was received (`tcp_event_data_recv`).
#[unsafe(no_mangle)]
static OFFSET_LRCVTIME: Global<u32> = Global::new(0);

/// For how many ticks no byte of payload went either way.
///
/// # Safety
///
/// As for [`add_so_far`].
#[inline(always)]
pub unsafe fn silent(tcp: *mut c_void) -> u32 {
    let (sent, received) = (OFFSET_LSNDTIME.load(), OFFSET_LRCVTIME.load());
    if sent == 0 || received == 0 {
        return NO_TICKS;
    }
    // SAFETY: guaranteed by the caller; the helper has no preconditions.
    let (sent, received, now) = unsafe {
        let (sent, received): (u32, u32) = (field(tcp, sent), field(tcp, received));
        (sent, received, bpf_jiffies64() as u32)
    };
    let since = |then: u32| {
        let ticks = now.wrapping_sub(then);
        // It is later than the present, or so long ago that this cannot be told.
        if ticks >= 1 << 31 { 0 } else { ticks }
    };
    let (sent, received) = (since(sent), since(received));
    if sent < received { sent } else { received }
}

/// Whether the application has closed it, or is gone: `SOCK_DEAD`, bit 0 of `skc_flags`. A connection that
/// waits to be accepted does not have it.
///
/// # Safety
///
/// As for [`add_so_far`].
#[inline(always)]
pub unsafe fn is_orphan(tcp: *mut c_void) -> bool {
    // SAFETY: guaranteed by the caller.
    let flags: u64 = unsafe { field(tcp, OFFSET_FLAGS.load()) };
    flags & 1 != 0
}

/// One if the peer's FIN was received: only tcp_fin() sets `SOCK_DONE`, bit 1 of `skc_flags`.
///
/// # Safety
///
/// As for [`add_so_far`].
#[inline(always)]
unsafe fn received_fin(tcp: *mut c_void) -> u64 {
    // SAFETY: guaranteed by the caller.
    let flags: u64 = unsafe { field(tcp, OFFSET_FLAGS.load()) };
    flags >> 1 & 1
}

/// Adds what is new in `total`, and records it in the tag.
#[inline(always)]
fn add(total: &Total, tag: &mut Tag, counters: *mut Counters) {
    let leg = index(tag.leg);
    // SAFETY: a valid map value, and the index is below LEGS.
    unsafe {
        let received = (&raw mut (*counters).received_bytes).cast::<u64>();
        let sent = (&raw mut (*counters).sent_bytes).cast::<u64>();
        atomic_add(received.add(leg), total.received.wrapping_sub(tag.received));
        atomic_add(sent.add(leg), total.sent.wrapping_sub(tag.sent));
    }
    tag.received = total.received;
    tag.sent = total.sent;
}
