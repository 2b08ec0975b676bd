//! The event loop: the one place where samples, timers, systemd and signals meet.
//!
//! Nothing in the loop waits: whatever takes time (systemd, the veto program, the bus) runs
//! in a task of its own and comes back as an event. So the watchdog, which is fed from the
//! loop alone, tells the truth.

mod actions;
mod announce;
mod commands;
mod configuration;
mod holding;
mod last_look;
mod notify;
mod observed;
mod polls;
mod recorder;
mod report;
mod service;
mod timing;
mod units;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use announce::Announcer;
use anyhow::{Context as _, Result};
use holding::Holding;
use last_look::{LastLooks, Ticket};
use notify::Notifier;
use recorder::Recorder;
use service::Watched;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::Instant,
};
use units::Connection;

use crate::{
    bus,
    config::Config,
    kernel::Kernel,
    ktime::Ktime,
    lifecycle::{Input, JobEnd},
    metrics::{self, Metrics},
    sampler::{KernelEvent, Sampler, Slot},
    syn_cookies::SynCookies,
    systemd::{Change, Link, Reading},
    veto,
    words::{Span, counted},
};

/// Proxies of one service that wait for its listener, at most.
const MOST_WAITING: usize = 64;

/// Everything that can happen.
enum Event {
    Kernel(KernelEvent),
    /// `None`: the connection ended.
    Systemd(Option<Change>),
    Message(Message),
    Bus(bus::Request),
    /// A scrape of the metrics.
    Scrape(metrics::Question),
    /// A moment that something waited for has come.
    Time,
    Reload,
    Terminate,
}

/// What the agent's own tasks bring back.
enum Message {
    /// A new connection to systemd.
    Connected(Box<Link>),
    /// The units, over the connection of this number.
    Units {
        connection: u64,
        readings: Result<Vec<(String, Reading)>>,
    },
    /// The veto program's answer.
    Veto {
        service: String,
        ticket: u64,
        reply: veto::Reply,
    },
    /// Look-ups that these services' last looks waited for are over, if that is known.
    LookupsOver { services: Vec<Ticket>, known: bool },
    /// The end of a job, and the service's units after it.
    Job {
        service: String,
        ticket: u64,
        end: JobEnd,
        readings: Result<Vec<(String, Reading)>>,
    },
}

struct Agent {
    config_path: PathBuf,
    dry_run: bool,
    config: Config,
    sampler: Sampler,
    services: BTreeMap<String, Watched>,
    slots: HashMap<Slot, String>,
    systemd: Connection,
    messages: mpsc::UnboundedSender<Message>,
    requests: mpsc::UnboundedSender<bus::Request>,
    metrics: Metrics,
    notifier: Notifier,
    cookies: SynCookies,
    recorder: Recorder,
    last_looks: LastLooks,
    holding: Holding,
    announcer: Announcer,
    /// Whether the first configuration is being watched.
    began: bool,
    /// When to look at what the kernel sends no event for.
    next_poll: Option<Ktime>,
    /// What could not be looked at the last time, so that it is said once.
    blind: Option<&'static str>,
    /// What the last such look took, which bounds how often it is done.
    poll_cost: Duration,
}

/// The events that come from outside the agent.
struct Sources {
    messages: mpsc::UnboundedReceiver<Message>,
    requests: mpsc::UnboundedReceiver<bus::Request>,
    scrapes: mpsc::Receiver<metrics::Question>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Watches the services of the configuration until it is told to end. Ending leaves
/// everything as it is: the kernel goes on counting and steering, services go on running.
///
/// # Errors
///
/// The configuration is wrong, the host lacks something, or systemd cannot be reached.
pub async fn run(config_path: &Path, dry_run: bool) -> Result<()> {
    let config = Config::load(config_path)?;
    let sampler = Sampler::new(Kernel::open()?)?;
    let link = Link::open().await?;
    let (messages, message_source) = mpsc::unbounded_channel();
    let (requests, request_source) = mpsc::unbounded_channel();
    let (metrics, scrapes) = Metrics::start();
    let mut sources = Sources {
        messages: message_source,
        requests: request_source,
        scrapes,
        hangup: signal(SignalKind::hangup()).context("listen to SIGHUP")?,
        terminate: signal(SignalKind::terminate()).context("listen to SIGTERM")?,
        interrupt: signal(SignalKind::interrupt()).context("listen to SIGINT")?,
    };
    let mut agent = Agent {
        config_path: config_path.to_owned(),
        dry_run,
        config: Config {
            services: BTreeMap::new(),
            ..config.clone()
        },
        sampler,
        services: BTreeMap::new(),
        slots: HashMap::new(),
        systemd: Connection::new(link),
        messages,
        requests,
        metrics,
        notifier: Notifier::new(),
        cookies: SynCookies::default(),
        recorder: Recorder::default(),
        last_looks: LastLooks::default(),
        holding: Holding::open(config.services.keys().map(String::as_str)),
        announcer: Announcer::default(),
        began: false,
        next_poll: None,
        blind: None,
        poll_cost: Duration::ZERO,
    };
    agent.begin(config).await?;
    loop {
        let event = agent.next_event(&mut sources).await?;
        if let Event::Terminate = event {
            break;
        }
        agent.handle(event);
        agent.pass_time();
    }
    agent.notifier.stopping();
    agent.recorder.finish();
    agent.leave_holds();
    log::info!("ends; services go on running, and the kernel goes on counting");
    Ok(())
}

impl Agent {
    async fn begin(&mut self, config: Config) -> Result<()> {
        if let Some(why) = self.sampler.no_steering()
            && config.services.values().any(|service| service.steer)
        {
            log::warn!("connections cannot be steered here, the proxy carries them: {why}");
        }
        self.apply(config)?;
        self.began = true;
        let readings = self.systemd.read_all(|| self.notifier.starting()).await?;
        self.systemd.take(readings);
        if self.dry_run {
            log::warn!("dry run: nothing is stopped");
        }
        let counting = if self.sampler.taken_over() {
            "goes on counting"
        } else {
            "counts"
        };
        let services = counted(self.services.len() as u64, "service");
        log::info!("watches {services}; the kernel {counting}");
        self.look_at_all();
        self.serve_bus();
        self.pass_time();
        self.notifier.ready();
        Ok(())
    }

    /// Waits for whatever comes first.
    async fn next_event(&mut self, sources: &mut Sources) -> Result<Event> {
        let wakes = self.services.values().filter_map(|watched| watched.wake);
        let others = [
            self.next_poll,
            self.notifier.due(),
            self.holding.wake(),
            self.recorder.due(),
        ];
        let next = wakes.chain(others.into_iter().flatten()).min();
        let event = tokio::select! {
            _ = sources.terminate.recv() => Event::Terminate,
            _ = sources.interrupt.recv() => Event::Terminate,
            _ = sources.hangup.recv() => Event::Reload,
            event = self.sampler.next_event() => {
                Event::Kernel(event.context("wait for the kernel")?)
            }
            change = self.systemd.next_change() => Event::Systemd(change),
            Some(message) = sources.messages.recv() => Event::Message(message),
            Some(request) = sources.requests.recv() => Event::Bus(request),
            Some(question) = sources.scrapes.recv() => Event::Scrape(question),
            () = sleep_until(next) => Event::Time,
        };
        Ok(event)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Kernel(event) => self.kernel_event(event),
            Event::Systemd(Some(Change::Unit { unit, reading })) => {
                self.systemd.take([(unit.clone(), reading)]);
                for name in self.users_of(&unit) {
                    self.find_problem(&name);
                    self.look(&name, Input::Changed);
                }
            }
            Event::Systemd(Some(Change::Reloaded)) => self.read_units(),
            Event::Systemd(Some(Change::Lost(why))) => self.disconnected(&why),
            Event::Systemd(None) => self.disconnected("its signals ended"),
            Event::Message(message) => self.message(message),
            Event::Bus(request) => self.act(request),
            Event::Scrape(question) => self.observe(question),
            // It has said what is wrong.
            Event::Reload => drop(self.reload()),
            // `pass_time` follows every event.
            Event::Time | Event::Terminate => {}
        }
    }

    fn kernel_event(&mut self, event: KernelEvent) {
        let (KernelEvent::Listening(slot) | KernelEvent::Opened(slot) | KernelEvent::Closed(slot)) =
            event;
        // An event of a service that is not configured any more.
        let Some(name) = self.slots.get(&slot).cloned() else {
            return;
        };
        match (event, self.services.get_mut(&name)) {
            (KernelEvent::Listening(_), Some(watched)) => {
                // First of all: a client waits for it.
                for waiting in watched.waiting.drain(..) {
                    let _ = waiting.send(()); // The caller may have gone.
                }
                self.metrics.listens(&name, Ktime::now());
                self.find_refusal(&name);
            }
            (KernelEvent::Closed(_), Some(watched)) => watched.armed = false,
            _ => {}
        }
        self.look(&name, Input::Changed);
        if let KernelEvent::Listening(_) = event {
            self.began_to_listen(&name);
            self.recorder.listens(&name);
        }
    }

    /// A start is over when the application listens, which for `Type=simple` systemd does
    /// not know.
    fn began_to_listen(&mut self, name: &str) {
        let now = Ktime::now();
        let units = self
            .services
            .get(name)
            .and_then(|watched| self.units_of(watched));
        let begin = units.and_then(|units| units.backend.inactive_exit);
        let Some((begin, watched)) = begin.zip(self.services.get_mut(name)) else {
            return;
        };
        if watched.listened_since != Some(begin)
            && let Some(took) = now.since(begin)
        {
            watched.listened_since = Some(begin);
            watched.tally.last_start = Some(took);
            log::info!("{name}: listens {} after its start began", Span(took));
        }
    }

    /// Somebody waits for a backend's listener. One that is there already sends no event.
    fn wait_listening(&mut self, name: &str, answer: oneshot::Sender<()>) {
        // Dropping the answer tells the caller to look by itself.
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let there = crate::listening::is_listening(&watched.service.backend);
        if there.is_ok_and(|there| there) {
            // The caller may have gone.
            let _ = answer.send(());
            return;
        }
        watched.waiting.retain(|waiting| !waiting.is_closed());
        if watched.waiting.len() < MOST_WAITING {
            watched.waiting.push(answer);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connected(link) => self.connected(*link),
            Message::Units {
                connection,
                readings,
            } if connection == self.systemd.number() => match readings {
                Ok(readings) => {
                    self.systemd.take(readings);
                    self.look_at_all();
                }
                Err(error) => self.disconnected(&format!("{error:#}")),
            },
            Message::Units { .. } => {}
            Message::Veto {
                service,
                ticket,
                reply,
            } => {
                if self.is_awaited(&service, ticket) {
                    if let Some(line) = &reply.line {
                        log::info!("{service}: its veto program allows the stop: {line}");
                    }
                    self.look(&service, Input::Veto(reply.answer));
                }
            }
            Message::LookupsOver { services, known } => self.lookups_over(services, known),
            Message::Job {
                service,
                ticket,
                end,
                readings,
            } => {
                if self.is_awaited(&service, ticket) {
                    match readings {
                        Ok(readings) => {
                            self.systemd.take(readings);
                            self.look(&service, Input::Job(end));
                        }
                        Err(error) => self.disconnected(&format!("{error:#}")),
                    }
                }
            }
        }
    }

    fn is_awaited(&self, service: &str, ticket: u64) -> bool {
        self.services
            .get(service)
            .is_some_and(|watched| watched.ticket == ticket)
    }

    /// Looks at whatever has come due, and tells systemd that the loop turns.
    fn pass_time(&mut self) {
        let now = Ktime::now();
        if self.next_poll.is_some_and(|at| at <= now) {
            self.poll();
        }
        let due = |watched: &Watched| watched.wake.is_some_and(|at| at <= now);
        let recorder = &self.recorder;
        let due =
            |(name, watched): &(&String, &Watched)| due(watched) || recorder.is_due(name, now);
        let due = self.services.iter().filter(due);
        let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.look(&name, Input::Changed);
        }
        self.end_holds();
        self.announce();
        self.notifier.alive(now);
        self.notifier.status(self.summary());
    }

    fn look_at_all(&mut self) {
        let names: Vec<String> = self.services.keys().cloned().collect();
        for name in names {
            self.find_problem(&name);
            self.find_refusal(&name);
            self.look(&name, Input::Changed);
        }
    }

    /// The agent's own state in a few words.
    fn summary(&self) -> String {
        let known = self.services.values().map(|watched| self.units_of(watched));
        let up = known
            .flatten()
            .filter(|units| units.backend.state.is_up())
            .count();
        let problems = self
            .services
            .values()
            .filter(|watched| watched.problem.is_some())
            .count();
        let mut text = format!(
            "{}, {up} active",
            counted(self.services.len() as u64, "service")
        );
        if problems > 0 {
            text += &format!(", {problems} left alone");
        }
        if !self.systemd.is_connected() {
            text += "; systemd cannot be asked";
        }
        text
    }
}

async fn sleep_until(moment: Option<Ktime>) {
    match moment {
        // Both clocks stand still while the host is suspended.
        Some(at) => {
            let wait = at.since(Ktime::now()).unwrap_or_default();
            tokio::time::sleep_until(Instant::now() + wait).await;
        }
        None => std::future::pending().await,
    }
}
