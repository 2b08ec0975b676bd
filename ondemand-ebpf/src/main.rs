//! The eBPF programs. One file for each concern; `lib.rs` has the types shared with the agent.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "core has no atomics for this target: it lacks compare-and-swap"
)]
#![allow(missing_docs, reason = "a program, nobody imports it")]

mod connections;
mod context;
mod maps;
mod snapshot;
mod steering;
mod traffic;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets GPL-compatible programs only use some of the helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
