//! With steering on, no request is lost however often the service is stopped: random arrivals,
//! and arrivals aimed at the very moment of the stop, at backends with odd habits.
//!
//! The same load is lost where a step of the protocol is left out, which shows that this test
//! would see it.
//!
//! `ONDEMAND_RACE_REQUESTS` is another number of requests.

use std::{
    collections::BTreeMap,
    env,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    built,
    client::{self, Loss, Random, Request},
    pause::{arrive_at, think},
    require_long,
    sandbox::Sandbox,
    service::{self, status},
    skip, wait_closely, wait_for,
};

use crate::require_sandbox;

const REQUESTS: usize = 250;
/// With [`skip::LONG`].
const LONG_REQUESTS: usize = 20_000;
/// By when a request must be lost where a step is left out.
const UNTIL_LOST: usize = 10_000;
/// A load that takes longer does not end. It takes a minute or two.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// The same of the clients of one service: a lost one waits up to half a minute for each of its
/// steps.
const GONE: Duration = Duration::from_secs(5 * 60);
/// About the idle timeout, so that a third of the gaps end in a stop.
const MEAN_GAP: Duration = Duration::from_millis(170);
/// When aimed clients connect, in milliseconds before and after the idle timeout: around the
/// agent's decision, around its effect in PID 1, and mostly after it.
const AIMS: [(u64, u64); 3] = [(15, 25), (0, 70), (0, 400)];

/// The clients of each round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// The number of clients at random times, and the mean time between two.
    pub(crate) random: &'static [(u32, Duration)],
    /// The number of aimed groups of one to three clients after these.
    pub(crate) aimed: usize,
}

const ROUNDS: Rounds = Rounds {
    random: &[(12, MEAN_GAP)],
    aimed: 15,
};

/// Name, options of the backend, idle timeout in milliseconds.
pub(crate) const SERVICES: [(&str, &str, u64); 6] = [
    ("plain", "", 200),
    ("workers", "--workers 4", 210),
    ("deferred", "--defer-accept 1", 220),
    ("slow-stop", "--stop-delay-ms 150", 230),
    ("slow-accept", "--accept-delay-ms 100 --notify", 240),
    ("late-acks", "--late-ack 25", 250),
];

/// Where the clients arrive, and the applications listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// At the front sockets, and elsewhere.
    Moved,
    /// At the same addresses. Every other service has its clients over IPv6, and the first one takes MPTCP.
    Own,
    /// The same, in sockets that systemd holds.
    Native,
}

impl Layout {
    /// Of the service with this number.
    fn address(self, index: usize) -> SocketAddr {
        let port = 8000 + index as u16;
        match self {
            Self::Own | Self::Native if index % 2 == 1 => (Ipv6Addr::LOCALHOST, port).into(),
            _ => (Ipv4Addr::LOCALHOST, port).into(),
        }
    }
}

/// One service under load, and the results of its clients.
pub(crate) struct Target {
    address: SocketAddr,
    idle: Duration,
    rounds: Rounds,
    in_flight: AtomicUsize,
    last_done: Mutex<Instant>,
    pub(crate) outcome: Mutex<Outcome>,
}

#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) connections: u64,
    pub(crate) latencies: Vec<Duration>,
    /// By the kind of client and how it was lost.
    pub(crate) lost: BTreeMap<(&'static str, Loss), u32>,
}

impl Target {
    /// The load of the service with this number, which becomes idle after this number of milliseconds.
    pub(crate) fn new(index: usize, idle: u64, rounds: Rounds) -> Self {
        Self::at(Layout::Moved.address(index), idle, rounds)
    }

    fn at(address: SocketAddr, idle: u64, rounds: Rounds) -> Self {
        Self {
            address,
            idle: Duration::from_millis(idle),
            rounds,
            in_flight: AtomicUsize::new(0),
            last_done: Mutex::new(Instant::now()),
            outcome: Mutex::default(),
        }
    }

    pub(crate) fn requests(&self) -> usize {
        self.outcome.lock().unwrap().latencies.len()
    }

    /// One client: it closes, keeps the connection for a while, or sends its request late.
    fn client(&self, mut random: Random) {
        let pause = random.between(Duration::from_millis(50), Duration::from_millis(300));
        let (kind, asks, slow) = match random.unit() {
            0.0..0.55 => ("close", 1, None),
            0.55..0.80 => ("keep-alive", 2 + usize::from(random.unit() < 0.5), None),
            _ => ("slow", 1, Some(pause)),
        };
        let result = self.ask(asks, slow, &mut random);
        // Before the client counts as gone: an aimed one reads it when no client is left.
        *self.last_done.lock().unwrap() = Instant::now();
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        let mut outcome = self.outcome.lock().unwrap();
        outcome.connections += 1;
        match result {
            Ok(latencies) => outcome.latencies.extend(latencies),
            Err(loss) => *outcome.lost.entry((kind, loss)).or_default() += 1,
        }
    }

    /// The time of each answer, without what the client idled itself.
    fn ask(
        &self,
        asks: usize,
        slow: Option<Duration>,
        random: &mut Random,
    ) -> Result<Vec<Duration>, Loss> {
        let start = Instant::now();
        let mut stream = client::connect(self.address)?;
        let connected = start.elapsed();
        if let Some(pause) = slow {
            think(pause);
        }
        let mut latencies = Vec::new();
        for left in (0..asks).rev() {
            let request = Request {
                keep_alive: left > 0,
                ..Request::default()
            };
            let answer = client::ask(&mut stream, request)?;
            let connecting = if latencies.is_empty() {
                connected
            } else {
                Duration::ZERO
            };
            latencies.push(connecting + answer.took);
            if left > 0 {
                think(random.between(Duration::ZERO, Duration::from_millis(30)));
            }
        }
        Ok(latencies)
    }

    /// Waits until no client is left; returns when the last one closed.
    fn wait_quiet(&self) -> Instant {
        let is_quiet = || (self.in_flight.load(Ordering::Acquire) == 0).then_some(());
        wait_closely(
            "all clients are gone",
            GONE,
            Duration::from_millis(1),
            is_quiet,
        )
        .unwrap();
        *self.last_done.lock().unwrap()
    }

    /// Rounds of random arrivals, then of aimed ones, until this number of requests is reached, or until
    /// it is ended.
    pub(crate) fn load(&self, requests: usize, seed: u64, end: &AtomicBool) {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut clients = 0;
        thread::scope(|scope| {
            let mut arrive = || {
                clients += 1;
                let own = Random::new((seed << 32 | clients).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                self.in_flight.fetch_add(1, Ordering::AcqRel);
                scope.spawn(move || self.client(own));
            };
            while self.requests() < requests && !end.load(Ordering::Relaxed) {
                let mut next = Instant::now();
                for (count, gap) in self.rounds.random {
                    for _ in 0..*count {
                        next += random.gap(*gap);
                        arrive_at(next);
                        arrive();
                    }
                }
                for (before, after) in AIMS.into_iter().cycle().take(self.rounds.aimed) {
                    let early = self.idle - Duration::from_millis(before);
                    let late = self.idle + Duration::from_millis(after);
                    let at = self.wait_quiet() + random.between(early, late);
                    arrive_at(at);
                    for _ in 0..1 + (random.unit() * 3.0) as u32 {
                        arrive();
                    }
                }
            }
        });
    }
}

/// A sandbox with all the services. `without`: the step that its agent leaves out.
fn set_up(layout: Layout, without: Option<&str>) -> Sandbox {
    let sandbox = service::installed().unwrap();
    if let Some(step) = without {
        sandbox
            .install(&built("ondemand-ablated").unwrap(), "/usr/bin/ondemand")
            .unwrap();
        let environment = format!("[Service]\nEnvironment=ONDEMAND_LEAVES_OUT={step}\n");
        let drop_in = "/etc/systemd/system/ondemand.service.d/ablation.conf";
        sandbox.write(drop_in, environment).unwrap();
    }
    let text = match layout {
        Layout::Moved => write_services(&sandbox),
        Layout::Own => write_own(&sandbox),
        Layout::Native => write_native(&sandbox),
    };
    service::write_config(&sandbox, &text).unwrap();
    service::reload(&sandbox, &SERVICES.map(|(name, _, _)| name)).unwrap();
    if layout == Layout::Native {
        for (name, _, _) in SERVICES {
            let socket = format!("app-{name}.socket");
            sandbox.run(&["systemctl", "start", &socket]).unwrap();
        }
    }
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// Writes the units of all the services; returns their configuration.
pub(crate) fn write_services(sandbox: &Sandbox) -> String {
    let mut text = String::new();
    for (index, (name, options, idle)) in SERVICES.iter().enumerate() {
        let (front, back) = (8000 + index, 8100 + index);
        let unit = format!("app-{name}.service");
        service::write_backend(
            sandbox,
            &unit,
            &format!("--listen 127.0.0.1:{back} {options}"),
        )
        .unwrap();
        text += &format!(
            "[service.{name}]\nlisten = [\"127.0.0.1:{front}\"]\n\
             backend = \"127.0.0.1:{back}\"\nunit = \"{unit}\"\nidle_timeout = \"{idle}ms\"\n\
             min_uptime = \"0s\"\nstart_timeout = \"30s\"\nsteer = true\n\n"
        );
    }
    text
}

/// The same for applications that keep their addresses.
fn write_own(sandbox: &Sandbox) -> String {
    let mut text = String::new();
    for (index, (name, options, idle)) in SERVICES.iter().enumerate() {
        let port = 8000 + index;
        let mptcp = if index == 0 { "--mptcp" } else { "" };
        let unit = format!("app-{name}.service");
        service::write_backend(
            sandbox,
            &unit,
            &format!("--listen [::]:{port} {options} {mptcp}"),
        )
        .unwrap();
        text += &format!(
            "[service.{name}]\nlisten = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\nunit = \"{unit}\"\n\
             idle_timeout = \"{idle}ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"30s\"\n\n"
        );
    }
    text
}

/// The same for applications with sockets of their own.
fn write_native(sandbox: &Sandbox) -> String {
    let mut text = String::new();
    for (index, (name, options, idle)) in SERVICES.iter().enumerate() {
        let port = 8000 + index;
        let unit = format!("app-{name}.service");
        // The packets that this one loses it loses at a listener of its own.
        let options = if *name == "late-acks" { "" } else { options };
        service::write_backend(sandbox, &unit, &format!("--inherited {options}")).unwrap();
        service::write_own_socket(sandbox, &unit, &format!("[::]:{port}")).unwrap();
        text += &format!(
            "[service.{name}]\nlisten = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\nunit = \"{unit}\"\n\
             activation = \"native\"\nidle_timeout = \"{idle}ms\"\nmin_uptime = \"0s\"\n\
             start_timeout = \"30s\"\n\n"
        );
    }
    text
}

/// The value below which this number of thousandths of the sorted values lie.
fn quantile(sorted: &[Duration], thousandths: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * thousandths / 1000)
        .copied()
        .unwrap_or_default()
}

pub(crate) fn describe(mut latencies: Vec<Duration>) -> String {
    latencies.sort();
    let [p50, p99, p999] = [500, 990, 999].map(|part| quantile(&latencies, part));
    format!("p50 {p50:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?}")
}

/// The results of the load.
#[derive(Default)]
struct Race {
    requests: usize,
    stops: u64,
    steered: u64,
    /// Clients that were held, and met the application.
    held: u64,
    drift: u64,
    vetoes: BTreeMap<String, u64>,
    latencies: Vec<Duration>,
    /// By service, kind of client and how it was lost.
    lost: BTreeMap<(&'static str, &'static str, Loss), u32>,
    /// The slowest first answer of a service that was down, when nothing else was going on.
    cold_start: Duration,
}

/// Loads every service with its part of the requests. `until_lost`: ends as soon as one is lost.
fn race(sandbox: &Sandbox, layout: Layout, total: usize, until_lost: bool) -> Race {
    race_beside(sandbox, layout, total, until_lost, |_| {})
}

/// The same beside something else, which ends when the load does.
fn race_beside(
    sandbox: &Sandbox,
    layout: Layout,
    total: usize,
    until_lost: bool,
    beside: impl Fn(&AtomicBool) + Sync,
) -> Race {
    let start = Instant::now();
    let targets: Vec<Target> = SERVICES
        .iter()
        .enumerate()
        .map(|(index, (_, _, idle))| Target::at(layout.address(index), *idle, ROUNDS))
        .collect();
    let end = AtomicBool::new(false);
    let over = AtomicBool::new(false);
    let load = || {
        sandbox
            .in_network(|| {
                let first = |target: &Target| client::get(target.address, Request::default());
                let cold = targets.iter().map(|target| first(target).unwrap().took);
                let cold = cold.max().unwrap_or_default();
                thread::scope(|scope| {
                    let loads: Vec<_> = (1..)
                        .zip(&targets)
                        .map(|(seed, target)| {
                            let part = total.div_ceil(SERVICES.len());
                            let end = &end;
                            scope.spawn(move || target.load(part, seed, end))
                        })
                        .collect();
                    if until_lost {
                        let what = "a request is lost, or all are made";
                        let is_lost =
                            |target: &Target| !target.outcome.lock().unwrap().lost.is_empty();
                        let over = wait_closely(what, LONGEST, Duration::from_millis(50), || {
                            let done = loads.iter().all(|load| load.is_finished());
                            (done || targets.iter().any(is_lost)).then_some(())
                        });
                        end.store(true, Ordering::Relaxed);
                        over.unwrap();
                    }
                });
                cold
            })
            .unwrap()
    };
    let cold_start = thread::scope(|scope| {
        scope.spawn(|| beside(&over));
        let cold_start = load();
        over.store(true, Ordering::Relaxed);
        cold_start
    });
    let mut race = Race {
        cold_start,
        ..Race::default()
    };
    for (target, (name, _, _)) in targets.into_iter().zip(SERVICES) {
        race.add(name, &status(sandbox, name).unwrap(), target);
    }
    eprintln!(
        "{} requests, {} stops, {} steered, {} held, vetoes {:?}, drift {}, lost {:?}, in {:.0?}; {}; \
         the slowest cold start was {:.1?}",
        race.requests,
        race.stops,
        race.steered,
        race.held,
        race.vetoes,
        race.drift,
        race.lost,
        start.elapsed(),
        describe(race.latencies.clone()),
        race.cold_start,
    );
    race
}

impl Race {
    fn add(&mut self, name: &'static str, status: &Value, target: Target) {
        let count = |value: &Value| value.as_u64().unwrap();
        let outcome = target.outcome.into_inner().unwrap();
        self.stops += count(&status["stops_by_reason"]["idle"]);
        self.steered += count(&status["steered"]["accepted"]);
        self.held += count(&status["held_clients"]["to_application"]);
        self.drift += count(&status["count_drift"]);
        for (reason, times) in status["vetoes_by_reason"].as_object().unwrap() {
            *self.vetoes.entry(reason.clone()).or_default() += count(times);
        }
        self.requests += outcome.latencies.len();
        eprintln!(
            "{name}: {} requests, {} stops, {}/{} connections steered, vetoes {}, lost {:?}, {}",
            outcome.latencies.len(),
            status["stops_by_reason"]["idle"],
            status["steered"]["accepted"],
            outcome.connections,
            status["vetoes"],
            outcome.lost,
            describe(outcome.latencies.clone()),
        );
        self.latencies.extend(outcome.latencies);
        if outcome.lost.is_empty() {
            let accepted = count(&status["accepted_connections"]);
            // With the one of its cold start.
            assert_eq!(accepted, outcome.connections + 1, "{name}: {status}");
        }
        for ((kind, loss), times) in outcome.lost {
            self.lost.insert((name, kind, loss), times);
        }
    }
}

/// How many are made: this many in the short suite.
fn requests(short: usize) -> usize {
    let usual = match skip::is_long() {
        true => LONG_REQUESTS,
        false => short,
    };
    env::var("ONDEMAND_RACE_REQUESTS").map_or(usual, |text| text.parse().unwrap())
}

#[track_caller]
fn check_loses_none(layout: Layout) {
    let total = requests(REQUESTS);
    let sandbox = set_up(layout, None);
    let race = race(&sandbox, layout, total, false);
    assert!(race.lost.is_empty(), "lost: {:?}", race.lost);
    assert_eq!(race.drift, 0);
    assert!(race.stops >= total as u64 / 20, "only {} stops", race.stops);
    assert!(
        race.steered >= total as u64 / 10,
        "only {} steered",
        race.steered
    );
    // Most of the starts are for one; if systemd holds the listener, clients are held in stops only.
    let held = match layout {
        Layout::Native => 1,
        _ => race.stops / 4,
    };
    assert!(race.held >= held, "only {} held", race.held);
}

#[test]
fn steered_requests_are_not_lost() {
    require_sandbox!();
    check_loses_none(Layout::Moved);
}

#[test]
fn requests_at_own_addresses_are_not_lost() {
    require_sandbox!();
    check_loses_none(Layout::Own);
}

/// In the hands of an agent that is killed may be clients that are held, and a stop at any of its steps.
#[test]
fn requests_at_own_addresses_are_not_lost_while_agents_are_killed() {
    require_sandbox!();
    let total = requests(REQUESTS / 4);
    let sandbox = set_up(Layout::Own, None);
    let killed = AtomicUsize::new(0);
    let kill = |over: &AtomicBool| {
        let random = &mut Random::new(11);
        while !over.load(Ordering::Relaxed) {
            think(random.between(Duration::from_millis(300), Duration::from_secs(4)));
            let words = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
            let is_killed = sandbox.run(&words).is_ok();
            killed.fetch_add(is_killed.into(), Ordering::Relaxed);
        }
        let answers = || status(&sandbox, SERVICES[0].0).ok();
        wait_for("the next agent answers", service::SOON, answers).unwrap();
    };
    let race = race_beside(&sandbox, Layout::Own, total, false, kill);
    let killed = killed.into_inner();
    eprintln!("{killed} agents were killed");
    assert!(race.lost.is_empty(), "lost: {:?}", race.lost);
    assert_eq!(race.drift, 0);
    assert!(
        killed >= total.div_ceil(100),
        "only {killed} agents were killed"
    );
}

#[test]
fn requests_in_sockets_that_systemd_holds_are_not_lost() {
    require_sandbox!();
    require_long!("native_activation has it with fewer clients");
    check_loses_none(Layout::Native);
}

#[test]
fn without_the_gate_applications_with_sockets_of_systemd_lose_requests() {
    require_sandbox!();
    require_long!("the same step with a front address is left out in the short suite");
    check_loses(Layout::Native, "gate");
}

#[track_caller]
fn check_loses(layout: Layout, step: &str) {
    let sandbox = set_up(layout, Some(step));
    let race = race(&sandbox, layout, UNTIL_LOST, true);
    eprintln!(
        "{layout:?} without the {step}: lost {:?} within {} requests and {} stops",
        race.lost, race.requests, race.stops
    );
    assert!(!race.lost.is_empty(), "the load does not show the loss");
}

#[test]
fn without_the_gate_the_same_load_is_lost() {
    require_sandbox!();
    require_long!("the model leaves the gate out, too");
    check_loses(Layout::Moved, "gate");
}

#[test]
fn without_the_gate_own_addresses_lose_requests() {
    require_sandbox!();
    require_long!("the same step with a front address is left out in the short suite");
    check_loses(Layout::Own, "gate");
}

#[test]
fn without_the_half_open_check_the_same_load_is_lost() {
    require_sandbox!();
    require_long!("the model of the stop protocol shows the same, in no time");
    check_loses(Layout::Moved, "half-open-check");
}
