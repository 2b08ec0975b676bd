//! cgroup_skb: packets, live bytes and the time of the last packet of watched connections.
//!
//! A packet of an unwatched port costs one array read. The bytes are TCP's own count,
//! folded in as it grows, so retransmissions are not in it and the sum is exact.

use aya_ebpf::{
    helpers::{bpf_sk_fullsock, bpf_tcp_sock, generated::bpf_ktime_get_coarse_ns},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use ondemand_ebpf::{LEGS, Tag, Traffic};

use crate::{
    connections::ESTABLISHED,
    maps::{TRAFFIC, atomic_add, atomic_exchange, is_watched, tag},
};

#[cgroup_skb]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    count_packet(&ctx, false);
    1
}

#[cgroup_skb]
pub fn egress(ctx: SkBuffContext) -> i32 {
    count_packet(&ctx, true);
    1
}

#[inline(always)]
fn count_packet(ctx: &SkBuffContext, outgoing: bool) {
    // SAFETY: the context is valid for the whole program.
    let skb = unsafe { &*ctx.skb.skb };
    if !is_watched(skb.local_port) {
        return;
    }
    // SAFETY: the union is read as the pointer that the kernel puts there.
    let socket = unsafe { skb.__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // Null for request sockets and TIME_WAIT.
    // SAFETY: a socket of the context, checked against null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return;
    }
    // SAFETY: a full socket.
    let pointer = unsafe { tag(socket.cast()) };
    if pointer.is_null() {
        return;
    }
    // SAFETY: checked against null.
    let (slot, leg) = unsafe { ((*pointer).slot, (*pointer).leg) };
    if leg >= LEGS {
        return;
    }
    let Some(traffic) = TRAFFIC.get_ptr_mut(slot * LEGS + leg) else {
        return;
    };
    // SAFETY: a valid map value. The clock is coarse because a fine one costs more than
    // all the rest; the agent allows for a tick.
    unsafe {
        core::ptr::write_volatile(&raw mut (*traffic).last_packet, bpf_ktime_get_coarse_ns());
        if outgoing {
            atomic_add(&raw mut (*traffic).sent_packets, 1);
            // From the first FIN on TCP's counts hold it too: the close settles them.
            if (*socket).state == ESTABLISHED {
                fold_bytes(socket, pointer, traffic);
            }
        } else {
            atomic_add(&raw mut (*traffic).received_packets, 1);
        }
    }
}

/// Adds what TCP has counted since the last time. The exchange makes the differences add
/// up to the last value in whatever order two CPUs come by.
///
/// # Safety
///
/// All pointers are checked against null.
#[inline(always)]
unsafe fn fold_bytes(
    socket: *mut aya_ebpf::bindings::bpf_sock,
    tag: *mut Tag,
    traffic: *mut Traffic,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let tcp = bpf_tcp_sock(socket);
        if tcp.is_null() {
            return;
        }
        let (received, sent) = ((*tcp).bytes_received, (*tcp).bytes_acked);
        if received != (*tag).received {
            let before = atomic_exchange(&raw mut (*tag).received, received);
            atomic_add(
                &raw mut (*traffic).received_bytes,
                received.wrapping_sub(before),
            );
        }
        if sent != (*tag).sent {
            let before = atomic_exchange(&raw mut (*tag).sent, sent);
            atomic_add(&raw mut (*traffic).sent_bytes, sent.wrapping_sub(before));
        }
    }
}
