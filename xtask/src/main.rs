//! `cargo xtask`: what cargo cannot do.

mod build;
mod command;
mod fuzz;
mod household;
mod packages;
mod pictures;
mod programs;
mod story;
mod testing;
mod toolchain;
mod tools;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use command::{Step, run};
use nix::unistd::geteuid;
use tests::bench;
use toolchain::Purpose;

/// Builds, runs and tests ondemand, and installs what is needed for it.
///
/// Every command first looks whether the tools that it needs are there (to build: a Rust
/// compiler for BPF and bpf-linker; to run: systemd, D-Bus, polkit) and installs what is missing,
/// printing each command before it runs it. Once they are there, plain `cargo build` works too.
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
struct Tools {
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
        /// Leave the private systemd running, and print how to look inside
        #[arg(long)]
        keep: bool,
        /// Run clients of three services for half a minute instead, and report on them
        #[arg(long, conflicts_with_all = ["keep", "host"])]
        report: bool,
        /// Run the agent on this host instead, in the foreground
        ///
        /// Requires systemd as PID 1, and the generator, installed as in the README, so that the
        /// units of the configuration exist.
        #[arg(long, requires = "config", conflicts_with = "keep")]
        host: bool,
        /// The configuration for --host
        #[arg(long, value_name = "FILE", requires = "host")]
        config: Option<PathBuf>,
        /// Look for no tools and build nothing: everything is there, as in a virtual machine
        #[arg(long, hide = true, conflicts_with_all = ["host", "report"])]
        built: bool,
        #[command(flatten)]
        install: Tools,
    },
    /// Make the pictures of the documents: `ondemand adopt`, which moves, `ondemand top`, the live page, and the report of a
    /// recorded trace
    Pictures {
        #[command(flatten)]
        install: Tools,
    },
    /// Install the tools that are missing, and nothing else
    Setup {
        #[command(flatten)]
        install: Tools,
    },
    /// Build the program, target/debug/ondemand, and what its tests need
    Build {
        /// The program alone, with optimizations: target/release/ondemand
        #[arg(long)]
        release: bool,
        #[command(flatten)]
        install: Tools,
    },
    /// Make packages in target/dist: a .deb with another one for its debug information, and a .rpm.
    ///
    /// The same commit and compiler make the same bytes. A .rpm takes rpmbuild.
    Dist {
        /// Of the debug build, in target/dist/debug: each twice, compared, and looked through by lintian
        #[arg(long)]
        debug: bool,
        #[command(flatten)]
        install: Tools,
    },
    /// Write the manual pages into target/man
    Man {
        #[command(flatten)]
        install: Tools,
    },
    /// Install it on this host from source, as a package would
    ///
    /// As an upgrade, too: it stops no application and cuts no connection. A configuration that is there is kept.
    Install {
        /// Only write the files, below this directory: for packages of other distributions
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// The debug build, which is there
        #[arg(long, hide = true)]
        debug: bool,
        #[command(flatten)]
        install: Tools,
    },
    /// Remove what `install` has installed; stops no application
    Uninstall {
        /// The configuration, the history and the users, too
        #[arg(long)]
        purge: bool,
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
        /// Such a root can be made by `debootstrap --variant=minbase
        /// --include=systemd,libpam-systemd,dbus,polkitd,iproute2,python3 trixie DIR`. Nothing is
        /// changed in it, except empty directories as mount points.
        #[arg(long, value_name = "DIR", conflicts_with_all = ["skip_system", "vm"])]
        root: Option<PathBuf>,
        #[command(flatten)]
        install: Tools,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Fuzz everything that reads input, with coverage guidance.
    ///
    /// One target after the other: the configuration, the unit files, traces, histories, the
    /// files of holds and of what was learned, the metrics' record, sock_diag, the kernel's events and socket tables, HTTP.
    /// The unit tests run some thousand mutations of the seeds on each of them; this runs more.
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
        install: Tools,
    },
    /// Check licences and sources of all that others wrote, and what is banned, by deny.toml
    Deny {
        #[command(flatten)]
        install: Tools,
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
    /// growth: what a further service costs the generator, check, the agent and PID 1, with 100 and
    /// with 1,000 of them. Four minutes.
    ///
    /// crowd: a thousand stopped services whose first clients come within a second, beside units with
    /// their own sockets and systemd-socket-proxyd. Four minutes.
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
        #[command(flatten)]
        options: bench::Options,
        #[command(flatten)]
        install: Tools,
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
        Task::Uninstall { .. } => &Tools { no_install: true },
        Task::Run { install, .. }
        | Task::Pictures { install }
        | Task::Setup { install }
        | Task::Build { install, .. }
        | Task::Dist { install, .. }
        | Task::Man { install }
        | Task::Install { install, .. }
        | Task::Test { install, .. }
        | Task::Fuzz { install, .. }
        | Task::Deny { install }
        | Task::Bench { install, .. } => install,
    };
    let is_root = geteuid().is_root();
    let all_required = tests::skip::is_all_required();
    if !is_root && let Some(reason) = reason_for_root(&task, all_required) {
        bail!(
            "this needs root, {reason}: run it with sudo, as in\n  {SUDO} ...\n\
             Without root there are build, deny, fuzz, and test, which then leaves out the tests \
             of whole systems."
        );
    }
    if let Some(purpose) = purpose(&task, is_root)
        && !toolchain::ensure(install.no_install, purpose)?
    {
        return Ok(ExitCode::from(2));
    }
    match task {
        Task::Run {
            config: Some(config),
            ..
        } => build::run_on_host(&config)?,
        Task::Run { report: true, .. } => {
            build::programs(&["ondemand", "test-backend"])?;
            household::report()?;
        }
        Task::Pictures { .. } => {
            build::programs(&["ondemand", "test-backend"])?;
            pictures::make()?;
        }
        Task::Run { keep, built, .. } => {
            if !built {
                build::programs(&["ondemand"])?;
            }
            story::tell(keep)?;
        }
        Task::Setup { .. } => println!("everything that is needed is there"),
        Task::Build { release: true, .. } => build::release()?,
        Task::Build { .. } => build::debug()?,
        Task::Dist { debug, .. } => packages::dist(debug)?,
        Task::Man { .. } => packages::man()?,
        Task::Install { root, debug, .. } => packages::source::install(root.as_deref(), debug)?,
        Task::Uninstall { purge } => packages::source::uninstall(purge)?,
        Task::Test { vm, filter, .. } if !vm.is_empty() => vm::test(&vm, filter.as_deref())?,
        Task::Test {
            skip_system,
            long,
            root,
            filter,
            ..
        } => {
            if root.is_none() {
                testing::units(filter.as_deref())?;
            }
            if skip_system {
                println!("skipped on request: the tests of whole systems");
            } else {
                testing::systems(long, root.as_deref(), filter.as_deref())?;
            }
        }
        Task::Deny { .. } => run(&Step::cargo(&["deny", "--locked", "check"])
            .args(&["--hide-inclusion-graph"])
            // Advisories need the network each time.
            .args(&["licenses", "bans", "sources"]))?,
        Task::Fuzz {
            names,
            runs,
            sanitizer,
            ..
        } => fuzz::fuzz(&names, runs, sanitizer)?,
        Task::Bench { options, .. } => build::bench(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What this task needs tools for, if it needs any.
fn purpose(task: &Task, is_root: bool) -> Option<Purpose<'_>> {
    match task {
        Task::Run { built: true, .. } => None,
        Task::Uninstall { .. } | Task::Install { debug: true, .. } => None,
        Task::Run { host: true, .. }
        | Task::Build { .. }
        | Task::Man { .. }
        | Task::Install { .. } => Some(Purpose::Build),
        Task::Dist { debug, .. } => Some(Purpose::Dist { is_checked: *debug }),
        Task::Run { .. } => Some(Purpose::Run),
        Task::Pictures { .. } => Some(Purpose::Pictures),
        Task::Test { vm, .. } if !vm.is_empty() => Some(Purpose::Vm(vm)),
        // Those that need more than a compiler are skipped.
        Task::Test { root: None, .. } if !is_root => Some(Purpose::Build),
        Task::Test {
            skip_system: true, ..
        } => Some(Purpose::UnitTests),
        Task::Test {
            long: true,
            root: None,
            ..
        } => Some(Purpose::LongTest),
        Task::Setup { .. } | Task::Test { .. } => Some(Purpose::Test),
        Task::Fuzz { .. } => Some(Purpose::Fuzz),
        Task::Deny { .. } => Some(Purpose::Deny),
        Task::Bench { .. } => Some(Purpose::Bench),
    }
}

/// The command that runs one of these as root with the caller's compiler.
const SUDO: &str = "sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask";

/// Why this task can do nothing without root, if so. `all_required`: no test may be skipped.
fn reason_for_root(task: &Task, all_required: bool) -> Option<&'static str> {
    match task {
        Task::Run { host: true, .. } => Some("because the agent loads programs into the kernel"),
        Task::Run { .. } | Task::Pictures { .. } | Task::Bench { .. } => {
            Some("because it boots a private systemd")
        }
        Task::Test { root: Some(_), .. } => Some("because it enters the other root"),
        Task::Install { root: None, .. } | Task::Uninstall { .. } => {
            Some("because it changes this host")
        }
        Task::Test {
            skip_system: false,
            vm,
            ..
        } if vm.is_empty() && all_required => Some("because ONDEMAND_REQUIRE_ALL is set"),
        Task::Test { .. }
        | Task::Setup { .. }
        | Task::Build { .. }
        | Task::Dist { .. }
        | Task::Man { .. }
        | Task::Install { .. }
        | Task::Fuzz { .. }
        | Task::Deny { .. } => None,
    }
}

#[cfg(test)]
mod tests_of_tasks {
    use super::*;

    /// Whether a task needs root, and what it needs tools for: as root, and without.
    #[track_caller]
    fn check(words: &str, needs_root: bool, root: Option<Purpose>, user: Option<Purpose>) {
        let words = ["xtask"].into_iter().chain(words.split_whitespace());
        let task = Cli::try_parse_from(words).unwrap().task;
        assert_eq!(reason_for_root(&task, false).is_some(), needs_root);
        assert_eq!(purpose(&task, true), root);
        assert_eq!(purpose(&task, false), user);
    }

    #[test]
    fn a_task_asks_for_what_it_needs() {
        use Purpose::{
            Bench, Build, Deny, Dist, Fuzz, LongTest, Pictures, Run, Test, UnitTests, Vm,
        };
        let both = |words, needs_root, purpose| check(words, needs_root, purpose, purpose);
        both("run", true, Some(Run));
        both("run --keep", true, Some(Run));
        both("run --report", true, Some(Run));
        both("run --built", true, None);
        both("run --host --config x", true, Some(Build));
        both("pictures", true, Some(Pictures));
        both("setup", false, Some(Test));
        both("build", false, Some(Build));
        both("build --release", false, Some(Build));
        both("dist", false, Some(Dist { is_checked: false }));
        both("dist --debug", false, Some(Dist { is_checked: true }));
        both("man", false, Some(Build));
        both("install", true, Some(Build));
        both("install --root x", false, Some(Build));
        both("uninstall", true, None);
        both("fuzz", false, Some(Fuzz));
        both("deny", false, Some(Deny));
        both("bench soak", true, Some(Bench));
        both("test --root x", true, Some(Test));
        both("test --long --root x", true, Some(Test));
        both("test --vm=6.1", false, Some(Vm(&["6.1".to_owned()])));
        check("test", false, Some(Test), Some(Build));
        check("test --long", false, Some(LongTest), Some(Build));
        check("test --skip-system", false, Some(UnitTests), Some(Build));
        let task = Cli::try_parse_from(["xtask", "test"]).unwrap().task;
        assert!(reason_for_root(&task, true).is_some());
    }
}
