//! `ondemand check`: reports what would not work, before it fails.

mod access;
mod addresses;
pub mod agent;
mod chains;
mod common;
mod empty;
mod finding;
mod forwarders;
mod freeze;
mod generated;
mod held;
mod holders;
mod host;
mod loaded;
mod metrics;
mod mounts;
mod native;
mod own_address;
pub mod page;
mod permission;
mod ports;
mod programs;
mod proxy;
mod ready;
mod room;
pub mod runtime;
mod service;
mod unit;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow};
use common::{Common, Manager};
use futures_util::{StreamExt as _, stream};
use holders::Sockets;
use ondemand_core::{
    config::{Config, DEFAULT_PATH},
    words::printable,
};

use crate::{
    host::{config_file, unit_files::UnitFiles},
    install::units::{self, generator, last_good},
    systemd::Systemd,
};

pub use finding::{Finding, Level, text, worst};
pub use generated::generator_program;

/// Brings the configuration into force, in an order in which nothing that runs is stopped or cut.
const APPLY: &[&str] = &["ondemand", "apply"];
/// The number of services that are looked at at once.
const AT_ONCE: usize = 16;

/// Checks the configuration, this host and each service, and prints the findings. The exit
/// code is 1 if there is an error.
///
/// # Errors
///
/// The configuration is invalid, or the output cannot be written.
pub async fn run(config: &Path, json: bool) -> Result<ExitCode> {
    match config_file::load(config) {
        Ok(config) => {
            let findings = look(&config).await;
            print(&findings, json)?;
            Ok(match worst(&findings) {
                Level::Error => ExitCode::FAILURE,
                Level::Ok | Level::Warning => ExitCode::SUCCESS,
            })
        }
        Err(error) => {
            // What does not depend on it, or only on what is in force instead.
            let copy = last_good::find(config);
            let older =
                copy.map_or_else(|| config_file::parse(config, ""), |copy| Ok(copy.config))?;
            let mut findings = look_at_host(&older, &Systemd::connect().await).await;
            findings.extend(mounts::look(&older));
            if json {
                let next = "correct it, then systemctl daemon-reload";
                findings.insert(0, Finding::error("config", format!("{error:#}"), next));
            }
            print(&findings, json)?;
            say_meanwhile(config);
            Err(error)
        }
    }
}

fn print(findings: &[Finding], json: bool) -> Result<()> {
    let output = if json {
        serde_json::to_string_pretty(findings)? + "\n"
    } else {
        printable(&text(findings))
    };
    match io::stdout().write_all(output.as_bytes()) {
        // The reader has closed the pipe; the exit code still counts.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.context("print the findings")?,
    }
    Ok(())
}

/// Looks at what does not depend on the services.
async fn look_at_host(config: &Config, systemd: &Result<Systemd>) -> Vec<Finding> {
    let mut found = host::kernel();
    found.extend(host::services(systemd, config).await);
    let host = generated::host(generator_program().as_deref());
    found.extend(host.as_ref().ok().map(host::program));
    found
}

/// The command that makes the units those of the configuration. `None`: they are, or it is unknown.
pub fn what_makes_units(config: &Path) -> Option<String> {
    let config = config_file::load(config).ok()?;
    let program = generator_program();
    let source = generated::Source::of(&config, program.as_deref());
    let host = generated::host(program.as_deref()).ok()?;
    let files = units::files(&config, &host).ok()?;
    let files = units::by_path(&files);
    let looks = config.services.values();
    let mut looks = looks.filter_map(|service| {
        generated::look(service, &files, &host.unit_files, &source, None).next
    });
    looks.find(|next| next == source.next())
}

/// Reports which units systemd has while this configuration cannot be used.
fn say_meanwhile(config: &Path) {
    if config != Path::new(DEFAULT_PATH) {
        return;
    }
    let words = match (generator::reported(), last_good::find(config)) {
        (Some(report), _) => format!("when systemd ran its generators, {report}"),
        // It has read the file while it was correct.
        (None, Some(copy)) => format!(
            "until {} is corrected, systemd uses the units of an older one, {}",
            config.display(),
            copy.words()
        ),
        (None, None) => return,
    };
    eprintln!("ondemand: {}", printable(&words));
}

/// Whether the generator could use the file when it ran last.
fn generated_from(config: &Config) -> Option<Finding> {
    if config.path != Path::new(DEFAULT_PATH) {
        return None;
    }
    let report = generator::reported()?;
    Some(
        Finding::warning(
            "generator",
            format!("when systemd ran its generators, {report}"),
            "systemctl daemon-reload: the file is correct now",
        )
        .fixed_by(APPLY),
    )
}

/// What there is to say of a valid configuration.
pub async fn findings(config: &Config) -> Vec<Finding> {
    look(config).await
}

async fn look(config: &Config) -> Vec<Finding> {
    let services = match config.services.len() {
        0 => Finding::warning(
            "config",
            format!("{}: no service is configured", config.path.display()),
            "add a [service.NAME]; `ondemand --help` shows an example",
        ),
        count => Finding::ok(
            "config",
            format!(
                "{}: {}",
                config.path.display(),
                ondemand_core::words::counted(count as u64, "service")
            ),
        ),
    };
    let mut found = vec![services, metrics::look(config)];
    found.extend(generated_from(config));
    found.extend(mounts::look(config));
    let systemd = Systemd::connect().await;
    found.extend(look_at_host(config, &systemd).await);

    let program = generator_program();
    let source = generated::Source::of(config, program.as_deref());
    found.extend(ports::look(config));
    let host = generated::host(program.as_deref());
    let files = host
        .as_ref()
        .map_err(|error| anyhow!("{error:#}"))
        .and_then(|host| units::files(config, host));
    found.extend(left(config));
    let systemd = systemd.as_ref().ok();
    let report = match systemd {
        Some(systemd) => proxy::ask_agent(systemd).await,
        None => None,
    };
    found.extend(room::groups(config, report.as_ref()));
    let seen = report
        .as_ref()
        .map_or_else(BTreeMap::new, proxy::seen_by_agent);
    let manager = match systemd {
        Some(systemd) => Some(Manager::ask(systemd, config).await),
        None => None,
    };
    let no_files = UnitFiles::default();
    let common = Common {
        files: files.as_deref().map(units::by_path),
        unit_files: host.as_ref().map_or(&no_files, |host| &host.unit_files),
        source: &source,
        sockets: Sockets::look(),
        manager,
        seen,
        sieves: empty::sieves(config),
    };
    let common = &common;
    let looks = config.services.values().map(|service| async move {
        let about = service::look(service, common).await;
        about
            .into_iter()
            .map(|finding| finding.of(&service.name))
            .collect::<Vec<_>>()
    });
    // One after the other they would wait for each answer of systemd.
    let about: Vec<Vec<Finding>> = stream::iter(looks.collect::<Vec<_>>())
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut chains = chains::look(config, common.unit_files, common.manager.as_ref()).await;
    let (budget, mut budgets) =
        room::budget(config, common.manager.as_ref(), report.as_ref()).await;
    found.extend(budget);
    for (name, about) in config.services.keys().zip(about) {
        found.extend(about);
        found.extend(chains.remove(name).unwrap_or_default());
        found.extend(budgets.remove(name).unwrap_or_default());
    }
    found
}

/// Front sockets of services that are no longer configured. Only root sees them.
fn left(config: &Config) -> Vec<Finding> {
    if config.path != Path::new(DEFAULT_PATH) {
        return Vec::new();
    }
    let names = units::Record::here().left(config);
    let finding = |name: &String| {
        Finding::warning(
            "units",
            format!("no longer configured, and not stopped any more; ondemand-{name}.socket still serves its clients"),
            "ondemand apply, which closes it",
        )
        .fixed_by(APPLY)
        .of(name)
    };
    names.iter().map(finding).collect()
}
