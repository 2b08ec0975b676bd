//! sock_ops: tags listeners, and counts connections when they are established and closed.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_map_update, generated::bpf_skc_to_tcp_sock,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use ondemand_ebpf::{
    Alarm, Counters, EVENT_ACCEPTED, EVENT_ANSWERED, EVENT_CLOSED, EVENT_FORWARDER,
    EVENT_LISTENING, EVENT_OPENED, EVENT_STRANGER, EVENT_UNLISTENED, Endpoint, GATE_BYTES,
    GATE_IGNORE, GATE_OWN, GATE_PROBED, INET6, LEG_BACK, LEG_FRONT, LEG_IGNORED, LEG_LISTENER,
    LEG_PROBE, LEG_STEERED, LEGS, LIST_IGNORE, ROLE_FORWARDER, ROLE_FRONT, ROLE_OTHER, ROLE_OWN,
    STREAM, Tag, listener_place,
};

use crate::{
    context::{
        CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, LAST_ACK, LISTEN, NETNS, index, is_forwarder,
        is_trusted, local_address, now, peer, remember_listener, remote_address, word,
    },
    keepalive,
    maps::{
        ALARMS, COUNTERS, ENDPOINTS, FRONTS, LISTENERS, PROBES, atomic_add_ordered,
        atomic_exchange, emit, gate, is_listed, is_watched, set_tag, tag, watch_port,
    },
    own, traffic,
};

#[sock_ops]
pub fn connections(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(&ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed(&ctx),
        BPF_SOCK_OPS_RTT_CB => acknowledged(&ctx),
        BPF_SOCK_OPS_TCP_CONNECT_CB => own::connecting(&ctx),
        _ => {}
    }
    1
}

fn listening(ctx: &SockOpsContext) {
    let port = ctx.local_port();
    if !is_watched(port) {
        return other(ctx, port);
    }
    // SAFETY: the context is valid during the whole program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.ops.cast()) };
    let address = local_address!(ctx.ops, word!(ctx.ops, family));
    let endpoint = Endpoint {
        netns,
        address,
        port,
        protocol: STREAM,
    };
    // SAFETY: entries are only replaced as a whole; a torn read stays within the same service.
    let Some(owner) = (unsafe { ENDPOINTS.get(&endpoint) }) else {
        return other(ctx, port);
    };
    let (slot, role) = (owner.slot, owner.role);
    // SAFETY: the context is valid; the union is read as the pointer that the kernel stores in it.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let forwarder = role != ROLE_FRONT && is_forwarder();
    // SAFETY: a socket of the context; the result is a trusted pointer or null.
    let trusted = unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket.cast());
        !tcp.is_null() && is_trusted(tcp.cast(), slot)
    };
    // SAFETY: the context is valid during the whole program.
    let family = unsafe { (*ctx.ops).family };
    let serves = trusted && !forwarder;
    let value = Tag {
        slot,
        role: if forwarder { ROLE_FORWARDER } else { role },
        leg: LEG_LISTENER,
        port,
        address,
        since: now(),
        keepalive: keepalive::of_listener(ctx, slot),
        listens: if role == ROLE_OWN && serves {
            own::appears(owner, family, &address)
        } else {
            0
        },
        ..Tag::default()
    };
    // SAFETY: a socket of the context, checked against null.
    unsafe { set_tag(socket.cast(), value) };
    if role == ROLE_FRONT {
        if gate(slot) & GATE_OWN != 0 {
            let place = listener_place(slot, family);
            // SAFETY: the map has places of this kind.
            unsafe { insert(ctx, (&raw const FRONTS).cast_mut().cast(), place, 0) };
        }
        return;
    }
    let kind = if forwarder {
        EVENT_FORWARDER
    } else if trusted {
        EVENT_LISTENING
    } else {
        EVENT_STRANGER
    };
    if role != ROLE_OWN && serves {
        // SAFETY: the map has places of this kind.
        remember_listener(slot, family, &address, |place, flags| unsafe {
            insert(ctx, (&raw const LISTENERS).cast_mut().cast(), place, flags)
        });
    }
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    // SAFETY: the helper has no preconditions.
    emit(kind, slot, unsafe { bpf_ktime_get_ns() });
}

/// A listener at an address that is not configured: one of an application's unit is use of its service.
#[inline(always)]
fn other(ctx: &SockOpsContext, port: u32) {
    // SAFETY: the context is valid; see `listening`.
    let (netns, socket) = unsafe {
        (
            bpf_get_netns_cookie(ctx.ops.cast()),
            (*ctx.ops).__bindgen_anon_2.sk,
        )
    };
    if socket.is_null() || netns != NETNS.load() {
        return;
    }
    // SAFETY: a socket of the context, checked against null.
    unsafe {
        if let Some(slot) = own::service_of(socket.cast()).filter(|_| !is_forwarder()) {
            watch_port(port);
            set_tag(socket.cast(), own::other(slot, port));
        }
    }
}

/// # Safety
///
/// `map` is a map of sockets with keys of this type.
#[inline(always)]
unsafe fn insert(ctx: &SockOpsContext, map: *mut c_void, mut place: u32, flags: u64) -> i64 {
    // SAFETY: guaranteed by the caller; the context is valid for the call.
    unsafe { bpf_sock_map_update(ctx.ops, map, (&raw mut place).cast(), flags) }
}

/// A connection's leg: the port and address it arrived at, against those of its listener.
#[inline(always)]
fn leg_of(tag: &Tag, port: u32, address: [u32; 4]) -> u32 {
    if tag.role == ROLE_FRONT {
        return LEG_FRONT;
    }
    let wildcard = tag.address[3] == 0 && tag.address[0] == 0 && tag.address[1] == 0;
    let own = tag.port == port
        && (wildcard
            || (tag.address[3] == address[3]
                && tag.address[2] == address[2]
                && tag.address[1] == address[1]
                && tag.address[0] == address[0]));
    if own { LEG_BACK } else { LEG_STEERED }
}

fn established(ctx: &SockOpsContext) {
    // SAFETY: the context is valid; see `listening`.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: a socket of the context, checked against null.
    let pointer = unsafe { tag(socket.cast()) };
    if pointer.is_null() {
        return;
    }
    let address = local_address!(ctx.ops, word!(ctx.ops, family));
    // SAFETY: checked against null; every other writer holds the socket's lock too.
    let tag = unsafe { &mut *pointer };
    // What it has inherited is its listener's.
    tag.listens = 0;
    let slot = tag.slot;
    let port = ctx.local_port();
    let mut leg = match tag.role {
        ROLE_OWN if own::was_inside(ctx) => LEG_BACK,
        ROLE_OTHER if own::was_inside(ctx) => LEG_PROBE,
        ROLE_OWN | ROLE_OTHER => LEG_STEERED,
        _ => leg_of(tag, port, address),
    };
    if leg == LEG_STEERED && gate(slot) & GATE_IGNORE != 0 {
        let remote = remote_address!(ctx.ops, word!(ctx.ops, family));
        if is_listed(slot, LIST_IGNORE, remote) {
            leg = LEG_IGNORED;
        }
    }
    let may_be_probe = leg == LEG_BACK || tag.role == ROLE_OWN;
    if may_be_probe && gate(slot) & GATE_PROBED != 0 && is_probe(ctx) {
        leg = LEG_PROBE;
    }
    let (Some(counters), Some(alarm)) = (COUNTERS.get_ptr_mut(slot), ALARMS.get_ptr_mut(slot))
    else {
        return;
    };
    let present = ctx.cb_flags();
    let mut wanted = present | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: a valid map value; the agent only stores whole words.
    let (opened, answered, accepted) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*alarm).opened),
            core::ptr::read_volatile(&raw const (*alarm).answered),
            core::ptr::read_volatile(&raw const (*alarm).accepted),
        )
    };
    let is_other = tag.role == ROLE_OTHER;
    if !is_other && ((answered != 0 && is_clients(leg)) || (accepted != 0 && leg != LEG_FRONT)) {
        wanted |= BPF_SOCK_OPS_RTT_CB_FLAG;
    }
    // Without the flag its close would not be counted: then it must not be counted as open.
    if wanted != present && ctx.set_cb_flags(wanted as i32).is_err() {
        return;
    }
    tag.leg = leg;
    tag.since = now();
    if leg == LEG_PROBE {
        return;
    }
    count(counters, leg, true);
    keepalive::of_connection(ctx, slot, tag.keepalive);
    if leg == LEG_IGNORED {
        return;
    }
    let now = tag.since;
    if gate(slot) & GATE_BYTES == 0 {
        // SAFETY: a valid map value.
        unsafe {
            core::ptr::write_volatile(&raw mut (*counters).last_open, now);
            core::ptr::write_volatile(&raw mut (*counters).last_change, now);
        }
    }
    // SAFETY: as above.
    if opened != 0 && unsafe { atomic_exchange(&raw mut (*alarm).opened, 0) } != 0 {
        emit(EVENT_OPENED, slot, now);
    }
}

/// Whether the agent has made the connection, to see whether the application is ready.
#[inline(always)]
fn is_probe(ctx: &SockOpsContext) -> bool {
    // SAFETY: entries are words, which are replaced as a whole.
    unsafe { PROBES.get(peer(ctx)) }.is_some_and(|until| *until > now())
}

/// Whether it is a client's own connection, of one whose use counts.
#[inline(always)]
fn is_clients(leg: u32) -> bool {
    leg != LEG_BACK && leg != LEG_IGNORED && leg != LEG_PROBE
}

/// A process has accepted this connection of the backend's listener: it has sent something, or closed
/// it. The first of a run is recorded and reported. A connection that nobody accepts is only ever aborted.
#[inline(always)]
fn was_accepted(slot: u32, leg: u32, alarm: *mut Alarm) {
    let is_at_backend = leg != LEG_FRONT && (leg < LEGS || leg == LEG_PROBE);
    // SAFETY: a valid map value.
    if !is_at_backend || unsafe { read_accepted(alarm) } == 0 {
        return;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: valid map values; the helper has no preconditions.
    unsafe {
        if atomic_exchange(&raw mut (*alarm).accepted, 0) != 0 {
            let now = bpf_ktime_get_ns();
            core::ptr::write_volatile(&raw mut (*counters).served, now);
            emit(EVENT_ACCEPTED, slot, now);
        }
    }
}

/// # Safety
///
/// `alarm` is a valid map value.
#[inline(always)]
unsafe fn read_accepted(alarm: *mut Alarm) -> u64 {
    // SAFETY: guaranteed by the caller; the agent only stores whole words.
    unsafe { core::ptr::read_volatile(&raw const (*alarm).accepted) }
}

/// The peer acknowledged data (`tcp_bpf_rtt`, net/ipv4/tcp_input.c): requested on few connections,
/// and only until their first byte.
fn acknowledged(ctx: &SockOpsContext) {
    let state = word!(ctx.ops, state);
    // SAFETY: the context is valid during the whole program.
    let (socket, acked) = unsafe { ((*ctx.ops).__bindgen_anon_2.sk, (*ctx.ops).bytes_acked) };
    // TCP counts an acknowledged FIN as a byte.
    let fin = u64::from(state != ESTABLISHED && state != CLOSE_WAIT);
    if acked <= fin || socket.is_null() {
        return;
    }
    let _ = ctx.set_cb_flags((ctx.cb_flags() & !BPF_SOCK_OPS_RTT_CB_FLAG) as i32);
    // SAFETY: a socket of the context, checked against null.
    let pointer = unsafe { tag(socket.cast()) };
    if pointer.is_null() {
        return;
    }
    // SAFETY: checked against null.
    let (slot, leg) = unsafe { ((*pointer).slot, (*pointer).leg) };
    let Some(alarm) = ALARMS.get_ptr_mut(slot) else {
        return;
    };
    was_accepted(slot, leg, alarm);
    if !is_clients(leg) {
        return;
    }
    // SAFETY: a valid map value; the helper has no preconditions.
    unsafe {
        if atomic_exchange(&raw mut (*alarm).answered, 0) != 0 {
            emit(EVENT_ANSWERED, slot, bpf_ktime_get_ns());
        }
    }
}

/// Counts a connection.
#[inline(always)]
pub fn count(counters: *mut Counters, leg: u32, opened: bool) {
    // SAFETY: a valid map value, see the callers.
    let (accepted, closed) =
        unsafe { (&raw mut (*counters).accepted, &raw mut (*counters).closed) };
    let array = (if opened { accepted } else { closed }).cast::<u64>();
    // SAFETY: inside the map's value. Ordered: the agent reads closed before accepted.
    unsafe { atomic_add_ordered(array.add(index(leg)), 1) };
}

fn state_changed(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    // Looked at only where that is requested: its tag was last used by another CPU, and 300 ns away.
    let by_application =
        (new == FIN_WAIT1 || new == LAST_ACK) && ctx.cb_flags() & BPF_SOCK_OPS_RTT_CB_FLAG != 0;
    if new != CLOSE && !by_application {
        return;
    }
    // SAFETY: the context is valid; see `listening`.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: a socket of the context, checked against null.
    let pointer = unsafe { tag(socket.cast()) };
    if pointer.is_null() {
        return;
    }
    // SAFETY: checked against null; every other writer holds the socket's lock too.
    let tag = unsafe { &mut *pointer };
    let (slot, leg) = (tag.slot, tag.leg);
    if by_application {
        if let Some(alarm) = ALARMS.get_ptr_mut(slot) {
            was_accepted(slot, leg, alarm);
        }
        return;
    }
    if old == LISTEN {
        own::vanishes(tag);
        // SAFETY: the helper has no preconditions.
        emit(EVENT_UNLISTENED, slot, unsafe { bpf_ktime_get_ns() });
        return;
    }
    if leg >= LEGS {
        return;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return;
    };
    traffic::add_last(ctx, socket.cast(), tag, counters, old);
    let was_use = tag.received != 0 || gate(slot) & GATE_BYTES == 0;
    // A socket closes only once: accept() after a disconnect does not exist.
    tag.leg = LEG_LISTENER;
    count(counters, leg, false);
    if leg == LEG_IGNORED {
        return;
    }
    let now = now();
    if was_use {
        // SAFETY: the pointer is a valid map value.
        unsafe {
            core::ptr::write_volatile(&raw mut (*counters).last_change, now);
            let last_open = &raw mut (*counters).last_open;
            if core::ptr::read_volatile(last_open) < tag.since {
                core::ptr::write_volatile(last_open, tag.since);
            }
        }
    }
    last_closed(counters, slot, now);
}

/// Notifies the agent, if requested, that no connection is left.
#[inline(always)]
fn last_closed(counters: *mut Counters, slot: u32, now: u64) {
    let Some(alarm) = ALARMS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: valid map values; reads of whole words.
    unsafe {
        let place = &raw mut (*alarm).closed;
        if core::ptr::read_volatile(place) == 0 {
            return;
        }
        let accepted = core::ptr::read_volatile(&raw const (*counters).accepted);
        let closed = core::ptr::read_volatile(&raw const (*counters).closed);
        let quiet =
            accepted[0] == closed[0] && accepted[1] == closed[1] && accepted[2] == closed[2];
        if quiet && atomic_exchange(place, 0) != 0 {
            emit(EVENT_CLOSED, slot, now);
        }
    }
}
