//! Hosts and configurations on which it cannot work: a clear message, a documented exit
//! code, and nothing is stopped.

use std::process::Output;

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, front},
    wait_for,
};

use crate::require_sandbox;

/// A service that runs and would be idle, and no agent.
fn running() -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    sandbox
}

fn shell(sandbox: &Sandbox, script: &str) -> Output {
    sandbox.command("sh").args(["-c", script]).output().unwrap()
}

#[track_caller]
fn check(sandbox: &Sandbox, script: &str, code: i32, words: &[&str]) {
    let output = shell(sandbox, script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{script}: {said}");
    for word in words {
        assert!(said.contains(word), "{script}: no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    let state = sandbox.property("app.service", "ActiveState").unwrap();
    assert_eq!(state, "active", "{script} stopped the service");
}

#[test]
fn hosts_that_lack_something() {
    require_sandbox!();
    let sandbox = running();
    let agent = "timeout 20 ondemand agent";
    check(
        &sandbox,
        &format!("setpriv --reuid=65534 --clear-groups {agent}"),
        1,
        &["root", "ondemand load"],
    );
    check(
        &sandbox,
        "setpriv --bounding-set=-bpf --inh-caps=-bpf ondemand load",
        1,
        &["root", "CAP_BPF"],
    );
    check(
        &sandbox,
        &format!("unshare --mount sh -c 'mount -t tmpfs none /sys/kernel/btf && {agent}'"),
        1,
        &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"],
    );
    check(
        &sandbox,
        &format!("unshare --mount sh -c 'umount /sys/fs/bpf && {agent}'"),
        1,
        &["/sys/fs/bpf", "mount -t bpf"],
    );
    check(
        &sandbox,
        &format!("unshare --mount sh -c 'umount --lazy /sys/fs/cgroup && {agent}'"),
        1,
        &["cgroup2", "v1"],
    );
    check(
        &sandbox,
        &format!("DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere {agent}"),
        1,
        &["D-Bus", "/nowhere"],
    );
}

#[test]
fn configurations_that_cannot_be() {
    require_sandbox!();
    let sandbox = running();
    let good = format!("[service.test]\n{CONFIG}");
    let rows: &[(&str, &[&str])] = &[
        ("[service.test]\nlisten = [", &["broken.toml", "2"]),
        (
            &good.replace("steer = false", "steer = false\nidle = 3"),
            &["broken.toml", "idle"],
        ),
        (
            &good.replace("\"300ms\"", "0"),
            &["broken.toml", "idle_timeout"],
        ),
        (
            &good.replace("\"300ms\"", "[]"),
            &["broken.toml", "idle_timeout"],
        ),
        (
            &good.replace("127.0.0.1:8080", "127.0.0.1:99999"),
            &["broken.toml", "backend"],
        ),
        (
            &good.replace("127.0.0.1:8080", "127.0.0.1:8000"),
            &["broken.toml", "127.0.0.1:8000"],
        ),
        (
            &good.replace("app.service", "app"),
            &["broken.toml", "unit"],
        ),
        (
            &format!(
                "{good}\n[service.other]\n{}",
                CONFIG.replace("app.", "b.").replace("8080", "8081")
            ),
            &["broken.toml", "127.0.0.1:8000", "test"],
        ),
    ];
    for (text, words) in rows {
        sandbox.write("/etc/ondemand/broken.toml", text).unwrap();
        for command in ["agent", "check", "units"] {
            let script =
                format!("timeout 20 ondemand --config /etc/ondemand/broken.toml {command}");
            check(&sandbox, &script, 2, words);
        }
    }
    for (path, word) in [
        ("/etc/ondemand/none.toml", "none.toml"),
        ("/etc/ondemand", "/etc/ondemand"),
    ] {
        check(
            &sandbox,
            &format!("timeout 20 ondemand --config {path} agent"),
            2,
            &[word],
        );
    }
    check(&sandbox, "ondemand frobnicate", 2, &["frobnicate"]);
    check(&sandbox, "ondemand status", 1, &["agent"]);
}

#[test]
fn a_unit_that_does_not_exist_spoils_nothing_else() {
    require_sandbox!();
    let sandbox = running();
    let other = CONFIG
        .replace("app.service", "missing.service")
        .replace("8000", "8001")
        .replace("8080", "8081");
    service::write_config(
        &sandbox,
        &format!("[service.test]\n{CONFIG}\n[service.other]\n{other}"),
    )
    .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    let output = shell(&sandbox, "ondemand check");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("missing.service"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    service::start_agent(&sandbox).unwrap();
    wait_for("the agent logs it", service::SOON, || {
        sandbox
            .journal("ondemand.service")
            .contains("missing.service")
            .then_some(())
    })
    .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn the_bus_goes_away_and_comes_back() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    sandbox
        .run(&["systemctl", "kill", "--signal=KILL", "dbus.service"])
        .unwrap();
    // The service answers all the time; then the agent is back and stops it.
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    wait_for("dbus is back", service::SOON, || {
        sandbox.run(&["busctl", "status"]).ok()
    })
    .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn generated_and_shipped_units_are_valid() {
    require_sandbox!();
    let sandbox = running();
    sandbox
        .run(&["ondemand", "units", "--output", "/run/check"])
        .unwrap();
    let script = "systemd-analyze verify --man=no /usr/lib/systemd/system/ondemand.service \
                  /usr/lib/systemd/system/ondemand-permit.service \
                  /usr/lib/systemd/system/ondemand-load.service \
                  /run/systemd/generator/ondemand-test.socket \
                  /run/systemd/generator/ondemand-test.service \
                  /run/systemd/generator/ondemand-test.target app.service";
    let output = shell(&sandbox, script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    // What the generator wrote is what `ondemand units` writes.
    let differ = shell(
        &sandbox,
        "diff -r /run/check /run/systemd/generator | grep -i ondemand",
    );
    assert!(
        differ.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&differ.stdout)
    );
}

/// A mistake in the file loses nothing at `systemctl daemon-reload`.
#[test]
fn a_wrong_configuration_leaves_the_units_as_they_were() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    let get = || {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
            .unwrap()
    };
    let units = [
        "ondemand-test.socket",
        "ondemand-test.service",
        "ondemand-test.target",
    ];
    let are = |state: &str| {
        for unit in units {
            assert_eq!(
                sandbox.property(unit, "LoadState").unwrap(),
                state,
                "{unit}"
            );
        }
    };
    let file = "/etc/ondemand/ondemand.toml";
    let right = std::fs::read_to_string(sandbox.path(file)).unwrap();
    let reload = || sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let wrong = right.clone() + "[service.test]\nlisten = 80\n";
    sandbox.write(file, &wrong).unwrap();
    reload();
    are("loaded");
    get();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
    let check = |script: &str, words: &[&str]| {
        let output = shell(&sandbox, script);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{script}: {said}");
        for word in words {
            assert!(said.contains(word), "{script}: no {word:?} in: {said}");
        }
    };
    let generator = "mkdir -p /run/made && \
                     exec /usr/lib/systemd/system-generators/ondemand-generator /run/made";
    let line = format!("{file}:{}: ", wrong.lines().count() - 1);
    let kept = "/run/ondemand-generator/last-good.toml";
    check(generator, &[&line, "OLDER configuration", kept]);
    check(
        "ondemand check",
        &[&line, "those of an OLDER configuration", kept],
    );
    check("ondemand check --json", &[&line]);
    // At the next boot there is the copy of `ondemand permit`; its front socket is not there for show.
    sandbox
        .run(&["rm", "-r", "/run/ondemand-generator"])
        .unwrap();
    reload();
    are("loaded");
    get();
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
    check(
        generator,
        &[
            "OLDER configuration",
            "/var/lib/ondemand-generator/last-good.toml",
        ],
    );
    // One that was never right makes none.
    sandbox
        .run(&["rm", "/var/lib/ondemand-generator/last-good.toml"])
        .unwrap();
    check(generator, &[&line, "no service is on demand"]);
    // A service that is not wanted any more takes its units along when they are down, and is not brought back.
    sandbox.write(file, &right).unwrap();
    reload();
    are("loaded");
    sandbox
        .run(&["systemctl", "stop", units[0], units[1], units[2]])
        .unwrap();
    sandbox.write(file, "").unwrap();
    reload();
    are("not-found");
    sandbox.write(file, wrong).unwrap();
    reload();
    are("not-found");
}
