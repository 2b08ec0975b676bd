//! Hosts with a memory budget: services stay up while they fit, and who starts takes the room of those that are least
//! worth keeping, as `memory_budget` has it.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::{
    Service,
    lane::{Host, Outcome, Placed, Terms},
    spread::Spread,
};
use crate::room::{GreedyDual, Worth};

/// A service.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    is_up: bool,
    /// When its last start is over.
    ready: u64,
    worth: Worth,
}

/// A host, which has an agent of its own.
#[derive(Clone, Debug, Default)]
struct Budgeted {
    memory: Host,
    clock: GreedyDual,
    /// What is up and does not start, each once, by what it was worth at some time: it may have become worth more.
    idle: BinaryHeap<Reverse<(u64, u32)>>,
}

/// The services on a number of hosts.
#[derive(Debug)]
pub(super) struct Budget {
    /// Its number: which of the homes are its own.
    fleet: usize,
    states: Vec<State>,
    hosts: Vec<Budgeted>,
    /// What starts, by the end of that. It is in use until then.
    starting: BinaryHeap<Reverse<(u64, u32)>>,
    cold_starts: u64,
    waits: Spread,
    /// Bytes up.
    up: u64,
    /// When that last changed.
    changed: u64,
    memory: Spread,
}

impl Budget {
    pub(super) fn new(services: usize, (fleet, hosts): (usize, u32), begin: u64) -> Self {
        Self {
            fleet,
            states: vec![State::default(); services],
            hosts: vec![Budgeted::default(); hosts as usize],
            starting: BinaryHeap::new(),
            cold_starts: 0,
            waits: Spread::default(),
            up: 0,
            changed: begin,
            memory: Spread::default(),
        }
    }

    /// A client comes.
    pub(super) fn arrive(&mut self, terms: &Terms<'_>, service: usize, at: u64) {
        self.settle(terms, at);
        let home = terms.homes[self.fleet][service];
        let state = &mut self.states[service];
        if !state.is_up {
            let Service { memory, start } = terms.services[service];
            state.is_up = true;
            state.ready = at.saturating_add(start);
            self.starting.push(Reverse((state.ready, service as u32)));
            self.cold_starts += 1;
            self.make_room(terms, home, memory, at);
            self.change(terms, home, at, |up| up + memory);
        }
        let state = &mut self.states[service];
        if state.ready > at {
            self.waits.add(state.ready - at, 1);
        }
        self.hosts[home as usize].clock.used(&mut state.worth);
    }

    /// Ends the starts that were over before `now`. Where that was needed, what they used may go.
    fn settle(&mut self, terms: &Terms<'_>, now: u64) {
        while let Some(Reverse((ready, service))) = self.starting.peek().copied() {
            if ready >= now {
                return;
            }
            self.starting.pop();
            let home = terms.homes[self.fleet][service as usize];
            let value = self.value(terms, service);
            let idle = &mut self.hosts[home as usize].idle;
            idle.push(Reverse((value.to_bits(), service)));
            self.make_room(terms, home, 0, ready);
        }
    }

    /// What it is worth. Not negative, so its bits are in the order of the numbers.
    fn value(&self, terms: &Terms<'_>, service: u32) -> f64 {
        let Service { memory, start } = terms.services[service as usize];
        let worth = &self.states[service as usize].worth;
        worth.value(Duration::from_micros(start), Some(memory))
    }

    /// Stops what is least worth keeping until the rest fits beside these bytes: what `room::decide` says for a host.
    fn make_room(&mut self, terms: &Terms<'_>, home: u32, bytes: u64, at: u64) {
        while self.hosts[home as usize].memory.up + bytes > terms.capacity {
            let Some(Reverse((then, service))) = self.hosts[home as usize].idle.pop() else {
                return;
            };
            let value = self.value(terms, service);
            let host = &mut self.hosts[home as usize];
            if value.to_bits() > then {
                host.idle.push(Reverse((value.to_bits(), service)));
                continue;
            }
            let state = &mut self.states[service as usize];
            state.is_up = false;
            host.clock.evicted(&mut state.worth, value);
            let memory = terms.services[service as usize].memory;
            self.change(terms, home, at, |up| up - memory);
        }
    }

    fn change(&mut self, terms: &Terms<'_>, home: u32, at: u64, change: impl Fn(u64) -> u64) {
        self.memory.add(self.up, at - self.changed);
        self.changed = at;
        self.up = change(self.up);
        let host = &mut self.hosts[home as usize].memory;
        host.set(change(host.up), terms.capacity, at);
    }

    pub(super) fn end(mut self, terms: &Terms<'_>, at: u64) -> Outcome {
        self.settle(terms, at);
        self.memory.add(self.up, at - self.changed);
        let hosts = self.hosts.into_iter().map(|host| host.memory).collect();
        Outcome {
            cold_starts: self.cold_starts,
            waits: self.waits,
            memory: self.memory,
            placed: vec![Placed::new(hosts, terms.capacity, at)],
        }
    }
}
