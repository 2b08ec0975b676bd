//! One policy's run through the arrivals.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Service, spread::Spread};

/// The same services on a number of hosts.
#[derive(Clone, Debug)]
struct Fleet {
    hosts: Vec<Host>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Host {
    /// The memory of what is up. Bytes.
    pub(super) up: u64,
    /// When it last went beyond its own. Microseconds.
    since: u64,
    /// For how long it was beyond that. Microseconds.
    over: u64,
}

impl Host {
    pub(super) fn set(&mut self, up: u64, capacity: u64, at: u64) {
        match (self.up > capacity, up > capacity) {
            (false, true) => self.since = at,
            (true, false) => self.over += at - self.since,
            _ => {}
        }
        self.up = up;
    }
}

/// A service under one policy.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    is_up: bool,
    /// When it stops, unless a client comes.
    until: u64,
    /// The earliest time at which the queue has it.
    queued: u64,
    /// When its last start is over.
    ready: u64,
}

/// What a policy has come to so far.
#[derive(Debug)]
pub(super) struct Lane {
    states: Vec<State>,
    stops: BinaryHeap<Reverse<(u64, u32)>>,
    cold_starts: u64,
    waits: Spread,
    /// Bytes up.
    up: u64,
    /// When that last changed.
    changed: u64,
    memory: Spread,
    fleets: Vec<Fleet>,
}

/// What does not change.
pub(super) struct Terms<'a> {
    pub(super) services: &'a [Service],
    /// The memory of a host. Bytes.
    pub(super) capacity: u64,
    /// For each fleet, each service's host.
    pub(super) homes: &'a [Vec<u32>],
}

/// How a policy did on a number of hosts, each service at home on one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The number of hosts.
    pub hosts: u32,
    /// For how long hosts had more up than their memory, in all. Microseconds.
    pub over: u128,
    /// The same of the host that was worst. Microseconds.
    pub worst: u64,
}

/// What a policy has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Clients that found their service down.
    pub cold_starts: u64,
    /// How long clients waited for a start, of those that did. Microseconds.
    pub waits: Spread,
    /// The memory of all services that were up, over the time. Bytes; weights are microseconds.
    pub memory: Spread,
    /// The same services on fewer and fewer hosts.
    pub placed: Vec<Placed>,
}

impl Placed {
    /// These hosts, until `at`.
    pub(super) fn new(mut hosts: Vec<Host>, capacity: u64, at: u64) -> Self {
        for host in &mut hosts {
            host.set(0, capacity, at);
        }
        let over = hosts.iter().map(|host| host.over);
        Self {
            hosts: hosts.len() as u32,
            over: over.clone().map(u128::from).sum(),
            worst: over.max().unwrap_or(0),
        }
    }
}

impl Lane {
    pub(super) fn new(services: usize, fleets: &[u32], begin: u64) -> Self {
        let fleet = |hosts: &u32| Fleet {
            hosts: vec![Host::default(); *hosts as usize],
        };
        Self {
            states: vec![State::default(); services],
            stops: BinaryHeap::new(),
            cold_starts: 0,
            waits: Spread::default(),
            up: 0,
            changed: begin,
            memory: Spread::default(),
            fleets: fleets.iter().map(fleet).collect(),
        }
    }

    /// A client comes, after which the service is up for `timeout` at least.
    pub(super) fn arrive(&mut self, terms: &Terms<'_>, service: usize, at: u64, timeout: u64) {
        self.stop_before(terms, at);
        let state = &mut self.states[service];
        let is_cold = !state.is_up;
        if is_cold {
            state.is_up = true;
            state.queued = u64::MAX;
            state.ready = at.saturating_add(terms.services[service].start);
            self.cold_starts += 1;
        }
        if state.ready > at {
            self.waits.add(state.ready - at, 1);
        }
        state.until = at.saturating_add(timeout);
        if state.until < state.queued {
            state.queued = state.until;
            self.stops.push(Reverse((state.until, service as u32)));
        }
        if is_cold {
            let memory = terms.services[service].memory;
            self.change(terms, service, at, |up| up + memory);
        }
    }

    /// Stops what was idle for long enough before `now`: at exactly that moment a client still finds it up.
    fn stop_before(&mut self, terms: &Terms<'_>, now: u64) {
        while let Some(Reverse((at, number))) = self.stops.peek().copied() {
            if at >= now {
                return;
            }
            self.stops.pop();
            let service = number as usize;
            let state = &mut self.states[service];
            if !state.is_up || state.queued != at {
                continue; // An earlier one was queued since.
            }
            if state.until > at {
                state.queued = state.until;
                self.stops.push(Reverse((state.until, number)));
                continue;
            }
            state.is_up = false;
            let memory = terms.services[service].memory;
            self.change(terms, service, at, |up| up - memory);
        }
    }

    fn change(&mut self, terms: &Terms<'_>, service: usize, at: u64, change: impl Fn(u64) -> u64) {
        self.memory.add(self.up, at - self.changed);
        self.changed = at;
        self.up = change(self.up);
        for (fleet, homes) in self.fleets.iter_mut().zip(terms.homes) {
            let host = &mut fleet.hosts[homes[service] as usize];
            host.set(change(host.up), terms.capacity, at);
        }
    }

    pub(super) fn end(mut self, terms: &Terms<'_>, at: u64) -> Outcome {
        self.stop_before(terms, at);
        self.memory.add(self.up, at - self.changed);
        let placed = |fleet: Fleet| Placed::new(fleet.hosts, terms.capacity, at);
        Outcome {
            cold_starts: self.cold_starts,
            waits: self.waits,
            memory: self.memory,
            placed: self.fleets.into_iter().map(placed).collect(),
        }
    }
}
