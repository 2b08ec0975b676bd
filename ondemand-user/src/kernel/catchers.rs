//! The agent's sockets for clients that are held: those that their packets are assigned to, and those by which the
//! same packets are sent again.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, Shutdown, SockFlag, SockProtocol, SockType, SockaddrIn,
        SockaddrIn6, sendto, setsockopt, shutdown, socket, sockopt,
    },
};

/// `IPV6_HDRINCL`, include/uapi/linux/in6.h.
const IPV6_HDRINCL: libc::c_int = 36;

/// Sockets that send whole packets (raw(7)). To make them takes `CAP_NET_RAW`; to use them takes nothing.
#[derive(Debug)]
pub struct RawSockets {
    v4: OwnedFd,
    /// `None`: the host has no IPv6.
    v6: Option<OwnedFd>,
    /// Those that see the packets of ICMP, IPv4's and IPv6's. `None`: they cannot be opened.
    pub(super) icmp: [Option<OwnedFd>; 2],
}

impl RawSockets {
    /// Opens those that send.
    ///
    /// # Errors
    ///
    /// This process has no `CAP_NET_RAW`.
    pub fn to_send() -> Result<Self> {
        let open = |family| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(family, SockType::Raw, flags, SockProtocol::Raw)
        };
        let v4 = open(AddressFamily::Inet).context("open a raw socket")?;
        // So no packet of it leaves this host. To change that takes CAP_NET_RAW, too (`sock_bindtoindex_locked`,
        // net/core/sock.c). IPv6 has the routes to the host's own addresses on their devices, and refuses.
        setsockopt(&v4, sockopt::BindToDevice, &"lo".into()).context("bind it to the loopback")?;
        let v6 = match open(AddressFamily::Inet6) {
            Ok(socket) => {
                include_header(&socket).context("send whole packets over IPv6")?;
                Some(socket)
            }
            Err(Errno::EAFNOSUPPORT) => None,
            Err(error) => return Err(error).context("open a raw socket for IPv6"),
        };
        let icmp = [None, None];
        Ok(Self { v4, v6, icmp })
    }

    /// Opens all of them.
    ///
    /// # Errors
    ///
    /// As for [`Self::to_send`].
    pub fn open() -> Result<Self> {
        // Without them an error about a datagram that an application has sent counts as use.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let icmp = [
            (AddressFamily::Inet, SockProtocol::Icmp),
            (AddressFamily::Inet6, SockProtocol::IcmpV6),
        ];
        let icmp = icmp.map(|(family, protocol)| {
            let socket = socket(family, SockType::Raw, flags, protocol).ok()?;
            // They are bound to no device, and only listen. The error is that they are not connected, which ends nothing else:
            // from now on they send no packet with a header of its own (`sock_alloc_send_pskb`, net/core/sock.c).
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
            Some(socket)
        });
        Ok(Self {
            icmp,
            ..Self::to_send()?
        })
    }

    /// Sends a packet that came by `device` to this host again, from the client's own address. It takes the way of a packet that this host
    /// sends to itself.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, a full buffer included. The client sends it again by itself.
    pub fn send(&self, to: SocketAddr, device: u32, bytes: &[u8]) -> io::Result<()> {
        let sent = match to {
            SocketAddr::V4(to) => {
                let to = SockaddrIn::from(to);
                sendto(self.v4.as_raw_fd(), bytes, &to, MsgFlags::empty())?
            }
            SocketAddr::V6(mut to) => {
                let socket = self.v6.as_ref().ok_or(Errno::EAFNOSUPPORT)?;
                // It would be the protocol (`rawv6_sendmsg`, net/ipv6/raw.c).
                to.set_port(0);
                if to.ip().is_unicast_link_local() {
                    to.set_scope_id(device);
                }
                let to = SockaddrIn6::from(to);
                sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty())?
            }
        };
        match sent == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

fn include_header(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, IPV6_HDRINCL)
}

/// From now on a socket's filter stays, whoever this process may be taken over by.
pub(super) fn lock_filter(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER)
}

/// Sets an option to 1.
fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the option's value is read during the call, and has this length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// The sockets that clients are assigned to, IPv4's and IPv6's: a packet can only be given to a listener of its own
/// family. They never get a connection: their filter drops each SYN. `None`: the host lacks the family.
pub(super) fn listeners() -> io::Result<[Option<TcpListener>; 2]> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
    Ok([Some(v4), v6])
}

/// The same for datagrams. Their filter drops each one.
pub(super) fn datagram_sockets() -> io::Result<[Option<UdpSocket>; 2]> {
    let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).ok();
    Ok([Some(v4), v6])
}
