//! `counting`: what each eBPF program costs, by the kernel's own measure.

use std::{
    collections::BTreeMap,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tests::sandbox::Sandbox;

use crate::{
    bpf::{self, Hook, Program, Runs},
    load::{self, Attached, Load, Place},
    machine::{Machine, Usage},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings, alternating},
    stats::Series,
};

/// About 40 seconds.
const ROUNDS: u32 = 4;
/// The number of reads of each figure during the load: a slice in which the hypervisor took the
/// processor away in the middle of a program is one of many, and the median does not see it.
const SLICE: Duration = Duration::from_millis(50);
/// Left out at the beginning and at the end of a load.
const EDGE: Duration = Duration::from_millis(150);
/// Seconds of one load.
const SECONDS: u32 = 2;

/// The programs that stay attached, and the empty one.
const PROGRAMS: [&str; 3] = ["connections", "steering", EMPTY];
const EMPTY: &str = "empty";

/// To which port the clients go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Unwatched,
    /// The backend's own.
    Backend,
    /// The front socket's, steered to the backend.
    Front,
}

const PORTS: [Port; 3] = [Port::Unwatched, Port::Backend, Port::Front];

impl Port {
    fn name(self) -> &'static str {
        match self {
            Self::Unwatched => "an unwatched port",
            Self::Backend => "the backend's port",
            Self::Front => "the front port, steered",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::Unwatched => load::UNWATCHED,
            Self::Backend => load::DIRECT,
            Self::Front => load::STEERED,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// All that runs while requests go over open connections, shared among the packets.
    Packet,
    /// sock_ops: all its runs of one connection.
    Connections,
    /// sk_lookup: all its runs of one connection.
    Steering,
    /// The two together.
    Connection,
    /// How often sock_ops runs for one connection.
    Callbacks,
    /// The empty program.
    Empty,
}

const KINDS: [Kind; 6] = [
    Kind::Packet,
    Kind::Connections,
    Kind::Steering,
    Kind::Connection,
    Kind::Callbacks,
    Kind::Empty,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Packet => "packets of open connections, ns a packet",
            Self::Connections => "connections (sock_ops), ns a connection",
            Self::Steering => "steering (sk_lookup), ns a connection",
            Self::Connection => "both, ns a connection",
            Self::Callbacks => "runs of sock_ops a connection",
            Self::Empty => "an empty program, ns (subtracted above)",
        }
    }

    fn limit(self, port: Port) -> Option<Limit> {
        let limit = match (self, port) {
            (Self::Packet, Port::Unwatched) => 15.0,
            (Self::Packet, _) => 50.0,
            (Self::Connections | Self::Steering, Port::Backend | Port::Front) => 300.0,
            _ => return None,
        };
        Some(Limit::AtMost(limit))
    }
}

type Values = BTreeMap<(Kind, Port), Series>;
/// What each program has done, by its place in [`PROGRAMS`].
type Looks = [Runs; PROGRAMS.len()];

/// Runs it.
///
/// # Errors
///
/// Something does not start, a request was lost, or the kernel does not measure programs.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let mut progress = Progress::new("counting", rounds * PORTS.len() as u32 * 2 + 1);
    progress.step("starting a private systemd, nginx and the agent");
    let sandbox = load::set_up(&settings.ondemand)?;
    let usage = Usage::now(&sandbox)?;
    load::attach(&sandbox, Attached::All)?;
    let cgroup = load::cgroup(&sandbox)?;
    let empty = Program::empty()?;
    let _links = [Hook::Ingress, Hook::Egress]
        .map(|hook| empty.attach(&cgroup, hook))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let mut programs = Vec::new();
    for name in PROGRAMS.iter().filter(|name| **name != EMPTY) {
        let pin = load::pin(name);
        programs.push(Program::of_link(&sandbox.path(&pin.to_string_lossy()))?);
    }
    programs.push(empty);
    let _statistics = bpf::enable_statistics()?;
    let mut values = Values::new();
    for round in 0..rounds {
        let ports = alternating(PORTS, round);
        for load in [Load::KeepAlive, Load::Connections] {
            for port in ports {
                progress.step(&format!("round {} of {rounds}: {}", round + 1, port.name()));
                let slices = observe(&sandbox, &programs, load, port)?;
                for slice in &slices {
                    evaluate(slice, load, port, &mut values);
                }
            }
        }
    }
    drop(progress);
    let programs = ["systemctl --version", "nginx -v", "wrk -v"];
    Ok(Measured {
        machine: Machine::look(&sandbox, &programs, &usage),
        report: report(&values, rounds),
    })
}

/// Runs the load, and returns what the programs did in each slice of its time.
fn observe(sandbox: &Sandbox, programs: &[Program], load: Load, port: Port) -> Result<Vec<Looks>> {
    let look = || -> Result<Looks> {
        let mut looks = Looks::default();
        for (place, program) in looks.iter_mut().zip(programs) {
            *place = program.runs()?;
        }
        Ok(looks)
    };
    let wrk = load::command(sandbox, Place::Outside, load, port.address(), SECONDS)?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run wrk")?;
    thread::sleep(EDGE);
    let end = Instant::now() + Duration::from_secs(SECONDS.into()) - EDGE * 2;
    let mut slices = Vec::new();
    let mut before = look()?;
    while Instant::now() < end {
        thread::sleep(SLICE);
        let after = look()?;
        let mut slice = after;
        for (place, earlier) in slice.iter_mut().zip(before) {
            *place = place.since(earlier);
        }
        slices.push(slice);
        before = after;
    }
    load::parse(&wrk.wait_with_output()?)?;
    Ok(slices)
}

/// The figures of one slice.
fn evaluate(slice: &Looks, load: Load, port: Port, into: &mut Values) {
    let [sock_ops, sk_lookup, empty] = *slice;
    // Too little happened for a result: the machine was busy elsewhere.
    if empty.count < 500 {
        return;
    }
    let floor = empty.time as f64 / empty.count as f64;
    let net = |runs: Runs| runs.time as f64 - floor * runs.count as f64;
    let mut add = |kind, value: f64| {
        into.entry((kind, port)).or_default().0.push(value);
    };
    match load {
        Load::Connections => {
            // A look-up each, at the front and elsewhere: established connections need none.
            let connections = sk_lookup.count as f64;
            if connections == 0.0 {
                return;
            }
            let (counting, steering) = (net(sock_ops) / connections, net(sk_lookup) / connections);
            add(Kind::Connections, counting);
            add(Kind::Steering, steering);
            add(Kind::Connection, counting + steering);
            add(Kind::Callbacks, sock_ops.count as f64 / connections);
        }
        _ => {
            // The empty program has seen each packet once.
            let packets = empty.count as f64;
            add(Kind::Packet, (net(sock_ops) + net(sk_lookup)) / packets);
            add(Kind::Empty, floor);
        }
    }
}

fn report(values: &Values, rounds: u32) -> Report {
    let series = |kind, port| values.get(&(kind, port)).cloned().unwrap_or_default();
    let mut table = Table::default();
    let head = std::iter::once("").chain(PORTS.iter().map(|port| port.name()));
    table.rows.push(head.map(str::to_owned).collect());
    let mut targets = Vec::new();
    for kind in KINDS {
        let cells = PORTS.iter().map(|port| {
            let series = series(kind, *port);
            let spread = (series.spread().end() - series.spread().start()) / 2.0;
            format!("{:.1} ±{spread:.1}", series.median())
        });
        table.rows.push(
            std::iter::once(kind.name().to_owned())
                .chain(cells)
                .collect(),
        );
        for port in PORTS {
            if let Some(limit) = kind.limit(port) {
                targets.push(Target {
                    what: format!("{}: {}", port.name(), kind.name()),
                    series: series(kind, port),
                    limit,
                    digits: 1,
                });
            }
        }
    }
    let figures = values.iter().map(|((kind, port), series)| Figure {
        what: kind.name().to_owned(),
        of: port.name().to_owned(),
        series: series.clone(),
    });
    Report {
        name: "counting",
        title: "what each eBPF program costs",
        method: format!(
            "The kernel's own measure (BPF_ENABLE_STATS), less what it reads for a program that \
             does nothing, attached to each packet. No program of ondemand's is. Medians over slices of {} ms in {rounds} \
             alternating rounds of {SECONDS} s; ± is half the spread of their middle half. wrk \
             and nginx over the loopback, wrk in a cgroup that the programs do not see: only \
             the server's end counts, as with clients on other hosts.",
            SLICE.as_millis()
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}
