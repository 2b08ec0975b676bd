//! The files of an installation, below a directory that stands for `/`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tests::source_tree;

use super::Package;
use crate::command::{Step, run};

/// What is copied as it is: from the source tree, to where.
const COPIED: &[(&str, &str)] = &[
    (
        "units/ondemand.service",
        "usr/lib/systemd/system/ondemand.service",
    ),
    (
        "units/ondemand-load.service",
        "usr/lib/systemd/system/ondemand-load.service",
    ),
    (
        "units/ondemand-permit.service",
        "usr/lib/systemd/system/ondemand-permit.service",
    ),
    (
        "units/org.ondemand1.conf",
        "usr/share/dbus-1/system.d/org.ondemand1.conf",
    ),
    (
        "units/interfaces/org.ondemand1.Manager.xml",
        "usr/share/dbus-1/interfaces/org.ondemand1.Manager.xml",
    ),
    (
        "units/interfaces/org.ondemand1.Service.xml",
        "usr/share/dbus-1/interfaces/org.ondemand1.Service.xml",
    ),
    (
        "units/org.ondemand1.policy",
        "usr/share/polkit-1/actions/org.ondemand1.policy",
    ),
    (
        "units/sysusers.d/ondemand.conf",
        "usr/lib/sysusers.d/ondemand.conf",
    ),
    (
        "units/modules-load.d/ondemand.conf",
        "usr/lib/modules-load.d/ondemand.conf",
    ),
    (
        "units/prometheus/prometheus.yml",
        "usr/share/ondemand/prometheus/prometheus.yml",
    ),
    (
        "units/prometheus/ondemand.rules.yml",
        "usr/share/ondemand/prometheus/ondemand.rules.yml",
    ),
    (
        "units/prometheus/dashboard.json",
        "usr/share/ondemand/prometheus/dashboard.json",
    ),
    (
        "units/prometheus/fleet.json",
        "usr/share/ondemand/prometheus/fleet.json",
    ),
    ("xtask/packaging/ondemand.toml", CONFIGURATION),
];

/// The configuration, which an upgrade leaves as it is.
pub(super) const CONFIGURATION: &str = "etc/ondemand/ondemand.toml";
/// The folder of the documentation.
pub(super) const DOCUMENTATION: &str = "usr/share/doc/ondemand";

/// Where a distribution has what others do not have there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Debian and what came of it.
    Debian,
    /// Others.
    Others,
}

/// Makes all of it in the empty directory `root`.
pub(super) fn make(package: &Package, root: &Path, kind: Kind) -> Result<()> {
    let top = source_tree();
    for (from, to) in COPIED {
        copy(&top.join(from), &root.join(to), 0o644)?;
    }
    let examples = top.join("units/examples");
    for entry in fs::read_dir(&examples).context("read units/examples")? {
        let entry = entry?;
        let mode = match entry.path().extension() {
            Some(end) if end == "py" => 0o755,
            _ => 0o644,
        };
        let to = root.join(DOCUMENTATION).join("examples");
        copy(&entry.path(), &to.join(entry.file_name()), mode)?;
    }
    for document in ["README.md", "MANUAL.md", "JSON.md", "SECURITY.md"] {
        let to = root.join(DOCUMENTATION).join(document);
        copy(&top.join(document), &to, 0o644)?;
    }
    for entry in fs::read_dir(top.join("docs")).context("read docs")? {
        let entry = entry?;
        let to = root.join(DOCUMENTATION).join("docs");
        copy(&entry.path(), &to.join(entry.file_name()), 0o644)?;
    }
    let changes = root.join(DOCUMENTATION).join("changelog");
    copy(&top.join("CHANGELOG.md"), &changes, 0o644)?;
    gzip(&[changes])?;

    let program = root.join("usr/bin/ondemand");
    copy(&package.program, &program, 0o755)?;
    run(
        &Step::new(&["objcopy", "--strip-all", "--remove-section=.comment"])
            .args(&[&text(&program)]),
    )?;
    let generators = root.join("usr/lib/systemd/system-generators");
    fs::create_dir_all(&generators).context("make the generator's directory")?;
    symlink(
        "../../../bin/ondemand",
        generators.join("ondemand-generator"),
    )
    .context("link the generator")?;
    fs::create_dir_all(root.join("etc/ondemand/conf.d")).context("make conf.d")?;
    pages(package, root)?;
    completions(&program, root, kind)?;
    modes(root)
}

/// The manual pages, which the program writes itself.
fn pages(package: &Package, root: &Path) -> Result<()> {
    let written = package.empty("man")?;
    let program = text(&package.program);
    run(&package.step(&[&program, "man", &text(&written)]))?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&written).context("read the manual pages")? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let section = name.rsplit('.').next().unwrap_or_default();
        let to = root.join(format!("usr/share/man/man{section}/{name}"));
        copy(&entry.path(), &to, 0o644)?;
        pages.push(to);
    }
    gzip(&pages)
}

fn completions(program: &Path, root: &Path, kind: Kind) -> Result<()> {
    let zsh = match kind {
        Kind::Debian => "usr/share/zsh/vendor-completions/_ondemand",
        Kind::Others => "usr/share/zsh/site-functions/_ondemand",
    };
    for (shell, to) in [
        ("bash", "usr/share/bash-completion/completions/ondemand"),
        ("fish", "usr/share/fish/vendor_completions.d/ondemand.fish"),
        ("zsh", zsh),
    ] {
        let script = super::output(&[&text(program), "completions", shell], root)?;
        write(&root.join(to), &script)?;
    }
    Ok(())
}

/// Writes a file, and the directories that it needs.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    make_parent(path)?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", to.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))
}

/// Compresses files, without their names and times.
pub(super) fn gzip(paths: &[PathBuf]) -> Result<()> {
    let paths: Vec<String> = paths.iter().map(|path| text(path)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    run(&Step::new(&["gzip", "--best", "--no-name"])
        .args(&paths)
        .quiet())
}

/// Everyone may read all of it, whatever the caller's umask is.
pub(super) fn modes(path: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let is_open = meta.is_dir() || meta.permissions().mode() & 0o100 != 0;
    let mode = if is_open { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            modes(&entry?.path())?;
        }
    }
    Ok(())
}

/// The files and links below a directory, relative to it, in order.
pub(super) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            match fs::symlink_metadata(&path)?.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(root)?.to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A path as a word of a command.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
