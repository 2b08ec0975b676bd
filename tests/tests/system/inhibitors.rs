//! A service is kept up for as long as a process lives: a command of `ondemand hold --while`, or one of its own unit.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, on_demand, status, stays, wait_state},
    wait_for,
};

use crate::require_sandbox;

fn ask(sandbox: &Sandbox) {
    let get = || client::get(front(), Request::default());
    sandbox.in_network(get).unwrap().unwrap();
}

/// A command that runs until its standard input is closed.
fn hold(sandbox: &Sandbox) -> Child {
    let mut command = sandbox.command("ondemand");
    command.args(["hold", "test", "--while", "cat"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    wait_held(sandbox, "the command cat").unwrap_or_else(|error| {
        let _ = child.kill();
        panic!("{error:#}");
    });
    child
}

fn wait_held(sandbox: &Sandbox, why: &str) -> anyhow::Result<()> {
    wait_for("it is kept up", SOON, || {
        let status = status(sandbox, "test").ok()?;
        status["detail"].as_str()?.contains(why).then_some(())
    })
}

#[test]
fn a_command_keeps_it_up() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let mut command = hold(&sandbox);
    ask(&sandbox);
    stays(&sandbox, "app.service", "active", Duration::from_secs(2));
    // The next agent is asked again.
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    wait_held(&sandbox, "the command cat").unwrap();
    drop(command.stdin.take());
    assert!(command.wait().unwrap().success());
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // One that is killed leaves nothing behind.
    let mut killed = hold(&sandbox);
    ask(&sandbox);
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let exit = |words: &[&str]| {
        sandbox
            .command("ondemand")
            .args(words)
            .status()
            .unwrap()
            .code()
    };
    let code = exit(&["hold", "test", "--while", "sh", "-c", "exit 7"]);
    assert_eq!(code, Some(7));
    assert_eq!(exit(&["hold", "tset", "--while", "true"]), Some(2));
    assert_eq!(
        exit(&["hold", "test", "--while", "no-such-program"]),
        Some(1)
    );
    // It is no process of a service's unit.
    assert_eq!(exit(&["hold", "", "--while", "true"]), Some(1));
}

#[test]
fn an_application_keeps_itself_up() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let busy = Duration::from_secs(4);
    let unit = format!(
        "[Service]\nUser=nobody\nExecStart=/bin/sh -c 'ondemand hold \"\" --while sleep {} & exec test-backend'\n",
        busy.as_secs()
    );
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let start = Instant::now();
    ask(&sandbox);
    wait_held(&sandbox, "the command sleep").unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(start.elapsed() >= busy, "{:?}", start.elapsed());
    let end = status(&sandbox, "test").unwrap();
    assert_eq!(end["stops_by_reason"]["idle"], 1, "{end}");
    service::wait_journal(&sandbox, "ondemand.service", "stopped after", 1).unwrap();
}
