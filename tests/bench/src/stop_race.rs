//! `stop-race`: requests that are lost because the application is being stopped.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::Result;
use tests::{
    arrivals::Arrivals,
    classic::{Classic, End},
    sandbox::Sandbox,
    service,
};

use crate::{
    machine::{Machine, Usage},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings},
    stats::Series,
};

const ROUNDS: u32 = 3;
/// Requests to each service in a round; in a short one a fifth of them.
const REQUESTS: usize = 300;
/// Idle timeouts in milliseconds: of each way there is a service with each.
const IDLE_MS: [u64; 2] = [200, 300];

/// How it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Classic(End),
    Proxied,
    Steered,
}

const WAYS: [Way; 5] = [
    Way::Classic(End::StopBackend),
    Way::Classic(End::StopProxy),
    Way::Classic(End::ExitIdle),
    Way::Proxied,
    Way::Steered,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Classic(End::StopBackend) => "script stops the application",
            Self::Classic(End::StopProxy) => "script stops the proxy",
            Self::Classic(End::ExitIdle) => "--exit-idle-time",
            Self::Proxied => "ondemand, proxied",
            Self::Steered => "ondemand, steered",
        }
    }
}

/// One service.
struct Lane {
    way: Way,
    idle: Duration,
    number: u16,
}

impl Lane {
    fn front(&self) -> u16 {
        8000 + self.number
    }

    fn name(&self) -> String {
        format!("race{}", self.number)
    }

    fn unit(&self) -> String {
        format!("{}-app.service", self.name())
    }

    fn classic(&self) -> Option<Classic> {
        let Way::Classic(end) = self.way else {
            return None;
        };
        Some(Classic {
            name: self.name(),
            front: self.front(),
            backend: self.front() + 1000,
            end,
            idle: self.idle,
        })
    }

    fn write(&self, sandbox: &Sandbox) -> Result<String> {
        if let Some(classic) = self.classic() {
            classic.write(sandbox)?;
            return Ok(String::new());
        }
        let backend = format!("127.0.0.1:{}", self.front() + 1000);
        service::write_backend(sandbox, &self.unit(), &format!("--listen {backend}"))?;
        Ok(format!(
            "[service.{}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"{backend}\"\nunit = \"{}\"\n\
             idle_timeout = \"{}ms\"\nmin_uptime = \"0s\"\nsteer = {}\n\n",
            self.name(),
            self.front(),
            self.unit(),
            self.idle.as_millis(),
            self.way == Way::Steered
        ))
    }

    fn stops(&self, sandbox: &Sandbox) -> Result<u64> {
        match self.classic() {
            Some(classic) => Ok(classic.stops(sandbox) as u64),
            None => service::number(sandbox, &self.name(), "stops"),
        }
    }
}

/// The results of a way's clients in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Requests,
    Stops,
    Lost,
}

const KINDS: [Kind; 3] = [Kind::Requests, Kind::Stops, Kind::Lost];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Stops => "stops",
            Self::Lost => "requests lost",
        }
    }
}

type Values = BTreeMap<(Kind, Way), Series>;

/// Runs it.
///
/// # Errors
///
/// Something does not start.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let requests = if settings.is_short() {
        REQUESTS / 5
    } else {
        REQUESTS
    };
    let mut progress = Progress::new("stop-race", rounds);
    let lanes: Vec<Lane> = (0u16..)
        .zip(
            WAYS.into_iter()
                .flat_map(|way| IDLE_MS.map(|idle| (way, idle))),
        )
        .map(|(number, (way, idle))| Lane {
            way,
            idle: Duration::from_millis(idle),
            number,
        })
        .collect();
    let sandbox = set_up(settings, &lanes)?;
    let checkers = lanes.iter().filter_map(Lane::classic);
    let checkers = checkers.map(|classic| classic.start(&sandbox));
    let checkers = checkers.collect::<Result<Vec<_>>>()?;
    let usage = Usage::now(&sandbox)?;
    let mut values = Values::new();
    for round in 0..rounds {
        progress.step(&format!("round {} of {rounds}", round + 1));
        one(&sandbox, &lanes, round, requests, &mut values)?;
    }
    drop(checkers);
    drop(progress);
    let machine = Machine::look(&sandbox, &["systemctl --version"], &usage);
    Ok(Measured {
        machine,
        report: report(&values, rounds),
    })
}

fn set_up(settings: &Settings, lanes: &[Lane]) -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    sandbox.install_ondemand(&settings.ondemand)?;
    sandbox.install(&tests::built("test-backend")?, "/usr/bin/test-backend")?;
    let tables: Result<String> = lanes.iter().map(|lane| lane.write(&sandbox)).collect();
    service::write_config(&sandbox, &tables?)?;
    let names: Vec<String> = lanes
        .iter()
        .filter(|lane| lane.classic().is_none())
        .map(Lane::name)
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names)?;
    service::start_agent(&sandbox)?;
    Ok(sandbox)
}

/// All ways at once, so that whatever the machine does meets all alike.
fn one(
    sandbox: &Sandbox,
    lanes: &[Lane],
    round: u32,
    requests: usize,
    into: &mut Values,
) -> Result<()> {
    let stops = || lanes.iter().map(|lane| lane.stops(sandbox));
    let before: Vec<u64> = stops().collect::<Result<_>>()?;
    let lost: Vec<u32> = thread::scope(|scope| {
        let loads: Vec<_> = lanes
            .iter()
            .map(|lane| {
                let arrivals = Arrivals {
                    address: SocketAddr::from(([127, 0, 0, 1], lane.front())),
                    requests,
                    mean_gap: Duration::from_millis(60),
                    aimed: 0.5,
                    idle: lane.idle,
                    aim: Duration::from_millis(400),
                    // Of all ways the same arrivals.
                    seed: lane.idle.as_millis() as u64 + u64::from(round) * 1_000_003,
                };
                scope.spawn(move || sandbox.in_network(|| arrivals.run().values().sum::<u32>()))
            })
            .collect();
        let joined = loads.into_iter().map(|load| match load.join() {
            Ok(lost) => lost,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<_>>()
    })?;
    let after: Vec<u64> = stops().collect::<Result<_>>()?;
    for way in WAYS {
        let (mut stopped, mut gone, mut asked) = (0, 0, 0);
        for (index, _) in lanes.iter().enumerate().filter(|(_, lane)| lane.way == way) {
            stopped += after[index] - before[index];
            gone += lost[index];
            asked += requests;
        }
        let values = [
            (Kind::Requests, asked as f64),
            (Kind::Stops, stopped as f64),
            (Kind::Lost, f64::from(gone)),
        ];
        for (kind, value) in values {
            into.entry((kind, way)).or_default().0.push(value);
        }
    }
    Ok(())
}

fn report(values: &Values, rounds: u32) -> Report {
    let sum = |kind, way| -> f64 {
        let series = values.get(&(kind, way));
        series.map_or(f64::NAN, |series| series.0.iter().sum())
    };
    let mut table = Table::default();
    let head = std::iter::once("").chain(WAYS.iter().map(|way| way.name()));
    table.rows.push(head.map(str::to_owned).collect());
    for kind in KINDS {
        let mut row = vec![kind.name().to_owned()];
        row.extend(WAYS.map(|way| format!("{:.0}", sum(kind, way))));
        table.rows.push(row);
    }
    let mut row = vec!["lost in 100 stops".to_owned()];
    let part = |way| sum(Kind::Lost, way) / sum(Kind::Stops, way) * 100.0;
    row.extend(WAYS.map(|way| format!("{:.1}", part(way))));
    table.rows.push(row);
    let targets = [Way::Proxied, Way::Steered].map(|way| Target {
        what: format!("{}: requests lost", way.name()),
        // Of all rounds together: a median would not see one that was lost.
        series: Series(vec![sum(Kind::Lost, way)]),
        limit: Limit::AtMost(0.0),
        digits: 0,
    });
    let figures = values.iter().map(|((kind, way), series)| Figure {
        what: format!("{}, in a round", kind.name()),
        of: way.name().to_owned(),
        series: series.clone(),
    });
    Report {
        name: "stop-race",
        title: "requests lost because the application is being stopped",
        method: format!(
            "Sums of {rounds} rounds, all ways at the same time with the same arrivals: at random, and \
             half of them within 400 ms after the idle timeout (200 and 300 ms). The first three are the \
             units of systemd-socket-proxyd(8); the scripts look every 50 ms with ss and systemctl and \
             call `systemctl stop`. With `--exit-idle-time` and `StopWhenUnneeded=` systemd stops the application."
        ),
        figures: figures.collect(),
        table,
        targets: targets.into(),
    }
}
