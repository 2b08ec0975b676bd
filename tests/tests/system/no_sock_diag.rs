//! A kernel that does not tell who listens: its modules are gone, or its sockets are not allowed.

use std::time::Duration;

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, stays, wait_journal, wait_state},
};

use crate::{bus::check, require_sandbox, steering::parse};

/// Takes sock_diag from a unit, as its filter of system calls does.
fn take(sandbox: &Sandbox, unit: &str) {
    let place = format!("/etc/systemd/system/{unit}.d/blind.conf");
    let text = "[Service]\nRestrictAddressFamilies=~AF_NETLINK\n";
    sandbox.write(&place, text).unwrap();
}

/// One whose listener is at a TCP address, and one whose listener is in a directory that its proxy does not see
/// at first.
fn blind() -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "--start-delay-ms 500").unwrap();
    let script = "sleep 0.3; mkdir -p /run/box; exec test-backend --listen /run/box/app.sock";
    let unit = format!("[Service]\nExecStart=/bin/sh -c '{script}'\nTimeoutStopSec=20s\n");
    sandbox
        .write("/etc/systemd/system/box.service", unit)
        .unwrap();
    let other = CONFIG
        .replace("8000", "8001")
        .replace("127.0.0.1:8080", "/run/box/app.sock")
        .replace("app.service", "box.service");
    let config = format!("[service.test]\n{CONFIG}\n[service.box]\n{other}");
    service::write_config(&sandbox, &config).unwrap();
    for unit in [
        "ondemand.service",
        "ondemand-test.service",
        "ondemand-box.service",
    ] {
        take(&sandbox, unit);
    }
    service::reload(&sandbox, &["test", "box"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

#[test]
fn without_sock_diag_clients_are_served_and_what_is_not_seen_is_not_stopped() {
    require_sandbox!();
    let sandbox = blind();
    let ask = |address: &str| {
        let got = sandbox.in_network(|| client::get(parse(address), Request::default()));
        got.unwrap().unwrap_or_else(|loss| {
            let journal = sandbox.journal("ondemand-*");
            panic!("{address}: {loss}\n{journal}")
        })
    };
    // The kernel's programs count its clients.
    for times in 1..=2 {
        ask("127.0.0.1:8000");
        wait_journal(&sandbox, "ondemand-test.service", "is unknown", times).unwrap();
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
    // Nobody counts these.
    ask("127.0.0.1:8001");
    stays(
        &sandbox,
        "box.service",
        "active",
        Duration::from_millis(2500),
    );
    ask("127.0.0.1:8001");
    let journal = wait_journal(&sandbox, "ondemand.service", "these cannot be read", 1).unwrap();
    assert_eq!(
        journal.matches("these cannot be read").count(),
        1,
        "{journal}"
    );
}

#[test]
fn a_missing_sock_diag_is_an_error_of_check() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    let run = "systemd-run --quiet --pipe --wait --property=RestrictAddressFamilies=~AF_NETLINK";
    check(
        &sandbox,
        &format!("{run} ondemand check"),
        1,
        &["sock_diag", "modprobe tcp_diag unix_diag", "modules-load"],
    );
    check(
        &sandbox,
        "ondemand check",
        0,
        &["the kernel tells who listens"],
    );
    // What should be there at boot is.
    let modules = sandbox.run(&["cat", "/usr/lib/modules-load.d/ondemand.conf"]);
    for module in ["inet_diag", "tcp_diag", "unix_diag"] {
        assert!(modules.as_ref().unwrap().lines().any(|it| it == module));
    }
}
