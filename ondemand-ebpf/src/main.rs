//! The eBPF programs, one file per concern; `lib.rs` has the types shared with the agent.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "core has no atomics for this target: it lacks compare-and-swap"
)]
#![allow(missing_docs, reason = "a program, which is not imported")]

mod binding;
mod catching;
mod connections;
mod context;
mod datagrams;
mod icmp;
mod keepalive;
mod maps;
mod own;
mod snapshot;
mod steering;
mod traffic;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel restricts some of the helpers to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
