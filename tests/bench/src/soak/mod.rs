//! `soak`: for a long time many clients, many stops, and agents that are replaced. Nothing may
//! be lost, and nothing may grow.

mod clients;
mod report;
mod upsets;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clients::Tally;
pub use report::plots;
use serde_json::Value;
use tests::{metrics, process::Process, sandbox::Sandbox, service, wait_for};
use upsets::{Upset, Upsets};

use crate::{
    machine::{Machine, Usage},
    pins,
    progress::Progress,
    settings::{Measured, Settings},
};

/// Minutes of a whole one.
const MINUTES: u32 = 60;
/// The time between two checks of everything, without clients.
const LAP: Duration = Duration::from_secs(20);
/// The same where it is only to be seen that the bench works.
const SHORT_LAP: Duration = Duration::from_secs(5);
/// Maximum time until all services are stopped after the last client: a veto may delay a stop by
/// half a minute.
const REST: Duration = Duration::from_secs(60);
/// What the agent reads; what the generator reads has all services.
const CONFIG: &str = "/etc/ondemand/soak.toml";
/// A service that is added to and removed from the configuration, and has no clients.
const SPARE: &str = "spare";

/// One service with clients.
struct Service {
    name: &'static str,
    front: u16,
    backend: &'static str,
    steer: bool,
    idle_ms: u64,
    /// How its application behaves.
    options: &'static str,
}

const SERVICES: [Service; 4] = [
    Service {
        name: "steered",
        front: 8000,
        backend: "127.0.0.1:8080",
        steer: true,
        idle_ms: 300,
        options: "",
    },
    Service {
        name: "slow",
        front: 8001,
        backend: "127.0.0.1:8081",
        steer: true,
        idle_ms: 500,
        options: "--notify --start-delay-ms 150 --stop-delay-ms 150",
    },
    Service {
        name: "proxied",
        front: 8002,
        backend: "127.0.0.1:8082",
        steer: false,
        idle_ms: 400,
        options: "",
    },
    Service {
        name: "unix",
        front: 8003,
        backend: "/run/soak.sock",
        steer: false,
        idle_ms: 400,
        options: "",
    },
];

impl Service {
    fn unit(&self) -> String {
        format!("{}-app.service", self.name)
    }

    /// By the longer of the two configurations it is half as much again.
    fn idle(&self, longer: bool) -> Duration {
        Duration::from_millis(if longer {
            self.idle_ms * 3 / 2
        } else {
            self.idle_ms
        })
    }

    fn table(&self, longer: bool) -> String {
        format!(
            "[service.{}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"{}\"\nunit = \"{}\"\n\
             idle_timeout = \"{}ms\"\nmin_uptime = \"0s\"\nsteer = {}\n\n",
            self.name,
            self.front,
            self.backend,
            self.unit(),
            self.idle(longer).as_millis(),
            self.steer
        )
    }
}

/// What happened between two looks, and what the second one saw.
struct Lap {
    seconds: f64,
    clients: Tally,
    upsets: Upsets,
    /// Applications that were stopped.
    stops: f64,
    /// Stops that were not completed because a client connected.
    vetoes: f64,
    /// Connections and bytes that the kernel counted more or fewer than the clients.
    miscounted: u64,
    /// How often the agent itself found that its counts were wrong.
    drift: f64,
    /// The agent's memory that is in no file, MB.
    memory: f64,
    descriptors: f64,
    entries: f64,
    /// MB.
    map_memory: f64,
}

/// Runs the bench.
///
/// # Errors
///
/// Something does not start, or services are not stopped.
pub fn measure(settings: &Settings) -> Result<Measured> {
    let lap = if settings.is_short() { SHORT_LAP } else { LAP };
    let laps = match settings.minutes {
        None if settings.is_short() => 3,
        minutes => minutes.unwrap_or(MINUTES) * 60 / lap.as_secs() as u32,
    };
    let mut progress = Progress::new("soak", laps + 1);
    progress.step("starting a private systemd and the services");
    let sandbox = set_up(settings)?;
    let usage = Usage::now(&sandbox)?;
    let mut before = Look::of(&sandbox)?;
    let mut done: Vec<Lap> = Vec::new();
    for number in 0..laps {
        let lost: u64 = done.iter().flat_map(|lap| lap.clients.lost.values()).sum();
        let requests: u64 = done.iter().map(|lap| lap.clients.requests).sum();
        let stops = done.iter().fold(0.0, |sum, lap| sum + lap.stops);
        progress.step(&format!(
            "{requests} requests, {stops:.0} stops, {lost} requests lost"
        ));
        // Of each third the agent is another one; in between they are killed.
        let rough = (laps / 3..laps - laps / 3).contains(&number);
        let (result, after) = one(&sandbox, lap, rough, number, &before)
            .with_context(|| sandbox.journal("ondemand.service"))?;
        done.push(result);
        before = after;
    }
    drop(progress);
    let machine = Machine::look(&sandbox, &["systemctl --version"], &usage);
    Ok(Measured {
        machine,
        report: report::report(&done),
    })
}

fn set_up(settings: &Settings) -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    sandbox.install_ondemand(&settings.ondemand)?;
    sandbox.install(&tests::built("test-backend")?, "/usr/bin/test-backend")?;
    for service in &SERVICES {
        let options = format!("--listen {} {}", service.backend, service.options);
        service::write_backend(&sandbox, &service.unit(), &options)?;
    }
    service::write_backend(&sandbox, "spare-app.service", "--listen 127.0.0.1:8090")?;
    sandbox.write(
        "/etc/systemd/system/ondemand.service.d/soak.conf",
        format!(
            "[Unit]\nStartLimitIntervalSec=0\n\
             [Service]\nExecStart=\nExecStart=/usr/bin/ondemand --config {CONFIG} agent\n"
        ),
    )?;
    service::write_config(&sandbox, &tables(false, true))?;
    configure(&sandbox, false, false)?;
    let names = SERVICES.iter().map(|service| service.name);
    let names: Vec<&str> = names.chain([SPARE]).collect();
    service::reload(&sandbox, &names)?;
    service::start_agent(&sandbox)?;
    rest(&sandbox)?;
    Ok(sandbox)
}

fn tables(longer: bool, spare: bool) -> String {
    let mut tables: String = SERVICES
        .iter()
        .map(|service| service.table(longer))
        .collect();
    if spare {
        tables += "[service.spare]\nlisten = [\"127.0.0.1:8009\"]\nbackend = \"127.0.0.1:8090\"\n\
                   unit = \"spare-app.service\"\n";
    }
    tables
}

/// Writes the agent's configuration, of its next start or reload.
///
/// # Errors
///
/// It cannot be written.
fn configure(sandbox: &Sandbox, longer: bool, spare: bool) -> Result<()> {
    let agent = format!("[agent]\nmetrics = \"{}\"\n\n", metrics::address());
    let text = agent + &tables(longer, spare);
    // By rename: an agent that starts at this moment reads one or the other.
    let fresh = format!("{CONFIG}.new");
    sandbox.write(&fresh, text)?;
    std::fs::rename(sandbox.path(&fresh), sandbox.path(CONFIG)).context("write the configuration")
}

/// Waits until an agent has the first configuration and all services are stopped.
fn rest(sandbox: &Sandbox) -> Result<()> {
    configure(sandbox, false, false)?;
    wait_for("the agent takes its configuration", service::SOON, || {
        let reload = sandbox.run(&["ondemand", "reload"]);
        let services = reload.and_then(|_| service::statuses(sandbox)).ok()?;
        (services.len() == SERVICES.len()).then_some(())
    })?;
    wait_for("all services are stopped", REST, || {
        let services = service::statuses(sandbox).ok()?;
        let stopped = |service: &Value| {
            service["state"] == "inactive" && service["open_connections"].as_u64() == Some(0)
        };
        services.values().all(stopped).then_some(())
    })
    .with_context(|| format!("{:#?}", service::statuses(sandbox)))
}

/// Clients for a while, then none, then a check.
fn one(
    sandbox: &Sandbox,
    lap: Duration,
    rough: bool,
    number: u32,
    before: &Look,
) -> Result<(Lap, Look)> {
    let begin = Instant::now();
    let end = begin + lap;
    let (tallies, upsets) = thread::scope(|scope| {
        let clients: Vec<_> = (1..)
            .zip(&SERVICES)
            .map(|(place, service)| {
                let address = SocketAddr::from(([127, 0, 0, 1], service.front));
                // Aimed at the moments of stops by either configuration.
                let idle = service.idle(number % 2 == 1);
                let seed = place * 1_000_003 + u64::from(number);
                scope.spawn(move || sandbox.in_network(|| clients::visit(address, idle, seed, end)))
            })
            .collect();
        let upsets = upsets::upset(sandbox, rough, u64::from(number) + 7, end);
        let tallies = clients.into_iter().map(|clients| match clients.join() {
            Ok(tally) => tally,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        Ok::<_, anyhow::Error>((tallies.collect::<Result<Vec<_>>>()?, upsets?))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    rest(sandbox)?;
    let after = Look::of(sandbox)?;
    let miscounted = (before.counts.iter().zip(&after.counts))
        .zip(&tallies)
        .map(|((before, after), tally)| {
            let wanted = [tally.connections, tally.sent, tally.received];
            let counted = after
                .iter()
                .zip(before)
                .map(|(after, before)| after - before);
            let differences = counted
                .zip(wanted)
                .map(|(counted, wanted)| counted.abs_diff(wanted));
            differences.sum::<u64>()
        })
        .sum();
    let mut clients = Tally::default();
    tallies.into_iter().for_each(|tally| clients.add(tally));
    let agent = Process::agent(sandbox)?;
    let maps = pins::maps(sandbox)?;
    let lap = Lap {
        seconds,
        clients,
        upsets,
        stops: after.stops - before.stops,
        vetoes: after.vetoes - before.vetoes,
        miscounted,
        drift: after.drift - before.drift,
        memory: agent.memory()?.anonymous / 1e6,
        descriptors: agent.descriptors()? as f64,
        entries: maps.entries as f64,
        map_memory: maps.memory / 1e6,
    };
    Ok((lap, after))
}

/// The agent's status without clients.
struct Look {
    /// Connections, bytes from clients and bytes to them, of each service.
    counts: Vec<[u64; 3]>,
    stops: f64,
    vetoes: f64,
    drift: f64,
}

impl Look {
    fn of(sandbox: &Sandbox) -> Result<Self> {
        let status = service::statuses(sandbox)?;
        let count = |service: &Service| -> Result<[u64; 3]> {
            let of = status.get(service.name);
            let number = |key: &str| {
                let number = of.and_then(|of| of.get(key)).and_then(Value::as_u64);
                number.with_context(|| format!("{key} of {}: {of:?}", service.name))
            };
            Ok([
                number("accepted_connections")?,
                number("received_bytes")?,
                number("sent_bytes")?,
            ])
        };
        let samples = metrics::scrape(sandbox)?;
        let sum = |name: &str| {
            let begin = format!("ondemand_{name}{{");
            let of_name = samples
                .iter()
                .filter(|(sample, _)| sample.starts_with(&begin));
            of_name.map(|(_, value)| value).sum()
        };
        Ok(Self {
            counts: SERVICES.iter().map(count).collect::<Result<_>>()?,
            stops: sum("stops_total"),
            vetoes: sum("stop_vetoes_total"),
            drift: sum("count_drift_total"),
        })
    }
}
