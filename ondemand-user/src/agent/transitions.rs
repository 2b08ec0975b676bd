//! Services for which root must take a step: they ran when they came into the configuration, or their
//! front socket does not listen at its present addresses ([`settle`]). The agent's user may not take it,
//! but may start the unit that runs `ondemand permit` as root.

use std::{collections::BTreeSet, time::Duration};

use ondemand_core::{
    lifecycle::{Input, JobEnd},
    measure::{Ktime, unit::ActiveState},
};

use super::{Agent, events::Message};
use crate::{
    host::clock,
    install::{permission::rule, settle},
};

/// The pause after the first request. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The services in transition, and when root is asked next.
#[derive(Debug, Default)]
pub struct Transitions {
    next: Option<Ktime>,
    pause: Duration,
}

impl Transitions {
    /// When [`Agent::pass_transitions`] is to be called.
    pub fn due(&self) -> Option<Ktime> {
        self.next
    }
}

impl Agent {
    /// Compares the front addresses with the sockets that listen, and plans to ask root if it can help.
    pub(super) fn find_transitions(&mut self) {
        let silent: BTreeSet<String> = match settle::silent(&self.config) {
            Ok(silent) => silent.into_iter().map(|it| it.name.clone()).collect(),
            Err(error) => {
                log::debug!("{error:#}");
                return;
            }
        };
        let mut is_needed = false;
        let mut changed = Vec::new();
        for (name, watched) in self.services.iter() {
            let Some(known) = watched.units.find(|unit| self.systemd.known(unit)) else {
                continue;
            };
            // One that is down, or has no unit, is a problem of its own.
            let is_silent = silent.contains(name) && known.socket.unit.is_settled_up();
            let is_loaded = known
                .each()
                .iter()
                .all(|known| known.load_state == "loaded");
            // Another socket may have its address: that of the same service under an older name.
            let is_refused =
                silent.contains(name) && known.socket.unit.state == ActiveState::Failed;
            is_needed |=
                is_loaded && (is_silent || is_refused || !known.backend.stop_when_unneeded);
            if watched.is_silent != is_silent {
                changed.push((name.clone(), is_silent, watched.units.socket.clone()));
            }
        }
        for (name, is_silent, socket) in changed {
            if let Some(watched) = self.services.get_mut(&name) {
                watched.is_silent = is_silent;
            }
            match is_silent {
                true => log::warn!(
                    "{name}: {socket} is active, but does not listen at all of its addresses; `systemctl restart \
                     {socket}` ends that"
                ),
                false => log::info!("{name}: {socket} listens at all of its addresses again"),
            }
            self.look(&name, Input::Changed);
        }
        let transitions = &mut self.transitions;
        match (is_needed && !self.dry_run, transitions.next) {
            (false, _) => *transitions = Transitions::default(),
            (true, None) => {
                transitions.pause = FIRST_PAUSE;
                transitions.next = Some(clock::now());
            }
            (true, Some(_)) => {}
        }
    }

    /// A front socket that did not listen at all of its addresses may do so once it has changed: a person has
    /// started it again.
    pub(super) fn hear_socket(&mut self, unit: &str) {
        let is_silent = |name: &String| {
            let watched = self.services.get(name);
            watched.is_some_and(|watched| watched.is_silent && watched.units.socket == unit)
        };
        if self.services.of_unit(unit).iter().any(is_silent) {
            self.find_transitions();
        }
    }

    /// Asks root when it is time.
    pub(super) fn pass_transitions(&mut self, now: Ktime) {
        if self.transitions.next.is_none_or(|at| at > now) {
            return;
        }
        self.find_transitions();
        let transitions = &mut self.transitions;
        if transitions.next.is_none() {
            return;
        }
        transitions.next = Some(now + transitions.pause);
        transitions.pause = (transitions.pause * 2).min(LONGEST_PAUSE);
        let (Some(systemd), messages) = (self.systemd.caller(), self.messages.clone()) else {
            return;
        };
        tokio::spawn(async move {
            if let JobEnd::Failed(why) = systemd.start(rule::UNIT).await {
                log::warn!("services wait for root, and {why}; run `ondemand apply`");
                return;
            }
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Renewed(None, None));
        });
    }
}
