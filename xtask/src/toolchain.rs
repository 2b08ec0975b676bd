//! Finds the tools, or installs them.
//!
//! There are two ways to compile for `bpfel-unknown-none`, and `ondemand-user/build.rs`
//! takes either: a rustup nightly with rust-src, which most users of aya have, or Debian's
//! rustc-web with a prebuilt `core`, which takes seconds to install.

use std::{
    borrow::Cow,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::{
    command::{Step, run},
    vm,
};

/// The linker that works with both compilers.
const LINKER_VERSION: &str = "0.13.0";

/// Of cargo-fuzz.
const FUZZ_VERSION: &str = "0.13.2";

/// What runs in tests of whole systems: a program, what it is, its Debian package.
const PROGRAMS: [(&str, &str, &str); 7] = [
    ("/usr/lib/systemd/systemd", "systemd", "systemd"),
    ("dbus-daemon", "D-Bus", "dbus"),
    ("/usr/lib/polkit-1/polkitd", "polkit", "polkitd"),
    ("nsenter", "nsenter and unshare", "util-linux"),
    // A part of util-linux up to Debian 13.
    ("pivot_root", "pivot_root", "util-linux-extra"),
    ("ip", "ip", "iproute2"),
    ("python3", "Python, for the example application", "python3"),
];

/// What the tools are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// To build and run.
    Run,
    /// The tests, too.
    Test,
    /// The benches, too.
    Bench,
    /// Fuzzing, too.
    Fuzz,
    /// To build, and to run tests on these kernels.
    Vm(&'a [String]),
}

/// Something that is needed and not there.
pub struct Missing {
    /// What it is.
    pub what: Cow<'static, str>,
    /// How to install it.
    pub how: Vec<Step>,
}

/// Installs what is missing for this purpose; with `no_install` only lists it. Gives whether all
/// is there.
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
    let needs_root = missing
        .iter()
        .flat_map(|item| &item.how)
        .any(|step| step.text().contains("apt-get"));
    if needs_root && !geteuid().is_root() {
        bail!(
            "installing packages needs root: run this with sudo, or install them yourself \
             (`cargo xtask setup --no-install` lists them)"
        );
    }
    if needs_root {
        run(&Step::new(&["apt-get", "update"]))?;
    }
    for item in &missing {
        println!("missing: {}", item.what);
        for step in &item.how {
            run(step)?;
        }
    }
    // What apt installed may not be what was looked for: say so here, not in a later error.
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
    let mut missing = match purpose {
        Purpose::Vm(kernels) => vm::missing(kernels),
        _ => Vec::new(),
    };
    let servers = [
        ("nginx", "nginx, the server for the benches"),
        ("haproxy", "HAProxy, a peer in the benches"),
    ];
    for (name, what) in servers {
        if purpose != Purpose::Bench || is_there(&format!("/usr/sbin/{name}")) {
            continue;
        }
        // The package would start it as a service of this machine.
        let mut how = vec![apt(&[name]).env("RUNLEVEL", "1")];
        if Path::new("/run/systemd/system").is_dir() {
            how.push(Step::new(&["systemctl", "disable", "--now", name]));
        }
        missing.push(Missing {
            what: what.into(),
            how,
        });
    }
    if purpose == Purpose::Bench && !is_there("wrk") {
        missing.push(Missing {
            what: "wrk, the load for the benches".into(),
            how: vec![apt(&["wrk"])],
        });
    }
    if purpose == Purpose::Test && !is_there("chromium") {
        missing.push(Missing {
            what: "Chromium, in which tests look at the page of a report".into(),
            how: vec![apt(&["chromium"])],
        });
    }
    if purpose == Purpose::Test && !is_there("/usr/lib/polkit-1/polkitd") {
        missing.push(Missing {
            what: "polkit, for the test of who may act (it starts when it is asked)".into(),
            how: vec![apt(&["polkitd"])],
        });
    }
    if purpose == Purpose::Fuzz && !is_there("cargo-fuzz") {
        let install = ["cargo", "install", "cargo-fuzz", "--locked", "--version"];
        missing.push(Missing {
            what: "cargo-fuzz".into(),
            how: vec![Step::new(&install).args(&[FUZZ_VERSION])],
        });
    }
    if purpose == Purpose::Fuzz && !is_there("c++") {
        missing.push(Missing {
            what: "a C++ compiler, for libFuzzer".into(),
            how: vec![apt(&["g++"])],
        });
    }
    for (program, what, package) in PROGRAMS {
        if !is_there(program) {
            missing.push(Missing {
                what: what.into(),
                how: vec![apt(&[package])],
            });
        }
    }
    if tests::prometheus::program("prometheus").is_err() {
        missing.push(Missing {
            what: "Prometheus and promtool, for the tests of the metrics".into(),
            how: vec![prometheus()],
        });
    }
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

fn apt(packages: &[&str]) -> Step {
    Step::new(&["apt-get", "install", "--yes", "--no-install-recommends"])
        .args(&["-o", "DPkg::Lock::Timeout=300"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
}

/// The package's programs alone, unpacked: installing it would start a service on this machine.
fn prometheus() -> Step {
    let directory = tests::target_directory().unwrap_or_else(|_| "target".into());
    let directory = directory.join("prometheus");
    let script = format!(
        "mkdir -p '{0}' && cd '{0}' && apt-get -o APT::Sandbox::User=root download prometheus && \
         dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb",
        directory.display()
    );
    Step::new(&["sh", "-c", &script])
}

/// Debian's packages where there is an apt that has them, else a nightly.
fn bpf_compiler() -> Step {
    let debian = Command::new("apt-cache")
        .args(["show", "libstd-rust-web-dev-bpf"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
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

/// The packages of [`PROGRAMS`] that the root of another distribution lacks.
pub fn packages_missing_in(root: &Path) -> Vec<&'static str> {
    let is_in_root = |program: &str| {
        ["", "usr/bin", "usr/sbin"].iter().any(|directory| {
            let program = program.trim_start_matches('/');
            root.join(directory).join(program).is_file()
        })
    };
    PROGRAMS
        .iter()
        .filter(|(program, ..)| !is_in_root(program))
        .map(|(.., package)| *package)
        .collect()
}

/// Whether a program is at this path, or in a directory of root's `PATH`, which may be longer than
/// that of who builds.
pub fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(sbin)
        .any(|directory| directory.join(program).is_file())
}
