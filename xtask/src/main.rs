//! `cargo xtask`: what cargo cannot do.

#[path = "../../tests/bench/src/main.rs"]
mod bench;
mod command;
mod deny;
mod fuzz;
mod household;
mod story;
mod toolchain;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use command::{Step, run};
use toolchain::Purpose;

/// Builds, runs and tests ondemand, and installs what is needed for it.
///
/// Every command first looks whether the tools are there (a Rust compiler for BPF,
/// bpf-linker, systemd, D-Bus) and installs what is missing, printing each command before
/// it runs it. Once they are there, plain `cargo build` works too.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or (with --no-install) something is missing."
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Args, Clone, Copy)]
struct Install {
    /// Install nothing: list what is missing and exit with 2
    #[arg(long)]
    no_install: bool,
}

#[derive(Subcommand)]
enum Task {
    /// See it work: a real application starts for its first request, serves, goes idle, is
    /// stopped, and starts again, with its connections and bytes counted in the kernel.
    ///
    /// By default in a private systemd, which is gone afterwards. Exits with 0 only if every
    /// step was seen.
    Run {
        /// Leave the private systemd running, and say how to look inside
        #[arg(long)]
        keep: bool,
        /// Let clients come to three services for half a minute instead, and report on them
        #[arg(long, conflicts_with_all = ["keep", "host"])]
        report: bool,
        /// Run the agent on this host instead, in the foreground
        ///
        /// Needs systemd as PID 1, and the generator installed as the README says, so that the
        /// units of the configuration are there.
        #[arg(long, requires = "config", conflicts_with = "keep")]
        host: bool,
        /// The configuration for --host
        #[arg(long, value_name = "FILE", requires = "host")]
        config: Option<PathBuf>,
        /// Look for no tools and build nothing: everything is there, as in a virtual machine
        #[arg(long, hide = true, conflicts_with_all = ["host", "report"])]
        built: bool,
        #[command(flatten)]
        install: Install,
    },
    /// Make the pictures of the README anew: `ondemand top`, and the report of a recorded trace
    Pictures {
        #[command(flatten)]
        install: Install,
    },
    /// Install the tools that are missing, and nothing else
    Setup {
        #[command(flatten)]
        install: Install,
    },
    /// Build everything; the program is target/debug/ondemand
    Build {
        /// With optimizations, into target/release
        #[arg(long)]
        release: bool,
        #[command(flatten)]
        install: Install,
    },
    /// Run the tests: first those that need no privilege, then whole systems in a private systemd
    Test {
        /// Only the tests that need no privilege
        #[arg(long)]
        skip_system: bool,
        /// Also the long one: a hundred thousand requests while agents are killed and reloaded
        #[arg(long, conflicts_with = "skip_system")]
        long: bool,
        /// The main story and the tests of steering on Debian's kernels, in an emulated machine
        ///
        /// QEMU and the kernels are unpacked into target/vm, nothing is installed; the logs are
        /// there, too. Ten minutes and more for each kernel, without KVM. With a filter, those
        /// tests of whole systems instead of the ones of steering.
        #[arg(long, value_name = "KERNEL,...", num_args = 0..=1, require_equals = true,
              default_missing_value = "6.1,6.12", value_delimiter = ',',
              conflicts_with = "skip_system")]
        vm: Vec<String>,
        /// Only the tests of whole systems, on the distribution whose root is this directory: its
        /// systemd, D-Bus, polkit and C library, this machine's kernel
        ///
        /// Such a root comes from `debootstrap --variant=minbase
        /// --include=systemd,libpam-systemd,dbus,polkitd,iproute2,python3 trixie DIR`. Nothing is
        /// changed in it, but for empty directories to mount on.
        #[arg(long, value_name = "DIR", conflicts_with_all = ["skip_system", "vm"])]
        root: Option<PathBuf>,
        #[command(flatten)]
        install: Install,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Give hostile input to everything that reads input, by coverage-guided fuzzing.
    ///
    /// One target after the other: the configuration, the unit files, traces, histories, the
    /// holds' file, the metrics' record, sock_diag, the kernel's events and socket tables, HTTP.
    /// The unit tests give each of them some thousand mutations of the seeds; this is for more.
    #[command(after_help = "\
Examples:
  cargo xtask fuzz                             all of them, a hundred thousand inputs each
  cargo xtask fuzz units --runs 10000000       one, for longer
  cargo xtask fuzz history --sanitizer         with AddressSanitizer

A crash exits with 1; its input is in ondemand-user/fuzz/artifacts/. Put it into seeds/ with the
fix, under a name that says what it is.")]
    Fuzz {
        /// Which [default: all of them]
        names: Vec<String>,
        /// How many inputs each of them gets
        #[arg(long, default_value_t = 100_000)]
        runs: u64,
        /// Build with AddressSanitizer, which is slower
        #[arg(long)]
        sanitizer: bool,
        #[command(flatten)]
        install: Install,
    },
    /// Check licences and sources of all that others wrote, and what is banned, by deny.toml
    Deny {
        #[command(flatten)]
        install: Install,
    },
    /// Measure what ondemand costs, beside what people use today.
    ///
    /// Everything runs in a private systemd which is gone afterwards, in alternating order, so
    /// that whatever else the machine does meets all alike; figures are medians with their
    /// spread. Prints a table, with a line for each target, red where it is missed, and writes
    /// target/bench/NAME.md, NAME.json and NAME.svg, a picture.
    ///
    /// data-path: requests, connections, bytes, latency and CPU time, straight to an nginx,
    /// steered, through ondemand's proxy, systemd-socket-proxyd and HAProxy. Nine minutes.
    ///
    /// counting: nanoseconds of each eBPF program for a packet and for a connection, of watched
    /// ports and of others, by the kernel's own measure. About a minute.
    ///
    /// cold-start: how long the first client waits, over the application's own time to listen,
    /// beside plain systemd-socket-proxyd with and without a polling ExecStartPost=. A minute.
    ///
    /// detection: CPU time and processes of watching idle and busy services, and how late one is
    /// stopped, beside checker scripts with ss and systemctl. Six minutes.
    ///
    /// stop-race: requests lost in some hundred stops, beside checker scripts and
    /// systemd-socket-proxyd's --exit-idle-time. Three minutes.
    ///
    /// scale: 1 to 1,000 services and 10 to 100,000 open connections: are the counts exact, what
    /// looking at them costs, the agent's memory and that of the maps. Ten minutes.
    ///
    /// soak: mixed traffic with stops, reloads and killed agents: requests lost, counts that
    /// drift, growth of memory, descriptors and map entries. An hour, or --minutes.
    #[command(after_help = "\
Examples:
  cargo xtask bench                          all of them
  cargo xtask bench data-path --rounds 20    one, in more rounds: a narrower spread
  cargo xtask bench soak --minutes 5         a short one
  cargo xtask bench --check                  does it work, and is nothing absurd? Two minutes

Missing a target is not an error: exit code 0. With --check a figure that is far off, twice, is
one: exit code 1.")]
    Bench {
        /// Which [default: all of them]
        #[arg(value_parser = bench::names())]
        names: Vec<String>,
        /// How often everything is measured [default: each bench has its own]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        /// How long the soak lasts [default: 60; with --rounds 1 a quarter of one]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: Option<u32>,
        /// Put the tables into README.md, under "Measured"
        #[arg(long)]
        readme: bool,
        /// Fail if a figure is so far off its target that no noise explains it; by default in
        /// one small round, of the program as it is built for the tests
        #[arg(long, conflicts_with = "readme")]
        check: bool,
        #[command(flatten)]
        install: Install,
    },
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    let install = match &task {
        Task::Run { install, .. }
        | Task::Pictures { install }
        | Task::Setup { install }
        | Task::Build { install, .. }
        | Task::Test { install, .. }
        | Task::Fuzz { install, .. }
        | Task::Deny { install }
        | Task::Bench { install, .. } => install,
    };
    let purpose = match &task {
        Task::Run { .. } | Task::Build { .. } | Task::Deny { .. } => Purpose::Run,
        Task::Test { vm, .. } if !vm.is_empty() => Purpose::Vm(vm),
        Task::Setup { .. } | Task::Test { .. } | Task::Pictures { .. } => Purpose::Test,
        Task::Fuzz { .. } => Purpose::Fuzz,
        Task::Bench { .. } => Purpose::Bench,
    };
    let built = matches!(task, Task::Run { built: true, .. });
    if !built && !toolchain::ensure(install.no_install, purpose)? {
        return Ok(ExitCode::from(2));
    }
    match task {
        Task::Run {
            config: Some(config),
            ..
        } => run_on_host(&config)?,
        Task::Run { report: true, .. } => {
            build(false)?;
            household::report()?;
        }
        Task::Pictures { .. } => {
            build(false)?;
            household::pictures()?;
        }
        Task::Run { keep, built, .. } => {
            if !built {
                build(false)?;
            }
            story::tell(keep)?;
        }
        Task::Setup { .. } => println!("everything that is needed is there"),
        Task::Build { release, .. } => build(release)?,
        Task::Test { vm, filter, .. } if !vm.is_empty() => vm::test(&vm, filter.as_deref())?,
        Task::Test {
            skip_system,
            long,
            root,
            filter,
            ..
        } => {
            if root.is_none() {
                test_units(filter.as_deref())?;
            }
            if skip_system {
                println!("skipped, as asked: the tests of whole systems");
            } else {
                test_systems(long, root.as_deref(), filter.as_deref())?;
            }
        }
        Task::Deny { .. } => deny::deny()?,
        Task::Fuzz {
            names,
            runs,
            sanitizer,
            ..
        } => fuzz::fuzz(&names, runs, sanitizer)?,
        Task::Bench {
            names,
            rounds,
            minutes,
            readme,
            check,
            ..
        } => {
            let options = bench::Options {
                names,
                rounds,
                minutes,
                readme,
                check,
            };
            if !bench::bench(&options)? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn build(release: bool) -> Result<()> {
    let mut step = Step::cargo(&["build", "--workspace"]);
    if release {
        step = step.args(&["--release"]);
    }
    run(&step)
}

/// The agent in the foreground, on the systemd that runs this machine.
fn run_on_host(config: &Path) -> Result<()> {
    let systemd = Path::new("/run/systemd/system"); // sd_booted(3)
    if !systemd.is_dir() {
        bail!("PID 1 of this machine is not systemd: leave --host out to run in a private one");
    }
    let config = std::path::absolute(config)?;
    build(true)?;
    let program = tests::source_tree().join("target/release/ondemand");
    let program = program.to_string_lossy().into_owned();
    run(&Step::new(&[
        &program,
        "--config",
        &config.to_string_lossy(),
        "agent",
    ]))
}

/// Always the whole workspace: with other packages their dependencies would have other features, and
/// be built once more.
const TEST: [&str; 2] = ["test", "--workspace"];

fn test_units(filter: Option<&str>) -> Result<()> {
    let filter: Vec<&str> = filter.into_iter().collect();
    run(&Step::cargo(&TEST).args(&["--lib", "--bins"]).args(&filter))?;
    // The program as it is called (a glob of cargo's), and the model of the stop protocol.
    let whole = ["--test", "report_*", "--test", "stop_protocol"];
    run(&Step::cargo(&TEST).args(&whole).args(&filter))
}

/// `root`: that of another distribution.
fn test_systems(long: bool, root: Option<&Path>, filter: Option<&str>) -> Result<()> {
    if let Some(reason) = tests::sandbox::unavailable() {
        if root.is_some() {
            bail!("the tests of whole systems cannot run: {reason}");
        }
        println!("skipped: the tests of whole systems: {reason}");
        return Ok(());
    }
    let runner = root.map(runner).transpose()?;
    build(false)?;
    // The tests that show what the stop protocol's steps are for.
    run(&Step::cargo(&["build", "--workspace"]).args(&[
        "--features",
        "ondemand/ablation",
        "--bin",
        "ondemand-ablated",
    ]))?;
    let runner: Vec<&str> = runner.iter().flat_map(|it| ["--config", it]).collect();
    // Two at a time: most wait for something most of the time, and more would be late too often.
    let at_a_time = if long { "1" } else { "2" };
    let filter: Vec<&str> = filter.into_iter().collect();
    let system = Step::cargo(&TEST)
        .args(&runner)
        .args(&["--test", "sandbox", "--test", "system"])
        .args(&filter)
        .args(&["--", "--test-threads", at_a_time]);
    if long {
        // Its figures are what it is run for.
        return run(&system.args(&["--nocapture"]).env("ONDEMAND_LONG", "1"));
    }
    run(&system)
}

/// What cargo is told, to run a test in the root of another distribution.
fn runner(root: &Path) -> Result<String> {
    let root = root
        .canonicalize()
        .with_context(|| format!("the root {}", root.display()))?;
    let missing = toolchain::packages_missing_in(&root);
    if !missing.is_empty() {
        bail!(
            "install these in {}: {}",
            root.display(),
            missing.join(", ")
        );
    }
    let script = tests::source_tree().join("tests/in-root.sh");
    let [script, root] = [script, root].map(|path| path.display().to_string());
    // The words as TOML strings, which have JSON's escapes.
    Ok(format!(
        "target.'cfg(unix)'.runner={}",
        serde_json::json!([script, root])
    ))
}
