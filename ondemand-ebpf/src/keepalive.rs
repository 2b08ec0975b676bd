//! A client that has vanished sends nothing, not even an end, and its connection would keep the service up
//! for ever. An accepted connection has the options of its listener, which is the application's own where
//! clients are steered: so TCP's keep-alive is switched on here, for the listener.
//!
//! What the application sets after accept(2) comes later, and wins. `TCP_USER_TIMEOUT` is left alone: it
//! would also end the connection of a client that is there and has stopped reading (`tcp_probe_timer`,
//! net/ipv4/tcp_timer.c).

use aya_ebpf::{
    bindings::{SO_KEEPALIVE, SOL_SOCKET},
    helpers::generated::{bpf_getsockopt, bpf_setsockopt},
    programs::SockOpsContext,
};

use ondemand_ebpf::KeepAlive;

use crate::maps::KEEPALIVES;

// include/uapi/linux/tcp.h; the level is `IPPROTO_TCP`.
const SOL_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;

/// Switches it on for a listener, whose connections inherit it: so it costs them nothing. Returns the
/// silence that was set; zero: none, because the application's listener has it with a shorter time.
#[inline(always)]
pub fn of_listener(ctx: &SockOpsContext, slot: u32) -> u32 {
    let Some(times) = KEEPALIVES.get(slot) else {
        return 0;
    };
    if times.idle == 0 || is_on(ctx, times.idle) {
        return 0;
    }
    set_all(ctx, times);
    times.idle
}

/// Sets it for a connection whose listener has another time than the configuration has now, or was older
/// than the programs. `inherited`: what was set on its listener.
#[inline(always)]
pub fn of_connection(ctx: &SockOpsContext, slot: u32, inherited: u32) {
    let Some(times) = KEEPALIVES.get(slot) else {
        return;
    };
    if times.idle == inherited || (inherited == 0 && is_on(ctx, times.idle)) {
        return;
    }
    if times.idle == 0 {
        set(ctx, SOL_SOCKET as i32, SO_KEEPALIVE as i32, 0);
    } else {
        set_all(ctx, times);
    }
}

/// Whether it is on, after this silence or less. Kernels before 6.1 do not answer the first question.
#[inline(always)]
fn is_on(ctx: &SockOpsContext, idle: u32) -> bool {
    get(ctx, SOL_SOCKET as i32, SO_KEEPALIVE as i32) == Some(1)
        && get(ctx, SOL_TCP, TCP_KEEPIDLE).is_some_and(|known| known <= idle)
}

#[inline(always)]
fn set_all(ctx: &SockOpsContext, times: &KeepAlive) {
    // The last one starts a connection's timer.
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
