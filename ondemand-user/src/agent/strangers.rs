//! Listeners of other users at an application's address: the kernel steers no client there, until the
//! agent knows that it is the application's own.

use std::collections::{BTreeSet, HashMap};

use ondemand_core::{
    config::Endpoint,
    lifecycle::Input,
    measure::{Ktime, unit::Owner},
};

use super::{
    Agent,
    events::Message,
    watched::{Complaint, Watched},
};
use crate::kernel::sockets::{
    listening::covers,
    owner::{Whose, whose, words},
    sock_diag::{TcpListener, tcp_listener_at, tcp_listeners},
};

impl Agent {
    /// Those of these services whose application is up, with a listener at its address that is not root's.
    pub(super) fn find_strangers(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let is_up = |watched: &&Watched| {
            let units = self.units_of(watched);
            units.is_some_and(|units| units.backend.state.is_up())
        };
        let up = names.iter().filter_map(|name| self.services.get(name));
        let up: Vec<&Watched> = up.filter(is_up).collect();
        if up.is_empty() {
            return BTreeSet::new();
        }
        // One dump for all of them: it passes all listeners of the host.
        let mut by_port: HashMap<u16, Vec<TcpListener>> = HashMap::new();
        for listener in tcp_listeners(0).unwrap_or_default() {
            let port = listener.address.port();
            by_port.entry(port).or_default().push(listener);
        }
        let has_stranger = |watched: &&Watched| {
            let Endpoint::Tcp(address) = watched.service.backend else {
                return false;
            };
            let mut there = by_port.get(&address.port()).into_iter().flatten();
            there.any(|it| it.uid != 0 && covers(it, &address))
        };
        let found = up.into_iter().filter(has_stranger);
        found.map(|watched| watched.service.name.clone()).collect()
    }

    /// Asks systemd whose processes the application runs.
    pub(super) fn ask_owner(&self, name: &str, at: Option<Ktime>) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (service, unit) = (name.to_owned(), watched.units.backend.clone());
        let messages = self.messages.clone();
        tokio::spawn(async move {
            match systemd.owner(&unit).await {
                // The receiver is gone if the agent has exited.
                Ok(owner) => drop(messages.send(Message::Owner { service, owner, at })),
                Err(error) => log::debug!("{service}: {error:#}"),
            }
        });
    }

    /// Trusts the user of a listener that is the application's. `at`: when it began to listen.
    pub(super) fn judge_listeners(&mut self, name: &str, owner: &Owner, at: Option<Ktime>) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let Endpoint::Tcp(address) = watched.service.backend else {
            return;
        };
        let there = listeners(watched);
        let own = there.iter().find(|it| whose(it, owner) != Whose::Stranger);
        watched.stranger = match (own, there.first()) {
            (None, Some(stranger)) => Some(words(stranger, address, &watched.service.unit)),
            _ => None,
        };
        match &watched.stranger {
            Some(text) if watched.complaints.is_new(Complaint::Stranger, text) => {
                log::warn!("{name}: {text}");
            }
            Some(_) => {}
            None => watched.complaints.end(|of| *of == Complaint::Stranger),
        }
        if let Some(own) = own.filter(|own| own.uid != 0) {
            if whose(own, owner) == Whose::Unknown {
                log::warn!(
                    "{name}: whether the listener at {address}, of user {}, is of {} is unknown: this \
                     kernel does not tell its cgroup",
                    own.uid,
                    watched.service.unit
                );
            }
            if let Some(at) = at {
                watched.lifecycle.runs().listens(at);
            }
            if let Err(error) = self.sampler.trust(watched.slot, own.uid) {
                log::warn!("{name}: {error:#}");
            }
            self.find_refusal(name);
        }
        self.look(name, Input::Changed);
    }
}

/// The listeners that a connection to the application's address may reach. Without the kernel's answer
/// there are none: then nothing new is trusted.
fn listeners(watched: &Watched) -> Vec<TcpListener> {
    let Endpoint::Tcp(address) = watched.service.backend else {
        return Vec::new();
    };
    let mut all = tcp_listeners(address.port()).unwrap_or_default();
    all.retain(|listener| covers(listener, &address));
    all
}

/// What `status` says of a stranger that is still there.
pub(super) fn present(watched: &Watched) -> Option<&str> {
    let text = watched.stranger.as_deref()?;
    let Endpoint::Tcp(address) = watched.service.backend else {
        return None;
    };
    let there = tcp_listener_at(address).ok().flatten();
    there.is_some_and(|it| it.uid != 0).then_some(text)
}
