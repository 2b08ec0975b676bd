//! iter/tcp: what the kernel's own socket tables say, independent of the counters, and the
//! adoption of listeners that are older than the watch.
//!
//! aya-ebpf has no macro for iterators, so the sections are named by hand. The iterator
//! walks the network namespace of the process that made its link.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{
        bpf_map_update_elem, bpf_probe_read_kernel, bpf_seq_write, generated::bpf_skc_to_tcp_sock,
    },
};
use ondemand_ebpf::{
    Endpoint, LEG_LISTENER, ListenerKey, NO_SLOT, ROLE_BACKEND, SocketRecord, Tag,
};

use crate::{
    connections::{EEXIST, INET, INET6, LISTEN, MAPPED, NETNS, families},
    maps::{CONNECTIONS, ENDPOINTS, LISTENERS, atomic_add, is_watched, set_tag, tag},
};

/// `TCP_NEW_SYN_RECV`: a request socket, a handshake that is half done.
const NEW_SYN_RECV: u32 = 12;

/// Offsets in `struct sock_common`, from the running kernel's BTF.
#[unsafe(no_mangle)]
static OFFSET_FAMILY: Global<u32> = Global::new(16);
#[unsafe(no_mangle)]
static OFFSET_STATE: Global<u32> = Global::new(18);
#[unsafe(no_mangle)]
static OFFSET_PORT: Global<u32> = Global::new(14);
#[unsafe(no_mangle)]
static OFFSET_ADDRESS4: Global<u32> = Global::new(4);
#[unsafe(no_mangle)]
static OFFSET_ADDRESS6: Global<u32> = Global::new(72);
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
struct IteratorMeta {
    seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// Writes a record of every watched socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn snapshot(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid for the whole program.
    let (meta, socket) = unsafe { ((*ctx).meta, (*ctx).socket) };
    if !socket.is_null()
        && let Some(record) = record(socket)
    {
        write(meta, &record);
    }
    0
}

/// Tags listeners that are older than the watch and puts those of backends where steering
/// finds them, then writes a record of them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn adopt(ctx: *const TcpIterator) -> i32 {
    // SAFETY: the context is valid for the whole program.
    let (meta, socket) = unsafe { ((*ctx).meta, (*ctx).socket) };
    if socket.is_null() {
        return 0;
    }
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
        pad: 0,
    };
    // SAFETY: entries are only replaced as a whole.
    let Some(owner) = (unsafe { ENDPOINTS.get(&endpoint) }) else {
        return 0;
    };
    let (slot, role) = (owner.slot, owner.role);
    // SAFETY: a trusted socket pointer of the context, checked against null.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return 0;
        }
        let value = Tag {
            slot,
            role,
            leg: LEG_LISTENER,
            port: record.port,
            address: record.address,
            received: 0,
            sent: 0,
        };
        set_tag(tcp.cast(), value);
    }
    record.slot = slot;
    record.role = role;
    if role == ROLE_BACKEND {
        remember_listener(socket, slot, &record);
    }
    write(meta, &record);
    0
}

/// As the program of the same name in `connections`. A refusal (MPTCP, say) leaves the
/// service proxied.
#[inline(always)]
fn remember_listener(socket: *mut c_void, slot: u32, record: &SocketRecord) {
    let (v4, v6) = families(record.family, &record.address);
    let mut result = 0;
    if v6 {
        let key = ListenerKey {
            slot,
            family: INET6,
        };
        result = insert_listener(socket, key, BPF_ANY as u64);
    }
    if v4 {
        let flags = if v6 { BPF_NOEXIST } else { BPF_ANY };
        let other = insert_listener(socket, ListenerKey { slot, family: INET }, flags as u64);
        if result == 0 && other != EEXIST {
            result = other;
        }
    }
    if result != 0
        && let Some(counters) = CONNECTIONS.get_ptr_mut(slot)
    {
        // SAFETY: the pointer is a valid map value.
        unsafe { atomic_add(&raw mut (*counters).listener_errors, 1) };
    }
}

#[inline(always)]
fn insert_listener(socket: *mut c_void, key: ListenerKey, flags: u64) -> i64 {
    // SAFETY: map, key and socket are valid for the call.
    unsafe {
        bpf_map_update_elem(
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw const key).cast(),
            socket,
            flags,
        )
    }
}

/// Describes a socket; `None` if nobody watches its port.
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
    record.address = unsafe { address(socket, family) };
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
            pad: 0,
        };
        let owner = ENDPOINTS.get(&endpoint)?;
        record.slot = owner.slot;
        record.role = owner.role;
    }
    Some(record)
}

/// The local address in the form of [`Endpoint::address`].
///
/// # Safety
///
/// `socket` is a BTF pointer to a `struct sock_common`.
#[inline(always)]
unsafe fn address(socket: *mut c_void, family: u32) -> [u32; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        if family == INET6 {
            let first = OFFSET_ADDRESS6.load();
            [
                field(socket, first),
                field(socket, first + 4),
                field(socket, first + 8),
                field(socket, first + 12),
            ]
        } else {
            [0, 0, MAPPED, field(socket, OFFSET_ADDRESS4.load())]
        }
    }
}

/// Loads a field at an offset that the verifier knows as a constant.
///
/// # Safety
///
/// `socket` is a BTF pointer and the offset is that of a field of this size.
#[inline(always)]
unsafe fn field<T: Copy>(socket: *mut c_void, offset: u32) -> T {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::read_volatile(socket.byte_add(offset as usize).cast::<T>()) }
}

#[inline(always)]
fn write(meta: *const IteratorMeta, record: &SocketRecord) {
    // SAFETY: the seq file of the context; a full buffer makes the kernel call again.
    unsafe {
        bpf_seq_write(
            (*meta).seq.cast(),
            core::ptr::from_ref(record).cast(),
            size_of::<SocketRecord>() as u32,
        );
    }
}
