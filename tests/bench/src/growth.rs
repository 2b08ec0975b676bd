//! `growth`: what the host pays for each further service, when it sets up, looks, starts and reloads, and
//! when all services of the host become idle in one second.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{http, sandbox::Sandbox, service, wait_for};

use crate::{
    fleet::{self, Member},
    machine::{Machine, Usage},
    plot::{Lines, Plot, Scale},
    progress::Progress,
    report::{Figure, Limit, Report, Table, Target},
    settings::{Measured, Settings},
    stats::Series,
};

const ROUNDS: u32 = 3;
/// The numbers of services.
const SIZES: [u16; 2] = [100, 1000];
const SHORT: [u16; 2] = [10, 40];
/// How often the short things are repeated.
const REPEATS: usize = 5;
/// Starts and stops of one service.
const CYCLES: u32 = 20;
/// The idle timeout of services that become idle together.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time until the last of them is stopped.
const DEADLINE: Duration = Duration::from_secs(300);
/// No service of ten times as many may cost more than this, of what one costs.
const MOST_GROWTH: f64 = 12.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Generator,
    Check,
    Status,
    Page,
    PageSize,
    Start,
    StartInit,
    Reload,
    ReloadInit,
    Event,
    AllCpu,
    AllInit,
    PlainInit,
    AllLate,
    NotIdle,
}

const KINDS: [Kind; 15] = [
    Kind::Generator,
    Kind::Check,
    Kind::Status,
    Kind::Page,
    Kind::PageSize,
    Kind::Start,
    Kind::StartInit,
    Kind::Reload,
    Kind::ReloadInit,
    Kind::Event,
    Kind::AllCpu,
    Kind::AllInit,
    Kind::PlainInit,
    Kind::AllLate,
    Kind::NotIdle,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Generator => "the generator, ms",
            Self::Check => "`ondemand check`, ms",
            Self::Status => "`ondemand status`, ms",
            Self::Page => "the page for browsers, ms",
            Self::PageSize => "the page for browsers, kB",
            Self::Start => "start of the agent: its CPU, ms",
            Self::StartInit => "start of the agent: PID 1's CPU, ms",
            Self::Reload => "one change in the configuration: the agent's CPU, ms",
            Self::ReloadInit => "one change in the configuration: PID 1's CPU, ms",
            Self::Event => "a start and a stop of one service: the agent's CPU, ms",
            Self::AllCpu => "all idle in one second: the agent's CPU, ms",
            Self::AllInit => "all idle in one second: PID 1's CPU, ms",
            Self::PlainInit => {
                "the same stops by one `systemctl stop`, without an agent: PID 1's CPU, ms"
            }
            Self::AllLate => "all idle in one second: the last stop after, ms",
            Self::NotIdle => "all idle in one second: stops of another reason than idle",
        }
    }

    /// What it is for the largest number of services.
    fn limit(self) -> Option<f64> {
        Some(match self {
            Self::Generator => 60.0,
            Self::Check | Self::StartInit => 500.0,
            Self::Status => 50.0,
            Self::Page => 100.0,
            Self::PageSize => 200.0,
            Self::Reload => 20.0,
            Self::AllCpu => 2000.0,
            Self::AllLate => 5000.0,
            Self::NotIdle => 0.0,
            Self::Start | Self::ReloadInit | Self::Event | Self::AllInit | Self::PlainInit => {
                return None;
            }
        })
    }

    /// How much it may grow with ten times as many services.
    fn growth(self) -> Option<f64> {
        match self {
            Self::Event => Some(1.5),
            // What PID 1 takes for itself is nothing that is wanted.
            Self::PlainInit | Self::AllLate | Self::NotIdle => None,
            _ => Some(MOST_GROWTH),
        }
    }
}

type Values = BTreeMap<(Kind, u16), Series>;

/// Runs the bench.
///
/// # Errors
///
/// Something does not start, or is not stopped.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let rounds = settings.rounds.unwrap_or(ROUNDS);
    let sizes = if settings.is_short() { SHORT } else { SIZES };
    let mut progress = Progress::new("growth", (1 + 2 * rounds) * sizes.len() as u32);
    let mut values = Values::new();
    let mut machine = None;
    for size in sizes {
        progress.step(&format!("starting a private systemd with {size} services"));
        let mut members: Vec<Member> = (0..size).map(Member::quiet).collect();
        let sandbox = fleet::boot(&settings.ondemand, "test-holder", &members)?;
        let usage = Usage::now(&sandbox)?;
        for round in 0..rounds {
            for half in 0..2 {
                progress.step(&format!(
                    "{size} services, round {} of {rounds}: {}",
                    round + 1,
                    ["set up and looked at", "idle together"][half]
                ));
                let found = match half {
                    0 => apart(&sandbox, &mut members)?,
                    _ => together(&sandbox, &mut members)?,
                };
                for (kind, value) in found {
                    values.entry((kind, size)).or_default().0.push(value);
                }
            }
        }
        machine = Some(Machine::look(&sandbox, &["systemctl --version"], &usage));
    }
    drop(progress);
    Ok(Measured {
        machine: machine.context("no size")?,
        report: report(&values, sizes, rounds),
    })
}

/// CPU time of the private PID 1 so far, in milliseconds.
///
/// # Errors
///
/// The kernel keeps none.
pub fn init_cpu(sandbox: &Sandbox) -> Result<f64> {
    let path = format!("/proc/{}/schedstat", sandbox.init());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let nanos: Option<f64> = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Ok(nanos.with_context(|| format!("{path}: {text}"))? / 1e6)
}

/// CPU time of the agent since its start, in milliseconds.
fn agent_cpu(sandbox: &Sandbox) -> Result<f64> {
    Ok(fleet::agent_cpu(sandbox)? / 1000.0)
}

/// The median milliseconds of a command, each time after `prepare`; its status does not matter.
fn run(sandbox: &Sandbox, words: &[&str], prepare: impl Fn() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        prepare()?;
        let begin = Instant::now();
        let _ = sandbox.run(words);
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Series(times).median())
}

/// What is done with the services while none of them runs.
fn apart(sandbox: &Sandbox, members: &mut [Member]) -> Result<Vec<(Kind, f64)>> {
    let mut found = Vec::new();
    let places = ["/run/made", "/run/made.early", "/run/made.late"];
    // As PID 1 does.
    let empty = format!("rm -rf {0}; mkdir -p {0}", places.join(" "));
    let empty = || sandbox.run(&["sh", "-c", &empty]).map(drop);
    let generator = "/usr/lib/systemd/system-generators/ondemand-generator";
    let words: Vec<&str> = [generator].into_iter().chain(places).collect();
    found.push((Kind::Generator, run(sandbox, &words, empty)?));

    // PID 1 loads all units now, which is no cost of the agent, and knows nothing of them.
    sandbox.run(&["systemctl", "stop", "ondemand.service"])?;
    sandbox.run(&["systemctl", "daemon-reload"])?;
    let idle = init_cpu(sandbox)?;
    fleet::watch(sandbox, &members[..1])?;
    let alone = init_cpu(sandbox)? - idle;
    sandbox.run(&["systemctl", "stop", "ondemand.service"])?;
    let before = init_cpu(sandbox)?;
    fleet::watch(sandbox, &*members)?;
    found.push((Kind::StartInit, init_cpu(sandbox)? - before - alone));
    found.push((Kind::Start, agent_cpu(sandbox)?));
    found.push((
        Kind::Check,
        run(sandbox, &["ondemand", "check"], || Ok(()))?,
    ));

    found.push((
        Kind::Status,
        run(sandbox, &["ondemand", "status"], || Ok(()))?,
    ));
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..REPEATS {
        let begin = Instant::now();
        let page = http::get(sandbox, tests::metrics::address(), "/", "")?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        ensure!(page.status == 200, "the page: {}", page.head);
        size = page.body.len();
    }
    found.push((Kind::Page, Series(times).median()));
    found.push((Kind::PageSize, size as f64 / 1000.0));

    let (mut agent, mut init) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        members[0].idle_timeout += Duration::from_secs(1);
        fleet::write(sandbox, &*members)?;
        let spent = || anyhow::Ok((agent_cpu(sandbox)?, init_cpu(sandbox)?));
        let before = spent()?;
        sandbox.run(&["ondemand", "reload"])?;
        // What follows from it is done when the next question is answered, and the one after that is the cost of
        // asking.
        service::statuses(sandbox)?;
        let between = spent()?;
        service::statuses(sandbox)?;
        let after = spent()?;
        agent.push(2.0 * between.0 - before.0 - after.0);
        init.push(2.0 * between.1 - before.1 - after.1);
    }
    found.push((Kind::Reload, Series(agent).median()));
    found.push((Kind::ReloadInit, Series(init).median()));

    let unit = members[0].unit();
    let before = agent_cpu(sandbox)?;
    for _ in 0..CYCLES {
        sandbox.run(&["systemctl", "start", &unit])?;
        sandbox.run(&["systemctl", "stop", &unit])?;
    }
    let each = (agent_cpu(sandbox)? - before) / f64::from(CYCLES);
    found.push((Kind::Event, each));
    Ok(found)
}

/// All services are up and past their idle timeouts when the agent comes.
fn together(sandbox: &Sandbox, members: &mut [Member]) -> Result<Vec<(Kind, f64)>> {
    sandbox.run(&["systemctl", "stop", "ondemand.service"])?;
    for member in &mut *members {
        member.idle_timeout = TIMEOUT;
    }
    fleet::systemctl(sandbox, "start", members.iter().map(Member::unit))?;
    // By their cgroups, which costs nobody but this process anything.
    let groups: Vec<_> = members
        .iter()
        .map(|member| sandbox.path(&format!("/sys/fs/cgroup/system.slice/{}", member.unit())))
        .collect();
    let ended = || groups.iter().all(|group| !group.exists()).then_some(());
    let before = init_cpu(sandbox)?;
    let leases = members
        .iter()
        .map(|it| format!("ondemand-{}.target", it.name));
    fleet::systemctl(sandbox, "stop", leases)?;
    wait_for("all services are stopped by hand", DEADLINE, ended)?;
    let plain = init_cpu(sandbox)? - before;
    fleet::systemctl(sandbox, "start", members.iter().map(Member::unit))?;
    let reasons = |of: &Value| of["stops_by_reason"].clone();
    let before = init_cpu(sandbox)?;
    fleet::watch(sandbox, &*members)?;
    let begin = Instant::now();
    wait_for("all services are stopped", DEADLINE, ended)?;
    let late = begin.elapsed().saturating_sub(TIMEOUT);
    let down = || {
        let all = service::statuses(sandbox).ok()?;
        let is_down = |of: &Value| of["state"] == "inactive";
        all.values().all(is_down).then_some(all)
    };
    let all = wait_for("the agent knows that", DEADLINE, down)?;
    let init = init_cpu(sandbox)? - before;
    let cpu = agent_cpu(sandbox)?;
    let mut others = 0;
    for status in all.values() {
        let reasons = reasons(status);
        let reasons = reasons.as_object().context("stops_by_reason")?;
        let count = |of: &Value| of.as_u64().unwrap_or(0);
        ensure!(reasons.contains_key("idle"), "{status}");
        let rest = reasons.iter().filter(|(reason, _)| *reason != "idle");
        others += rest.map(|(_, of)| count(of)).sum::<u64>();
    }
    for member in &mut *members {
        member.idle_timeout = Duration::from_secs(3600);
    }
    Ok(vec![
        (Kind::AllCpu, cpu),
        (Kind::AllInit, init),
        (Kind::PlainInit, plain),
        (Kind::AllLate, late.as_secs_f64() * 1000.0),
        (Kind::NotIdle, others as f64),
    ])
}

fn report(values: &Values, sizes: [u16; 2], rounds: u32) -> Report {
    let series = |kind, size| values.get(&(kind, size)).cloned().unwrap_or_default();
    let [few, many] = sizes;
    let mut table = Table::default();
    let head = ["", &format!("{few} services"), &format!("{many} services")].map(str::to_owned);
    table.rows.push(head.to_vec());
    let mut targets = Vec::new();
    for kind in KINDS {
        let mut row = vec![kind.name().to_owned()];
        row.extend(sizes.map(|size| format!("{:.2}", series(kind, size).median())));
        table.rows.push(row);
        targets.extend(kind.limit().map(|limit| Target {
            what: format!("{many} services: {}", kind.name()),
            series: series(kind, many),
            limit: Limit::AtMost(limit),
            digits: 1,
        }));
        targets.extend(kind.growth().map(|growth| Target {
            what: format!("{many} / {few} services: {}", kind.name()),
            series: series(kind, many).ratio_to(&series(kind, few)),
            limit: Limit::AtMost(growth),
            digits: 1,
        }));
    }
    let figures = values.iter().map(|((kind, size), series)| Figure {
        what: kind.name().to_owned(),
        of: format!("{size} services"),
        series: series.clone(),
    });
    Report {
        name: "growth",
        title: "what a further service costs",
        method: format!(
            "Medians of {rounds} rounds. No client connects. The start of the agent comes after a \
             `daemon-reload`, so that PID 1 has looked nothing up yet; what PID 1 does for a start of the \
             agent with one service is left out. The change is another idle timeout of one service; the question by which \
             the bench knows that it is done, the state of all services, is left out. Idle in \
             one second: the agent was away, and comes when all services are up and past their timeouts; a \
             timeout is {} s from the end of the last use, so they are due within a second of its start. \
             The agent's and PID 1's CPU are with the agent's start. For each stop of the agent's PID 1 asks polkit; \
             `systemctl stop` is root's.",
            TIMEOUT.as_secs()
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}

/// What must hold on a busy machine. With few services the growth is lost in the noise.
pub fn checks(report: &Report) -> Vec<Target> {
    let targets = report.targets.iter();
    let absolute = targets.filter(|target| !target.what.contains(" / "));
    absolute.cloned().collect()
}

/// Each cost over the number of services.
pub fn plots(report: &Report) -> Vec<Plot> {
    let line = |kind: Kind| {
        let mut sizes: Vec<u16> = SIZES.into_iter().chain(SHORT).collect();
        sizes.sort_unstable();
        let point = |size: u16| {
            let of = format!("{size} services");
            let median = report.series(kind.name(), &of).median();
            (!median.is_nan()).then_some((f64::from(size), median))
        };
        (
            kind.name().to_owned(),
            sizes.into_iter().filter_map(point).collect(),
        )
    };
    let costs = KINDS.into_iter().filter(|kind| *kind != Kind::NotIdle);
    vec![Plot::Lines(Lines {
        title: "milliseconds, over services".to_owned(),
        x: "services".to_owned(),
        scale: Scale::Logarithmic,
        lines: costs.map(line).collect(),
    })]
}
