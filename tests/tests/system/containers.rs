//! The published port of a container: a process of the unit binds it and may never accept a connection,
//! because the packets are led elsewhere. No client is steered there.

use serde_json::Value;
use tests::{
    built,
    client::Request,
    sandbox::Sandbox,
    service::{self, front, on_demand, status, wait_journal, wait_state},
};

use crate::{
    require_sandbox,
    steering::{CONFIG, ask_with, is_steered, wait_route},
    stranger::add_neighbour,
};

/// A service whose unit holds the port by a program of this name that accepts nothing, and answers in
/// another network.
fn published(name: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    let holder = format!("/usr/bin/{name}");
    sandbox
        .install(&built("test-backend").unwrap(), &holder)
        .unwrap();
    let start = format!(
        "ip netns exec other /usr/bin/test-backend --listen 10.77.0.2:8080 & \
         exec {holder} --listen 0.0.0.0:8080 --accept-delay-ms 100000000"
    );
    let unit = format!("[Service]\nExecStart=/bin/sh -c '{start}'\n");
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    let config = CONFIG.replace("127.0.0.1:8080", "10.77.0.2:8080");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// Serves several clients in a row, all of them through the proxy.
fn all_are_proxied(sandbox: &Sandbox) {
    for _ in 0..5 {
        assert!(!is_steered(sandbox, front()));
    }
    let now = status(sandbox, "test").unwrap();
    assert_eq!(now["route"], "proxied", "{now}");
    assert_eq!(now["steered"]["accepted"], 0, "{now}");
}

#[track_caller]
fn says(sandbox: &Sandbox, words: &str) {
    wait_journal(sandbox, "ondemand.service", words, 1).unwrap();
    let now = status(sandbox, "test").unwrap();
    let detail = now["detail"].as_str().unwrap();
    assert!(detail.contains("all clients are proxied"), "{now}");
}

#[test]
fn nobody_is_steered_to_a_listener_that_binds_ports_for_containers() {
    require_sandbox!();
    let sandbox = published("conmon");
    all_are_proxied(&sandbox);
    says(&sandbox, "is the port of a container");
    // The next agent does not know who called listen(2), and steers nobody either.
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    all_are_proxied(&sandbox);
}

#[test]
fn nobody_is_steered_to_a_listener_that_accepts_nothing() {
    require_sandbox!();
    let sandbox = published("renamed");
    all_are_proxied(&sandbox);
    says(&sandbox, "nobody accepts connections");
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    all_are_proxied(&sandbox);
    // The next run of an application is judged anew.
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
    assert!(!is_steered(&sandbox, front()));
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
}

#[test]
fn an_application_that_was_started_by_hand_is_trusted_after_one_client() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    for verb in ["start", "restart"] {
        sandbox.run(&["systemctl", verb, "app.service"]).unwrap();
        wait_state(&sandbox, "ondemand-test.target", "active").unwrap();
        assert!(!is_steered(&sandbox, front()), "{verb}: the first client");
        wait_route(&sandbox, "steered");
        // The next agent knows it, too.
        sandbox
            .run(&["systemctl", "restart", "ondemand.service"])
            .unwrap();
        wait_route(&sandbox, "steered");
        assert!(is_steered(&sandbox, front()), "{verb}");
    }
    // A connection that stays open, and has had its answer, is enough.
    sandbox
        .run(&["systemctl", "restart", "app.service"])
        .unwrap();
    let kept = Request {
        keep_alive: true,
        ..Request::default()
    };
    ask_with(&sandbox, front(), kept).unwrap();
    wait_route(&sandbox, "steered");
}

/// A unit with a program of this name that holds the backend's address.
fn hold_port(sandbox: &Sandbox, unit: &str, name: &str) {
    let holder = format!("/usr/bin/{name}");
    sandbox
        .install(&built("test-backend").unwrap(), &holder)
        .unwrap();
    let text = format!("[Service]\nType=notify\nExecStart={holder} --notify\n");
    sandbox
        .write(&format!("/etc/systemd/system/{unit}"), text)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", unit]).unwrap();
}

/// What `ondemand check` finds about the backend: its level, and everything that it says.
fn backend_finding(sandbox: &Sandbox) -> (String, String) {
    let text = sandbox
        .run(&["sh", "-c", "ondemand check --json || true"])
        .unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let found = all.iter().find(|it| it["what"] == "backend").unwrap();
    let level = found["level"].as_str().unwrap().to_owned();
    (level, format!("{} {}", found["message"], found["next"]))
}

#[test]
fn a_container_is_not_to_be_stopped_for_its_own_service() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "--never-listen").unwrap();
    // As docker's, whose daemon is another unit.
    hold_port(&sandbox, "containers.service", "docker-proxy");
    #[track_caller]
    fn check(sandbox: &Sandbox, holder: &str, words: &str) {
        let (level, text) = backend_finding(sandbox);
        assert_eq!(level, "warning", "{text}");
        assert!(text.contains(holder) && text.contains(words), "{text}");
        assert!(!text.contains("stop "), "{text}");
    }
    check(&sandbox, "docker-proxy", "in the foreground");
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    check(&sandbox, "docker-proxy", "let it be");
    // As podman's, in the unit itself.
    sandbox
        .run(&["systemctl", "stop", "containers.service", "app.service"])
        .unwrap();
    hold_port(&sandbox, "app.service", "conmon");
    check(&sandbox, "conmon", "the proxy carries all clients");
}
