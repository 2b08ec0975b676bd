//! The maps, and the operations of the programs on them.

use core::{ffi::c_void, intrinsics};

use aya_ebpf::{
    bindings::{
        BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE,
        bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_SOCKMAP},
    },
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockMap, lpm_trie::Key},
};
use ondemand_ebpf::{
    ADDRESS_BITS, Alarm, CAUGHT_BYTES, Counters, DATAGRAMS_BYTES, EVENTS_BYTES, Endpoint, Event,
    IcmpError, KeepAlive, Line, MAX_CATCHERS, MAX_ENDPOINTS, MAX_INSIDERS, MAX_LISTENERS,
    MAX_NETWORKS, MAX_PRESENT, MAX_PROBES, MAX_SENDERS, MAX_SERVICES, MAX_UNITS, Meta, Name,
    Network, Owner, PORT_WATCHED, Sender, Tag, UnitName, Window,
};

/// By port in host order: `PORT_WATCHED` and the rest.
#[map]
pub static PORTS: Array<u32> = Array::with_max_entries(ondemand_ebpf::PORTS, 0);
#[map]
pub static ENDPOINTS: HashMap<Endpoint, Owner> = HashMap::with_max_entries(MAX_ENDPOINTS, 0);
#[map]
pub static COUNTERS: Array<Counters> = Array::with_max_entries(MAX_SERVICES, 0);
#[map]
pub static ALARMS: Array<Alarm> = Array::with_max_entries(MAX_SERVICES, 0);
/// By slot: the user, besides root, whose listeners connections are steered to.
#[map]
pub static USERS: Array<u32> = Array::with_max_entries(MAX_SERVICES, 0);
/// By slot.
#[map]
pub static KEEPALIVES: Array<KeepAlive> = Array::with_max_entries(MAX_SERVICES, 0);
/// By slot, the bits `GATE_`.
#[map]
pub static GATES: Array<u64> = Array::with_max_entries(MAX_SERVICES, 0);
/// Lists of clients: those that may start a service, and those whose use does not keep it up.
#[map]
pub static NETWORKS: LpmTrie<Network, u32> =
    LpmTrie::with_max_entries(MAX_NETWORKS, BPF_F_NO_PREALLOC);
/// The agent's sockets to which clients are assigned that are held, by `catcher_place`, and datagrams, by
/// `datagram_place`. Empty without an agent.
#[map]
pub static CATCHERS: SockMap = SockMap::with_max_entries(MAX_CATCHERS, 0);
/// Packets of these clients.
#[map]
pub static CAUGHT: RingBuf = RingBuf::with_byte_size(CAUGHT_BYTES, 0);
/// Datagrams that are held.
#[map]
pub static DATAGRAMS: RingBuf = RingBuf::with_byte_size(DATAGRAMS_BYTES, 0);
/// The agent that holds datagrams: its process, for the kernel.
#[map]
pub static AGENT: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub static ICMP_ERRORS: PerCpuArray<IcmpError> = PerCpuArray::with_max_entries(1, 0);
/// By slot. The last place: of all services.
#[map]
pub static WINDOWS: Array<Window> = Array::with_max_entries(MAX_SERVICES + 1, 0);
/// When the oldest packet in `CAUGHT`, and in the second place in `DATAGRAMS`, came that the agent has not read; zero:
/// there is none.
#[map]
pub static UNREAD: Array<u64> = Array::with_max_entries(2, 0);
/// By slot: not zero: the next connection is steered although the gate is closed.
#[map]
pub static PASSES: Array<u64> = Array::with_max_entries(MAX_SERVICES, 0);
/// Clients that go to the front socket while others are held.
#[map]
pub static SENDERS: LruHashMap<Sender, u64> = LruHashMap::with_max_entries(MAX_SENDERS, 0);
/// The agent's own connections, which ask whether an application is ready.
#[map]
pub static PROBES: LruHashMap<Sender, u64> = LruHashMap::with_max_entries(MAX_PROBES, 0);
/// Front sockets of services whose applications keep their addresses, by `listener_place`.
#[map]
pub static FRONTS: SockMap = SockMap::with_max_entries(MAX_LISTENERS, 0);
/// The front sockets for datagrams, by `listener_place`.
#[map]
pub static DATAGRAM_FRONTS: SockMap = SockMap::with_max_entries(MAX_LISTENERS, 0);
/// By slot.
#[map]
pub static LINES: Array<Line> = Array::with_max_entries(MAX_SERVICES, 0);
/// The number of listeners of these applications, and of their sockets for datagrams, by `present_place`.
#[map]
pub static PRESENT: Array<u64> = Array::with_max_entries(MAX_PRESENT, 0);
/// The units of the services.
#[map]
pub static UNITS: HashMap<UnitName, u32> = HashMap::with_max_entries(MAX_UNITS, BPF_F_NO_PREALLOC);
/// Connections that these units make to their own service, until they are established. The value is the moment until
/// when, in nanoseconds of `CLOCK_MONOTONIC`.
#[map]
pub static INSIDERS: LruHashMap<Sender, u64> = LruHashMap::with_max_entries(MAX_INSIDERS, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
/// Names by slot. Used by the agent only.
#[map]
pub static NAMES: Array<Name> = Array::with_max_entries(MAX_SERVICES, 0);
/// Used by the agent only.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, 0);

/// The type in `aya_ebpf` has values of four bytes, which the kernel does not let the agent read
/// (`sock_map_lookup_sys`, net/core/sock_map.c). Defined like [`TagStorage`].
#[repr(C)]
pub struct Listeners {
    r#type: *const [i32; BPF_MAP_TYPE_SOCKMAP as usize],
    key: *const u32,
    /// For the agent the socket's cookie, for a program the socket.
    value: *const u64,
    max_entries: *const [i32; MAX_LISTENERS as usize],
}
// SAFETY: the pointers are types for the loader and are never followed.
unsafe impl Sync for Listeners {}

/// The backends' listeners, by `listener_place`. An array: a look-up in a hash of sockets takes 70 ns
/// more, a quarter of the whole cost of steering per connection.
#[btf_map]
pub static LISTENERS: Listeners = Listeners {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
};

/// `aya_ebpf::btf_maps::SkStorage` cannot set `BPF_F_CLONE`, so the definition follows libbpf's
/// `__uint()` and `__type()`: a pointer to an array of N means N.
#[repr(C)]
pub struct TagStorage {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Tag,
    max_entries: *const [i32; 0],
    /// `BPF_F_NO_PREALLOC | BPF_F_CLONE`
    map_flags: *const [i32; 0x201],
}
// SAFETY: the pointers are types for the loader and are never followed.
unsafe impl Sync for TagStorage {}

/// Tags of listeners, and of the connections accepted by them.
#[btf_map]
pub static TAGS: TagStorage = TagStorage {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

/// The word of `port` (host order).
#[inline(always)]
pub fn port_word(port: u32) -> u32 {
    PORTS.get(port).copied().unwrap_or(0)
}

/// Whether `port` (host order) is watched.
#[inline(always)]
pub fn is_watched(port: u32) -> bool {
    port_word(port) & PORT_WATCHED != 0
}

/// Watches a port at which an application listens that is not configured. If another CPU, or the agent, writes the word
/// at this moment, this may be lost: then the snapshot does not see what the counters do, and nothing is stopped.
#[inline(always)]
pub fn watch_port(port: u32) {
    if let Some(word) = PORTS.get_ptr_mut(port) {
        // SAFETY: a valid map value.
        unsafe {
            core::ptr::write_volatile(word, core::ptr::read_volatile(word) | PORT_WATCHED);
        }
    }
}

/// The gate of `slot`: the bits `GATE_`. Each call reads it again.
#[inline(always)]
pub fn gate(slot: u32) -> u64 {
    let Some(gate) = GATES.get_ptr(slot) else {
        return 0;
    };
    // SAFETY: a valid map value; the agent only stores whole words.
    unsafe { core::ptr::read_volatile(gate) }
}

/// Whether `address` (as in `Endpoint`) is in a service's list.
#[inline(always)]
pub fn is_listed(slot: u32, list: u32, address: [u32; 4]) -> bool {
    let network = Network {
        slot,
        list,
        address,
    };
    NETWORKS
        .get(&Key::new(ADDRESS_BITS, network))
        .is_some_and(|listed| *listed != 0)
}

/// The tag of `socket`, or null.
///
/// # Safety
///
/// `socket` is a socket pointer for the verifier, and is not null.
#[inline(always)]
pub unsafe fn tag(socket: *mut c_void) -> *mut Tag {
    // SAFETY: guaranteed by the caller; no initial value is passed.
    unsafe {
        bpf_sk_storage_get(
            (&raw const TAGS).cast_mut().cast(),
            socket,
            core::ptr::null_mut(),
            0,
        )
    }
    .cast()
}

/// Tags a listener, or moves its tag to another owner.
///
/// # Safety
///
/// As for [`tag`].
#[inline(always)]
pub unsafe fn set_tag(socket: *mut c_void, mut value: Tag) {
    // SAFETY: guaranteed by the caller; the helper copies the value.
    let stored = unsafe {
        bpf_sk_storage_get(
            (&raw const TAGS).cast_mut().cast(),
            socket,
            (&raw mut value).cast(),
            BPF_SK_STORAGE_GET_F_CREATE as u64,
        )
    }
    .cast::<Tag>();
    if !stored.is_null() {
        // SAFETY: not null, so it points at the socket's own storage of this type.
        unsafe { *stored = value }
    }
}

/// Atomic addition whose result is not used; wraps around.
///
/// # Safety
///
/// `counter` points into a map's value.
#[inline(always)]
pub unsafe fn atomic_add(counter: *mut u64, amount: u64) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        intrinsics::atomic_xadd::<u64, u64, { intrinsics::AtomicOrdering::Relaxed }>(
            counter, amount,
        );
    }
}

/// Atomic addition that is ordered before everything after it.
///
/// # Safety
///
/// `counter` points into a map's value.
#[inline(always)]
pub unsafe fn atomic_add_ordered(counter: *mut u64, amount: u64) -> u64 {
    // SAFETY: guaranteed by the caller.
    unsafe {
        intrinsics::atomic_xadd::<u64, u64, { intrinsics::AtomicOrdering::SeqCst }>(counter, amount)
    }
}

/// Atomic exchange.
///
/// # Safety
///
/// `place` points into a map's value.
#[inline(always)]
pub unsafe fn atomic_exchange(place: *mut u64, value: u64) -> u64 {
    // SAFETY: guaranteed by the caller.
    unsafe { intrinsics::atomic_xchg::<u64, { intrinsics::AtomicOrdering::SeqCst }>(place, value) }
}

/// Atomic subtraction whose result is not used.
///
/// # Safety
///
/// `counter` points into a map's value.
#[inline(always)]
pub unsafe fn atomic_sub(counter: *mut u64, amount: u64) {
    // SAFETY: guaranteed by the caller.
    unsafe { atomic_add(counter, amount.wrapping_neg()) }
}

/// Sends an event. A full buffer drops it: the agent's timers are the fallback.
#[inline(always)]
pub fn emit(kind: u32, slot: u32, at: u64) {
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(Event { kind, slot, at });
        entry.submit(0);
    }
}
