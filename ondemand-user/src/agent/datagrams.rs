//! Datagrams that are held: they come from the kernel, have the application started, and are sent again in their order
//! when it has bound their ports. What nobody can hold takes its usual way.

use std::{collections::BTreeSet, net::SocketAddr, rc::Rc, time::Duration};

use ondemand_core::{
    caught::{Datagram, DatagramTally, Datagrams, Loss},
    config::Endpoint,
    lifecycle::{Input, View},
    measure::{
        Ktime,
        unit::{ActiveState, Units},
    },
};

use super::{Agent, spool::Spool, watched::Watched};
use crate::{
    host::clock,
    kernel::{catchers::RawSockets, maps::datagrams::Way, sockets::udp},
};

/// How long the application has to read what was sent, before the next are sent.
const PACE: Duration = Duration::from_millis(2);
/// How long after its start an application may bind its ports one after the other.
const ONE_BY_ONE: Duration = Duration::from_secs(2);
/// How often the kernel's buffer is looked at before datagrams pass.
const ROUNDS: usize = 8;

/// The datagrams of one service that are held.
#[derive(Debug)]
pub struct HeldDatagrams {
    waiting: Datagrams,
    spool: Spool,
    way: Way,
    /// Whether more is to be sent than fits into a receiver's buffer at once.
    is_rest: bool,
}

impl Default for HeldDatagrams {
    fn default() -> Self {
        Self {
            waiting: Datagrams::default(),
            spool: Spool::default(),
            way: Way::Ordinary,
            is_rest: false,
        }
    }
}

impl HeldDatagrams {
    /// The number of datagrams.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What became of those before.
    pub fn tally(&self) -> DatagramTally {
        self.waiting.tally
    }

    /// What is kept for an end of the agent goes when none is held.
    fn clear(&mut self, name: &str) {
        if self.waiting.is_empty() {
            self.spool.clear(name);
        }
    }

    /// When the first of them has been held for too long.
    pub fn due(&self) -> Option<Ktime> {
        self.waiting.due()
    }
}

impl Agent {
    /// Begins to hold datagrams when there is a service that receives some.
    pub(super) fn begin_datagrams(&mut self, raw: &Rc<RawSockets>) {
        let receives = |watched: &Watched| watched.service.has_datagrams();
        if self.sampler.holds_datagrams() || !self.services.values().any(receives) {
            return;
        }
        if let Err(error) = self.sampler.begin_datagrams(Rc::clone(raw)) {
            log::warn!(
                "datagrams cannot be held, so applications that receive some stay up: {error:#}"
            );
        }
    }

    /// What is known of a service's datagrams: how many wait for the application, and whether it has bound its ports.
    pub(super) fn datagrams_of(&self, watched: &Watched, units: &Units, now: Ktime) -> (u64, bool) {
        if !watched.service.has_datagrams() {
            return (0, false);
        }
        let ports = self.sampler.bound_ports(watched.slot).unwrap_or_default();
        let bound: Vec<u16> = bound(&ports);
        let age = units.backend.active_enter.and_then(|at| now.since(at));
        let is_bound = !bound.is_empty()
            && (bound.len() == ports.len() || age.is_some_and(|age| age >= ONE_BY_ONE));
        let held = &watched.datagrams;
        // For a port that the application does not bind, nobody waits.
        let number = match watched.lifecycle.passes_datagrams() && is_bound {
            true => held.waiting.number_for(&bound),
            false => held.len(),
        };
        (number as u64, is_bound)
    }

    /// Takes datagrams that are held.
    pub(super) fn take_datagrams(&mut self, datagrams: Vec<(Datagram, Ktime)>) {
        for name in self.keep_datagrams(datagrams) {
            self.look(&name, Input::Changed);
        }
    }

    /// Adds them to those of their services, whose names it returns.
    fn keep_datagrams(&mut self, datagrams: Vec<(Datagram, Ktime)>) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut all: usize = self
            .services
            .values()
            .map(|watched| watched.datagrams.waiting.bytes())
            .sum();
        for (datagram, at) in datagrams {
            // Someone may have sent it to the agent's own port.
            let to = Endpoint::Udp(datagram.to);
            let Some(name) = self.services.of_front(&to).map(str::to_owned) else {
                continue;
            };
            if let Some(watched) = self.services.get_mut(&name) {
                let HeldDatagrams { waiting, spool, .. } = &mut watched.datagrams;
                let before = waiting.bytes();
                if let Some(kept) = waiting.take(datagram, at, all - before) {
                    spool.add(&name, kept);
                }
                all = all - before + waiting.bytes();
                names.insert(name);
            }
        }
        names
    }

    /// Drops those that were held for too long.
    pub(super) fn drop_late_datagrams(&mut self, name: &str) {
        let now = clock::now();
        if let Some(watched) = self.services.get_mut(name) {
            watched.datagrams.waiting.drop_late(now);
            watched.datagrams.clear(name);
        }
    }

    /// Lets them pass to the application, those that are held first, or holds them. Returns whether it is done.
    pub(super) fn pass_datagrams(&mut self, name: &str, pass: bool) -> bool {
        let Some(watched) = self.services.get(name) else {
            return false;
        };
        let way = match pass {
            true if watched.datagrams.len() == 0 => Way::Passed,
            true => Way::Drained,
            false => Way::Held,
        };
        self.set_way(name, way)
    }

    fn set_way(&mut self, name: &str, way: Way) -> bool {
        let Some(watched) = self.services.get_mut(name) else {
            return false;
        };
        match self.sampler.set_datagrams(watched.slot, way) {
            Ok(()) => {
                watched.datagrams.way = way;
                true
            }
            Err(error) => {
                log::error!("{name}: {error:#}");
                watched.lifecycle.datagrams_are_ordinary();
                false
            }
        }
    }

    /// Sends on what is held if the application receives it, as much at a time as its buffer has room for. Then all pass.
    pub(super) fn send_datagrams(&mut self, name: &str, view: &View) {
        for _ in 0..ROUNDS {
            let Some(watched) = self.services.get_mut(name) else {
                return;
            };
            let way = watched.datagrams.way;
            let may_send = watched.lifecycle.passes_datagrams()
                && matches!(way, Way::Drained | Way::Passed)
                && (way == Way::Drained || watched.datagrams.len() > 0);
            if !may_send {
                return;
            }
            let ports = self.sampler.bound_ports(watched.slot).unwrap_or_default();
            let ports = bound(&ports);
            // (The first ones find it empty.)
            if watched.datagrams.is_rest && !udp::have_room(&ports) {
                watched.look_at = Some(view.now + PACE);
                return;
            }
            let some = watched.datagrams.waiting.release(&ports);
            let is_rest = watched.datagrams.waiting.number_for(&ports) > 0;
            watched.datagrams.is_rest = is_rest;
            if !some.is_empty() || is_rest {
                // The others, and the use by these.
                watched.look_at = Some(view.now + PACE);
            }
            let is_none = some.is_empty();
            self.send_again(name, &some);
            if is_rest {
                return;
            }
            if is_none && way == Way::Drained && !self.set_way(name, Way::Passed) {
                return;
            }
            // Those that came meanwhile, before any that will pass.
            let Some(holding) = self.sampler.datagrams() else {
                return;
            };
            let more = holding.now().unwrap_or_else(|error| {
                log::error!("read datagrams that are held: {error:#}");
                Vec::new()
            });
            let others = self.keep_datagrams(more);
            for other in others.iter().filter(|other| *other != name) {
                if let Some(other) = self.services.get_mut(other) {
                    other.look_at = Some(view.now);
                }
            }
            if is_none && !others.contains(name) {
                return;
            }
        }
        // They come faster than they can be sent.
        self.set_way(name, Way::Passed);
    }

    fn send_again(&mut self, name: &str, datagrams: &[Datagram]) {
        let Some(holding) = self.sampler.datagrams() else {
            return;
        };
        let mut lost = 0;
        for datagram in datagrams {
            if let Err(error) = holding.send(datagram) {
                log::debug!("{name}: a datagram of {}: {error:#}", datagram.from);
                lost += 1;
            }
        }
        if let Some(watched) = self.services.get_mut(name)
            && !datagrams.is_empty()
        {
            let tally = &mut watched.datagrams.waiting.tally;
            tally.sent += datagrams.len() as u64 - lost;
            tally.lose(Loss::Refused, lost);
            watched.datagrams.clear(name);
        }
    }

    /// The service is not managed: its datagrams take their usual way.
    pub(super) fn hold_no_datagrams(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if watched.datagrams.way != Way::Ordinary {
            watched.lifecycle.datagrams_are_ordinary();
            self.set_way(name, Way::Ordinary);
        }
        if let Some(watched) = self.services.get_mut(name)
            && watched.datagrams.len() > 0
        {
            let all = watched.datagrams.waiting.release_all();
            self.send_again(name, &all);
        }
    }

    /// The agent ends: all datagrams take their usual way.
    pub(super) fn end_datagrams(&mut self) {
        let Some(holding) = self.sampler.end_datagrams() else {
            return;
        };
        for (name, watched) in &mut self.services {
            for datagram in watched.datagrams.waiting.release_all() {
                if let Err(error) = holding.send(&datagram) {
                    log::debug!("{name}: {error:#}");
                }
            }
            watched.datagrams.clear(name);
        }
    }

    /// Counts the connected sockets of UDP at the ports of a service that would be idle without them: the kernel finds these before
    /// it asks a program, so nothing else shows their use. Returns whether there are, or may be.
    pub(super) fn finds_connected(&mut self, name: &str) -> bool {
        let sockets = udp::sockets();
        self.complain("connected sockets of UDP", &sockets);
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return false;
        };
        let Ok(sockets) = sockets else {
            watched.uncounted.unix_unknown(now);
            return true;
        };
        let ports: Vec<u16> = watched.service.datagrams().map(|at| at.port()).collect();
        let is_one =
            |socket: &&udp::UdpSocket| socket.is_connected && ports.contains(&socket.local.port());
        let before = watched.uncounted.open;
        let open = sockets.iter().filter(is_one).count() as u64;
        watched.uncounted.connected(open, now);
        open > 0 || before > 0
    }

    /// A socket was bound where a service receives datagrams.
    pub(super) fn is_bound(&mut self, name: &str, at: Ktime) {
        if let Some(watched) = self.services.get_mut(name)
            && watched.service.backend.is_udp()
        {
            watched.lifecycle.runs().listens(at);
        }
    }
}

/// The ports that are bound.
fn bound(ports: &[(u16, bool)]) -> Vec<u16> {
    let bound = ports.iter().filter(|(_, is_bound)| *is_bound);
    bound.map(|(port, _)| *port).collect()
}

impl Watched {
    /// What `status` says of an application that is up and has not bound its ports. `bound`: as the view has it.
    pub(super) fn receives_nothing(&self, view: &View) -> Option<String> {
        let is_up = view.units.backend.state == ActiveState::Active;
        let age = view
            .units
            .backend
            .active_enter
            .and_then(|at| view.now.since(at));
        let is_late = age.is_some_and(|age| age >= ONE_BY_ONE);
        (self.service.has_datagrams() && is_up && is_late && !view.bound).then(|| {
            let all: Vec<String> = self
                .service
                .datagrams()
                .map(|at: SocketAddr| Endpoint::Udp(at).to_string())
                .collect();
            format!("its application has not bound {}", all.join(", "))
        })
    }
}
