//! The Prometheus endpoint: an observer of the agent that returns nothing to it.
//!
//! It has its own thread and event loop. The agent's loop sends it events, and answers its
//! questions; counting, saving, rendering and serving are done here. Whatever fails here, services
//! are started and stopped as before.

pub(crate) mod books;
mod exposition;
mod histogram;
mod host;
mod kept;
pub(crate) mod ledger;
pub(crate) mod observation;
pub(crate) mod record;
pub(crate) mod render;
pub(crate) mod server;
mod times;
mod told;
pub(crate) mod uses;
pub(crate) mod waits;
mod whatif;

use std::{
    net::SocketAddr,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Duration,
};

use books::Books;
pub use kept::Kept;
pub use observation::{Configuration, Observation, Observations};
use ondemand_core::{
    config::{Config, WhatIfBy},
    lifecycle::Counter,
    measure::Ktime,
    runs::RunEvent,
};
use record::Record;
use server::{Server, Terms};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout_at,
};

pub use waits::Way;

use super::history::What;
use crate::{host::clock, observe::page::Table};

/// Asks the agent's loop for its present state.
#[derive(Debug)]
pub enum Question {
    /// For a scrape.
    Scrape(oneshot::Sender<Observations>),
    /// For the page.
    Table(oneshot::Sender<Table>),
}

/// An event of a service.
#[derive(Debug)]
pub(crate) enum Note {
    /// A counter of the lifecycle.
    Count(Counter),
    /// The lease is being released, or taken.
    Lease { released: bool },
    /// Its memory in bytes.
    Memory(u64),
    /// The CPU time of the run that began then, in milliseconds.
    Cpu(i64, Duration),
    /// An event of the backend, and when the agent learned of it.
    Run(RunEvent, Ktime),
    /// What the history is told of its use, and its learned idle timeout.
    Use(What, Duration),
}

enum Message {
    Configure {
        address: Option<SocketAddr>,
        whatif: WhatIfBy,
        terms: Terms,
        /// Name and unit of each. `None`: as before.
        services: Option<Vec<(String, String)>>,
    },
    Note(String, Note),
    Waited(Way, Duration),
    /// The agent exits: all is to be saved.
    End(SyncSender<()>),
}

/// Maximum time for that.
const LAST: Duration = Duration::from_secs(1);

/// Maximum number of messages that are taken at once.
const AT_ONCE: usize = 256;

/// The agent's side: it sends, and never waits.
#[derive(Debug)]
pub struct Metrics {
    messages: mpsc::UnboundedSender<Message>,
}

impl Metrics {
    /// Starts to observe. The questions are caused by scrapes; at most one is pending.
    pub fn start() -> (Self, mpsc::Receiver<Question>) {
        let (messages, source) = mpsc::unbounded_channel();
        let (questions, asked) = mpsc::channel(1);
        let thread = thread::Builder::new().name("metrics".into());
        if let Err(error) = thread.spawn(move || work(source, questions)) {
            log::error!("no metrics, because their thread could not be started: {error}");
        }
        (Self { messages }, asked)
    }

    /// Sets a new configuration, and whether its services or their units are others than before.
    pub fn configure(&self, config: &Config, are_others: bool) {
        let services = || {
            let each = config.services.values();
            each.map(|service| (service.name.clone(), service.unit.clone()))
                .collect()
        };
        self.tell(Message::Configure {
            address: config.agent.metrics,
            whatif: config.agent.whatif,
            terms: Terms {
                names: config.agent.metrics_names.clone(),
                page: config.agent.page,
                history: config.agent.history.clone(),
            },
            services: are_others.then(services),
        });
    }

    /// Sends a counter of the lifecycle.
    pub fn count(&self, service: &str, counter: Counter) {
        self.note(service, Note::Count(counter));
    }

    /// The lease is being released, or taken.
    pub fn lease(&self, service: &str, released: bool) {
        self.note(service, Note::Lease { released });
    }

    /// Sends an event of the backend.
    pub fn happened(&self, service: &str, event: RunEvent) {
        self.note(service, Note::Run(event, clock::now()));
    }

    /// Sends what the history is told of a service's use, and the idle timeout that is learned of it by now.
    pub fn used(&self, service: &str, what: What, learned: Duration) {
        self.note(service, Note::Use(what, learned));
    }

    /// The agent exits. Waits until all is saved, but not for long.
    pub fn finish(&self) {
        let (done, end) = sync_channel(1);
        self.tell(Message::End(done));
        // Without its thread, or with one that hangs, the rest is lost, as it is after a kill.
        let _ = end.recv_timeout(LAST);
    }

    /// Returns a function for a later measurement of a service's memory, in bytes.
    pub fn memory(&self, service: &str) -> impl FnOnce(u64) + Send + use<> {
        let (messages, service) = (self.messages.clone(), service.to_owned());
        move |bytes| {
            // Without a receiver it is not needed.
            let _ = messages.send(Message::Note(service, Note::Memory(bytes)));
        }
    }

    /// Returns a function for a later measurement of a service's CPU time: the begin of its run in milliseconds, and
    /// the time.
    pub fn cpu(&self, service: &str) -> impl FnOnce(i64, Duration) + Send + use<> {
        let (messages, service) = (self.messages.clone(), service.to_owned());
        move |started, time| {
            // Without a receiver it is not needed.
            let _ = messages.send(Message::Note(service, Note::Cpu(started, time)));
        }
    }

    /// A client has waited for so long.
    pub fn waited(&self, way: Way, waited: Duration) {
        self.tell(Message::Waited(way, waited));
    }

    /// Returns a function for a client whose wait is about to end.
    pub fn waits(&self, way: Way) -> impl FnOnce(Duration) + Send + use<> {
        let messages = self.messages.clone();
        move |waited| {
            // Without a receiver it is not needed.
            let _ = messages.send(Message::Waited(way, waited));
        }
    }

    fn note(&self, service: &str, note: Note) {
        self.tell(Message::Note(service.to_owned(), note));
    }

    fn tell(&self, message: Message) {
        // Without its thread there are no metrics, which was logged.
        let _ = self.messages.send(message);
    }
}

/// The thread. It ends with the agent.
fn work(mut messages: mpsc::UnboundedReceiver<Message>, questions: mpsc::Sender<Question>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return log::error!("no metrics: {error}"),
    };
    runtime.block_on(async {
        let mut server = Server::new(Books::new(Record::here()), questions);
        let mut some = Vec::new();
        loop {
            let due = server.books().due();
            let taken = messages.recv_many(&mut some, AT_ONCE);
            let taken = match due {
                None => taken.await,
                Some(due) => match timeout_at(due, taken).await {
                    Ok(taken) => taken,
                    // Cancelled, it has taken nothing.
                    Err(_) => {
                        server.books().save_uses();
                        continue;
                    }
                },
            };
            if taken == 0 {
                break;
            }
            for message in some.drain(..) {
                match message {
                    Message::Configure {
                        address,
                        whatif,
                        terms,
                        services,
                    } => {
                        server.books().save();
                        server.books().whatif = whatif;
                        if let Some(services) = services {
                            server.books().configure(services);
                        }
                        server.set(terms);
                        server.listen(address).await;
                    }
                    Message::Note(service, note) => server.books().note(&service, note),
                    Message::Waited(way, waited) => server.books().waited(way, waited),
                    Message::End(done) => {
                        server.books().save();
                        server.books().save_uses();
                        // If it waits no more, the agent is gone.
                        let _ = done.try_send(());
                    }
                }
            }
            // What comes together, as in a stop, is saved together, and before the next scrape.
            server.books().save();
        }
    });
}
