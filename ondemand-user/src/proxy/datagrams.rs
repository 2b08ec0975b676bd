//! Datagrams that line up at the front sockets, because no agent holds them: they are sent to the application when it has bound
//! its port, in their order and from their senders' own addresses. Those that come meanwhile line up behind them.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use nix::{
    cmsg_space,
    errno::Errno,
    libc::sockaddr_in6,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockType, SockaddrStorage, getsockopt, recv, recvmsg,
        setsockopt, sockopt,
    },
};
use ondemand_core::{
    caught::{AT_ONCE, Datagram},
    words::counted,
};
use tokio::{
    io::Interest,
    net,
    time::{Instant, sleep},
};

use crate::{
    host::capabilities::{self, Keep},
    kernel::{catchers::RawSockets, sockets::udp},
};

/// The largest payload.
const LARGEST: usize = 65_507;
/// The first and the longest pause between two looks at the application's sockets.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How long the application has to read what was sent, before the next are sent.
const PACE: Duration = Duration::from_millis(2);
/// How long a port may be bound later than the service is ready. After that its datagrams are lost.
const LATE: Duration = Duration::from_secs(2);

/// What sends them.
#[derive(Clone, Debug)]
pub struct Sending {
    raw: Arc<RawSockets>,
    /// Where the application receives them.
    own: Vec<SocketAddr>,
}

impl Sending {
    /// Opens the raw sockets, and gives up the capability for that. To be called before there is a second thread, and before
    /// anything of a client's is read.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn open(own: Vec<SocketAddr>) -> Result<Self> {
        let raw = RawSockets::to_send();
        capabilities::forbid_new(Keep::None)?;
        capabilities::drop_all(Keep::None)?;
        Ok(Self {
            raw: Arc::new(raw?),
            own,
        })
    }

    /// Sends on all that line up, now and later.
    pub async fn run(self, name: String, fronts: Vec<OwnedFd>) {
        join_all(fronts.into_iter().map(|front| self.follow(&name, front))).await;
    }

    async fn follow(&self, name: &str, front: OwnedFd) {
        if let Err(error) = self.drain(name, front).await {
            log::warn!("{name}: datagrams that wait are not sent on: {error:#}");
        }
    }

    async fn drain(&self, name: &str, front: OwnedFd) -> Result<()> {
        let front = UdpSocket::from(front);
        front.set_nonblocking(true)?;
        let at = front.local_addr().context("the front socket's address")?;
        match at {
            SocketAddr::V4(_) => setsockopt(&front, sockopt::Ipv4OrigDstAddr, &true)?,
            SocketAddr::V6(_) => setsockopt(&front, sockopt::Ipv6OrigDstAddr, &true)?,
        }
        let front = net::UdpSocket::from_std(front)?;
        let mut buffer = vec![0; LARGEST];
        let mut until = Instant::now() + LATE;
        loop {
            front.readable().await?;
            loop {
                let number = self.send_all(name, &front, &mut buffer, until).await?;
                // The kernel's program hears of it so, and refuses it. When none has come between two of these, none lines up
                // any more.
                let said = front.send_to(&[], at).await;
                said.context("tell that no datagram waits")?;
                if number == 0 {
                    break;
                }
                until = Instant::now();
            }
        }
    }

    /// Sends on all that wait now. Returns their number.
    async fn send_all(
        &self,
        name: &str,
        front: &net::UdpSocket,
        buffer: &mut [u8],
        until: Instant,
    ) -> Result<u64> {
        let (mut sent, mut lost, mut at_once) = (0, 0, 0);
        // It is the first as long as it is sent: what comes lines up behind it.
        while let Some(datagram) = first(front, buffer)? {
            let port = datagram.to.port();
            let is_bound = self.binds(port, until).await;
            at_once += datagram.counted();
            while at_once > AT_ONCE {
                sleep(PACE).await;
                if udp::have_room(&[port]) {
                    at_once = datagram.counted();
                }
            }
            let is_sent = is_bound
                && self
                    .raw
                    .send(datagram.to, datagram.device, &datagram.to_send())
                    .inspect_err(|error| log::debug!("{name}: {}: {error}", datagram.from))
                    .is_ok();
            *if is_sent { &mut sent } else { &mut lost } += 1;
            take(front.as_raw_fd()).context("take a datagram")?;
        }
        if sent + lost > 0 {
            log::info!(
                "{name}: sent on {}, lost {lost}",
                counted(sent, "datagram that waited")
            );
        }
        Ok(sent + lost)
    }

    /// Waits until a socket is bound to this port, until then.
    async fn binds(&self, port: u16, until: Instant) -> bool {
        if !self.own.iter().any(|own| own.port() == port) {
            return false;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let sockets = udp::sockets().unwrap_or_default();
            if sockets
                .iter()
                .any(|it| it.local.port() == port && !it.is_connected)
            {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The first datagram that waits, which stays there. `None`: none does.
fn first(front: &net::UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    match front.try_io(Interest::READABLE, || peek(front.as_raw_fd(), buffer)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        found => found.map(Some),
    }
}

/// The first datagram that waits, which stays there.
///
/// # Errors
///
/// None waits (`WouldBlock`).
fn peek(front: RawFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    loop {
        let mut place = [IoSliceMut::new(buffer)];
        let mut space = cmsg_space!(sockaddr_in6);
        let received = recvmsg::<SockaddrStorage>(
            front,
            &mut place,
            Some(&mut space),
            MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
        );
        let received = match received {
            // Of an error about one that was sent.
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            received => received?,
        };
        let to = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4OrigDstAddr(at) => Some(SocketAddr::V4(SocketAddrV4::new(
                u32::from_be(at.sin_addr.s_addr).into(),
                u16::from_be(at.sin_port),
            ))),
            ControlMessageOwned::Ipv6OrigDstAddr(at) => Some(SocketAddr::V6(SocketAddrV6::new(
                at.sin6_addr.s6_addr.into(),
                u16::from_be(at.sin6_port),
                0,
                at.sin6_scope_id,
            ))),
            _ => None,
        });
        let from = received.address.as_ref().and_then(address);
        let len = received.bytes;
        let datagram = from
            .zip(to)
            .and_then(|(from, to)| Datagram::of(from, to, buffer.get(..len)?));
        match datagram {
            Some(datagram) => return Ok(datagram),
            None => take(front)?,
        }
    }
}

fn address(of: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = of.as_sockaddr_in().map(|at| SocketAddrV4::from(*at).into());
    v4.or_else(|| {
        of.as_sockaddr_in6()
            .map(|at| SocketAddrV6::from(*at).into())
    })
}

/// Whether a descriptor is a socket of this kind.
pub fn is_front(socket: RawFd) -> bool {
    // SAFETY: the descriptor was passed to this process, and nothing closes it meanwhile.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    getsockopt(&socket, sockopt::SockType).is_ok_and(|kind| kind == SockType::Datagram)
}

/// Drops all that wait there. Returns their number.
pub fn drop_all(front: RawFd) -> u64 {
    let mut dropped = 0;
    while take(front).is_ok() {
        dropped += 1;
    }
    dropped
}

/// Takes the first. (Of a socket in a map the kernel does nothing for a buffer without a byte: `udp_bpf_recvmsg`,
/// net/ipv4/udp_bpf.c.)
fn take(front: RawFd) -> io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    Ok(recv(front, &mut [0], flags).map(drop)?)
}
