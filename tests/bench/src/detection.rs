//! `detection`: the cost of detecting that a service is unused, and the delay.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests::{
    client::{self, Loss, Request, monotonic_nanos},
    sandbox::Sandbox,
    service, wait_for,
};

use crate::{
    checker::{self, Script},
    fleet::{self, Member},
    machine::{Machine, Usage},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings, alternating},
    stats::Series,
};

const ROUNDS: u32 = 3;
/// How often the checker script must look to be as fast as we want to be.
const REACTION: Duration = Duration::from_millis(250);
/// The time for which the agent is measured: its watchdog is fed about once in it.
const WINDOW: Duration = Duration::from_secs(15);
/// The idle timeout of the service that is stopped.
const TIMEOUT: Duration = Duration::from_secs(1);
/// From one request to the next of a busy service.
const BUSY_GAP: Duration = Duration::from_millis(500);
/// A checker script that watches a thousand services may take a minute for each look.
const STOP_DEADLINE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Ondemand,
    Each,
    All,
}

const WAYS: [Way; 3] = [Way::Ondemand, Way::Each, Way::All];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Ondemand => "ondemand",
            Self::Each => "a timer and script each",
            Self::All => "one script for all",
        }
    }

    fn script(self) -> Option<Script> {
        match self {
            Self::Ondemand => None,
            Self::Each => Some(Script::Each),
            Self::All => Some(Script::All),
        }
    }
}

/// The measurements with this number of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    IdleCpu(u16),
    IdleProcesses(u16),
    BusyCpu(u16),
    BusyProcesses(u16),
    Late(u16),
}

impl Kind {
    fn name(self) -> String {
        match self {
            Self::IdleCpu(count) => format!("{count} idle: CPU s an hour"),
            Self::IdleProcesses(count) => format!("{count} idle: processes an hour"),
            Self::BusyCpu(count) => format!("{count} busy: CPU s an hour"),
            Self::BusyProcesses(count) => format!("{count} busy: processes an hour"),
            Self::Late(count) => format!("{count} watched: stopped too late by, ms"),
        }
    }
}

type Values = BTreeMap<(Kind, Way), Series>;

/// How many services, and for how long.
struct Size {
    idle: &'static [u16],
    busy: &'static [u16],
    window: Duration,
}

/// Runs it.
///
/// # Errors
///
/// Something does not start, or nothing is stopped.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let size = if settings.is_short() {
        Size {
            idle: &[1, 20],
            busy: &[5],
            window: WINDOW / 5,
        }
    } else {
        Size {
            idle: &[1, 100, 1000],
            busy: &[1, 10, 100],
            window: WINDOW,
        }
    };
    let steps = rounds as usize * (2 * size.idle.len() + size.busy.len()) * WAYS.len();
    let mut progress = Progress::new("detection", steps as u32);
    progress.step("starting a private systemd and the services");
    let most = size.idle.iter().copied().max().unwrap_or(1);
    let mut members: Vec<Member> = (0..most).map(Member::quiet).collect();
    members.insert(
        0,
        Member {
            name: "stopped".to_owned(),
            front: 8000,
            backend: 8080,
            idle_timeout: TIMEOUT,
            first_client: "auto",
        },
    );
    let sandbox = fleet::boot(&settings.ondemand, "test-backend", &members)?;
    checker::install(&sandbox)?;
    fleet::watch(&sandbox, &members[..1])?;
    let quiet = members[1..].iter().map(Member::unit);
    fleet::systemctl(&sandbox, "start", quiet)?;
    let usage = Usage::now(&sandbox)?;
    let mut values = Values::new();
    for round in 0..rounds {
        for way in alternating(WAYS, round) {
            let mut step = |what: &str, count: u16| {
                let count = format!("{count} {what}");
                progress.step(&format!(
                    "round {} of {rounds}: {}, {count}",
                    round + 1,
                    way.name()
                ));
            };
            let mut add = |kind, value| values.entry((kind, way)).or_default().0.push(value);
            for count in size.idle.iter().copied() {
                step("idle", count);
                let (cpu, processes) =
                    idle(&sandbox, way, &members[1..=count.into()], size.window)?;
                add(Kind::IdleCpu(count), cpu);
                add(Kind::IdleProcesses(count), processes);
                step("watched", count);
                add(
                    Kind::Late(count),
                    late(&sandbox, way, &members[..=count.into()])?,
                );
            }
            for count in size.busy.iter().copied().filter(|count| *count <= most) {
                step("busy", count);
                let (cpu, processes) =
                    busy(&sandbox, way, &members[1..=count.into()], size.window)?;
                add(Kind::BusyCpu(count), cpu);
                add(Kind::BusyProcesses(count), processes);
            }
        }
    }
    drop(progress);
    let machine = Machine::look(&sandbox, &["systemctl --version"], &usage);
    Ok(Measured {
        machine,
        report: report(&values, &size, rounds),
    })
}

/// What a changed configuration has begun is over after that time: the questions to polkit, its threads
/// and the agent's. They belong to the change.
const RELOADED: Duration = Duration::from_secs(3);

/// CPU seconds and processes per hour without clients.
fn idle(sandbox: &Sandbox, way: Way, members: &[Member], window: Duration) -> Result<(f64, f64)> {
    match way.script() {
        Some(script) => ticks(sandbox, script, members, || 0),
        None => {
            fleet::watch(sandbox, members)?;
            thread::sleep(RELOADED);
            agent(sandbox, window, || 0)
        }
    }
}

/// The same while each of them has a client twice a second.
fn busy(sandbox: &Sandbox, way: Way, members: &[Member], window: Duration) -> Result<(f64, f64)> {
    if way == Way::Ondemand {
        fleet::watch(sandbox, members)?;
        thread::sleep(RELOADED);
    }
    let (end, clients) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let load = scope.spawn(|| sandbox.in_network(|| load(members, &end, &clients)));
        // The backend's threads count as processes too, and there is one for each client.
        let threads = || clients.load(Ordering::SeqCst);
        let measured = match way.script() {
            Some(script) => ticks(sandbox, script, members, threads),
            None => agent(sandbox, window, threads),
        };
        end.store(true, Ordering::SeqCst);
        match load.join() {
            Ok(loaded) => loaded??,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        measured
    })
}

/// One request after the other, evenly over the services.
fn load(members: &[Member], end: &AtomicBool, clients: &AtomicU64) -> Result<()> {
    let gap = BUSY_GAP / members.len() as u32;
    let mut next = Instant::now();
    for member in members.iter().cycle() {
        if end.load(Ordering::SeqCst) {
            break;
        }
        next += gap;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let address = SocketAddr::from(([127, 0, 0, 1], member.front));
        client::get(address, Request::default())
            .map_err(|loss| anyhow::anyhow!("a request to {} was lost: {loss}", member.name))?;
        clients.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn agent(sandbox: &Sandbox, window: Duration, threads: impl Fn() -> u64) -> Result<(f64, f64)> {
    let scale = 3600.0 / window.as_secs_f64();
    let processes = checker::processes(sandbox)?;
    let (expected, cpu) = (threads(), fleet::agent_cpu(sandbox)?);
    thread::sleep(window);
    let cpu = fleet::agent_cpu(sandbox)? - cpu;
    let expected = (threads() - expected) as f64;
    let processes = checker::processes_since(sandbox, processes)? - expected;
    // A client or two may be on the way while the numbers are read.
    let processes = if processes.abs() <= 2.0 && expected > 0.0 {
        0.0
    } else {
        processes
    };
    Ok((cpu / 1e6 * scale, processes * scale))
}

/// The cost of a few ticks, as if there was one every [`REACTION`].
fn ticks(
    sandbox: &Sandbox,
    script: Script,
    members: &[Member],
    others: impl Fn() -> u64,
) -> Result<(f64, f64)> {
    let members: Vec<&Member> = members.iter().collect();
    let ticks = match (script, members.len()) {
        (Script::Each, 500..) => 1,
        (Script::Each, 5..) => 4,
        _ => 20,
    };
    let cost = checker::measure(sandbox, script, ticks, &members, others)?;
    let an_hour = 3600.0 / REACTION.as_secs_f64();
    Ok((cost.cpu / 1e6 * an_hour, cost.processes * an_hour))
}

/// How much later than its timeout the first of these services is stopped, in milliseconds.
fn late(sandbox: &Sandbox, way: Way, members: &[Member]) -> Result<f64> {
    let stopped = &members[0];
    let unit = stopped.unit();
    let port = match way {
        Way::Ondemand => {
            fleet::watch(sandbox, members)?;
            stopped.front
        }
        Way::Each | Way::All => {
            sandbox.run(&["systemctl", "stop", "ondemand.service"])?;
            fleet::systemctl(sandbox, "start", [unit.clone()])?;
            stopped.backend
        }
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Long enough for a script that keeps up to see the connection.
    let ask = |held: Duration| -> Result<u64> {
        let end = sandbox.in_network(|| {
            let mut stream = client::connect(address)?;
            let request = Request {
                keep_alive: true,
                ..Request::default()
            };
            client::ask(&mut stream, request)?;
            thread::sleep(held);
            drop(stream);
            Ok(monotonic_nanos() / 1000)
        })?;
        end.map_err(|loss: Loss| anyhow::anyhow!("a request to {unit} was lost: {loss}"))
    };
    wait_for("the first client is answered", service::SOON, || {
        ask(Duration::ZERO).ok()
    })?;
    let everyone: Vec<&Member> = members.iter().collect();
    let ticking = match way.script() {
        Some(script) => {
            let began = checker::keep_on(sandbox, script, REACTION, TIMEOUT, &everyone)?;
            Some(began)
        }
        None => None,
    };
    // The last one finds it warm.
    thread::sleep(TIMEOUT / 3);
    let end = ask(4 * REACTION)?;
    let at = wait_for(&format!("{unit} is stopped"), STOP_DEADLINE, || {
        let at = sandbox
            .property(&unit, "ActiveExitTimestampMonotonic")
            .ok()?;
        at.parse::<u64>().ok().filter(|at| *at > end)
    })?;
    drop(ticking);
    let late = (at - end) as f64 / 1000.0 - TIMEOUT.as_secs_f64() * 1000.0;
    // A script counts from when it saw the client last, which may be too early; the agent must not.
    ensure!(
        way != Way::Ondemand || late > -20.0,
        "{unit} was stopped {late} ms after its timeout"
    );
    Ok(late)
}

fn report(values: &Values, size: &Size, rounds: u32) -> Report {
    let series = |kind, way| values.get(&(kind, way)).cloned().unwrap_or_default();
    let mut table = Table::default();
    let head = std::iter::once("").chain(WAYS.iter().map(|way| way.name()));
    table.rows.push(head.map(str::to_owned).collect());
    let idle = size.idle.iter().copied();
    let kinds = (idle.clone().map(Kind::IdleCpu))
        .chain(idle.clone().map(Kind::IdleProcesses))
        .chain(size.busy.iter().copied().map(Kind::BusyCpu))
        .chain(size.busy.iter().copied().map(Kind::BusyProcesses))
        .chain(idle.map(Kind::Late));
    for kind in kinds {
        let mut row = vec![kind.name()];
        row.extend(WAYS.map(|way| cell(&series(kind, way))));
        table.rows.push(row);
    }
    let most = size.idle.iter().copied().max().unwrap_or(1);
    let ratio = |way| {
        series(Kind::IdleCpu(most), Way::Ondemand).ratio_to(&series(Kind::IdleCpu(most), way))
    };
    let mut targets = vec![
        Target {
            what: format!("{most} idle: CPU, ondemand / a timer and script each"),
            series: ratio(Way::Each),
            limit: Limit::AtMost(0.001),
            digits: 6,
        },
        Target {
            what: format!("{most} idle: CPU, ondemand / one script for all"),
            series: ratio(Way::All),
            limit: Limit::AtMost(0.001),
            digits: 6,
        },
        Target {
            what: format!("{most} idle: processes an hour"),
            series: series(Kind::IdleProcesses(most), Way::Ondemand),
            limit: Limit::AtMost(0.0),
            digits: 0,
        },
    ];
    targets.extend(size.idle.iter().map(|count| Target {
        what: Kind::Late(*count).name(),
        series: series(Kind::Late(*count), Way::Ondemand),
        limit: Limit::AtMost(REACTION.as_secs_f64() * 1000.0),
        digits: 0,
    }));
    let figures = values.iter().map(|((kind, way), series)| Figure {
        what: kind.name(),
        of: way.name().to_owned(),
        series: series.clone(),
    });
    Report {
        name: "detection",
        title: "the cost of detecting that a service is unused",
        method: format!(
            "Medians of {rounds} rounds. The agent's CPU time over {} s, scaled to an hour. The \
             scripts look every {} ms, to be as fast, and their hour is computed from the cost of \
             single looks: 3,600 CPU seconds and more an hour are a whole core, so that they cannot \
             keep it up, as their delays show. Only the scripts' own time counts, not what systemd does for \
             them. A busy service has a client every {} ms. Late is the time from the end of the last \
             connection, held for a second, to the stop, less the timeout of {} s, while the others are \
             idle beside it; below zero: too early, counted from when the script saw the client last.",
            size.window.as_secs(),
            REACTION.as_millis(),
            BUSY_GAP.as_millis(),
            TIMEOUT.as_secs(),
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}

/// With as many digits as are significant.
fn cell(series: &Series) -> String {
    let (median, spread) = (series.median(), series.spread());
    let digits = match median.abs() {
        0.0 | 10.0.. => 0,
        _ => 2,
    };
    let half = (spread.end() - spread.start()) / 2.0;
    format!("{median:.digits$} ±{half:.digits$}")
}
