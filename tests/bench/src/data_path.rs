//! `data-path`: what stands between a client and the application, and what it costs.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tests::{sandbox::Sandbox, service};

use crate::{
    load::{self, Attached, Load, Place},
    machine::{Machine, Usage, cpu_microseconds},
    peers,
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings},
    stats::Series,
};

const ROUNDS: u32 = 5;
/// How often a round measures the ways that are compared with each other to a few percent. Single
/// seconds differ by a third, whatever they measure; their median in a round seldom does.
const SLICES: u32 = 5;

/// How a client reaches the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// To the server of [`Way::Own`], and nothing of ondemand is in the kernel.
    Bare,
    /// Straight and not counted, while others are steered.
    DirectUncounted,
    /// Straight to the backend's own port, counted.
    Direct,
    /// To the address that the server keeps, counted.
    Own,
    /// Through the front address, steered and counted.
    Steered,
    /// Steered, and not counted.
    SteeredUncounted,
    /// Through the front address and ondemand's own proxy.
    Proxied,
    /// Through systemd-socket-proxyd, and nothing of it is counted.
    SocketProxyd,
    /// Through HAProxy, and nothing of it is counted.
    HaProxy,
}

const WAYS: [Way; 9] = [
    Way::Bare,
    Way::Own,
    Way::DirectUncounted,
    Way::SteeredUncounted,
    Way::Direct,
    Way::Steered,
    Way::Proxied,
    Way::SocketProxyd,
    Way::HaProxy,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "without ondemand",
            Self::DirectUncounted => "direct, not counted",
            Self::Direct => "direct",
            Self::Own => "own address",
            Self::Steered => "steered",
            Self::SteeredUncounted => "steered, not counted",
            Self::Proxied => "proxied",
            Self::SocketProxyd => "socket-proxyd",
            Self::HaProxy => "HAProxy",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::Bare | Self::Own => load::OWN,
            Self::DirectUncounted | Self::Direct => load::DIRECT,
            Self::Steered | Self::SteeredUncounted => load::STEERED,
            Self::Proxied => load::PROXIED,
            Self::SocketProxyd => peers::SOCKET_PROXYD,
            Self::HaProxy => peers::HAPROXY,
        }
    }

    /// One of those that are compared with each other to a few percent.
    fn is_close(self) -> bool {
        matches!(
            self,
            Self::Bare
                | Self::Own
                | Self::DirectUncounted
                | Self::SteeredUncounted
                | Self::Direct
                | Self::Steered
        )
    }

    /// The service whose clients they are, and the leg on which they must be counted.
    fn counted_as(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bare | Self::DirectUncounted | Self::SteeredUncounted => None,
            Self::SocketProxyd | Self::HaProxy => None,
            Self::Direct => Some(("steered", "back")),
            Self::Own => Some(("own", "steered")),
            Self::Steered => Some(("steered", "steered")),
            Self::Proxied => Some(("proxied", "front")),
        }
    }
}

/// What is measured. The order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Requests,
    Connections,
    Throughput,
    Median,
    Slow,
    RequestCpu,
    ConnectionCpu,
    ByteCpu,
}

const KINDS: [Kind; 8] = [
    Kind::Requests,
    Kind::Connections,
    Kind::Throughput,
    Kind::Median,
    Kind::Slow,
    Kind::RequestCpu,
    Kind::ConnectionCpu,
    Kind::ByteCpu,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Requests => "keep-alive, requests/s",
            Self::Connections => "new connections/s",
            Self::Throughput => "download, GiB/s",
            Self::Median => "latency p50, µs",
            Self::Slow => "latency p99, µs",
            Self::RequestCpu => "CPU s per 100,000 requests",
            Self::ConnectionCpu => "CPU s per 100,000 connections",
            Self::ByteCpu => "CPU s per GiB",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Requests | Self::Connections => 0,
            Self::Median | Self::Slow => 1,
            Self::Throughput | Self::RequestCpu | Self::ConnectionCpu | Self::ByteCpu => 2,
        }
    }

    /// What is wanted of the ratio of steered to direct.
    fn limit(self) -> Option<Limit> {
        match self {
            Self::Requests | Self::Connections | Self::Throughput => Some(Limit::AtLeast(0.97)),
            Self::Slow | Self::ByteCpu => Some(Limit::AtMost(1.05)),
            Self::Median | Self::RequestCpu | Self::ConnectionCpu => None,
        }
    }
}

type Values = BTreeMap<(Kind, Way), Series>;

/// Runs it.
///
/// # Errors
///
/// Something does not start, a request was lost, or connections did not go the way that is
/// being measured.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let loads = [
        Load::KeepAlive,
        Load::Connections,
        Load::OneByOne,
        Load::Bulk,
    ];
    let slices = if settings.is_short() { 1 } else { SLICES };
    let all = WAYS.len() as u32;
    let close = WAYS.iter().filter(|way| way.is_close()).count() as u32;
    let slices_of_round = all - close + close * slices;
    let warm_up = u32::from(!settings.is_short()) * all;
    let steps = (rounds * slices_of_round + warm_up) * loads.len() as u32;
    let mut progress = Progress::new("data-path", steps);
    progress.step("starting a private systemd, two nginx and the agent");
    let sandbox = load::set_up(&settings.ondemand)?;
    peers::set_up(&sandbox, load::BEHIND_PEERS)?;
    let usage = Usage::now(&sandbox)?;
    let mut values = Values::new();
    // The first is not counted: it starts the proxy and fills the caches.
    for round in u32::from(settings.is_short())..=rounds {
        let mut unused = Values::new();
        let (into, slices) = if round == 0 {
            (&mut unused, 1)
        } else {
            (&mut values, slices)
        };
        for (attached, ways) in order(round) {
            load::attach(&sandbox, attached)?;
            for load in loads {
                let mut these = Values::new();
                for slice in 0..slices {
                    for way in turn(&ways, slice) {
                        progress.step(&format!("round {round} of {rounds}: {}", way.name()));
                        one(&sandbox, way, load, &mut these)?;
                    }
                }
                for (key, series) in these {
                    into.entry(key).or_default().0.push(series.median());
                }
            }
        }
    }
    drop(progress);
    let programs = ["systemctl --version", "nginx -v", "haproxy -v", "wrk -v"];
    let machine = Machine::look(&sandbox, &programs, &usage);
    Ok(Measured {
        machine,
        report: report(&values, rounds, slices),
    })
}

/// Each round goes the way of the last one backwards, so that a drift cancels out.
fn order(round: u32) -> Vec<(Attached, Vec<Way>)> {
    let mut counted = vec![
        Way::Own,
        Way::Direct,
        Way::Steered,
        Way::Proxied,
        Way::SocketProxyd,
        Way::HaProxy,
    ];
    let bare = (Attached::Nothing, vec![Way::Bare]);
    let mut uncounted = vec![Way::DirectUncounted, Way::SteeredUncounted];
    let forwards = round.is_multiple_of(2);
    if !forwards {
        counted.reverse();
        uncounted.reverse();
    }
    let mut order = vec![
        (Attached::All, counted),
        (Attached::Steering, uncounted),
        bare,
    ];
    if !forwards {
        order.reverse();
    }
    order
}

/// The ways that a slice of a round measures, forwards and backwards in turn: the second one
/// finds the machine as the first has left it.
fn turn(ways: &[Way], slice: u32) -> Vec<Way> {
    let mut ways = ways.to_vec();
    ways.retain(|way| slice == 0 || way.is_close());
    if !slice.is_multiple_of(2) {
        ways.reverse();
    }
    ways
}

/// One second of one load on one way.
fn one(sandbox: &Sandbox, way: Way, load: Load, into: &mut Values) -> Result<()> {
    let accepted = || -> Result<Option<u64>> {
        let Some((name, leg)) = way.counted_as() else {
            return Ok(None);
        };
        let status = service::status(sandbox, name)?;
        let count = status[leg]["accepted"].as_u64();
        Ok(Some(count.with_context(|| format!("{leg} in {status}"))?))
    };
    let (counted, cpu) = (accepted()?, cpu(sandbox)?);
    let outcome = load::run(sandbox, Place::Inside, load, way.address(), 1)?;
    let cpu = (self::cpu(sandbox)? - cpu) / 1e6;
    ensure!(
        counted.is_none() || accepted()? > counted,
        "{load:?}: no connection was counted as {:?}: they went another way",
        way.counted_as()
    );
    let gibibytes = outcome.bytes / f64::from(1 << 30);
    let measured = match load {
        Load::KeepAlive => vec![
            (Kind::Requests, outcome.requests / outcome.seconds),
            (Kind::RequestCpu, cpu / outcome.requests * 1e5),
        ],
        Load::Connections => vec![
            (Kind::Connections, outcome.requests / outcome.seconds),
            (Kind::ConnectionCpu, cpu / outcome.requests * 1e5),
        ],
        Load::OneByOne => vec![(Kind::Median, outcome.p50), (Kind::Slow, outcome.p99)],
        Load::Bulk => vec![
            (Kind::Throughput, gibibytes / outcome.seconds),
            (Kind::ByteCpu, cpu / gibibytes),
        ],
    };
    for (kind, value) in measured {
        into.entry((kind, way)).or_default().0.push(value);
    }
    Ok(())
}

/// Microseconds that server, proxy and client have used.
fn cpu(sandbox: &Sandbox) -> Result<f64> {
    let servers = load::SERVERS.map(|name| format!("system.slice/{name}-nginx.service"));
    let services = servers
        .into_iter()
        .chain(["system.slice/ondemand-proxied.service".to_owned()]);
    let services: Vec<String> = services.collect();
    let mut sum = 0.0;
    let peers = peers::UNITS.map(|name| format!("system.slice/{name}.service"));
    let groups = services.iter().chain(&peers).map(String::as_str);
    for group in std::iter::once("enter").chain(groups) {
        // The proxy has no group before its first client, and clients none before the first.
        if sandbox.path(&format!("/sys/fs/cgroup/{group}")).exists() {
            sum += cpu_microseconds(sandbox, group)?;
        }
    }
    Ok(sum)
}

fn report(values: &Values, rounds: u32, slices: u32) -> Report {
    let series = |kind, way| values.get(&(kind, way)).cloned().unwrap_or_default();
    let mut table = Table::default();
    let head = std::iter::once("").chain(WAYS.iter().map(|way| way.name()));
    table.rows.push(head.map(str::to_owned).collect());
    let mut targets = Vec::new();
    for kind in KINDS {
        let baseline = series(kind, Way::Direct);
        let mut row = vec![kind.name().to_owned()];
        for way in WAYS {
            let these = series(kind, way);
            let mut cell = format!(
                "{:.*} ±{:.0}%",
                kind.digits(),
                these.median(),
                these.relative_spread() * 100.0
            );
            if way != Way::Direct {
                cell += &format!(" (x{:.2})", these.ratio_to(&baseline).median());
            }
            row.push(cell);
        }
        table.rows.push(row);
        let pairs = [
            ("steered / direct", Way::Steered, Way::Direct),
            (
                "the same, not counted",
                Way::SteeredUncounted,
                Way::DirectUncounted,
            ),
        ];
        for (name, way, other) in pairs {
            if let Some(limit) = kind.limit() {
                targets.push(Target {
                    what: format!("{name}: {}", kind.name()),
                    series: series(kind, way).ratio_to(&series(kind, other)),
                    limit,
                    digits: 3,
                });
            }
        }
    }
    for kind in KINDS {
        let limit = match kind.limit() {
            Some(Limit::AtLeast(_)) => Limit::AtLeast(0.98),
            Some(Limit::AtMost(_)) => Limit::AtMost(1.02),
            _ => continue,
        };
        targets.push(Target {
            what: format!("own address / without ondemand: {}", kind.name()),
            series: series(kind, Way::Own).ratio_to(&series(kind, Way::Bare)),
            limit,
            digits: 3,
        });
    }
    targets.push(Target {
        what: "steered / socket-proxyd: keep-alive, requests/s".to_owned(),
        series: series(Kind::Requests, Way::Steered)
            .ratio_to(&series(Kind::Requests, Way::SocketProxyd)),
        limit: Limit::AtLeast(2.0),
        digits: 2,
    });
    let figures = values.iter().map(|((kind, way), series)| Figure {
        what: kind.name().to_owned(),
        of: way.name().to_owned(),
        series: series.clone(),
    });
    Report {
        name: "data-path",
        title: "what stands between a client and the application",
        method: format!(
            "Medians of {rounds} rounds in alternating order, each the median of {slices} seconds of \
             direct and steered in turn, and of one second of the others; ± is half the spread of \
             their middle half, (x) the median of the ratios to `direct` of the same round. wrk with \
             one thread and 16 connections (latency, download: 1), nginx with one worker, HAProxy \
             with one thread, on the loopback of a private systemd, all with real-time priority so \
             that other load matters less; without a proxy client and server stay on a core each. \
             CPU is that of client, server and proxy together. `proxied` is ondemand's own proxy, \
             as with `steer = false`. `direct` goes to the backend's own port while everything is \
             attached; where it says `not counted` the program that counts connections is detached."
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}

/// All but the slowest requests of a single second, which are those that something else got in
/// the way of.
pub fn checks(report: &Report) -> Vec<Target> {
    let mut checks = report.targets.clone();
    checks.retain(|target| !target.what.ends_with(Kind::Slow.name()));
    checks
}
