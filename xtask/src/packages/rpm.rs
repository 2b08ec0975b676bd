//! A package of Fedora and others, by `rpmbuild`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    Package, STEPS,
    tree::{self, CONFIGURATION, DOCUMENTATION, Kind, text},
};
use crate::command::run;

/// Makes the package.
pub(super) fn make(package: &Package) -> Result<Vec<PathBuf>> {
    let root = package.empty("rpm")?;
    tree::make(package, &root, Kind::Others)?;
    let license = root.join("usr/share/licenses/ondemand/LICENSE");
    let source = tests::source_tree().join("LICENSE");
    tree::write(
        &license,
        &std::fs::read_to_string(source).context("read LICENSE")?,
    )?;
    tree::modes(&root)?;
    let top = package.empty("rpmbuild")?;
    let spec = top.join("ondemand.spec");
    tree::write(&spec, &specification(package, &tree::files(&root)?))?;
    let define = |name: &str, value: &str| format!("{name} {value}");
    let level = if package.is_final { "w19" } else { "w1" };
    let defines = [
        define("_topdir", &text(&top)),
        // Everything that could differ between two builds.
        define("use_source_date_epoch_as_buildtime", "1"),
        define("clamp_mtime_to_source_date_epoch", "1"),
        define("source_date_epoch_from_changelog", "0"),
        define("_buildhost", "localhost"),
        define("_binary_payload", &format!("{level}.zstdio")),
        // The tree is as it should be.
        define("__os_install_post", "%{nil}"),
        define("_build_id_links", "none"),
        define("debug_package", "%{nil}"),
    ];
    let mut words = vec![
        "rpmbuild".to_owned(),
        "-bb".to_owned(),
        "--quiet".to_owned(),
    ];
    for define in defines {
        words.extend(["--define".to_owned(), define]);
    }
    let buildroot = top.join("root");
    words.extend(["--buildroot".to_owned(), text(&buildroot), text(&spec)]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(&package.step(&words).env("ONDEMAND_TREE", &text(&root)))?;
    let architecture = std::env::consts::ARCH;
    let name = format!(
        "ondemand-{}-{}.{architecture}.rpm",
        package.version,
        Package::REVISION
    );
    let made = package.directory.join(&name);
    let built = top.join("RPMS").join(architecture).join(&name);
    std::fs::rename(&built, &made).with_context(|| format!("move {}", built.display()))?;
    Ok(vec![made])
}

fn specification(package: &Package, files: &[PathBuf]) -> String {
    // The folders that are no other package's; the last is empty.
    let is_own = |folder: &&Path| folder.iter().any(|part| part == "ondemand");
    let mut folders: BTreeSet<&Path> = files
        .iter()
        .flat_map(|file| file.ancestors().skip(1))
        .filter(is_own)
        .collect();
    folders.insert(Path::new("etc/ondemand/conf.d"));
    let folders = folders.iter();
    let mut listed: String = folders
        .map(|folder| format!("%dir /{}\n", folder.display()))
        .collect();
    for file in files {
        let kind = match text(file) {
            name if name == CONFIGURATION => "%config(noreplace) ",
            name if name.starts_with(DOCUMENTATION) => "%doc ",
            name if name.starts_with("usr/share/licenses") => "%license ",
            _ => "",
        };
        listed.push_str(&format!("{kind}/{}\n", file.display()));
    }
    // A percent sign begins a macro.
    let steps = format!("kind=rpm\n{}", STEPS.replace('%', "%%"));
    format!(
        r#"Name: ondemand
Version: {version}
Release: {revision}
Summary: {synopsis}
License: MIT OR Apache-2.0
URL: {homepage}
Requires: systemd >= 252
Requires: polkit >= 0.106

%description
{description}

%install
cp -a "$ONDEMAND_TREE"/. %{{buildroot}}

%post
{steps}
if [ "$1" -gt 1 ]; then take_up before; else take_up ""; fi

%preun
{steps}
[ "$1" -gt 0 ] || leave

%postun
{steps}
[ "$1" -gt 0 ] || clean_up

%files
%defattr(-,root,root)
{listed}"#,
        version = package.version,
        revision = Package::REVISION,
        synopsis = Package::SYNOPSIS,
        homepage = Package::HOMEPAGE,
        description = Package::DESCRIPTION,
    )
}
