//! systemd, the bus and the agent's own process fail while clients connect and the
//! service is stopped repeatedly.

use std::time::{Duration, Instant};

use tests::{
    client::{self, Request},
    require_long,
    sandbox::Sandbox,
    service::{self, SOON, number, wait_state},
    wait_for,
};

use crate::{
    faults::{agent_pid, said, shell, under_load, wait_next_agent, wait_said},
    require_sandbox,
    steering::{CONFIG, parse},
};

/// A service under load, and one that is unused except at a moment of the test's choice.
fn set_up() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let place = "/etc/systemd/system/ondemand.service.d/watchdog.conf";
    sandbox
        .write(place, "[Service]\nWatchdogSec=4s\nTimeoutAbortSec=1s\n")
        .unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_backend(&sandbox, "cold.service", "--listen 127.0.0.1:8081").unwrap();
    let config = CONFIG.replace("1h", "200ms");
    let cold = config
        .replace("8000", "8001")
        .replace("8080", "8081")
        .replace("app.service", "cold.service");
    let config = format!("[service.test]\n{config}\n[service.cold]\n{cold}");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test", "cold"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// A first client of the service that is down.
#[track_caller]
fn cold_start(sandbox: &Sandbox) {
    wait_state(sandbox, "cold.service", "inactive").unwrap();
    let answer = sandbox
        .in_network(|| client::get(parse("127.0.0.1:8001"), Request::default()))
        .unwrap();
    answer.unwrap();
}

const BLIND: &[&str] = &["systemd does not answer, nothing is stopped until it does"];
const SEES: &[&str] = &["systemd answers again"];

#[test]
fn systemd_the_bus_and_a_hanging_agent() {
    require_sandbox!();
    let sandbox = set_up();
    let start = Instant::now();
    let done = |what: &str| eprintln!("{what} after {:.1?}", start.elapsed());
    let stops = || number(&sandbox, "test", "stops").unwrap();
    under_load(&sandbox, Duration::from_millis(220), || {
        for _ in 0..3 {
            shell(&sandbox, "systemctl daemon-reload");
        }
        done("reloaded");
        reload_with_a_wrong_configuration(&sandbox);
        done("reloaded with a wrong configuration");
        shell(&sandbox, "systemctl daemon-reexec");
        wait_said(&sandbox, 1, BLIND);
        wait_said(&sandbox, 1, SEES);
        cold_start(&sandbox);
        done("re-executed");
        // Without the bus a first client is served nevertheless.
        wait_state(&sandbox, "cold.service", "inactive").unwrap();
        shell(&sandbox, "systemctl stop dbus.socket dbus.service");
        wait_said(&sandbox, 2, BLIND);
        cold_start(&sandbox);
        shell(&sandbox, "systemctl start dbus.socket dbus.service");
        wait_said(&sandbox, 2, SEES);
        wait_state(&sandbox, "cold.service", "inactive").unwrap();
        assert!(stops() > 0, "it was never stopped");
        done("bus stopped and started");
        // An agent that hangs is replaced.
        let before = agent_pid(&sandbox);
        shell(
            &sandbox,
            "systemctl kill --kill-who=main --signal=STOP ondemand.service",
        );
        wait_next_agent(&sandbox, before);
        cold_start(&sandbox);
        done("agent hung");
    });
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    wait_state(&sandbox, "cold.service", "inactive").unwrap();
    assert!(said(&sandbox, "ondemand.service", &["Watchdog timeout"]) >= 1);
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}

/// Package managers reload systemd whenever they like: a mistake in the configuration must not
/// take the front sockets away, at which clients wait.
#[track_caller]
fn reload_with_a_wrong_configuration(sandbox: &Sandbox) {
    const FILE: &str = "/etc/ondemand/ondemand.toml";
    let good = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    let wrong = good.replace("steer = true", "stear = true");
    sandbox.write(FILE, wrong).unwrap();
    shell(sandbox, "systemctl daemon-reload");
    cold_start(sandbox);
    wait_state(sandbox, "cold.service", "inactive").unwrap();
    // The running agent keeps its configuration, and reports the error.
    shell(sandbox, "! systemctl reload ondemand.service");
    wait_said(
        sandbox,
        1,
        &["the agent keeps its present configuration", FILE, "stear"],
    );
    cold_start(sandbox);
    sandbox.write(FILE, good).unwrap();
    shell(
        sandbox,
        "systemctl daemon-reload; systemctl reload ondemand.service",
    );
    wait_said(sandbox, 1, &["read the configuration again"]);
}

/// A proxy that cannot query systemd must not take the listener of an application that is being
/// stopped for that of the next one.
#[test]
fn without_the_bus_a_client_that_comes_during_a_stop_waits_for_the_next_start() {
    require_sandbox!();
    require_long!("the model of the stop protocol has an agent that dies at each step");
    let sandbox = service::on_demand(service::CONFIG, "--stop-delay-ms 3000").unwrap();
    let client = |request| sandbox.in_network(|| client::get(service::front(), request));
    let before = client(Request::default()).unwrap().unwrap();
    wait_state(&sandbox, "app.service", "deactivating").unwrap();
    shell(&sandbox, "systemctl stop dbus.socket dbus.service");
    let app_state = || sandbox.property("app.service", "ActiveState").unwrap();
    assert_eq!(app_state(), "deactivating", "too slow for a result");
    let answers = sandbox.in_network(|| {
        let mut stream = client::connect(service::front())?;
        let request = Request {
            keep_alive: true,
            ..Request::default()
        };
        let first = client::ask(&mut stream, request)?;
        // The application that was being stopped could not answer once more.
        wait_for("the stop is over", SOON, || {
            (app_state() != "deactivating").then_some(())
        })
        .unwrap();
        client::ask(&mut stream, request)?;
        Ok::<_, client::Loss>(first)
    });
    let after = answers.unwrap().unwrap();
    assert_ne!(
        before.header("X-Started"),
        after.header("X-Started"),
        "it was served by the application that was being stopped"
    );
    // One that is up all along serves without the bus, too, after a while.
    wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
    client(Request::default()).unwrap().unwrap();
    shell(&sandbox, "systemctl start dbus.socket dbus.service");
    wait_said(&sandbox, 1, SEES);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
