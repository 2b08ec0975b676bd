//! The package, and `cargo xtask install`: installed, upgraded under load, removed and purged, on this distribution or that
//! of `cargo xtask test --root`.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tests::{
    built,
    client::{self, Request},
    pause::think,
    sandbox::{Cgroups, Sandbox},
    service::{self, FRONT, SOON, front, wait_state},
    target_directory, wait_for,
};

use crate::{bus::check, removal::files, require_sandbox, steering::CONFIG};

/// A request after which the connection stays.
pub(crate) fn keep() -> Request {
    Request {
        keep_alive: true,
        ..Request::default()
    }
}

/// The .deb of the program that is tested. `None`, and why: there is none.
pub(crate) fn package() -> Result<PathBuf, String> {
    newest("deb")
}

/// The same of another kind.
pub(crate) fn newest(kind: &str) -> Result<PathBuf, String> {
    let folder = target_directory().unwrap().join("dist/debug");
    let found = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .find_map(|entry| {
            let path = entry.ok()?.path();
            let is_package = path.extension().is_some_and(|end| end == kind);
            is_package.then_some(path)
        });
    let path = found.ok_or(format!(
        "no .{kind} is made: cargo xtask dist --debug (on Debian)"
    ))?;
    let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    match time(&path) >= time(&built("ondemand").unwrap()) {
        true => Ok(path),
        false => Err(format!(
            "{} is of an older program: cargo xtask dist --debug",
            path.display()
        )),
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The next version: the same files, all of them new.
fn next(package: &Path, directory: &Path) -> PathBuf {
    let tree = directory.join("tree");
    run(Command::new("dpkg-deb").arg("-R").args([package, &tree]));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let later = text.replace("-1\nArchitecture", "-2\nArchitecture");
    assert_ne!(later, text);
    fs::write(control, later).unwrap();
    let made = directory.join("next.deb");
    let pack = ["--root-owner-group", "-Znone", "-b"];
    run(Command::new("dpkg-deb").args(pack).args([&tree, &made]));
    made
}

/// A sandbox with a dpkg that knows what the package depends on, and an application that is no service on demand yet.
pub(crate) fn fresh(cgroups: Cgroups) -> Sandbox {
    let sandbox = Sandbox::boot_with(cgroups).unwrap();
    let program = built("test-backend").unwrap();
    sandbox.install(&program, "/usr/bin/test-backend").unwrap();
    let needed = ["libc6", "libgcc-s1", "dbus", "polkitd", "systemd"];
    let known = Command::new("dpkg-query")
        .arg("--status")
        .args(needed)
        .output()
        .unwrap();
    assert!(known.status.success(), "{known:?}");
    // Without what those need themselves.
    let known = String::from_utf8(known.stdout).unwrap();
    let needs = ["Depends:", "Pre-Depends:", "Breaks:", "Conflicts:"];
    let known: String = known
        .lines()
        .filter(|line| !needs.iter().any(|field| line.starts_with(field)))
        .map(|line| format!("{line}\n"))
        .collect();
    sandbox.write("/var/lib/dpkg/status", known).unwrap();
    let folders = "mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers";
    check(&sandbox, folders, 0, &[]);
    service::write_backend(&sandbox, "app.service", "").unwrap();
    sandbox
}

fn dpkg(sandbox: &Sandbox, how: &str, package: &str) {
    let dpkg = format!("DEBIAN_FRONTEND=noninteractive dpkg {how} {package}");
    check(sandbox, &dpkg, 0, &[]);
}

pub(crate) fn configure(sandbox: &Sandbox) {
    // Unlike most tests, with the package's own configuration and a service beside it.
    let service = format!("[service.test]\n{}", CONFIG.replace("1h", "1s"));
    sandbox
        .write("/etc/ondemand/conf.d/test.toml", service)
        .unwrap();
    check(sandbox, "ondemand apply", 0, &[]);
}

/// A client of the proxy, which stays.
pub(crate) fn held(sandbox: &Sandbox) -> TcpStream {
    let mut held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    client::ask(&mut held, keep()).unwrap();
    held
}

/// What is lost of the requests that come while something happens.
pub(crate) fn lost(sandbox: &Sandbox, happens: impl FnOnce()) -> Vec<client::Loss> {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let work = || {
                let (mut lost, mut done) = (Vec::new(), 0);
                while !end.load(Ordering::Relaxed) || done == 0 {
                    match client::get(front(), Request::default()) {
                        Ok(_) => done += 1,
                        Err(loss) => lost.push(loss),
                    }
                    think(Duration::from_millis(2));
                }
                eprintln!("{done} requests meanwhile");
                lost
            };
            sandbox.in_network(work).unwrap()
        });
        happens();
        end.store(true, Ordering::Relaxed);
        clients.join().unwrap()
    })
}

/// The application runs on, for its old client as for a new one of its own port, and nothing of ondemand is left.
pub(crate) fn is_gone(sandbox: &Sandbox, held: &mut TcpStream, pid: u32) {
    client::ask(held, keep()).unwrap();
    assert_eq!(
        sandbox.main_pid("app.service").unwrap(),
        pid,
        "it was stopped"
    );
    for left in [
        // Where they are still enabled they are wanted, but not there.
        "systemctl list-units --all --plain --no-legend 'ondemand*' | \
         grep -v -e '^ondemand-test.service ' -e ' not-found inactive '",
        "systemctl show app.service | grep ondemand",
        "busctl list | grep ondemand",
        "ls -d /sys/fs/bpf/ondemand",
        "ls -d /run/ondemand*",
        "ls /run/systemd/system-generators/*",
        "ls /etc/polkit-1/rules.d/*ondemand*",
        "ss -ltn | grep -E ':(8000|9464) '",
    ] {
        check(sandbox, &format!("! {left}"), 0, &[]);
    }
}

/// A proxy goes with its last client.
pub(crate) fn leave(sandbox: &Sandbox, held: TcpStream) {
    drop(held);
    wait_for("the proxy is gone", SOON, || {
        let units = "systemctl list-units --all --plain --no-legend 'ondemand-test*'";
        let units = sandbox.run(&["sh", "-c", units]).ok()?;
        units.trim().is_empty().then_some(())
    })
    .unwrap();
}

fn leaves_nothing(sandbox: &Sandbox, before: &BTreeSet<String>) {
    let after = files(sandbox);
    let left: Vec<_> = after.difference(before).collect();
    assert!(left.is_empty(), "{left:#?}");
    check(sandbox, "! getent passwd | grep ondemand", 0, &[]);
    check(sandbox, "! getent group | grep ondemand", 0, &[]);
    // It is an ordinary unit again.
    check(sandbox, "systemctl stop app.service", 0, &[]);
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn a_package_is_installed_upgraded_under_load_and_purged() {
    require_sandbox!();
    let package = match package() {
        Ok(package) => package,
        Err(why) => return tests::skip::part(why),
    };
    let sandbox = fresh(Cgroups::Unified);
    let before = files(&sandbox);
    let new = tempfile::tempdir().unwrap();
    let next = next(&package, new.path());
    for (deb, name) in [(&package, "first"), (&next, "next")] {
        let to = format!("/root/{name}.deb");
        sandbox.write(&to, fs::read(deb).unwrap()).unwrap();
    }
    dpkg(&sandbox, "--install", "/root/first.deb");
    check(
        &sandbox,
        "systemctl is-enabled ondemand.service ondemand-load.service",
        0,
        &["enabled"],
    );
    check(
        &sandbox,
        "systemctl is-active ondemand.service ondemand-load.service",
        0,
        &["active"],
    );
    check(&sandbox, "ondemand status", 0, &[]);
    check(&sandbox, "dpkg --verify ondemand", 0, &[]);
    let verify = "systemd-analyze verify --man=no /usr/lib/systemd/system/ondemand*.service 2>&1";
    check(&sandbox, &format!("[ -z \"$({verify})\" ]"), 0, &[]);

    configure(&sandbox);
    let mut held = held(&sandbox);
    let pid = sandbox.main_pid("app.service").unwrap();
    let agent = sandbox.main_pid("ondemand.service").unwrap();
    let lost = lost(&sandbox, || dpkg(&sandbox, "--install", "/root/next.deb"));
    assert!(lost.is_empty(), "lost: {lost:?}");
    client::ask(&mut held, keep()).unwrap();
    assert_eq!(
        sandbox.main_pid("app.service").unwrap(),
        pid,
        "it was stopped"
    );
    assert_ne!(sandbox.main_pid("ondemand.service").unwrap(), agent);
    check(&sandbox, "dpkg-query --show ondemand", 0, &["-2"]);

    dpkg(&sandbox, "--remove", "ondemand");
    is_gone(&sandbox, &mut held, pid);
    leave(&sandbox, held);
    dpkg(&sandbox, "--purge", "ondemand");
    leaves_nothing(&sandbox, &before);
}

/// From nothing to a service that is stopped and started by its client: the package, `adopt`, and that is all.
#[test]
fn two_commands_make_a_service_of_a_unit_that_runs() {
    require_sandbox!();
    let package = match package() {
        Ok(package) => package,
        Err(why) => return tests::skip::part(why),
    };
    let sandbox = fresh(Cgroups::Unified);
    sandbox
        .write("/root/first.deb", fs::read(package).unwrap())
        .unwrap();
    let own = format!("--listen {FRONT}");
    service::write_backend(&sandbox, "app.service", &own).unwrap();
    check(
        &sandbox,
        "systemctl daemon-reload && systemctl start app.service",
        0,
        &[],
    );
    wait_for("it listens", SOON, || {
        let get = || client::get(front(), Request::default());
        sandbox.in_network(get).unwrap().ok()
    })
    .unwrap();
    let begin = Instant::now();
    let mut held = held(&sandbox);
    let pid = sandbox.main_pid("app.service").unwrap();
    let lost = lost(&sandbox, || {
        dpkg(&sandbox, "--install", "/root/first.deb");
        check(&sandbox, "ondemand adopt app.service --yes", 0, &[]);
    });
    assert!(lost.is_empty(), "lost: {lost:?}");
    client::ask(&mut held, keep()).unwrap();
    assert_eq!(
        sandbox.main_pid("app.service").unwrap(),
        pid,
        "it was stopped"
    );
    drop(held);
    // Sooner than after ten minutes.
    wait_for("it is stopped", SOON, || {
        sandbox.run(&["ondemand", "stop", "app"]).ok()
    })
    .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    sandbox
        .in_network(|| client::get(front(), Request::default()).unwrap())
        .unwrap();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(120), "{took:?}");
    assert_ne!(sandbox.main_pid("app.service").unwrap(), pid);
}

/// What an administrator has decided survives.
#[test]
fn a_removed_package_keeps_the_configuration() {
    require_sandbox!();
    tests::require_long!("installs and removes the package thrice");
    let package = match package() {
        Ok(package) => package,
        Err(why) => return tests::skip::part(why),
    };
    let sandbox = fresh(Cgroups::Unified);
    sandbox
        .write("/root/first.deb", fs::read(package).unwrap())
        .unwrap();
    dpkg(&sandbox, "--install", "/root/first.deb");
    configure(&sandbox);
    let mut held = held(&sandbox);
    let pid = sandbox.main_pid("app.service").unwrap();
    dpkg(&sandbox, "--remove", "ondemand");
    is_gone(&sandbox, &mut held, pid);
    check(
        &sandbox,
        "ls /etc/ondemand/ondemand.toml /etc/ondemand/conf.d/test.toml",
        0,
        &[],
    );

    // Again: the service is on demand as before.
    leave(&sandbox, held);
    dpkg(&sandbox, "--install", "/root/first.deb");
    check(&sandbox, "ondemand apply", 0, &[]);
    let mut held = self::held(&sandbox);
    assert_eq!(
        sandbox.main_pid("app.service").unwrap(),
        pid,
        "it was stopped"
    );

    // An agent that was disabled stays so.
    check(&sandbox, "systemctl disable --now ondemand.service", 0, &[]);
    dpkg(&sandbox, "--install", "/root/first.deb");
    check(
        &sandbox,
        "systemctl is-enabled ondemand.service",
        1,
        &["disabled"],
    );
    check(
        &sandbox,
        "systemctl is-active ondemand.service",
        3,
        &["inactive"],
    );
    client::ask(&mut held, keep()).unwrap();
}

#[test]
fn from_source_it_is_the_same() {
    require_sandbox!();
    tests::require_long!("copies the source tree");
    tests::require!(tests::skip::missing(&["objcopy", "gzip"]));
    let sandbox = Sandbox::boot().unwrap();
    let program = built("test-backend").unwrap();
    sandbox.install(&program, "/usr/bin/test-backend").unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let tree = tests::source_tree().to_str().unwrap();
    for program in ["ondemand", "xtask"] {
        let program = built(program).unwrap();
        sandbox
            .install(&program, program.to_str().unwrap())
            .unwrap();
    }
    for part in [
        "units",
        "docs",
        "xtask/packaging",
        "README.md",
        "MANUAL.md",
        "JSON.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        let to = sandbox.path(&format!("{tree}/{part}"));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let from = tests::source_tree().join(part);
        run(Command::new("cp").arg("-r").args([&from, &to]));
    }
    let before = files(&sandbox);
    let program = built("xtask").unwrap();
    let xtask = format!("SOURCE_DATE_EPOCH=1 {}", program.display());
    let install = format!("{xtask} install --debug");
    check(&sandbox, &install, 0, &[]);
    check(
        &sandbox,
        "systemctl is-enabled ondemand.service ondemand-load.service",
        0,
        &["enabled"],
    );
    configure(&sandbox);
    let mut held = held(&sandbox);
    let pid = sandbox.main_pid("app.service").unwrap();
    let agent = sandbox.main_pid("ondemand.service").unwrap();
    let lost = lost(&sandbox, || check(&sandbox, &install, 0, &[]));
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_ne!(sandbox.main_pid("ondemand.service").unwrap(), agent);
    check(&sandbox, "ls /etc/ondemand/conf.d/test.toml", 0, &[]);
    check(&sandbox, &format!("{xtask} uninstall"), 0, &[]);
    is_gone(&sandbox, &mut held, pid);
    leave(&sandbox, held);
    check(&sandbox, "ls /etc/ondemand/conf.d/test.toml", 0, &[]);

    check(&sandbox, &install, 0, &[]);
    check(&sandbox, &format!("{xtask} uninstall --purge"), 0, &[]);
    leaves_nothing(&sandbox, &before);
}
