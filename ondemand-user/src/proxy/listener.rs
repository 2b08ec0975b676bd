//! The front sockets that systemd passed.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{SockaddrLike as _, SockaddrStorage, getsockname},
};
use tokio::net::{TcpListener, UnixListener};

use super::{source::Ends, stream::Stream};
use crate::{host::empty_clients, proxy::wait::Clients};

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// All front sockets; clients are served in the order of their arrival.
pub struct Listeners {
    all: Vec<Listener>,
    /// The first one to poll, so that a busy one does not starve the others.
    turn: usize,
    /// Those at which datagrams wait.
    pub datagrams: Vec<OwnedFd>,
}

impl Listeners {
    /// Takes over the descriptors.
    ///
    /// # Errors
    ///
    /// One of them is not a listening stream socket.
    pub fn take(clients: Clients) -> Result<Self> {
        let all = clients.sockets().iter().map(|socket| {
            // SAFETY: systemd passed this descriptor to this process, and it is taken over once.
            let socket = unsafe { OwnedFd::from_raw_fd(*socket) };
            listener(socket).context("use a socket that systemd passed")
        });
        let all = all.collect::<Result<_>>()?;
        let datagrams = clients.datagrams().iter();
        Ok(Self {
            all,
            turn: 0,
            // SAFETY: as above.
            datagrams: datagrams
                .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
                .collect(),
        })
    }

    /// Accepts the next client, and returns its ends if it came over TCP. Cancel safe.
    ///
    /// # Errors
    ///
    /// accept(2) failed.
    pub async fn accept(&mut self) -> io::Result<(Stream, Option<Ends>)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Stream, Option<Ends>)>> {
        self.turn = self.turn.wrapping_add(1);
        let count = self.all.len();
        for index in 0..count {
            let accepted = match &self.all[(self.turn + index) % count] {
                Listener::Tcp(listener) => listener.poll_accept(context)?.map(|(stream, peer)| {
                    let arrived = stream.local_addr()?;
                    // Of a front socket that ignores connections without a byte.
                    empty_clients::take_off(stream.as_raw_fd())?;
                    Ok((Stream::Tcp(stream), Some(Ends { arrived, peer })))
                }),
                Listener::Unix(listener) => listener
                    .poll_accept(context)
                    .map_ok(|(stream, _)| (Stream::Unix(stream), None)),
            };
            if accepted.is_ready() {
                return accepted;
            }
        }
        Poll::Pending
    }
}

fn listener(socket: OwnedFd) -> Result<Listener> {
    use nix::sys::socket::AddressFamily::{Inet, Inet6, Unix};
    // PID 1 shares the open file, and works with either mode.
    let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
    fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let address: SockaddrStorage = { getsockname(socket.as_fd().as_raw_fd())? };
    match address.family() {
        Some(Inet | Inet6) => Ok(Listener::Tcp(TcpListener::from_std(socket.into())?)),
        Some(Unix) => Ok(Listener::Unix(UnixListener::from_std(socket.into())?)),
        other => bail!("unsupported address family {other:?}"),
    }
}
