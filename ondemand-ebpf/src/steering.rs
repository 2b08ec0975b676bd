//! sk_lookup: while a service's gate is open, steers new connections to its front address to the
//! backend's own listening socket, or leaves them alone if the application listens there itself; while
//! the service is down, refuses clients that may not start it. Datagrams: [`datagrams`].

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};
use ondemand_ebpf::{
    DATAGRAM, GATE_ADMIT, GATE_CATCH, GATE_IGNORE, GATE_OPEN, GATE_OWN, GATE_WAKE, INET6,
    LIST_IGNORE, LIST_WAKE, Owner, PORT_FRONT, PORT_SLOT_BITS, PORT_UDP, ROLE_BACKEND, ROLE_FRONT,
    ROLE_OWN, STREAM, listener_place,
};

use crate::{
    catching,
    context::{NETNS, assign, local_address, now, remote_address, word},
    datagrams,
    maps::{
        COUNTERS, FRONTS, LISTENERS, atomic_add, atomic_add_ordered, gate, is_listed, port_word,
    },
    own,
};

/// `IPPROTO_TCP`
const TCP: u32 = 6;
/// `SK_PASS`: without a chosen socket, the ordinary lookup continues.
pub const PASS: u32 = 1;
/// `SK_DROP`: as without a listener; the client is refused (`inet_lookup_run_sk_lookup`).
pub const DROP: u32 = 0;

#[sk_lookup]
pub fn steering(ctx: SkLookupContext) -> u32 {
    steer(&ctx)
}

#[inline(always)]
fn steer(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let (port, family) = (word!(lookup, local_port), word!(lookup, family));
    let known = port_word(port);
    let protocol = word!(lookup, protocol);
    if known & PORT_UDP != 0 && protocol == DATAGRAM {
        return datagrams::arrive(ctx, family, port);
    }
    if known & PORT_FRONT == 0 || protocol != TCP {
        return PASS;
    }
    let Some(found) = front(ctx, known, family, port) else {
        return PASS;
    };
    let slot = found.slot;
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return PASS;
    };
    let mut keeps_up = true;
    let lists = gate(slot);
    let is_own = lists & GATE_OWN != 0;
    if is_own && found.role == ROLE_FRONT {
        // The private address of a front socket is nobody's destination.
        return DROP;
    }
    if is_own && own::is_inside(ctx, family, port, lists) {
        return PASS;
    }
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
    if is_own {
        arrive(ctx, &found, family, port, gate);
        return PASS;
    }
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
    // SAFETY: the map has places of this kind.
    let taken = unsafe { assign(ctx, (&raw const LISTENERS).cast_mut().cast(), place) };
    if taken.is_none() && gate & GATE_CATCH != 0 {
        // The application is gone: what this client sends next belongs to the front socket, too.
        catching::goes_to_front(ctx, family, port);
    }
    PASS
}

/// A client at the address of an application that keeps it.
#[inline(always)]
fn arrive(ctx: &SkLookupContext, at: &Owner, family: u32, port: u32, gate: u64) {
    let slot = at.slot;
    let (is_open, catches) = (gate & GATE_OPEN != 0, gate & GATE_CATCH != 0);
    if own::is_present(slot, at.place, family)
        && (is_open || (catches && catching::takes_pass(slot)))
    {
        return;
    }
    if catches && !is_open && catching::catch(ctx, slot, family, port, gate) {
        return;
    }
    if catches && is_open {
        // The application is gone: see above.
        catching::goes_to_front(ctx, family, port);
    }
    // SAFETY: the map has places of this kind.
    unsafe {
        assign(
            ctx,
            (&raw const FRONTS).cast_mut().cast(),
            listener_place(slot, family),
        )
    };
}

/// The service whose clients arrive at the destination. In most cases the port alone determines it; then its role is
/// that of a front socket or of an application that keeps its only port.
#[inline(always)]
fn front(ctx: &SkLookupContext, known: u32, family: u32, port: u32) -> Option<Owner> {
    let slots = if family == INET6 {
        known >> PORT_SLOT_BITS
    } else {
        known
    };
    match slots & ((1 << PORT_SLOT_BITS) - 1) {
        0 => {
            let address = local_address!(ctx.lookup, family);
            let owner = own::owner(NETNS.load(), STREAM, address, port)?;
            (owner.role != ROLE_BACKEND).then_some(*owner)
        }
        slot => Some(Owner {
            slot: slot - 1,
            role: ROLE_OWN,
            place: 0,
            alias: 0,
        }),
    }
}
