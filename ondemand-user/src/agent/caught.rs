//! Clients that are held: their packets come from the kernel, have the application started, and are sent again when
//! it listens. What is not sent on within a second goes to the front socket, and so does everything that the agent
//! cannot judge.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use ondemand_core::{
    caught::{PATIENCE, Packet, Released, Tally, Waiting, Ways},
    config::{Endpoint, FirstClient},
    lifecycle::{Input, View},
    measure::{Ktime, sample::Sample},
};

use super::{
    Agent,
    watched::{Complaint, Watched},
};
use crate::{host::clock, kernel::sockets::sock_diag, observe::metrics::Way};

/// A start that takes longer is not for clients that are held.
const LONGEST_START: Duration = Duration::from_millis(900);
/// How often the application's queue is looked at while clients wait for room in it.
const PACE: Duration = Duration::from_millis(2);
/// How long a client that was sent on counts as one that is not there yet.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// Room in a queue of which the kernel does not tell.
const ROOM: usize = 16;

/// The held clients of one service.
#[derive(Debug, Default)]
pub struct Held {
    waiting: Waiting,
    burst: Burst,
    tally: Tally,
    /// When one was last sent to the application.
    sent: Option<Ktime>,
}

/// Clients that were sent to the application one soon after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    sent: u64,
    /// Steered connections before it.
    before: u64,
    last: Option<Ktime>,
}

impl Held {
    /// The number of clients.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What became of those before.
    pub fn tally(&self) -> Tally {
        Tally {
            gave_up: self.waiting.gave_up,
            ..self.tally
        }
    }

    /// When the first of them has waited for too long.
    pub fn due(&self) -> Option<Ktime> {
        self.waiting.due()
    }

    /// Whether one was sent to the application in that time before `now`.
    pub fn sent_within(&self, span: Duration, now: Ktime) -> bool {
        let age = self.sent.and_then(|at| now.since(at));
        age.is_some_and(|age| age <= span)
    }

    fn count(&mut self, released: &[Released], to_application: bool) {
        let number = released.len() as u64;
        if to_application {
            self.tally.to_application += number;
        } else {
            let is_late = |of: &&Released| of.waited >= PATIENCE;
            self.tally.to_front += number;
            self.tally.late += released.iter().filter(is_late).count() as u64;
        }
        self.tally.held += released.iter().map(|of| of.waited).sum::<Duration>();
    }
}

impl Watched {
    /// How its clients have come so far, beside ordinary connections.
    pub(super) fn ways(&self, sample: &Sample) -> Ways {
        Ways::new(sample, self.held.tally(), self.datagrams.tally())
    }

    /// Whether clients may be held: for `auto`, if the proxy has carried a first client since the boot, a process was
    /// seen to accept a connection of the application's own listener, which a backend elsewhere does not have, the
    /// proxy needed one connection for each client, so that the application was ready as soon as it listened, and
    /// the last start was quick.
    pub(super) fn may_catch(&self, sample: Option<&Sample>) -> bool {
        let is_quick = self
            .tally
            .last_start
            .is_none_or(|took| took < LONGEST_START);
        let is_known = sample.is_some_and(|sample| {
            let (front, back) = (sample.front.accepted, sample.back.accepted);
            // What `ready` says is more than that the first attempt had an answer.
            let is_quick = back <= front || self.service.ready.is_some();
            sample.served.is_some() && front > 0 && is_quick
        });
        let is_fit = match self.service.first_client {
            FirstClient::Proxied => false,
            FirstClient::Held => true,
            // During a stop only: its listener is there all the time.
            FirstClient::Auto if self.service.activation.is_native() => true,
            FirstClient::Auto => is_known && is_quick,
        };
        is_fit
            && self.lifecycle.has_gate()
            && !self.is_dry_run()
            && !self.forwarder
            && self.stranger.is_none()
            && !self.complaints.has(&Complaint::NotSteered)
    }
}

impl Agent {
    /// Begins to hold clients, and datagrams, when there is a service that this is for.
    pub(super) fn begin_catching(&mut self) {
        let Some(raw) = self.raw.clone() else {
            return;
        };
        self.begin_datagrams(&raw);
        let wanted = |watched: &Watched| {
            watched.lifecycle.has_gate() && watched.service.first_client != FirstClient::Proxied
        };
        if self.sampler.can_catch() || !self.services.values().any(wanted) {
            return;
        }
        if let Err(error) = self.sampler.begin_catching(raw) {
            log::warn!("clients are not held, the front sockets take them: {error:#}");
        }
    }

    /// Takes packets of clients that are held.
    pub(super) fn take_caught(&mut self, packets: Vec<(Packet, Ktime)>) {
        let mut names = BTreeSet::new();
        for (packet, at) in packets {
            // Someone may have sent it to the catcher's own port.
            let to = Endpoint::Tcp(packet.to);
            let Some(name) = self.services.of_front(&to).map(str::to_owned) else {
                continue;
            };
            if let Some(watched) = self.services.get_mut(&name) {
                watched.held.waiting.take(packet, at);
                names.insert(name);
            }
        }
        for name in names {
            self.look(&name, Input::Changed);
        }
    }

    /// Those that were held for a second go to the front socket.
    pub(super) fn release_late(&mut self, name: &str) {
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let late = watched.held.waiting.late(now);
        self.send(name, late, false);
    }

    /// All of them go to the front socket.
    pub(super) fn hand_over(&mut self, name: &str) {
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let all = watched.held.waiting.release(usize::MAX, now);
        self.send(name, all, false);
    }

    /// Lets the first of them pass the closed gate.
    pub(super) fn pass_one(&mut self, name: &str) {
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let slot = watched.slot;
        match self.sampler.pass_one(slot) {
            Ok(()) => {
                let one = watched.held.waiting.release(1, now);
                self.send(name, one, true);
            }
            // Its time is over soon.
            Err(error) => log::error!("{name}: {error:#}"),
        }
    }

    /// Sends them on if the gate is open, as many at a time as the application's queue has room for: what finds it
    /// full is dropped, and comes again after a second.
    pub(super) fn send_on(&mut self, name: &str, view: &View) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        if watched.held.len() == 0 || !self.sampler.is_gate_open(watched.slot).unwrap_or(false) {
            return;
        }
        let steered = view.sample.map_or(0, |sample| sample.steered.accepted);
        let queue = room(&watched.service.backend);
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let burst = &mut watched.held.burst;
        let is_over = burst
            .last
            .is_none_or(|last| view.now.since(last).is_none_or(|age| age > ON_THE_WAY));
        if is_over {
            *burst = Burst {
                before: steered,
                ..Burst::default()
            };
        }
        let arrived = steered.saturating_sub(burst.before);
        let on_the_way = burst.sent.saturating_sub(arrived);
        let room = queue.saturating_sub(usize::try_from(on_the_way).unwrap_or(usize::MAX));
        let some = watched.held.waiting.release(room, view.now);
        if !some.is_empty() {
            burst.sent += some.len() as u64;
            burst.last = Some(view.now);
        }
        // The others, and the use by these: without it the service may have been idle, and waits for no time.
        watched.look_at = Some(view.now + PACE);
        self.send(name, some, true);
    }

    fn send(&mut self, name: &str, released: Vec<Released>, to_application: bool) {
        if released.is_empty() {
            return;
        }
        if let Some(watched) = self.services.get_mut(name) {
            watched.held.count(&released, to_application);
            if to_application {
                watched.held.sent = Some(clock::now());
            }
        }
        for released in released.iter().filter(|_| to_application) {
            self.metrics.waited(Way::Held, released.waited);
        }
        if let Some(catching) = self.sampler.catching() {
            for Released { packet, waited } in &released {
                match catching.send(packet) {
                    Ok(()) => log::debug!("{name}: held {} for {waited:?}", packet.from),
                    // It does so itself, a second after the first time.
                    Err(error) => log::debug!("{name}: {}: {error:#}", packet.from),
                }
            }
        }
    }

    /// The service is not managed: nobody is held for it.
    pub(super) fn catch_nobody(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if watched.lifecycle.catches() {
            watched.lifecycle.nobody_is_caught();
            self.set_catch(name, false);
        }
        self.hand_over(name);
    }

    /// Has the kernel hold clients of a service while its gate is closed, or not.
    pub(super) fn set_catch(&mut self, name: &str, catch: bool) {
        if let Some(watched) = self.services.get(name)
            && let Err(error) = self.sampler.set_catch(watched.slot, catch)
        {
            log::error!("{name}: {error:#}");
        }
    }

    /// The agent ends: the front sockets take all that are held, and all that come.
    pub(super) fn end_catching(&mut self) {
        let now = clock::now();
        let Some(mut catching) = self.sampler.end_catching() else {
            return;
        };
        for (name, watched) in &mut self.services {
            for Released { packet, .. } in watched.held.waiting.release(usize::MAX, now) {
                if let Err(error) = catching.send(&packet) {
                    log::debug!("{name}: {error:#}");
                }
            }
        }
    }
}

/// How many connections fit into the queue of the application's listener.
fn room(backend: &Endpoint) -> usize {
    let Endpoint::Tcp(address) = backend else {
        return 0;
    };
    let found = |address: SocketAddr| sock_diag::tcp_listener_at(address).ok().flatten();
    match found(*address) {
        Some(listener) => (listener.backlog + 1).saturating_sub(listener.queued) as usize,
        None => ROOM,
    }
}
