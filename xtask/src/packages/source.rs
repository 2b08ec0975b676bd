//! Installs from source what a package would install.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    STEPS, package,
    tree::{self, CONFIGURATION, Kind, text},
};
use crate::{
    build,
    command::{Step, run},
};

/// The names of the installed files, for the next installation and the removal.
const LIST: &str = "usr/share/ondemand/installed";

/// `cargo xtask install`. `root`: only writes the files, below this directory. `debug`: those of the debug build, which is
/// there.
///
/// # Errors
///
/// It does not build, a package is installed already, or something cannot be written.
pub fn install(root: Option<&Path>, debug: bool) -> Result<()> {
    if root.is_none() {
        refuse_packages()?;
    }
    let top = tests::source_tree();
    let program = match debug {
        true => tests::built("ondemand")?,
        false => {
            build::optimized()?;
            top.join("target/release/ondemand")
        }
    };
    let package = package(program, top.join("target/install"))?;
    let staged = package.empty("tree")?;
    let kind = match Path::new("/etc/debian_version").exists() {
        true => Kind::Debian,
        false => Kind::Others,
    };
    tree::make(&package, &staged, kind)?;
    let here = root.unwrap_or(Path::new("/"));
    let before = listed(here)?;
    let files = put(&staged, here, before.is_some())?;
    for gone in before.iter().flatten().filter(|file| !files.contains(file)) {
        remove(&here.join(gone))?;
    }
    if root.is_some() {
        return Ok(());
    }
    let before = before.map_or("", |_| "before");
    steps(&format!("take_up '{before}'"))?;
    println!(
        "installed, and the agent runs. Services: `ondemand help configuration`, then `ondemand apply`.\n\
         To remove it again: cargo xtask uninstall"
    );
    Ok(())
}

/// `cargo xtask uninstall`.
///
/// # Errors
///
/// It was not installed by [`install`], or something cannot be removed.
pub fn uninstall(purge: bool) -> Result<()> {
    let here = Path::new("/");
    let Some(files) = listed(here)? else {
        bail!("it was not installed by `cargo xtask install`: there is no /{LIST}");
    };
    steps("leave")?;
    // The configuration stays, as when a package is removed.
    for file in files
        .iter()
        .filter(|file| *file != Path::new(CONFIGURATION))
    {
        remove(&here.join(file))?;
    }
    remove(&here.join(LIST))?;
    for directory in ["usr/share/ondemand/prometheus", "usr/share/ondemand"] {
        // Not empty: somebody has put something there.
        let _ = fs::remove_dir(here.join(directory));
    }
    for directory in ["examples", "docs", ""] {
        let _ = fs::remove_dir(here.join(tree::DOCUMENTATION).join(directory));
    }
    steps("clean_up")?;
    if purge {
        steps("purge")?;
    }
    println!("removed; applications that run go on running, those that are down stay down");
    Ok(())
}

fn steps(call: &str) -> Result<()> {
    println!("+ {call}");
    let script = format!("set -e\nkind=source\n{STEPS}\n{call}");
    run(&Step::new(&["sh", "-c", &script]).quiet())
}

/// Two installations would overwrite each other.
fn refuse_packages() -> Result<()> {
    if Path::new("/var/lib/dpkg/info/ondemand.list").exists() {
        bail!(
            "the package ondemand is installed: `apt remove ondemand` first, which stops no application"
        );
    }
    Ok(())
}

/// The files of an earlier installation.
fn listed(root: &Path) -> Result<Option<Vec<PathBuf>>> {
    let path = root.join(LIST);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.lines().map(PathBuf::from).collect())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Copies all files; each takes the place of an older one as a whole, also of a program that runs.
fn put(staged: &Path, root: &Path, is_upgrade: bool) -> Result<Vec<PathBuf>> {
    let files = tree::files(staged)?;
    fs::create_dir_all(root.join("etc/ondemand/conf.d")).context("make /etc/ondemand/conf.d")?;
    for file in &files {
        let (from, to) = (staged.join(file), root.join(file));
        if file == Path::new(CONFIGURATION) && (is_upgrade || to.exists()) {
            continue;
        }
        let parent = to.parent().unwrap_or(root);
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let new = parent.join(format!(".{name}.new"));
        run(
            &Step::new(&["cp", "--no-dereference", "--preserve=mode,links"])
                .args(&[&text(&from), &text(&new)])
                .quiet(),
        )?;
        fs::rename(&new, &to).with_context(|| format!("write {}", to.display()))?;
    }
    let list: Vec<String> = files.iter().map(|file| text(file)).collect();
    tree::write(&root.join(LIST), &(list.join("\n") + "\n"))?;
    Ok(files)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
