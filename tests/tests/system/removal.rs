//! The manual's own commands remove everything, and cut nothing.

use std::collections::BTreeSet;

use tests::{
    client::{self, Request},
    documents::document,
    sandbox::Sandbox,
    service::{self, CONFIG, start_agent, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

/// The commands in the manual, for an application of this name.
fn commands(unit: &str) -> String {
    let manual = document("MANUAL.md");
    let section = manual.split("\n## Remove it again\n").nth(1).unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    let script: Vec<&str> = lines.collect();
    assert!(script.len() > 10, "{script:?}");
    script.join("\n").replace("wiki.service", unit)
}

/// Everything in the file system by the name of ondemand.
pub(crate) fn files(sandbox: &Sandbox) -> BTreeSet<String> {
    let script =
        "find /etc /usr /var /run /sys/fs/bpf /dev /root -name '*ondemand*' 2>/dev/null; true";
    let found = sandbox.run(&["sh", "-c", script]).unwrap();
    // Its own parts are below directories that are found themselves.
    found.lines().map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_manual_leave_nothing() {
    require_sandbox!();
    let sandbox = Sandbox::boot().unwrap();
    let before = files(&sandbox);
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let install =
        "printf '[Install]\\nWantedBy=multi-user.target\\n' >>/etc/systemd/system/app.service";
    check(&sandbox, install, 0, &[]);
    let steered = CONFIG
        .replace("steer = false", "steer = true")
        .replace("300ms", "1h");
    // With metrics and a history.
    let config = format!("[service.test]\n{steered}");
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    check(
        &sandbox,
        "systemctl enable ondemand.service ondemand-load.service",
        0,
        &[],
    );
    start_agent(&sandbox).unwrap();
    // One client through the proxy, one that is steered and stays.
    let keep = Request {
        keep_alive: true,
        ..Request::default()
    };
    let ask = |request| sandbox.in_network(|| client::get(service::front(), request));
    ask(Request::default()).unwrap().unwrap();
    wait_for("connections are steered", service::SOON, || {
        let status = service::status(&sandbox, "test").ok()?;
        (status["route"] == "steered").then_some(())
    })
    .unwrap();
    let mut held = sandbox
        .in_network(|| client::connect(service::front()).unwrap())
        .unwrap();
    client::ask(&mut held, keep).unwrap();
    check(&sandbox, "ondemand hold test --for 1h", 0, &[]);
    check(&sandbox, "ondemand reload", 0, &[]);
    let pid = sandbox.main_pid("app.service").unwrap();

    check(
        &sandbox,
        &format!("set -ex\n{}", commands("app.service")),
        0,
        &[],
    );

    client::ask(&mut held, keep).unwrap();
    assert_eq!(
        sandbox.main_pid("app.service").unwrap(),
        pid,
        "it was stopped"
    );
    let after = files(&sandbox);
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "{left:#?}");
    for left in [
        "getent passwd | grep ondemand",
        "getent group | grep ondemand",
        "systemctl list-units --all --plain --no-legend | grep ondemand",
        "systemctl show app.service | grep ondemand",
        "mount | grep ondemand",
        "busctl list | grep ondemand",
        "ss -ltn | grep -E ':(8000|9464) '",
    ] {
        check(&sandbox, &format!("! {left}"), 0, &[]);
    }
    // The application is an ordinary one: it stays, and stops when it is told to.
    assert_eq!(
        sandbox.property("app.service", "StopWhenUnneeded").unwrap(),
        "no"
    );
    check(&sandbox, "systemctl stop app.service", 0, &[]);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
