//! Finds the tools, or installs them.
//!
//! There are two ways to compile for `bpfel-unknown-none`, and `ondemand-user/build.rs`
//! takes either: a rustup nightly with rust-src, which most users of aya have, or Debian's
//! rustc-web with a prebuilt `core`, which takes seconds to install.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::{
    command::{Step, run},
    programs::{
        APPLICATIONS, CHROMIUM, CXX, HAPROXY, LINTIAN, LONG_APPLICATIONS, NGINX, PACKERS, PYTHON,
        Program, READERS, SANDBOX, STRACE, SYSTEMD, Server, WRK,
    },
    tools::{Missing, apt, is_there},
    vm,
};

/// The linker that works with both compilers.
const LINKER_VERSION: &str = "0.13.0";

/// Of cargo-fuzz.
const FUZZ_VERSION: &str = "0.13.2";

/// Of cargo-deny.
const DENY_VERSION: &str = "0.20.2";

/// What the tools are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// To build.
    Build,
    /// To build, and to run it in a private systemd.
    Run,
    /// The pictures of the README.
    Pictures,
    /// The tests that need no privilege.
    UnitTests,
    /// The tests, but for the long ones.
    Test,
    /// All tests.
    LongTest,
    /// The benches.
    Bench,
    /// Fuzzing.
    Fuzz,
    /// What others wrote.
    Deny,
    /// To build, and to make packages.
    Dist {
        /// They are looked through.
        is_checked: bool,
    },
    /// To build, and to run tests on these kernels.
    Vm(&'a [String]),
}

/// Installs what is missing for this purpose; with `no_install` only lists it. Returns whether
/// all is there.
///
/// # Errors
///
/// An installation fails, or needs root.
pub fn ensure(no_install: bool, purpose: Purpose) -> Result<bool> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(true);
    }
    if no_install {
        println!("missing, and not installed because of --no-install:");
        for item in &missing {
            println!("  {}", item.what);
            for step in &item.how {
                println!("    {}", step.text());
            }
        }
        return Ok(false);
    }
    let by_apt: Vec<_> = missing.iter().filter(|item| item.needs_apt()).collect();
    if !by_apt.is_empty() && !geteuid().is_root() {
        let what: Vec<&str> = by_apt.iter().map(|item| item.what.as_ref()).collect();
        bail!(
            "installing packages needs root, and missing are: {}. Run `cargo xtask setup` once \
             with sudo, or install them yourself (`cargo xtask setup --no-install` lists how)",
            what.join(", ")
        );
    }
    if !by_apt.is_empty() {
        run(&Step::new(&["apt-get", "update"]))?;
    }
    for item in &missing {
        println!("missing: {}", item.what);
        for step in &item.how {
            run(step)?;
        }
    }
    // The package may not contain the missing tool: report it here, not in a later error.
    let still: Vec<_> = self::missing(purpose)
        .into_iter()
        .map(|item| item.what)
        .collect();
    if !still.is_empty() {
        bail!("installed, but still not found: {}", still.join(", "));
    }
    Ok(true)
}

fn missing(purpose: Purpose) -> Vec<Missing> {
    let parts = match purpose {
        Purpose::Build => vec![build_tools()],
        Purpose::Run => vec![programs(&SANDBOX), programs(&[PYTHON]), build_tools()],
        Purpose::Pictures => vec![
            programs(&[CHROMIUM, PYTHON]),
            programs(&SANDBOX),
            build_tools(),
        ],
        Purpose::UnitTests => vec![
            programs(&[CHROMIUM, SYSTEMD]),
            programs(&READERS),
            build_tools(),
        ],
        Purpose::Test => vec![
            programs(&[CHROMIUM]),
            programs(&READERS),
            programs(&SANDBOX),
            programs(&[PYTHON, STRACE]),
            servers(&APPLICATIONS),
            prometheus().into_iter().collect(),
            build_tools(),
        ],
        Purpose::LongTest => vec![
            missing(Purpose::Test),
            servers(&LONG_APPLICATIONS),
            victoria_metrics().into_iter().collect(),
        ],
        Purpose::Bench => vec![
            servers(&[NGINX, HAPROXY]),
            programs(&[WRK]),
            programs(&SANDBOX),
            build_tools(),
        ],
        Purpose::Fuzz => vec![
            installed("cargo-fuzz", FUZZ_VERSION, &[]),
            programs(&[CXX]),
            build_tools(),
        ],
        // Without optimizations it is there in a third of the time, and as fast as is needed.
        Purpose::Deny => vec![installed("cargo-deny", DENY_VERSION, &["--debug"])],
        Purpose::Dist { is_checked } => vec![
            programs(&PACKERS),
            programs(if is_checked { &[LINTIAN] } else { &[] }),
            build_tools(),
        ],
        Purpose::Vm(kernels) => vec![
            vm::missing(kernels),
            programs(&SANDBOX),
            programs(&[PYTHON]),
            build_tools(),
        ],
    };
    parts.into_iter().flatten().collect()
}

/// Those of these that are not there.
fn programs(programs: &[Program]) -> Vec<Missing> {
    let missing = programs.iter().filter(|(program, ..)| !is_there(program));
    missing
        .map(|(_, what, package)| Missing {
            what: (*what).into(),
            how: vec![apt(&[package])],
        })
        .collect()
}

/// A program that cargo installs, if it is not there.
fn installed(program: &'static str, version: &str, options: &[&str]) -> Vec<Missing> {
    if is_there(program) {
        return Vec::new();
    }
    let install = [
        "cargo",
        "install",
        program,
        "--locked",
        "--version",
        version,
    ];
    vec![Missing {
        what: program.into(),
        how: vec![Step::new(&install).args(options)],
    }]
}

/// Those of these servers that are not there.
fn servers(servers: &[Server]) -> Vec<Missing> {
    let missing = servers.iter().filter(|(program, ..)| !is_there(program));
    missing
        .map(|(_, what, packages, units)| {
            // Its package would start it as a service of this machine.
            let mut how = vec![apt(packages).env("RUNLEVEL", "1")];
            if !units.is_empty() && Path::new("/run/systemd/system").is_dir() {
                how.push(Step::new(&["systemctl", "disable", "--now"]).args(units));
            }
            Missing {
                what: (*what).into(),
                how,
            }
        })
        .collect()
}

/// What compiles the eBPF programs, if it is not there.
fn build_tools() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !has_bpf_compiler() {
        missing.push(Missing {
            what: "a Rust compiler for BPF".into(),
            how: vec![bpf_compiler()],
        });
    }
    if !is_there("bpf-linker") {
        let llvm = "/usr/lib/llvm-22";
        let mut how = Vec::new();
        if !Path::new(llvm).join("bin/llvm-config").exists() {
            how.push(apt(&["llvm-22-dev"]));
        }
        how.push(
            Step::new(&[
                "cargo",
                "install",
                "bpf-linker",
                "--version",
                LINKER_VERSION,
                "--locked",
            ])
            .args(&["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", llvm),
        );
        missing.push(Missing {
            what: "bpf-linker".into(),
            how,
        });
    }
    missing
}

/// Prometheus, if it is missing.
fn prometheus() -> Option<Missing> {
    let is_missing = tests::prometheus::program("prometheus").is_err();
    is_missing.then(|| {
        unpacked(
            "Prometheus and promtool, for the tests of the metrics",
            "prometheus",
        )
    })
}

/// Another store, if it is missing; not all versions of Debian have it.
fn victoria_metrics() -> Option<Missing> {
    let package = "victoria-metrics";
    let is_missing = tests::prometheus::program(package).is_err();
    (is_missing && has_package(package))
        .then(|| unpacked("VictoriaMetrics, for a test of a fleet's report", package))
}

/// Only the package's programs. An installation would start a service on this machine.
fn unpacked(what: &'static str, package: &str) -> Missing {
    let directory = tests::target_directory().unwrap_or_else(|_| "target".into());
    let directory = directory.join("prometheus");
    let script = format!(
        "mkdir -p '{0}' && cd '{0}' && apt-get -o APT::Sandbox::User=root download {package} && \
         dpkg-deb -x {package}_*.deb . && rm {package}_*.deb",
        directory.display()
    );
    Missing {
        what: what.into(),
        how: vec![Step::new(&["sh", "-c", &script])],
    }
}

/// Whether apt knows it.
fn has_package(name: &str) -> bool {
    let known = Command::new("apt-cache")
        .args(["show", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    known.is_ok_and(|status| status.success())
}

/// Debian's packages where there is an apt that has them, else a nightly.
fn bpf_compiler() -> Step {
    let debian = has_package("libstd-rust-web-dev-bpf");
    // Before the first `apt-get update` the cache is empty; Debian itself is known to have them.
    let is_debian = std::fs::read_to_string("/etc/os-release")
        .is_ok_and(|text| text.lines().any(|line| line == "ID=debian"));
    if debian || is_debian {
        apt(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"])
    } else {
        Step::new(&["rustup", "toolchain", "install", "nightly"]).args(&[
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ])
    }
}

fn has_bpf_compiler() -> bool {
    let prebuilt = is_there("/usr/bin/cargo")
        && sysroot("/usr/bin/rustc", &[])
            .is_some_and(|root| root.join("lib/rustlib/bpfel-unknown-none").is_dir());
    prebuilt
        || sysroot("rustup", &["run", "nightly", "rustc"])
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
}

fn sysroot(program: &str, arguments: &[&str]) -> Option<PathBuf> {
    let output = Command::new(program)
        .args(arguments)
        .args(["--print", "sysroot"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// The packages with what tests of whole systems run that the root of another distribution lacks.
pub fn packages_missing_in(root: &Path) -> Vec<&'static str> {
    let is_in_root = |program: &str| {
        ["", "usr/bin", "usr/sbin"].iter().any(|directory| {
            let program = program.trim_start_matches('/');
            root.join(directory).join(program).is_file()
        })
    };
    SANDBOX
        .iter()
        .chain([&PYTHON])
        .filter(|(program, ..)| !is_in_root(program))
        .map(|(.., package)| *package)
        .collect()
}
