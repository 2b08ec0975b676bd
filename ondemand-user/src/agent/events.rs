//! The events of the event loop.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use ondemand_core::{
    learned::stored::Stored,
    lifecycle::JobEnd,
    measure::{Ktime, unit::Owner},
    probing::NotYet,
    work::{Unknown, Usage},
};
use tokio::{signal::unix::Signal, sync::mpsc, time::Instant};

use super::{Agent, loops::Failing, memory};
use crate::{
    bus,
    host::{clock, veto},
    kernel::maps::events::News,
    observe::metrics,
    systemd::{Change, Link, Reading, units::Readings},
};

/// An event.
pub(super) enum Event {
    Kernel(News),
    /// `None`: the connection ended.
    Systemd(Option<Change>),
    Message(Message),
    Bus(bus::Request),
    /// A scrape of the metrics.
    Scrape(metrics::Question),
    /// The time of a timer has come.
    Time,
    Reload,
    Terminate,
}

/// A result of the agent's own tasks.
pub(super) enum Message {
    /// A new connection to systemd.
    Connected(Box<Link>),
    /// The agent is not on the bus any more, or could not get there.
    OffBus(anyhow::Error),
    /// It is there again.
    OnBus,
    /// The units, over the connection with this number.
    Units {
        connection: u64,
        readings: Result<Readings>,
    },
    /// The veto program's answer.
    Veto {
        service: String,
        ticket: u64,
        reply: veto::Reply,
    },
    /// The permissions are renewed, or why not: the configuration is to be read, and who asked for it is
    /// to be answered.
    Renewed(Option<String>, Option<bus::Reply<()>>),
    /// PID 1's answers about permissions.
    Permission(Answers),
    /// The unit of a process that keeps its own service up.
    InhibitOwn {
        unit: Option<String>,
        why: String,
        answer: bus::Reply<bus::Inhibitor>,
    },
    /// A process that kept a service up does so no more.
    Uninhibited { service: String, number: u64 },
    /// What a service's cgroup has used.
    Used {
        service: String,
        usage: Result<Usage, Unknown>,
    },
    /// What services take of memory.
    Memory(memory::Reading),
    /// The unit of a service was frozen (`freeze`) or thawed, or why not.
    Froze {
        service: String,
        unit: String,
        freeze: bool,
        result: Result<(), String>,
        /// How long a client waited until it was thawed.
        took: Option<Duration>,
    },
    /// Whether a service's application is ready.
    Probed {
        service: String,
        ticket: u64,
        /// Of the connection, if it was marked as the agent's own.
        ends: Option<(SocketAddr, SocketAddr)>,
        answer: Result<(), NotYet>,
    },
    /// What the history told of these services.
    Past(Vec<String>, Result<BTreeMap<String, Stored>>),
    /// How a unit of a service failed.
    Failed {
        service: String,
        of: Failing,
        why: String,
    },
    /// The look-ups that the last looks of these services waited for are over, if known.
    LookupsOver { services: Vec<Ticket>, known: bool },
    /// Whose processes a service's application runs, for listeners of users that are not known.
    Owner {
        service: String,
        owner: Owner,
        /// When one began to listen, if that is what is new.
        at: Option<Ktime>,
    },
    /// The end of a job, and the service's units after it: their states only, or whole.
    Job {
        service: String,
        ticket: u64,
        end: JobEnd,
        readings: Result<Vec<(String, Reading)>>,
    },
}

/// A service, and the number of its question.
pub(super) type Ticket = (String, u64);

/// Whether PID 1 would stop services: the answers to one question.
pub(super) struct Answers {
    /// The number of the question.
    pub round: u64,
    pub allowed: Vec<String>,
    /// Why not, by service.
    pub denied: BTreeMap<String, String>,
}

/// The sources outside the agent.
pub(super) struct Sources {
    pub messages: mpsc::UnboundedReceiver<Message>,
    pub requests: mpsc::UnboundedReceiver<bus::Request>,
    pub scrapes: mpsc::Receiver<metrics::Question>,
    pub hangup: Signal,
    pub terminate: Signal,
    pub interrupt: Signal,
}

impl Agent {
    /// Waits for the next event.
    pub(super) async fn next_event(&mut self, sources: &mut Sources) -> Result<Event> {
        let next = [
            self.services.first_due(),
            self.next_poll,
            self.notifier.due(),
            self.holding.wake(),
            self.keeping.due(),
            self.rhythms.due,
            self.room.due(),
            self.memory_due(),
            self.transitions.due(),
        ];
        let next = next.into_iter().flatten().min();
        let event = tokio::select! {
            _ = sources.terminate.recv() => Event::Terminate,
            _ = sources.interrupt.recv() => Event::Terminate,
            _ = sources.hangup.recv() => Event::Reload,
            event = self.sampler.next_event() => {
                Event::Kernel(event.context("wait for a kernel event")?)
            }
            change = self.systemd.next_change() => Event::Systemd(change),
            Some(message) = sources.messages.recv() => Event::Message(message),
            Some(request) = sources.requests.recv() => Event::Bus(request),
            Some(question) = sources.scrapes.recv() => Event::Scrape(question),
            () = sleep_until(next) => Event::Time,
        };
        Ok(event)
    }
}

async fn sleep_until(moment: Option<Ktime>) {
    match moment {
        // Both clocks stop while the host is suspended.
        Some(at) => {
            let wait = at.since(clock::now()).unwrap_or_default();
            tokio::time::sleep_until(Instant::now() + wait).await;
        }
        None => std::future::pending().await,
    }
}
