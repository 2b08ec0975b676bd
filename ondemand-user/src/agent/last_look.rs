//! The last look before a stop: a snapshot of the sockets, after the end of all look-ups.

use ondemand_core::{
    lifecycle::Input,
    measure::sample::{Snapshot, Sockets},
};

use super::{
    Agent,
    events::{Message, Ticket},
    timing::timed,
};
use crate::{
    host::{ablation, clock},
    kernel::lookups,
};

/// The services that wait for the end of the look-ups. One wait serves all of them, because
/// it takes the kernel some time.
#[derive(Default)]
pub(super) struct LastLooks {
    /// Services for the next wait: a look-up may have started after the present wait did.
    next: Vec<Ticket>,
    /// Whether a wait is in progress.
    waiting: bool,
}

impl Agent {
    /// Takes the snapshot that a stop rests on. Behind a gate it first waits for the end of the
    /// look-ups that read the gate when it was open; that end is a message of its own.
    pub(super) fn last_look(&mut self, name: &str) -> Option<Input> {
        let watched = self.services.get_mut(name)?;
        if !watched.lifecycle.has_lookups() {
            let snapshot = self.take_snapshot();
            return Some(Input::Snapshot(self.sockets_of(name, snapshot.as_ref())));
        }
        watched.ticket += 1;
        self.last_looks.next.push((name.to_owned(), watched.ticket));
        self.wait_for_lookups();
        None
    }

    fn wait_for_lookups(&mut self) {
        if self.last_looks.waiting || self.last_looks.next.is_empty() {
            return;
        }
        self.last_looks.waiting = true;
        let services = std::mem::take(&mut self.last_looks.next);
        let messages = self.messages.clone();
        tokio::task::spawn_blocking(move || {
            let over = lookups::wait_until_over();
            if let Err(error) = &over {
                log::debug!("the kernel does not report the end of look-ups: {error}");
            }
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::LookupsOver {
                services,
                known: over.is_ok(),
            });
        });
    }

    /// `known`: the kernel has reported that those look-ups are over.
    pub(super) fn lookups_over(&mut self, services: Vec<Ticket>, known: bool) {
        self.last_looks.waiting = false;
        let snapshot = self.take_snapshot();
        ablation::reached(ablation::Moment::Looked);
        for (name, ticket) in services {
            if self.is_awaited(&name, ticket) {
                let over = known || self.looked_up_long_ago(&name);
                let sockets = match over {
                    true => self.sockets_of(&name, snapshot.as_ref()),
                    false => None,
                };
                self.look(&name, Input::Snapshot(sockets));
            }
        }
        self.wait_for_lookups();
    }

    fn looked_up_long_ago(&self, name: &str) -> bool {
        let sample = |slot| self.sampler.sample(slot).ok();
        let sample = self
            .services
            .get(name)
            .and_then(|watched| sample(watched.slot));
        sample.is_some_and(|sample| {
            // (A datagram is the last activity.)
            let last = sample.last_lookup.max(sample.last_activity);
            let age = last.map(|at| clock::now().since(at));
            age.is_none_or(|age| age.is_some_and(|age| age >= lookups::LONGEST))
        })
    }

    fn take_snapshot(&mut self) -> Option<Snapshot> {
        // If the programs do not count, the counters show no client.
        if !self.still_counts() {
            return None;
        }
        timed("snapshot", || self.sampler.snapshot())
            .inspect_err(|error| log::warn!("{error:#}"))
            .ok()
    }

    /// The sockets of one service, with a new look at its Unix sockets.
    fn sockets_of(&mut self, name: &str, snapshot: Option<&Snapshot>) -> Option<Sockets> {
        self.look_at_unix_sockets(Some(name));
        let slot = self.services.get(name)?.slot;
        let mut sockets = snapshot?.sockets.get(&slot).copied().unwrap_or_default();
        let open = sockets.front + sockets.steered + sockets.back;
        let watched = self.services.get(name)?;
        if open > 0 && watched.rules().silent_after.is_some() {
            // Behind the closed gate: a byte that has come since the first look is seen.
            self.look_for_silence(name);
            let watched = self.services.get(name)?;
            let sample = self.sampler.sample(slot).ok();
            if watched.silent(sample.as_ref(), clock::now()) > 0 {
                sockets.silent = open;
            }
        }
        Some(sockets)
    }
}
