//! Applications that keep the address where their clients arrive ([`ROLE_OWN`]). While the gate is open nothing is done
//! with a connection. While it is closed, clients are held, or assigned to the front socket, which listens at a private
//! address; only the proxy and the application itself, which are told by their cgroups, always reach the application.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_netns_cookie, bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes,
        generated::{bpf_get_current_task_btf, bpf_skc_to_tcp_sock},
    },
    programs::{SkLookupContext, SockOpsContext},
};
use ondemand_ebpf::{
    Endpoint, GATE_PROBED, INET, INET6, INSIDER_NS, LEG_LISTENER, LISTENS_BITS, LISTENS_V4,
    LISTENS_V6, Owner, ROLE_OTHER, ROLE_OWN, STREAM, Sender, Tag, UNIT_NAME, UnitName,
    present_place,
};

use crate::{
    context::{
        MAPPED, NETNS, families, is_v4, local_address, now, peer, remote_address, sender, word,
    },
    maps::{ENDPOINTS, INSIDERS, PRESENT, PROBES, UNITS, atomic_add, atomic_sub, is_watched},
};

/// Offset of the pointer to a socket's cgroup in `struct sock`. Set by the loader, like those below.
#[unsafe(no_mangle)]
static OFFSET_CGROUP: Global<u32> = Global::new(0);
/// Of `cgroups` in `struct task_struct`.
#[unsafe(no_mangle)]
static OFFSET_GROUPS: Global<u32> = Global::new(0);
/// Of `dfl_cgrp` in `struct css_set`: the cgroup of version 2.
#[unsafe(no_mangle)]
static OFFSET_DEFAULT: Global<u32> = Global::new(0);
/// Of `kn` in `struct cgroup`.
#[unsafe(no_mangle)]
static OFFSET_NODE: Global<u32> = Global::new(0);
/// Of `self` in `struct cgroup`.
#[unsafe(no_mangle)]
static OFFSET_SELF: Global<u32> = Global::new(0);
/// Of `parent` in `struct cgroup_subsys_state`.
#[unsafe(no_mangle)]
static OFFSET_PARENT: Global<u32> = Global::new(0);
/// Of `name` in `struct kernfs_node`.
#[unsafe(no_mangle)]
static OFFSET_NODE_NAME: Global<u32> = Global::new(0);

/// How far above a process's cgroup that of its unit is looked for: it may have some of its own (`Delegate=`).
const MOST_LEVELS: u32 = 8;

/// connect(2), with the source chosen and no packet sent: remembers who connects to its own service.
pub fn connecting(ctx: &SockOpsContext) {
    let to = u32::from_be(word!(ctx.ops, remote_port));
    if !is_watched(to) {
        return;
    }
    let family = word!(ctx.ops, family);
    let (local, remote) = (
        local_address!(ctx.ops, family),
        remote_address!(ctx.ops, family),
    );
    // SAFETY: the context is valid during the whole program.
    let (netns, socket) = unsafe {
        (
            bpf_get_netns_cookie(ctx.ops.cast()),
            (*ctx.ops).__bindgen_anon_2.sk,
        )
    };
    if socket.is_null() {
        return;
    }
    // `None`: a port at which an application listens that is not configured.
    let owner = owner(netns, STREAM, remote, to);
    if netns != NETNS.load() || owner.is_some_and(|owner| owner.role != ROLE_OWN) {
        return;
    }
    let key = Sender {
        address: local,
        port: ctx.local_port() as u16,
        to: to as u16,
    };
    // SAFETY: a socket of the context, checked against null.
    let of = unsafe { service_of(socket.cast()) };
    let is_inside = of.is_some_and(|slot| owner.is_none_or(|owner| owner.slot == slot));
    // Another process may have had the port before.
    let _ = if is_inside {
        INSIDERS.insert(key, now() + INSIDER_NS, 0)
    } else {
        INSIDERS.remove(key)
    };
}

/// The wildcard of an address's family.
#[inline(always)]
pub fn wildcard(address: &[u32; 4]) -> [u32; 4] {
    if is_v4(address) {
        [0, 0, MAPPED, 0]
    } else {
        [0; 4]
    }
}

/// The owner of an address, or of the wildcard of its family.
#[inline(always)]
pub fn owner(netns: u64, protocol: u32, address: [u32; 4], port: u32) -> Option<&'static Owner> {
    let at = |address| Endpoint {
        netns,
        address,
        port,
        protocol,
    };
    let wildcard = wildcard(&address);
    // SAFETY: entries are only replaced as a whole.
    unsafe {
        ENDPOINTS
            .get(at(address))
            .or_else(|| ENDPOINTS.get(at(wildcard)))
    }
}

/// The service in a cgroup of whose units a socket was made. Names suffice: a process in a cgroup of the same name
/// elsewhere could only make its own connection be refused while the service is down, or its listener keep it up.
///
/// # Safety
///
/// `socket` is a socket pointer for the verifier, and is not null.
#[inline(always)]
pub unsafe fn service_of(socket: *mut c_void) -> Option<u32> {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket);
        if tcp.is_null() {
            return None;
        }
        service_of_object(tcp.cast_const().cast())
    }
}

/// The same of a pointer that may be read.
///
/// # Safety
///
/// `socket` is a BTF pointer to a socket.
#[inline(always)]
pub unsafe fn service_of_object(socket: *const c_void) -> Option<u32> {
    // SAFETY: guaranteed by the caller; the offset is the running kernel's.
    unsafe { service_in(pointer(socket, OFFSET_CGROUP.load())?) }
}

/// The service in a cgroup of whose units the present process is.
#[inline(always)]
pub fn service_of_process() -> Option<u32> {
    // SAFETY: the helper returns a pointer to the present task; the offsets are the running kernel's.
    unsafe {
        let task: *const c_void = bpf_get_current_task_btf().cast_const().cast();
        let groups = pointer(task, OFFSET_GROUPS.load())?;
        service_in(pointer(groups, OFFSET_DEFAULT.load())?)
    }
}

/// The service of which this cgroup, or one above it, is a unit.
///
/// # Safety
///
/// `cgroup` points at a `struct cgroup`.
#[inline(always)]
unsafe fn service_in(mut cgroup: *const c_void) -> Option<u32> {
    // SAFETY: Reads of kernel memory cannot fault; the offsets are the running kernel's.
    unsafe {
        for _ in 0..MOST_LEVELS {
            let node = pointer(cgroup, OFFSET_NODE.load())?;
            let name = pointer(node, OFFSET_NODE_NAME.load())?;
            let mut unit = UnitName([0; UNIT_NAME]);
            if bpf_probe_read_kernel_str_bytes(name.cast(), &mut unit.0).is_ok()
                && let Some(slot) = UNITS.get(unit)
            {
                return Some(*slot);
            }
            let parent = pointer(cgroup, OFFSET_SELF.load() + OFFSET_PARENT.load())?;
            cgroup = parent.byte_sub(OFFSET_SELF.load() as usize);
        }
    }
    None
}

/// Reads a pointer that is not null.
///
/// # Safety
///
/// The offset is that of a pointer.
#[inline(always)]
unsafe fn pointer(object: *const c_void, offset: u32) -> Option<*const c_void> {
    // SAFETY: guaranteed by the caller; a wrong address is an error.
    let read = unsafe {
        bpf_probe_read_kernel(object.byte_add(offset as usize).cast::<*const c_void>()).ok()?
    };
    (!read.is_null()).then_some(read)
}

/// Whether a connection was made by one of the service's own units, or by the agent to ask whether it is ready.
#[inline(always)]
pub fn is_inside(ctx: &SkLookupContext, family: u32, port: u32, gate: u64) -> bool {
    let key = sender(ctx, family, port);
    // SAFETY: entries are only replaced as a whole.
    let until = unsafe { INSIDERS.get(key) };
    let until = match until {
        // SAFETY: as above.
        None if gate & GATE_PROBED != 0 => unsafe { PROBES.get(key) },
        until => until,
    };
    until.is_some_and(|until| now() < *until)
}

/// Whether an established connection was made by one of the service's own units. It is no longer remembered: its port
/// may be another process's next.
#[inline(always)]
pub fn was_inside(ctx: &SockOpsContext) -> bool {
    INSIDERS.remove(peer(ctx)).is_ok()
}

/// The tag of a listener of a unit's at an address that is not configured.
#[inline(always)]
pub fn other(slot: u32, port: u32) -> Tag {
    Tag {
        slot,
        role: ROLE_OTHER,
        leg: LEG_LISTENER,
        port,
        ..Tag::default()
    }
}

/// Whether the application listens at this port in this family.
#[inline(always)]
pub fn is_present(slot: u32, port: u32, family: u32) -> bool {
    let Some(count) = PRESENT.get_ptr(present_place(slot, port, family)) else {
        return false;
    };
    // SAFETY: a valid map value, whose words are written whole. Negative: it is unknown, and the front socket serves.
    unsafe { core::ptr::read_volatile(count) as i64 > 0 }
}

/// Counts a listener of the application in the families that it serves. Returns its [`Tag::listens`].
#[inline(always)]
pub fn appears(owner: &Owner, family: u32, address: &[u32; 4]) -> u32 {
    let (v4, v6) = families(family, address);
    let listens = if v4 { LISTENS_V4 } else { 0 } | if v6 { LISTENS_V6 } else { 0 };
    let listens = listens | owner.place << LISTENS_BITS;
    change(owner.slot, listens, atomic_add);
    listens
}

/// It is no longer there, if it was counted: once, whoever sees that first.
#[inline(always)]
pub fn vanishes(tag: &mut Tag) {
    change(tag.slot, tag.listens, atomic_sub);
    tag.listens = 0;
}

#[inline(always)]
fn change(slot: u32, listens: u32, by: unsafe fn(*mut u64, u64)) {
    for (bit, family) in [(LISTENS_V4, INET), (LISTENS_V6, INET6)] {
        let place = present_place(slot, listens >> LISTENS_BITS, family);
        if listens & bit != 0
            && let Some(count) = PRESENT.get_ptr_mut(place)
        {
            // SAFETY: a valid map value.
            unsafe { by(count, 1) };
        }
    }
}
