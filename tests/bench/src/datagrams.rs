//! `datagrams`: what an application that receives datagrams pays, at its own address, beside the same one alone.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tests::{client::monotonic_nanos, sandbox::Sandbox, service, wait_for};

use crate::{
    bus::start_unit,
    cold_start::settle,
    machine::{Machine, Usage},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings, alternating},
    stats::Series,
};

const ROUNDS: u32 = 15;
/// How long anything may take.
const SOON: Duration = Duration::from_secs(20);
/// Datagrams and answers in a round, one after the other.
const TRIPS: u32 = 20_000;
/// The same, if it is only to be seen that the bench works.
const FEW_TRIPS: u32 = 2_000;
/// How often an application that starts is asked, if nobody holds what it is sent.
const AGAIN: Duration = Duration::from_micros(200);

/// Whose application it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Nobody's but systemd's.
    Alone,
    /// A service's, which keeps its address.
    Own,
}

const WAYS: [Way; 2] = [Way::Alone, Way::Own];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "the application alone",
            Self::Own => "ondemand, its own address",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Alone => "alone.service",
            Self::Own => "own.service",
        }
    }

    fn address(self) -> SocketAddr {
        let port = match self {
            Self::Alone => 8101,
            Self::Own => 8100,
        };
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Datagrams and their answers, one after the other.
    Rate,
    /// From the first datagram to its answer; alone: from `StartUnit`, by a client that asks again and again.
    Cold,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "round trips/s",
            Self::Cold => "cold start, the client waits, ms",
        }
    }
}

type Values = BTreeMap<(Kind, Way), Series>;

/// Runs it.
///
/// # Errors
///
/// Something does not start or stop, or a datagram had no answer.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let trips = if settings.is_short() {
        FEW_TRIPS
    } else {
        TRIPS
    };
    let mut progress = Progress::new("datagrams", (rounds + 1) * WAYS.len() as u32);
    progress.step("starting a private systemd and the agent");
    let sandbox = set_up(settings)?;
    let usage = Usage::now(&sandbox)?;
    let mut values = Values::new();
    for round in 0..=rounds {
        for way in alternating(WAYS, round) {
            progress.step(&format!("round {round} of {rounds}: {}", way.name()));
            settle(&sandbox)?;
            let cold = cold(&sandbox, way)?;
            let rate = sandbox.in_network(|| rate(way.address(), trips))??;
            stop(&sandbox, way)?;
            // The first round fills the caches.
            if round > 0 {
                for (kind, value) in [(Kind::Cold, cold), (Kind::Rate, rate)] {
                    values.entry((kind, way)).or_default().0.push(value);
                }
            }
        }
    }
    drop(progress);
    let machine = Machine::look(&sandbox, &["systemctl --version"], &usage);
    Ok(Measured {
        machine,
        report: report(&values, rounds, trips),
    })
}

fn set_up(settings: &Settings) -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    sandbox.install_ondemand(&settings.ondemand)?;
    sandbox.install(&tests::built("test-backend")?, "/usr/bin/test-backend")?;
    for way in WAYS {
        let text = format!(
            "[Service]\nExecStart=/usr/bin/test-backend --udp {}\n",
            way.address()
        );
        sandbox.write(&format!("/etc/systemd/system/{}", way.unit()), text)?;
    }
    let own = Way::Own;
    let config = format!(
        "[service.own]\nlisten = [\"udp:{}\"]\nunit = \"{}\"\nidle_timeout = \"1h\"\n",
        own.address(),
        own.unit()
    );
    service::write_config(&sandbox, &config)?;
    service::reload(&sandbox, &["own"])?;
    service::start_agent(&sandbox)?;
    Ok(sandbox)
}

/// Milliseconds that its first client waits.
fn cold(sandbox: &Sandbox, way: Way) -> Result<f64> {
    let (start, again) = match way {
        Way::Alone => (start_unit(sandbox, way.unit())?, AGAIN),
        Way::Own => (monotonic_nanos(), SOON),
    };
    sandbox
        .in_network(|| first_answer(way.address(), again))?
        .with_context(|| format!("{}: no answer", way.name()))?;
    Ok((monotonic_nanos() - start) as f64 / 1e6)
}

/// Asks until there is an answer: once in so long.
fn first_answer(address: SocketAddr, again: Duration) -> io::Result<()> {
    let socket = client(address)?;
    socket.set_read_timeout(Some(again))?;
    let begin = Instant::now();
    loop {
        // While nobody has bound the port, the kernel says so instead of an answer.
        let answer = socket.send(b"ask").and_then(|_| socket.recv(&mut [0; 16]));
        match answer {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > SOON => return Err(error),
            Err(_) => {}
        }
    }
}

fn rate(address: SocketAddr, trips: u32) -> Result<f64> {
    let socket = client(address)?;
    socket.set_read_timeout(Some(SOON))?;
    let begin = Instant::now();
    let mut answer = [0; 16];
    for number in 0..trips {
        socket.send(&number.to_be_bytes())?;
        let length = socket
            .recv(&mut answer)
            .context("a datagram had no answer")?;
        ensure!(
            answer[..length] == number.to_be_bytes(),
            "another one's answer"
        );
    }
    Ok(f64::from(trips) / begin.elapsed().as_secs_f64())
}

fn client(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.connect(address)?;
    Ok(socket)
}

fn stop(sandbox: &Sandbox, way: Way) -> Result<()> {
    match way {
        Way::Alone => sandbox.run(&["systemctl", "stop", way.unit()])?,
        // One that a person stops is not started for a second: datagrams are many, and have no end.
        Way::Own => sandbox.run(&["ondemand", "stop", "own"])?,
    };
    wait_for("it is down", SOON, || {
        (sandbox.property(way.unit(), "ActiveState").ok()? == "inactive").then_some(())
    })
}

fn report(values: &Values, rounds: u32, trips: u32) -> Report {
    let series = |kind, way| values.get(&(kind, way)).cloned().unwrap_or_default();
    let mut table = Table::default();
    let head = std::iter::once("").chain(WAYS.iter().map(|way| way.name()));
    table.rows.push(head.map(str::to_owned).collect());
    for (kind, digits) in [(Kind::Rate, 0), (Kind::Cold, 1)] {
        let mut row = vec![kind.name().to_owned()];
        row.extend(WAYS.map(|way| {
            let series = series(kind, way);
            let spread = (series.spread().end() - series.spread().start()) / 2.0;
            format!("{:.digits$} ±{spread:.digits$}", series.median())
        }));
        table.rows.push(row);
    }
    let [rates, colds] = [Kind::Rate, Kind::Cold].map(|kind| WAYS.map(|way| series(kind, way)));
    let targets = vec![
        Target {
            what: "its own address / the application alone: round trips".into(),
            series: rates[1].ratio_to(&rates[0]),
            limit: Limit::AtLeast(0.98),
            digits: 3,
        },
        Target {
            what: "cold start: over StartUnit and the application alone, ms".into(),
            series: colds[1].minus(&colds[0]),
            limit: Limit::AtMost(5.0),
            digits: 1,
        },
    ];
    let figures = values.iter().map(|((kind, way), series)| Figure {
        what: kind.name().to_owned(),
        of: way.name().to_owned(),
        series: series.clone(),
    });
    Report {
        name: "datagrams",
        title: "datagrams at the application's own address",
        method: format!(
            "Medians of {rounds} rounds in alternating order; ± is half the spread of their middle half. In each round the \
             application is started by its first client, which comes when nothing has run for 0.1 s and then sends {trips} datagrams one after the other, each when \
             the last one was answered, over loopback. Alone it is started by StartUnit, from whose call is counted, and its client asks every 0.2 ms."
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}

/// On a busy machine milliseconds mean little, and a ratio of rates much.
pub fn checks(report: &Report) -> Vec<Target> {
    report.targets.iter().take(1).cloned().collect()
}
