//! The sockets of UDP in this network namespace, by proc_pid_net(5): it is there on every kernel, needs no module and no
//! capability.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};

/// A socket that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// Where it is bound.
    pub local: SocketAddr,
    /// Whether it is connected: then it receives from one peer alone, and the kernel finds it before it asks any program.
    pub is_connected: bool,
    /// What waits to be read, in bytes as its buffer counts them.
    pub queued: usize,
}

impl UdpSocket {
    /// Whether it receives what is sent to this address. A socket of IPv6 at the wildcard usually receives IPv4, too.
    pub fn covers(&self, address: SocketAddr) -> bool {
        let (own, wanted) = (self.local.ip(), address.ip());
        let both = own == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        self.local.port() == address.port()
            && (own.to_canonical() == wanted
                || both
                || (own.is_unspecified() && own.is_ipv4() == wanted.is_ipv4()))
    }
}

/// All of them.
///
/// # Errors
///
/// A file cannot be read.
pub fn sockets() -> Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for file in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        match fs::read_to_string(file) {
            Ok(text) => sockets.extend(parse(&text)),
            // The host has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => {}
            Err(error) => return Err(error).with_context(|| format!("read {file}")),
        }
    }
    Ok(sockets)
}

/// How much may wait to be read when more is sent, in bytes: with that it is three quarters of a usual buffer
/// (`net.core.rmem_default`).
const MOST_QUEUED: usize = 52 * 1024;

/// Whether what is sent at once fits into the buffers of the sockets at these ports, by what waits there to be read. If that is unknown,
/// it does: nothing but the buffer would be full.
pub fn have_room(ports: &[u16]) -> bool {
    let is_full =
        |socket: &UdpSocket| socket.queued > MOST_QUEUED && ports.contains(&socket.local.port());
    sockets().map_or(true, |sockets| !sockets.iter().any(is_full))
}

/// A line that is not understood is skipped alone.
fn parse(text: &str) -> impl Iterator<Item = UdpSocket> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, _peer, state) = (words.next()?, words.next()?, words.next()?);
        let (_sent, queued) = words.next()?.split_once(':')?;
        // `TCP_ESTABLISHED`, include/net/tcp_states.h.
        let is_connected = state == "01";
        Some(UdpSocket {
            local: address(local)?,
            is_connected,
            queued: usize::from_str_radix(queued, 16).ok()?,
        })
    })
}

/// `0100007F:0035`: the address in words of the host's order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net;

    use super::*;

    #[test]
    fn bound_and_connected_sockets_are_seen() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let bound = net::UdpSocket::bind((ip, 0)).unwrap();
            let at = bound.local_addr().unwrap();
            let client = net::UdpSocket::bind((ip, 0)).unwrap();
            client.connect(at).unwrap();
            let find = |local| {
                let all = sockets().unwrap();
                all.into_iter().find(|socket| socket.local == local)
            };
            assert!(!find(at).unwrap().is_connected);
            client.send(b"x").unwrap();
            assert!(find(at).unwrap().queued > 100);
            assert!(find(client.local_addr().unwrap()).unwrap().is_connected);
        }
    }

    #[test]
    fn strange_lines_are_skipped() {
        let head = "  sl  local_address rem_address   st tx_queue\n";
        let good = " 1: 0100007F:0035 00000000:0000 07 00000000:00000300 0\n";
        let text = format!("{head}x\n 2: 01:0035 0:0 07\n 3: 0100007F:zz 0:0 07\n{good}");
        let found: Vec<_> = parse(&text).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].local, "127.0.0.1:53".parse().unwrap());
        assert_eq!(parse("").count(), 0);
    }

    #[test]
    fn a_wildcard_covers_its_family_and_that_of_ipv6_both() {
        let socket = |text: &str| UdpSocket {
            local: text.parse().unwrap(),
            is_connected: false,
            queued: 0,
        };
        for (bound, to, expected) in [
            ("0.0.0.0:53", "10.0.0.1:53", true),
            ("0.0.0.0:53", "[::1]:53", false),
            ("[::]:53", "10.0.0.1:53", true),
            ("[::]:53", "[::1]:53", true),
            ("[::]:53", "[::1]:54", false),
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "127.0.0.2:53", false),
            ("[::ffff:127.0.0.1]:53", "127.0.0.1:53", true),
        ] {
            let covers = socket(bound).covers(to.parse().unwrap());
            assert_eq!(covers, expected, "{bound} {to}");
        }
    }
}
