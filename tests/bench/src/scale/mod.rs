//! `scale`: whether the counts are right with many services and many connections, and what
//! looking at them costs.

mod counts;
mod report;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use counts::Counts;
pub use report::plots;
use serde_json::Value;
use tests::{client::patience, metrics, process::Process, sandbox::Sandbox, service, wait_for};

use crate::{
    fleet::{self, Member},
    holders::Holders,
    machine::{Machine, Usage},
    pins,
    progress::Progress,
    settings::{Measured, Settings},
    stats::Series,
};

const ROUNDS: u32 = 3;
/// How often the counters of the services are read, at least.
const SAMPLES: usize = 200;
/// How often a service without connections is stopped.
const STOPS: u32 = 5;
/// The interval of scrapes.
const SCRAPES: u32 = 20;
/// Sooner a scrape gets what the one before got.
const SCRAPE_GAP: Duration = Duration::from_millis(150);
/// Maximum time until the last of the connections is closed.
const DEADLINE: Duration = Duration::from_secs(60);

/// The number of services, and of connections to all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    services: u16,
    connections: u32,
}

const fn size(services: u16, connections: u32) -> Size {
    Size {
        services,
        connections,
    }
}

/// With a thousand connections more and more services, with ten services more and more
/// connections.
const SIZES: [Size; 7] = [
    size(1, 1000),
    size(10, 1000),
    size(100, 1000),
    size(1000, 1000),
    size(10, 10),
    size(10, 10_000),
    size(10, 100_000),
];
const SHORT: [Size; 3] = [size(1, 10), size(10, 10), size(10, 5000)];
/// The number of services with which the number of connections varies.
const FEW: u16 = 10;

impl Size {
    fn name(self) -> String {
        format!(
            "{} services, {} connections",
            self.services, self.connections
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Connections and bytes that the kernel counted more or fewer than there were.
    Miscounted,
    /// Connections that ended by themselves.
    Lost,
    Sample,
    Snapshot,
    Stop,
    Scrape,
    ScrapeCpu,
    ScrapeSize,
    /// With what-if of each service, as gzip, as Prometheus asks for it.
    WhatIf,
    WhatIfCpu,
    WhatIfSize,
    Resident,
    Peak,
    MapMemory,
    Entries,
}

const KINDS: [Kind; 15] = [
    Kind::Miscounted,
    Kind::Lost,
    Kind::Sample,
    Kind::Snapshot,
    Kind::Stop,
    Kind::Scrape,
    Kind::ScrapeCpu,
    Kind::ScrapeSize,
    Kind::WhatIf,
    Kind::WhatIfCpu,
    Kind::WhatIfSize,
    Kind::Resident,
    Kind::Peak,
    Kind::MapMemory,
    Kind::Entries,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Miscounted => "miscounted",
            Self::Lost => "lost",
            Self::Sample => "sample of a service, µs",
            Self::Snapshot => "confirming snapshot, ms",
            Self::Stop => "a whole stop, ms",
            Self::Scrape => "scrape, ms",
            Self::ScrapeCpu => "agent's CPU a scrape, ms",
            Self::ScrapeSize => "its size, MB",
            Self::WhatIf => "scrape with what-if, ms",
            Self::WhatIfCpu => "agent's CPU for that, ms",
            Self::WhatIfSize => "its size, MB, with what-if",
            Self::Resident => "agent's memory, MB",
            Self::Peak => "the most it was, MB",
            Self::MapMemory => "maps, MB",
            Self::Entries => "entries in maps",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Miscounted | Self::Lost | Self::Entries => 0,
            Self::Sample
            | Self::Snapshot
            | Self::Scrape
            | Self::ScrapeCpu
            | Self::ScrapeSize
            | Self::WhatIf
            | Self::WhatIfCpu
            | Self::WhatIfSize => 2,
            Self::Stop | Self::Resident | Self::Peak | Self::MapMemory => 1,
        }
    }
}

type Values = BTreeMap<(Kind, Size), Series>;

/// Runs the bench.
///
/// # Errors
///
/// Something does not start, or this host cannot open this number of connections.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let sizes: &[Size] = if settings.is_short() { &SHORT } else { &SIZES };
    let steps = 1 + rounds * sizes.len() as u32;
    let mut progress = Progress::new("scale", steps);
    progress.step("starting a private systemd and the services");
    let most = sizes.iter().map(|size| size.services).max().unwrap_or(1);
    // The last one has no clients, and is stopped and started.
    let mut members: Vec<Member> = (0..most).map(Member::quiet).collect();
    members.push(Member {
        name: "stopped".to_owned(),
        front: 8000,
        backend: 8080,
        idle_timeout: Duration::from_secs(3600),
        first_client: "auto",
    });
    let sandbox = fleet::boot(&settings.ondemand, "test-holder", &members)?;
    fleet::watch(&sandbox, &members)?;
    fleet::systemctl(&sandbox, "start", members.iter().map(Member::unit))?;
    let usage = Usage::now(&sandbox)?;
    let mut values = Values::new();
    for round in 0..rounds {
        let mut sizes = sizes.to_vec();
        if round % 2 == 1 {
            sizes.reverse();
        }
        for size in sizes {
            progress.step(&format!("round {} of {rounds}: {}", round + 1, size.name()));
            let clients = &members[..size.services.into()];
            let stopped = &members[usize::from(most)];
            for (kind, value) in one(&sandbox, clients, stopped, size.connections)? {
                values.entry((kind, size)).or_default().0.push(value);
            }
        }
    }
    drop(progress);
    let machine = Machine::look(&sandbox, &["systemctl --version"], &usage);
    Ok(Measured {
        machine,
        report: report::report(&values, sizes, rounds),
    })
}

fn one(
    sandbox: &Sandbox,
    members: &[Member],
    stopped: &Member,
    connections: u32,
) -> Result<Vec<(Kind, f64)>> {
    let mut found = Vec::new();
    let all = || members.iter().chain([stopped]);
    watch(sandbox, all(), true)?;
    // Nobody is steered before a connection of the run was accepted.
    let proxied = |member: &Member| {
        let mut stream = TcpStream::connect(("127.0.0.1", member.front))?;
        stream.set_read_timeout(Some(service::SOON))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])
    };
    sandbox.in_network(|| all().try_for_each(proxied))??;
    wait_for("connections are steered", DEADLINE, || {
        let status = service::statuses(sandbox).ok()?;
        let steered = |service: &Value| service["route"] == "steered";
        status.values().all(steered).then_some(())
    })?;
    let before = Counts::read(sandbox, members)?;
    let holders = Holders::open(sandbox, members, connections)?;
    let held = Counts::read(sandbox, members)?;
    let mut miscounted = held.differs(&before, members, connections, true);
    // Another agent finds them counted.
    watch(sandbox, all(), true)?;
    for _ in 0..SAMPLES.div_ceil(members.len()) {
        let again = Counts::read(sandbox, members)?;
        miscounted += again.differs(&before, members, connections, true);
    }
    let stops = (0..STOPS).map(|_| stop(sandbox, stopped));
    let stops = Series(stops.collect::<Result<_>>()?);
    let journal = journal(sandbox)?;
    for (kind, what, nanos) in [
        (Kind::Sample, "sample", 1e3),
        (Kind::Snapshot, "snapshot", 1e6),
    ] {
        let times = times(&journal, what);
        ensure!(
            !times.is_empty(),
            "the agent logs no time of a {what}: {journal}"
        );
        found.push((kind, Series(times).median() / nanos));
    }
    found.push((Kind::Stop, stops.median()));
    // An agent that does not write down what it does.
    watch(sandbox, all(), false)?;
    fleet::what_if_of_each(sandbox)?;
    let each = scrapes(sandbox)?;
    watch(sandbox, all(), false)?;
    let total = scrapes(sandbox)?;
    let memory = Process::agent(sandbox)?.memory()?;
    let maps = pins::maps(sandbox)?;
    let lost = holders.close()?;
    let gone = wait_for("all connections are gone", DEADLINE, || {
        let now = Counts::read(sandbox, members).ok()?;
        (now.open() == 0).then_some(now)
    })?;
    miscounted += gone.differs(&before, members, connections, false);
    found.extend([
        (Kind::Miscounted, miscounted as f64),
        (Kind::Lost, f64::from(lost)),
        (Kind::Scrape, total.times.median()),
        (Kind::ScrapeCpu, total.cpu),
        (Kind::ScrapeSize, total.bytes as f64 / 1e6),
        (Kind::WhatIf, each.times.median()),
        (Kind::WhatIfCpu, each.cpu),
        (Kind::WhatIfSize, each.bytes as f64 / 1e6),
        (Kind::Resident, memory.resident / 1e6),
        (Kind::Peak, memory.peak / 1e6),
        (Kind::MapMemory, maps.memory / 1e6),
        (Kind::Entries, maps.entries as f64),
    ]);
    Ok(found)
}

/// Restarts the agent, which then watches these; `timing`: it logs what its looks take.
fn watch<'a>(
    sandbox: &Sandbox,
    members: impl Iterator<Item = &'a Member>,
    timing: bool,
) -> Result<()> {
    let level = if timing { "trace" } else { "off" };
    let variable = format!("ONDEMAND_LOG=warn,ondemand=info,ondemand::timing={level}\n");
    sandbox.write(fleet::ENVIRONMENT, variable)?;
    fleet::watch(sandbox, members)
}

/// Stops a service on request, and starts it again; returns the milliseconds of the stop.
fn stop(sandbox: &Sandbox, member: &Member) -> Result<f64> {
    let took = wait_for("a service is stopped on request", service::SOON, || {
        let begin = Instant::now();
        let stopped = sandbox.run(&["ondemand", "stop", &member.name]);
        let took = begin.elapsed();
        // A start that is not over yet is refused.
        stopped.is_ok().then_some(took)
    })?;
    fleet::systemctl(sandbox, "start", [member.unit()])?;
    Ok(took.as_secs_f64() * 1000.0)
}

/// The agent's log so far.
fn journal(sandbox: &Sandbox) -> Result<String> {
    let run = sandbox.property("ondemand.service", "InvocationID")?;
    sandbox.run(&["journalctl", "--sync"])?;
    let of_run = format!("_SYSTEMD_INVOCATION_ID={run}");
    sandbox.run(&["journalctl", "--output=cat", "--no-pager", &of_run])
}

/// Nanoseconds that it took, each time.
fn times(journal: &str, what: &str) -> Vec<f64> {
    let time = |line: &str| {
        let rest = line.strip_prefix(what)?.strip_prefix(": ")?;
        rest.strip_suffix(" ns")?.parse().ok()
    };
    journal.lines().filter_map(time).collect()
}

/// What scrapes took, as Prometheus asks for them.
struct Scrapes {
    /// Milliseconds of each.
    times: Series,
    /// The agent's CPU time for one, in milliseconds.
    cpu: f64,
    /// The size of an answer.
    bytes: usize,
}

fn scrapes(sandbox: &Sandbox) -> Result<Scrapes> {
    let mut bytes = 0;
    let mut scrape = || -> Result<f64> {
        thread::sleep(SCRAPE_GAP);
        let begin = Instant::now();
        let mut stream = TcpStream::connect_timeout(&metrics::address(), patience())?;
        stream.set_read_timeout(Some(patience()))?;
        stream.write_all(
            b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text\r\nAccept-Encoding: gzip\r\n\r\n",
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(answer.starts_with(b"HTTP/1.0 200 "), "no metrics");
        bytes = answer.len();
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    };
    let cpu = fleet::agent_cpu(sandbox)?;
    let times = sandbox.in_network(|| (0..SCRAPES).map(|_| scrape()).collect::<Result<_>>())?;
    let times = times.map(Series).context("scrape the agent")?;
    let cpu = (fleet::agent_cpu(sandbox)? - cpu) / f64::from(SCRAPES) / 1000.0;
    Ok(Scrapes { times, cpu, bytes })
}
