//! iter/tcp: the kernel's own socket tables, independent of the counters; the adoption of
//! listeners that are older than the watch; and the bytes of open connections.
//!
//! aya-ebpf has no macro for iterators, so the sections are named by hand. The iterator
//! walks the network namespace of the process that created its link.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::{
        bpf_map_update_elem, bpf_probe_read_kernel, bpf_seq_write, generated::bpf_skc_to_tcp_sock,
    },
};
use ondemand_ebpf::{
    Client, Endpoint, GATE_ENDED, GATE_IGNORE, GATE_LISTED, GATE_OWN, INET6, LEG_LEFT,
    LEG_LISTENER, LEGS, LIST_IGNORE, NO_SLOT, ROLE_FORWARDER, ROLE_FRONT, ROLE_OTHER, ROLE_OWN,
    STREAM, SocketRecord, Tag, listener_place,
};

use crate::{
    connections::count,
    context::{
        CLOSE_WAIT, ESTABLISHED, LISTEN, MAPPED, NETNS, field, is_trusted, remember_listener,
    },
    maps::{
        COUNTERS, ENDPOINTS, FRONTS, LISTENERS, gate, is_listed, is_watched, set_tag, tag,
        watch_port,
    },
    own, traffic,
};

/// `TCP_NEW_SYN_RECV`: a request socket, which is a half-open handshake.
const NEW_SYN_RECV: u32 = 12;

/// Offsets in `struct sock_common`, from the running kernel's BTF.
#[unsafe(no_mangle)]
pub static OFFSET_FAMILY: Global<u32> = Global::new(16);
#[unsafe(no_mangle)]
pub static OFFSET_STATE: Global<u32> = Global::new(18);
#[unsafe(no_mangle)]
pub static OFFSET_PORT: Global<u32> = Global::new(14);
#[unsafe(no_mangle)]
pub static OFFSET_ADDRESS4: Global<u32> = Global::new(4);
#[unsafe(no_mangle)]
pub static OFFSET_ADDRESS6: Global<u32> = Global::new(72);
/// The peer's address.
#[unsafe(no_mangle)]
static OFFSET_PEER4: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_PEER6: Global<u32> = Global::new(56);
#[unsafe(no_mangle)]
static OFFSET_PEER_PORT: Global<u32> = Global::new(12);
/// `skc_listener` of a request socket.
#[unsafe(no_mangle)]
static OFFSET_LISTENER: Global<u32> = Global::new(0);

/// `struct bpf_iter__tcp`
#[repr(C)]
pub struct TcpIterator {
    meta: *const IteratorMeta,
    socket: *mut c_void,
    uid: u32,
}

/// `struct bpf_iter_meta`
#[repr(C)]
pub struct IteratorMeta {
    seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// Writes a record of every watched socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn snapshot(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let (meta, socket) = unsafe { ((*ctx).meta, (*ctx).socket) };
    if !socket.is_null()
        && let Some(record) = record(socket)
    {
        write(meta, &record);
    }
    0
}

/// Tags listeners that are older than the watch, stores those of backends for steering, and writes a
/// record of each.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn adopt(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let (meta, socket) = unsafe { ((*ctx).meta, (*ctx).socket) };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: a trusted socket pointer of the context, checked against null.
    unsafe { adopt_other(socket) };
    let Some(mut record) = record(socket) else {
        return 0;
    };
    if record.state != LISTEN {
        return 0;
    }
    let endpoint = Endpoint {
        netns: NETNS.load(),
        address: record.address,
        port: record.port,
        protocol: STREAM,
    };
    // SAFETY: entries are only replaced as a whole.
    let Some(owner) = (unsafe { ENDPOINTS.get(&endpoint) }) else {
        return 0;
    };
    let (slot, role) = (owner.slot, owner.role);
    let trusted;
    // SAFETY: a trusted socket pointer of the context, checked against null.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return 0;
        }
        let before = tag(tcp.cast());
        let mut before = before.as_ref().copied().unwrap_or_default();
        let forwarder = role != ROLE_FRONT && before.role == ROLE_FORWARDER;
        trusted = !forwarder && is_trusted(tcp.cast(), slot);
        own::vanishes(&mut before);
        let listens = if role == ROLE_OWN && trusted {
            own::appears(owner, record.family, &record.address)
        } else {
            0
        };
        let value = Tag {
            slot,
            role: if forwarder { ROLE_FORWARDER } else { role },
            leg: LEG_LISTENER,
            port: record.port,
            address: record.address,
            keepalive: before.keepalive,
            listens,
            since: before.since,
            ..Tag::default()
        };
        set_tag(tcp.cast(), value);
    }
    record.slot = slot;
    record.role = role;
    match role {
        ROLE_OWN => {}
        ROLE_FRONT if gate(slot) & GATE_OWN == 0 => {}
        ROLE_FRONT => {
            let place = listener_place(slot, record.family);
            // SAFETY: the map has places of this kind.
            unsafe { insert(socket, (&raw const FRONTS).cast_mut().cast(), place, 0) };
        }
        _ if trusted => {
            // SAFETY: the map has places of this kind.
            remember_listener(
                slot,
                record.family,
                &record.address,
                |place, flags| unsafe {
                    insert(
                        socket,
                        (&raw const LISTENERS).cast_mut().cast(),
                        place,
                        flags,
                    )
                },
            );
        }
        _ => {}
    }
    write(meta, &record);
    0
}

/// Tags a listener of a unit's at an address that is not configured.
///
/// # Safety
///
/// `socket` is a BTF pointer to a `struct sock_common`.
#[inline(always)]
unsafe fn adopt_other(socket: *mut c_void) {
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let (state, port) = unsafe {
        (
            u32::from(field::<u8>(socket, OFFSET_STATE.load())),
            u32::from(field::<u16>(socket, OFFSET_PORT.load())),
        )
    };
    if state != LISTEN || is_watched(port) {
        return;
    }
    // SAFETY: checked against null; the helpers check what they are given.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return;
        }
        if let Some(slot) = own::service_of(socket) {
            watch_port(port);
            set_tag(tcp.cast(), own::other(slot, port));
        }
    }
}

/// Adds the bytes that open connections have transferred so far to the counters. Writes no records.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn bytes(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let (state, port) = unsafe {
        (
            u32::from(field::<u8>(socket, OFFSET_STATE.load())),
            u32::from(field::<u16>(socket, OFFSET_PORT.load())),
        )
    };
    // The others are about to close, which adds all of their bytes.
    if (state != ESTABLISHED && state != CLOSE_WAIT) || !is_watched(port) {
        return 0;
    }
    // SAFETY: a trusted socket pointer of the context, checked against null.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return 0;
        }
        let pointer = tag(tcp.cast());
        if pointer.is_null() {
            return 0;
        }
        let tag = &mut *pointer;
        if tag.leg < LEGS
            && let Some(counters) = COUNTERS.get_ptr_mut(tag.slot)
        {
            traffic::add_so_far(tcp.cast(), state, tag, counters);
        }
    }
    0
}

/// Counts as closed what the ended run of an application has left, for the services whose gate says so:
/// connections that no process has, whose last bytes the kernel still tries to deliver. To a client that
/// has vanished this takes a quarter of an hour. Writes no records.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn orphans(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let (state, port) = unsafe {
        (
            u32::from(field::<u8>(socket, OFFSET_STATE.load())),
            u32::from(field::<u16>(socket, OFFSET_PORT.load())),
        )
    };
    if !is_watched(port) {
        return 0;
    }
    // SAFETY: a trusted socket pointer of the context, checked against null.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return 0;
        }
        let pointer = tag(tcp.cast());
        if pointer.is_null() || !traffic::is_orphan(tcp.cast()) {
            return 0;
        }
        let tag = &mut *pointer;
        let (slot, leg) = (tag.slot, tag.leg);
        if leg < LEGS
            && gate(slot) & GATE_ENDED != 0
            && let Some(counters) = COUNTERS.get_ptr_mut(slot)
        {
            traffic::add_so_far(tcp.cast(), state, tag, counters);
            tag.leg = LEG_LEFT;
            count(counters, leg, false);
        }
    }
    0
}

/// Lists the open connections of the services whose gate says so, with the time of their silence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn clients(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid during the whole program.
    let (meta, socket) = unsafe { ((*ctx).meta, (*ctx).socket) };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let (family, port, peer_port) = unsafe {
        (
            u32::from(field::<u16>(socket, OFFSET_FAMILY.load())),
            u32::from(field::<u16>(socket, OFFSET_PORT.load())),
            field::<u16>(socket, OFFSET_PEER_PORT.load()),
        )
    };
    if !is_watched(port) {
        return 0;
    }
    // SAFETY: a trusted socket pointer of the context, checked against null.
    let client = unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return 0;
        }
        let pointer = tag(tcp.cast());
        if pointer.is_null() || (*pointer).leg >= LEGS || gate((*pointer).slot) & GATE_LISTED == 0 {
            return 0;
        }
        Client {
            slot: (*pointer).slot,
            leg: (*pointer).leg,
            address: address(socket, family, OFFSET_PEER4.load(), OFFSET_PEER6.load()),
            port: u32::from(u16::from_be(peer_port)),
            silent: traffic::silent(tcp.cast()),
            since: (*pointer).since,
        }
    };
    write(meta, &client);
    0
}

/// # Safety
///
/// `map` is a map of sockets with keys of this type.
#[inline(always)]
pub unsafe fn insert(socket: *mut c_void, map: *mut c_void, place: u32, flags: u64) -> i64 {
    // SAFETY: guaranteed by the caller; place and socket are valid for the call.
    unsafe { bpf_map_update_elem(map, (&raw const place).cast(), socket, flags) }
}

/// Describes a socket; `None` if its port is not watched.
#[inline(always)]
fn record(socket: *mut c_void) -> Option<SocketRecord> {
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let (family, state, port) = unsafe {
        (
            u32::from(field::<u16>(socket, OFFSET_FAMILY.load())),
            u32::from(field::<u8>(socket, OFFSET_STATE.load())),
            u32::from(field::<u16>(socket, OFFSET_PORT.load())),
        )
    };
    let mut record = SocketRecord {
        slot: NO_SLOT,
        role: 0,
        leg: LEG_LISTENER,
        state,
        port,
        family,
        address: [0; 4],
    };
    if state == NEW_SYN_RECV {
        return half_open(socket, record);
    }
    if !is_watched(port) {
        return None;
    }
    // SAFETY: as above.
    record.address = unsafe {
        address(
            socket,
            family,
            OFFSET_ADDRESS4.load(),
            OFFSET_ADDRESS6.load(),
        )
    };
    // SAFETY: a trusted socket pointer; null for TIME_WAIT sockets.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) };
    if !tcp.is_null() {
        // SAFETY: checked against null.
        let pointer = unsafe { tag(tcp.cast()) };
        if !pointer.is_null() {
            // SAFETY: checked against null.
            let tag = unsafe { &*pointer };
            record.slot = tag.slot;
            record.role = tag.role;
            record.leg = tag.leg;
        // SAFETY: a trusted socket pointer, checked against null.
        } else if unsafe { traffic::is_orphan(tcp.cast()) } {
            record.leg = LEG_LEFT;
        } else if let Some(slot) = unsafe { own::service_of(socket) } {
            // Older than the programs, at an address that may not be configured.
            record.slot = slot;
            record.role = ROLE_OTHER;
        }
    }
    Some(record)
}

/// A half-open handshake, described by its listener: its own port may be the front's while
/// its listener is the backend's.
#[inline(always)]
fn half_open(request: *mut c_void, mut record: SocketRecord) -> Option<SocketRecord> {
    // SAFETY: reads of kernel memory that cannot fault; a wrong address reads as zero.
    unsafe {
        let listener = bpf_probe_read_kernel(
            request
                .byte_add(OFFSET_LISTENER.load() as usize)
                .cast::<*const c_void>(),
        )
        .ok()?;
        let port =
            bpf_probe_read_kernel(listener.byte_add(OFFSET_PORT.load() as usize).cast::<u16>())
                .ok()?;
        record.port = u32::from(port);
        if !is_watched(record.port) {
            return None;
        }
        record.family = u32::from(
            bpf_probe_read_kernel(
                listener
                    .byte_add(OFFSET_FAMILY.load() as usize)
                    .cast::<u16>(),
            )
            .ok()?,
        );
        record.address = if record.family == INET6 {
            bpf_probe_read_kernel(
                listener
                    .byte_add(OFFSET_ADDRESS6.load() as usize)
                    .cast::<[u32; 4]>(),
            )
            .ok()?
        } else {
            let address = bpf_probe_read_kernel(
                listener
                    .byte_add(OFFSET_ADDRESS4.load() as usize)
                    .cast::<u32>(),
            )
            .ok()?;
            [0, 0, MAPPED, address]
        };
        let endpoint = Endpoint {
            netns: NETNS.load(),
            address: record.address,
            port: record.port,
            protocol: STREAM,
        };
        // A listener at an address that is not configured is known by its own record.
        let Some(owner) = ENDPOINTS.get(&endpoint) else {
            return Some(record);
        };
        record.slot = owner.slot;
        record.role = owner.role;
    }
    if gate(record.slot) & GATE_IGNORE != 0 && is_ignored(request, record.slot) {
        return None;
    }
    Some(record)
}

/// Whether a half-open handshake is of a client whose use does not keep the service up.
#[inline(always)]
fn is_ignored(request: *mut c_void, slot: u32) -> bool {
    // SAFETY: direct loads through a BTF pointer at the running kernel's offsets.
    let peer = unsafe {
        let family = u32::from(field::<u16>(request, OFFSET_FAMILY.load()));
        address(request, family, OFFSET_PEER4.load(), OFFSET_PEER6.load())
    };
    is_listed(slot, LIST_IGNORE, peer)
}

/// The address at `v4` or `v6`, in the form of [`Endpoint::address`].
///
/// # Safety
///
/// `socket` is a BTF pointer to a `struct sock_common`, and the offsets are those of its addresses.
#[inline(always)]
unsafe fn address(socket: *mut c_void, family: u32, v4: u32, v6: u32) -> [u32; 4] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if family == INET6 {
            [
                field(socket, v6),
                field(socket, v6 + 4),
                field(socket, v6 + 8),
                field(socket, v6 + 12),
            ]
        } else {
            [0, 0, MAPPED, field(socket, v4)]
        }
    }
}

#[inline(always)]
fn write<T>(meta: *const IteratorMeta, record: &T) {
    // SAFETY: the seq file of the context; a full buffer makes the kernel call again.
    unsafe {
        bpf_seq_write(
            (*meta).seq.cast(),
            core::ptr::from_ref(record).cast(),
            size_of::<T>() as u32,
        );
    }
}
