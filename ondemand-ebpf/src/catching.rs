//! Clients that are held: while a service is down, their SYNs are assigned to a socket of the agent's, whose
//! filter copies them into a ring buffer and drops them. They get no answer, and wait. The agent starts the
//! application, and sends the same packets again when it listens.
//!
//! Nobody waits for an agent that is gone: its sockets leave the map with it, and the front socket answers, as it
//! does for who is not held: a client from a public address, which may be forged, and those above the bounds.

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::generated::bpf_skb_load_bytes_relative,
    macros::socket_filter,
    programs::{SkBuffContext, SkLookupContext},
};
use ondemand_ebpf::{
    Caught, GATE_WAKE, INET6, LIST_WAKE, MAX_SERVICES, MOST_CAUGHT, MOST_OF_SERVICE, PACKET,
    SENDER_NS, Sender, UNREAD_NS, WINDOW_NS, catcher_place,
};

use crate::{
    context::{MAPPED, assign, bounded, is_v4, now, remote_address, sender, word},
    maps::{
        CATCHERS, CAUGHT, PASSES, SENDERS, UNREAD, WINDOWS, atomic_add, atomic_exchange, is_listed,
    },
};

/// Takes the permission for one connection, if there is one.
#[inline(always)]
pub fn takes_pass(slot: u32) -> bool {
    let Some(pass) = PASSES.get_ptr_mut(slot) else {
        return false;
    };
    // SAFETY: a valid map value; the agent only stores whole words.
    unsafe { core::ptr::read_volatile(pass) != 0 && atomic_exchange(pass, 0) != 0 }
}

/// Assigns the client to the agent's socket if it may be held, and returns whether it was. Otherwise it goes to the
/// front socket.
#[inline(always)]
pub fn catch(ctx: &SkLookupContext, slot: u32, family: u32, port: u32, gate: u64) -> bool {
    let lookup = ctx.lookup;
    let address = remote_address!(lookup, family);
    let is_known =
        is_private(address) || (gate & GATE_WAKE != 0 && is_listed(slot, LIST_WAKE, address));
    if !is_known {
        return false;
    }
    let sender = sender(ctx, family, port);
    let now = now();
    // SAFETY: entries are only replaced as a whole.
    if unsafe { SENDERS.get(sender) }.is_some_and(|until| now < *until) || is_unread(0, now) {
        return false;
    }
    if !fits(slot, MOST_OF_SERVICE, now) || !fits(MAX_SERVICES, MOST_CAUGHT, now) {
        // What it sends next belongs to the same socket.
        let _ = SENDERS.insert(sender, now + SENDER_NS, 0);
        return false;
    }
    // SAFETY: the map has places of this kind.
    let taken = unsafe {
        assign(
            ctx,
            (&raw const CATCHERS).cast_mut().cast(),
            catcher_place(family),
        )
    };
    taken == Some(true)
}

/// Counts a packet, if the present second has room for it. Two CPUs may begin a second at once, and forget what they
/// counted: the bound is not exact.
#[inline(always)]
pub fn fits(place: u32, most: u64, now: u64) -> bool {
    let Some(window) = WINDOWS.get_ptr_mut(place) else {
        return false;
    };
    // SAFETY: a valid map value, whose words are read and written whole.
    unsafe {
        let (since, caught) = (&raw mut (*window).since, &raw mut (*window).caught);
        if now.wrapping_sub(core::ptr::read_volatile(since)) >= WINDOW_NS {
            core::ptr::write_volatile(since, now);
            core::ptr::write_volatile(caught, 0);
        }
        if core::ptr::read_volatile(caught) >= most {
            return false;
        }
        atomic_add(caught, 1);
    }
    true
}

/// Notes that this client is at the front socket.
#[inline(always)]
pub fn goes_to_front(ctx: &SkLookupContext, family: u32, port: u32) {
    let sender = sender(ctx, family, port);
    let _ = SENDERS.insert(sender, now() + SENDER_NS, 0);
}

/// Whether the agent has left a packet unread for too long. `place`: 1 for datagrams.
#[inline(always)]
pub fn is_unread(place: u32, now: u64) -> bool {
    let Some(since) = UNREAD.get_ptr(place) else {
        return true;
    };
    // SAFETY: a valid map value; the agent only stores whole words.
    let since = unsafe { core::ptr::read_volatile(since) };
    since != 0 && now > since && now - since > UNREAD_NS
}

/// Whether an address belongs to this host or to networks that nobody routes: loopback, link-local, private
/// (RFC 1918) and unique local (RFC 4193) ones. The source of a SYN from elsewhere may be forged.
#[inline(always)]
pub fn is_private(address: [u32; 4]) -> bool {
    let [first, second, third, last] = address;
    if is_v4(&address) {
        let v4 = u32::from_be(last);
        return v4 >> 24 == 127
            || v4 >> 24 == 10
            || v4 >> 20 == 0xac1
            || v4 >> 16 == 0xc0a8
            || v4 >> 16 == 0xa9fe;
    }
    let v6 = u32::from_be(first);
    let is_loopback = first == 0 && second == 0 && third == 0 && last == u32::from_be(1);
    is_loopback || v6 >> 22 == 0x3fa || v6 >> 25 == 0x7e
}

/// Flags of a TCP header.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The filter of the agent's sockets. It drops the SYNs, having copied them, without an answer. Everything else is
/// answered as at any listener: what a client sends that knows nothing of the connection's end is reset.
#[socket_filter]
pub fn caught(ctx: SkBuffContext) -> i64 {
    let everything = i64::from(ctx.len());
    // The filter starts at the TCP header (`tcp_filter`, net/ipv4/tcp_ipv4.c).
    let Ok(flags) = ctx.load::<u8>(13) else {
        return everything;
    };
    if flags & (SYN | ACK | RST) == SYN {
        if copy(&ctx).is_none() {
            to_front(&ctx);
        }
        return 0;
    }
    if flags & RST != 0 {
        // A client that has given up.
        let _ = copy(&ctx);
    }
    everything
}

/// Copies the headers of the packet.
#[inline(always)]
fn copy(ctx: &SkBuffContext) -> Option<()> {
    let version: u8 = network(ctx, 0)?;
    let before_tcp = match version >> 4 {
        4 => u32::from(version & 15) * 4,
        _ if network::<u8>(ctx, 6)? == TCP => 40,
        _ => return None,
    };
    let tcp = u32::from(ctx.load::<u8>(12).ok()? >> 4) * 4;
    let len = before_tcp + tcp;
    if !(40..=PACKET as u32).contains(&len) {
        return None;
    }
    let len = bounded::<PACKET>(len);
    let mut entry = CAUGHT.reserve::<Caught>(0)?;
    let at = now();
    let place = entry.as_mut_ptr();
    // SAFETY: the entry is of this type, and `len` bytes of its packet are written by the helper.
    let result = unsafe {
        (*place).at = at;
        (*place).device = (*ctx.skb.skb).ifindex;
        (*place).len = len;
        bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            0,
            (&raw mut (*place).packet).cast(),
            len,
            BPF_HDR_START_NET,
        )
    };
    if result != 0 {
        entry.discard(0);
        return None;
    }
    comes(0, at);
    entry.submit(0);
    Some(())
}

/// Notes that there is a packet for the agent, before there is: a note that came after the agent has read all would stay.
#[inline(always)]
pub fn comes(place: u32, at: u64) {
    let Some(unread) = UNREAD.get_ptr_mut(place) else {
        return;
    };
    // SAFETY: a valid map value. That of another packet at the same moment is as good.
    unsafe {
        if core::ptr::read_volatile(unread) == 0 {
            core::ptr::write_volatile(unread, at);
        }
    }
}

/// `IPPROTO_TCP`
const TCP: u8 = 6;

/// A client whose packet could not be copied goes to the front socket when it sends it again.
#[inline(always)]
fn to_front(ctx: &SkBuffContext) {
    let find = || -> Option<Sender> {
        let version: u8 = network(ctx, 0)?;
        let address = match version >> 4 {
            4 => [0, 0, MAPPED, network(ctx, 12)?],
            _ => network::<[u32; 4]>(ctx, 8)?,
        };
        Some(Sender {
            address,
            port: u16::from_be(ctx.load(0).ok()?),
            to: u16::from_be(ctx.load(2).ok()?),
        })
    };
    if let Some(sender) = find() {
        let _ = SENDERS.insert(sender, now() + SENDER_NS, 0);
    }
}

/// Loads a value at an offset from the IP header.
#[inline(always)]
pub fn network<T: Copy>(ctx: &SkBuffContext, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes the whole value, or fails.
    unsafe {
        let result = bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            offset,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        );
        (result == 0).then(|| value.assume_init())
    }
}
