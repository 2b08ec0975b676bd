//! sk_lookup: while a service's gate is open, steers new connections to its front address to the
//! backend's own listening socket; while the service is down, refuses clients that may not start
//! it.

use aya_ebpf::{
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use ondemand_ebpf::{
    Endpoint, GATE_ADMIT, GATE_CATCH, GATE_IGNORE, GATE_OPEN, GATE_WAKE, INET6, LIST_IGNORE,
    LIST_WAKE, Owner, PORT_FRONT, PORT_SLOT_BITS, ROLE_FRONT, listener_place,
};

use crate::{
    catching,
    context::{MAPPED, NETNS, local_address, now, remote_address, word},
    maps::{
        COUNTERS, ENDPOINTS, LISTENERS, atomic_add, atomic_add_ordered, gate, is_listed, port_word,
    },
};

/// `IPPROTO_TCP`
const TCP: u32 = 6;
/// `SK_PASS`: without a chosen socket, the ordinary lookup continues.
const PASS: u32 = 1;
/// `SK_DROP`: as without a listener; the client is refused (`inet_lookup_run_sk_lookup`).
const DROP: u32 = 0;

#[sk_lookup]
pub fn steering(ctx: SkLookupContext) -> u32 {
    steer(&ctx)
}

#[inline(always)]
fn steer(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let (port, family) = (word!(lookup, local_port), word!(lookup, family));
    let known = port_word(port);
    if known & PORT_FRONT == 0 || word!(lookup, protocol) != TCP {
        return PASS;
    }
    let Some(slot) = front_slot(ctx, known, family, port) else {
        return PASS;
    };
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return PASS;
    };
    let mut keeps_up = true;
    let lists = gate(slot);
    if lists & (GATE_WAKE | GATE_IGNORE) != 0 {
        let remote = remote_address!(lookup, family);
        if lists & (GATE_WAKE | GATE_ADMIT) == GATE_WAKE && !is_listed(slot, LIST_WAKE, remote) {
            // SAFETY: a valid map value.
            unsafe { atomic_add(&raw mut (*counters).refused, 1) };
            return DROP;
        }
        keeps_up = lists & GATE_IGNORE == 0 || !is_listed(slot, LIST_IGNORE, remote);
    }
    // Incremented before the gate is read: if an agent closes the gate and finds the counter
    // unchanged, no look-up passed in between.
    if keeps_up {
        // SAFETY: a valid map value.
        unsafe {
            core::ptr::write_volatile(&raw mut (*counters).last_lookup, now());
            atomic_add_ordered(&raw mut (*counters).lookups, 1);
        }
    }
    let gate = gate(slot);
    if gate & GATE_OPEN == 0 {
        if gate & GATE_CATCH == 0 {
            return PASS;
        }
        if !catching::takes_pass(slot) {
            catching::catch(ctx, slot, family, port, gate);
            return PASS;
        }
    }
    let place = listener_place(slot, family);
    // SAFETY: map and place are valid; a found socket is released again. If it cannot take the
    // connection, the ordinary lookup continues.
    unsafe {
        let socket = bpf_map_lookup_elem(
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw const place).cast(),
        );
        if !socket.is_null() {
            bpf_sk_assign(ctx.lookup.cast(), socket, 0);
            bpf_sk_release(socket);
        } else if gate & GATE_CATCH != 0 {
            // The application is gone: what this client sends next belongs to the front socket, too.
            catching::goes_to_front(ctx, family, port);
        }
    }
    PASS
}

/// The slot of the front socket at the destination. In most cases the port alone determines it.
#[inline(always)]
fn front_slot(ctx: &SkLookupContext, known: u32, family: u32, port: u32) -> Option<u32> {
    let slots = if family == INET6 {
        known >> PORT_SLOT_BITS
    } else {
        known
    };
    match slots & ((1 << PORT_SLOT_BITS) - 1) {
        0 => {
            let owner = owner(ctx, family, port)?;
            (owner.role == ROLE_FRONT).then_some(owner.slot)
        }
        slot => Some(slot - 1),
    }
}

/// The owner of the destination, or of the wildcard of its family.
#[inline(always)]
fn owner(ctx: &SkLookupContext, family: u32, port: u32) -> Option<&'static Owner> {
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
