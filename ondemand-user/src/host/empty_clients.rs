//! A filter at a listener of TCP that keeps back clients which have sent no byte (`ignore_empty`).
//!
//! With `TCP_DEFER_ACCEPT` (tcp(7)) a connection waits at the listener only when its client has sent a byte: until then it is a
//! half-open handshake. But a FIN ends the deferral as well (`tcp_check_req`, net/ipv4/tcp_minisocks.c, keeps back a bare ACK
//! alone), so a load balancer that connects and closes would be a client after all. The kernel runs the listener's filter
//! for the packets of such handshakes (`tcp_v4_rcv`, net/ipv4/tcp_ipv4.c): this one drops each FIN without payload. An
//! accepted connection inherits it.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use nix::{errno::Errno, libc};

/// For how long a handshake waits for its client's first byte, in seconds; the kernel makes a number of repetitions of it.
/// A client that stays connected for longer without a byte is served like any other.
const PATIENCE: libc::c_int = 60;

/// Drops each packet that has a FIN, no RST and no payload. Its data begin at the TCP header.
const FILTER: [libc::sock_filter; 11] = [
    // The flags.
    step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 13, 0, 0),
    step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0x01, 0, 8),
    step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0x04, 7, 0),
    // The header's length, of words of four bytes, into X.
    step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 12, 0, 0),
    step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf0, 0, 0),
    step(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 2, 0, 0),
    step(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
    // The packet's length.
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
    step(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_X, 0, 1, 0),
    step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
];

const fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Puts the filter at a listener, or takes it away.
///
/// # Errors
///
/// The kernel refuses it.
pub fn put(socket: &OwnedFd, wanted: bool) -> io::Result<()> {
    let patience = if wanted { PATIENCE } else { 0 };
    option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &patience)?;
    if !wanted {
        return take_off(socket.as_raw_fd());
    }
    let program = libc::sock_fprog {
        len: FILTER.len() as u16,
        filter: FILTER.as_ptr().cast_mut(),
    };
    option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Whether a listener has the filter.
///
/// # Errors
///
/// The kernel does not tell.
pub fn is_put(socket: &OwnedFd) -> io::Result<bool> {
    let mut patience: libc::c_int = 0;
    let int = size_of::<libc::c_int>() as libc::socklen_t;
    ask(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_DEFER_ACCEPT,
        &mut patience,
        int,
    )?;
    let mut found = [step(0, 0, 0, 0); FILTER.len()];
    // Its length is that of the program, in instructions (`sk_get_filter`, net/core/filter.c).
    let room = FILTER.len() as libc::socklen_t;
    let length = match ask(
        socket,
        libc::SOL_SOCKET,
        libc::SO_GET_FILTER,
        &mut found,
        room,
    ) {
        Ok(length) => length,
        // One of somebody else's: longer, or no classic program.
        Err(Errno::EINVAL | Errno::EACCES) => 0,
        Err(error) => return Err(error.into()),
    };
    let words = |it: &libc::sock_filter| (it.code, it.jt, it.jf, it.k);
    let is_same = found.iter().map(words).eq(FILTER.iter().map(words));
    Ok(patience > 0 && length == room && is_same)
}

/// Takes the filter off a socket, if it has one.
///
/// # Errors
///
/// It is locked.
pub fn take_off(socket: RawFd) -> io::Result<()> {
    let nothing: libc::c_int = 0;
    // SAFETY: the option's value is not used (`sk_detach_filter`), and valid during the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const nothing).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `room` is the length of the value as the option counts it; returns that of the answer.
fn ask<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
    room: libc::socklen_t,
) -> Result<libc::socklen_t, Errno> {
    let mut length = room;
    // SAFETY: both callers name the length of their value, in bytes or in instructions, so the kernel writes no more than it has;
    // any bytes are a value of these integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| length)
}

fn option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the option's value is read during the call, and has this length; a program's instructions are copied.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_tells_whether_it_has_the_filter() {
        let listener: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
        assert!(!is_put(&listener).unwrap());
        for wanted in [true, true, false, false] {
            put(&listener, wanted).unwrap();
            assert_eq!(is_put(&listener).unwrap(), wanted);
        }
        // One half of it is not enough.
        put(&listener, true).unwrap();
        take_off(listener.as_raw_fd()).unwrap();
        assert!(!is_put(&listener).unwrap());
        // Filters of others, as long and longer.
        for length in [FILTER.len(), FILTER.len() + 1] {
            let pass = vec![step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0); length];
            let program = libc::sock_fprog {
                len: length as u16,
                filter: pass.as_ptr().cast_mut(),
            };
            option(
                &listener,
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                &program,
            )
            .unwrap();
            assert!(!is_put(&listener).unwrap());
        }
    }
}
