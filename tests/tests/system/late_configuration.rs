//! A configuration that is not there when systemd runs its generators, or not any more; and an agent that is not
//! there at all.

use serde_json::Value;
use tests::{
    client::{self, Request},
    metrics::{self, scrape},
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

const FILE: &str = "/etc/ondemand/ondemand.toml";
/// The file system of the configuration.
const MOUNT: &str = "/etc/systemd/system/etc-ondemand.mount";

fn set_up() -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Unified).unwrap();
    metrics::on_demand(sandbox, CONFIG, "").unwrap()
}

fn ask(sandbox: &Sandbox) {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
}

/// The service is served, and stopped when it is idle.
fn works(sandbox: &Sandbox) {
    ask(sandbox);
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

/// Waits until the first line of `status` has these words, and whether the file is in force is said alike.
#[track_caller]
fn is_said(sandbox: &Sandbox, words: &str, in_force: bool) {
    let said = || {
        let table = sandbox.run(&["ondemand", "status"]).ok()?;
        let json = sandbox.run(&["ondemand", "status", "--json"]).ok()?;
        let json: Value = serde_json::from_str(&json).ok()?;
        let json = json["configuration"]["last_reload_successful"].clone();
        let metric = scrape(sandbox).ok()?["ondemand_config_last_reload_successful"];
        let property = sandbox
            .run(&[
                "busctl",
                "get-property",
                "org.ondemand1",
                "/org/ondemand1",
                "org.ondemand1.Manager",
                "ConfigurationError",
            ])
            .ok()?;
        let alike = json == in_force && (metric > 0.5) == in_force;
        let is_empty = property.trim() == "s \"\"";
        (table.lines().next()?.contains(words) && alike && is_empty == in_force).then_some(())
    };
    wait_for(words, SOON, said).unwrap_or_else(|error| {
        let table = sandbox.run(&["ondemand", "status"]);
        panic!("{error}: {table:?}")
    });
}

/// As systemd finds things at a boot: no record of an earlier run, and nothing mounted but the root.
fn boot(sandbox: &Sandbox) {
    let script = "systemctl stop etc-ondemand.mount ondemand.service ondemand-test.socket app.service; \
                  rm -rf /run/ondemand-generator; systemctl daemon-reload && systemctl start sockets.target && \
                  systemctl start ondemand-test.socket";
    check(sandbox, script, 0, &[]);
}

#[test]
fn a_configuration_that_is_mounted_late_is_served_from_the_copy() {
    require_sandbox!();
    let sandbox = set_up();
    // As PID 1 does where it is in no container: the agent sees what is mounted later.
    let shared = "mount --make-rshared / && systemctl restart ondemand.service";
    check(&sandbox, shared, 0, &[]);
    works(&sandbox);
    let quiet = sandbox.run(&["ondemand", "check"]).unwrap();
    assert!(!quiet.contains("mounted after"), "{quiet}");
    let unit = "[Mount]\nWhat=/late\nWhere=/etc/ondemand\nType=none\nOptions=bind\n";
    sandbox.write(MOUNT, unit).unwrap();
    let moved = format!(
        "mkdir /late && mv {FILE} /late && systemctl daemon-reload && systemctl start etc-ondemand.mount && \
         systemctl daemon-reload"
    );
    check(&sandbox, &moved, 0, &[]);
    is_said(&sandbox, "NAME", true);
    let late = [
        "/etc/ondemand, which is mounted after systemd has run its generators",
        "from the copy in /var/lib/ondemand-generator",
        "x-initrd.mount",
    ];
    check(&sandbox, "ondemand check", 0, &late);
    sandbox
        .write(MOUNT, unit.replace("bind", "bind,x-initrd.mount"))
        .unwrap();
    let early = sandbox.run(&["ondemand", "check"]).unwrap();
    assert!(!early.contains("mounted after"), "{early}");
    sandbox.write(MOUNT, unit).unwrap();

    boot(&sandbox);
    let socket = sandbox.property("ondemand-test.socket", "ActiveState");
    assert_eq!(socket.unwrap(), "active");
    ask(&sandbox);
    let gone = [
        "No such file",
        "is not mounted",
        "those of an OLDER configuration, /var/lib/ondemand-generator/last-good.toml",
        "is gone",
    ];
    check(&sandbox, "ondemand check", 2, &gone);
    // An agent that comes sooner than the file.
    service::start_agent(&sandbox).unwrap();
    works(&sandbox);
    is_said(&sandbox, "WRONG CONFIGURATION, a copy is in force", false);

    // One that comes later.
    check(
        &sandbox,
        "systemctl start etc-ondemand.mount && systemctl restart ondemand",
        0,
        &[],
    );
    works(&sandbox);
    is_said(&sandbox, "CONFIGURATION NOT IN FORCE in systemd", false);
    check(
        &sandbox,
        "ondemand check",
        0,
        &["is gone", "the file is correct now"],
    );
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    is_said(&sandbox, "NAME", true);
    works(&sandbox);

    // With no copy there is nothing to make units of, and that is said.
    check(&sandbox, "rm -rf /var/lib/ondemand-generator", 0, &[]);
    let nothing = "systemctl stop etc-ondemand.mount ondemand.service; rm -rf /run/ondemand-generator; systemctl \
                   daemon-reload";
    check(&sandbox, nothing, 0, &[]);
    check(
        &sandbox,
        "ondemand check",
        2,
        &[
            "no service is on demand, because /etc/ondemand/ondemand.toml does not exist",
            "is not mounted",
        ],
    );
    check(&sandbox, "systemctl start etc-ondemand.mount", 0, &[]);
    check(
        &sandbox,
        "ondemand check",
        1,
        &[
            "does not exist, nor a copy",
            "because there is no copy in /var/lib/ondemand-generator yet",
            "missing: ondemand-test.socket",
        ],
    );
    let repair = "systemctl daemon-reload && systemctl restart ondemand-test.socket";
    check(&sandbox, repair, 0, &[]);
    let repaired = sandbox.run(&["ondemand", "check"]).unwrap();
    assert!(!repaired.contains("does not exist"), "{repaired}");
}

#[test]
fn what_is_not_wanted_any_more_is_said_by_an_empty_file() {
    require_sandbox!();
    let sandbox = set_up();
    works(&sandbox);
    let good = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    let socket = |expected: &str| {
        let state = sandbox.property("ondemand-test.socket", "LoadState");
        assert_eq!(state.unwrap(), expected);
    };
    let drop_in = "/run/systemd/generator/app.service.d/50-ondemand.conf";
    for spoil in [
        format!("rm {FILE}"),
        format!("rm -f {FILE}; ln -s nowhere {FILE}"),
        format!("rm -f {FILE}; mkdir {FILE}"),
        "rm -rf /etc/ondemand".to_owned(),
        "rm -rf /etc/ondemand; : >/etc/ondemand".to_owned(),
    ] {
        check(
            &sandbox,
            &format!("{spoil}; systemctl daemon-reload"),
            0,
            &[],
        );
        socket("loaded");
        assert!(sandbox.path(drop_in).exists(), "{spoil}");
        is_said(&sandbox, "WRONG CONFIGURATION", false);
        check(&sandbox, "ondemand check", 2, &["OLDER configuration"]);
        works(&sandbox);
        let repair = "rm -rf /etc/ondemand; mkdir /etc/ondemand";
        check(&sandbox, repair, 0, &[]);
        sandbox.write(FILE, &good).unwrap();
        check(&sandbox, "systemctl daemon-reload", 0, &[]);
        is_said(&sandbox, "NAME", true);
    }
    check(
        &sandbox,
        &format!(": >{FILE}; systemctl daemon-reload"),
        0,
        &[],
    );
    is_said(&sandbox, "no service is configured", true);
    assert!(!sandbox.path(drop_in).exists());
    // Also at the next boot without the file.
    check(&sandbox, &format!("rm {FILE}"), 0, &[]);
    boot_without_services(&sandbox);
    assert!(!sandbox.path(drop_in).exists());
}

fn boot_without_services(sandbox: &Sandbox) {
    let script =
        "systemctl stop ondemand.service; rm -rf /run/ondemand-generator; systemctl daemon-reload";
    check(sandbox, script, 0, &[]);
}

#[test]
fn status_says_why_there_is_no_agent() {
    require_sandbox!();
    let sandbox = set_up();
    let run = |script: &str| drop(sandbox.run(&["sh", "-c", script]).unwrap());
    let said = |words: &[&str]| check(&sandbox, "ondemand status", 1, words);
    let drop_in = "/etc/systemd/system/ondemand.service.d/test.conf";
    run("systemctl enable ondemand.service; systemctl stop ondemand.service");
    said(&["was stopped at 2", "; systemctl start ondemand.service"]);
    run("systemctl disable ondemand.service");
    said(&["is not enabled", "enable --now ondemand.service"]);
    check(
        &sandbox,
        "ondemand check",
        0,
        &["is not enabled", "none is stopped"],
    );

    run("systemctl mask ondemand.service");
    said(&["is masked", "systemctl unmask ondemand.service"]);
    run("systemctl unmask ondemand.service; systemctl enable ondemand.service");

    sandbox
        .write(drop_in, "[Unit]\nConditionPathExists=/not/there\n")
        .unwrap();
    run("systemctl daemon-reload; systemctl start ondemand.service");
    said(&[
        "a condition",
        "ConditionPathExists=/not/there",
        "systemctl status",
    ]);

    // It fails, and is tried again.
    let fails =
        "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo no luck today; exit 3'\nRestartSec=1h\n";
    sandbox.write(drop_in, fails).unwrap();
    run("systemctl daemon-reload; systemctl start ondemand.service; true");
    let status = || {
        run("journalctl --sync");
        let output = sandbox.command("ondemand").arg("status").output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.contains("is started again").then_some(text)
    };
    let text = wait_for("it is started again", SOON, status).unwrap();
    assert!(text.contains("exit status 3"), "{text}");
    assert!(text.contains("no luck today"), "{text}");
    sandbox
        .write(drop_in, fails.to_owned() + "Restart=no\n")
        .unwrap();
    run(
        "systemctl daemon-reload; systemctl stop ondemand.service; systemctl start ondemand.service; true",
    );
    wait_state(&sandbox, "ondemand.service", "failed").unwrap();
    run("journalctl --sync");
    said(&["has failed (exit status 3): no luck today", "journalctl -u"]);

    run(&format!(
        "rm {drop_in} /usr/lib/systemd/system/ondemand.service; systemctl daemon-reload; systemctl reset-failed"
    ));
    said(&["is not installed"]);
    check(&sandbox, "ondemand top --help", 0, &[]);
}
