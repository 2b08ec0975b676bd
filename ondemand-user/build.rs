//! Builds the eBPF object with an installed BPF-capable Rust toolchain, and installs nothing.
//! `cargo xtask build` installs what is missing.
//!
//! `ONDEMAND_EBPF_TOOLCHAIN`: `auto` (the default), `system` (a compiler in /usr/bin with a
//! prebuilt `core` for BPF, as Debian packages it) or `rustup:NAME` (a nightly with rust-src).

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

const TARGET: &str = "bpfel-unknown-none";

enum Toolchain {
    /// rustc and cargo whose sysroot holds `core` for BPF.
    Prebuilt { rustc: PathBuf, cargo: PathBuf },
    /// A rustup nightly with rust-src: `-Z build-std=core`.
    BuildStd { name: String },
}

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let program = manifest.join("../ondemand-ebpf");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=../ondemand-ebpf/src");
    println!("cargo::rerun-if-changed=../ondemand-ebpf/Cargo.toml");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    println!("cargo::rerun-if-env-changed=ONDEMAND_EBPF_TOOLCHAIN");

    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out. One directory for all profiles and features,
    // because the object is the same for all; cargo locks it.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("ebpf");
    let mut command = cargo(&find_toolchain()?)?;
    command
        .current_dir(&program)
        .arg("--target-dir")
        .arg(&target_dir)
        // The variables that cargo sets for this build script must not reach the other toolchain.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR");
    let status = command
        .status()
        .with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("the eBPF program could not be built ({status}): {command:?}");
    }
    let object = target_dir.join(TARGET).join("release/ondemand-ebpf");
    std::fs::copy(&object, out.join("ondemand-ebpf.o"))
        .with_context(|| format!("copy {}", object.display()))?;
    Ok(())
}

fn cargo(toolchain: &Toolchain) -> Result<Command> {
    let mut command = match toolchain {
        Toolchain::Prebuilt { rustc, cargo } => {
            let mut command = Command::new(cargo);
            // Both use language features that stable compilers keep behind this switch.
            command
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "aya_ebpf,ondemand_ebpf");
            command
        }
        Toolchain::BuildStd { name } => {
            let mut command = Command::new("rustup");
            command.args(["run", name, "cargo"]).env_remove("RUSTC");
            command
        }
    };
    command
        .args([
            "build",
            "--package",
            "ondemand-ebpf",
            "--bin",
            "ondemand-ebpf",
        ])
        .args([
            "--features",
            "program",
            "--release",
            "--locked",
            "--target",
            TARGET,
        ]);
    if matches!(toolchain, Toolchain::BuildStd { .. }) {
        command.args(["-Z", "build-std=core"]);
    }
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2",
        // Atomic exchange needs the third instruction set, Linux 5.12 and later.
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
    ];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(command)
}

fn find_toolchain() -> Result<Toolchain> {
    let wanted = env::var("ONDEMAND_EBPF_TOOLCHAIN").unwrap_or_else(|_| "auto".into());
    let found = match wanted.as_str() {
        "auto" => rustup("nightly").or_else(prebuilt),
        "system" => prebuilt(),
        other => match other.strip_prefix("rustup:") {
            Some(name) => rustup(name),
            None => bail!("ONDEMAND_EBPF_TOOLCHAIN={other}: expected auto, system or rustup:NAME"),
        },
    };
    found.with_context(|| {
        format!(
            "no Rust toolchain that compiles for {TARGET} was found (searched: {wanted}).\n\
             `cargo xtask build` installs one. By hand, either\n  \
             rustup toolchain install nightly --component rust-src && cargo install bpf-linker\n\
             or, on Debian,\n  \
             apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf, and bpf-linker"
        )
    })
}

fn prebuilt() -> Option<Toolchain> {
    let [rustc, cargo] = ["/usr/bin/rustc", "/usr/bin/cargo"].map(PathBuf::from);
    let has_core = sysroot(&mut Command::new(&rustc))?
        .join("lib/rustlib")
        .join(TARGET)
        .is_dir();
    (has_core && cargo.exists()).then_some(Toolchain::Prebuilt { rustc, cargo })
}

fn rustup(name: &str) -> Option<Toolchain> {
    let root = sysroot(Command::new("rustup").args(["run", name, "rustc"]))?;
    let has_source = root.join("lib/rustlib/src/rust/library/core").is_dir();
    has_source.then(|| Toolchain::BuildStd { name: name.into() })
}

fn sysroot(compiler: &mut Command) -> Option<PathBuf> {
    let output = compiler.args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| Path::new(path.trim()).to_owned())
}
