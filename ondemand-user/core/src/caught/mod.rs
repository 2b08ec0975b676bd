//! Clients that are held while a service is down: their packets, in the order in which they came. And datagrams.

mod datagram;
mod packet;
mod ways;

use core::net::SocketAddr;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

pub use datagram::{AT_ONCE, Datagram, DatagramTally, Datagrams, Loss};
pub use packet::{Kind, Packet};
pub use ways::Ways;

use crate::measure::Ktime;

/// How long a client is held. After that it goes to the front socket, which answers at once: a client waits
/// longer for an answer than for a connection.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// One attempt of a client to connect.
type Attempt = (SocketAddr, SocketAddr);

/// A client that waits.
#[derive(Clone, Debug)]
struct Client {
    number: u64,
    since: Ktime,
    packet: Packet,
}

/// A client that waits no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// How long it was held.
    pub waited: Duration,
    /// Its newest packet, which is sent again.
    pub packet: Packet,
}

/// What became of clients that were held, since the agent began to watch their service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that were sent to the application.
    pub to_application: u64,
    /// Those that were sent to the front socket: `late`, and those that could not be held any longer, because the start failed or
    /// nobody may be held now.
    pub to_front: u64,
    /// Those of `to_front` that were held for [`PATIENCE`].
    pub late: u64,
    /// Those that gave up while they were held, and said so.
    pub gave_up: u64,
    /// The sum of the times that the first two were held.
    pub held: Duration,
}

/// The held clients of one service.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// In the order in which they came, with their numbers. One that has given up stays until it is the first.
    order: VecDeque<(u64, Attempt)>,
    clients: HashMap<Attempt, Client>,
    /// That of the next client.
    number: u64,
    /// The number of clients that have given up.
    pub gave_up: u64,
}

impl Waiting {
    /// Takes a packet that came at this moment. A client sends its SYN again while it waits: that is the same
    /// client, and the newest packet counts. Returns whether it is a new one.
    pub fn take(&mut self, packet: Packet, at: Ktime) -> bool {
        let attempt = (packet.from, packet.to);
        match (packet.kind, self.clients.get_mut(&attempt)) {
            (Kind::Reset, _) => {
                self.gave_up += u64::from(self.clients.remove(&attempt).is_some());
                self.trim();
                false
            }
            (Kind::Syn, Some(client)) if client.packet.sequence == packet.sequence => {
                client.packet = packet;
                false
            }
            // Or one that has given up, and begun anew from the same port.
            (Kind::Syn, _) => {
                let number = self.number;
                self.number += 1;
                let client = Client {
                    number,
                    since: at,
                    packet,
                };
                self.gave_up += u64::from(self.clients.insert(attempt, client).is_some());
                self.order.push_back((number, attempt));
                self.trim();
                true
            }
        }
    }

    /// The number of clients.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// When the first of them has waited for too long.
    pub fn due(&self) -> Option<Ktime> {
        self.first().map(|client| client.since + PATIENCE)
    }

    /// Removes at most so many, the oldest first.
    pub fn release(&mut self, most: usize, now: Ktime) -> Vec<Released> {
        let mut released = Vec::new();
        while released.len() < most
            && let Some((_, attempt)) = self.order.pop_front()
        {
            released.extend(self.clients.remove(&attempt).map(|client| Released {
                waited: now.since(client.since).unwrap_or_default(),
                packet: client.packet,
            }));
            self.trim();
        }
        released
    }

    /// Removes those that have waited for too long.
    pub fn late(&mut self, now: Ktime) -> Vec<Released> {
        let mut late = Vec::new();
        while self.due().is_some_and(|due| due <= now) {
            late.extend(self.release(1, now));
        }
        late
    }

    fn first(&self) -> Option<&Client> {
        let (_, attempt) = self.order.front()?;
        self.clients.get(attempt)
    }

    /// Afterwards the first one is a client.
    fn trim(&mut self) {
        let is_gone = |(number, attempt): &(u64, Attempt)| {
            let client = self.clients.get(attempt);
            client.is_none_or(|client| client.number != *number)
        };
        while self.order.front().is_some_and(is_gone) {
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{packet::tests::syn, *};

    const fn ms(ms: u64) -> Ktime {
        Ktime::from_micros(ms * 1000)
    }

    fn packet(port: u16, sequence: u32) -> Packet {
        let from = format!("10.0.0.2:{port}");
        Packet::parse(&syn(&from, "10.0.0.1:80", sequence), 1).unwrap()
    }

    fn ports(released: Vec<Released>) -> Vec<u16> {
        let ports = released.iter().map(|of| of.packet.from.port());
        ports.collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut waiting = Waiting::default();
        for (at, port) in [(1, 7), (2, 5), (3, 6)] {
            assert!(waiting.take(packet(port, 1), ms(at)));
        }
        assert_eq!(ports(waiting.release(2, ms(9))), [7, 5]);
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting.due(), Some(ms(3) + PATIENCE));
        assert_eq!(ports(waiting.release(9, ms(9))), [6]);
        assert!(waiting.is_empty() && waiting.due().is_none());
    }

    #[test]
    fn a_packet_that_is_sent_again_is_no_other_client() {
        let mut waiting = Waiting::default();
        assert!(waiting.take(packet(7, 1), ms(1)));
        let mut again = packet(7, 1);
        again.device = 9;
        assert!(!waiting.take(again, ms(900)));
        // Its time counts from the first one, and the newest is sent.
        assert!(waiting.late(ms(1000)).is_empty());
        let late = waiting.late(ms(1001));
        assert_eq!((late[0].packet.device, late[0].waited), (9, PATIENCE));
        // Another attempt from the same port.
        assert!(waiting.take(packet(7, 1), ms(1)));
        assert!(waiting.take(packet(7, 2), ms(500)));
        assert_eq!((waiting.len(), waiting.due()), (1, Some(ms(1500))));
    }

    #[test]
    fn a_client_that_gives_up_is_gone() {
        let mut waiting = Waiting::default();
        for port in [5, 6, 7] {
            waiting.take(packet(port, 1), ms(1));
        }
        for port in [5, 6] {
            let mut reset = packet(port, 2);
            reset.kind = Kind::Reset;
            assert!(!waiting.take(reset, ms(2)));
        }
        assert_eq!((waiting.len(), waiting.gave_up), (1, 2));
        // It comes again: behind the one that has stayed.
        assert!(waiting.take(packet(5, 3), ms(3)));
        assert!(waiting.take(packet(6, 3), ms(3)));
        assert!(waiting.take(packet(5, 4), ms(4)));
        assert_eq!(ports(waiting.release(9, ms(4))), [7, 6, 5]);
        assert!(waiting.order.is_empty());
        assert_eq!(waiting.gave_up, 3);
    }
}
