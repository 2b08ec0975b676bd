//! `crowd`: many stopped services whose first clients come within one second, with ondemand, with units that systemd
//! starts by their own sockets, and behind systemd-socket-proxyd.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tests::{pause::arrive_at, sandbox::Sandbox, wait_for};

use crate::{
    fleet::{self, Member},
    growth::init_cpu,
    machine::{Machine, Usage, cpu_microseconds},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings, alternating},
    stats::Series,
};

const ROUNDS: u32 = 2;
/// The number of services.
const SIZE: u16 = 1000;
const SHORT: u16 = 40;
/// In which all clients come.
const SPAN: Duration = Duration::from_secs(1);
/// A client waits no longer.
const PATIENCE: Duration = Duration::from_secs(180);
/// PID 1 is done with them when it has used less than [`QUIET`] in this time.
const LOOK: Duration = Duration::from_millis(300);
/// Milliseconds.
const QUIET: f64 = 3.0;
/// By then.
const DEADLINE: Duration = Duration::from_secs(120);
/// The most that the agent may use, of what PID 1 does.
const SHARE: f64 = 0.1;
/// The application.
const PROGRAM: &str = "test-holder";

/// What starts the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The kernel holds the client for a second; after that the proxy carries it.
    Held,
    Proxied,
    /// The application takes its socket from systemd.
    Native,
    /// systemd-socket-proxyd.
    Proxyd,
}

const WAYS: [Way; 4] = [Way::Held, Way::Proxied, Way::Native, Way::Proxyd];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Held => "ondemand, held",
            Self::Proxied => "ondemand, proxied",
            Self::Native => "its own socket unit",
            Self::Proxyd => "socket-proxyd",
        }
    }

    /// What the configuration says of first clients, if there is one.
    fn first_client(self) -> Option<&'static str> {
        match self {
            Self::Held => Some("held"),
            Self::Proxied => Some("proxied"),
            Self::Native | Self::Proxyd => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Unserved,
    Median,
    Slowest,
    Init,
    Agent,
    All,
}

const KINDS: [Kind; 6] = [
    Kind::Unserved,
    Kind::Median,
    Kind::Slowest,
    Kind::Init,
    Kind::Agent,
    Kind::All,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Unserved => "clients without an answer",
            Self::Median => "a client waits, ms",
            Self::Slowest => "the slowest waits, ms",
            Self::Init => "PID 1's CPU, ms",
            Self::Agent => "the agent's CPU, ms",
            Self::All => "CPU of all, ms",
        }
    }
}

type Values = BTreeMap<(Kind, Way), Series>;

/// Runs the bench.
///
/// # Errors
///
/// Something does not start.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let size = if settings.is_short() { SHORT } else { SIZE };
    let mut progress = Progress::new("crowd", rounds * 2 * WAYS.len() as u32);
    let mut values = Values::new();
    let mut machine = None;
    for round in 1..=rounds {
        for way in alternating(WAYS, round - 1) {
            let name = way.name();
            progress.step(&format!(
                "round {round} of {rounds}: {size} services, {name}"
            ));
            let mut members: Vec<Member> = (0..size).map(Member::quiet).collect();
            let sandbox = set_up(settings, way, &mut members)?;
            let usage = Usage::now(&sandbox)?;
            progress.step(&format!("round {round} of {rounds}: their clients, {name}"));
            for (kind, value) in one(&sandbox, way, &members)? {
                values.entry((kind, way)).or_default().0.push(value);
            }
            let programs = ["systemctl --version"];
            machine = machine.or_else(|| Some(Machine::look(&sandbox, &programs, &usage)));
        }
    }
    drop(progress);
    Ok(Measured {
        machine: machine.context("no round")?,
        report: report(&values, size, rounds),
    })
}

fn set_up(settings: &Settings, way: Way, members: &mut [Member]) -> Result<Sandbox> {
    if let Some(first_client) = way.first_client() {
        for member in &mut *members {
            member.first_client = first_client;
        }
        let members = &*members;
        let sandbox = fleet::boot(&settings.ondemand, PROGRAM, members)?;
        fleet::watch(&sandbox, members)?;
        return Ok(sandbox);
    }
    let sandbox = Sandbox::boot()?;
    sandbox.install(&tests::built(PROGRAM)?, &format!("/usr/bin/{PROGRAM}"))?;
    let write =
        |file: &str, text: String| sandbox.write(&format!("/etc/systemd/system/{file}"), text);
    for member in &*members {
        let (name, unit) = (&member.name, member.unit());
        let (front, backend) = (member.front, member.backend);
        let starts = match way {
            Way::Native => unit.clone(),
            _ => format!("{name}.service"),
        };
        write(
            &format!("{name}.socket"),
            format!(
                "[Socket]\nListenStream=127.0.0.1:{front}\nBacklog=4096\nTriggerLimitIntervalSec=0\nService={starts}\n"
            ),
        )?;
        let listens = match way {
            Way::Native => "--activated".to_owned(),
            _ => format!("--listen 127.0.0.1:{backend}"),
        };
        write(
            &unit,
            format!("[Service]\nExecStart=/usr/bin/{PROGRAM} {listens}\nLimitNOFILE=1000000\n"),
        )?;
        if way == Way::Proxyd {
            // It must not connect before the application listens.
            let waits =
                format!("until ss -Hltn sport = :{backend} | grep -q .; do sleep 0.1; done");
            let drop_in = format!("[Service]\nExecStartPost=/bin/sh -c '{waits}'\n");
            write(&format!("{unit}.d/waits.conf"), drop_in)?;
            write(
                &starts,
                format!(
                    "[Unit]\nRequires={unit}\nAfter={unit}\nStartLimitIntervalSec=0\n\
                     [Service]\nExecStart=/lib/systemd/systemd-socket-proxyd 127.0.0.1:{backend}\n"
                ),
            )?;
        }
    }
    sandbox.run(&["systemctl", "daemon-reload"])?;
    let sockets = members
        .iter()
        .map(|member| format!("{}.socket", member.name));
    fleet::systemctl(&sandbox, "start", sockets)?;
    Ok(sandbox)
}

/// Milliseconds of CPU time of PID 1, the agent, and all.
fn used(sandbox: &Sandbox, way: Way) -> Result<[f64; 3]> {
    let agent = match way.first_client() {
        Some(_) => fleet::agent_cpu(sandbox)? / 1000.0,
        None => 0.0,
    };
    let all = cpu_microseconds(sandbox, "")? / 1000.0;
    Ok([init_cpu(sandbox)?, agent, all])
}

/// Waits until PID 1 has no more to do.
fn settle(sandbox: &Sandbox) -> Result<()> {
    wait_for("PID 1 has nothing to do", DEADLINE, || {
        let before = init_cpu(sandbox).ok()?;
        thread::sleep(LOOK);
        (init_cpu(sandbox).ok()? - before < QUIET).then_some(())
    })
}

fn one(sandbox: &Sandbox, way: Way, members: &[Member]) -> Result<Vec<(Kind, f64)>> {
    settle(sandbox)?;
    let before = used(sandbox, way)?;
    let waits = sandbox.in_network(|| clients(members))?;
    settle(sandbox)?;
    let after = used(sandbox, way)?;
    let served: Vec<f64> = waits.iter().flatten().copied().collect();
    let unserved = waits.len() - served.len();
    let slowest = served.iter().copied().fold(f64::NAN, f64::max);
    let mut found = vec![
        (Kind::Unserved, unserved as f64),
        (Kind::Median, Series(served).median()),
        (Kind::Slowest, slowest),
    ];
    let kinds = [Kind::Init, Kind::Agent, Kind::All];
    let used = kinds.into_iter().zip(before.into_iter().zip(after));
    found.extend(used.map(|(kind, (before, after))| (kind, after - before)));
    Ok(found)
}

/// One client of each service, evenly in [`SPAN`]: the milliseconds that each waits for its answer.
fn clients(members: &[Member]) -> Vec<Option<f64>> {
    let gap = SPAN / members.len() as u32;
    thread::scope(|scope| {
        let mut next = Instant::now();
        let clients: Vec<_> = members
            .iter()
            .map(|member| {
                arrive_at(next);
                next += gap;
                let address = SocketAddr::from(([127, 0, 0, 1], member.front));
                scope.spawn(move || ask(address))
            })
            .collect();
        let waits = clients
            .into_iter()
            .map(|client| client.join().ok().flatten());
        waits.collect()
    })
}

fn ask(address: SocketAddr) -> Option<f64> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"x").ok()?;
    stream.read_exact(&mut [0]).ok()?;
    Some(begin.elapsed().as_secs_f64() * 1000.0)
}

fn report(values: &Values, size: u16, rounds: u32) -> Report {
    let series = |kind, way| values.get(&(kind, way)).cloned().unwrap_or_default();
    let mut table = Table::default();
    let head = std::iter::once("").chain(WAYS.iter().map(|way| way.name()));
    table.rows.push(head.map(str::to_owned).collect());
    for kind in KINDS {
        let value = |way| match (kind, way) {
            (Kind::Agent, Way::Native | Way::Proxyd) => "-".to_owned(),
            _ => format!("{:.0}", series(kind, way).median()),
        };
        let row = std::iter::once(kind.name().to_owned()).chain(WAYS.map(value));
        table.rows.push(row.collect());
    }
    let mut targets = Vec::new();
    for way in WAYS.into_iter().filter(|way| way.first_client().is_some()) {
        let (name, of) = (way.name(), |kind| series(kind, way));
        targets.extend([
            Target {
                what: format!("{name}: clients without an answer"),
                series: of(Kind::Unserved),
                limit: Limit::AtMost(0.0),
                digits: 0,
            },
            Target {
                what: format!("{name}: the agent's CPU / PID 1's"),
                series: of(Kind::Agent).ratio_to(&of(Kind::Init)),
                limit: Limit::AtMost(SHARE),
                digits: 2,
            },
            Target {
                what: format!("{name} / {}: the slowest waits", Way::Proxyd.name()),
                series: of(Kind::Slowest).ratio_to(&series(Kind::Slowest, Way::Proxyd)),
                limit: Limit::AtMost(1.0),
                digits: 2,
            },
        ]);
    }
    let figures = values.iter().map(|((kind, way), series)| Figure {
        what: kind.name().to_owned(),
        of: way.name().to_owned(),
        series: series.clone(),
    });
    Report {
        name: "crowd",
        title: "the first clients of many services within a second",
        method: format!(
            "Medians of {rounds} rounds, in alternating order, each in a private systemd of its own. {size} services \
             are stopped; each gets one client, evenly in {} s, which sends a byte and waits for it. The application \
             is the same small program; with its own socket unit it takes the socket from systemd, behind \
             socket-proxyd an ExecStartPost= waits until it listens, as the proxy needs it. CPU time is from the first \
             client until all are served and PID 1 has nothing more to do; that of all includes the applications' \
             and the proxies' starts.",
            SPAN.as_secs()
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}
