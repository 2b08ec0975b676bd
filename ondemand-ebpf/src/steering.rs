//! sk_lookup: while a service's gate is open, new connections to its front address go
//! straight to the backend's own listening socket.

use aya_ebpf::{
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    },
    macros::sk_lookup,
    programs::SkLookupContext,
};
use ondemand_ebpf::{Endpoint, ListenerKey, Owner, ROLE_FRONT};

use crate::{
    connections::{INET6, MAPPED, NETNS, local_address, word},
    maps::{CONNECTIONS, ENDPOINTS, GATES, LISTENERS, atomic_add, atomic_add_ordered, is_watched},
};

/// `IPPROTO_TCP`
const TCP: u32 = 6;
/// `SK_PASS`: with no socket chosen, the ordinary lookup goes on.
const PASS: u32 = 1;

#[sk_lookup]
pub fn steering(ctx: SkLookupContext) -> u32 {
    steer(&ctx);
    PASS
}

#[inline(always)]
fn steer(ctx: &SkLookupContext) {
    let lookup = ctx.lookup;
    let (port, family) = (word!(lookup, local_port), word!(lookup, family));
    if word!(lookup, protocol) != TCP || !is_watched(port) {
        return;
    }
    let Some(owner) = front_owner(ctx, family, port) else {
        return;
    };
    if owner.role != ROLE_FRONT {
        return;
    }
    let slot = owner.slot;
    let Some(counters) = CONNECTIONS.get_ptr_mut(slot) else {
        return;
    };
    // Raised before the gate is read: an agent that closes the gate and finds the counter
    // unchanged knows that nobody slipped through.
    // SAFETY: a valid map value; the helper has no preconditions.
    unsafe {
        core::ptr::write_volatile(&raw mut (*counters).last_lookup, bpf_ktime_get_ns());
        atomic_add_ordered(&raw mut (*counters).lookups, 1);
    }
    let Some(gate) = GATES.get_ptr(slot) else {
        return;
    };
    // SAFETY: a valid map value.
    if unsafe { core::ptr::read_volatile(gate) } == 0 {
        return;
    }
    let key = ListenerKey { slot, family };
    // SAFETY: map and key are valid; a socket that was found is released again.
    let assigned = unsafe {
        let socket = bpf_map_lookup_elem(
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw const key).cast(),
        );
        if socket.is_null() {
            return;
        }
        let result = bpf_sk_assign(ctx.lookup.cast(), socket, 0);
        bpf_sk_release(socket);
        result
    };
    if assigned == 0 {
        // SAFETY: a valid map value.
        unsafe { atomic_add(&raw mut (*counters).steered, 1) };
    }
}

/// The service whose front socket is bound to the destination, or to the wildcard of its family.
#[inline(always)]
fn front_owner(ctx: &SkLookupContext, family: u32, port: u32) -> Option<&'static Owner> {
    let lookup = ctx.lookup;
    let netns = NETNS.load();
    let address = local_address!(lookup, family);
    let wildcard = if family == INET6 {
        [0; 4]
    } else {
        [0, 0, MAPPED, 0]
    };
    // SAFETY: entries are only replaced as a whole.
    unsafe {
        ENDPOINTS
            .get(Endpoint {
                netns,
                address,
                port,
                pad: 0,
            })
            .or_else(|| {
                ENDPOINTS.get(Endpoint {
                    netns,
                    address: wildcard,
                    port,
                    pad: 0,
                })
            })
    }
}
