//! Queries the kernel's socket tables (sock_diag(7)).
//!
//! Written by hand: it takes two requests and a few attributes. A socket with malformed attributes
//! is skipped alone; a strange socket of another program must not hide all others.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// `NLMSG_HDRLEN`, netlink(7).
const HEADER: usize = 16;
/// `SOCK_DIAG_BY_FAMILY`, include/uapi/linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_ESTABLISHED` and `TCP_LISTEN`, include/net/tcp_states.h; Unix sockets use them too.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// `TCP_CLOSE`, the same file: a UDP socket that is not connected.
const UNCONNECTED: u8 = 7;
/// `INET_DIAG_INFO`, include/uapi/linux/inet_diag.h: a struct tcp_info.
const INET_DIAG_INFO: u16 = 2;
/// `INET_DIAG_SKV6ONLY`, include/uapi/linux/inet_diag.h.
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `INET_DIAG_CGROUP_ID`, the same file; Linux 5.8 and later.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `INET_DIAG_ULP_INFO` and, in it, `INET_ULP_INFO_NAME`, the same file; Linux 5.5 and later. The socket of TCP
/// below an MPTCP listener has `mptcp`.
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;
/// The index of the loopback interface, over which the host's own connections go.
const LOOPBACK: u32 = 1;
/// `UNIX_DIAG_NAME`, `UNIX_DIAG_VFS` and `UNIX_DIAG_RQLEN`, include/uapi/linux/unix_diag.h. The
/// request selects them by `1 << attribute` (`UDIAG_SHOW_NAME` and so on).
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_RQLEN: u16 = 4;
/// The kernel's largest part of a dump is 32 KiB (`netlink_dump`, net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;
/// What loads it, where it is not a part of the kernel.
const HINT: &str = "modprobe tcp_diag unix_diag";
/// How often a dump is retried that the kernel marks as inconsistent.
const ATTEMPTS: u32 = 3;

/// A listening TCP socket of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpListener {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Whether an IPv6 socket excludes IPv4 (`IPV6_V6ONLY`, ipv6(7)).
    pub v6_only: bool,
    /// Its inode in the file system of sockets, as in `/proc/PID/fd`.
    pub inode: u32,
    /// The user that made it (`sk_uid`).
    pub uid: u32,
    /// The id of the cgroup in which it was made: the inode of its directory. `None`: the kernel does not
    /// tell.
    pub cgroup: Option<u64>,
    /// Connections that wait to be accepted.
    pub queued: u32,
    /// How many may: the backlog of listen(2).
    pub backlog: u32,
}

/// An established TCP connection, as one of its ends in this network namespace has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConnection {
    /// The address of this end.
    pub local: SocketAddr,
    /// The other end's.
    pub peer: SocketAddr,
    /// The id of the cgroup in which the socket was made.
    pub cgroup: Option<u64>,
    /// For how long no byte has gone either way. `None`: the kernel does not tell.
    pub silent: Option<Duration>,
}

/// A Unix stream socket of this network namespace with a path: a listener, or a connection that
/// a listener with this path accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// The path passed to bind(2): it may be relative, or belong to another root.
    pub path: PathBuf,
    /// Device (the kernel's own numbering, major << 20 | minor) and 32 bits of the inode of the
    /// socket's file.
    pub file: Option<(u32, u32)>,
    /// For a listener, the number of connections that wait to be accepted; `None`: a connection.
    pub waiting: Option<u32>,
}

/// Lists the TCP sockets that listen on `port`, in all families; on any port, if it is 0.
///
/// The cost depends on the number of listeners, not of connections.
///
/// # Errors
///
/// The kernel does not answer, or has no inet_diag.
pub fn tcp_listeners(port: u16) -> Result<Vec<TcpListener>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // struct inet_diag_req_v2: family, protocol, extensions, pad, states, id
        let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
        request.extend((1_u32 << LISTEN).to_ne_bytes());
        request.extend(port.to_be_bytes());
        // The rest of the id: any peer, any interface, any cookie.
        request.resize(request.len() + 46, 0);
        let sockets = dump(&request, tcp_listener).context("list the listening TCP sockets")?;
        found.extend(sockets);
    }
    found.retain(|listener| port == 0 || listener.address.port() == port);
    Ok(found)
}

/// Lists the established TCP connections, of both families, with IPv4 addresses written as such. The cost depends on
/// their number.
///
/// # Errors
///
/// The kernel does not answer, or has no inet_diag.
pub fn tcp_connections() -> Result<Vec<TcpConnection>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // INET_DIAG_INFO is asked for by `1 << (attribute - 1)`.
        let extensions = 1 << (INET_DIAG_INFO - 1);
        let request = inet_request(family, libc::IPPROTO_TCP, extensions, ESTABLISHED);
        found.extend(dump(&request, tcp_connection).context("list the TCP connections")?);
    }
    Ok(found)
}

/// Lists the UDP sockets that are bound and not connected: address, whether an IPv6 socket excludes IPv4, and the cgroup in
/// which it was made.
///
/// # Errors
///
/// The kernel does not answer. One without udp_diag lists none.
pub fn udp_sockets() -> Result<Vec<(SocketAddr, bool, Option<u64>)>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = inet_request(family, libc::IPPROTO_UDP, 0, UNCONNECTED);
        match dump(&request, |message| {
            let listener = inet_socket(message)?;
            Some((listener.address, listener.v6_only, listener.cgroup))
        }) {
            Ok(sockets) => found.extend(sockets),
            Err(error) if is_none(&error) => {}
            Err(error) => return Err(error).context("list the UDP sockets"),
        }
    }
    Ok(found)
}

/// struct inet_diag_req_v2, for all sockets in this state: family, protocol, extensions, pad, states, id.
fn inet_request(family: i32, protocol: i32, extensions: u8, state: u8) -> Vec<u8> {
    let mut request = vec![family as u8, protocol as u8, extensions, 0];
    request.extend((1_u32 << state).to_ne_bytes());
    request.resize(request.len() + 48, 0);
    request
}

/// Finds the socket that a connection of this host to `address` would be accepted by.
///
/// The cost depends on nothing: it is the kernel's own look-up (`inet_diag_find_one_icsk`,
/// net/ipv4/inet_diag.c).
///
/// # Errors
///
/// The kernel does not answer, or has no inet_diag.
pub fn tcp_listener_at(address: SocketAddr) -> Result<Option<TcpListener>> {
    at(address, 0, tcp_listener)
}

/// Whether the listener at `address`, if there is one, is that of an MPTCP socket.
///
/// # Errors
///
/// Like [`tcp_listener_at`].
pub fn listens_by_mptcp(address: SocketAddr) -> Result<Option<bool>> {
    // The kernel adds it to INET_DIAG_INFO, which is asked for by `1 << (attribute - 1)`.
    at(address, 1 << 1, |message| {
        let info = attribute(message.get(72..)?, INET_DIAG_ULP_INFO);
        let name = info.and_then(|info| attribute(info, INET_ULP_INFO_NAME));
        Some(name.is_some_and(|name| name.starts_with(b"mptcp")))
    })
}

fn at<T>(
    address: SocketAddr,
    extensions: u8,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, extensions, 0];
    request.extend((1_u32 << LISTEN).to_ne_bytes());
    // struct inet_diag_sockid: source port, peer's port, source, peer, interface, cookie (none)
    request.extend(address.port().to_be_bytes());
    request.extend([0; 2]);
    match address.ip() {
        IpAddr::V4(ip) => request.extend(ip.octets().into_iter().chain([0; 12])),
        IpAddr::V6(ip) => request.extend(ip.octets()),
    }
    request.extend([0; 16]);
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend([0xff; 8]);
    match one(&request, decode) {
        Err(error) if is_none(&error) => Ok(None),
        found => found.with_context(|| format!("find the listener at {address}")),
    }
}

/// Lists all Unix stream sockets with a path.
///
/// # Errors
///
/// The kernel does not answer, or has no unix_diag.
pub fn unix_sockets(only_listeners: bool) -> Result<Vec<UnixSocket>> {
    let states = (1_u32 << LISTEN) | if only_listeners { 0 } else { 1 << ESTABLISHED };
    let show: u32 = 1 << UNIX_DIAG_NAME | 1 << UNIX_DIAG_VFS | 1 << UNIX_DIAG_RQLEN;
    // struct unix_diag_req: family, protocol, pad, states, inode, show, cookie
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    for word in [states, 0, show, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    dump(&request, unix_socket).context("list the Unix sockets")
}

/// The end of a connection in a struct inet_diag_msg.
fn tcp_connection(message: &[u8]) -> Option<TcpConnection> {
    if *message.get(1)? != ESTABLISHED {
        return None;
    }
    let ip = |at: usize| match i32::from(message[0]) {
        libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(array::<4>(message, at)?))),
        libc::AF_INET6 => {
            Some(IpAddr::V6(Ipv6Addr::from(array::<16>(message, at)?)).to_canonical())
        }
        _ => None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(array(message, at)?));
    let attributes = message.get(72..)?;
    let cgroup = attribute(attributes, INET_DIAG_CGROUP_ID).and_then(|value| array(value, 0));
    Some(TcpConnection {
        local: SocketAddr::new(ip(8)?, port(4)?),
        peer: SocketAddr::new(ip(24)?, port(6)?),
        cgroup: cgroup.map(u64::from_ne_bytes),
        silent: silent(attributes),
    })
}

/// For how long no byte has gone either way, from a struct tcp_info: tcpi_last_data_sent and tcpi_last_data_recv, in
/// milliseconds.
fn silent(attributes: &[u8]) -> Option<Duration> {
    let info = attribute(attributes, INET_DIAG_INFO)?;
    let [sent, received] = [44, 52].map(|at| array(info, at).map(u32::from_ne_bytes));
    Some(Duration::from_millis(sent?.min(received?).into()))
}

/// struct inet_diag_msg: family, state, timer, retransmits, id, expires, rqueue, wqueue, uid,
/// inode; the id begins with source port, peer's port, source address.
fn tcp_listener(message: &[u8]) -> Option<TcpListener> {
    if *message.get(1)? != LISTEN {
        return None;
    }
    inet_socket(message)
}

fn inet_socket(message: &[u8]) -> Option<TcpListener> {
    let port = u16::from_be_bytes(array(message, 4)?);
    let ip = match i32::from(message[0]) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(array::<4>(message, 8)?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(array::<16>(message, 8)?)),
        _ => return None,
    };
    let attributes = message.get(72..)?;
    let v6_only =
        attribute(attributes, INET_DIAG_SKV6ONLY).is_some_and(|value| value.first() == Some(&1));
    let cgroup = attribute(attributes, INET_DIAG_CGROUP_ID).and_then(|value| array(value, 0));
    Some(TcpListener {
        address: SocketAddr::new(ip, port),
        v6_only,
        inode: u32::from_ne_bytes(array(message, 68)?),
        uid: u32::from_ne_bytes(array(message, 64)?),
        cgroup: cgroup.map(u64::from_ne_bytes),
        queued: u32::from_ne_bytes(array(message, 56)?),
        backlog: u32::from_ne_bytes(array(message, 60)?),
    })
}

/// struct unix_diag_msg: family, type, state, pad, inode, cookie.
fn unix_socket(message: &[u8]) -> Option<UnixSocket> {
    if i32::from(*message.get(1)?) != libc::SOCK_STREAM {
        return None;
    }
    let attributes = message.get(16..)?;
    let name = attribute(attributes, UNIX_DIAG_NAME)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    // An abstract name begins with NUL (unix(7)).
    if matches!(name.first(), None | Some(0)) {
        return None;
    }
    let pair = |kind| {
        let value = attribute(attributes, kind)?;
        Some((
            u32::from_ne_bytes(array(value, 0)?),
            u32::from_ne_bytes(array(value, 4)?),
        ))
    };
    let waiting =
        (message[2] == LISTEN).then(|| pair(UNIX_DIAG_RQLEN).map_or(0, |(waiting, _)| waiting));
    // struct unix_diag_vfs: inode, device
    let file = pair(UNIX_DIAG_VFS).map(|(inode, device)| (device, inode));
    Some(UnixSocket {
        path: path(name),
        file,
        waiting,
    })
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// `N` bytes of `bytes` at `offset`.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// The value of the attribute `wanted` (struct nlattr: length with these 4 bytes, kind; each is
/// padded to 4 bytes).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(array(attributes, 0)?));
        let kind = u16::from_ne_bytes(array(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Sends a dump request and decodes each message of the reply.
fn dump<T>(request: &[u8], decode: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    for _ in 0..ATTEMPTS {
        if let Some(sockets) = dump_once(request, &decode)? {
            return Ok(sockets);
        }
    }
    bail!("the sockets changed while the kernel listed them, {ATTEMPTS} times in a row");
}

/// `None`: the kernel reports that the table changed during the dump.
fn dump_once<T>(request: &[u8], decode: impl Fn(&[u8]) -> Option<T>) -> Result<Option<Vec<T>>> {
    let netlink = ask(request, libc::NLM_F_REQUEST | libc::NLM_F_DUMP)?;
    let mut found = Vec::new();
    let mut consistent = true;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length =
            recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC).context("read sockets")?;
        ensure!(
            length > 0 && length <= buffer.len(),
            "a reply of {length} bytes"
        );
        if read_piece(&buffer[..length], &decode, &mut found, &mut consistent)? {
            return Ok(consistent.then_some(found));
        }
    }
}

/// Sends a request about one socket, and decodes the reply.
fn one<T>(request: &[u8], decode: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>> {
    let netlink = ask(request, libc::NLM_F_REQUEST)?;
    let mut buffer = [0; 1024];
    let length =
        recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("read a socket")?;
    let mut found = Vec::new();
    read_piece(&buffer[..length], decode, &mut found, &mut true)?;
    Ok(found.pop())
}

/// Whether the kernel refused because there is no such socket. Without sock_diag it says so too, and the
/// list of all listeners, which is asked for elsewhere, then reports that.
fn is_none(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<io::Error>();
    code.and_then(io::Error::raw_os_error) == Some(libc::ENOENT)
}

fn ask(request: &[u8], flags: libc::c_int) -> Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .with_context(|| {
        // Those of a kernel without it, and of a filter (`RestrictAddressFamilies=`).
        format!("open a socket of sock_diag ({HINT}, and AF_NETLINK must be allowed)")
    })?;
    let mut packet = Vec::with_capacity(HEADER + request.len());
    packet.extend(((HEADER + request.len()) as u32).to_ne_bytes());
    packet.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    packet.extend((flags as u16).to_ne_bytes());
    packet.extend([0; 8]);
    packet.extend(request);
    send(netlink.as_raw_fd(), &packet, MsgFlags::empty()).context("request sockets")?;
    Ok(netlink)
}

/// Reads one part of a reply: adds its sockets to `found`, and sets `consistent` to false if the
/// kernel reports that the table changed during the dump. Returns true for the last part.
fn read_piece<T>(
    mut piece: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    found: &mut Vec<T>,
    consistent: &mut bool,
) -> Result<bool> {
    while let Some((header, body)) = next_message(&mut piece) {
        *consistent &= header.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
        match i32::from(header.kind) {
            // The last message has an error number if the dump was aborted.
            libc::NLMSG_DONE if array(body, 0).is_none_or(|code| i32::from_ne_bytes(code) >= 0) => {
                return Ok(true);
            }
            libc::NLMSG_DONE | libc::NLMSG_ERROR => return Err(refusal(body)),
            _ if header.kind == SOCK_DIAG_BY_FAMILY => found.extend(decode(body)),
            _ => {}
        }
    }
    Ok(false)
}

/// Decodes a part of a reply, once as TCP and once as Unix sockets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode(piece: &[u8]) -> (Result<Vec<TcpListener>>, Result<Vec<UnixSocket>>) {
    let (mut tcp, mut unix, mut consistent) = (Vec::new(), Vec::new(), true);
    let tcp = read_piece(piece, tcp_listener, &mut tcp, &mut consistent).map(|_| tcp);
    let unix = read_piece(piece, unix_socket, &mut unix, &mut consistent).map(|_| unix);
    (tcp, unix)
}

struct Header {
    kind: u16,
    flags: u16,
}

/// Cuts the next message off `rest` (struct nlmsghdr: length, kind, flags, sequence, port).
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
    let bytes = *rest;
    let length = u32::from_ne_bytes(array(bytes, 0)?) as usize;
    let header = Header {
        kind: u16::from_ne_bytes(array(bytes, 4)?),
        flags: u16::from_ne_bytes(array(bytes, 6)?),
    };
    let body = bytes.get(HEADER..length)?;
    *rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((header, body))
}

/// struct nlmsgerr begins with the negative error number.
fn refusal(body: &[u8]) -> anyhow::Error {
    let errno = array(body, 0).and_then(|bytes| i32::from_ne_bytes(bytes).checked_neg());
    let errno = errno.unwrap_or(libc::EBADMSG);
    let hint = if errno == libc::ENOENT {
        format!(": the kernel lacks sock_diag ({HINT})")
    } else {
        String::new()
    };
    anyhow::Error::new(io::Error::from_raw_os_error(errno))
        .context(format!("the kernel refused{hint}"))
}
