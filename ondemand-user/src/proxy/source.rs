//! The source address of the connection to the application.
//!
//! Many applications trust whoever connects from a loopback address. The proxy connects on behalf of
//! clients of the network, so what it shows the application is an address of this host: the one that the
//! client arrived at. Loopback is for clients that came over loopback.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{setsockopt, sockopt},
};
use tokio::net::{TcpSocket, TcpStream};

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The address of this host that the client connected to (getsockname(2)).
    pub arrived: SocketAddr,
    /// The client's own.
    pub peer: SocketAddr,
}

impl Ends {
    /// Whether the client is on this host for certain: both ends are loopback addresses. A forwarded
    /// client may arrive at 127.0.0.1, with an address of its own (`route_localnet`).
    fn are_local(&self) -> bool {
        is_loopback(self.arrived) && is_loopback(self.peer)
    }
}

/// Connects to a backend. `None`: the client is at a Unix socket, and so on this host.
///
/// # Errors
///
/// connect(2) failed; [`looks_local`] recognizes the error if the host has no address that would not look
/// local.
pub async fn connect(backend: SocketAddr, ends: Option<Ends>) -> io::Result<TcpStream> {
    let backend = canonical(backend);
    let stranger = ends.filter(|ends| !ends.are_local());
    let Some(ends) = stranger.filter(|_| is_of_this_host(backend)) else {
        // The kernel's choice. For another host it is an address of the interface towards it, which is
        // never loopback, and which that host has a route to.
        return TcpStream::connect(backend).await;
    };
    if let Some(source) = arrival(ends, backend) {
        match connect_from(source, backend).await {
            Err(error) if is_unusable(&error) => {}
            connected => return connected,
        }
    }
    for source in others(&addresses_of_this_host()?, ends.arrived, backend) {
        match connect_from(source, backend).await {
            Err(error) if is_unusable(&error) => {}
            connected => return connected,
        }
    }
    if is_of_this_host(canonical(ends.peer)) {
        // It has come over an address of the host, and is local all the same.
        return TcpStream::connect(backend).await;
    }
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, LooksLocal))
}

/// Connects to an application that keeps the address where this client arrived, in such a way that [`is_outgoing`]
/// knows the connection.
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_inside(address: SocketAddr, ends: Ends) -> io::Result<TcpStream> {
    let source = canonical(ends.arrived);
    let of_family = source.is_ipv4() == address.is_ipv4();
    if of_family && (ends.are_local() || !is_loopback(source)) {
        return connect_outgoing(SocketAddr::new(source.ip(), 0), address).await;
    }
    if ends.are_local() {
        return connect_outgoing(SocketAddr::new(address.ip(), 0), address).await;
    }
    for source in others(&addresses_of_this_host()?, ends.arrived, address) {
        match connect_outgoing(source, address).await {
            Err(error) if is_unusable(&error) => {}
            connected => return connected,
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, LooksLocal))
}

/// The two ends of the connections to the application, as the other side would have them.
static OUTGOING: Mutex<BTreeSet<(SocketAddr, SocketAddr)>> = Mutex::new(BTreeSet::new());

/// Whether a client is this proxy itself: without the kernel's help, each connection to the application would be one
/// more client.
pub fn is_outgoing(ends: Ends) -> bool {
    let ends = (canonical(ends.peer), canonical(ends.arrived));
    outgoing().contains(&ends)
}

fn outgoing() -> MutexGuard<'static, BTreeSet<(SocketAddr, SocketAddr)>> {
    OUTGOING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets a connection that is closed, if it was one to the application.
pub fn closes(stream: &TcpStream) {
    let mut outgoing = outgoing();
    if !outgoing.is_empty()
        && let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr())
    {
        outgoing.remove(&(canonical(local), canonical(peer)));
    }
}

/// The port is chosen before connect(2), so that it is known before the connection arrives anywhere.
async fn connect_outgoing(source: SocketAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(source)?;
    socket.bind(source)?;
    let ends = (canonical(socket.local_addr()?), canonical(address));
    outgoing().insert(ends);
    let connected = socket.connect(address).await;
    if connected.is_err() {
        outgoing().remove(&ends);
    }
    connected
}

fn socket(source: SocketAddr) -> io::Result<TcpSocket> {
    match source {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Whether the connection was not made because the application would have taken its client for a local one.
pub fn looks_local(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<LooksLocal>())
}

#[derive(Debug)]
struct LooksLocal;

impl std::error::Error for LooksLocal {}

impl std::fmt::Display for LooksLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this host has no address of the backend's family that is not loopback")
    }
}

/// The address has vanished, its ports are used up, or it has no route to the backend.
fn is_unusable(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable};
    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable
    )
}

async fn connect_from(source: SocketAddr, backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(source)?;
    // connect(2) chooses the port, so that connections to other destinations may have the same (ip(7)).
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(source)?;
    socket.connect(backend).await
}

/// The address that the client arrived at, as a source; `None`: it is of the other family, or loopback.
fn arrival(ends: Ends, backend: SocketAddr) -> Option<SocketAddr> {
    let mut source = canonical(ends.arrived);
    source.set_port(0);
    (source.is_ipv4() == backend.is_ipv4() && !is_loopback(source)).then_some(source)
}

/// An address of this host and the name of its interface.
type Local = (String, SocketAddr);

/// The host's addresses that may stand for it. Those of the interface that the client came over are the
/// first, those with a scope the last of each: they may have no route to the backend.
fn others(all: &[Local], arrived: SocketAddr, backend: SocketAddr) -> Vec<SocketAddr> {
    let arrived = canonical(arrived).ip();
    let over = all.iter().find(|(_, address)| address.ip() == arrived);
    let over = over.map(|(interface, _)| interface);
    let mut usable: Vec<_> = all
        .iter()
        .filter(|(_, source)| {
            source.is_ipv4() == backend.is_ipv4()
                && !is_loopback(*source)
                && !source.ip().is_unspecified()
        })
        .collect();
    usable.sort_by_key(|(interface, source)| {
        let has_scope = matches!(source, SocketAddr::V6(v6) if v6.scope_id() != 0);
        (Some(interface) != over, has_scope)
    });
    usable.into_iter().map(|(_, source)| *source).collect()
}

fn addresses_of_this_host() -> io::Result<Vec<Local>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address
            .as_sockaddr_in()
            .map(|v4| SocketAddr::new(v4.ip().into(), 0));
        let v6 = address
            .as_sockaddr_in6()
            .map(|v6| SocketAddrV6::new(v6.ip(), 0, 0, v6.scope_id()).into());
        Some((interface.interface_name, v4.or(v6)?))
    });
    Ok(addresses.collect())
}

/// Whether it is an address of this host: the kernel would connect there from loopback, or from the
/// destination itself. (A UDP socket has a route and sends nothing.)
pub fn is_of_this_host(address: SocketAddr) -> bool {
    if is_loopback(address) {
        return true;
    }
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    // Without a route connect(2) reports the same error.
    source.is_ok_and(|source| is_loopback(source) || source.ip() == address.ip())
}

/// An IPv4-mapped address as the IPv4 address that it stands for.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(arrived: &str, peer: &str, backend: &str, local: bool, source: Option<&str>) {
        let ends = Ends {
            arrived: parse(arrived),
            peer: parse(peer),
        };
        assert_eq!(ends.are_local(), local, "{ends:?}");
        assert_eq!(arrival(ends, parse(backend)), source.map(parse), "{ends:?}");
    }

    #[test]
    fn the_source_is_where_the_client_arrived() {
        let (v4, v6) = ("127.0.0.1:80", "[::1]:80");
        check("10.7.0.1:80", "10.7.0.2:5", v4, false, Some("10.7.0.1:0"));
        check("10.7.0.1:80", "10.7.0.1:5", v4, false, Some("10.7.0.1:0"));
        check(
            "[fd00::1]:80",
            "[fd00::2]:5",
            v6,
            false,
            Some("[fd00::1]:0"),
        );
        check(
            "[fe80::1%3]:80",
            "[fe80::2%3]:5",
            v6,
            false,
            Some("[fe80::1%3]:0"),
        );
        check(
            "[::ffff:10.7.0.1]:80",
            "[::ffff:10.7.0.2]:5",
            v4,
            false,
            Some("10.7.0.1:0"),
        );
        // Another family than the backend's.
        check("10.7.0.1:80", "10.7.0.2:5", v6, false, None);
        check("[fd00::1]:80", "[fd00::2]:5", v4, false, None);
        // Loopback.
        check("127.0.0.1:80", "127.0.0.1:5", v4, true, None);
        check("127.0.0.3:80", "127.0.0.2:5", v4, true, None);
        check("[::1]:80", "[::1]:5", v6, true, None);
        check(
            "[::ffff:127.0.0.1]:80",
            "[::ffff:127.0.0.1]:5",
            v4,
            true,
            None,
        );
        // Forwarded to loopback.
        check("127.0.0.1:80", "10.7.0.2:5", v4, false, None);
    }

    #[test]
    fn other_sources_are_never_loopback() {
        let all = [
            ("lo", "127.0.0.1:0"),
            ("lo", "[::1]:0"),
            ("bridge", "10.8.0.1:0"),
            ("bridge", "[fd08::1]:0"),
            ("lan", "[fe80::1%2]:0"),
            ("lan", "10.7.0.1:0"),
            ("lan", "[fd00::1]:0"),
        ];
        let all = all.map(|(interface, address)| (interface.to_owned(), parse(address)));
        let check = |arrived: &str, backend: &str, expected: &[&str]| {
            let expected: Vec<_> = expected.iter().map(|text| parse(text)).collect();
            assert_eq!(others(&all, parse(arrived), parse(backend)), expected);
        };
        let v4 = "127.0.0.1:80";
        check("[fd00::1]:80", v4, &["10.7.0.1:0", "10.8.0.1:0"]);
        check("[fd08::1]:80", v4, &["10.8.0.1:0", "10.7.0.1:0"]);
        check("127.0.0.1:80", v4, &["10.8.0.1:0", "10.7.0.1:0"]);
        let v6 = ["[fd00::1]:0", "[fe80::1%2]:0", "[fd08::1]:0"];
        check("10.7.0.1:80", "[::1]:80", &v6);
        assert_eq!(others(&all[..2], parse("[fd00::1]:80"), parse(v4)), []);
    }

    #[tokio::test]
    async fn a_stranger_is_refused_rather_than_made_local() {
        let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = backend.local_addr().unwrap();
        // An address of documentation (RFC 5737) is no host's.
        let ends = Ends {
            arrived: parse("192.0.2.1:80"),
            peer: parse("192.0.2.2:5"),
        };
        match connect(to, Some(ends)).await {
            Ok(stream) => assert!(!is_loopback(stream.local_addr().unwrap())),
            Err(error) => assert!(looks_local(&error), "{error}"),
        }
        let local = Ends {
            arrived: to,
            peer: to,
        };
        for ends in [None, Some(local)] {
            let stream = connect(to, ends).await.unwrap();
            assert!(is_loopback(stream.local_addr().unwrap()));
        }
    }
}
