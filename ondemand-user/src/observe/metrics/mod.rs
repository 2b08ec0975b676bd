//! The Prometheus endpoint: an observer of the agent that returns nothing to it.
//!
//! It has a thread and an event loop of its own. The agent's loop tells it what happens, and
//! answers with what it knows when it is asked; counting, writing down, rendering and serving is
//! done here. Whatever goes wrong here, services are started and stopped as before.

pub(crate) mod books;
mod histogram;
pub(crate) mod ledger;
pub(crate) mod record;
pub(crate) mod render;
pub(crate) mod server;
mod times;

use std::{net::SocketAddr, thread};

use books::Books;
use ondemand_core::{config::Config, lifecycle::Counter, measure::Ktime, runs::RunEvent};
use record::Record;
pub use render::Observation;
use server::Server;
use tokio::sync::{mpsc, oneshot};

use crate::host::clock;

/// Asks the agent's loop for what it knows of all services now.
pub type Question = oneshot::Sender<Vec<Observation>>;

/// What happened to a service.
#[derive(Debug)]
pub(crate) enum Note {
    /// The lifecycle counted.
    Count(Counter),
    /// The lease is being released, or else taken.
    Lease { released: bool },
    /// Its memory in bytes.
    Memory(u64),
    /// Something happened to the backend, and the agent heard of it at this moment.
    Run(RunEvent, Ktime),
}

enum Message {
    Configure {
        address: Option<SocketAddr>,
        services: Vec<(String, String)>,
    },
    Note(String, Note),
}

/// The agent's side: tells, and waits for nothing.
#[derive(Debug)]
pub struct Metrics {
    messages: mpsc::UnboundedSender<Message>,
}

impl Metrics {
    /// Begins to observe. The questions come from scrapes; at most one waits for its answer.
    pub fn start() -> (Self, mpsc::Receiver<Question>) {
        let (messages, source) = mpsc::unbounded_channel();
        let (questions, asked) = mpsc::channel(1);
        let thread = thread::Builder::new().name("metrics".into());
        if let Err(error) = thread.spawn(move || work(source, questions)) {
            log::error!("there will be no metrics, their thread cannot be started: {error}");
        }
        (Self { messages }, asked)
    }

    /// The configuration is this one now.
    pub fn configure(&self, config: &Config) {
        let services = config.services.values();
        self.tell(Message::Configure {
            address: config.agent.metrics,
            services: services
                .map(|service| (service.name.clone(), service.unit.clone()))
                .collect(),
        });
    }

    /// The lifecycle counted something.
    pub fn count(&self, service: &str, counter: Counter) {
        self.note(service, Note::Count(counter));
    }

    /// The lease is being released, or else taken.
    pub fn lease(&self, service: &str, released: bool) {
        self.note(service, Note::Lease { released });
    }

    /// Something happened to the backend.
    pub fn happened(&self, service: &str, event: RunEvent) {
        self.note(service, Note::Run(event, clock::now()));
    }

    /// For a measurement of a service's memory, in bytes, that comes later.
    pub fn memory(&self, service: &str) -> impl FnOnce(u64) + Send + use<> {
        let (messages, service) = (self.messages.clone(), service.to_owned());
        move |bytes| {
            // Nobody listens: then nobody wants it.
            let _ = messages.send(Message::Note(service, Note::Memory(bytes)));
        }
    }

    fn note(&self, service: &str, note: Note) {
        self.tell(Message::Note(service.to_owned(), note));
    }

    fn tell(&self, message: Message) {
        // Without its thread there are no metrics, which was said.
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
        Err(error) => return log::error!("there will be no metrics: {error}"),
    };
    runtime.block_on(async {
        let mut server = Server::new(Books::new(Record::here()), questions);
        while let Some(message) = messages.recv().await {
            match message {
                Message::Configure { address, services } => {
                    server.books().configure(services);
                    server.listen(address).await;
                }
                Message::Note(service, note) => server.books().note(&service, note),
            }
        }
    });
}
