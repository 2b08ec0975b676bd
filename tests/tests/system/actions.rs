//! `ondemand hold`, `release`, `start`, `stop` and `reload`, and their authorization.

use std::time::Duration;

use tests::{
    client::{self, Request},
    pause::idle_for,
    sandbox::Sandbox,
    service::{self, CONFIG, front, number, on_demand, status, stays, wait_state},
    wait_for,
};

use crate::{bus::check, faults::agent_pid, require_sandbox};

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

fn state(sandbox: &Sandbox) -> String {
    sandbox.property("app.service", "ActiveState").unwrap()
}

#[test]
fn a_hold_keeps_it_up_until_it_is_released() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    check(&sandbox, "ondemand hold test", 0, &["until it is released"]);
    // It only prevents stops.
    assert_eq!(state(&sandbox), "inactive");
    ask(&sandbox);
    stays(&sandbox, "app.service", "active", Duration::from_secs(2)); // several idle timeouts
    let held = status(&sandbox, "test").unwrap();
    assert_eq!(held["held"], true);
    assert_eq!(held["held_until"], serde_json::Value::Null);
    check(&sandbox, "ondemand status", 0, &["held until released"]);
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["held", "ondemand release test"],
    );
    // It survives the agent's restart, and its death.
    for signal in ["TERM", "KILL"] {
        let kill = format!("--signal={signal}");
        let before = agent_pid(&sandbox);
        sandbox
            .run(&["systemctl", "kill", &kill, "ondemand.service"])
            .unwrap();
        wait_for("the agent has gone", service::SOON, || {
            (sandbox.main_pid("ondemand.service").ok() != Some(before)).then_some(())
        })
        .unwrap();
        service::start_agent(&sandbox).unwrap();
        stays(&sandbox, "app.service", "active", Duration::from_secs(1));
        assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    }
    check(&sandbox, "ondemand release test", 0, &["released"]);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    check(&sandbox, "ondemand release test", 0, &["was not held"]);
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
}

/// The end of a hold is shown to each caller in the time zone of that caller.
#[test]
fn a_hold_that_starts_and_when_it_ends() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let said = |command: &str| sandbox.run(&["sh", "-c", command]).unwrap();
    let answer = said("TZ=XXX-05:00 ondemand hold test --for 2h --start");
    assert!(answer.contains("test: started"), "{answer}");
    wait_state(&sandbox, "app.service", "active").unwrap();
    // `test: held until 2026-11-28 23:01:02`
    let (_, until) = answer.split_once("held until ").unwrap();
    let status = said("TZ=XXX-05:00 ondemand status");
    let is_near = |minute: &str| status.contains(&format!(", until {minute}"));
    assert!(
        is_near(&until[..15]) || is_near(&until[..10]),
        "{answer} {status}"
    );
    let hour = |zone: &str| {
        let status = said(&format!("TZ={zone} ondemand status"));
        let (_, until) = status.split_once(", until ").unwrap();
        until[11..13].parse::<u32>().unwrap()
    };
    assert_eq!((hour("UTC") + 5) % 24, hour("XXX-05:00"));
    let json = said("TZ=XXX-05:00 ondemand status --json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let until = json["services"][0]["held_until"].as_str().unwrap();
    assert!(until.ends_with('Z'), "{until}");
}

#[test]
fn a_hold_ends_by_itself() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    check(
        &sandbox,
        "ondemand hold test --for 3s",
        0,
        &["held until 20"],
    );
    ask(&sandbox);
    let several_timeouts = Duration::from_millis(1_500);
    stays(&sandbox, "app.service", "active", several_timeouts);
    let held = status(&sandbox, "test").unwrap();
    assert!(held["held_until"].is_string(), "{held}");
    // The agent's restart makes it no longer.
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
}

#[test]
fn a_damaged_file_of_holds() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let file = "/var/lib/ondemand/holds";
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    sandbox
        .write(
            file,
            b"\x00\xffgarbage\n{\"service\":\"test\",\"end\":{\"unt\n",
        )
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    let journal = sandbox.journal("ondemand.service");
    for words in [file, "line 1", "line 2", "test stays held until released"] {
        assert!(journal.contains(words), "no {words:?} in {journal}");
    }
    assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    check(&sandbox, "ondemand release test", 0, &["released"]);
    // A directory cannot be read at all: unknown stops nothing.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    sandbox
        .run(&["sh", "-c", &format!("rm {file}; mkdir {file}")])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    // It cannot be written either, which is reported.
    check(
        &sandbox,
        "ondemand release test",
        1,
        &["done, but", "holds"],
    );
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
}

#[test]
fn a_hold_from_before_a_reboot() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let check = |until: &str, expected: bool| {
        sandbox
            .run(&["systemctl", "stop", "ondemand.service"])
            .unwrap();
        let line = format!(
            r#"{{"service":"test","end":{{"until":"{until}","left":3600.0,"boot":"another","uptime":1.0}}}}"#
        );
        sandbox
            .write("/var/lib/ondemand/holds", line + "\n")
            .unwrap();
        service::start_agent(&sandbox).unwrap();
        let status = status(&sandbox, "test").unwrap();
        assert_eq!(status["held"], expected, "{until}: {status}");
        status["detail"].as_str().unwrap().to_owned()
    };
    check("2026-01-01T00:00:00Z", false);
    // The clock was set back meanwhile: no longer than it was.
    let detail = check("2200-01-01T00:00:00Z", true);
    assert!(detail.contains("held for 59 min"), "{detail}");
}

#[test]
fn start_and_stop() {
    require_sandbox!();
    let config = CONFIG.replace("300ms", "5s");
    let sandbox = on_demand(
        &config,
        "--notify --start-delay-ms 500 --stop-delay-ms 2500",
    )
    .unwrap();
    check(&sandbox, "ondemand stop test", 0, &["was not running"]);
    check(&sandbox, "ondemand start test", 0, &["test: started"]);
    assert_eq!(state(&sandbox), "active");
    // A start of a service that is up counts as a use.
    let idle = || {
        status(&sandbox, "test").unwrap()["idle_seconds"]
            .as_f64()
            .unwrap()
    };
    idle_for(Duration::from_millis(1_500));
    assert!(idle() >= 1.5);
    check(&sandbox, "ondemand start test", 0, &["already up"]);
    assert!(idle() < 1.5);
    // Its stop takes long, which is reported.
    check(
        &sandbox,
        "ondemand stop test",
        0,
        &["test: stopped", "deactivating"],
    );
    assert_eq!(state(&sandbox), "inactive");
    let stops = status(&sandbox, "test").unwrap();
    assert_eq!(stops["stops_by_reason"]["requested"], 1, "{stops}");
    ask(&sandbox);
}

#[test]
fn a_stop_is_never_forced() {
    require_sandbox!();
    let config = CONFIG.replace("300ms", "1h");
    let sandbox = on_demand(&config, "").unwrap();
    let back = "127.0.0.1:8080".parse().unwrap();
    check(&sandbox, "ondemand start test", 0, &[]);
    wait_for("the application listens", service::SOON, || {
        sandbox.in_network(|| client::connect(back)).unwrap().ok()
    })
    .unwrap();
    let open = sandbox
        .in_network(|| client::connect(back).unwrap())
        .unwrap();
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["test: kept: 1 connection is open"],
    );
    assert_eq!(state(&sandbox), "active");
    drop(open);
    check(&sandbox, "ondemand stop test", 0, &["stopped"]);
    // A proxy that would stay for long keeps it up while it has clients, and exits on the signal.
    ask(&sandbox);
    assert_eq!(
        sandbox
            .property("ondemand-test.service", "ActiveState")
            .unwrap(),
        "active"
    );
    let open = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["test: kept: 1 connection is open"],
    );
    drop(open);
    check(&sandbox, "ondemand stop test", 0, &["test: stopped"]);
    assert_eq!(state(&sandbox), "inactive");
    // One that does not leave, as of an older version.
    ask(&sandbox);
    let proxy = sandbox.main_pid("ondemand-test.service").unwrap();
    let proxy = proxy.to_string();
    sandbox.run(&["kill", "-STOP", &proxy]).unwrap();
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["kept", "its proxy is still up", "after its last client"],
    );
    sandbox.run(&["kill", "-CONT", &proxy]).unwrap();
    assert_eq!(state(&sandbox), "active");
    // Its unit does not start.
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    sandbox
        .write(
            "/etc/systemd/system/app.service.d/broken.conf",
            "[Service]\nType=exec\nExecStart=\nExecStart=/nowhere\n",
        )
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    check(
        &sandbox,
        "ondemand start test",
        1,
        &["app.service", "failed", "journalctl -u app.service"],
    );
}

#[test]
fn a_half_open_handshake_keeps_it_up() {
    require_sandbox!();
    // Its listener receives no final ACK.
    let config = CONFIG.replace("300ms", "1h");
    let sandbox = on_demand(&config, "--late-ack 100 --notify").unwrap();
    check(&sandbox, "ondemand start test", 0, &["started"]);
    let back = "127.0.0.1:8080".parse().unwrap();
    let half_open = sandbox
        .in_network(|| client::connect(back).unwrap())
        .unwrap();
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["kept: 1 handshake half open"],
    );
    assert_eq!(state(&sandbox), "active");
    drop(half_open);
}

#[test]
fn a_veto_program_is_asked_for_a_stop_too() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let script = sandbox.path("/tmp/checker.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\ntest -e /run/allow || { echo still indexing; exit 1; }\n",
    )
    .unwrap();
    sandbox.install(&script, "/usr/bin/checker").unwrap();
    let config = CONFIG.replace("300ms", "1h");
    let config = format!("[service.test]\n{config}veto = \"/usr/bin/checker\"\n");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    check(&sandbox, "ondemand start test", 0, &[]);
    check(
        &sandbox,
        "ondemand stop test",
        1,
        &["kept", "veto program", "still indexing"],
    );
    assert_eq!(number(&sandbox, "test", "vetoes").unwrap(), 1);
    sandbox.write("/run/allow", "").unwrap();
    check(&sandbox, "ondemand stop test", 0, &["stopped"]);
}

#[test]
fn names_configurations_and_agents_that_are_wrong() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    for verb in ["hold", "release", "start", "stop"] {
        check(
            &sandbox,
            &format!("ondemand {verb} tset"),
            2,
            &["no service \"tset\"", "did you mean \"test\"?"],
        );
        check(
            &sandbox,
            &format!("ondemand {verb} nothing-like-it"),
            2,
            &["there are: test"],
        );
    }
    // The units are mentioned where they are older.
    check(
        &sandbox,
        "ondemand reload | grep -v daemon-reload",
        0,
        &["has read"],
    );
    service::write_config(
        &sandbox,
        &format!("[service.test]\n{}", CONFIG.replace("\"0s\"", "\"1s\"")),
    )
    .unwrap();
    check(
        &sandbox,
        "ondemand reload | grep -v daemon-reload",
        0,
        &["has read"],
    );
    let later = CONFIG.replace("start_timeout = \"10s\"", "start_timeout = \"11s\"");
    service::write_config(&sandbox, &format!("[service.test]\n{later}")).unwrap();
    check(
        &sandbox,
        "ondemand reload",
        0,
        &["has read", "systemctl daemon-reload"],
    );
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    check(
        &sandbox,
        "ondemand reload | grep -v daemon-reload",
        0,
        &["has read"],
    );
    service::write_config(&sandbox, "[service.test]\nlisten = 7\n").unwrap();
    check(
        &sandbox,
        "ondemand reload",
        2,
        &["/etc/ondemand/ondemand.toml:6: service.test.listen"],
    );
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    for verb in [
        "hold test",
        "release test",
        "start test",
        "stop test",
        "reload",
        "status",
    ] {
        check(
            &sandbox,
            &format!("ondemand {verb}"),
            1,
            &[
                "no agent is running",
                "systemctl enable --now ondemand.service",
            ],
        );
    }
    check(
        &sandbox,
        "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere ondemand hold test",
        1,
        &["system bus", "/nowhere"],
    );
}
