//! What the programs share: addresses of a connection, the clock, fields of kernel objects, and the
//! place of a backend's listener.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::{
        bpf_get_current_task_btf, bpf_ktime_get_coarse_ns, bpf_map_lookup_elem, bpf_sk_assign,
        bpf_sk_release,
    },
    programs::{SkLookupContext, SockOpsContext},
};
use ondemand_ebpf::{COMM, FORWARDERS, INET, INET6, LEGS, Sender, listener_place};

use crate::maps::{COUNTERS, USERS, atomic_add};

/// The third word of `::ffff:a.b.c.d` in network order.
pub const MAPPED: u32 = u32::from_be(0xffff);

// TCP states, include/net/tcp_states.h.
pub const ESTABLISHED: u32 = 1;
pub const FIN_WAIT1: u32 = 4;
pub const CLOSE: u32 = 7;
pub const CLOSE_WAIT: u32 = 8;
pub const LAST_ACK: u32 = 9;
pub const LISTEN: u32 = 10;

/// The place has another listener.
const EEXIST: i64 = -17;

/// The cookie of the watched network namespace. Set by the loader.
#[unsafe(no_mangle)]
pub static NETNS: Global<u64> = Global::new(0);

/// A word of a context. Volatile and before any branch: otherwise the compiler folds the loads
/// of two branches into one with a computed offset, which the verifier refuses.
macro_rules! word {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the context is valid during the whole program.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}
pub(crate) use word;

/// The address of one end of a context in the form of [`Endpoint::address`].
macro_rules! address {
    ($context:expr, $family:expr, $v4:ident, $v6:ident) => {{
        let v4 = word!($context, $v4);
        let v6 = [
            word!($context, $v6[0]),
            word!($context, $v6[1]),
            word!($context, $v6[2]),
            word!($context, $v6[3]),
        ];
        if $family == INET6 {
            v6
        } else {
            [0, 0, $crate::context::MAPPED, v4]
        }
    }};
}
pub(crate) use address;

/// The local [`address!`].
macro_rules! local_address {
    ($context:expr, $family:expr) => {
        $crate::context::address!($context, $family, local_ip4, local_ip6)
    };
}
pub(crate) use local_address;

/// The remote [`address!`].
macro_rules! remote_address {
    ($context:expr, $family:expr) => {
        $crate::context::address!($context, $family, remote_ip4, remote_ip6)
    };
}
pub(crate) use remote_address;

/// Offset of `sk_uid` in `struct sock`. Set by the loader.
#[unsafe(no_mangle)]
static OFFSET_UID: Global<u32> = Global::new(0);

/// Whether a listener was made by root, as those that PID 1 passes on, or by the user of this slot's
/// application. Any user may bind a port from 1024 on that the application has left.
///
/// # Safety
///
/// `tcp` is a BTF pointer to a `struct tcp_sock`.
#[inline(always)]
pub unsafe fn is_trusted(tcp: *mut c_void, slot: u32) -> bool {
    // SAFETY: guaranteed by the caller; the offset is the running kernel's.
    let uid: u32 = unsafe { field(tcp, OFFSET_UID.load()) };
    uid == 0 || USERS.get(slot).is_some_and(|known| *known == uid)
}

/// Offset of `comm` in `struct task_struct`. Set by the loader.
#[unsafe(no_mangle)]
static OFFSET_COMM: Global<u32> = Global::new(0);

/// Offsets of `tgid` and `flags` in `struct task_struct`. Set by the loader.
#[unsafe(no_mangle)]
static OFFSET_TGID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFFSET_TASK_FLAGS: Global<u32> = Global::new(0);
/// `PF_KTHREAD`, include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The present process, for the kernel; zero for one of its own threads, which works for somebody else.
#[inline(always)]
pub fn process() -> u32 {
    // SAFETY: the helper has no preconditions, and returns a trusted pointer; the offsets are the running
    // kernel's.
    let (process, flags): (u32, u32) = unsafe {
        let task = bpf_get_current_task_btf().cast();
        (
            field(task, OFFSET_TGID.load()),
            field(task, OFFSET_TASK_FLAGS.load()),
        )
    };
    if flags & KERNEL_THREAD != 0 {
        0
    } else {
        process
    }
}

/// The names of [`FORWARDERS`] as the kernel has them: padded with zeros.
static FORWARDING: [[u64; 2]; FORWARDERS.len()] = padded();

const fn padded() -> [[u64; 2]; FORWARDERS.len()] {
    let mut names = [[0; 2]; FORWARDERS.len()];
    let mut name = 0;
    while name < names.len() {
        let bytes = FORWARDERS[name].as_bytes();
        assert!(bytes.len() < COMM);
        let mut at = 0;
        while at < bytes.len() {
            names[name][at / 8] |= (bytes[at] as u64) << (at % 8 * 8);
            at += 1;
        }
        name += 1;
    }
    names
}

/// Whether the present process is one of [`FORWARDERS`]. listen(2) runs in the process that calls it.
#[inline(always)]
pub fn is_forwarder() -> bool {
    // SAFETY: the helper has no preconditions, and returns a trusted pointer; the offset is the running
    // kernel's.
    let (first, second): (u64, u64) = unsafe {
        let task = bpf_get_current_task_btf().cast();
        let at = OFFSET_COMM.load();
        (field(task, at), field(task, at + 8))
    };
    // What follows the name's end may be left of an older name.
    let (first, second) = (until_nul(first), until_nul(second));
    let second = if first >> 56 == 0 { 0 } else { second };
    let mut found = false;
    for name in &FORWARDING {
        found |= name[0] == first && name[1] == second;
    }
    found
}

/// The bytes of a word, little-endian, before the first zero; the others are zero.
#[inline(always)]
fn until_nul(word: u64) -> u64 {
    let zeros = word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080;
    // All bits below the lowest zero byte; all bits if there is none.
    let below = (zeros & zeros.wrapping_neg()).wrapping_sub(1) >> 7;
    if zeros == 0 { word } else { word & below }
}

/// Loads a field at an offset that is constant for the verifier.
///
/// # Safety
///
/// `object` is a BTF pointer and the offset is that of a field of this size.
#[inline(always)]
pub unsafe fn field<T: Copy>(object: *mut c_void, offset: u32) -> T {
    // SAFETY: guaranteed by the caller.
    unsafe { core::ptr::read_volatile(object.byte_add(offset as usize).cast::<T>()) }
}

/// The programs' clock: coarse, because a fine one would take a quarter of their run time. The
/// agent allows for one tick.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Returns a leg as an index that is below [`LEGS`] for the verifier. The compiler, which knows the
/// bound too, would remove the mask.
#[inline(always)]
pub fn index(leg: u32) -> usize {
    const { assert!(LEGS == 4) };
    core::hint::black_box(leg) as usize & 3
}

/// Returns a length of 1 to `MOST`, a power of two, as one of which any verifier knows that. Linux 6.1 learns nothing of a
/// value from the comparison of another that was computed from it, and in that way the compiler compares with two bounds; of
/// a mask it learns, and the compiler, which does not see where the value comes from, keeps it.
#[inline(always)]
pub fn bounded<const MOST: usize>(len: u32) -> u32 {
    const { assert!(MOST.is_power_of_two()) };
    (core::hint::black_box(len).wrapping_sub(1) & (MOST as u32 - 1)) + 1
}

/// Whether an address is IPv4's, in the form of [`Endpoint::address`].
#[inline(always)]
pub fn is_v4(address: &[u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// The families of connections that a listener at `address` serves, IPv4 and IPv6. The IPv6
/// wildcard may serve both; `bpf_sk_assign` refuses it for IPv4 if it is IPv6-only
/// (net/core/filter.c). An IPv6 socket may be bound to an IPv4 address (ipv6(7)), as Java does.
#[inline(always)]
pub fn families(family: u32, address: &[u32; 4]) -> (bool, bool) {
    let v4 = family == INET || is_v4(address);
    let wildcard = *address == [0; 4];
    (v4 || wildcard, !v4)
}

/// Stores a backend's listener where steering finds it: `insert` takes the place and the flags. A
/// listener for IPv4 only has precedence over one for both. If the kernel refuses it (MPTCP, for
/// example), the service stays proxied.
#[inline(always)]
pub fn remember_listener(
    slot: u32,
    family: u32,
    address: &[u32; 4],
    insert: impl Fn(u32, u64) -> i64,
) {
    let (v4, v6) = families(family, address);
    let mut result = 0;
    if v6 {
        result = insert(listener_place(slot, INET6), BPF_ANY as u64);
    }
    if v4 {
        let flags = if v6 { BPF_NOEXIST } else { BPF_ANY };
        let other = insert(listener_place(slot, INET), flags as u64);
        if result == 0 && other != EEXIST {
            result = other;
        }
    }
    if result != 0
        && let Some(counters) = COUNTERS.get_ptr_mut(slot)
    {
        // SAFETY: the pointer is a valid map value.
        unsafe { atomic_add(&raw mut (*counters).listener_errors, 1) };
    }
}

/// Who sends the packet of a look-up for this port.
#[inline(always)]
pub fn sender(ctx: &SkLookupContext, family: u32, port: u32) -> Sender {
    let lookup = ctx.lookup;
    Sender {
        address: remote_address!(lookup, family),
        port: u16::from_be(word!(lookup, remote_port)),
        to: port as u16,
    }
}

/// The other end of a connection that was accepted.
#[inline(always)]
pub fn peer(ctx: &SockOpsContext) -> Sender {
    Sender {
        address: remote_address!(ctx.ops, word!(ctx.ops, family)),
        port: u32::from_be(word!(ctx.ops, remote_port)) as u16,
        to: ctx.local_port() as u16,
    }
}

/// Assigns a connection to the socket at this place, and returns whether it takes it. `None`: there is none. The
/// ordinary look-up continues for one that is not taken.
///
/// # Safety
///
/// `map` is a map of sockets with keys of this type.
#[inline(always)]
pub unsafe fn assign(ctx: &SkLookupContext, map: *mut c_void, place: u32) -> Option<bool> {
    // SAFETY: guaranteed by the caller; a found socket is released again.
    unsafe {
        let socket = bpf_map_lookup_elem(map, (&raw const place).cast());
        if socket.is_null() {
            return None;
        }
        let result = bpf_sk_assign(ctx.lookup.cast(), socket, 0);
        bpf_sk_release(socket);
        Some(result == 0)
    }
}
