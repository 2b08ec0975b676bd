//! Errors of ICMP about datagrams that an application has sent. To find the socket that one is for, the kernel looks it up as if
//! the datagram had come from where the error is (`__udp4_lib_err`, net/ipv4/udp.c), which runs sk_lookup: that is no
//! use. A raw socket sees each packet of ICMP before that, on the same CPU (`ip_protocol_deliver_rcu`), so the filter of the
//! agent's notes what it is about.

use aya_ebpf::{
    macros::socket_filter,
    programs::{SkBuffContext, SkLookupContext},
};
use ondemand_ebpf::{DATAGRAM, ICMP_NS, PORT_UDP, Sender};

use crate::{
    catching::network,
    context::{MAPPED, now, sender},
    maps::{ICMP_ERRORS, port_word},
};

/// The filter of the agent's raw sockets. Nothing stays in them.
#[socket_filter]
pub fn icmp(ctx: SkBuffContext) -> i64 {
    if let Some(about) = about(&ctx)
        && port_word(u32::from(about.to)) & PORT_UDP != 0
        && let Some(error) = ICMP_ERRORS.get_ptr_mut(0)
    {
        // SAFETY: a valid map value of this CPU.
        unsafe {
            (*error).about = about;
            (*error).at = now();
        }
    }
    0
}

/// The datagram that the error is about: where it was sent to, and from which port.
#[inline(always)]
fn about(ctx: &SkBuffContext) -> Option<Sender> {
    let version: u8 = network(ctx, 0)?;
    let (address, ports) = match version >> 4 {
        4 => {
            let icmp = u32::from(version & 15) * 4;
            let kind: u8 = network(ctx, icmp)?;
            // Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
            if !matches!(kind, 3 | 4 | 5 | 11 | 12) {
                return None;
            }
            let inner = icmp + 8;
            let version: u8 = network(ctx, inner)?;
            let protocol: u8 = network(ctx, inner + 9)?;
            let to = [0, 0, MAPPED, network(ctx, inner + 16)?];
            if u32::from(protocol) != DATAGRAM {
                return None;
            }
            (to, inner + u32::from(version & 15) * 4)
        }
        _ => {
            const ICMP: u32 = 40;
            // Without extension headers; those below 128 are errors (RFC 4443).
            let next: u8 = network(ctx, 6)?;
            let kind: u8 = network(ctx, ICMP)?;
            let inner = ICMP + 8;
            let protocol: u8 = network(ctx, inner + 6)?;
            if next != 58 || kind >= 128 || u32::from(protocol) != DATAGRAM {
                return None;
            }
            (network(ctx, inner + 24)?, inner + 40)
        }
    };
    let [from, to]: [u16; 2] = network(ctx, ports)?;
    Some(Sender {
        address,
        port: u16::from_be(to),
        to: u16::from_be(from),
    })
}

/// Whether a look-up is for such an error, which is taken.
#[inline(always)]
pub fn is_reason(ctx: &SkLookupContext, family: u32, port: u32) -> bool {
    let sender = sender(ctx, family, port);
    let Some(error) = ICMP_ERRORS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid map value of this CPU.
    unsafe {
        let is_new = (*error).at != 0 && now().wrapping_sub((*error).at) <= ICMP_NS;
        let is_it = is_new && (*error).about == sender;
        if is_it {
            (*error).at = 0;
        }
        is_it
    }
}
