//! The steps of an adoption, each of which may be repeated.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use ondemand_core::{
    config::{Service, UnitNames},
    lifecycle::JobEnd,
};

use super::{
    Plan,
    record::{Phase, Record},
};
use crate::{
    commands::apply,
    host::{ablation::step, atomic_file, config_file, directories},
    install::check::{self, Level, agent},
    systemd::{Facts, Systemd},
};

/// What loads the eBPF programs at boot.
const LOAD: &str = "ondemand-load.service";

/// The text of a main file that is made.
const MAIN: &str = "# The configuration of ondemand: [agent], and services. Each service may have a file of its own in conf.d.\n";

/// What is done, in words.
pub fn words(path: &Path, name: &str, record: &Record, makes_main: bool) -> Vec<String> {
    let mut words = Vec::new();
    if makes_main {
        words.push(format!("write {}, without a service", path.display()));
    }
    words.push(format!("write {}", record.file.display()));
    words.push(format!(
        "systemctl daemon-reload; take its lease (start ondemand-{name}.target), so that nothing stops it"
    ));
    words.push(format!(
        "open its front socket (start ondemand-{name}.socket), where clients wait while it is down"
    ));
    words.push(format!(
        "systemctl enable --now {LOAD} {}, unless they are",
        agent::UNIT
    ));
    for link in &record.links {
        words.push(format!(
            "remove {}: its clients start it",
            link.path.display()
        ));
    }
    words.push("ondemand check".into());
    words
}

/// Takes them.
pub async fn take(
    path: &Path,
    plan: &Plan,
    systemd: &Systemd,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let name = &plan.name;
    plan.record.write(name)?;
    step("recorded");
    if let Err(error) = write(path, plan) {
        Record::forget(name)?;
        return Err(error.context("nothing was changed"));
    }
    say(&format!("wrote {}", plan.file.display()));
    step("written");
    let rest = finish(path, plan, systemd, say).await;
    rest.with_context(|| {
        format!(
            "{} goes on running, and nothing was cut; `ondemand adopt {}` again finishes it, `ondemand abandon {name}` \
             takes it back",
            plan.unit, plan.unit
        )
    })
}

fn write(path: &Path, plan: &Plan) -> Result<()> {
    let write = |file: &Path, text: &str| {
        atomic_file::replace(file, text.as_bytes(), 0o644)
            .with_context(|| format!("write {} (is its file system writable?)", file.display()))
    };
    let directory = config_file::parts_directory(path);
    let above = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(above)
        .and_then(|()| directories::create(&directory, 0o755))
        .with_context(|| {
            format!(
                "create {} (is its file system writable?)",
                directory.display()
            )
        })?;
    if plan.makes_main && !path.exists() {
        write(path, MAIN)?;
    }
    // A half-done one may have it, and a person may have changed it since.
    match plan.file.exists() {
        true => Ok(()),
        false => write(&plan.file, &plan.text),
    }
}

async fn finish(
    path: &Path,
    plan: &Plan,
    systemd: &Systemd,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let name = &plan.name;
    // What waits may be another service.
    apply::bring_into_force(path, say).await?;
    step("in-force");
    enable(systemd, say).await?;
    step("enabled");
    let config = config_file::load(path)?;
    let service = config.service(name)?;
    let links = &plan.record.links;
    if !links.is_empty() {
        // PID 1 stops a unit that nothing needs as soon as its last WantedBy= goes.
        must_be_held(service, systemd).await?;
        for link in links {
            link.remove()?;
            say(&format!("removed {}", link.path.display()));
        }
        step("unlinked");
        systemd.daemon_reload().await?;
        step("reloaded");
    }
    let done = Record {
        phase: Phase::Adopted,
        ..plan.record.clone()
    };
    done.write(name)?;
    step("adopted");
    for finding in check::findings(&config).await {
        let is_about_it = finding
            .service
            .as_ref()
            .is_none_or(|service| service == name);
        if is_about_it && finding.level != Level::Ok {
            let next = finding.next.map(|next| format!("; {next}"));
            say(&format!(
                "check: {}{}",
                finding.message,
                next.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

/// Enables and starts what loads the programs, and the agent.
async fn enable(systemd: &Systemd, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut missing = Vec::new();
    for unit in [LOAD, agent::UNIT] {
        let facts: Facts = systemd.facts(unit).await?;
        if facts.load_state.as_deref() != Some("loaded") {
            bail!(
                "{unit} is not installed, without which it cannot be on demand; install it, then `systemctl daemon-reload`"
            );
        }
        if facts.unit_file_state.as_deref() != Some("enabled") {
            missing.push(unit);
        }
    }
    if !missing.is_empty() {
        systemd.enable(&missing).await?;
        say(&format!("enabled {}", missing.join(" and ")));
    }
    for unit in [LOAD, agent::UNIT] {
        let facts = systemd.facts(unit).await?;
        if facts.active_state.as_deref() == Some("active") {
            continue;
        }
        match systemd.start_as_asked(unit).await {
            JobEnd::Done => say(&format!("started {unit}")),
            JobEnd::Canceled => {
                bail!("the start of {unit} was cancelled by another; run this again")
            }
            JobEnd::Failed(why) => bail!("{why}; `journalctl -u {unit}` says why"),
        }
    }
    Ok(())
}

/// Fails unless nothing stops the application when the last unit that wants it goes.
async fn must_be_held(service: &Service, systemd: &Systemd) -> Result<()> {
    let UnitNames { backend, lease, .. } = service.unit_names();
    let states = systemd.states(&[backend.clone(), lease.clone()]).await?;
    match states[0].is_down() || states[1].is_up() {
        true => Ok(()),
        false => {
            bail!("{lease} does not hold {backend} yet, so it stays in its targets; run this again")
        }
    }
}
