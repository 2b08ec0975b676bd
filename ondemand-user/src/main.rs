//! The `ondemand` program.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use nix::unistd::geteuid;
use ondemand::{
    agent,
    commands::{
        Refusal, abandon, actions, adopt, apply,
        args::{self, Cli, Command, WaitListening},
        client, completions, edit, events, fix, hold_while, pages, report, status, top,
    },
    host::{config_file, logging},
    install::{
        check, permission, reclaim, settle, sieve, thaw,
        units::{self, generator, last_good, pacing},
    },
    kernel::{
        self,
        load::{self, Outcome},
        maps::watch,
        sockets::listening::Application,
    },
    proxy::{
        self,
        wait::{self, Awaited},
    },
};
use ondemand_core::{config, words::printable};

/// The exit code for an impossible request or an invalid configuration.
const USAGE: u8 = 2;

/// Runs the program. (Public for the binary that is built for tests.)
pub fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let called = arguments.next().map(PathBuf::from);
    if called.as_deref().and_then(Path::file_name) == Some(generator::NAME.as_ref()) {
        return generate(arguments.next());
    }
    // A completion exits here, and wrong usage below, with 2.
    completions::complete();
    let cli = Cli::parse();
    logging::init();
    match perform(cli) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ondemand: {}", printable(&format!("{error:#}")));
            exit_code(&error)
        }
    }
}

fn perform(cli: Cli) -> Result<ExitCode> {
    let path = cli.config;
    match cli.command {
        Command::Agent { clean_up: true, .. } => block_on(agent::clean_up(&path))?,
        Command::Agent { dry_run, .. } => block_on(agent::run(&path, dry_run))?,
        Command::Check { fix: true, yes, .. } => {
            return Ok(match block_on(fix::run(&path, yes))? {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            });
        }
        Command::Check { json, .. } => return block_on(check::run(&path, json)),
        Command::Units { output } => print_units(&path, output.as_deref())?,
        Command::Load { user, serve } => load_programs(&path, &user, serve)?,
        Command::Permit { user, print: true } => {
            let config = config_file::load(&path)?;
            let user = user.unwrap_or_else(permission::user);
            let rule = permission::rule::text(&config, &user);
            io::stdout()
                .write_all(rule.as_bytes())
                .context("print the rule")?;
        }
        Command::Permit { user, .. } => {
            let user = user.unwrap_or_else(permission::user);
            let permitted = block_on(thaw::after(|| permission::run(&path, &user)));
            sift(&path);
            block_on(settle::harmless(&path))?;
            permitted?
        }
        Command::Sieve { addresses } => sieve::begin(&addresses)?,
        Command::Fronts => kernel::find_fronts()?,
        Command::Apply { dry_run } => block_on(apply::run(&path, dry_run))?,
        Command::Edit { name } => block_on(edit::run(&path, name.as_deref()))?,
        Command::Adopt(options) => block_on(adopt::run(&path, &options))?,
        Command::Abandon(options) => block_on(abandon::run(&path, &options))?,
        Command::WaitListening(options) => wait_for(&path, options)?,
        Command::WaitRoom {
            name,
            start_timeout,
        } => block_on(wait::room::run(&name, start_timeout))?,
        Command::Reclaim { unit } => block_on(reclaim::run(&unit))?,
        Command::Report(options) => report::run(&path, &options)?,
        Command::Proxy(options) => {
            proxy::run(&options.into())?;
            return Ok(ExitCode::from(pacing::DONE));
        }
        Command::Status(options) => block_on(status::run(&options))?,
        Command::Events { name, json } => block_on(events::run(name.as_deref(), json))?,
        Command::Top => block_on(top::run())?,
        Command::Hold { name, command, .. } if !command.is_empty() => {
            return block_on(hold_while::run(&name, &command)).map(ExitCode::from);
        }
        Command::Hold {
            name, span, start, ..
        } => block_on(actions::hold(&name, span, start))?,
        Command::Release { name } => block_on(actions::release(&name))?,
        Command::Start { name } => block_on(actions::start(&name))?,
        Command::Stop { name } => block_on(actions::stop(&name))?,
        Command::Reload { user } => reload(&path, user.as_deref())?,
        Command::Help { topic } => pages::help(topic.as_deref())?,
        Command::Completions { shell } => completions::print(shell)?,
        Command::Man { directory } => {
            pages::man::write(&directory)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the program's task on this thread.
fn block_on<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("start the event loop")?.block_on(task)
}

/// `serve`: fails if applications that keep their addresses cannot be started by their clients.
fn load_programs(path: &Path, user: &str, serve: bool) -> Result<()> {
    match load::run(user)? {
        Outcome::Loaded => println!("loaded and attached the eBPF programs"),
        // Before each agent: not for the journal.
        Outcome::Present if !io::stdout().is_terminal() => {}
        Outcome::Present => println!("the eBPF programs are loaded and count: nothing to do"),
    }
    let Some(config) = last_good::current(path) else {
        return Ok(());
    };
    let services: Vec<_> = config.services.values().collect();
    if !services.iter().any(|service| service.own_address) {
        return Ok(());
    }
    let group = load::group(user)?;
    match block_on(async { watch::fill(group, &services) }) {
        Err(error) if !serve => {
            // The agent says what becomes of them.
            log::warn!("{error:#}");
            Ok(())
        }
        filled => filled,
    }
}

/// The agent reads its configuration again, whatever became of its permissions: those of the services
/// that it has are as they were.
fn reload(path: &Path, user: Option<&str>) -> Result<()> {
    let permitted = block_on(thaw::after(|| match user {
        Some(user) => permission::run(path, user),
        None => permission::renew(path),
    }));
    sift(path);
    let settled = block_on(settle::harmless(path));
    // An invalid configuration is an error of both.
    block_on(actions::reload(path))?;
    settled?;
    permitted
        .context("the agent has read its configuration, but not all of its permissions are renewed")
}

/// `ignore_empty` at the front sockets that are open.
fn sift(path: &Path) {
    if geteuid().is_root()
        && let Some(config) = last_good::current(path)
        && let Err(error) = sieve::renew(&config)
    {
        log::warn!("connections without a byte start their services: {error:#}");
    }
}

fn print_units(config: &Path, output: Option<&Path>) -> Result<()> {
    let config = config_file::load(config)?;
    let mut files = units::files(&config, &units::Host::here()?)?;
    let Some(directory) = output else {
        let generated = Path::new("/run/systemd/generator");
        return units::print(&files, generated, &mut io::stdout().lock())
            .context("print the units");
    };
    let unheld = block_on(settle::unheld(&config))?;
    units::leave_out_stop(unheld.iter().copied(), &mut files);
    for service in unheld {
        eprintln!(
            "ondemand: {unit} runs, and nothing holds it: StopWhenUnneeded=yes, which would stop it, is left out. Then: \
             systemctl daemon-reload && systemctl start {lease}; then this command again, and systemctl daemon-reload",
            unit = service.unit,
            lease = service.lease_unit()
        );
    }
    units::write(&files, directory)?;
    for old in units::left_behind(&files, directory) {
        eprintln!(
            "ondemand: {} belongs to an earlier configuration; remove it",
            printable(&old.display().to_string())
        );
    }
    Ok(())
}

/// Reads the configuration only if the options are incomplete: the proxy's user may not be allowed
/// to read it.
fn wait_for(config: &Path, options: WaitListening) -> Result<()> {
    let WaitListening {
        name,
        unit,
        backend,
        ready,
        ready_status,
        start_timeout,
        command,
    } = options;
    if let (Some(unit), Some(backend), Some(start_timeout)) = (unit, backend, start_timeout) {
        let application = Application {
            backend,
            own: Vec::new(),
        };
        let awaited = Awaited {
            name,
            unit,
            application,
            ready: args::asked(ready, ready_status),
            chained: false,
            start_timeout,
        };
        return wait::run(&awaited, &command);
    }
    let config = config_file::load(config)?;
    let service = config.service(&name)?;
    let awaited = Awaited {
        name,
        unit: service.unit.clone(),
        application: Application::from(service),
        ready: service.ready.clone(),
        chained: false,
        start_timeout: service.start_timeout,
    };
    wait::run(&awaited, &command)
}

/// Runs as a generator: the first of three directories is the one for units
/// (systemd.generator(7)). Prints nothing to standard output.
fn generate(directory: Option<OsString>) -> ExitCode {
    let Some(directory) = directory else {
        eprintln!(
            "{}: called without an output directory; systemd calls it, see systemd.generator(7)",
            generator::NAME
        );
        return ExitCode::from(USAGE);
    };
    match generator::run(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            generator::complain(&error);
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        let told = cause.downcast_ref::<client::Error>();
        cause.is::<config::Error>()
            || cause.is::<report::Usage>()
            || cause.is::<Refusal>()
            || matches!(told, Some(client::Error::Usage(_)))
    };
    if error.is::<wait::OutOfSight>() {
        ExitCode::from(pacing::LOOK_AGAIN)
    } else if error.is::<wait::room::NoRoom>() {
        ExitCode::from(pacing::NO_ROOM)
    } else if error.is::<proxy::GaveUp>() {
        ExitCode::from(pacing::GAVE_UP)
    } else if error.chain().any(is_usage) {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// The reader has closed the pipe, as in `ondemand units | head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
