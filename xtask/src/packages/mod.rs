//! Packages, and the same from source: one tree of files, and one set of steps for a host.
//!
//! `dpkg-deb` and `rpmbuild` pack the tree, each distribution's own tool: both make the same bytes twice
//! (`SOURCE_DATE_EPOCH`), and neither needs a second list of the files, as cargo's plugins would.

mod deb;
mod rpm;
pub mod source;
mod tree;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build,
    command::{Step, run},
    tools::is_there,
};

/// What a host does beside the files, as shell functions.
const STEPS: &str = include_str!("../../packaging/steps.sh");

/// What both kinds of packages say.
struct Package {
    version: String,
    /// The time of the last commit, in seconds since 1970: the time of all files.
    epoch: i64,
    /// The program as the build left it, with its debug information.
    program: PathBuf,
    /// Where all of it is made.
    directory: PathBuf,
    /// Whether it is for others, and not for a look at it: small rather than soon.
    is_final: bool,
}

impl Package {
    /// The first line of its description, without an article or a full stop.
    const SYNOPSIS: &str = "stops unused systemd services, and loses no request";
    const DESCRIPTION: &str = "\
systemd can start a service when its first client connects. This stops it
again when no client has used it for a while: eBPF programs count
connections and bytes in the kernel, an agent decides, systemd acts.
It is for services that are used now and then and occupy memory all the
time, such as language models, wikis, preview environments and CI runners.";
    const HOMEPAGE: &str = env!("CARGO_PKG_REPOSITORY");
    const MAINTAINER: &str = "The ondemand developers <ondemand-rs@users.noreply.github.com>";
    /// Increased for other packages of the same version.
    const REVISION: u32 = 1;

    fn epoch_text(&self) -> String {
        self.epoch.to_string()
    }

    /// A step with the time that all its files get.
    fn step(&self, words: &[&str]) -> Step {
        Step::new(words).env("SOURCE_DATE_EPOCH", &self.epoch_text())
    }

    /// An empty directory for one kind of package.
    fn empty(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(directory)
    }
}

/// `cargo xtask dist`: packages in target/dist. `debug`: of the debug build and in target/dist/debug, made twice and
/// looked through.
///
/// # Errors
///
/// Something does not build, a tool is missing, or the packages differ or have a fault.
pub fn dist(debug: bool) -> Result<()> {
    let package = if debug {
        build::programs(&["ondemand"])?;
        of_debug_build()?
    } else {
        // Not stripped: each package does that itself.
        build::optimized()?;
        let top = tests::source_tree();
        package(top.join("target/release/ondemand"), top.join("target/dist"))?
    };
    let made = make(&package)?;
    if debug {
        let first: Vec<_> = made.iter().map(fs::read).collect::<Result<_, _>>()?;
        let again = make(&package)?;
        for (path, first) in again.iter().zip(first) {
            ensure!(
                fs::read(path)? == first,
                "{} is not the same when it is made twice",
                path.display()
            );
        }
        deb::check(&made)?;
    }
    for path in made {
        println!("{}", path.display());
    }
    Ok(())
}

/// The packages of the debug build, which is there, for the tests of whole systems: in target/dist/debug. None, where
/// what makes them is missing.
///
/// # Errors
///
/// It cannot be made.
pub fn for_tests() -> Result<()> {
    if ["dpkg-deb", "dpkg-shlibdeps", "objcopy"]
        .iter()
        .all(|tool| is_there(tool))
    {
        make(&of_debug_build()?)?;
    }
    Ok(())
}

fn of_debug_build() -> Result<Package> {
    let directory = tests::source_tree().join("target/dist/debug");
    let package = package(tests::built("ondemand")?, directory)?;
    Ok(Package {
        is_final: false,
        ..package
    })
}

fn package(program: PathBuf, directory: PathBuf) -> Result<Package> {
    Ok(Package {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: epoch()?,
        program,
        directory,
        is_final: true,
    })
}

fn make(package: &Package) -> Result<Vec<PathBuf>> {
    let mut made = deb::make(package)?;
    if is_there("rpmbuild") {
        made.extend(rpm::make(package)?);
    } else {
        println!("no .rpm is made: rpmbuild is missing (the package rpm)");
    }
    Ok(made)
}

/// The time of the last commit, or `SOURCE_DATE_EPOCH`.
fn epoch() -> Result<i64> {
    if let Ok(text) = env::var("SOURCE_DATE_EPOCH") {
        return text.parse().context("SOURCE_DATE_EPOCH is no number");
    }
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(tests::source_tree())
        .output()
        .context("run git log")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().context(
        "the last commit has no time: in a source tree without git set SOURCE_DATE_EPOCH to the \
         time of the packages, in seconds since 1970",
    )
}

/// Runs a program and returns what it prints.
fn output(words: &[&str], directory: &Path) -> Result<String> {
    let (program, arguments) = words.split_first().context("no program")?;
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{words:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {program}"))
}

/// `cargo xtask man`: the manual pages of the debug build in target/man.
///
/// # Errors
///
/// It does not build, or they cannot be written.
pub fn man() -> Result<()> {
    build::programs(&["ondemand"])?;
    let program = tests::built("ondemand")?;
    let pages = tests::source_tree().join("target/man");
    let words = [&program, Path::new("man"), &pages].map(|path| path.to_string_lossy());
    run(&Step::new(&words.each_ref().map(|word| &**word))
        .env("SOURCE_DATE_EPOCH", &epoch()?.to_string()))
}
