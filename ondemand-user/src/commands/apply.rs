//! `ondemand apply`: brings a changed configuration into force, in an order in which nothing that runs is
//! stopped or cut.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{User, geteuid};
use ondemand_core::{
    config::{self, Config, DEFAULT_PATH, Difference, Kind, is_private_front},
    lifecycle::JobEnd,
    words::{counted, printable},
};

use super::client::{self, Client};
use crate::{
    host::{ablation, config_file},
    install::{
        check::{generator_program, page},
        permission,
        settle::{self, Step},
        thaw,
        turn::Turn,
        units::{Record, generator, last_good},
    },
    kernel::{self, load, maps::watch},
    systemd::{Questions, Systemd},
};

/// Does it, and prints each step.
///
/// # Errors
///
/// The configuration is invalid: then nothing was done. Or a step failed; the others were taken.
pub async fn run(path: &Path, dry_run: bool) -> Result<()> {
    let config = config_file::load(path)?;
    if dry_run {
        return print_plan(path, &config).await;
    }
    ready(path, "apply")?;
    for difference in differences(path)? {
        say(&difference.to_string());
    }
    let outcome = bring_into_force(path, &mut say).await?;
    if !outcome.has_agent {
        say(&format!(
            "{} configured; no agent is running, so nothing is stopped: systemctl enable --now ondemand.service",
            counted(config.services.len() as u64, "service")
        ));
    }
    ensure!(
        outcome.is_complete,
        "not everything could be done; the lines above say what to do"
    );
    Ok(())
}

/// What is configured otherwise than it is in force.
fn differences(path: &Path) -> Result<Vec<Difference>> {
    let before = last_good::find(path).map(|copy| copy.text);
    let after = config_file::text(path)?;
    Ok(config::differences(&before.unwrap_or_default(), &after))
}

/// Prints what would be done, beside the writing of units and of the polkit rule.
async fn print_plan(path: &Path, config: &Config) -> Result<()> {
    let mut lines: Vec<_> = differences(path)?.iter().map(ToString::to_string).collect();
    let systemd = Systemd::connect().await?;
    let services: Vec<_> = config.services.values().collect();
    let sockets: Vec<_> = services
        .iter()
        .map(|service| service.socket_unit())
        .collect();
    let states = systemd.states(&sockets).await?;
    let down = sockets
        .iter()
        .zip(states)
        .filter(|(_, state)| !state.is_up());
    lines.extend(down.map(|(socket, _)| format!("starts {socket}")));
    let record = Record::here();
    for service in settle::unheld(config).await? {
        lines.push(format!(
            "takes the lease of {}, which runs: starts {}",
            service.unit,
            service.lease_unit()
        ));
    }
    for service in services {
        let old = record.listens(&service.name);
        let new: Vec<_> = service.front.iter().map(ToString::to_string).collect();
        if !old.is_empty() && old != new {
            let socket = service.socket_unit();
            lines.push(format!(
                "restarts {socket} when its proxy has no client: {} -> {}",
                old.join(" "),
                new.join(" ")
            ));
        }
    }
    for name in record.left(config) {
        lines.push(format!("stops ondemand-{name}.socket when its proxy has no client; its application goes on running"));
    }
    for name in differences(path)?
        .into_iter()
        .filter(|it| it.kind == Kind::Gone)
        .filter_map(|it| it.service)
        // A group has no units.
        .filter(|name| !name.starts_with('['))
    {
        let line = format!(
            "stops ondemand-{name}.socket when its proxy has no client; its application goes on running"
        );
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if lines.is_empty() {
        lines.push("nothing has changed".into());
    }
    if !geteuid().is_root() && last_good::find(path).is_none() {
        eprintln!(
            "ondemand: what is in force is not readable for you, so all of it looks new: `sudo ondemand apply --dry-run`"
        );
    }
    lines.iter().for_each(|line| say(line));
    Ok(())
}

/// Whether a configuration can be brought into force by this process. `command`: what was called.
///
/// # Errors
///
/// This is not root, the file is not the generator's, or there is none.
pub(super) fn ready(path: &Path, command: &str) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "only root may do this: `sudo ondemand {command}`"
    );
    ensure!(
        path == Path::new(DEFAULT_PATH),
        "systemd's generator reads {DEFAULT_PATH} alone; `ondemand --config {} units --output DIR` makes units of \
         other files",
        path.display()
    );
    if generator_program().is_none() {
        bail!(
            "{} is not installed, which makes the units; link it: ln -s /usr/bin/ondemand \
             /usr/lib/systemd/system-generators/",
            generator::NAME
        );
    }
    Ok(())
}

/// What a configuration came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether all could be done.
    pub is_complete: bool,
    /// Whether an agent knows it.
    pub has_agent: bool,
}

/// Does it, with each step told to `say`.
///
/// # Errors
///
/// The configuration is invalid, or PID 1 or the kernel does not answer. What was done stays.
pub(super) async fn bring_into_force(path: &Path, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let mut turn = Turn::take().await?;
    let config = config_file::load(path)?;
    let systemd = Systemd::connect().await?;
    systemd.daemon_reload().await?;
    ablation::step("apply-reloaded");
    let mut failed = false;
    for problem in page::problems(&config) {
        failed = true;
        eprintln!("ondemand: {}", printable(&problem));
    }
    let record = Record::here();
    if record
        .left(&config)
        .iter()
        .any(|name| is_own(&record, name))
    {
        // Their clients must no longer be taken to a front socket that is closed next. The agent takes a turn, too.
        drop(turn);
        match tell_agent().await {
            Ok(true) => {}
            Ok(false) => tell_kernel(&config)?,
            // It is told again, and the failure said, below.
            Err(error) => log::debug!("{error:#}"),
        }
        turn = Turn::take().await?;
    }
    let steps = settle::run(&config, &record, true).await?;
    for step in &steps {
        failed |= matches!(step, Step::Waits(..));
        say(&step.to_string());
    }
    settle::end_lost(&systemd).await?;
    ablation::step("apply-settled");
    failed |= !open(&config, &systemd, say).await?;
    ablation::step("apply-opened");
    failed |= !permit(path).await;
    ablation::step("apply-permitted");
    let services = counted(config.services.len() as u64, "service");
    let mut has_agent = true;
    // The agent has root renew its permissions before it answers, which takes a turn of its own.
    drop(turn);
    match tell_agent().await {
        Ok(true) => {
            let _turn = Turn::take().await?;
            settle::close_again(&steps, &config_file::load(path)?, &systemd).await?;
            say(&format!("the agent watches {services}"));
        }
        Ok(false) => {
            if config.services.values().any(|service| service.own_address) {
                tell_kernel(&config)?;
            }
            has_agent = false;
        }
        Err(error) => {
            failed = true;
            eprintln!("ondemand: {}", printable(&format!("{error:#}")));
        }
    }
    Ok(Outcome {
        is_complete: !failed,
        has_agent,
    })
}

/// Whether the application of a service that was let go kept its address.
fn is_own(record: &Record, name: &str) -> bool {
    let fronts = record.listens(name);
    let mut fronts = fronts.iter().filter_map(|front| front.parse().ok());
    fronts.any(|front| is_private_front(&front))
}

/// Writes to the kernel's maps what an agent would.
fn tell_kernel(config: &Config) -> Result<()> {
    if !kernel::home().exists() {
        return Ok(());
    }
    let services: Vec<_> = config.services.values().collect();
    watch::fill(load::group(permission::USER)?, &services)
}

fn say(line: &str) {
    println!("{}", printable(line));
}

/// Starts the front sockets that are down. Returns whether all of them are up.
async fn open(config: &Config, systemd: &Systemd, say: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut all = true;
    for service in config.services.values() {
        let socket = service.socket_unit();
        let state = systemd
            .few_facts(&socket, Questions::default())
            .await?
            .active_state;
        if state.as_deref() == Some("active") {
            continue;
        }
        match systemd.start(&socket).await {
            JobEnd::Done => say(&format!("{socket} is open")),
            JobEnd::Canceled => say(&format!("the start of {socket} was cancelled by another")),
            JobEnd::Failed(why) => {
                all = false;
                let name = &service.name;
                eprintln!(
                    "ondemand: {}",
                    printable(&format!(
                        "{name}: {why}; `ondemand check` says why: {socket} is not open"
                    ))
                );
            }
        }
    }
    Ok(all)
}

/// Writes the polkit rule. Returns whether that worked, or is not needed.
async fn permit(path: &Path) -> bool {
    // Where the agent runs as root there may be no such user.
    if !matches!(User::from_name(permission::USER), Ok(Some(_))) {
        return true;
    }
    match thaw::after(|| permission::run(path, permission::USER)).await {
        Ok(()) => true,
        Err(error) => {
            eprintln!("ondemand: {}", printable(&format!("{error:#}")));
            false
        }
    }
}

/// Makes the agent read the configuration. Returns whether there is one.
async fn tell_agent() -> Result<bool> {
    let client = Client::connect().await?;
    match client.act("Reload", &(), false).await {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.downcast_ref(), Some(client::Error::NoAgent(_))) => Ok(false),
        Err(error) => Err(error).context("make the agent read the configuration"),
    }
}
