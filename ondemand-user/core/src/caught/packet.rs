//! The headers of a TCP packet, as far as a held client needs them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// Length of a header without options.
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP_HEADER: usize = 20;
/// Flags of the TCP header.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A packet of a client that is held: the headers alone, from the IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The client's address and port.
    pub from: SocketAddr,
    /// Where it connects to.
    pub to: SocketAddr,
    /// TCP's sequence number: that of one attempt to connect stays the same.
    pub sequence: u32,
    /// What it is.
    pub kind: Kind,
    /// The index of the device that it came from.
    pub device: u32,
    bytes: Vec<u8>,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first packet of a connection.
    Syn,
    /// The client has given up.
    Reset,
}

impl Packet {
    /// Reads the headers of a packet that came from `device`. `None`: it is neither a SYN nor a reset, or its
    /// headers are not whole.
    pub fn parse(bytes: &[u8], device: u32) -> Option<Self> {
        let (source, destination, begin) = match bytes.first()? >> 4 {
            4 => {
                let begin = usize::from(bytes[0] & 15) * 4;
                let is_tcp = begin >= IPV4 && *bytes.get(9)? == TCP;
                let address = |at| Some(IpAddr::from(Ipv4Addr::from(array::<4>(bytes, at)?)));
                is_tcp.then_some((address(12)?, address(16)?, begin))?
            }
            6 if *bytes.get(6)? == TCP => {
                let address = |at| Some(IpAddr::from(Ipv6Addr::from(array::<16>(bytes, at)?)));
                (address(8)?, address(24)?, IPV6)
            }
            _ => return None,
        };
        let tcp = bytes.get(begin..)?;
        let port = |at| Some(u16::from_be_bytes(array(tcp, at)?));
        let len = usize::from(*tcp.get(12)? >> 4) * 4;
        if len < TCP_HEADER || tcp.len() < len {
            return None;
        }
        let kind = match tcp[13] & (SYN | RST | ACK) {
            SYN => Kind::Syn,
            flags if flags & RST != 0 => Kind::Reset,
            _ => return None,
        };
        Some(Self {
            from: SocketAddr::new(source, port(0)?),
            to: SocketAddr::new(destination, port(2)?),
            sequence: u32::from_be_bytes(array(tcp, 4)?),
            kind,
            device,
            bytes: bytes[..begin + len].to_vec(),
        })
    }

    /// The packet as it is sent again: without the data that a SYN may carry (the client sends that again, RFC
    /// 7413), so its lengths are new, and so are its checksums: where a packet comes from the same host they are
    /// left to the hardware, which it never reaches.
    pub fn to_send(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = bytes.len();
        let begin = match self.from {
            SocketAddr::V4(_) => {
                let begin = usize::from(bytes[0] & 15) * 4;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                bytes[10..12].fill(0);
                let sum = fold(sum(&bytes[..begin]));
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                begin
            }
            SocketAddr::V6(_) => {
                bytes[4..6].copy_from_slice(&((len - IPV6) as u16).to_be_bytes());
                IPV6
            }
        };
        let addresses = match self.from {
            SocketAddr::V4(_) => 12..20,
            SocketAddr::V6(_) => 8..40,
        };
        bytes[begin + 16..begin + 18].fill(0);
        // RFC 9293, 3.1: the pseudo header has the addresses, the protocol, and TCP's length.
        let pseudo = sum(&bytes[addresses]) + u64::from(TCP) + (len - begin) as u64;
        let sum = fold(pseudo + sum(&bytes[begin..]));
        bytes[begin + 16..begin + 18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// RFC 1071, without a last odd byte.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<2>().0.iter();
    words.map(|word| u64::from(u16::from_be_bytes(*word))).sum()
}

pub(super) fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A SYN without options.
    pub fn syn(from: &str, to: &str, sequence: u32) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut bytes = Vec::new();
        match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x45, 0, 0, 40, 7, 7, 0x40, 0, 64, TCP, 1, 1]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x60, 0, 0, 0, 0, 20, TCP, 64]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => panic!("two families"),
        }
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 9, 9, 0, 0]);
        bytes
    }

    #[test]
    fn the_headers_are_read() {
        for (from, to) in [
            ("10.77.0.2:40000", "10.77.0.1:80"),
            ("[fd00::2]:40000", "[fd00::1]:80"),
        ] {
            let mut bytes = syn(from, to, 5);
            let packet = Packet::parse(&bytes, 3).unwrap();
            assert_eq!(packet.from, from.parse().unwrap());
            assert_eq!(packet.to, to.parse().unwrap());
            let all = (packet.sequence, packet.kind, packet.device);
            assert_eq!(all, (5, Kind::Syn, 3));
            let flags = bytes.len() - 7;
            bytes[flags] = RST | ACK;
            assert_eq!(Packet::parse(&bytes, 3).unwrap().kind, Kind::Reset);
            bytes[flags] = ACK;
            assert_eq!(Packet::parse(&bytes, 3), None);
        }
    }

    #[test]
    fn what_is_cut_off_or_strange_is_no_packet() {
        let whole = syn("10.77.0.2:40000", "10.77.0.1:80", 5);
        for len in 0..whole.len() {
            assert_eq!(Packet::parse(&whole[..len], 1), None, "{len}");
        }
        let whole = syn("[fd00::2]:40000", "[fd00::1]:80", 5);
        for len in 0..whole.len() {
            assert_eq!(Packet::parse(&whole[..len], 1), None, "{len}");
        }
        let mut short = syn("10.77.0.2:40000", "10.77.0.1:80", 5);
        short[0] = 0x44;
        assert_eq!(Packet::parse(&short, 1), None);
        short[0] = 0x4f;
        assert_eq!(Packet::parse(&short, 1), None);
        short[0] = 0x45;
        short[9] = 17;
        assert_eq!(Packet::parse(&short, 1), None);
    }

    /// A receiver sums up all words with the checksum, and gets ones (RFC 1071).
    #[test]
    fn the_checksums_are_right() {
        for (from, to) in [
            ("10.77.0.2:40000", "10.77.0.1:80"),
            ("[fd00::2]:40000", "[fd00::1]:80"),
        ] {
            let mut bytes = syn(from, to, 5);
            // Data, which is left out.
            bytes.extend(b"GET /");
            let sent = Packet::parse(&bytes, 1).unwrap().to_send();
            assert_eq!(sent.len(), bytes.len() - 5);
            let begin = if from.starts_with('[') { 40 } else { 20 };
            let addresses = if begin == 40 { 8..40 } else { 12..20 };
            let all = sum(&sent[addresses]) + u64::from(TCP) + 20 + sum(&sent[begin..]);
            assert_eq!(fold(all), 0);
            if begin == 20 {
                assert_eq!(fold(sum(&sent[..20])), 0);
                assert_eq!(sent[2..4], [0, 40]);
            } else {
                assert_eq!(sent[4..6], [0, 20]);
            }
        }
    }
}
