//! What the agent keeps of one service.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::sync::oneshot;

use crate::{
    bus::Reply,
    config::{Endpoint, Service},
    ktime::Ktime,
    lifecycle::{
        Counter, Lifecycle, Options,
        note::{StopReason, VetoReason},
        unit::{Unit, Units},
    },
    policy::{Facts, Reason, Rules},
    sampler::{Sample, Slot},
    systemd::Known,
};

/// The slowest poll for what the kernel sends no event for: it must not delay a stop by more
/// than a second.
const SLOWEST_POLL: Duration = Duration::from_millis(500);
/// The fastest.
const FASTEST_POLL: Duration = Duration::from_millis(50);

/// One configured service.
pub struct Watched {
    /// Its configuration.
    pub service: Service,
    /// Its units' names: backend, proxy, lease, front socket.
    pub units: [String; 4],
    /// Its place in the maps.
    pub slot: Slot,
    /// Where in the stop protocol it is.
    pub lifecycle: Lifecycle,
    /// When to look at it again.
    pub wake: Option<Ktime>,
    /// Whether the kernel was asked to tell when the last connection closes.
    pub armed: bool,
    /// What the counters do not know.
    pub uncounted: Uncounted,
    /// The question to systemd or to the veto program that waits for its answer; answers to
    /// older ones are too late.
    pub ticket: u64,
    /// Whether SYN cookies were sent lately, when a look-up was the last sign of life.
    pub syn_cookies: bool,
    /// Why it is left alone, if it is.
    pub problem: Option<String>,
    /// The unknown that was complained of last.
    pub complaint: Option<Reason>,
    /// Whether it was said that its listener cannot be steered to.
    pub refusal_said: bool,
    /// What was counted since the agent's start.
    pub tally: Tally,
    /// When a listener was seen of which the start's begin is not known yet.
    pub listens: Option<Ktime>,
    /// The begin of the start of which the first listener was seen.
    listened_since: Option<Ktime>,
    /// Proxies that wait for its listener.
    pub waiting: Vec<oneshot::Sender<()>>,
    /// Those who asked for a stop and wait for its end.
    pub asked: Vec<Reply<bool>>,
    /// Whether connections can be steered at all on this host.
    steerable: bool,
    /// The unit whose address rules steering would go past.
    rules: Option<String>,
    /// Whether that is still to be read.
    rules_unread: bool,
    dry_run: bool,
}

impl Watched {
    /// A service of which nothing is known yet.
    pub fn new(service: Service, slot: Slot, steerable: bool, dry_run: bool) -> Self {
        let lifecycle = Lifecycle::new(options(&service, steerable, dry_run));
        Self {
            units: [
                service.unit.clone(),
                service.proxy_unit(),
                service.lease_unit(),
                service.socket_unit(),
            ],
            service,
            slot,
            lifecycle,
            wake: None,
            armed: false,
            uncounted: Uncounted::default(),
            ticket: 0,
            syn_cookies: false,
            problem: None,
            complaint: None,
            refusal_said: false,
            tally: Tally::default(),
            listens: None,
            listened_since: None,
            waiting: Vec::new(),
            asked: Vec::new(),
            steerable,
            rules: None,
            // Nothing is done before its units are read, and its rules with them.
            rules_unread: false,
            dry_run,
        }
    }

    /// Takes over a changed configuration. Another unit is another life.
    pub fn reconfigure(&mut self, service: Service, slot: Slot, dry_run: bool, now: Ktime) {
        if (&service.listen, &service.backend) != (&self.service.listen, &self.service.backend) {
            self.uncounted.begin(now);
        }
        self.dry_run = dry_run;
        // They are read of those alone that ask for steering.
        self.rules_unread |= service.steer && !self.service.steer;
        let options = options(&service, self.may_steer(), dry_run);
        if service.unit != self.service.unit {
            self.lifecycle = Lifecycle::new(options);
            self.asked.clear();
            self.ticket += 1;
        } else {
            self.lifecycle.set_options(options);
        }
        self.units[0].clone_from(&service.unit);
        self.service = service;
        self.slot = slot;
    }

    /// It was up before anybody looked: what listens from now on says nothing of that start.
    pub fn found(&mut self, backend: &Unit) {
        if backend.state.is_up() && self.listened_since.is_none() && self.listens.is_none() {
            self.listened_since = backend.inactive_exit;
        }
    }

    /// How long its last start, as far as it is known, took until the first listener that was
    /// seen, once for each start.
    pub fn listened(&mut self, backend: &Unit) -> Option<Duration> {
        if self.listened_since == backend.inactive_exit {
            // A second listener of this start, or the first of one that is not known yet.
            return None;
        }
        let took = backend.since_start(self.listens?)?;
        self.listened_since = backend.inactive_exit;
        self.listens = None;
        Some(took)
    }

    /// Whether it asks for steering, and there is anything between which.
    pub fn could_steer(&self) -> bool {
        options(&self.service, true, false).steer
    }

    fn may_steer(&self) -> bool {
        self.steerable && self.rules.is_none() && !self.rules_unread
    }

    /// Takes over which unit has address rules that steering would go past. Gives whether that is
    /// to be said: it changed, and nothing else is against steering.
    pub fn set_rules(&mut self, place: Option<String>) -> bool {
        self.rules_unread = false;
        let changed = place != self.rules;
        self.rules = place;
        let options = options(&self.service, self.may_steer(), self.dry_run);
        self.lifecycle.set_options(options);
        changed && self.steerable && self.could_steer()
    }

    /// The unit whose address rules steering would go past.
    pub fn address_rules(&self) -> Option<&str> {
        self.rules.as_deref()
    }

    /// Forgets what was under way, and whatever is still to come of it.
    pub fn interrupt(&mut self) {
        self.lifecycle.interrupt();
        self.asked.clear();
        self.ticket += 1;
        self.wake = None;
    }

    /// Clients connected now. `None`: unknown.
    pub fn open(&self, sample: Option<&Sample>) -> Option<u64> {
        let counted = sample?.open()?;
        Some(counted.max(self.uncounted.open))
    }

    /// The policy's rules.
    pub fn rules(&self) -> Rules {
        if self.lifecycle.is_asked() {
            Rules::AT_ONCE
        } else {
            Rules::from(&self.service)
        }
    }

    /// Its Unix sockets.
    pub fn unix_paths(&self) -> impl Iterator<Item = &Path> {
        let endpoints = self.service.listen.iter().chain([&self.service.backend]);
        endpoints.filter_map(|endpoint| match endpoint {
            Endpoint::Unix(path) => Some(path.as_path()),
            Endpoint::Tcp(_) => None,
        })
    }

    /// What the policy is to know besides the counters.
    pub fn facts(&self, units: &Units) -> Facts {
        Facts {
            started: units.backend.active_enter,
            uncounted: self.uncounted.open,
            uncounted_until: self.uncounted.until.max(self.proxied_until(&units.proxy)),
            syn_cookies: self.syn_cookies,
            hold: None,
        }
    }

    /// Until when a client of a Unix front may have been there. All of them come through the
    /// proxy, which ends a fixed time after the last one has gone: this sees those who came
    /// and went between two looks at the sockets.
    fn proxied_until(&self, proxy: &Unit) -> Option<Ktime> {
        let unix = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Unix(_));
        if !self.service.listen.iter().any(unix) {
            return None;
        }
        let stayed = u64::try_from(crate::units::exit_idle_time(&self.service).as_nanos()).ok()?;
        let ended = proxy.inactive_enter?.as_nanos();
        Some(Ktime::from_nanos(ended.saturating_sub(stayed)))
    }

    /// How soon to look again for what the kernel sends no event for.
    pub fn poll_interval(&self, units: &Units, sample: Option<&Sample>) -> Option<Duration> {
        if !units.backend.state.is_up() {
            return None;
        }
        let only_older =
            sample.is_some_and(|sample| sample.older > 0 && sample.open() == Some(sample.older));
        if !only_older && self.unix_paths().next().is_none() {
            return None;
        }
        let fraction = self
            .service
            .idle_timeout
            .map_or(SLOWEST_POLL, |timeout| timeout / 4);
        Some(fraction.clamp(FASTEST_POLL, SLOWEST_POLL))
    }
}

/// Whether the configuration asks for steering and this host and service can have it.
fn options(service: &Service, steerable: bool, dry_run: bool) -> Options {
    let tcp = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp(_));
    let mut options = Options::new(service, dry_run);
    options.steer &= steerable && tcp(&service.backend) && service.listen.iter().any(tcp);
    options
}

/// Why a service cannot be looked after, judging by its units.
pub fn problem(service: &Service, [backend, proxy, lease, socket]: [&Known; 4]) -> Option<String> {
    let name = &service.unit;
    match backend.load_state.as_str() {
        "loaded" => {}
        "not-found" => return Some(format!("its unit {name} does not exist")),
        other => {
            return Some(format!(
                "its unit {name} cannot be used, systemd calls it {other}"
            ));
        }
    }
    let generated = [
        (service.proxy_unit(), proxy),
        (service.lease_unit(), lease),
        (service.socket_unit(), socket),
    ];
    for (unit, known) in generated {
        if known.load_state != "loaded" {
            return Some(format!("{unit} is missing; run `systemctl daemon-reload`"));
        }
    }
    if !backend.stop_when_unneeded {
        return Some(format!(
            "{name} lacks the drop-in 50-ondemand.conf; run `systemctl daemon-reload`"
        ));
    }
    // Nothing would start it again, and its front address may be somebody else's.
    (!socket.unit.state.is_up()).then(|| {
        let socket = service.socket_unit();
        format!("{socket} does not listen; run `systemctl start {socket}`")
    })
}

/// Use of a service that the kernel's counters do not show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncounted {
    /// Connections of Unix sockets at the last look.
    pub open: u64,
    /// Until when there may have been any use that was not counted.
    pub until: Option<Ktime>,
    /// Whether Unix sockets were looked at before.
    polled: bool,
    /// Whether connections older than the counting were open at the last look.
    older: bool,
}

impl Uncounted {
    /// What was before now is not known.
    pub fn begin(&mut self, now: Ktime) {
        self.until = Some(now);
    }

    /// A look at the Unix sockets. Whoever came and went between two looks is not seen.
    pub fn unix(&mut self, open: u64, now: Ktime) {
        if open > 0 || open != self.open || !self.polled {
            self.until = Some(now);
        }
        self.open = open;
        self.polled = true;
    }

    /// The Unix sockets could not be looked at.
    pub fn unix_unknown(&mut self, now: Ktime) {
        self.until = Some(now);
    }

    /// A look at the connections that are older than the counting: their packets are not
    /// counted either.
    pub fn older(&mut self, open: u64, now: Ktime) {
        if open > 0 || self.older {
            self.until = Some(now);
        }
        self.older = open > 0;
    }
}

/// What was counted since the agent's start.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Starts of the backend.
    pub starts: u64,
    /// Ends of the backend, by reason.
    pub stops: BTreeMap<StopReason, u64>,
    /// Stops that were not carried through, by reason.
    pub vetoes: BTreeMap<VetoReason, u64>,
    /// Differences between the counters and the socket tables.
    pub drift: u64,
    /// How long the last start took.
    pub last_start: Option<Duration>,
}

impl Tally {
    /// Counts.
    pub fn add(&mut self, counter: Counter) {
        match counter {
            Counter::Start(took) => {
                self.starts += 1;
                self.last_start = took.or(self.last_start);
            }
            Counter::Stop(reason) => *self.stops.entry(reason).or_default() += 1,
            Counter::Veto(reason) => *self.vetoes.entry(reason).or_default() += 1,
            Counter::Drift => self.drift += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::unit::ActiveState;

    const fn ms(ms: u64) -> Ktime {
        Ktime::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn what_is_not_counted_is_dated_by_the_looks() {
        let mut uncounted = Uncounted::default();
        uncounted.unix(0, ms(1));
        assert_eq!(
            uncounted.until,
            Some(ms(1)),
            "what was before the first look is not known"
        );
        uncounted.unix(0, ms(2));
        assert_eq!(uncounted.until, Some(ms(1)));
        uncounted.unix(2, ms(3));
        uncounted.unix(2, ms(4));
        assert_eq!(uncounted.until, Some(ms(4)));
        uncounted.unix(0, ms(5));
        uncounted.unix(0, ms(6));
        assert_eq!(uncounted.until, Some(ms(5)), "the first look that saw none");
        uncounted.older(0, ms(7));
        assert_eq!(uncounted.until, Some(ms(5)));
        uncounted.older(1, ms(8));
        uncounted.older(1, ms(9));
        uncounted.older(0, ms(10));
        uncounted.older(0, ms(11));
        assert_eq!(uncounted.until, Some(ms(10)));
        uncounted.unix_unknown(ms(12));
        assert_eq!(uncounted.until, Some(ms(12)));
    }

    #[test]
    fn what_cannot_be_steered_has_no_gate() {
        let asks = |listen| Service {
            steer: true,
            ..service(listen)
        };
        let watched = |listen, steerable| Watched::new(asks(listen), Slot(0), steerable, false);
        assert!(watched("127.0.0.1:80", true).lifecycle.has_gate());
        assert!(!watched("127.0.0.1:80", false).lifecycle.has_gate());
        assert!(!watched("/run/wiki.sock", true).lifecycle.has_gate());
        // Address rules come and go, and are said when they change something.
        let mut fenced = watched("127.0.0.1:80", true);
        let rules = Some("system.slice".to_owned());
        assert!(fenced.set_rules(rules.clone()) && !fenced.lifecycle.has_gate());
        assert!(!fenced.set_rules(rules.clone()));
        fenced.reconfigure(asks("127.0.0.1:80"), Slot(0), false, ms(1));
        assert!(!fenced.lifecycle.has_gate());
        assert!(fenced.set_rules(None) && fenced.lifecycle.has_gate());
        assert!(!watched("127.0.0.1:80", false).set_rules(rules.clone()));
        // Who did not ask for steering before is not steered until the rules are read.
        let mut asks_now = Watched::new(service("127.0.0.1:80"), Slot(0), true, false);
        assert!(!asks_now.could_steer());
        asks_now.reconfigure(asks("127.0.0.1:80"), Slot(0), false, ms(1));
        assert!(!asks_now.lifecycle.has_gate() && asks_now.could_steer());
        assert!(!asks_now.set_rules(None) && asks_now.lifecycle.has_gate());
    }

    #[test]
    fn a_start_takes_until_its_first_listener() {
        let mut watched = Watched::new(service("127.0.0.1:80"), Slot(0), true, false);
        let mut told = |listens: Option<u64>, begin| {
            watched.listens = listens.map(ms).or(watched.listens);
            let backend = Unit {
                inactive_exit: Some(ms(begin)),
                ..Unit::default()
            };
            watched.listened(&backend).map(|took| took.as_millis())
        };
        assert_eq!(told(None, 100), None);
        assert_eq!(told(Some(150), 100), Some(50));
        assert_eq!(told(Some(160), 100), None, "a second one");
        // The next start is told of after its listener: not 9.9 s after the first start.
        assert_eq!(told(Some(10_000), 100), None);
        assert_eq!(told(None, 9_950), Some(50));
        assert_eq!(told(None, 20_000), None, "nobody listens yet");
        assert_eq!(told(Some(20_030), 20_000), Some(30));
        // The last one of a run is none of the next start.
        assert_eq!(told(Some(25_000), 20_000), None);
        assert_eq!(told(None, 30_000), None);
        assert_eq!(told(Some(30_010), 30_000), Some(10));
    }

    fn service(listen: &str) -> Service {
        let listen = match listen.strip_prefix('/') {
            Some(_) => Endpoint::Unix(listen.into()),
            None => Endpoint::Tcp(listen.parse().unwrap()),
        };
        Service {
            name: "wiki".into(),
            listen: vec![listen],
            backend: Endpoint::Tcp("127.0.0.1:8080".parse().unwrap()),
            unit: "wiki.service".into(),
            idle_timeout: Some(Duration::from_secs(10)),
            min_uptime: Duration::ZERO,
            start_timeout: Duration::from_secs(90),
            steer: false,
            veto: None,
        }
    }

    #[test]
    fn a_unix_front_is_dated_by_the_end_of_its_proxy() {
        let ended = Unit {
            inactive_enter: Some(ms(60_000)),
            ..Unit::default()
        };
        let units = Units {
            proxy: ended,
            ..Units::default()
        };
        let watched = |listen| {
            Watched::new(service(listen), Slot(0), true, false)
                .facts(&units)
                .uncounted_until
        };
        // It stays 9 s after its last client.
        assert_eq!(watched("/run/wiki.sock"), Some(ms(51_000)));
        assert_eq!(watched("127.0.0.1:80"), None);
        let never = Watched::new(service("/run/wiki.sock"), Slot(0), true, false);
        assert_eq!(never.facts(&Units::default()).uncounted_until, None);
    }

    #[track_caller]
    fn check_problem(
        states: [&str; 4],
        stop_when_unneeded: bool,
        socket: ActiveState,
        expected: Option<&str>,
    ) {
        let mut known = states.map(|state| {
            let mut known = Known::default();
            known.load_state = state.into();
            known.stop_when_unneeded = stop_when_unneeded;
            known
        });
        known[3].unit.state = socket;
        let problem = problem(&service("127.0.0.1:80"), known.each_ref());
        assert_eq!(problem.as_deref(), expected);
    }

    #[test]
    fn units_that_cannot_be_looked_after() {
        let all = ["loaded"; 4];
        let up = ActiveState::Active;
        check_problem(all, true, up, None);
        check_problem(
            all,
            false,
            up,
            Some("wiki.service lacks the drop-in 50-ondemand.conf; run `systemctl daemon-reload`"),
        );
        check_problem(
            ["not-found", "loaded", "loaded", "loaded"],
            true,
            up,
            Some("its unit wiki.service does not exist"),
        );
        check_problem(
            ["masked", "loaded", "loaded", "loaded"],
            true,
            up,
            Some("its unit wiki.service cannot be used, systemd calls it masked"),
        );
        check_problem(
            ["loaded", "not-found", "loaded", "loaded"],
            true,
            up,
            Some("ondemand-wiki.service is missing; run `systemctl daemon-reload`"),
        );
        check_problem(
            ["loaded", "loaded", "not-found", "loaded"],
            true,
            up,
            Some("ondemand-wiki.target is missing; run `systemctl daemon-reload`"),
        );
        check_problem(
            ["loaded", "loaded", "loaded", "not-found"],
            true,
            ActiveState::Inactive,
            Some("ondemand-wiki.socket is missing; run `systemctl daemon-reload`"),
        );
        for state in [ActiveState::Inactive, ActiveState::Failed] {
            check_problem(
                all,
                true,
                state,
                Some(
                    "ondemand-wiki.socket does not listen; \
                     run `systemctl start ondemand-wiki.socket`",
                ),
            );
        }
    }
}
