//! `ignore_empty`: front sockets of which PID 1 sees no connection without a byte ([`empty_clients`]). It would start the proxy for
//! each.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use ondemand_core::config::{Config, Endpoint};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::host::empty_clients;

/// Its presence means that a front socket of this boot has the filter.
const MARK: &str = "/run/ondemand-generator/sieves";

/// Brings the front sockets that PID 1 holds in line with the configuration. As root.
///
/// # Errors
///
/// They cannot be reached, or one cannot be changed: then connections without a byte start its service.
pub fn renew(config: &Config) -> Result<()> {
    let any = config.services.values().any(|service| service.ignore_empty);
    if !any && !Path::new(MARK).exists() {
        return Ok(());
    }
    let mut wanted = BTreeMap::new();
    for service in config.services.values() {
        for endpoint in &service.front {
            if let Endpoint::Tcp(address) = endpoint {
                wanted.insert(*address, service.ignore_empty);
            }
        }
    }
    set(&wanted)
}

/// Puts the filter at the front sockets with these addresses, which PID 1 has just opened. As root.
///
/// # Errors
///
/// As of [`renew`].
pub fn begin(addresses: &[SocketAddr]) -> Result<()> {
    set(&addresses.iter().map(|address| (*address, true)).collect())
}

/// Which listeners of PID 1 have the filter, and which have not. As root.
///
/// # Errors
///
/// They cannot be reached, or do not tell.
pub fn look() -> Result<BTreeMap<SocketAddr, bool>> {
    let mut found = BTreeMap::new();
    each_listener(|address, socket| {
        let is_put = empty_clients::is_put(socket);
        found.insert(
            address,
            is_put.with_context(|| format!("read the filter at {address}"))?,
        );
        Ok(())
    })?;
    Ok(found)
}

fn set(wanted: &BTreeMap<SocketAddr, bool>) -> Result<()> {
    if wanted.values().any(|wanted| *wanted) {
        fs::write(MARK, "").with_context(|| format!("write {MARK}"))?;
    }
    each_listener(|address, socket| {
        let Some(wanted) = wanted.get(&address) else {
            return Ok(());
        };
        empty_clients::put(socket, *wanted)
            .with_context(|| format!("filter what arrives at {address}"))
    })
}

/// Shows `work` each listener of TCP that PID 1 holds.
fn each_listener(mut work: impl FnMut(SocketAddr, &OwnedFd) -> Result<()>) -> Result<()> {
    let manager = pidfd_open(Pid::INIT, PidfdFlags::empty()).context("open PID 1")?;
    let entries = fs::read_dir("/proc/1/fd").context("list the descriptors of PID 1")?;
    for entry in entries {
        let entry = entry.context("list the descriptors of PID 1")?;
        let number = entry.file_name().to_string_lossy().parse::<RawFd>();
        // It may close one meanwhile.
        let Ok((number, link)) = number.map(|number| (number, fs::read_link(entry.path()))) else {
            continue;
        };
        if !link.is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:")) {
            continue;
        }
        let socket = match pidfd_getfd(&manager, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::BADF) => continue,
            Err(error) => {
                return Err(error).context(
                    "share a socket of PID 1, for ignore_empty (it needs Linux 5.6, and CAP_SYS_PTRACE)",
                );
            }
        };
        if let Some(address) = listens_at(&socket) {
            work(address, &socket)?;
        }
    }
    Ok(())
}

/// The address of a listener of TCP.
fn listens_at(socket: &OwnedFd) -> Option<SocketAddr> {
    if !getsockopt(socket, sockopt::AcceptConn).ok()? {
        return None;
    }
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    match address.family()? {
        AddressFamily::Inet => Some(SocketAddrV4::from(*address.as_sockaddr_in()?).into()),
        AddressFamily::Inet6 => Some(SocketAddrV6::from(*address.as_sockaddr_in6()?).into()),
        _ => None,
    }
}
