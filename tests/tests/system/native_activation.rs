//! Applications that take their listener from a socket unit of their own.

use std::time::Duration;

use serde_json::Value;
use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, front, number, status, wait_state},
};

use crate::require_sandbox;

const CONFIG: &str = r#"
listen = ["127.0.0.1:8000"]
unit = "app.service"
activation = "native"
idle_timeout = "300ms"
min_uptime = "0s"
start_timeout = "10s"
"#;

/// A sandbox with one service whose agent does not run yet.
fn prepared() -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "--inherited").unwrap();
    service::write_own_socket(&sandbox, "app.service", "127.0.0.1:8000").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox.run(&["systemctl", "start", "app.socket"]).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox) {
    let ask = || client::get(front(), Request::default());
    sandbox.in_network(ask).unwrap().unwrap();
}

fn accepted(status: &Value, leg: &str) -> u64 {
    status[leg]["accepted"].as_u64().unwrap()
}

#[test]
fn its_clients_wait_in_its_own_socket_and_nobody_is_proxied() {
    require_sandbox!();
    let sandbox = prepared();
    service::start_agent(&sandbox).unwrap();
    for starts in 1..=3 {
        ask(&sandbox);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        assert_eq!(number(&sandbox, "test", "starts").unwrap(), starts);
    }
    let known = status(&sandbox, "test").unwrap();
    assert_eq!(
        (accepted(&known, "front"), accepted(&known, "steered")),
        (0, 3),
        "{known}"
    );
    assert_eq!(known["stops_by_reason"]["idle"], 3, "{known}");
    // A client that stays keeps it up.
    let stay = || {
        let mut client = client::Kept::connect(front()).unwrap();
        client.ask().unwrap();
        client
    };
    let client = sandbox.in_network(stay).unwrap();
    let idle = Duration::from_millis(1200);
    service::stays(&sandbox, "app.service", "active", idle);
    drop(client);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn with_and_without_an_agent_it_is_started_as_ever() {
    require_sandbox!();
    let sandbox = prepared();
    // Before the first agent: nothing was ever loaded.
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "active").unwrap();
    // It was started before the agent, and is stopped by it.
    service::start_agent(&sandbox).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    sandbox
        .run(&["systemctl", "kill", "--signal=KILL", "ondemand.service"])
        .unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "active").unwrap();
}

#[test]
fn check_tells_whose_socket_it_is() {
    require_sandbox!();
    let sandbox = prepared();
    service::start_agent(&sandbox).unwrap();
    let check = || sandbox.run(&["ondemand", "check"]);
    let text = check().unwrap();
    let held = "a socket unit of systemd holds 127.0.0.1:8000 for app.service";
    assert!(text.contains(held), "{text}");
    sandbox.run(&["systemctl", "stop", "app.socket"]).unwrap();
    let text = format!("{:#}", check().unwrap_err());
    assert!(
        text.contains("nobody listens on 127.0.0.1:8000")
            && text.contains("systemctl enable --now app.socket"),
        "{text}"
    );
    // Without the key it is said that it may be meant.
    sandbox.run(&["systemctl", "start", "app.socket"]).unwrap();
    let config = CONFIG.replace("activation = \"native\"\n", "");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    let text = check().unwrap();
    assert!(text.contains("add activation = \"native\""), "{text}");
}
