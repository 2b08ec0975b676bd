//! What another memory budget would have meant. The order in which services go is that of [`super::decide`]; what is
//! recorded of them is replayed, whatever budget was in force.
//!
//! - Who has arrived is up until its memory is needed: no idle timeout stops it.
//! - It takes as much as the last time that was measured, and its cold start takes as long as usual.
//! - Who is in use stays. So a budget that is smaller than what was in use at once is exceeded.

use std::{collections::BTreeSet, time::Duration};

use super::{GreedyDual, Worth};

/// A service, as far as a budget goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// What it takes of memory. Bytes.
    pub memory: u64,
    /// How long its clients wait for a start.
    pub cold_start: Duration,
}

/// What a budget has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Starts for which a client waited.
    pub cold_starts: u64,
    /// How long, in all.
    pub waited: Duration,
    /// Stops to make room.
    pub evictions: u64,
    /// The most that was taken at once. Bytes.
    pub most: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Used,
    /// With the place in the order in which they go.
    Idle(u64),
}

/// One budget.
#[derive(Clone, Debug)]
pub struct Simulation<'s> {
    sizes: &'s [Size],
    budget: u64,
    clock: GreedyDual,
    services: Vec<(State, Worth)>,
    idle: BTreeSet<(u64, usize)>,
    taken: u64,
    outcome: Outcome,
}

impl<'s> Simulation<'s> {
    /// All services are down. `budget`: bytes.
    pub fn new(sizes: &'s [Size], budget: u64) -> Self {
        Self {
            sizes,
            budget,
            clock: GreedyDual::default(),
            services: vec![(State::Down, Worth::default()); sizes.len()],
            idle: BTreeSet::new(),
            taken: 0,
            outcome: Outcome::default(),
        }
    }

    /// A client comes to a service.
    pub fn used(&mut self, service: usize) {
        match self.services[service].0 {
            State::Down => {
                let size = self.sizes[service];
                self.taken += size.memory;
                self.outcome.cold_starts += 1;
                self.outcome.waited += size.cold_start;
            }
            State::Idle(place) => {
                self.idle.remove(&(place, service));
            }
            State::Used => {}
        }
        self.services[service].0 = State::Used;
        self.make_room();
        self.outcome.most = self.outcome.most.max(self.taken);
        self.clock.used(&mut self.services[service].1);
    }

    /// Nobody uses it any more.
    pub fn quiet(&mut self, service: usize) {
        if self.services[service].0 == State::Used {
            // Not negative, so its bits are in the order of the values.
            let place = self.worth(service).to_bits();
            self.services[service].0 = State::Idle(place);
            self.idle.insert((place, service));
            self.make_room();
        }
    }

    /// It is down for another reason: the host was off, for example.
    pub fn gone(&mut self, service: usize) {
        let (state, worth) = &mut self.services[service];
        *worth = Worth::default();
        match std::mem::replace(state, State::Down) {
            State::Down => return,
            State::Idle(place) => {
                self.idle.remove(&(place, service));
            }
            State::Used => {}
        }
        self.taken -= self.sizes[service].memory;
    }

    /// What it has come to so far.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn worth(&self, service: usize) -> f64 {
        let Size { memory, cold_start } = self.sizes[service];
        self.services[service].1.value(cold_start, Some(memory))
    }

    fn make_room(&mut self) {
        while self.taken > self.budget {
            let Some((_, service)) = self.idle.pop_first() else {
                return;
            };
            self.services[service].0 = State::Down;
            self.taken -= self.sizes[service].memory;
            self.outcome.evictions += 1;
            let value = self.worth(service);
            self.clock.evicted(&mut self.services[service].1, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{Member, Memory, Place, decide},
        *,
    };

    const MIB: u64 = 1 << 20;

    fn sizes() -> Vec<Size> {
        (1..=20)
            .map(|number| Size {
                memory: number * 7 % 11 * MIB + MIB,
                cold_start: Duration::from_millis(100 * (number * 5 % 13)),
            })
            .collect()
    }

    /// The same by the agent's decision.
    struct Decided {
        up: BTreeMap<usize, bool>,
        clock: GreedyDual,
        worth: Vec<Worth>,
        cold_starts: u64,
    }

    impl Decided {
        fn decide(&mut self, sizes: &[Size], budget: u64) {
            let value = |worth: &[Worth], of: usize| {
                worth[of].value(sizes[of].cold_start, Some(sizes[of].memory))
            };
            let names: Vec<String> = (0..sizes.len()).map(|it| format!("{it:02}")).collect();
            let members: Vec<_> = (0..sizes.len())
                .map(|number| Member {
                    name: &names[number],
                    group: None,
                    place: match self.up.get(&number) {
                        None => Place::None,
                        Some(true) => Place::Taken,
                        Some(false) => Place::Idle,
                    },
                    waits: None,
                    worth: value(&self.worth, number),
                    memory: Some(sizes[number].memory),
                    grows: 0,
                    gives: true,
                })
                .collect();
            let decision = decide(&members, &BTreeMap::new(), Some(Memory::Budget(budget)));
            for (name, _) in decision.stops {
                let number = name.parse().unwrap();
                self.up.remove(&number);
                let least = value(&self.worth, number);
                self.clock.evicted(&mut self.worth[number], least);
            }
        }
    }

    #[test]
    fn it_is_what_the_agent_would_decide() {
        let sizes = sizes();
        for budget in [10, 30, 60, 1000].map(|mib| mib * MIB) {
            let mut simulation = Simulation::new(&sizes, budget);
            let mut decided = Decided {
                up: BTreeMap::new(),
                clock: GreedyDual::default(),
                worth: vec![Worth::default(); sizes.len()],
                cold_starts: 0,
            };
            let mut random = 12345_u64;
            for _ in 0..5000 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let service = (random >> 33) as usize % 20 * ((random >> 50) as usize % 20) / 19;
                match random >> 60 {
                    0..8 => {
                        let was_up = decided.up.insert(service, true).is_some();
                        decided.cold_starts += u64::from(!was_up);
                        decided.decide(&sizes, budget);
                        decided.clock.used(&mut decided.worth[service]);
                        simulation.used(service);
                    }
                    8..15 => {
                        if let Some(is_used) = decided.up.get_mut(&service) {
                            *is_used = false;
                        }
                        decided.decide(&sizes, budget);
                        simulation.quiet(service);
                    }
                    _ => {
                        decided.up.remove(&service);
                        decided.worth[service] = Worth::default();
                        simulation.gone(service);
                    }
                }
                let up: Vec<usize> = decided.up.keys().copied().collect();
                let states = simulation.services.iter().enumerate();
                let simulated = states.filter(|(_, (state, _))| *state != State::Down);
                assert_eq!(simulated.map(|(number, _)| number).collect::<Vec<_>>(), up);
                let taken: u64 = up.iter().map(|number| sizes[*number].memory).sum();
                assert_eq!(simulation.taken, taken);
            }
            assert_eq!(simulation.outcome().cold_starts, decided.cold_starts);
        }
    }

    #[test]
    fn with_room_for_all_each_starts_once() {
        let sizes = sizes();
        let mut simulation = Simulation::new(&sizes, u64::MAX);
        for _ in 0..3 {
            for service in 0..20 {
                simulation.used(service);
                simulation.quiet(service);
            }
        }
        let outcome = simulation.outcome();
        let all: Duration = sizes.iter().map(|it| it.cold_start).sum();
        assert_eq!((outcome.cold_starts, outcome.evictions), (20, 0));
        assert_eq!(outcome.waited, all);
        // What is in use stays.
        let mut simulation = Simulation::new(&sizes, 1);
        simulation.used(1);
        simulation.used(2);
        assert_eq!(simulation.taken, sizes[1].memory + sizes[2].memory);
        simulation.quiet(1);
        assert_eq!(simulation.taken, sizes[2].memory);
    }
}
