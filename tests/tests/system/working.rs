//! `busy_cpu` and `busy_io`: a service that works without a client is not idle.

use std::time::{Duration, Instant};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, status, stays, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// How long the application works after its start.
const WORK: Duration = Duration::from_secs(8);

/// A service whose application works after its start, and answers.
fn on_demand(limits: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    let seconds = WORK.as_secs();
    let work = format!("timeout {seconds} sh -c 'while :; do :; done'; exec sleep infinity");
    sandbox
        .write("/usr/bin/works", format!("#!/bin/sh\n{work}\n"))
        .unwrap();
    sandbox.run(&["chmod", "755", "/usr/bin/works"]).unwrap();
    let unit = "[Service]\nExecStart=/bin/sh -c 'works & exec test-backend'\n";
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    let config = format!("[service.test]\n{CONFIG}{limits}\n");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox) {
    let get = || client::get(front(), Request::default());
    sandbox.in_network(get).unwrap().unwrap();
}

#[test]
fn an_application_that_works_is_not_idle() {
    require_sandbox!();
    let sandbox = on_demand("busy_cpu = \"5%\"");
    let start = Instant::now();
    ask(&sandbox);
    let seen = wait_for("it is seen to work", SOON, || {
        let status = status(&sandbox, "test").ok()?;
        (status["working"] == true).then_some(status)
    });
    let seen = seen.unwrap();
    let detail = seen["detail"].as_str().unwrap();
    assert!(detail.contains("% of a CPU"), "{seen}");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let took = start.elapsed();
    assert!(took >= WORK, "{took:?}");
    let end = status(&sandbox, "test").unwrap();
    assert_eq!(end["stops_by_reason"]["idle"], 1, "{end}");
    assert_eq!(end["vetoes"], 0, "{end}");
    assert!(end["working"].is_null(), "{end}");
    // Without a limit it would have been stopped.
    let sandbox = on_demand("");
    let start = Instant::now();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(start.elapsed() < WORK, "{:?}", start.elapsed());
}

#[test]
fn what_is_not_accounted_keeps_it_up() {
    require_sandbox!();
    let sandbox = on_demand("busy_io = \"1M\"");
    let controllers = sandbox.run(&["cat", "/sys/fs/cgroup/cgroup.controllers"]);
    if controllers
        .unwrap()
        .split_whitespace()
        .any(|name| name == "io")
    {
        // It may be accounted here.
        return;
    }
    ask(&sandbox);
    let seen = wait_for("it is said", SOON, || {
        let status = status(&sandbox, "test").ok()?;
        let detail = status["detail"].as_str()?.to_owned();
        detail.contains("IOAccounting=yes").then_some(status)
    });
    let seen = seen.unwrap();
    assert!(seen["working"].is_null(), "{seen}");
    service::wait_journal(&sandbox, "ondemand.service", "IOAccounting=yes", 1).unwrap();
    stays(&sandbox, "app.service", "active", Duration::from_secs(2));
    // A stop on request does not ask.
    sandbox.run(&["ondemand", "stop", "test"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
