//! Datagrams for applications that keep the addresses where their clients arrive. sk_lookup runs for each one to a socket that
//! is not connected: that is the clock of their use. While the service is down or stops, they are assigned to a
//! socket of the agent's, whose filter copies them into a ring buffer, and sent again when the application has bound
//! their port.
//!
//! Nothing waits for an agent that is gone or hangs: then they line up at a front socket of PID 1's, for which that starts the
//! proxy, and that sends them again.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{bpf_get_netns_cookie, bpf_skb_load_bytes},
    macros::{cgroup_sock, socket_filter},
    programs::{SkBuffContext, SkLookupContext, SockContext},
};
use ondemand_ebpf::{
    DATAGRAM, DATAGRAM_SIZES, Datagram, EVENT_BOUND, EVENT_OPENED, EVENT_UNLISTENED, Endpoint,
    GATE_DRAIN, GATE_HOLD, GATE_IGNORE, GATE_PASS, GATE_WAKE, INET, INET6, LEG_LISTENER,
    LINED_UP_NS, LIST_IGNORE, LIST_WAKE, MAX_SERVICES, MOST_CAUGHT, MOST_OF_SERVICE, Owner,
    PORT_UDP, ROLE_BACKEND, ROLE_FRONT, ROLE_OWN, Tag, datagram_place, listener_place,
};

use crate::{
    catching::{comes, fits, is_private, is_unread, network},
    context::{
        MAPPED, NETNS, assign, bounded, field, local_address, now, process, remote_address, word,
    },
    icmp,
    maps::{
        AGENT, ALARMS, CATCHERS, COUNTERS, DATAGRAM_FRONTS, DATAGRAMS, ENDPOINTS, LINES, USERS,
        atomic_add, atomic_exchange, emit, gate, is_listed, port_word, set_tag, tag,
    },
    own,
    snapshot::{
        IteratorMeta, OFFSET_ADDRESS4, OFFSET_ADDRESS6, OFFSET_FAMILY, OFFSET_PORT, insert,
    },
    steering::{DROP, PASS},
};

/// The loopback's index, in every network namespace.
const LOOPBACK: u32 = 1;

/// A datagram at a watched port.
#[inline(always)]
pub fn arrive(ctx: &SkLookupContext, family: u32, port: u32) -> u32 {
    let lookup = ctx.lookup;
    let (local, remote) = (
        local_address!(lookup, family),
        remote_address!(lookup, family),
    );
    let device = word!(lookup, ingress_ifindex);
    let may_be_again = family == INET6 || device == LOOPBACK;
    let Some(owner) = own::owner(NETNS.load(), DATAGRAM, local, port) else {
        return PASS;
    };
    let Owner {
        slot, place, role, ..
    } = *owner;
    if role == ROLE_FRONT {
        end_line(slot);
        return DROP;
    }
    if icmp::is_reason(ctx, family, port) {
        return PASS;
    }
    let gate = gate(slot);
    // A socket of the other family: this one is refused as without ondemand.
    let is_bound = own::is_present(slot, place, INET) || own::is_present(slot, place, INET6);
    let passes =
        gate & GATE_PASS != 0 || (gate & GATE_DRAIN != 0 && may_be_again && is_sent_again());
    let is_held = gate & GATE_HOLD != 0 && !(is_bound && passes);
    // Where no agent is: while the application is not there, and then behind those that are sent on.
    let lines_up = !is_bound || (is_line(slot) && !(may_be_again && is_of_unit(slot)));
    if is_held || (lines_up && gate & GATE_PASS == 0) {
        // What comes while the application is there is use, whoever sent it.
        let may_wake = is_bound
            || match gate & GATE_WAKE {
                0 => is_private(remote),
                _ => is_listed(slot, LIST_WAKE, remote),
            };
        if !may_wake {
            if let Some(counters) = COUNTERS.get_ptr_mut(slot) {
                // SAFETY: a valid map value.
                unsafe { atomic_add(&raw mut (*counters).refused_datagrams, 1) };
            }
            return DROP;
        }
        if is_held && catch(ctx, slot, family) {
            return PASS;
        }
        if lines_up && line_up(ctx, slot, family) {
            return PASS;
        }
    }
    let counts = is_bound && (gate & GATE_IGNORE == 0 || !is_listed(slot, LIST_IGNORE, remote));
    if counts && let Some(counters) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: a valid map value. The agent waits until the programs are over that may have read another gate, and
        // reads these after that.
        unsafe {
            core::ptr::write_volatile(&raw mut (*counters).last_datagram, now());
            atomic_add(&raw mut (*counters).datagrams, 1);
        }
        end_quiet(slot);
    }
    PASS
}

/// Whether datagrams line up at the front sockets.
#[inline(always)]
fn is_line(slot: u32) -> bool {
    let Some(line) = LINES.get_ptr(slot) else {
        return false;
    };
    // SAFETY: a valid map value, whose words are written whole.
    let since = unsafe { core::ptr::read_volatile(&raw const (*line).since) };
    since != 0 && now().wrapping_sub(since) < LINED_UP_NS
}

/// The proxy says that it has sent on all that it found, by a datagram to the private address. If none has lined up since it said so
/// before, none is left: it has looked in between.
#[inline(always)]
fn end_line(slot: u32) {
    let Some(line) = LINES.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: as above.
    unsafe {
        let number = core::ptr::read_volatile(&raw const (*line).number);
        if core::ptr::read_volatile(&raw const (*line).taken) == number {
            core::ptr::write_volatile(&raw mut (*line).since, 0);
        }
        core::ptr::write_volatile(&raw mut (*line).taken, number);
    }
}

/// Assigns it to the front socket, if PID 1 has one.
#[inline(always)]
fn line_up(ctx: &SkLookupContext, slot: u32, family: u32) -> bool {
    let front = listener_place(slot, family);
    // SAFETY: the map has places of this kind.
    let taken = unsafe { assign(ctx, (&raw const DATAGRAM_FRONTS).cast_mut().cast(), front) };
    if taken != Some(true) {
        return false;
    }
    if let Some(line) = LINES.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe {
            atomic_add(&raw mut (*line).number, 1);
            if !is_line(slot) {
                core::ptr::write_volatile(&raw mut (*line).since, now());
            }
        }
    }
    true
}

/// Whether it is sent by a unit of the service: by the proxy, one that has waited. As for [`is_sent_again`].
#[inline(always)]
fn is_of_unit(slot: u32) -> bool {
    process() == 0 || own::service_of_process() == Some(slot)
}

/// Reports the first datagram after a quiet time, on request.
#[inline(always)]
fn end_quiet(slot: u32) {
    let Some(alarm) = ALARMS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: a valid map value, whose words are written whole.
    let is_first = unsafe {
        let opened = &raw mut (*alarm).opened;
        core::ptr::read_volatile(opened) != 0 && atomic_exchange(opened, 0) != 0
    };
    if is_first {
        emit(EVENT_OPENED, slot, now());
    }
}

/// Whether the agent sends it, one that was held. What it sends to this host it usually receives itself, before sendto(2)
/// returns; or a thread of the kernel's does, which may have somebody else's, too. (The device alone does not tell: for
/// IPv6 it is that of the address, `ip6_rcv_core`, net/ipv6/ip6_input.c.)
#[inline(always)]
fn is_sent_again() -> bool {
    let process = process();
    process == 0 || AGENT.get(0).is_some_and(|agent| *agent == process)
}

/// Assigns it to the agent's socket, if there is one that is read, and it is not above the bounds.
#[inline(always)]
fn catch(ctx: &SkLookupContext, slot: u32, family: u32) -> bool {
    let now = now();
    if is_unread(1, now)
        || !fits(slot, MOST_OF_SERVICE, now)
        || !fits(MAX_SERVICES, MOST_CAUGHT, now)
    {
        return false;
    }
    let place = datagram_place(family);
    // SAFETY: the map has places of this kind.
    let taken = unsafe { assign(ctx, (&raw const CATCHERS).cast_mut().cast(), place) };
    taken == Some(true)
}

/// The filter of the agent's sockets. Nothing stays in them.
#[socket_filter]
pub fn datagram(ctx: SkBuffContext) -> i64 {
    copy(&ctx);
    0
}

/// An entry of the ring buffer.
#[repr(C)]
struct Entry<const N: usize> {
    head: Datagram,
    bytes: [u8; N],
}

/// Copies the datagram: the filter starts at the header of UDP (`udp_queue_rcv_one_skb`, net/ipv4/udp.c).
#[inline(always)]
fn copy(ctx: &SkBuffContext) -> Option<()> {
    const SMALL: usize = DATAGRAM_SIZES[0];
    const USUAL: usize = DATAGRAM_SIZES[1];
    const LARGEST: usize = DATAGRAM_SIZES[2];
    let version: u8 = network(ctx, 0)?;
    let (from, to) = match version >> 4 {
        4 => (
            [0, 0, MAPPED, network(ctx, 12)?],
            [0, 0, MAPPED, network(ctx, 16)?],
        ),
        _ => (network(ctx, 8)?, network(ctx, 24)?),
    };
    let head = Datagram {
        at: now(),
        device: word!(ctx.skb.skb, ifindex),
        len: ctx.len(),
        from,
        to,
    };
    let skb = ctx.skb.skb;
    match head.len as usize {
        0..=SMALL => write::<SMALL>(skb, head),
        ..=USUAL => write::<USUAL>(skb, head),
        _ => write::<LARGEST>(skb, head),
    }
}

#[inline(always)]
fn write<const N: usize>(skb: *mut __sk_buff, head: Datagram) -> Option<()> {
    // A header of UDP at least.
    if !(8..=N as u32).contains(&head.len) {
        return None;
    }
    let len = bounded::<N>(head.len);
    let mut entry = DATAGRAMS.reserve::<Entry<N>>(0)?;
    let place = entry.as_mut_ptr();
    // SAFETY: the entry is of this type, and `len` of its bytes are written by the helper.
    let result = unsafe {
        (*place).head = head;
        bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*place).bytes).cast(), len)
    };
    if result != 0 {
        entry.discard(0);
        return None;
    }
    comes(1, head.at);
    entry.submit(0);
    Some(())
}

/// bind(2) of a socket over IPv4 has succeeded.
#[cgroup_sock(post_bind4)]
pub fn bound4(ctx: SockContext) -> i32 {
    let address = word!(ctx.sock, src_ip4);
    bound(ctx.sock, INET, [0, 0, MAPPED, address])
}

/// bind(2) of a socket over IPv6 has succeeded.
#[cgroup_sock(post_bind6)]
pub fn bound6(ctx: SockContext) -> i32 {
    let address = [
        word!(ctx.sock, src_ip6[0]),
        word!(ctx.sock, src_ip6[1]),
        word!(ctx.sock, src_ip6[2]),
        word!(ctx.sock, src_ip6[3]),
    ];
    bound(ctx.sock, INET6, address)
}

#[inline(always)]
fn bound(socket: *mut bpf_sock, family: u32, address: [u32; 4]) -> i32 {
    const ALLOW: i32 = 1;
    let (protocol, port) = (word!(socket, protocol), word!(socket, src_port));
    if protocol != DATAGRAM || port_word(port) & PORT_UDP == 0 {
        return ALLOW;
    }
    // SAFETY: the context is valid during the whole program.
    let netns = unsafe { bpf_get_netns_cookie(socket.cast()) };
    if let Some(owner) = bound_there(netns, address, port).filter(|of| of.role == ROLE_OWN) {
        // SAFETY: the context is the socket.
        unsafe { remember(socket.cast(), &owner, family, port, address) };
        emit(EVENT_BOUND, owner.slot, now());
    }
    ALLOW
}

/// The owner of exactly this address.
#[inline(always)]
fn bound_there(netns: u64, address: [u32; 4], port: u32) -> Option<Owner> {
    let endpoint = Endpoint {
        netns,
        address,
        port,
        protocol: DATAGRAM,
    };
    // SAFETY: entries are only replaced as a whole.
    unsafe { ENDPOINTS.get(endpoint) }.copied()
}

/// Tags a socket, and counts it where its datagrams arrive.
///
/// # Safety
///
/// `socket` is a socket pointer for the verifier, and is not null.
#[inline(always)]
unsafe fn remember(socket: *mut c_void, owner: &Owner, family: u32, port: u32, address: [u32; 4]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if let Some(before) = tag(socket).as_mut() {
            own::vanishes(before);
        }
        let listens = own::appears(owner, family, &address);
        let value = Tag {
            slot: owner.slot,
            role: ROLE_OWN,
            leg: LEG_LISTENER,
            port,
            address,
            listens,
            ..Tag::default()
        };
        set_tag(socket, value);
    }
}

/// Counts a socket no more whose address belongs to no service now.
///
/// # Safety
///
/// As for [`remember`].
#[inline(always)]
unsafe fn forget(socket: *mut c_void) {
    // SAFETY: guaranteed by the caller; not null, so it points at the socket's own storage.
    unsafe {
        if let Some(tag) = tag(socket).as_mut() {
            own::vanishes(tag);
        }
    }
}

/// The last descriptor of a socket is closed. Of a listener that is older than the programs this is the only sign, whether it was shut
/// down before or not: no sock_ops program is called for it. A connection is not counted.
#[cgroup_sock(sock_release)]
pub fn released(ctx: SockContext) -> i32 {
    const ALLOW: i32 = 1;
    // SAFETY: the context is the socket; its tag was read before it is gone.
    if let Some(tag) = unsafe { tag(ctx.sock.cast()).as_mut() } {
        own::vanishes(tag);
        // The agent looks for another one (SO_REUSEPORT). This one is gone before it does.
        if tag.role == ROLE_BACKEND && tag.leg == LEG_LISTENER && tag.since == 0 {
            emit(EVENT_UNLISTENED, tag.slot, now());
        }
    }
    ALLOW
}

/// `struct bpf_iter__udp`
#[repr(C)]
pub struct UdpIterator {
    meta: *const IteratorMeta,
    socket: *mut c_void,
    uid: u32,
    bucket: i32,
}

/// Tags sockets that are older than the watch, and notes which process does so. Writes no records.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub fn adopt_udp(ctx: *const UdpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let (socket, user) = unsafe { ((*ctx).socket, (*ctx).uid) };
    if socket.is_null() {
        // The end. The process that reads it is the agent.
        if let Some(agent) = AGENT.get_ptr_mut(0) {
            // SAFETY: a valid map value.
            unsafe { core::ptr::write_volatile(agent, process()) };
        }
        return 0;
    }
    // SAFETY: checked against null.
    let (family, port, address) = unsafe { bound_at(socket) };
    let owner = match port_word(port) & PORT_UDP {
        0 => None,
        _ => bound_there(NETNS.load(), address, port),
    };
    let Some(owner) = owner.filter(|owner| owner.role == ROLE_OWN) else {
        // SAFETY: a BTF pointer to a socket, checked against null.
        unsafe { forget(socket) };
        return 0;
    };
    let is_known = user == 0 || USERS.get(owner.slot).is_some_and(|known| *known == user);
    // SAFETY: a BTF pointer to a socket, checked against null.
    unsafe {
        if is_known || own::service_of_object(socket) == Some(owner.slot) {
            remember(socket, &owner, family, port, address);
        }
    }
    0
}

/// Puts the front sockets into their places: PID 1 has bound them, and nothing tells of that. Writes no records.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub fn adopt_fronts(ctx: *const UdpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let (socket, user) = unsafe { ((*ctx).socket, (*ctx).uid) };
    if socket.is_null() || user != 0 {
        return 0;
    }
    // SAFETY: checked against null.
    let (family, port, address) = unsafe { bound_at(socket) };
    if port_word(port) & PORT_UDP == 0 {
        return 0;
    }
    if let Some(owner) = bound_there(NETNS.load(), address, port).filter(|of| of.role == ROLE_FRONT)
    {
        let place = listener_place(owner.slot, family);
        // SAFETY: the map has places of this kind.
        unsafe {
            insert(
                socket,
                (&raw const DATAGRAM_FRONTS).cast_mut().cast(),
                place,
                0,
            )
        };
    }
    0
}

/// The family of a socket, its port, and the address that it is bound to.
///
/// # Safety
///
/// `socket` is a BTF pointer to a socket.
#[inline(always)]
unsafe fn bound_at(socket: *mut c_void) -> (u32, u32, [u32; 4]) {
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let (family, port, v4, v6) = unsafe {
        (
            u32::from(field::<u16>(socket, OFFSET_FAMILY.load())),
            u32::from(field::<u16>(socket, OFFSET_PORT.load())),
            field::<u32>(socket, OFFSET_ADDRESS4.load()),
            [0, 4, 8, 12].map(|at| field::<u32>(socket, OFFSET_ADDRESS6.load() + at)),
        )
    };
    let address = if family == INET6 {
        v6
    } else {
        [0, 0, MAPPED, v4]
    };
    (family, port, address)
}
