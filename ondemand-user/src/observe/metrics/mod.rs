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

use std::{collections::HashMap, net::SocketAddr, thread};

use books::Books;
use ondemand_core::{
    config::Config,
    lifecycle::Counter,
    measure::{Ktime, unit::Unit},
};
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
    /// The application began to listen.
    Listens(Ktime),
    /// Its memory in bytes.
    Memory(u64),
    /// systemd says something new of the application's unit.
    Unit {
        unit: Unit,
        /// Whether the application's listener will be seen.
        announced: bool,
        now: Ktime,
    },
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
    /// What was told of the units last.
    told: HashMap<String, Unit>,
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
        let told = HashMap::new();
        (Self { messages, told }, asked)
    }

    /// The configuration is this one now.
    pub fn configure(&mut self, config: &Config) {
        // A service may have another unit now: everything is told anew.
        self.told.clear();
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

    /// The application began to listen.
    pub fn listens(&self, service: &str, at: Ktime) {
        self.note(service, Note::Listens(at));
    }

    /// systemd says this of the application's unit. `announced`: the application's listener is
    /// seen when it comes. True: it is news.
    pub fn follow(&mut self, service: &str, unit: &Unit, announced: bool) -> bool {
        let before = self.told.get(service);
        if before == Some(unit) {
            return false;
        }
        // At the first look it may listen already.
        let announced = announced && before.is_some();
        self.told.insert(service.to_owned(), *unit);
        let (unit, now) = (*unit, clock::now());
        self.note(
            service,
            Note::Unit {
                unit,
                announced,
                now,
            },
        );
        true
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
