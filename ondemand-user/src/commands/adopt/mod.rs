//! `ondemand adopt`: makes a service on demand of a unit, while it runs, and without cutting anything. Each step may be
//! repeated, and a record says what was changed: so an adoption that was killed is finished by the next one, or taken
//! back by `ondemand abandon`.

mod elsewhere;
mod links;
mod list;
mod look;
mod proposal;
pub(super) mod record;
mod refusal;
mod steps;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use elsewhere::Moved;
pub(super) use look::answers;
use nix::unistd::geteuid;
use ondemand_core::{
    config::{Config, Service, add_part},
    words::{Bytes, Span, printable},
};
use record::{Phase, Record};
use serde::Serialize;

use super::{
    apply,
    consent::{Refusal, ask, refuse},
};
use crate::{
    commands::args::Adopt,
    host::{config_file, unit_files::UnitFiles},
    install::{
        check::{
            Level,
            runtime::{self, Unit},
        },
        units::last_good,
    },
    systemd::Systemd,
};

/// What will be done, and what it rests on. Scripts read it: fields are added, never renamed.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    /// The application's unit.
    pub unit: String,
    /// The service.
    pub name: String,
    /// The file that is written.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// Where the unit listens that starts nothing, and why.
    pub others: Vec<String>,
    /// Bytes; null: not accounted.
    pub memory_bytes: Option<u64>,
    /// How long its last start took.
    pub start_seconds: Option<f64>,
    /// Its clients now.
    pub open_connections: u64,
    /// What to know before.
    pub notes: Vec<String>,
    /// What is done, in this order.
    pub steps: Vec<String>,
    /// Whether it was.
    pub done: bool,
    /// The main file, if it is made.
    #[serde(skip)]
    pub makes_main: bool,
    /// Whether it listens elsewhere than where its clients connect.
    #[serde(skip)]
    pub is_moved: bool,
    #[serde(skip)]
    pub record: Record,
}

/// Looks, asks and does it.
///
/// # Errors
///
/// The unit cannot be adopted, or a step failed: those before it stay, and nothing is cut.
pub async fn run(path: &Path, options: &Adopt) -> Result<()> {
    let Some(unit) = &options.unit else {
        return list::run(path, options.json).await;
    };
    let unit = match unit.contains('.') {
        true => unit.clone(),
        false => format!("{unit}.service"),
    };
    let systemd = Systemd::connect().await?;
    let mut plan = plan(path, &unit, options, &systemd).await?;
    let must_ask = !options.json || options.yes;
    if !options.json {
        print!("{}", printable(&text(&plan)));
    }
    if !options.dry_run && must_ask {
        if !geteuid().is_root() {
            bail!("only root may do this: `sudo ondemand adopt {}`", plan.unit);
        }
        if !ask("Do this?", options.yes)? {
            if !plan.record.was_up {
                systemd.stop(&plan.unit).await;
            }
            return refuse("nothing was changed");
        }
        let mut say = |line: &str| {
            if !options.json {
                println!("{}", printable(line));
            }
        };
        steps::take(path, &plan, &systemd, &mut say).await?;
        plan.done = true;
        say(&format!(
            "{} is on demand: stopped after 10 minutes without a client, started by the next one. To undo: ondemand \
             abandon {}",
            plan.unit, plan.name
        ));
    } else if !options.dry_run {
        return refuse(
            "--json asks nothing: add --yes to do it, or --dry-run to see what would be done",
        );
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
    }
    Ok(())
}

async fn plan(path: &Path, asked: &str, options: &Adopt, systemd: &Systemd) -> Result<Plan> {
    let (before, makes_main) = configuration(path)?;
    let config = config_file::parse_here(path, &before)?;
    let canonical = UnitFiles::here().canonical(asked);
    let half = Record::of_unit(&canonical).filter(|(_, record)| record.phase != Phase::Adopted);
    if half.is_none() {
        already(&config, &canonical)?;
    }
    if !options.dry_run {
        // Before anything is started or asked.
        apply::ready(path, &format!("adopt {canonical}"))?;
    }
    let moved = match (&half, &options.backend) {
        (Some((name, record)), _) => Moved::of(&record.text, name),
        (None, backend) => backend.clone().map(|backend| Moved {
            listen: options.listen.clone(),
            backend,
        }),
    };
    let order = look::Asked {
        unit: asked,
        moved: moved.as_ref(),
        is_half: half.is_some(),
        yes: options.yes,
        dry_run: options.dry_run,
    };
    let seen = look::at(order, systemd).await?;
    let (unit, is_started) = (seen.unit.clone(), !seen.was_up);
    let basis = Basis {
        path,
        before: &before,
        makes_main,
        config: &config,
        moved,
        half,
    };
    let plan = propose(basis, options, seen);
    if plan.is_err() && is_started {
        // It is as it was.
        systemd.stop(&unit).await;
    }
    plan
}

/// What a proposal rests on, beside what was seen.
struct Basis<'a> {
    path: &'a Path,
    /// The text of the configuration.
    before: &'a str,
    /// Whether its main file is still to be made.
    makes_main: bool,
    config: &'a Config,
    moved: Option<Moved>,
    /// An adoption that was not finished.
    half: Option<(String, Record)>,
}

fn propose(basis: Basis<'_>, options: &Adopt, mut seen: look::Seen) -> Result<Plan> {
    let Basis {
        path,
        before,
        makes_main,
        config,
        moved,
        half,
    } = basis;
    let name = match (&options.name, &half) {
        (_, Some((name, _))) => name.clone(),
        (Some(name), None) => name.clone(),
        (None, None) => proposal::name_of(&seen.unit),
    };
    let file = config_file::parts_directory(path).join(format!("{name}.toml"));
    let what = runtime::of_unit(&seen.unit, &UnitFiles::here());
    let text = match &half {
        Some((_, record)) => record.text.clone(),
        None => {
            // Whoever is not in the host's network has no listener here to steer to.
            let is_steered = what.started.is_none() && what.other_network.is_none();
            let backend = moved.as_ref().map(|moved| (&moved.backend, is_steered));
            let listen = &seen.addresses.listen;
            proposal::text(&name, &seen.unit, listen, backend, seen.start)
        }
    };
    // A half-done one has its file, or not.
    let is_written = config.services.contains_key(&name);
    match half.is_some() && is_written {
        true => {}
        false => {
            let config = try_out(path, before, &file, &text)?;
            fits(config.service(&name)?, &what, &mut seen.notes)?;
        }
    }
    let was_up = half
        .as_ref()
        .map_or(seen.was_up, |(_, record)| record.was_up);
    let mut links = half.map_or_else(Vec::new, |(_, record)| record.links);
    for link in &seen.links {
        if !links.contains(link) {
            links.push(link.clone());
        }
    }
    let record = Record {
        phase: Phase::Adopting,
        unit: seen.unit.clone(),
        file: file.clone(),
        text: text.clone(),
        was_up,
        links,
    };
    let others = seen.addresses.others.iter();
    Ok(Plan {
        steps: steps::words(path, &name, &record, makes_main),
        others: others
            .map(|(address, why)| format!("{address}: {why}"))
            .collect(),
        unit: seen.unit,
        name,
        file,
        text,
        memory_bytes: seen.memory,
        start_seconds: seen.start.map(|start| start.as_secs_f64()),
        open_connections: seen.clients.open,
        notes: seen.notes,
        done: false,
        makes_main,
        is_moved: moved.is_some(),
        record,
    })
}

/// The text of the present configuration, and whether its main file is still to be made: there has never been one.
pub(super) fn configuration(path: &Path) -> Result<(String, bool)> {
    match config_file::text(path) {
        Ok(text) => Ok((text, false)),
        Err(_) if !path.exists() && last_good::find(path).is_none() => {
            let parts = config_file::parts(path).unwrap_or_default();
            match parts.is_empty() {
                true => Ok((String::new(), true)),
                false => refuse(format!(
                    "{} does not exist, and {} has files; create it, empty, then adopt",
                    path.display(),
                    config_file::parts_directory(path).display()
                )),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a unit that is a service already.
fn already(config: &Config, unit: &str) -> Result<()> {
    let files = UnitFiles::here();
    let mut services = config.services.values();
    match services.find(|service| files.canonical(&service.unit) == unit) {
        None => Ok(()),
        Some(service) => refuse(format!(
            "{unit} is on demand already, as service {name}: `ondemand status {name}` shows it, `ondemand edit {name}` \
             changes it, `ondemand abandon {name}` takes it back",
            name = service.name
        )),
    }
}

/// Refuses a unit that starts what could not be on demand, and notes what else to know.
fn fits(service: &Service, what: &Unit, notes: &mut Vec<String>) -> Result<()> {
    for finding in runtime::judge(service, what) {
        let next = finding.next.map(|next| format!("; {next}"));
        let text = format!("{}{}", finding.message, next.unwrap_or_default());
        match finding.level {
            Level::Error => return Err(Refusal(text).into()),
            Level::Warning => notes.push(text),
            Level::Ok => {}
        }
    }
    Ok(())
}

/// The configuration with this file, if it is valid.
fn try_out(path: &Path, before: &str, file: &Path, text: &str) -> Result<Config> {
    if file.exists() {
        return refuse(format!(
            "{} is there already; remove it, or choose another name with --name",
            file.display()
        ));
    }
    let mut whole = before.to_owned();
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    add_part(&mut whole, name, text).map_err(Refusal)?;
    config_file::parse_here(path, &whole).context(
        "the configuration would not be valid with this service; --name chooses another name",
    )
}

/// The plan for people.
fn text(plan: &Plan) -> String {
    let mut facts = Vec::new();
    facts.extend(
        plan.memory_bytes
            .map(|bytes| format!("takes {}", Bytes(bytes))),
    );
    // One that systemd takes for started at once says nothing.
    let start = plan.start_seconds.filter(|seconds| *seconds >= 0.05);
    facts.extend(start.map(|seconds| {
        format!(
            "started in {} the last time",
            Span(ondemand_core::words::span(seconds))
        )
    }));
    facts.push(match plan.open_connections {
        0 => "has no client now".into(),
        1 => "has 1 client now".into(),
        count => format!("has {count} clients now"),
    });
    let mut text = format!("{} {}.\n", plan.unit, facts.join(", "));
    for note in &plan.notes {
        text += &format!("{note}\n");
    }
    for other in &plan.others {
        text += &format!("Not in `listen`: {other}\n");
    }
    text += &format!("\n{}:\n", plan.file.display());
    for line in plan.text.lines() {
        text += &format!("    {line}\n");
    }
    text += match plan.is_moved {
        false => "\nIt goes on listening there, and running; no connection is cut. Steps:\n",
        true => {
            "\nIt goes on running; clients reach it there from now on, and no connection is cut. Steps:\n"
        }
    };
    for (number, step) in plan.steps.iter().enumerate() {
        text += &format!("  {}. {step}\n", number + 1);
    }
    text += &format!("To undo it later: ondemand abandon {}\n\n", plan.name);
    text
}
