//! What clients start while no agent runs is counted by the next one, once.

use serde_json::Value;
use tests::{
    metrics::{of_test, scrape},
    require_long,
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, wait_state},
    wait_for,
};

use crate::{
    faults::agent_pid,
    history::{HISTORY, ask},
    require_sandbox,
};

/// A service that nobody stops, and no agent.
fn set_up(steer: bool) -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = CONFIG.replace("300ms", "1h");
    let config = config.replace("steer = false", &format!("steer = {steer}"));
    let agent = format!("[agent]\nmetrics = \"127.0.0.1:9464\"\nhistory = \"{HISTORY}\"\n");
    let config = format!("{agent}\n[service.test]\n{config}");
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox
}

/// Starts in the metrics; starts and arrivals in the history.
fn counted(sandbox: &Sandbox) -> Option<[f64; 3]> {
    let starts = of_test(&scrape(sandbox).ok()?, "starts_total", "")?;
    let report = sandbox.run(&["ondemand", "report", "--json"]).ok()?;
    let report: Value = serde_json::from_str(&report).ok()?;
    let service = &report["services"][0];
    let number = |key: &str| service[key].as_f64();
    Some([starts, number("activations")?, number("arrivals")?])
}

#[track_caller]
fn check(sandbox: &Sandbox, expected: [f64; 3]) {
    wait_for("all count the same", SOON, || {
        (counted(sandbox)? == expected).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {expected:?}: {:?}", counted(sandbox)));
}

fn app(sandbox: &Sandbox, verb: &str) {
    sandbox.run(&["systemctl", verb, "app.service"]).unwrap();
}

fn agent(sandbox: &Sandbox, verb: &str) {
    sandbox
        .run(&["systemctl", verb, "ondemand.service"])
        .unwrap();
}

#[track_caller]
fn are_counted_once(steer: bool, loaded: bool) {
    let sandbox = set_up(steer);
    if loaded {
        sandbox
            .run(&["systemctl", "start", "ondemand-load.service"])
            .unwrap();
    }
    // At boot. The front socket need not be the one that the client came to.
    ask(&sandbox);
    for (verb, unit) in [
        ("stop", "ondemand-test.service"),
        ("restart", "ondemand-test.socket"),
    ] {
        sandbox.run(&["systemctl", verb, unit]).unwrap();
    }
    service::start_agent(&sandbox).unwrap();
    check(&sandbox, [1.0, 1.0, 1.0]);
    agent(&sandbox, "restart");
    check(&sandbox, [1.0, 1.0, 1.0]);
    // Between two agents, the first of which ended in order.
    agent(&sandbox, "stop");
    app(&sandbox, "stop");
    ask(&sandbox);
    agent(&sandbox, "start");
    check(&sandbox, [2.0, 2.0, 2.0]);
    // And this one did not.
    let no_restart = "[Service]\nRestart=no\n";
    let place = "/etc/systemd/system/ondemand.service.d/once.conf";
    sandbox.write(place, no_restart).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let kill = || {
        let pid = agent_pid(&sandbox).to_string();
        sandbox.run(&["kill", "-9", &pid]).unwrap();
        wait_state(&sandbox, "ondemand.service", "failed").unwrap();
    };
    kill();
    app(&sandbox, "stop");
    ask(&sandbox);
    agent(&sandbox, "start");
    check(&sandbox, [3.0, 3.0, 3.0]);
    // A run that is over again.
    kill();
    app(&sandbox, "stop");
    ask(&sandbox);
    app(&sandbox, "stop");
    agent(&sandbox, "start");
    check(&sandbox, [4.0, 4.0, 4.0]);
    // By a person, and without a client.
    kill();
    app(&sandbox, "start");
    agent(&sandbox, "start");
    check(&sandbox, [5.0, 5.0, 4.0]);
    agent(&sandbox, "restart");
    check(&sandbox, [5.0, 5.0, 4.0]);
}

#[test]
fn proxied_clients_before_the_agent_are_counted_once() {
    require_sandbox!();
    require_long!("steered clients come by the proxy, too, while no agent runs");
    are_counted_once(false, false);
}

#[test]
fn steered_clients_before_the_agent_are_counted_once() {
    require_sandbox!();
    require_long!("the same is shown of proxied clients");
    are_counted_once(true, true);
}
