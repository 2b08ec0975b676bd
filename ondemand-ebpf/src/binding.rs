//! bind(2) of the addresses that applications keep ([`ROLE_OWN`]).
//!
//! A connection that the front socket has accepted there would keep an application from binding its address that does
//! not set SO_REUSEADDR, so it is set. And while the application is down any user could take an address whose port is
//! not a privileged one: only root, the application's user and its own unit may bind it.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{
        bpf_get_current_uid_gid, bpf_get_netns_cookie,
        generated::{bpf_setsockopt, bpf_skc_to_tcp_sock},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use ondemand_ebpf::{DATAGRAM, PORT_UDP, PORT_WATCHED, ROLE_OWN, STREAM};

use crate::{
    context::{MAPPED, is_trusted, word},
    maps::{USERS, port_word},
    own,
};

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;
/// `IPPROTO_TCP`, and that of MPTCP's sockets.
const TCP: u32 = 6;
const MPTCP: u32 = 262;
/// `SOL_SOCKET` and `SO_REUSEADDR`.
const SOCKET: i32 = 1;
const REUSE: i32 = 2;

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    let address = word!(ctx.sock_addr, user_ip4);
    bind(ctx.sock_addr, [0, 0, MAPPED, address])
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    let at = ctx.sock_addr;
    let address = [
        word!(at, user_ip6[0]),
        word!(at, user_ip6[1]),
        word!(at, user_ip6[2]),
        word!(at, user_ip6[3]),
    ];
    bind(at, address)
}

#[inline(always)]
fn bind(at: *mut bpf_sock_addr, address: [u32; 4]) -> i32 {
    let port = u32::from(u16::from_be(word!(at, user_port) as u16));
    let protocol = word!(at, protocol);
    let (bit, kind) = match protocol {
        TCP | MPTCP => (PORT_WATCHED, STREAM),
        DATAGRAM => (PORT_UDP, DATAGRAM),
        _ => return ALLOW,
    };
    if port_word(port) & bit == 0 {
        return ALLOW;
    }
    // SAFETY: the context is valid during the whole program.
    let netns = unsafe { bpf_get_netns_cookie(at.cast()) };
    let owner = own::owner(netns, kind, address, port).filter(|owner| {
        let is_configured = owner.alias == 0 || address == own::wildcard(&address);
        owner.role == ROLE_OWN && is_configured
    });
    let Some(owner) = owner else {
        return ALLOW;
    };
    if kind == DATAGRAM {
        // Here SO_REUSEADDR would let two sockets share an address.
        let user = bpf_get_current_uid_gid() as u32;
        let is_known = user == 0 || USERS.get(owner.slot).is_some_and(|known| *known == user);
        let is_allowed = is_known || own::service_of_process() == Some(owner.slot);
        return if is_allowed { ALLOW } else { REFUSE };
    }
    // SAFETY: the context is valid; the union is read as the pointer that the kernel stores in it.
    let socket = unsafe { (*at).__bindgen_anon_1.sk };
    if socket.is_null() {
        return ALLOW;
    }
    // SAFETY: a socket of the context, checked against null; the result is a trusted pointer or null.
    let is_allowed = unsafe {
        let tcp = bpf_skc_to_tcp_sock(socket.cast());
        // An MPTCP socket is none; its user is not known.
        tcp.is_null()
            || is_trusted(tcp.cast(), owner.slot)
            || own::service_of(socket.cast()) == Some(owner.slot)
    };
    if !is_allowed {
        return REFUSE;
    }
    let mut one = 1i32;
    // SAFETY: the context and the value are valid for the call. If it fails, bind(2) goes on as it would have.
    unsafe { bpf_setsockopt(at.cast(), SOCKET, REUSE, (&raw mut one).cast(), 4) };
    ALLOW
}
