//! `cold-start`: how long the first client waits, over what the application itself takes.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result};
use tests::{
    client::{self, Answer, Loss, Request, monotonic_nanos},
    sandbox::Sandbox,
    service, wait_for,
};

use crate::{
    bus::start_unit,
    machine::{Machine, Usage, cpu_microseconds},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings, alternating},
    stats::Series,
};

const ROUNDS: u32 = 15;
/// How long anything may take.
const SOON: Duration = Duration::from_secs(20);
/// The quiet time before a client connects.
const QUIET: Duration = Duration::from_millis(100);

/// What starts the application for its first client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// No client: `StartUnit`, and the application's listen(2).
    Alone,
    /// The client is held by the kernel, at the address that the application keeps.
    Held,
    /// The client waits in the application's own socket unit, for which it is written.
    Native,
    Ondemand,
    /// The same, without the agent's report of the kernel's event.
    WithoutAgent,
    /// systemd-socket-proxyd; the application's ExecStartPost= polls ten times a second whether
    /// it listens.
    Polling,
    /// systemd-socket-proxyd, and nothing that waits.
    Plain,
}

const WAYS: [Way; 7] = [
    Way::Alone,
    Way::Held,
    Way::Native,
    Way::Ondemand,
    Way::WithoutAgent,
    Way::Polling,
    Way::Plain,
];

/// Milliseconds that applications take before they listen.
const DELAYS: [u64; 2] = [0, 200];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "StartUnit and the application alone",
            Self::Held => "ondemand, held at its own address",
            Self::Native => "ondemand, a socket unit of its own",
            Self::Ondemand => "ondemand, proxied",
            Self::WithoutAgent => "ondemand without its agent",
            Self::Polling => "socket-proxyd, polling ExecStartPost=",
            Self::Plain => "socket-proxyd alone",
        }
    }

    /// Of the application, its front socket and its proxy.
    fn unit_name(self, delay: u64) -> String {
        let name = match self {
            Self::Alone | Self::Held => "held",
            Self::Native => "native",
            Self::Ondemand | Self::WithoutAgent => "ondemand",
            Self::Polling => "polling",
            Self::Plain => "plain",
        };
        format!("{name}{delay}")
    }

    fn front(self, delay: u64) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port(8000, delay)))
    }

    fn backend(self, delay: u64) -> SocketAddr {
        if matches!(self, Self::Alone | Self::Held | Self::Native) {
            return self.front(delay);
        }
        SocketAddr::from(([127, 0, 0, 1], self.port(9000, delay)))
    }

    fn port(self, base: u16, delay: u64) -> u16 {
        let way = match self {
            Self::Ondemand | Self::WithoutAgent => 0,
            Self::Polling => 1,
            Self::Plain => 2,
            Self::Alone | Self::Held => 3,
            Self::Native => 4,
        };
        base + way * 10 + u16::from(delay > 0)
    }

    /// Everything that is up after its client, the application last.
    fn units(self, delay: u64) -> Vec<String> {
        let name = self.unit_name(delay);
        let mut units = vec![format!("{name}-app.service")];
        match self {
            Self::Alone | Self::Held | Self::Ondemand | Self::WithoutAgent => units.extend([
                format!("ondemand-{name}.target"),
                format!("ondemand-{name}.service"),
            ]),
            Self::Native => units.push(format!("ondemand-{name}.target")),
            Self::Polling | Self::Plain => units.push(format!("{name}.service")),
        }
        units
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// From connect(2) to the answer.
    Wait,
    /// That, less the time from the application's start to its listen(2).
    OverOwn,
    /// From listen(2) to the answer.
    AfterListen,
    /// Clients that got no answer, in percent.
    Lost,
}

const KINDS: [Kind; 4] = [Kind::Wait, Kind::OverOwn, Kind::AfterListen, Kind::Lost];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Wait => "the client waits, ms",
            Self::OverOwn => "over the application's own time, ms",
            Self::AfterListen => "from listen(2) to the first byte, ms",
            Self::Lost => "clients without an answer, %",
        }
    }
}

type Values = BTreeMap<(Kind, Way, u64), Series>;

/// Runs it.
///
/// # Errors
///
/// Something does not start or stop.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let steps = (rounds + 1) * (WAYS.len() * DELAYS.len()) as u32;
    let mut progress = Progress::new("cold-start", steps);
    progress.step("starting a private systemd and the agent");
    let sandbox = set_up(settings)?;
    let usage = Usage::now(&sandbox)?;
    let mut values = Values::new();
    for round in 0..=rounds {
        for way in alternating(WAYS, round) {
            let agent = if way == Way::WithoutAgent {
                "stop"
            } else {
                "start"
            };
            sandbox.run(&["systemctl", agent, "ondemand.service"])?;
            for delay in DELAYS {
                progress.step(&format!("round {round} of {rounds}: {}", way.name()));
                let measured = one(&sandbox, way, delay)?;
                // The first round fills the caches.
                for (kind, value) in measured.into_iter().filter(|_| round > 0) {
                    values.entry((kind, way, delay)).or_default().0.push(value);
                }
            }
        }
    }
    drop(progress);
    let machine = Machine::look(&sandbox, &["systemctl --version"], &usage);
    Ok(Measured {
        machine,
        report: report(&values, rounds),
    })
}

fn set_up(settings: &Settings) -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    sandbox.install_ondemand(&settings.ondemand)?;
    sandbox.install(&tests::built("test-backend")?, "/usr/bin/test-backend")?;
    let mut config = String::new();
    let mut names = Vec::new();
    for delay in DELAYS {
        for way in [
            Way::Held,
            Way::Native,
            Way::Ondemand,
            Way::Polling,
            Way::Plain,
        ] {
            write_units(&sandbox, way, delay)?;
        }
        for (way, line) in [
            (Way::Held, "first_client = \"held\""),
            (Way::Native, "activation = \"native\""),
            (Way::Ondemand, "first_client = \"proxied\""),
        ] {
            let name = way.unit_name(delay);
            config += &format!(
                "[service.{name}]\nlisten = [\"{}\"]\nunit = \"{name}-app.service\"\nidle_timeout = \"1h\"\n{line}\n",
                way.front(delay),
            );
            if way.backend(delay) != way.front(delay) {
                config += &format!("backend = \"{}\"\n", way.backend(delay));
            }
            config.push('\n');
            names.push(name);
        }
    }
    service::write_config(&sandbox, &config)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names)?;
    for way in [Way::Native, Way::Polling, Way::Plain] {
        for delay in DELAYS {
            let app = if way == Way::Native { "-app" } else { "" };
            let socket = format!("{}{app}.socket", way.unit_name(delay));
            sandbox.run(&["systemctl", "start", &socket])?;
        }
    }
    Ok(sandbox)
}

/// The peers as systemd-socket-proxyd(8) shows them, and as people amend it.
fn write_units(sandbox: &Sandbox, way: Way, delay: u64) -> Result<()> {
    let (name, backend) = (way.unit_name(delay), way.backend(delay));
    let poll = match way {
        Way::Polling => format!(
            "ExecStartPost=/bin/sh -c \"until ss -Hltn 'sport = :{}' | grep -q .; do sleep 0.1; done\"\n",
            backend.port()
        ),
        _ => String::new(),
    };
    let inherited = match way {
        Way::Native => " --inherited",
        _ => "",
    };
    let write =
        |file: &str, text: String| sandbox.write(&format!("/etc/systemd/system/{file}"), text);
    write(
        &format!("{name}-app.service"),
        format!(
            "[Service]\nExecStart=/usr/bin/test-backend --listen {backend} \
             --start-delay-ms {delay}{inherited}\n{poll}"
        ),
    )?;
    if way == Way::Native {
        let unit = format!("{name}-app.service");
        return service::write_own_socket(sandbox, &unit, &way.front(delay).to_string());
    }
    if matches!(way, Way::Held | Way::Ondemand) {
        return Ok(());
    }
    write(
        &format!("{name}.socket"),
        format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Socket]\nListenStream={}\nTriggerLimitIntervalSec=0\n",
            way.front(delay)
        ),
    )?;
    write(
        &format!("{name}.service"),
        format!(
            "[Unit]\nRequires={name}-app.service\nAfter={name}-app.service\n\
             StartLimitIntervalSec=0\n[Service]\n\
             ExecStart=/lib/systemd/systemd-socket-proxyd {backend}\n"
        ),
    )
}

/// Waits until nothing runs any more of what was just started or stopped, as before the first
/// client after a quiet time.
///
/// # Errors
///
/// Something goes on running.
pub fn settle(sandbox: &Sandbox) -> Result<()> {
    wait_for("a quiet sandbox", SOON, || {
        let before = cpu_microseconds(sandbox, "").ok()?;
        thread::sleep(QUIET);
        let used = cpu_microseconds(sandbox, "").ok()? - before;
        (used * 100.0 <= QUIET.as_micros() as f64).then_some(())
    })
}

/// One first client.
fn one(sandbox: &Sandbox, way: Way, delay: u64) -> Result<Vec<(Kind, f64)>> {
    settle(sandbox)?;
    if way == Way::Alone {
        let took = alone(sandbox, delay)?;
        stop(sandbox, way, delay)?;
        return Ok(vec![(Kind::Wait, took)]);
    }
    let asked = sandbox.in_network(|| {
        let start = monotonic_nanos();
        let answer = client::get(way.front(delay), Request::default());
        (start, answer, monotonic_nanos())
    })?;
    let measured = match asked {
        (start, Ok(answer), end) => figures(start, &answer, end)?,
        (_, Err(Loss::Connect(kind)), _) => {
            anyhow::bail!("the front socket of {} refuses: {kind}", way.name())
        }
        (_, Err(_), _) => vec![(Kind::Lost, 100.0)],
    };
    stop(sandbox, way, delay)?;
    Ok(measured)
}

/// Milliseconds from the call of `StartUnit` for the lease, which is what the agent calls, to the application's
/// listen(2).
fn alone(sandbox: &Sandbox, delay: u64) -> Result<f64> {
    let lease = format!("ondemand-{}.target", Way::Alone.unit_name(delay));
    let start = start_unit(sandbox, &lease)?;
    let backend = Way::Alone.backend(delay);
    let answer = wait_for("the application answers", SOON, || {
        let ask = || client::get(backend, Request::default());
        sandbox.in_network(ask).ok()?.ok()
    })?;
    let listened = answer.header("X-Listened").context("no X-Listened")?;
    Ok((listened.parse::<u64>()? as f64 - start as f64) / 1e6)
}

fn stop(sandbox: &Sandbox, way: Way, delay: u64) -> Result<()> {
    let units = way.units(delay);
    let stop: Vec<&str> = ["systemctl", "stop"]
        .into_iter()
        .chain(units.iter().map(String::as_str))
        .collect();
    sandbox.run(&stop)?;
    for unit in &units {
        wait_for(&format!("{unit} is down"), SOON, || {
            let state = sandbox.property(unit, "ActiveState").ok()?;
            ["inactive", "failed"]
                .contains(&state.as_str())
                .then_some(())
        })?;
    }
    Ok(())
}

fn figures(start: u64, answer: &Answer, end: u64) -> Result<Vec<(Kind, f64)>> {
    let moment = |name| -> Result<f64> {
        let text = answer.header(name).with_context(|| format!("no {name}"))?;
        Ok(text.parse::<u64>()? as f64)
    };
    let (started, listened) = (moment("X-Started")?, moment("X-Listened")?);
    let (start, end) = (start as f64, end as f64);
    let wait = end - start;
    Ok(vec![
        (Kind::Wait, wait / 1e6),
        (Kind::OverOwn, (wait - (listened - started)) / 1e6),
        (Kind::AfterListen, (end - listened) / 1e6),
        (Kind::Lost, 0.0),
    ])
}

fn figure_of(way: Way, delay: u64) -> String {
    format!("{}, {delay} ms", way.name())
}

fn report(values: &Values, rounds: u32) -> Report {
    let series = |kind, way, delay| {
        let found = values.get(&(kind, way, delay));
        found.cloned().unwrap_or_default()
    };
    let mut table = Table::default();
    let head = std::iter::once("").chain(WAYS.iter().map(|way| way.name()));
    table.rows.push(head.map(str::to_owned).collect());
    let mut targets = Vec::new();
    for delay in DELAYS {
        let application = match delay {
            0 => "an application that listens at once".to_owned(),
            delay => format!("one that takes {delay} ms"),
        };
        for kind in KINDS {
            let mut row = vec![format!("{application}: {}", kind.name())];
            row.extend(WAYS.map(|way| {
                let series = series(kind, way, delay);
                match kind {
                    _ if series.0.is_empty() => "-".to_owned(),
                    Kind::Lost => {
                        let mean = series.0.iter().sum::<f64>() / series.0.len() as f64;
                        format!("{mean:.0}")
                    }
                    _ => format!(
                        "{:.1} ±{:.1}",
                        series.median(),
                        (series.spread().end() - series.spread().start()) / 2.0
                    ),
                }
            }));
            table.rows.push(row);
        }
        let wait = |way| series(Kind::Wait, way, delay);
        targets.push(Target {
            what: format!("held, {application}: over StartUnit and the application alone, ms"),
            series: wait(Way::Held).minus(&wait(Way::Alone)),
            limit: Limit::AtMost(3.0),
            digits: 1,
        });
        for (other, limit) in [(Way::Polling, 0.8), (Way::Ondemand, 0.5)] {
            // Of one that takes 200 ms itself these are the greater part.
            if delay > 0 {
                continue;
            }
            targets.push(Target {
                what: format!("held / {}, {application}: the client waits", other.name()),
                series: wait(Way::Held).ratio_to(&wait(other)),
                limit: Limit::AtMost(limit),
                digits: 2,
            });
        }
        for (kind, limit) in [(Kind::OverOwn, 20.0), (Kind::AfterListen, 5.0)] {
            targets.push(Target {
                what: format!("{}, {application}: {}", Way::Ondemand.name(), kind.name()),
                series: series(kind, Way::Ondemand, delay),
                limit: Limit::AtMost(limit),
                digits: 1,
            });
        }
    }
    let figures = values.iter().map(|((kind, way, delay), series)| Figure {
        what: kind.name().to_owned(),
        of: figure_of(*way, *delay),
        series: series.clone(),
    });
    Report {
        name: "cold-start",
        title: "how long the first client waits",
        method: format!(
            "Medians of {rounds} first clients each, in alternating order; ± is half the spread of \
             their middle half. The application says itself when it began and when it listened, \
             by the same clock as the client. Each is stopped by `systemctl stop` before the next \
             one, which comes when nothing has run for 0.1 s. The peers' units are those of \
             systemd-socket-proxyd(8); without something that waits, its client is let go because \
             the application does not listen yet."
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}

/// On a busy machine milliseconds mean little, but polling is slowed down alike.
pub fn checks(report: &Report) -> Vec<Target> {
    let checks = DELAYS.map(|delay| {
        let of = |way: Way| report.series(Kind::OverOwn.name(), &figure_of(way, delay));
        Target {
            what: format!(
                "over the application's own {delay} ms, {} / {}",
                Way::Ondemand.name(),
                Way::Polling.name()
            ),
            series: of(Way::Ondemand).ratio_to(&of(Way::Polling)),
            limit: Limit::AtMost(1.5),
            digits: 2,
        }
    });
    checks.into()
}
