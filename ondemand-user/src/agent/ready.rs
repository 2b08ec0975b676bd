//! Whether applications are ready, as `ready` of the configuration says. The agent asks, each run until it is ready:
//! clients are sent on, the gate opens, and the proxy begins after that. Its own connections are no use, and are not
//! counted.

use std::{net::SocketAddr, time::Duration};

use ondemand_core::{
    lifecycle::Input,
    measure::{Ktime, unit::ActiveState},
    probing::{NotYet, shown},
    words::Span,
};
use tokio::sync::oneshot;

use super::{
    Agent,
    events::Message,
    watched::{Complaint, Watched},
};
use crate::host::{clock, probe::Question};

/// An application that is not ready for longer is logged.
const WORTH_SAYING: Duration = Duration::from_secs(1);
/// Maximum number of proxies of one service that wait until it is ready.
const MOST_WAITING: usize = 64;

impl Watched {
    /// Whether the present run of its application is ready for clients, if more than a listener is asked for.
    pub(super) fn is_ready(&self) -> bool {
        self.service.ready.is_none() || self.probing.is_ready()
    }

    /// The same, for observers. `None`: it is down, or that is not asked.
    pub(super) fn shows_ready(&self, state: Option<ActiveState>) -> Option<bool> {
        self.service.ready.as_ref()?;
        state
            .filter(|state| state.is_up())
            .map(|_| self.probing.is_ready())
    }

    /// What its application says instead of being ready. `None`: it is ready, is down, or was not asked yet.
    pub(super) fn not_ready(&self) -> Option<String> {
        let (ready, why) = (
            self.service.ready.as_ref()?,
            self.probing.why(clock::now())?,
        );
        Some(format!("{ready} {}", shown(why)))
    }

    /// The same of one that should be ready by now.
    pub(super) fn never_ready(&self, now: Ktime) -> Option<String> {
        let timeout = self.service.start_timeout;
        let is_late = self.probing.waited(now) > timeout;
        let why = self.not_ready().filter(|_| is_late)?;
        Some(format!(
            "it is not ready after {} (start_timeout), so its clients are closed: {why}",
            Span(timeout)
        ))
    }
}

impl Agent {
    /// Asks an application whether it is ready, if that is due.
    pub(super) fn follow_readiness(&mut self, name: &str) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let (Some(ready), Some(units)) = (watched.service.ready.clone(), self.units_of(watched))
        else {
            return;
        };
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let start_timeout = watched.service.start_timeout;
        let due = watched.probing.follow(now, &units.backend, start_timeout);
        if watched.probing.why(now).is_none() {
            let of = [Complaint::Unready, Complaint::NeverReady];
            watched.complaints.end(|kind| of.contains(kind));
        }
        let Some(ticket) = due else { return };
        let slot = watched.slot;
        let (service, messages) = (name.to_owned(), self.messages.clone());
        let question = Question::new(&ready);
        let from = question.as_ref().ok().and_then(|question| question.from);
        if let Some(from) = from
            && let Err(error) = self.sampler.mark_probe(slot, from, ready.address, now)
        {
            log::warn!("{name}: a question whether it is ready counts as a connection: {error:#}");
        }
        tokio::spawn(async move {
            let answer = match question {
                Ok(question) => question.ask(&ready).await,
                Err(why) => Err(why),
            };
            let ends = from.map(|from| (from, ready.address));
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Probed {
                service,
                ticket,
                ends,
                answer,
            });
        });
    }

    /// Takes an answer.
    pub(super) fn probed(
        &mut self,
        name: &str,
        ticket: u64,
        ends: Option<(SocketAddr, SocketAddr)>,
        answer: Result<(), NotYet>,
    ) {
        if let Some((from, to)) = ends {
            self.sampler.unmark_probe(from, to);
        }
        let now = clock::now();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let is_ready = watched.probing.take(now, ticket, answer);
        let waited = watched.probing.waited(now);
        if is_ready {
            watched.lifecycle.runs().listens(now);
            if waited > WORTH_SAYING {
                log::info!("{name}: ready after {}", Span(waited));
            }
        } else if let Some(why) = watched.never_ready(now) {
            if watched.complaints.is_new(Complaint::NeverReady, &why) {
                log::warn!("{name}: {why}");
            }
        } else if waited > WORTH_SAYING
            && let Some(why) = watched.not_ready()
            && watched.complaints.is_new(Complaint::Unready, &why)
        {
            log::info!("{name}: its clients wait until it is ready: {why}");
        }
        self.tell_ready(name);
        self.look(name, Input::Changed);
    }

    /// Tells proxies that wait for it that the application is ready, if it is.
    pub(super) fn tell_ready(&mut self, name: &str) {
        let is_ready = self
            .services
            .get(name)
            .is_some_and(|watched| !watched.awaits_ready.is_empty() && !self.awaits_more(watched));
        if is_ready && let Some(watched) = self.services.get_mut(name) {
            for waiting in watched.awaits_ready.drain(..) {
                let _ = waiting.send(()); // The caller may be gone.
            }
        }
    }

    /// A proxy waits until its application is ready, and the services that it needs.
    pub(super) fn wait_ready(&mut self, name: &str, answer: oneshot::Sender<()>) {
        // Dropping the answer makes the caller ask the application itself.
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if watched.service.ready.is_none() && !watched.is_chained {
            return;
        }
        watched.awaits_ready.retain(|waiting| !waiting.is_closed());
        if watched.awaits_ready.len() < MOST_WAITING {
            watched.awaits_ready.push(answer);
        }
        self.follow_readiness(name);
        self.follow_chain(name);
        self.tell_ready(name);
    }
}
