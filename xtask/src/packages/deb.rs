//! A package of Debian, by `dpkg-deb`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use tests::source_tree;

use super::{
    Package, STEPS, output,
    tree::{self, CONFIGURATION, DOCUMENTATION, Kind, text},
};
use crate::{
    command::{Step, run},
    tools::is_there,
};

/// The scripts of a package (deb-postinst(5) and so on): what is done when.
const SCRIPTS: [(&str, &str); 3] = [
    (
        "postinst",
        r#"case "$1" in
    configure | abort-upgrade | abort-deconfigure | abort-remove) take_up "$2" ;;
esac
"#,
    ),
    (
        "prerm",
        r#"[ "$1" != remove ] || leave
"#,
    ),
    (
        "postrm",
        r#"case "$1" in
    remove) clean_up ;;
    purge) clean_up && purge ;;
esac
"#,
    ),
];

/// Makes the package, and one with its debug information.
pub(super) fn make(package: &Package) -> Result<Vec<PathBuf>> {
    let root = package.empty("deb")?;
    tree::make(package, &root, Kind::Debian)?;
    let documentation = root.join(DOCUMENTATION);
    tree::write(&documentation.join("copyright"), &copyright()?)?;
    let changes = documentation.join("changelog.Debian");
    tree::write(&changes, &changelog(package)?)?;
    tree::gzip(&[changes])?;
    tree::write(
        &root.join("usr/share/lintian/overrides/ondemand"),
        include_str!("../../packaging/lintian-overrides"),
    )?;
    tree::modes(&root)?;
    let depends = format!(
        "{}, dbus | dbus-broker, polkitd (>= 0.106) | policykit-1 (>= 0.106), systemd (>= 252)",
        libraries(package, &root)?
    );
    let fields = [
        ("Depends", depends.as_str()),
        ("Section", "admin"),
        ("Homepage", Package::HOMEPAGE),
    ];
    control(package, &root, "ondemand", &fields)?;
    let folder = root.join("DEBIAN");
    tree::write(&folder.join("conffiles"), &format!("/{CONFIGURATION}\n"))?;
    for (name, when) in SCRIPTS {
        let script = folder.join(name);
        tree::write(
            &script,
            &format!("#!/bin/sh\nset -e\nkind=deb\n\n{STEPS}\n{when}"),
        )?;
        executable(&script)?;
    }
    let mut made = vec![pack(package, &root, "ondemand")?];
    if package.is_final {
        made.push(debug(package)?);
    }
    Ok(made)
}

fn version(package: &Package) -> String {
    format!("{}-{}", package.version, Package::REVISION)
}

fn architecture() -> Result<String> {
    let words = ["dpkg", "--print-architecture"];
    Ok(output(&words, source_tree())?.trim().to_owned())
}

/// The libraries that the program is linked with, as `dpkg-shlibdeps` knows their packages.
fn libraries(package: &Package, root: &Path) -> Result<String> {
    let source = package.empty("shlibdeps")?;
    tree::write(
        &source.join("debian/control"),
        "Source: ondemand\n\nPackage: ondemand\nArchitecture: any\n",
    )?;
    let program = text(&root.join("usr/bin/ondemand"));
    let words = ["dpkg-shlibdeps", "-O", "-e", &program];
    let text = output(&words, &source)?;
    let depends = text.trim().strip_prefix("shlibs:Depends=");
    let depends = depends.with_context(|| format!("dpkg-shlibdeps says {text:?}"))?;
    Ok(depends.to_owned())
}

/// Writes `DEBIAN/control`, and the sums of all files.
fn control(package: &Package, root: &Path, name: &str, fields: &[(&str, &str)]) -> Result<()> {
    let files = tree::files(root)?;
    let mut bytes = 0;
    let mut sums = String::new();
    for file in &files {
        let path = root.join(file);
        bytes += fs::symlink_metadata(&path)?.len();
        if path.is_symlink() || file == Path::new(CONFIGURATION) {
            continue;
        }
        let line = output(&["md5sum", &text(file)], root)?;
        sums.push_str(&line);
    }
    let mut control = format!(
        "Package: {name}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {}\n\
         Priority: optional\n",
        version(package),
        architecture()?,
        Package::MAINTAINER,
        bytes.div_ceil(1024),
    );
    for (key, value) in fields {
        control.push_str(&format!("{key}: {value}\n"));
    }
    let (synopsis, lines) = match name {
        "ondemand" => (Package::SYNOPSIS, Package::DESCRIPTION),
        _ => ("debug symbols for ondemand", ""),
    };
    control.push_str(&format!("Description: {synopsis}\n"));
    for line in lines.lines() {
        control.push_str(&format!(" {line}\n"));
    }
    tree::write(&root.join("DEBIAN/control"), &control)?;
    tree::write(&root.join("DEBIAN/md5sums"), &sums)
}

fn pack(package: &Package, root: &Path, name: &str) -> Result<PathBuf> {
    let file = format!("{name}_{}_{}.deb", version(package), architecture()?);
    let file = package.directory.join(file);
    // What is only looked at need not be small.
    let level = if package.is_final { "-z9" } else { "-z0" };
    let words = ["dpkg-deb", "--root-owner-group", "-Zxz", level, "--build"];
    run(&package.step(&words).args(&[&text(root), &text(&file)]))?;
    Ok(file)
}

/// The package of the debug information, where debuggers look for it by the program's build id.
fn debug(package: &Package) -> Result<PathBuf> {
    let notes = output(
        &["readelf", "--notes", &text(&package.program)],
        source_tree(),
    )?;
    let id = notes
        .lines()
        .find_map(|line| line.trim().strip_prefix("Build ID: "));
    let id = id.context("the program has no build id")?;
    ensure!(id.len() > 2 && id.is_ascii(), "the build id is {id:?}");
    let root = package.empty("debug-deb")?;
    let (begin, rest) = id.split_at(2);
    let file = root.join(format!("usr/lib/debug/.build-id/{begin}/{rest}.debug"));
    tree::write(&file, "")?;
    run(&Step::new(&[
        "objcopy",
        "--only-keep-debug",
        "--compress-debug-sections",
        &text(&package.program),
        &text(&file),
    ]))?;
    let documentation = root.join("usr/share/doc");
    fs::create_dir_all(&documentation).context("make usr/share/doc")?;
    std::os::unix::fs::symlink("ondemand", documentation.join("ondemand-dbgsym"))
        .context("link the documentation")?;
    tree::modes(&root)?;
    let depends = format!("ondemand (= {})", version(package));
    let fields = [
        ("Depends", depends.as_str()),
        ("Section", "debug"),
        ("Auto-Built-Package", "debug-symbols"),
        ("Build-Ids", id),
    ];
    control(package, &root, "ondemand-dbgsym", &fields)?;
    pack(package, &root, "ondemand-dbgsym")
}

fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// By <https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/>. Debian has the text of the Apache
/// licence.
fn copyright() -> Result<String> {
    let license = fs::read_to_string(source_tree().join("LICENSE")).context("read LICENSE")?;
    let mit = license
        .split("\nMIT License\n")
        .nth(1)
        .and_then(|rest| rest.split("\n====").next());
    let Some(mit) = mit else {
        bail!("LICENSE has no part \"MIT License\"");
    };
    let mit = mit.trim().lines().skip(1).map(|line| match line.trim() {
        "" => " .\n".to_owned(),
        line => format!(" {line}\n"),
    });
    // The first line is that of the copyright, the second is empty.
    let mit: String = mit.skip(1).collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: ondemand\nSource: {}\n\n\
         Files: *\nCopyright: 2026 The ondemand developers\nLicense: Expat or Apache-2.0\n\n\
         License: Expat\n{mit}\nLicense: Apache-2.0\n \
         The full text of the Apache License, Version 2.0, is in\n \
         /usr/share/common-licenses/Apache-2.0.\n",
        Package::HOMEPAGE
    ))
}

fn changelog(package: &Package) -> Result<String> {
    let at = format!("--date=@{}", package.epoch);
    let words = ["date", "--utc", "--rfc-email", &at];
    let date = output(&words, source_tree())?;
    Ok(format!(
        "ondemand ({}) unstable; urgency=medium\n\n  * What changed is in changelog.gz.\n\n -- {}  {date}",
        version(package),
        Package::MAINTAINER,
    ))
}

/// Whether lintian has something to say.
pub(super) fn check(made: &[PathBuf]) -> Result<()> {
    let deb = made
        .iter()
        .find(|path| path.extension() == Some("deb".as_ref()));
    let deb = text(deb.context("no .deb")?);
    if !is_there("lintian") {
        println!("not looked through: lintian is missing");
        return Ok(());
    }
    run(&Step::new(&[
        "lintian",
        "--fail-on",
        "error,warning",
        "--allow-root",
        &deb,
    ]))
}
