//! `ondemand abandon`: makes an ordinary unit of a service again, while it runs, and without cutting anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;
use ondemand_core::{
    config::{Config, Service},
    lifecycle::JobEnd,
    words::printable,
};
use tokio::time::{Instant, sleep};

use super::{
    adopt::{
        answers, configuration,
        record::{Phase, Record},
    },
    apply,
    args::Abandon,
    consent::{ask, refuse},
};
use crate::{
    host::{ablation::step, config_file},
    kernel::sockets::listening::Application,
    systemd::Systemd,
};

/// How long a proxy may go on carrying its clients.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often it is looked at.
const AGAIN: Duration = Duration::from_millis(500);
/// How often an application that starts is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// What will be done.
struct Plan {
    name: String,
    unit: String,
    /// Its file, if it is still there.
    file: Option<PathBuf>,
    record: Option<Record>,
}

/// Looks, asks and does it.
///
/// # Errors
///
/// There is no such service, it is not in a file of its own, or a step failed: those before it stay.
pub async fn run(path: &Path, options: &Abandon) -> Result<()> {
    // One that was killed before it wrote anything leaves a record alone.
    let (text, is_missing) = configuration(path)?;
    let config = config_file::parse_here(path, &text)?;
    let name = service_name(&config, &options.name);
    let plan = plan(path, &config, &name)?;
    if is_missing && plan.record.is_none() {
        config_file::load(path)?;
    }
    print!("{}", printable(&words(&plan)));
    if options.dry_run {
        return Ok(());
    }
    if !geteuid().is_root() {
        bail!("only root may do this: `sudo ondemand abandon {name}`");
    }
    apply::ready(path, &format!("abandon {name}"))?;
    if !ask("Do this?", options.yes)? {
        return refuse("nothing was changed");
    }
    let systemd = Systemd::connect().await?;
    let done = take(path, &config, &plan, &systemd).await;
    done.with_context(|| format!("nothing was cut; `ondemand abandon {name}` again finishes it"))?;
    let enabled = match &plan.record {
        Some(record) if record.links.is_empty() => "; it was not enabled before, and is not now",
        Some(_) => ", and enabled as before",
        None => "; how it was enabled before is not known: `systemctl enable` starts it at boot",
    };
    println!("{} is an ordinary unit again{enabled}", plan.unit);
    if let Some(service) = config.services.get(&name).filter(|it| !it.own_address) {
        let listen: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
        println!(
            "it listens at {}, and nobody at {} any more: move it back there, where its clients connect",
            service.backend,
            listen.join(", ")
        );
    }
    Ok(())
}

/// The service that a person means, by its name, its unit, or its unit's name without `.service`.
fn service_name(config: &Config, asked: &str) -> String {
    if config.services.contains_key(asked) {
        return asked.to_owned();
    }
    let unit = match asked.ends_with(".service") {
        true => asked.to_owned(),
        false => format!("{asked}.service"),
    };
    let mut services = config.services.values();
    let by_unit = services.find(|service| service.unit == unit);
    let by_unit = by_unit.map(|service| service.name.clone());
    let by_record = || Record::of_unit(&unit).map(|(name, _)| name);
    by_unit
        .or_else(by_record)
        .unwrap_or_else(|| asked.to_owned())
}

fn plan(path: &Path, config: &Config, name: &str) -> Result<Plan> {
    let record = Record::of(name);
    let Some(service) = config.services.get(name) else {
        // An earlier call was killed between the end of the file and that of the record.
        return match record {
            Some(record) => Ok(Plan {
                name: name.to_owned(),
                unit: record.unit.clone(),
                file: None,
                record: Some(record),
            }),
            None => {
                config.service(name)?;
                bail!("no service {name:?}; `ondemand status` lists them")
            }
        };
    };
    let file = file_of(path, name)?;
    if file == path {
        return refuse(format!(
            "service {name} is in {file}, beside others or written by hand: remove [service.{name}] there, then `ondemand \
             apply`; {unit} goes on running, and `systemctl enable {unit}` starts it at boot",
            file = file.display(),
            unit = service.unit
        ));
    }
    let alone = config_file::copied(&file).and_then(|text| config_file::parse(&file, &text))?;
    if alone.services.len() > 1 {
        return refuse(format!(
            "{} has other services, too: remove [service.{name}] there, then `ondemand apply`",
            file.display()
        ));
    }
    Ok(Plan {
        name: name.to_owned(),
        unit: service.unit.clone(),
        file: Some(file),
        record,
    })
}

/// The file that a service is in.
///
/// # Errors
///
/// The files cannot be read.
pub(super) fn file_of(path: &Path, name: &str) -> Result<PathBuf> {
    for file in config_file::parts(path).context("read the directory of the configuration")? {
        let text = config_file::copied(&file)?;
        // Alone it may be invalid where it is not among the others.
        let names = ondemand_core::config::service_names(&text);
        if names.iter().any(|it| it == name) {
            return Ok(file);
        }
    }
    Ok(path.to_owned())
}

fn words(plan: &Plan) -> String {
    let mut steps = vec![format!("start {}, unless it is up", plan.unit)];
    for link in plan.record.iter().flat_map(|record| &record.links) {
        steps.push(format!("make {} again", link.path.display()));
    }
    steps.extend(
        plan.file
            .iter()
            .map(|file| format!("remove {}", file.display())),
    );
    steps.push(
        "systemctl daemon-reload; close its front socket, and release its lease, which then stops nothing"
            .to_owned(),
    );
    let mut text = format!(
        "{} is an ordinary unit again after these steps; it goes on running, and no connection is cut:\n",
        plan.unit
    );
    for (number, step) in steps.iter().enumerate() {
        text += &format!("  {}. {step}\n", number + 1);
    }
    text.push('\n');
    text
}

async fn take(path: &Path, config: &Config, plan: &Plan, systemd: &Systemd) -> Result<()> {
    let keep_up = plan.record.as_ref().is_none_or(|record| record.was_up);
    if let Some(record) = &plan.record {
        let record = Record {
            phase: Phase::Abandoning,
            ..record.clone()
        };
        record.write(&plan.name)?;
    }
    step("marked");
    // One that is wanted is not stopped any more.
    for link in plan.record.iter().flat_map(|record| &record.links) {
        link.restore()?;
    }
    step("relinked");
    if keep_up {
        bring_up(&plan.unit, config.services.get(&plan.name), systemd).await?;
    }
    step("started");
    if let Some(file) = &plan.file {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", file.display()));
            }
            _ => println!("removed {}", printable(&file.display().to_string())),
        }
    }
    step("removed");
    out_of_force(path).await?;
    step("out-of-force");
    if keep_up {
        // It may have been stopped as idle before that; nothing stops it now.
        bring_up(&plan.unit, None, systemd).await?;
    }
    Record::forget(&plan.name)?;
    step("forgotten");
    Ok(())
}

/// Brings the configuration into force. A proxy that carries a client is waited for.
async fn out_of_force(path: &Path) -> Result<()> {
    // Nothing was written yet.
    if !path.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + FAREWELL;
    loop {
        let mut said = Vec::new();
        let outcome = apply::bring_into_force(path, &mut |line| said.push(line.to_owned())).await?;
        let done = outcome.is_complete;
        let is_over = done || Instant::now() >= deadline;
        if is_over {
            said.iter().for_each(|line| println!("{}", printable(line)));
        }
        match is_over {
            true if done => return Ok(()),
            true => bail!("not everything could be done; the lines above say what to do"),
            false => sleep(AGAIN).await,
        }
    }
}

/// Sees to it that the application is up, and listens where it did.
async fn bring_up(unit: &str, service: Option<&Service>, systemd: &Systemd) -> Result<()> {
    match systemd.start_as_asked(unit).await {
        JobEnd::Done => {}
        JobEnd::Canceled => bail!("the start of {unit} was cancelled by another; run this again"),
        JobEnd::Failed(why) => bail!("{why}; `systemctl status {unit}` says why"),
    }
    let Some(service) = service else {
        return Ok(());
    };
    let application = Application::from(service);
    let deadline = Instant::now() + service.start_timeout;
    // One that is not in the host's network has no listener here.
    while !application.is_listening()? && (service.own_address || !answers(&service.backend).await)
    {
        if Instant::now() >= deadline {
            bail!(
                "{unit} does not listen at {}; `journalctl -u {unit}`, then run this again",
                service.backend
            );
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
