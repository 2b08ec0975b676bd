//! The package of Fedora and others, on this distribution by its own rpm: installed, upgraded under load and removed.

use std::{fs, path::Path, process::Command};

use tests::{
    sandbox::{Cgroups, Sandbox},
    service::wait_state,
};

use crate::{
    bus::check,
    packages::{configure, fresh, held, is_gone, keep, leave, lost, newest, run},
    removal::files,
    require_sandbox,
};

/// The next version: the same tree with another release. What made the first is beside it.
fn next(package: &Path, directory: &Path) {
    let made_in = package.parent().unwrap();
    let spec = fs::read_to_string(made_in.join("rpmbuild/ondemand.spec")).unwrap();
    let later = spec.replace("\nRelease: 1\n", "\nRelease: 2\n");
    assert_ne!(later, spec);
    let file = directory.join("ondemand.spec");
    fs::write(&file, later).unwrap();
    let define = |name: &str, value: &str| format!("--define={name} {value}");
    run(Command::new("rpmbuild")
        .args(["-bb", "--quiet"])
        .arg(define("_topdir", directory.to_str().unwrap()))
        .arg(define("_rpmdir", directory.to_str().unwrap()))
        .arg(define("_rpmfilename", "next.rpm"))
        .arg(define("_binary_payload", "w1.zstdio"))
        .arg(define("__os_install_post", "%{nil}"))
        .arg(define("_build_id_links", "none"))
        .arg(define("debug_package", "%{nil}"))
        .arg(file)
        .env("ONDEMAND_TREE", made_in.join("rpm")));
}

/// What it requires is there, as far as Debian's database knows, which rpm does not read.
fn rpm(sandbox: &Sandbox, words: &str) {
    check(sandbox, &format!("rpm {words}"), 0, &[]);
}

#[test]
fn a_package_of_rpm_is_installed_upgraded_under_load_and_removed() {
    require_sandbox!();
    tests::require!(tests::skip::missing(&["rpm", "rpmbuild"]));
    let package = match newest("rpm") {
        Ok(package) => package,
        Err(why) => return tests::skip::part(why),
    };
    let new = tempfile::tempdir().unwrap();
    next(&package, new.path());
    let sandbox = fresh(Cgroups::Unified);
    for (from, name) in [(package, "first"), (new.path().join("next.rpm"), "next")] {
        let to = format!("/root/{name}.rpm");
        sandbox.write(&to, fs::read(from).unwrap()).unwrap();
    }
    rpm(&sandbox, "--initdb");
    let before = files(&sandbox);
    rpm(
        &sandbox,
        "--install --force-debian --nodeps /root/first.rpm",
    );
    // By the presets of the distribution: Debian enables all, Fedora few.
    let units = "ondemand.service ondemand-load.service";
    check(&sandbox, &format!("systemctl is-enabled {units}"), 0, &[]);
    let verify = "rpm --verify --nodeps ondemand";
    check(&sandbox, &format!("[ -z \"$({verify})\" ]"), 0, &[]);
    configure(&sandbox);
    let mut held = held(&sandbox);
    let pid = sandbox.main_pid("app.service").unwrap();
    let agent = sandbox.main_pid("ondemand.service").unwrap();
    let lost = lost(&sandbox, || {
        rpm(&sandbox, "--upgrade --force-debian --nodeps /root/next.rpm")
    });
    assert!(lost.is_empty(), "lost: {lost:?}");
    tests::client::ask(&mut held, keep()).unwrap();
    assert_eq!(
        sandbox.main_pid("app.service").unwrap(),
        pid,
        "it was stopped"
    );
    assert_ne!(sandbox.main_pid("ondemand.service").unwrap(), agent);
    check(&sandbox, "rpm --query ondemand", 0, &["-2"]);

    rpm(&sandbox, "--erase --force-debian ondemand");
    is_gone(&sandbox, &mut held, pid);
    leave(&sandbox, held);
    // What others have written stays: the configuration, the history, the users.
    let after = files(&sandbox);
    let kept = ["/etc/ondemand", "/var/lib/ondemand", "/var/lib/rpm"];
    let is_kept = |path: &&String| kept.iter().any(|begin| path.contains(begin));
    let left: Vec<_> = after
        .difference(&before)
        .filter(|path| !is_kept(path))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    check(&sandbox, "ls /etc/ondemand/conf.d/test.toml", 0, &[]);
    // It is an ordinary unit again.
    check(&sandbox, "systemctl stop app.service", 0, &[]);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
