//! Publishes changes on the bus. Nothing waits for it or depends on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ondemand_core::{lifecycle::note::VetoReason, runs::RunEvent};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{Agent, events::Message};
use crate::{
    bus::{self, Listeners, News},
    host::clock,
};

/// What was published.
#[derive(Default)]
pub struct Announcer {
    /// The channel to the bus, while there is one.
    news: Option<mpsc::UnboundedSender<News>>,
    /// By service: its state, and the end of its hold.
    told: BTreeMap<String, (&'static str, Option<u64>)>,
    /// Who follows the services there: for nobody, nothing is described.
    listeners: Listeners,
    /// Why it is not on the bus.
    off_bus: Option<String>,
}

/// The time between two attempts to get on the bus.
const BUS_PAUSE: Duration = Duration::from_secs(2);

impl Announcer {
    /// Starts with a new bus: returns the channel of the news from now on.
    pub fn connect(&mut self) -> mpsc::UnboundedReceiver<News> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.news = Some(sender);
        // Nobody has found the new one yet.
        self.listeners = Listeners::default();
        receiver
    }

    /// Whether to log why the agent is not on the bus.
    fn is_new(&mut self, error: &anyhow::Error) -> bool {
        let text = format!("{error:#}");
        self.off_bus.replace(text.clone()) != Some(text)
    }

    fn tell(&self, item: News) {
        if let Some(news) = &self.news {
            // The bus may be gone.
            let _ = news.send(item);
        }
    }

    /// Publishes a new set of services.
    pub fn services(&mut self, names: impl Iterator<Item = String>) {
        let names: BTreeSet<String> = names.collect();
        self.told.retain(|name, _| names.contains(name));
        self.tell(News::Services(names));
    }

    /// Publishes why the configuration's file is not in force. `None`: it is.
    pub fn configuration(&self, trouble: Option<String>) {
        self.tell(News::Configuration(trouble.unwrap_or_default()));
    }

    /// Publishes that a stop was begun and not carried through.
    pub fn vetoed(&self, service: &str, reason: VetoReason) {
        self.tell(News::Vetoed {
            service: service.to_owned(),
            reason: reason.as_str(),
        });
    }

    /// Publishes an event of an application.
    pub fn happened(&self, service: &str, event: &RunEvent) {
        let service = service.to_owned();
        self.tell(match event {
            RunEvent::Started(start) => News::Started {
                service,
                took: start
                    .took()
                    .and_then(|took| u64::try_from(took.as_micros()).ok()),
            },
            RunEvent::Ended { reason, .. } => News::Stopped {
                service,
                reason: reason.as_str(),
            },
            _ => return,
        });
    }
}

/// Whether two ends of a hold are the same: by the wall clock they are computed again each time.
fn is_same(before: Option<u64>, now: Option<u64>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => before.abs_diff(now) < 2_000_000,
        _ => before == now,
    }
}

impl Agent {
    /// Publishes those of these services whose state or hold has changed.
    pub(super) fn announce(&mut self, changed: &BTreeSet<String>) {
        let now = clock::moment();
        let is_followed = self.announcer.listeners.any();
        for name in changed {
            if is_followed {
                let details = Box::new(self.describe(name));
                self.announcer.tell(News::Details(details));
            }
            let Some(watched) = self.services.get(name) else {
                continue;
            };
            let units = self.units_of(watched);
            let state = units.unwrap_or_default().backend.state.as_str();
            let left = self.holding.left(name, &now);
            let until = left.map(|left| left.until_micros(&now));
            let shown = (state, until);
            if let Some(before) = self.announcer.told.get(name)
                && before.0 == state
                && is_same(before.1, until)
            {
                continue;
            }
            let first = self.announcer.told.insert(name.clone(), shown).is_none();
            if !first {
                self.announcer.tell(News::Changed {
                    service: name.clone(),
                    state,
                    held_until: until.unwrap_or(0),
                });
            }
        }
    }

    /// Puts the agent on the bus. It works without it, too. The result completes when clients can find
    /// the agent, and is dropped if they never can.
    pub(super) fn serve_bus(&mut self) -> oneshot::Receiver<()> {
        let (taken, is_taken) = oneshot::channel();
        let messages = self.messages.clone();
        let (requests, news) = (self.requests.clone(), self.announcer.connect());
        let listeners = self.announcer.listeners.clone();
        self.announcer.services(self.services.keys().cloned());
        tokio::spawn(async move {
            let begin = Instant::now();
            if let Err(error) = bus::serve(requests, news, listeners, taken).await {
                // Not at once, if it never worked.
                sleep_until(begin + BUS_PAUSE).await;
                // The receiver is gone if the agent has exited.
                let _ = messages.send(Message::OffBus(error));
            }
        });
        is_taken
    }

    /// Tries to get back on the bus.
    pub(super) fn off_bus(&mut self, error: &anyhow::Error) {
        if self.announcer.is_new(error) {
            log::warn!(
                "the agent is not on the bus, `ondemand status` and others fail until it is: {error:#}"
            );
        }
        let is_taken = self.serve_bus();
        let messages = self.messages.clone();
        tokio::spawn(async move {
            if is_taken.await.is_ok() {
                // The receiver is gone if the agent has exited.
                let _ = messages.send(Message::OnBus);
            }
        });
    }

    /// The agent is on the bus again.
    pub(super) fn on_bus(&mut self) {
        log::info!("the agent is on the bus again");
        self.announcer.off_bus = None;
    }
}
