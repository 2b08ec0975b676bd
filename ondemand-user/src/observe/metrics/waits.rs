//! How long clients waited because a service did not run, of all services of the host.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram;

/// Upper bounds in seconds: from an application that is thawed to a model that is loaded.
const BOUNDS: [f64; 14] = [
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// How a client came to a service that did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel held it, until it was sent to the application: each client.
    Held,
    /// The proxy carried it, from the begin of the start to the first byte of an answer: the first client of a start.
    Proxied,
    /// It waited at the application's own socket unit, until the application was active: each start.
    Native,
    /// It called a frozen application, until systemd had thawed that.
    Thawed,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 4] = [Self::Held, Self::Proxied, Self::Native, Self::Thawed];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Proxied => "proxied",
            Self::Native => "native",
            Self::Thawed => "thawed",
        }
    }
}

/// Counts of the clients of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    /// By bucket, each without those below it; the last is above all bounds.
    clients: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

/// Counts by [`Way`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits([Counts; Way::ALL.len()]);

impl Waits {
    /// A client has waited for so long.
    pub fn add(&mut self, way: Way, waited: Duration) {
        let counts = &mut self.0[way as usize];
        let clients = &mut counts.clients[histogram::place(&BOUNDS, waited.as_secs_f64())];
        *clients = clients.saturating_add(1);
        counts.sum = counts.sum.saturating_add(waited);
    }

    /// For the encoder: the sum in seconds, the number, and each bound with the number in its bucket alone.
    pub fn histogram(&self, way: Way) -> (f64, u64, Vec<(f64, u64)>) {
        let counts = &self.0[way as usize];
        let number = counts.clients.iter().copied().fold(0, u64::saturating_add);
        let buckets = histogram::buckets(&BOUNDS, &counts.clients);
        (counts.sum.as_secs_f64(), number, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_its_own() {
        let mut waits = Waits::default();
        waits.add(Way::Held, Duration::from_micros(2500));
        waits.add(Way::Held, Duration::from_secs(1000));
        waits.add(Way::Native, Duration::from_millis(3));
        let filled = |way| {
            let (sum, number, buckets) = waits.histogram(way);
            let filled = buckets.into_iter().filter(|(_, count)| *count > 0);
            (sum, number, filled.collect::<Vec<_>>())
        };
        let held = (1000.0025, 2, vec![(0.0025, 1), (f64::INFINITY, 1)]);
        assert_eq!(filled(Way::Held), held);
        assert_eq!(filled(Way::Native), (0.003, 1, vec![(0.005, 1)]));
        assert_eq!(filled(Way::Thawed), (0.0, 0, vec![]));
        let text = serde_json::to_string(&waits).unwrap();
        assert_eq!(serde_json::from_str::<Waits>(&text).unwrap(), waits);
    }
}
