//! Datagrams that are held while a service is down: in the order in which they came, and within bounds.

use core::net::{IpAddr, SocketAddr};
use std::{collections::VecDeque, time::Duration};

use super::packet::{fold, sum};
use crate::measure::Ktime;

/// `IPPROTO_UDP`
const UDP: u8 = 17;
/// Length of its header.
const HEADER: usize = 8;
/// Length of a header of IPv4 without options.
const IPV4: usize = 20;

/// Maximum number of datagrams of one service that are held.
pub const MOST: usize = 4096;
/// The same in bytes, with what each takes beside its own.
pub const MOST_BYTES: usize = 4 << 20;
/// The same for all services.
pub const MOST_BYTES_IN_ALL: usize = 32 << 20;
/// How long one is held: whoever has sent it has given up, or sent another one.
pub const LONGEST: Duration = Duration::from_secs(30);
/// How many bytes are sent at a time, as the receiver's buffer counts them: half of what it has by default
/// (`net.core.rmem_default`).
pub const AT_ONCE: usize = 104 * 1024;
/// What the buffer counts for each datagram beside its bytes: the kernel's own data.
const BESIDE: usize = 832;

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender's address and port.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: SocketAddr,
    /// The index of the device that it came from.
    pub device: u32,
    /// The header of UDP and what follows.
    bytes: Vec<u8>,
}

impl Datagram {
    /// What it takes in memory, about.
    fn size(&self) -> usize {
        self.bytes.len() + 2 * size_of::<Self>()
    }

    /// Reads the header of UDP. `None`: it is not whole, or the addresses are of two families.
    pub fn new(from: IpAddr, to: IpAddr, bytes: &[u8], device: u32) -> Option<Self> {
        let port = |at: usize| {
            let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
            Some(u16::from_be_bytes(bytes))
        };
        let is_whole = (HEADER..=usize::from(u16::MAX) - IPV4).contains(&bytes.len());
        (is_whole && from.is_ipv4() == to.is_ipv4()).then_some(())?;
        Some(Self {
            from: SocketAddr::new(from, port(0)?),
            to: SocketAddr::new(to, port(2)?),
            device,
            bytes: bytes.to_vec(),
        })
    }

    /// One with this payload. `None`: the addresses are of two families, or it is too long.
    pub fn of(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Self> {
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        // Its length and checksum are those of what is sent.
        bytes.extend([0; 4]);
        bytes.extend(payload);
        let device = match from {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(from) => from.scope_id(),
        };
        Self::new(from.ip(), to.ip(), &bytes, device)
    }

    /// As it is kept in a file, with those before and after it.
    pub fn record(&self) -> Vec<u8> {
        let Self {
            from,
            to,
            device,
            bytes,
        } = self;
        let head = format!("{from} {to} {device} {}\n", bytes.len());
        [head.as_bytes(), bytes].concat()
    }

    /// Reads those of a file, as far as it is whole.
    pub fn of_records(mut text: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Some((datagram, rest)) = Self::of_record(text) {
            found.push(datagram);
            text = rest;
        }
        found
    }

    fn of_record(text: &[u8]) -> Option<(Self, &[u8])> {
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(&text[..end]).ok()?.split(' ');
        let mut word = || words.next();
        let (from, to): (SocketAddr, SocketAddr) = (word()?.parse().ok()?, word()?.parse().ok()?);
        let (device, len): (u32, usize) = (word()?.parse().ok()?, word()?.parse().ok()?);
        let (bytes, rest) = text[end + 1..].split_at_checked(len)?;
        let datagram = Self::new(from.ip(), to.ip(), bytes, device)?;
        Some((datagram, rest))
    }

    /// What a receiver's buffer counts for it.
    pub fn counted(&self) -> usize {
        self.bytes.len() + BESIDE
    }

    /// The whole packet as it is sent again, with new lengths and checksums: where it comes from the same host they are left to the
    /// hardware, which it never reaches.
    pub fn to_send(&self) -> Vec<u8> {
        let len = self.bytes.len() as u16;
        let mut packet = Vec::with_capacity(2 * IPV4 + self.bytes.len());
        let (addresses, begin) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x45, 0]);
                packet.extend((IPV4 as u16 + len).to_be_bytes());
                // Not to be fragmented; it passes 64 routers at most.
                packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                let checksum = fold(sum(&packet));
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                (12..20, IPV4)
            }
            (from, to) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(len.to_be_bytes());
                packet.extend([UDP, 64]);
                for ip in [from, to] {
                    if let IpAddr::V6(ip) = ip {
                        packet.extend(ip.octets());
                    }
                }
                (8..40, 40)
            }
        };
        packet.extend(&self.bytes);
        packet[begin + 4..begin + 6].copy_from_slice(&len.to_be_bytes());
        packet[begin + 6..begin + 8].fill(0);
        // RFC 768: the pseudo header has the addresses, the protocol, and the length.
        let pseudo = sum(&packet[addresses]) + u64::from(UDP) + u64::from(len);
        let odd = (packet.len() - begin) % 2 == 1;
        let last = u64::from(packet[packet.len() - 1]) << 8;
        let all = pseudo + sum(&packet[begin..]) + if odd { last } else { 0 };
        let checksum = match fold(all) {
            // Zero would mean: none.
            0 => u16::MAX,
            checksum => checksum,
        };
        packet[begin + 6..begin + 8].copy_from_slice(&checksum.to_be_bytes());
        packet
    }
}

/// What became of datagrams, since the agent began to watch their service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramTally {
    /// Those that were sent to the application.
    pub sent: u64,
    /// Those that were not, by [`Loss`].
    pub lost: [u64; Loss::ALL.len()],
}

impl DatagramTally {
    /// Those that were not sent to the application, whatever the reason.
    pub fn lost(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// Adds some that were lost.
    pub fn lose(&mut self, why: Loss, number: u64) {
        self.lost[why as usize] += number;
    }
}

/// Why a datagram that was held is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There was no room for it.
    NoRoom,
    /// It was held for [`LONGEST`].
    Late,
    /// The kernel did not send it.
    Refused,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NoRoom, Self::Late, Self::Refused];

    /// Its name in the status and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoom => "no-room",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }
}

/// The datagrams of one service that are held.
#[derive(Clone, Debug, Default)]
pub struct Datagrams {
    order: VecDeque<(Ktime, Datagram)>,
    bytes: usize,
    /// What became of those before.
    pub tally: DatagramTally,
}

impl Datagrams {
    /// Takes one that came at this moment, if there is room, and returns it then. `others`: the bytes of all other services.
    pub fn take(&mut self, datagram: Datagram, at: Ktime, others: usize) -> Option<&Datagram> {
        let bytes = self.bytes + datagram.size();
        let fits =
            self.order.len() < MOST && bytes <= MOST_BYTES && others + bytes <= MOST_BYTES_IN_ALL;
        if !fits {
            self.tally.lose(Loss::NoRoom, 1);
            return None;
        }
        self.bytes = bytes;
        self.order.push_back((at, datagram));
        self.order.back().map(|(_, datagram)| datagram)
    }

    /// The number of datagrams.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What they take in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of those for one of these ports.
    pub fn number_for(&self, ports: &[u16]) -> usize {
        let is_one = |(_, datagram): &&(Ktime, Datagram)| ports.contains(&datagram.to.port());
        self.order.iter().filter(is_one).count()
    }

    /// When the first of them has been held for too long.
    pub fn due(&self) -> Option<Ktime> {
        self.order.front().map(|(at, _)| *at + LONGEST)
    }

    /// Drops those that were held for too long.
    pub fn drop_late(&mut self, now: Ktime) {
        while self.due().is_some_and(|due| due <= now) {
            if let Some((_, datagram)) = self.order.pop_front() {
                self.bytes -= datagram.size();
                self.tally.lose(Loss::Late, 1);
            }
        }
    }

    /// Removes those for these ports that fit into a receiver's buffer, the oldest first.
    pub fn release(&mut self, ports: &[u16]) -> Vec<Datagram> {
        let mut room = AT_ONCE;
        let mut released = Vec::new();
        let mut kept = VecDeque::new();
        while let Some((at, datagram)) = self.order.pop_front() {
            let size = datagram.counted();
            if !ports.contains(&datagram.to.port()) {
                kept.push_back((at, datagram));
            } else if size <= room || released.is_empty() {
                room = room.saturating_sub(size);
                self.bytes -= datagram.size();
                released.push(datagram);
            } else {
                kept.push_back((at, datagram));
                break;
            }
        }
        kept.append(&mut self.order);
        self.order = kept;
        released
    }

    /// Removes all of them.
    pub fn release_all(&mut self) -> Vec<Datagram> {
        self.bytes = 0;
        let all = std::mem::take(&mut self.order).into_iter();
        all.map(|(_, datagram)| datagram).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(from: &str, to: &str, data: &[u8]) -> Datagram {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut bytes = Vec::new();
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        bytes.extend([7; 4]);
        bytes.extend(data);
        Datagram::new(from.ip(), to.ip(), &bytes, 3).unwrap()
    }

    fn numbered(port: u16, number: u8, len: usize) -> Datagram {
        let mut data = vec![0; len];
        data[0] = number;
        datagram("10.0.0.2:4000", &format!("10.0.0.1:{port}"), &data)
    }

    fn numbers(released: &[Datagram]) -> Vec<u8> {
        released.iter().map(|it| it.bytes[HEADER]).collect()
    }

    const fn second(second: u64) -> Ktime {
        Ktime::from_micros(second * 1_000_000)
    }

    /// A receiver sums up all words with the checksum, and gets ones (RFC 1071).
    #[test]
    fn the_checksums_are_right() {
        for (from, to) in [
            ("10.77.0.2:40000", "10.77.0.1:53"),
            ("[fd00::2]:40000", "[fd00::1]:53"),
        ] {
            for data in [&b""[..], b"a", b"ab", b"abc", &[0xff; 1400]] {
                let sent = datagram(from, to, data).to_send();
                let (begin, addresses) = match sent[0] >> 4 {
                    4 => (IPV4, 12..20),
                    _ => (40, 8..40),
                };
                assert_eq!(sent.len(), begin + HEADER + data.len());
                assert_eq!(&sent[begin + HEADER..], data);
                let mut padded = sent[begin..].to_vec();
                padded.resize(padded.len().next_multiple_of(2), 0);
                let len = (HEADER + data.len()) as u64;
                let all = sum(&sent[addresses]) + u64::from(UDP) + len + sum(&padded);
                assert_eq!(fold(all), 0, "{from} {data:?}");
                if begin == IPV4 {
                    assert_eq!(fold(sum(&sent[..IPV4])), 0);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let all = [
            datagram("10.77.0.2:40000", "10.77.0.1:53", b"one\ntwo"),
            datagram("[fd00::2]:40000", "[fd00::1]:53", b""),
        ];
        let kept: Vec<u8> = all.iter().flat_map(Datagram::record).collect();
        assert_eq!(Datagram::of_records(&kept), all);
        // An agent that was killed while it wrote the last one.
        for len in 0..kept.len() {
            let found = Datagram::of_records(&kept[..len]);
            assert!(found.len() < 2 && all.starts_with(&found), "{len}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_datagram() {
        let ip: IpAddr = [10, 0, 0, 1].into();
        for len in 0..HEADER {
            assert_eq!(Datagram::new(ip, ip, &[1; 8][..len], 1), None);
        }
        assert!(Datagram::new(ip, ip, &[1; 8], 1).is_some());
        assert_eq!(Datagram::new(ip, ip, &[1; 65_536], 1), None);
        let other: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(Datagram::new(ip, other, &[1; 8], 1), None);
    }

    #[test]
    fn they_are_sent_in_their_order_as_many_as_a_buffer_takes() {
        let mut held = Datagrams::default();
        for number in 0..200 {
            held.take(numbered(53, number, 100), second(1), 0);
        }
        let mut sent = Vec::new();
        while !held.is_empty() {
            let some = numbers(&held.release(&[53]));
            assert!(
                (100..=130).contains(&some.len()) || held.is_empty(),
                "{}",
                some.len()
            );
            sent.extend(some);
        }
        assert_eq!(sent, (0..200).collect::<Vec<u8>>());
        assert_eq!(held.bytes(), 0);
        // The largest goes alone.
        held.take(numbered(53, 1, 65_000), second(1), 0);
        held.take(numbered(53, 2, 65_000), second(1), 0);
        assert_eq!(numbers(&held.release(&[53])), [1]);
    }

    #[test]
    fn each_port_waits_for_itself() {
        let mut held = Datagrams::default();
        for (port, number) in [(53, 1), (54, 2), (53, 3), (54, 4)] {
            held.take(numbered(port, number, 1), second(1), 0);
        }
        assert_eq!(held.number_for(&[54]), 2);
        assert_eq!(numbers(&held.release(&[54])), [2, 4]);
        assert_eq!(numbers(&held.release_all()), [1, 3]);
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn there_are_bounds() {
        let mut held = Datagrams::default();
        for _ in 0..MOST + 5 {
            held.take(numbered(53, 1, 1), second(1), 0);
        }
        assert_eq!((held.len(), held.tally.lost), (MOST, [5, 0, 0]));
        let mut held = Datagrams::default();
        for _ in 0..100 {
            held.take(numbered(53, 1, 60_000), second(1), 0);
        }
        assert!(held.bytes() <= MOST_BYTES && held.bytes() > MOST_BYTES - 100_000);
        let mut held = Datagrams::default();
        held.take(numbered(53, 1, 1), second(1), MOST_BYTES_IN_ALL);
        assert_eq!((held.len(), held.tally.lost()), (0, 1));
        held.take(numbered(53, 1, 1), second(1), 0);
        held.take(numbered(53, 2, 1), second(3), 0);
        held.drop_late(second(1) + LONGEST);
        assert_eq!((held.len(), held.tally.lost), (1, [1, 1, 0]));
        assert_eq!(held.due(), Some(second(3) + LONGEST));
    }
}
