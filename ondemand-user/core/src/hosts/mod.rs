//! How many hosts would carry these services, by each way to choose idle timeouts. Pure: arrivals and timeouts are
//! arguments.
//!
//! As in [`crate::replay`] a start takes no time and a use has no length: a service is up from an arrival on, for as long
//! as its idle timeout from its last one on. So for each policy the sum over its services of memory times time is what
//! the replay says of the time up and idle. What is added is the time of day: which services are up at the same time.
//!
//! Two figures come of it. The memory of all that is up, at p99 over the time, over that of a host is the number of
//! hosts that would carry it if each service could run on any of them: no plan does better. And as nobody moves a
//! unit, each service is also placed on one host of a fleet, first fit by memory, and it is counted for how long hosts
//! of that would have had more up than they have memory.
//!
//! With a memory budget, which is all of a host's memory, services have no timeout: they stay up while they fit on their
//! host, and who starts takes the room of those that are least worth keeping, by the agent's own [`crate::room`]. Then
//! fewer hosts have more cold starts, so that there is an outcome for each number of hosts.
//!
//! Its size is that of the services, policies and hosts, not of the arrivals.

mod budget;
mod lane;
mod placement;
mod spread;
#[cfg(test)]
mod tests;

use budget::Budget;
use lane::{Lane, Terms};
pub use lane::{Outcome, Placed};
pub use spread::Spread;

/// The most memory that a service or a host may have: sums over all of them fit into 64 bits. Bytes.
pub const MOST_MEMORY: u64 = 1 << 46;

/// A service that is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it takes while it is up. Bytes, at most [`MOST_MEMORY`].
    pub memory: u64,
    /// How long a start of it takes. Microseconds.
    pub start: u64,
}

/// A run of all policies through the same arrivals.
#[derive(Debug)]
pub struct Simulation {
    services: Vec<Service>,
    capacity: u64,
    fleets: Vec<u32>,
    homes: Vec<Vec<u32>>,
    policies: usize,
    lanes: Vec<Lane>,
    /// One for each fleet.
    budgets: Vec<Budget>,
    /// The first arrival.
    begin: Option<u64>,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The memory of all services. Bytes.
    pub memory: u64,
    /// How many hosts first fit takes if they are always up.
    pub always_up: u32,
    /// From the first arrival to the end. Microseconds.
    pub length: u64,
    /// For each policy.
    pub outcomes: Vec<Outcome>,
    /// With a memory budget, for each number of hosts, falling: [`Outcome::placed`] has that one.
    pub budgeted: Vec<Outcome>,
}

impl Simulation {
    /// Places the services on `hosts` with `capacity` bytes each, and on fewer. `Err`: the first service that is larger
    /// than a host.
    ///
    /// # Errors
    ///
    /// A service does not fit on a host.
    pub fn new(
        services: Vec<Service>,
        hosts: u32,
        capacity: u64,
        policies: usize,
    ) -> Result<Self, usize> {
        let too_large = |service: &Service| service.memory > capacity;
        if let Some(service) = services.iter().position(too_large) {
            return Err(service);
        }
        let memory: Vec<u64> = services.iter().map(|service| service.memory).collect();
        let fleets = placement::fleets(hosts);
        let place = |hosts: &u32| placement::first_fit(&memory, *hosts, capacity.max(1));
        Ok(Self {
            homes: fleets.iter().map(place).collect(),
            services,
            capacity,
            fleets,
            policies,
            lanes: Vec::new(),
            budgets: Vec::new(),
            begin: None,
        })
    }

    /// A client of a service comes at `at` microseconds, not before the one before it. `timeouts`: of each policy, for
    /// the quiet after it, in microseconds.
    pub fn arrive(&mut self, service: usize, at: u64, timeouts: &[u64]) {
        if self.begin.is_none() {
            self.begin = Some(at);
            let lane = |_| Lane::new(self.services.len(), &self.fleets, at);
            self.lanes = (0..self.policies).map(lane).collect();
            let fleets = self.fleets.iter().copied().enumerate();
            let budget = |fleet| Budget::new(self.services.len(), fleet, at);
            self.budgets = fleets.map(budget).collect();
        }
        let terms = Terms {
            services: &self.services,
            capacity: self.capacity,
            homes: &self.homes,
        };
        for (lane, timeout) in self.lanes.iter_mut().zip(timeouts) {
            lane.arrive(&terms, service, at, *timeout);
        }
        for budget in &mut self.budgets {
            budget.arrive(&terms, service, at);
        }
    }

    /// Ends it at this time, in microseconds.
    pub fn end(self, at: u64) -> Plan {
        let terms = Terms {
            services: &self.services,
            capacity: self.capacity,
            homes: &self.homes,
        };
        let memory: Vec<u64> = self.services.iter().map(|it| it.memory).collect();
        let lanes = self.lanes.into_iter();
        let budgets = self.budgets.into_iter();
        Plan {
            memory: memory.iter().sum(),
            always_up: placement::always_up(&memory, self.capacity),
            length: at - self.begin.unwrap_or(at),
            outcomes: lanes.map(|lane| lane.end(&terms, at)).collect(),
            budgeted: budgets.map(|budget| budget.end(&terms, at)).collect(),
        }
    }
}

impl Outcome {
    /// How many hosts have the memory that was up at 99 % of the time, if each service could run on any. `None`: no
    /// time has passed.
    pub fn hosts_at_p99(&self, capacity: u64) -> Option<u64> {
        let memory = self.memory.quantile(99)?;
        Some(memory.div_ceil(capacity.max(1)).max(1))
    }
}

impl Placed {
    /// Whether no host had more up than its memory for more than 1 % of the time.
    pub fn is_carried(&self, length: u64) -> bool {
        u128::from(self.worst) * 100 <= u128::from(length)
    }
}
