//! The agent's state of one service.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use ondemand_core::{
    config::{Endpoint, PerUnit, Service, UnitNames},
    freezing::Freezing,
    learned::SHORTEST,
    lifecycle::{Counter, Lifecycle, Options, note::VetoReason},
    measure::{
        Ktime,
        sample::{Leg, Sample, Slot},
        unit::{Unit, Units},
    },
    policy::{Facts, Reason, Rules},
    probing::Probing,
    runs::{RunEvent, StopReason},
};
use tokio::sync::oneshot;

use super::{
    caught::Held, datagrams::HeldDatagrams, inhibitors::Inhibitors, learner::Learner,
    orphans::Orphans, prewarming::Prewarming, room::Placed, silence::Listening, working::Working,
};
use crate::{
    bus::Reply,
    host::{ablation, complaints::Complaints},
    systemd::Known,
};

/// The longest poll interval for what the kernel sends no event for: it must not delay a stop by
/// more than a second.
const SLOWEST_POLL: Duration = Duration::from_millis(500);
/// The shortest.
const FASTEST_POLL: Duration = Duration::from_millis(50);

/// A problem of a service that is logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Its use is unknown.
    Unknown(Reason),
    /// A program that binds ports for containers listens at its address.
    Forwarder,
    /// Its clients are answered, and nobody accepts connections at its listener.
    NobodyAccepts,
    /// A stranger listens at its address.
    Stranger,
    /// systemd does not freeze it.
    NotFrozen,
    /// Its application is not ready yet.
    Unready,
    /// Its application is not ready, and should be.
    NeverReady,
    /// Its listener cannot be steered to. It lasts as long as the service is watched.
    NotSteered,
}

/// One configured service.
pub struct Watched {
    /// Its configuration.
    pub service: Service,
    /// Its units' names.
    pub units: UnitNames,
    /// Its slot in the maps.
    pub slot: Slot,
    /// Whether it is watched for the first time since boot, and nothing is known of its units yet.
    pub is_new: bool,
    /// Its memory when that was last measured, before a stop. Bytes; 0: never. Tasks measure it.
    pub memory: Arc<AtomicU64>,
    /// When it was last measured while it ran, for a scrape.
    pub measured_at: Option<Ktime>,
    /// Its clients that are held.
    pub held: Held,
    /// Its datagrams that are held.
    pub datagrams: HeldDatagrams,
    /// Whether datagrams can be held on this host.
    pub can_hold: bool,
    /// What is learned of it.
    pub learner: Learner,
    /// When its clients come.
    pub prewarming: Prewarming,
    /// Its step in the stop protocol.
    pub lifecycle: Lifecycle,
    /// When to look at it again.
    pub wake: Option<Ktime>,
    /// The same, for reasons outside of the protocol.
    pub look_at: Option<Ktime>,
    /// Whether an event for the close of the last connection was requested.
    pub armed: bool,
    /// Use that the counters do not cover.
    pub uncounted: Uncounted,
    /// The number of the pending call to systemd or to the veto program; answers to older ones are
    /// late.
    pub ticket: u64,
    /// Connections that ended runs have left.
    pub orphans: Orphans,
    /// The listener of a stranger at its address, as a sentence.
    pub stranger: Option<String>,
    /// Whether the program that listens at its address binds ports for containers.
    pub forwarder: bool,
    /// The run for which it was requested to be told that a connection was accepted: its begin, and
    /// whether it is the next one.
    pub awaits_accept: Option<(Option<Ktime>, bool)>,
    /// The proxy's clients before this run.
    pub front_before: Option<Leg>,
    /// When a client had an answer although nobody had accepted a connection of the listener.
    pub answered_elsewhere: Option<Ktime>,
    /// Whether SYN cookies were sent recently, when a look-up was the last activity.
    pub syn_cookies: bool,
    /// Whether its front socket is up, and does not listen at all of its addresses.
    pub is_silent: bool,
    /// Why it is not managed, if so.
    pub problem: Option<String>,
    /// The problems that were logged, and still last.
    pub complaints: Complaints<Complaint>,
    /// How its proxy failed last.
    pub proxy_end: Option<String>,
    /// How its application failed last, before systemd restarted it.
    pub backend_end: Option<String>,
    /// Whether its application was stopped because systemd had restarted it again and again.
    pub gave_up: bool,
    /// The counts.
    pub tally: Tally,
    /// Proxies that wait for its listener.
    pub waiting: Vec<oneshot::Sender<()>>,
    /// Processes that keep it up.
    pub inhibitors: Inhibitors,
    /// Whether it is frozen.
    pub freezing: Freezing,
    /// How often it was.
    pub freezes: u64,
    /// Its place among the services of its group.
    pub placed: Placed,
    /// Its work without a client.
    pub working: Working,
    /// The silence of its connections.
    pub listening: Listening,
    /// Whether its application is ready (`ready`).
    pub probing: Probing,
    /// Whether its application starts after that of another service, which it needs.
    pub is_chained: bool,
    /// The run in which the services that it needs were ready: its begin. They may be restarted later.
    pub has_needs: Option<Option<Ktime>>,
    /// Whether its application was down when the services that it needs were looked at.
    pub was_down: bool,
    /// Proxies that wait for that.
    pub awaits_ready: Vec<oneshot::Sender<()>>,
    /// Callers that requested a stop and wait for its end.
    pub asked: Vec<Reply<bool>>,
    /// Whether connections can be steered on this host.
    steerable: bool,
    /// The unit whose address rules steering would bypass.
    rules: Option<String>,
    /// Whether these rules are still to be read.
    rules_unread: bool,
    dry_run: bool,
}

impl Watched {
    /// The state of a service before its first look, watched from now on.
    pub fn new(service: Service, slot: Slot, steerable: bool, dry_run: bool, now: Ktime) -> Self {
        let lifecycle = Lifecycle::new(options(&service, steerable, dry_run)).since(now);
        Self {
            units: service.unit_names(),
            learner: Learner::new(&service.learning),
            prewarming: Prewarming::default(),
            service,
            slot,
            is_new: false,
            held: Held::default(),
            datagrams: HeldDatagrams::default(),
            can_hold: false,
            lifecycle,
            wake: None,
            look_at: None,
            armed: false,
            uncounted: Uncounted::default(),
            ticket: 0,
            orphans: Orphans::default(),
            stranger: None,
            forwarder: false,
            awaits_accept: None,
            answered_elsewhere: None,
            front_before: None,
            syn_cookies: false,
            is_silent: false,
            problem: None,
            complaints: Complaints::default(),
            proxy_end: None,
            backend_end: None,
            gave_up: false,
            tally: Tally::default(),
            waiting: Vec::new(),
            listening: Listening::default(),
            freezing: Freezing::default(),
            freezes: 0,
            placed: Placed::default(),
            working: Working::default(),
            memory: Arc::default(),
            measured_at: None,
            inhibitors: Inhibitors::default(),
            probing: Probing::default(),
            awaits_ready: Vec::new(),
            is_chained: false,
            has_needs: None,
            was_down: false,
            asked: Vec::new(),
            steerable,
            rules: None,
            // Nothing is done before its units are read, and its address rules with them.
            rules_unread: false,
            dry_run,
        }
    }

    /// Takes over a changed configuration. With another unit everything is reset.
    pub fn reconfigure(&mut self, service: Service, slot: Slot, dry_run: bool, now: Ktime) {
        let before = &self.service;
        if (&service.listen, &service.front, &service.backend)
            != (&before.listen, &before.front, &before.backend)
        {
            self.uncounted.begin(now);
        }
        if service.ready != self.service.ready {
            // Proxies that wait ask the application themselves.
            (self.probing, self.awaits_ready) = Default::default();
        }
        if !service.prewarm {
            self.prewarming = Prewarming::default();
        }
        self.dry_run = dry_run;
        // The rules are read only for services with `steer = true`.
        self.rules_unread |= service.steer && !self.service.steer;
        let options = options(&service, self.may_steer(), dry_run);
        if service.unit != self.service.unit {
            self.begin_anew(now);
        }
        self.lifecycle.set_options(options);
        self.units = service.unit_names();
        self.service = service;
        self.slot = slot;
    }

    /// Before its first look: what happens to its unit counts from this moment on.
    pub fn count_since(&mut self, moment: Ktime) {
        let options = options(&self.service, self.may_steer(), self.dry_run);
        self.lifecycle =
            std::mem::replace(&mut self.lifecycle, Lifecycle::new(options)).since(moment);
    }

    /// Resets everything: its unit is another one.
    pub fn begin_anew(&mut self, now: Ktime) {
        let options = options(&self.service, self.may_steer(), self.dry_run);
        self.lifecycle = Lifecycle::new(options).since(now);
        self.asked.clear();
        self.ticket += 1;
    }

    /// Whether steering is configured, and has a front and a backend to steer between.
    pub fn could_steer(&self) -> bool {
        self.service.can_steer()
    }

    /// Whether nothing is stopped.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Address rules are as effective as ever where the application keeps its address.
    fn may_steer(&self) -> bool {
        let ruled = self.rules.is_some() || self.rules_unread;
        self.steerable && (!ruled || self.service.own_address)
    }

    /// Whether a client of the application could start it.
    pub fn could_be_started(&self) -> bool {
        let can_hold = self.can_hold || !self.service.has_datagrams();
        can_hold && (self.steerable || !self.service.own_address)
    }

    /// Why an application that keeps its address must stay up, if so.
    pub fn not_served(&self) -> Option<String> {
        if self.steerable && !self.could_be_started() {
            return Some(
                "it receives datagrams, and on this host they cannot be held while it is down, so it stays up; the agent's log \
                 says why"
                    .into(),
            );
        }
        if !self.could_be_started() {
            return Some(
                "its application keeps its address, and on this host no program can start it for a client, so it stays \
                 up; `ondemand check` says why"
                    .into(),
            );
        }
        (self.service.own_address && self.forwarder).then(|| {
            "a program that publishes a container's port listens at its address, and its clients may not be seen, so it \
             stays up: publish the port at another one, such as 127.0.0.1:8080, and set `backend`"
                .into()
        })
    }

    /// Sets the unit whose address rules steering would bypass. Returns whether to log this: it
    /// changed, and nothing else prevents steering.
    pub fn set_rules(&mut self, place: Option<String>) -> bool {
        self.rules_unread = false;
        let changed = place != self.rules;
        self.rules = place;
        let options = options(&self.service, self.may_steer(), self.dry_run);
        self.lifecycle.set_options(options);
        changed && self.steerable && self.could_steer() && !self.service.own_address
    }

    /// The unit whose address rules steering would bypass.
    pub fn address_rules(&self) -> Option<&str> {
        self.rules.as_deref()
    }

    /// Drops what is in progress, and its late results.
    pub fn interrupt(&mut self) {
        self.lifecycle.interrupt();
        self.asked.clear();
        self.ticket += 1;
        self.wake = None;
    }

    /// The number of connected clients. `None`: unknown.
    pub fn open(&self, sample: Option<&Sample>) -> Option<u64> {
        let counted = sample?.open()?;
        Some(counted.max(self.uncounted.open))
    }

    /// The policy's rules.
    pub fn rules(&self) -> Rules {
        if self.lifecycle.is_asked() {
            Rules {
                silent_after: self.service.silent_after,
                ..Rules::AT_ONCE
            }
        } else {
            let mut rules = Rules::new(&self.service, self.learner.timeout());
            if self.placed.is_kept() {
                rules.idle_timeout = None;
            }
            if self.prewarming.is_in_vain() {
                rules.idle_timeout = rules.idle_timeout.map(|timeout| timeout.min(SHORTEST));
            }
            rules
        }
    }

    /// How long it may be unused. `None`: for ever.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.service.idle_timeout.or(self.learner.timeout())
    }

    /// Its Unix sockets.
    pub fn unix_paths(&self) -> impl Iterator<Item = &Path> {
        let endpoints = self.service.listen.iter().chain([&self.service.backend]);
        endpoints.filter_map(|endpoint| match endpoint {
            Endpoint::Unix(path) => Some(path.as_path()),
            Endpoint::Tcp(_) | Endpoint::Udp(_) => None,
        })
    }

    /// Forgets how a proxy failed that runs again, and that an application was given up that somebody has started
    /// again.
    pub fn forget_ends(&mut self, units: &Units) {
        self.gave_up &= units.backend.state.is_down() || self.lifecycle.is_restarted();
        if self.lifecycle.proxy_failures() == 0 && self.proxy_end.take().is_some() {
            log::info!("{}: its proxy runs again", self.service.name);
        }
    }

    /// The policy's input besides the counters.
    pub fn facts(&self, units: &Units) -> Facts {
        Facts {
            started: self.lifecycle.used_since(&units.backend),
            uncounted: self.uncounted.open,
            uncounted_until: self.uncounted.until.max(self.proxied_until(&units.proxy)),
            syn_cookies: self.syn_cookies,
            hold: None,
            no_front: self.is_silent,
            silence: self.listening.seen,
            work: self.work(),
            need: None,
        }
    }

    /// Until when a client of a Unix front may have been there. All of them go through the proxy,
    /// which exits a fixed time after the last one: this covers clients that connected and closed
    /// between two looks at the sockets.
    fn proxied_until(&self, proxy: &Unit) -> Option<Ktime> {
        let unix = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Unix(_));
        if !self.service.listen.iter().any(unix) {
            return None;
        }
        let stayed =
            u64::try_from(ondemand_core::proxy_stay::exit_idle_time(&self.service).as_nanos())
                .ok()?;
        let ended = proxy.inactive_enter?.as_nanos();
        Some(Ktime::from_nanos(ended.saturating_sub(stayed)))
    }

    /// How soon to poll again for what the kernel sends no event for.
    pub fn poll_interval(&self, units: &Units, sample: Option<&Sample>) -> Option<Duration> {
        if !units.backend.state.is_up() {
            return None;
        }
        let only_older =
            sample.is_some_and(|sample| sample.older > 0 && sample.open() == Some(sample.older));
        // Of connected sockets of UDP there is an event for none, and a look when it is idle otherwise.
        let has_connected = self.service.has_datagrams() && self.uncounted.open > 0;
        if !only_older && !has_connected && self.unix_paths().next().is_none() {
            return None;
        }
        let fraction = self
            .idle_timeout()
            .map_or(SLOWEST_POLL, |timeout| timeout / 4);
        Some(fraction.clamp(FASTEST_POLL, SLOWEST_POLL))
    }
}

/// The options, with steering only if this host and service allow it.
fn options(service: &Service, steerable: bool, dry_run: bool) -> Options {
    let mut options = Options::new(service, dry_run);
    options.leaves_out = ablation::left_out();
    options.steer = steerable && service.can_steer();
    // It is known with the first view whether they can be held.
    options.datagrams = false;
    options
}

/// Why a service cannot be managed, judging by its units.
pub fn problem(names: &UnitNames, known: &PerUnit<&Known>) -> Option<String> {
    let name = &names.backend;
    match known.backend.load_state.as_str() {
        "loaded" => {}
        "not-found" => return Some(format!("its unit {name} does not exist")),
        other => {
            return Some(format!(
                "its unit {name} cannot be used, systemd reports it as {other}"
            ));
        }
    }
    let generated = [
        (&names.proxy, known.proxy),
        (&names.lease, known.lease),
        (&names.socket, known.socket),
    ];
    for (unit, known) in generated {
        if known.load_state != "loaded" {
            return Some(format!("{unit} is missing; run `systemctl daemon-reload`"));
        }
    }
    if !known.backend.stop_when_unneeded {
        return Some(format!(
            "systemd does not stop {name} yet, which ran when it came into the configuration, or lacks its \
             drop-in 50-ondemand.conf; `ondemand apply` ends that"
        ));
    }
    // Nothing would start it again, and its front address may belong to another program.
    let socket = &known.socket.unit;
    (!socket.state.is_up() && !socket.job).then(|| {
        let socket = &names.socket;
        if known.proxy.is_skipped() {
            let proxy = &names.proxy;
            return format!(
                "a condition of {proxy} is not met, see `systemctl status {proxy}`; {socket} listens again in a moment"
            );
        }
        format!("{socket} does not listen; run `systemctl start {socket}`")
    })
}

/// Use of a service outside the kernel's counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncounted {
    /// Connections of Unix sockets, or connected sockets of UDP, at the last look.
    pub open: u64,
    /// Until when there may have been any uncounted use.
    pub until: Option<Ktime>,
    /// Whether Unix sockets were looked at before.
    polled: bool,
    /// Whether connections older than the counting were open at the last look.
    older: bool,
}

impl Uncounted {
    /// Starts now: everything before is unknown.
    pub fn begin(&mut self, now: Ktime) {
        self.until = Some(now);
    }

    /// Takes a look at the Unix sockets. It misses clients that connected and closed between two looks.
    pub fn unix(&mut self, open: u64, now: Ktime) {
        if open > 0 || open != self.open || !self.polled {
            self.until = Some(now);
        }
        self.open = open;
        self.polled = true;
    }

    /// Takes a look at the connected sockets of UDP.
    pub fn connected(&mut self, open: u64, now: Ktime) {
        if open > 0 || self.open > 0 {
            self.until = Some(now);
        }
        self.open = open;
    }

    /// Takes a failed look at the Unix sockets, or those of UDP.
    pub fn unix_unknown(&mut self, now: Ktime) {
        self.until = Some(now);
    }

    /// Takes a look at the connections that are older than the counting: their ends are not
    /// counted either.
    pub fn older(&mut self, open: u64, now: Ktime) {
        if open > 0 || self.older {
            self.until = Some(now);
        }
        self.older = open > 0;
    }
}

/// Counts since the agent started to watch the service.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Starts of the backend.
    pub starts: u64,
    /// Ends of the backend, by reason.
    pub stops: BTreeMap<StopReason, u64>,
    /// Stops that were not completed, by reason.
    pub vetoes: BTreeMap<VetoReason, u64>,
    /// Differences between the counters and the socket tables.
    pub drift: u64,
    /// Failures of the proxy.
    pub proxy_failures: u64,
    /// Restarts of the backend by systemd itself.
    pub restarts: u64,
    /// How long the last start took, as far as known.
    pub last_start: Option<Duration>,
}

impl Tally {
    /// Takes a decision of the lifecycle.
    pub fn add(&mut self, counter: Counter) {
        match counter {
            Counter::Veto(reason) => *self.vetoes.entry(reason).or_default() += 1,
            Counter::Drift => self.drift += 1,
            Counter::ProxyFailed => self.proxy_failures += 1,
            Counter::Restarted => self.restarts += 1,
        }
    }

    /// Takes an event of the backend.
    pub fn happened(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Started(start) => {
                self.starts += 1;
                self.last_start = start.took().or(self.last_start);
            }
            RunEvent::Ready { took } => self.last_start = Some(*took),
            RunEvent::Ended { reason, .. } => *self.stops.entry(*reason).or_default() += 1,
            _ => {}
        }
    }
}
