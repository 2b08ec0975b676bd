//! Finds listening TCP and Unix sockets of this network namespace (sock_diag).

use std::{fs, io, net::SocketAddr, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result};
use nix::sys::stat::{major, minor};
use ondemand_core::config::{Endpoint, Service, reachable};

use crate::kernel::sockets::{
    sock_diag::{self, TcpListener, UnixSocket},
    udp,
};

/// Whether `endpoint` has a listener, or a socket that receives its datagrams: at this address, or at a wildcard that covers it.
///
/// The cost depends on the number of listeners, or of Unix sockets, not on that of connections.
///
/// # Errors
///
/// The kernel does not answer.
pub fn is_listening(endpoint: &Endpoint) -> Result<bool> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let listeners = sock_diag::tcp_listeners(address.port())?;
            Ok(listeners.iter().any(|listener| covers(listener, address)))
        }
        Endpoint::Udp(address) => {
            let sockets = udp::sockets()?;
            Ok(sockets.iter().any(|socket| socket.covers(*address)))
        }
        Endpoint::Unix(path) => is_bound(path, &sock_diag::unix_sockets(true)?),
    }
}

/// Where an application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its first address.
    pub backend: Endpoint,
    /// All of them, if it keeps those where clients arrive. Otherwise empty.
    pub own: Vec<SocketAddr>,
}

impl From<&Service> for Application {
    fn from(service: &Service) -> Self {
        let own = service.listen.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Tcp(address) if service.own_address => Some(*address),
            _ => None,
        });
        Self {
            backend: service.backend.clone(),
            own: own.collect(),
        }
    }
}

impl Application {
    /// Whether it listens: at each of its ports, in one family at least.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn is_listening(&self) -> Result<bool> {
        if self.own.is_empty() {
            return is_listening(&self.backend);
        }
        let mut ports: Vec<u16> = self.own.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            let listeners = sock_diag::tcp_listeners(port)?;
            let mut own = self.own.iter().filter(|own| own.port() == port);
            if !own.any(|own| listeners.iter().any(|it| covers(it, &reachable(*own)))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The other addresses of its own at which it may be reached for a client that arrived here: an application may
    /// listen in one family alone.
    pub fn others(&self, arrived: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let of_port = self
            .own
            .iter()
            .filter(move |own| own.port() == arrived.port());
        of_port
            .map(|own| reachable(*own))
            .filter(move |own| own.is_ipv4() != arrived.is_ipv4())
    }
}

/// Whether one of these sockets listens at this path.
///
/// # Errors
///
/// The path cannot be looked at.
pub(crate) fn is_bound(path: &Path, sockets: &[UnixSocket]) -> Result<bool> {
    let Some(file) = File::at(path)? else {
        return Ok(false);
    };
    Ok(sockets
        .iter()
        .any(|socket| socket.waiting.is_some() && file.is_of(socket)))
}

/// Whether a socket of exactly this name listens, and this process does not see its file: its view of
/// the file system is another one.
///
/// # Errors
///
/// The kernel does not answer.
pub fn is_out_of_sight(endpoint: &Endpoint) -> Result<bool> {
    let Endpoint::Unix(path) = endpoint else {
        return Ok(false);
    };
    if File::at(path)?.is_some() {
        return Ok(false);
    }
    let sockets = sock_diag::unix_sockets(true)?;
    Ok(sockets
        .iter()
        .any(|socket| socket.waiting.is_some() && socket.path == *path))
}

/// Whether a connection to `address` reaches `listener`.
pub(crate) fn covers(listener: &TcpListener, address: &SocketAddr) -> bool {
    let bound = listener.address.ip();
    listener.address.port() == address.port()
        && if bound.is_unspecified() {
            bound.is_ipv4() == address.is_ipv4() || (bound.is_ipv6() && !listener.v6_only)
        } else {
            // An IPv6 socket may be bound to an IPv4-mapped address (ipv6(7)).
            bound.to_canonical() == address.ip().to_canonical()
        }
}

/// A socket's file, by which its listener is recognized.
pub(crate) struct File<'a> {
    path: &'a Path,
    /// Device and inode in sock_diag's format; `None`: permission denied.
    id: Option<(u32, u32)>,
}

impl<'a> File<'a> {
    /// `None`: the file does not exist.
    pub(crate) fn at(path: &'a Path) -> Result<Option<Self>> {
        let id = match fs::metadata(path) {
            Ok(metadata) => {
                let (major, minor) = (major(metadata.dev()), minor(metadata.dev()));
                // The kernel's own numbering (MKDEV, include/linux/kdev_t.h); sock_diag reports 32 bits of the inode.
                Some(((major << 20 | minor) as u32, metadata.ino() as u32))
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => None,
            Err(err) => return Err(err).with_context(|| format!("look at {}", path.display())),
        };
        Ok(Some(Self { path, id }))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.path
    }

    /// Its inode, as far as sock_diag reports it.
    pub(crate) fn inode(&self) -> Option<u32> {
        self.id.map(|(_, inode)| inode)
    }

    /// Whether `socket` is bound to this file, or was accepted by a listener that is.
    ///
    /// The file decides: names may be relative, contain links, or belong to another root. The device
    /// alone proves nothing, as some file systems show another one to stat(2).
    pub(crate) fn is_of(&self, socket: &UnixSocket) -> bool {
        let same_name = socket.path == self.path;
        match (self.id, socket.file) {
            (Some((device, inode)), Some((its_device, its_inode))) => {
                inode == its_inode && (device == its_device || same_name)
            }
            _ => same_name,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv6Addr, TcpListener as Listener},
        os::unix::net::UnixListener,
    };

    use super::*;

    #[test]
    fn a_wildcard_covers_its_family() {
        #[track_caller]
        fn check(bound: &str, v6_only: bool, address: &str, expected: bool) {
            let listener = TcpListener {
                address: bound.parse().unwrap(),
                v6_only,
                inode: 0,
                uid: 0,
                cgroup: None,
                queued: 0,
                backlog: 128,
            };
            assert_eq!(
                covers(&listener, &address.parse().unwrap()),
                expected,
                "{bound} {address}"
            );
        }
        check("127.0.0.1:80", false, "127.0.0.1:80", true);
        check("127.0.0.1:80", false, "127.0.0.1:81", false);
        check("127.0.0.2:80", false, "127.0.0.1:80", false);
        check("0.0.0.0:80", false, "127.0.0.1:80", true);
        check("0.0.0.0:80", false, "[::1]:80", false);
        check("[::]:80", false, "127.0.0.1:80", true);
        check("[::]:80", true, "127.0.0.1:80", false);
        check("[::]:80", true, "[::1]:80", true);
        check("[::1]:80", true, "127.0.0.1:80", false);
        check("[::ffff:127.0.0.1]:80", false, "127.0.0.1:80", true);
    }

    #[track_caller]
    fn check_tcp(address: SocketAddr, expected: bool) {
        assert_eq!(
            is_listening(&Endpoint::Tcp(address)).unwrap(),
            expected,
            "{address}"
        );
    }

    #[test]
    fn tcp_listeners_are_found_while_they_listen() {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        check_tcp(address, true);
        check_tcp(
            SocketAddr::new([127, 0, 0, 2].into(), address.port()),
            false,
        );
        // A connection is not a listener.
        let client = std::net::TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(listener);
        check_tcp(address, false);
        drop((client, server));
    }

    #[test]
    fn a_dual_stack_listener_takes_ipv4() {
        let listener = Listener::bind((Ipv6Addr::UNSPECIFIED, 0));
        let reason = listener.as_ref().err();
        ::tests::require!(reason.map(|error| format!("no IPv6 here: {error}")));
        let listener = listener.unwrap();
        let port = listener.local_addr().unwrap().port();
        check_tcp(SocketAddr::new([127, 0, 0, 1].into(), port), true);
        check_tcp(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), true);
    }

    #[test]
    fn unix_listeners_are_found_by_their_file() {
        #[track_caller]
        fn check(path: &Path, expected: bool) {
            assert_eq!(
                is_listening(&Endpoint::Unix(path.into())).unwrap(),
                expected,
                "{path:?}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        check(&path, false);
        let listener = UnixListener::bind(&path).unwrap();
        check(&path, true);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        check(&link, true);
        // A file of the same name without the listener.
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::write(&path, "").unwrap();
        check(&path, false);
        check(&dir.path().join("old"), true);
        drop(listener);
        check(&dir.path().join("old"), false);
        check(&dir.path().join("absent/x"), false);
    }
}
