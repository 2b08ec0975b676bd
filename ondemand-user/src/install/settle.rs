//! Transitions: what PID 1 must be asked for besides new unit files, in an order in which nothing that
//! runs is stopped, and no connection is cut.
//!
//! - A service that runs when it is taken in: first its lease, then the drop-in that lets PID 1 stop it.
//! - A front socket that does not listen at its present addresses. PID 1 closes the descriptors whose
//!   address is gone from the unit at a daemon-reload, and opens new ones only at the unit's start
//!   (`socket_deserialize_item`, src/core/socket.c).
//! - A service that was removed or renamed: its front socket goes on until another needs its address, or
//!   its application is down.

use std::{collections::HashSet, fmt, fs, path::Path, time::Duration};

use anyhow::{Result, bail};
use nix::unistd::geteuid;
use ondemand_core::{
    config::{Config, DEFAULT_PATH, Endpoint, Service, UnitNames},
    lifecycle::JobEnd,
    words::printable,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    turn::Turn,
    units::{Entry, Record},
};
use crate::{
    host::config_file,
    kernel::sockets::{listening::is_listening, sock_diag::tcp_listeners},
    systemd::{Facts, LEAVE, Questions, Systemd},
};

/// How long a start or stop of an application that is in progress is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a proxy without connections takes to leave.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often such an application is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// What was done, or is left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The lease of a running application, which has this unit.
    Held(String),
    /// PID 1 has loaded the units again.
    Reloaded,
    /// This front socket listens at its present addresses.
    Listens(String),
    /// The service of this name has left the configuration, and its units are gone.
    LetGo(String),
    /// The service of this name waits for something. The text says for what, and what ends it.
    Waits(String, String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(unit) => write!(f, "{unit} runs; its lease is held"),
            Self::Reloaded => f.write_str("systemd has loaded the units again"),
            Self::Listens(socket) => write!(f, "{socket} listens at its present addresses"),
            Self::LetGo(name) => write!(
                f,
                "{name}: no longer configured, its front socket is closed"
            ),
            Self::Waits(name, why) => write!(f, "{name}: {why}"),
        }
    }
}

/// A state that lasts.
fn is_down(facts: &Facts) -> bool {
    matches!(facts.active_state.as_deref(), Some("inactive" | "failed")) && !has_job(facts)
}

fn has_job(facts: &Facts) -> bool {
    facts.job.as_ref().is_some_and(|(id, _)| *id != 0)
}

fn is_active(facts: &Facts) -> bool {
    matches!(facts.active_state.as_deref(), Some("active" | "reloading"))
}

/// A unit's state and its job.
async fn seen(unit: &str, systemd: &Systemd) -> Result<Facts> {
    systemd.few_facts(unit, Questions::default()).await
}

/// Takes the harmless steps for the configuration at `path`, and prints them to standard error. Only root
/// can; for others, and for an invalid configuration, nothing is done.
///
/// # Errors
///
/// Those of [`run`].
pub async fn harmless(path: &Path) -> Result<()> {
    if !geteuid().is_root() || path != Path::new(DEFAULT_PATH) {
        return Ok(());
    }
    let _turn = Turn::take().await?;
    let Ok(config) = config_file::load(path) else {
        return Ok(());
    };
    for step in run(&config, &Record::here(), false).await? {
        eprintln!("ondemand: {}", printable(&step.to_string()));
    }
    Ok(())
}

/// Takes these steps as far as they are harmless now. `close`: also closes the front sockets of services
/// that are no longer configured, though their applications are up. The caller has the [`Turn`].
///
/// # Errors
///
/// PID 1 or the kernel does not answer. What was done stays.
pub async fn run(config: &Config, record: &Record, close: bool) -> Result<Vec<Step>> {
    let entering: Vec<_> = config
        .services
        .values()
        .filter(|service| !record.is_held(&service.name, &service.unit))
        .filter_map(|service| Some((service, record.entry(&service.name)?)))
        .filter(|(service, entry)| service.unit == entry.unit)
        .collect();
    let left = record.left(config);
    let silent = silent(config).unwrap_or_else(|error| {
        log::warn!("whether the front sockets listen is unknown: {error:#}");
        Vec::new()
    });
    if entering.is_empty() && left.is_empty() && silent.is_empty() {
        return Ok(Vec::new());
    }
    let systemd = Systemd::connect().await?;
    let mut steps = Vec::new();
    for (service, entry) in entering {
        take_in(service, &entry, record, &systemd, &mut steps).await?;
    }
    if steps.iter().any(|step| matches!(step, Step::Held(_))) {
        systemd.daemon_reload().await?;
        steps.push(Step::Reloaded);
    }
    for name in left {
        let_go(&name, config, record, close, &systemd, &mut steps).await?;
    }
    for service in silent {
        listen(service, &systemd, &mut steps).await?;
    }
    Ok(steps)
}

/// The services whose units PID 1 would stop at a daemon-reload with their drop-in: they run, and their lease
/// is not held. Empty where there is no PID 1 to ask, as in an image that is being built.
///
/// # Errors
///
/// PID 1 does not answer.
pub async fn unheld(config: &Config) -> Result<Vec<&Service>> {
    let Ok(systemd) = Systemd::connect().await else {
        return Ok(Vec::new());
    };
    let services: Vec<_> = config.services.values().collect();
    let names = services.iter().map(|service| service.unit_names());
    let (backends, leases): (Vec<_>, Vec<_>) =
        names.map(|names| (names.backend, names.lease)).unzip();
    let backends = systemd.states(&backends).await?;
    let leases = systemd.states(&leases).await?;
    let states = backends.into_iter().zip(leases);
    let unheld = services
        .into_iter()
        .zip(states)
        .filter(|(_, (backend, lease))| !backend.is_down() && !lease.is_up());
    Ok(unheld.map(|(service, _)| service).collect())
}

/// Takes the lease of an application that is up.
async fn take_in(
    service: &Service,
    entry: &Entry,
    record: &Record,
    systemd: &Systemd,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let name = &service.name;
    let UnitNames { backend, lease, .. } = service.unit_names();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let wants = Questions {
            wants: true,
            ..Questions::default()
        };
        let facts = systemd.few_facts(&backend, wants).await?;
        if !facts.wants.iter().flatten().any(|wanted| *wanted == lease) {
            let why =
                format!("systemd has not loaded the drop-in of {backend}: systemctl daemon-reload");
            steps.push(Step::Waits(name.clone(), why));
            return Ok(());
        }
        let is_up = is_active(&facts) && !has_job(&facts);
        if is_up && is_active(&seen(&lease, systemd).await?) {
            record.hold(name, entry)?;
            steps.push(Step::Held(backend));
            return Ok(());
        }
        if is_down(&facts) {
            // Its next start takes the lease.
            record.hold(name, entry)?;
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = format!("{backend} is still starting or stopping, and not taken in yet");
            steps.push(Step::Waits(name.clone(), why));
            return Ok(());
        }
        match is_up {
            true => match timeout(PATIENCE, systemd.start(&lease)).await {
                Ok(JobEnd::Done) => {}
                Ok(JobEnd::Canceled) | Err(_) => sleep(PAUSE).await,
                Ok(JobEnd::Failed(why)) => {
                    steps.push(Step::Waits(name.clone(), why));
                    return Ok(());
                }
            },
            false => sleep(PAUSE).await,
        }
    }
}

/// Whether a proxy is down; one without connections leaves at this request. It carries on if it has some.
async fn has_left(proxy: &str, systemd: &Systemd) -> Result<bool> {
    let deadline = Instant::now() + FAREWELL;
    if is_down(&seen(proxy, systemd).await?) {
        return Ok(true);
    }
    // It may be gone by now.
    let _ = systemd.signal(proxy, LEAVE).await;
    while Instant::now() < deadline {
        if is_down(&seen(proxy, systemd).await?) {
            return Ok(true);
        }
        sleep(PAUSE).await;
    }
    Ok(false)
}

/// The services of which a front address has no listener.
///
/// # Errors
///
/// The kernel does not answer.
pub fn silent(config: &Config) -> Result<Vec<&Service>> {
    if elsewhere() {
        return Ok(Vec::new());
    }
    let listeners: HashSet<_> = tcp_listeners(0)?.iter().map(|it| it.address).collect();
    let mut silent = Vec::new();
    for service in config.services.values() {
        let mut listens = true;
        for endpoint in &service.front {
            listens &= match endpoint {
                Endpoint::Tcp(address) => listeners.contains(address),
                Endpoint::Udp(_) | Endpoint::Unix(_) => is_listening(endpoint)?,
            };
        }
        if !listens {
            silent.push(service);
        }
    }
    Ok(silent)
}

/// Whether this process is known to be in another network namespace than PID 1, which holds the front
/// sockets. Only root can tell.
fn elsewhere() -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    of("1").is_some_and(|theirs| of("self") != Some(theirs))
}

/// Lets a front socket listen at its present addresses, if it is up and nobody needs its old ones.
async fn listen(service: &Service, systemd: &Systemd, steps: &mut Vec<Step>) -> Result<()> {
    let UnitNames { proxy, socket, .. } = service.unit_names();
    // One that is down was never started, or was stopped by a person.
    if !is_active(&seen(&socket, systemd).await?) {
        return Ok(());
    }
    let end = match has_left(&proxy, systemd).await? {
        true => systemd.restart(&socket).await,
        false => JobEnd::Failed("its proxy carries clients".into()),
    };
    steps.push(match end {
        JobEnd::Done => Step::Listens(socket),
        JobEnd::Canceled | JobEnd::Failed(_) => Step::Waits(
            service.name.clone(),
            format!(
                "{socket} does not listen at all of its addresses; `systemctl restart {socket}` ends that, and \
                 the connections of its proxy"
            ),
        ),
    });
    Ok(())
}

/// Ends what is left of a service that is not configured any more.
async fn let_go(
    name: &str,
    config: &Config,
    record: &Record,
    close: bool,
    systemd: &Systemd,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let Some(entry) = record.entry(name) else {
        record.forget(name);
        return Ok(());
    };
    let [proxy, lease, socket, timer] =
        ["service", "target", "socket", "timer"].map(|kind| format!("ondemand-{name}.{kind}"));
    let was_up = !is_down(&seen(&socket, systemd).await?);
    let heir = heir(&entry, &record.listens(name), config);
    let needed = heir.is_none() && !close && !is_down(&seen(&entry.unit, systemd).await?);
    if was_up && needed {
        return Ok(());
    }
    if !has_left(&proxy, systemd).await? {
        steps.push(Step::Waits(
            name.to_owned(),
            format!(
                "no longer configured; its front socket is closed when {proxy} has carried its last \
                 connection, or by `systemctl stop {socket}`"
            ),
        ));
        return Ok(());
    }
    // First the timer, which would open the socket again.
    for unit in [&timer, &socket, &lease] {
        if let JobEnd::Failed(why) = systemd.stop(unit).await {
            steps.push(Step::Waits(name.to_owned(), why));
            return Ok(());
        }
    }
    record.forget(name);
    steps.push(Step::LetGo(name.to_owned()));
    if let Some(heir) = heir.filter(|_| was_up) {
        let socket = heir.socket_unit();
        steps.push(match systemd.start(&socket).await {
            JobEnd::Done => Step::Listens(socket),
            JobEnd::Canceled => Step::Waits(
                heir.name.clone(),
                format!("the start of {socket} was cancelled"),
            ),
            JobEnd::Failed(why) => Step::Waits(heir.name.clone(), why),
        });
    }
    Ok(())
}

/// Stops leases and timers that have outlived their units: of a service that left the configuration before its front
/// socket was ever open, of which nothing is generated any more.
///
/// # Errors
///
/// PID 1 does not answer.
pub async fn end_lost(systemd: &Systemd) -> Result<()> {
    let lost = systemd.without_file(&["ondemand-*.target", "ondemand-*.timer"]);
    for unit in lost.await? {
        if let JobEnd::Failed(why) = systemd.stop(&unit).await {
            log::warn!("{unit} has no file any more: {why}");
        }
    }
    Ok(())
}

/// Closes the front sockets of services that were let go once more, if they are still not configured: while an
/// agent had not yet read the configuration, it may have opened them. Called when it has, with the [`Turn`].
///
/// # Errors
///
/// PID 1 does not answer, or cannot close one.
pub async fn close_again(steps: &[Step], config: &Config, systemd: &Systemd) -> Result<()> {
    let gone = steps.iter().filter_map(|step| match step {
        Step::LetGo(name) if !config.services.contains_key(name) => {
            Some(format!("ondemand-{name}.socket"))
        }
        _ => None,
    });
    for socket in gone {
        if is_down(&seen(&socket, systemd).await?) {
            continue;
        }
        if let JobEnd::Failed(why) = systemd.stop(&socket).await {
            bail!("{socket}, whose service is no longer configured: {why}");
        }
    }
    Ok(())
}

/// The service that takes over the application, or the addresses, of one that is gone.
fn heir<'a>(entry: &Entry, listens: &[String], config: &'a Config) -> Option<&'a Service> {
    let listens: Vec<Endpoint> = listens
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let meets = |service: &&Service| {
        let mut needed = service.front.iter().chain(&service.listen);
        needed.any(|front| listens.iter().any(|old| old.overlaps(front)))
    };
    let mut services = config.services.values();
    services
        .clone()
        .find(meets)
        .or_else(|| services.find(|service| service.unit == entry.unit))
}
