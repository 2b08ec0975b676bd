//! Clients that connect at random times, some of them aimed at the moment of a stop.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{self, Loss, Random, Request},
    pause::arrive_at,
};

/// One-shot requests to one service.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    /// Where to.
    pub address: SocketAddr,
    /// How many.
    pub requests: usize,
    /// From one to the next, on average.
    pub mean_gap: Duration,
    /// The share of clients that connect when the service becomes idle.
    pub aimed: f64,
    /// The service's idle timeout.
    pub idle: Duration,
    /// Maximum delay of aimed clients after the idle timeout.
    pub aim: Duration,
    /// The same seed makes the same arrivals.
    pub seed: u64,
}

impl Arrivals {
    /// Runs them; returns the number of lost requests, by kind.
    ///
    /// # Panics
    ///
    /// If a client panics.
    pub fn run(&self) -> BTreeMap<Loss, u32> {
        let mut random = Random::new(self.seed);
        let mut next = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.requests)
                .map(|_| {
                    next += if random.unit() < self.aimed {
                        random.between(self.idle, self.idle + self.aim)
                    } else {
                        random.gap(self.mean_gap)
                    };
                    arrive_at(next);
                    scope.spawn(|| client::get(self.address, Request::default()).err())
                })
                .collect();
            let mut losses = BTreeMap::new();
            for client in clients {
                let lost = client.join();
                let lost = lost.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                if let Some(loss) = lost {
                    *losses.entry(loss).or_default() += 1;
                }
            }
            losses
        })
    }
}
