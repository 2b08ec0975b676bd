//! `ondemand check --fix` mends what it may, and leaves what runs alone.

use std::fs;

use tests::{
    sandbox::Sandbox,
    service::{self, CONFIG, front, on_demand, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

const FILE: &str = "/etc/ondemand/ondemand.toml";

fn configuration(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path(FILE)).unwrap()
}

#[test]
fn what_can_do_no_harm_is_mended() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let client = sandbox
        .in_network(|| tests::client::connect(front()).unwrap())
        .unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
    let pid = sandbox.main_pid("app.service").unwrap();

    // All at once: another service, whose units systemd does not have; an agent that is stopped; programs that are
    // not loaded at boot; a unit that has failed, which is for a person.
    sandbox
        .run(&["systemctl", "disable", "ondemand-load.service"])
        .unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let second = "\n[service.other]\nlisten = \"127.0.0.1:8180\"\nbackend = \"127.0.0.1:8181\"\nunit = \"other.service\"\n\
                  [service.broken]\nlisten = \"127.0.0.1:8190\"\nbackend = \"127.0.0.1:8191\"\nunit = \"broken.service\"\n";
    let before = configuration(&sandbox);
    sandbox.write(FILE, before + second).unwrap();
    service::write_backend(&sandbox, "other.service", "--listen 127.0.0.1:8181").unwrap();
    let broken = "[Service]\nExecStart=/bin/false\n";
    sandbox
        .write("/etc/systemd/system/broken.service", broken)
        .unwrap();
    check(&sandbox, "systemctl start broken.service; true", 0, &[]);
    wait_state(&sandbox, "broken.service", "failed").unwrap();

    // Only root may, and nothing is done without an answer.
    let words = ["only root may do this: `sudo ondemand check --fix`"];
    check(
        &sandbox,
        "runuser -u nobody -- ondemand check --fix",
        1,
        &words,
    );
    let plan = [
        "will be done:",
        "  ondemand apply",
        "  systemctl enable ondemand-load.service",
        "ondemand.service",
        "left to you:",
        "broken: unit: broken.service has failed",
        "-> journalctl -u broken.service",
        "add --yes",
    ];
    check(&sandbox, "ondemand check --fix < /dev/null", 2, &plan);
    let active = |unit: &str| sandbox.property(unit, "ActiveState").unwrap();
    assert_eq!(active("ondemand.service"), "inactive");
    assert_ne!(active("ondemand-other.socket"), "active");

    let done = [
        "$ ondemand apply",
        "$ systemctl enable ondemand-load.service",
    ];
    check(&sandbox, "ondemand check --fix --yes", 1, &done);
    for unit in [
        "ondemand.service",
        "ondemand-other.socket",
        "ondemand-test.socket",
    ] {
        wait_for(unit, service::SOON, || {
            (active(unit) == "active").then_some(())
        })
        .unwrap();
    }
    assert_eq!(active("broken.service"), "failed", "it is for a person");
    // What ran, runs, and its client is there.
    assert_eq!(sandbox.main_pid("app.service").unwrap(), pid);
    drop(client);

    // Nothing is left but that.
    let left = ["nothing that can be mended", "broken.service has failed"];
    check(&sandbox, "ondemand check --fix --yes", 1, &left);
    sandbox
        .run(&["systemctl", "reset-failed", "broken.service"])
        .unwrap();
    check(
        &sandbox,
        "ondemand check --fix",
        0,
        &["nothing that can be mended"],
    );
}

#[test]
fn a_socket_that_was_stopped_is_opened_and_a_wrong_file_is_not_touched() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand-test.socket"])
        .unwrap();
    check(
        &sandbox,
        "ondemand check --fix --yes",
        0,
        &["$ systemctl start ondemand-test.socket"],
    );
    check(&sandbox, "systemctl is-active ondemand-test.socket", 0, &[]);
    let text = configuration(&sandbox).replace("idle_timeout", "idle_timeuot");
    sandbox.write(FILE, text.clone()).unwrap();
    check(
        &sandbox,
        "ondemand check --fix --yes",
        2,
        &["did you mean `idle_timeout`?"],
    );
    assert_eq!(configuration(&sandbox), text);
}
