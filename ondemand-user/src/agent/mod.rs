//! The event loop: the one place where samples, timers, systemd and signals meet.
//!
//! Nothing in the loop waits: whatever takes time (systemd, the veto program, the bus) runs in a
//! separate task and returns as an event. So the watchdog, which only the loop feeds, is
//! reliable.

mod accepting;
mod aliases;
mod announce;
mod caught;
mod chains;
mod clients;
mod configuration;
mod connection;
mod datagrams;
mod events;
mod freezing;
mod holding;
mod inhibitors;
mod jobs;
mod keeping;
mod kernel_events;
mod last_look;
mod learner;
mod learning;
mod leaving;
mod look;
mod loops;
mod may_stop;
mod memory;
mod notify;
mod observe;
mod orphans;
mod page;
mod polls;
mod prewarming;
mod privilege;
mod ready;
mod recorder;
mod requests;
mod room;
mod services;
mod silence;
mod source;
mod spool;
mod status;
mod strangers;
mod timing;
mod transitions;
mod watched;
mod working;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    rc::Rc,
    time::Duration,
};

use aliases::Aliases;
use announce::Announcer;
use anyhow::{Context as _, Result};
use chains::Chains;
use connection::Connection;
use events::{Event, Message, Sources};
use holding::Holding;
use keeping::Keeping;
use last_look::LastLooks;
use learning::Lessons;
use may_stop::Permission;
use notify::Notifier;
use ondemand_core::{
    config::{Config, Service},
    lifecycle::{Input, JobEnd},
    measure::{Ktime, sample::Slot},
    words::counted,
};
use prewarming::Rhythms;
use recorder::Recorder;
use room::Room;
use services::Services;
use source::Source;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::AbortHandle,
};
use transitions::Transitions;

use crate::{
    bus,
    host::{clock, complaints::Complaints},
    kernel::{catchers::RawSockets, maps::Sampler, sockets::syn_cookies::SynCookies},
    observe::metrics::Metrics,
    systemd::{Change, Link},
};

pub use leaving::clean_up;

/// How long to wait for the agent's name on the bus before it is ready without it.
const BUS_PATIENCE: Duration = Duration::from_secs(5);

struct Agent {
    source: Source,
    dry_run: bool,
    config: Config,
    sampler: Sampler,
    /// For clients, and datagrams, that are held.
    raw: Option<Rc<RawSockets>>,
    services: Services,
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
    lessons: Lessons,
    keeping: Keeping,
    chains: Chains,
    rhythms: Rhythms,
    room: Room,
    announcer: Announcer,
    permission: Permission,
    /// What the units' names mean, once they were read.
    aliases: Option<Aliases>,
    /// New services whose front sockets are to be started.
    unopened: BTreeSet<String>,
    /// The starts of front sockets that are tried, by service.
    opening: BTreeMap<String, AbortHandle>,
    transitions: Transitions,
    /// Whether the first configuration is being watched.
    began: bool,
    /// Why the agent cannot continue, if so.
    broken: Option<anyhow::Error>,
    /// When to look at what the kernel sends no event for.
    next_poll: Option<Ktime>,
    /// About what cannot be looked at.
    complaints: Complaints<&'static str>,
    /// The duration of the last such look, which limits how often it is done.
    poll_cost: Duration,
    /// When the bytes of open connections may be counted again.
    next_bytes: Ktime,
    /// When the open connections of a service may be listed again.
    next_clients: Ktime,
}

/// Watches the services of the configuration until a signal ends it. Its exit changes nothing: the
/// kernel keeps counting and steering, services keep running.
///
/// # Errors
///
/// The configuration is invalid, the host lacks a requirement, or systemd does not answer.
pub async fn run(config_path: &Path, dry_run: bool) -> Result<()> {
    // First of all: by default these signals end the program, and systemd takes an end by SIGHUP
    // for a clean exit.
    let hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let (kernel, raw) = privilege::open_and_drop()?;
    let mut notifier = Notifier::new();
    let (source, config) = match Source::open(config_path) {
        Ok(opened) => opened,
        Err(error) => {
            if notifier.is_heard() {
                let text = format!("waiting for a valid configuration: {error:#}");
                notifier.status(text, clock::now());
                tokio::select! {
                    () = source::changed(config_path) => {}
                    _ = terminate.recv() => {}
                }
            }
            return Err(error);
        }
    };
    let sampler = Sampler::new(kernel)?;
    let link = Link::open().await?;
    let (messages, message_source) = mpsc::unbounded_channel();
    let (requests, request_source) = mpsc::unbounded_channel();
    let (metrics, scrapes) = Metrics::start();
    let mut sources = Sources {
        messages: message_source,
        requests: request_source,
        scrapes,
        hangup,
        terminate,
        interrupt,
    };
    let mut agent = Agent {
        source,
        dry_run,
        config: Config {
            services: BTreeMap::new(),
            ..config.clone()
        },
        sampler,
        raw: None,
        services: Services::default(),
        slots: HashMap::new(),
        systemd: Connection::new(link),
        messages,
        requests,
        metrics,
        notifier,
        cookies: SynCookies::default(),
        recorder: Recorder::default(),
        last_looks: LastLooks::default(),
        holding: Holding::open(config.services.keys().map(String::as_str)),
        lessons: Lessons::open(),
        keeping: Keeping::default(),
        chains: Chains::default(),
        rhythms: Rhythms::default(),
        room: Room::default(),
        announcer: Announcer::default(),
        permission: Permission::default(),
        aliases: None,
        unopened: BTreeSet::new(),
        opening: BTreeMap::new(),
        transitions: Transitions::default(),
        began: false,
        broken: None,
        next_poll: None,
        complaints: Complaints::default(),
        poll_cost: Duration::ZERO,
        next_bytes: Ktime::from_nanos(0),
        next_clients: Ktime::from_nanos(0),
    };
    agent.begin(config, raw).await?;
    loop {
        let event = agent.next_event(&mut sources).await?;
        if let Event::Terminate = event {
            break;
        }
        agent.handle(event);
        agent.pass_time();
        if agent.broken.is_some() {
            break;
        }
    }
    agent.notifier.stopping();
    agent.end_catching();
    agent.end_datagrams();
    // Nobody would take it back when a service stops.
    if let Err(error) = agent.sampler.end_admission() {
        log::warn!("clients that may not start a service may do so: {error:#}");
    }
    agent.metrics.finish();
    agent.recorder.finish();
    agent.leave_holds();
    agent.leave_lessons();
    if let Some(error) = agent.broken {
        return Err(
            error.context("exiting, so that the programs are loaded again for the next agent")
        );
    }
    log::info!("shutting down; services keep running, and the kernel keeps counting");
    Ok(())
}

impl Agent {
    async fn begin(&mut self, config: Config, raw: Result<RawSockets>) -> Result<()> {
        if let Some(why) = self.sampler.no_steering()
            && config.services.values().any(|service| service.steer)
        {
            log::warn!("connections cannot be steered on this host, they are proxied: {why}");
            let listed = |service: &&Service| {
                !service.wake_from.is_absent() || !service.ignore_from.is_absent()
            };
            for service in config.services.values().filter(listed) {
                log::warn!(
                    "{}: wake_from and ignore_from have no effect without steering: all clients start it and \
                     keep it up",
                    service.name
                );
            }
        }
        match raw {
            Ok(mut raw) => {
                self.sampler.filter_errors(&mut raw);
                self.raw = Some(Rc::new(raw));
            }
            Err(error) => log::info!(
                "clients of services that are down are not held, the front sockets take them: {error:#}"
            ),
        }
        let applied = self.apply(config);
        if let Err(error) = applied {
            // Wrong on this host only.
            let older = match self.source.trouble() {
                None => self.source.fall_back(error)?,
                Some(_) => return Err(error),
            };
            self.apply(older)?;
        }
        if self.source.trouble().is_none() {
            self.in_force();
        }
        self.began = true;
        let readings = self.systemd.read_all(|| self.notifier.starting()).await?;
        self.take_readings(readings);
        if self.dry_run {
            log::warn!("dry run: nothing is stopped");
        }
        let counting = if self.sampler.taken_over() {
            "keeps counting"
        } else {
            "counts"
        };
        let services = counted(self.services.len() as u64, "service");
        log::info!("watching {services}; the kernel {counting}");
        let all = self.services.keys().cloned().collect();
        self.look_at_each(all);
        let is_taken = self.serve_bus();
        self.ask_permission();
        self.pass_time();
        // `systemctl start ondemand && ondemand start wiki`: ready means that clients find it. Without
        // the bus it becomes ready too, and has logged why.
        let _ = tokio::time::timeout(BUS_PATIENCE, is_taken).await;
        self.notifier.ready();
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Kernel(news) => self.kernel_news(news),
            Event::Systemd(Some(Change::Unit { unit, reading })) => {
                // PID 1 reports the same more than once.
                if !self.systemd.take([(unit.clone(), *reading)]) {
                    return;
                }
                self.read_if_unloaded(&unit);
                self.hear_socket(&unit);
                for name in self.services.of_unit(&unit).to_vec() {
                    self.find_problem(&name);
                    self.look(&name, Input::Changed);
                }
            }
            Event::Systemd(Some(Change::Reloaded)) => self.look_again(),
            Event::Systemd(Some(Change::Lost(why))) => self.disconnected(&why),
            Event::Systemd(None) => self.disconnected("its signals ended"),
            Event::Message(message) => self.message(message),
            Event::Bus(request) => self.act(request),
            Event::Scrape(question) => {
                self.count_open_bytes();
                self.tell(question);
            }
            Event::Reload => self.renew(None),
            // `pass_time` follows every event.
            Event::Time | Event::Terminate => {}
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connected(link) => self.connected(*link),
            Message::OffBus(error) => self.off_bus(&error),
            Message::OnBus => self.on_bus(),
            Message::Units {
                connection,
                readings,
            } if connection == self.systemd.number() => match readings {
                Ok(readings) => {
                    let names = self.take_readings(readings);
                    self.open_fronts();
                    self.look_at_each(names);
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
            Message::Renewed(refused, answer) => self.renewed(refused, answer),
            Message::Permission(answers) => self.take_permission(answers),
            Message::Owner { service, owner, at } => self.judge_listeners(&service, &owner, at),
            Message::Probed {
                service,
                ticket,
                ends,
                answer,
            } => self.probed(&service, ticket, ends, answer),
            Message::Past(names, lessons) => self.take_past(names, lessons),
            Message::InhibitOwn { unit, why, answer } => self.inhibited_own(unit, &why, answer),
            Message::Uninhibited { service, number } => self.uninhibited(&service, number),
            Message::Used { service, usage } => self.used(&service, usage),
            Message::Memory(reading) => self.take_memory(reading),
            Message::Froze {
                service,
                unit,
                freeze,
                result,
                took,
            } => self.froze(&service, &unit, freeze, result, took),
            Message::Failed { service, of, why } => self.take_end(&service, of, why),
            Message::LookupsOver { services, known } => self.lookups_over(services, known),
            Message::Job {
                service,
                ticket,
                end,
                readings,
            } => {
                if let JobEnd::Failed(_) = end {
                    self.doubt_permission(&service);
                }
                if self.is_awaited(&service, ticket) {
                    match readings {
                        Ok(readings) => self.job_ended(service, ticket, end, readings),
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

    /// Looks at the services that are due, and notifies systemd that the loop is alive.
    fn pass_time(&mut self) {
        let now = clock::now();
        if self.next_poll.is_some_and(|at| at <= now) {
            self.poll();
        }
        let mut changed = self.sum_up();
        for name in self.services.due(now) {
            self.look(&name, Input::Changed);
        }
        self.pass_transitions(now);
        self.end_holds();
        self.save_lessons(now);
        self.pass_times_of_use(now);
        self.pass_rhythms(now);
        self.make_room(now);
        if self.notifier.alive(now) {
            self.still_counts();
            self.services.mark_failing();
        }
        changed.extend(self.sum_up());
        self.announce(&changed);
        self.notifier.status(self.summary(), now);
    }

    /// Whether the kernel still counts. If not, the agent exits and the next one reloads the programs.
    fn still_counts(&mut self) -> bool {
        if let Err(error) = self.sampler.check() {
            self.broken.get_or_insert(error);
        }
        self.broken.is_none()
    }

    /// Looks at services of whose units more is known.
    fn look_at_each(&mut self, names: BTreeSet<String>) {
        self.find_transitions();
        let strangers = self.find_strangers(&names);
        for name in names {
            self.find_problem(&name);
            self.find_refusal(&name);
            if strangers.contains(&name) {
                self.ask_owner(&name, None);
            }
            self.look(&name, Input::Changed);
        }
    }

    /// The agent's state for the status line.
    fn summary(&self) -> String {
        let totals = self.services.totals();
        let mut text = self
            .source
            .trouble()
            .map(|why| why + "; ")
            .unwrap_or_default();
        text += &format!(
            "{}, {} active",
            counted(self.services.len() as u64, "service"),
            totals.up
        );
        if totals.unmanaged > 0 {
            text += &format!(", {} not managed", totals.unmanaged);
        }
        if totals.failing > 0 {
            text += &format!(", {} failing", totals.failing);
        }
        if !self.systemd.is_connected() {
            text += "; systemd does not answer";
        }
        text
    }
}
