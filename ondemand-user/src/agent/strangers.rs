//! Listeners of other users at an application's address: the kernel steers no client there, until the
//! agent knows that it is the application's own.

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
    /// Looks for listeners that are not root's, of an application that is up.
    pub(super) fn find_strangers(&mut self, name: &str) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let is_up = self
            .units_of(watched)
            .is_some_and(|units| units.backend.state.is_up());
        if is_up && listeners(watched).iter().any(|it| it.uid != 0) {
            self.ask_owner(name, None);
        }
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
