//! A client that has vanished sends nothing, not even an end, and its connection would keep the service up
//! for ever. An accepted connection has the options of its listener, which is the application's own where
//! clients are steered: so TCP's keep-alive is switched on here, when the connection is established.
//!
//! What the application sets after accept(2) comes later, and wins. `TCP_USER_TIMEOUT` is left alone: it
//! would also end the connection of a client that is there and has stopped reading (`tcp_probe_timer`,
//! net/ipv4/tcp_timer.c).

use aya_ebpf::{
    bindings::{SO_KEEPALIVE, SOL_SOCKET},
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
    programs::SockOpsContext,
};

use crate::maps::KEEPALIVES;

// include/uapi/linux/tcp.h; the level is `IPPROTO_TCP`.
const SOL_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;

/// Switches it on, unless the application's listener has it with a shorter time.
#[inline(always)]
pub fn switch_on(ctx: &SockOpsContext, slot: u32) {
    let Some(times) = KEEPALIVES.get(slot) else {
        return;
    };
    if times.idle == 0 {
        return;
    }
    // Kernels before 6.1 do not answer the first question.
    if get(ctx, SOL_SOCKET as i32, SO_KEEPALIVE as i32) == Some(1)
        && get(ctx, SOL_TCP, TCP_KEEPIDLE).is_some_and(|idle| idle <= times.idle)
    {
        return;
    }
    // The last one starts the timer.
    set(ctx, SOL_TCP, TCP_KEEPIDLE, times.idle);
    set(ctx, SOL_TCP, TCP_KEEPINTVL, times.interval);
    set(ctx, SOL_TCP, TCP_KEEPCNT, times.probes);
    set(ctx, SOL_SOCKET as i32, SO_KEEPALIVE as i32, 1);
}

#[inline(always)]
fn set(ctx: &SockOpsContext, level: i32, option: i32, mut value: u32) {
    // SAFETY: the context and the value are valid for the call. A refusal leaves the option as it is.
    unsafe {
        bpf_setsockopt(
            ctx.ops.cast(),
            level,
            option,
            (&raw mut value).cast(),
            size_of::<u32>() as i32,
        );
    }
}

#[inline(always)]
fn get(ctx: &SockOpsContext, level: i32, option: i32) -> Option<u32> {
    let mut value = 0_u32;
    // SAFETY: as above.
    let result = unsafe {
        bpf_getsockopt(
            ctx.ops.cast(),
            level,
            option,
            (&raw mut value).cast(),
            size_of::<u32>() as i32,
        )
    };
    (result == 0).then_some(value)
}
