//! `ondemand hold`, `release`, `start`, `stop` and `reload`, and who may.

use std::{process::Output, thread, time::Duration};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, front, number, on_demand, status, wait_state},
    wait_for,
};

use crate::require_sandbox;

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

fn shell(sandbox: &Sandbox, script: &str) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = sandbox.command("sh").args(["-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code(), said)
}

#[track_caller]
fn check(sandbox: &Sandbox, script: &str, code: i32, words: &[&str]) {
    let (status, said) = shell(sandbox, script);
    assert_eq!(status, Some(code), "{script}: {said}");
    for word in words {
        assert!(said.contains(word), "{script}: no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
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
    thread::sleep(Duration::from_secs(2)); // several idle timeouts
    assert_eq!(state(&sandbox), "active");
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
        let before = sandbox.property("ondemand.service", "MainPID").unwrap();
        sandbox
            .run(&["systemctl", "kill", &kill, "ondemand.service"])
            .unwrap();
        wait_for("the agent has gone", service::SOON, || {
            let now = sandbox.property("ondemand.service", "MainPID").ok()?;
            (now != before).then_some(())
        })
        .unwrap();
        service::start_agent(&sandbox).unwrap();
        thread::sleep(Duration::from_secs(1));
        assert_eq!(state(&sandbox), "active", "after {signal}");
        assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    }
    check(&sandbox, "ondemand release test", 0, &["released"]);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    check(&sandbox, "ondemand release test", 0, &["was not held"]);
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
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
    thread::sleep(Duration::from_millis(1_500)); // several idle timeouts
    assert_eq!(state(&sandbox), "active");
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
    for words in [
        file,
        "line 1",
        "line 2",
        "test is held until it is released",
    ] {
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
    // And it cannot be written: that is said.
    check(
        &sandbox,
        "ondemand release test",
        1,
        &["done, but", "holds"],
    );
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
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
    check(&sandbox, "ondemand start test", 0, &["was up already"]);
    // It takes its time to stop, and that is said.
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
    // A proxy that would stay for long.
    ask(&sandbox);
    check(&sandbox, "ondemand stop test", 1, &["kept", "proxy"]);
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
    check(&sandbox, "ondemand reload", 0, &["has read"]);
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
            &["no agent is running", "systemctl start ondemand.service"],
        );
    }
    check(
        &sandbox,
        "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere ondemand hold test",
        1,
        &["system bus", "/nowhere"],
    );
}

#[test]
fn everybody_may_look_and_only_root_may_act() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let nobody = "runuser -u nobody --";
    check(&sandbox, &format!("{nobody} ondemand status"), 0, &["test"]);
    check(
        &sandbox,
        &format!(
            "{nobody} busctl get-property org.ondemand1 /org/ondemand1/service/test \
             org.ondemand1.Service State"
        ),
        0,
        &["s \"inactive\""],
    );
    // No polkit is there.
    sandbox
        .run(&[
            "sh",
            "-c",
            "rm -f /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service",
        ])
        .unwrap();
    sandbox
        .run(&["systemctl", "reload", "dbus.service"])
        .unwrap();
    for verb in [
        "hold test",
        "release test",
        "start test",
        "stop test",
        "reload",
    ] {
        check(
            &sandbox,
            &format!("{nobody} ondemand {verb}"),
            1,
            &["only root may do this", "polkit is not running", "sudo"],
        );
    }
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
    // Who misspells is told so first.
    check(
        &sandbox,
        &format!("{nobody} ondemand hold tset"),
        2,
        &["did you mean"],
    );
    // A bus that forbids it.
    sandbox
        .write(
            "/etc/dbus-1/system.d/zz.conf",
            "<busconfig><policy user=\"nobody\"><deny send_destination=\"org.ondemand1\"/></policy></busconfig>",
        )
        .unwrap();
    sandbox
        .run(&["systemctl", "reload", "dbus.service"])
        .unwrap();
    for verb in ["hold test", "status"] {
        check(
            &sandbox,
            &format!("{nobody} ondemand {verb}"),
            1,
            &["the bus does not let you", "sudo"],
        );
    }
}

#[test]
fn the_bus_shows_services_and_tells_of_changes() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let path = "/org/ondemand1/service/test";
    let listing = sandbox
        .run(&["busctl", "introspect", "org.ondemand1", path])
        .unwrap();
    for word in [
        "org.ondemand1.Service",
        ".Name",
        ".State",
        ".HeldUntil",
        "\"app.service\"",
    ] {
        assert!(listing.contains(word), "no {word} in {listing}");
    }
    let manager = sandbox
        .run(&["busctl", "introspect", "org.ondemand1", "/org/ondemand1"])
        .unwrap();
    for word in [
        ".Hold", ".Release", ".Start", ".Stop", ".Reload", ".Started", ".Stopped",
    ] {
        assert!(manager.contains(word), "no {word} in {manager}");
    }
    let tree = sandbox.run(&["busctl", "tree", "org.ondemand1"]).unwrap();
    assert!(tree.contains(path), "{tree}");
    // As the bus carries it.
    let monitor = sandbox
        .command("sh")
        .args([
            "-c",
            "busctl monitor --json=short org.ondemand1 >/run/monitor",
        ])
        .spawn();
    let mut monitor = monitor.unwrap();
    let heard = |words: &[&str]| {
        wait_for(&format!("{words:?} on the bus"), service::SOON, || {
            let text = std::fs::read_to_string(sandbox.path("/run/monitor")).ok()?;
            let hit = |line: &str| words.iter().all(|word| line.contains(word));
            text.lines().any(hit).then_some(())
        })
        .unwrap();
    };
    wait_for("the monitor listens", service::SOON, || {
        sandbox
            .run(&[
                "busctl",
                "call",
                "org.ondemand1",
                "/org/ondemand1",
                "org.freedesktop.DBus.Peer",
                "Ping",
            ])
            .ok()?;
        let text = std::fs::read_to_string(sandbox.path("/run/monitor")).ok()?;
        text.contains("Ping").then_some(())
    })
    .unwrap();
    ask(&sandbox);
    heard(&["\"Started\"", "\"test\""]);
    heard(&["PropertiesChanged", path, "\"active\""]);
    heard(&["\"Stopped\"", "\"test\"", "\"idle\""]);
    heard(&["PropertiesChanged", path, "\"inactive\""]);
    sandbox.run(&["ondemand", "hold", "test"]).unwrap();
    heard(&[
        "PropertiesChanged",
        path,
        "HeldUntil",
        "18446744073709551615",
    ]);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    // A service that is configured away is gone from the bus.
    service::write_config(&sandbox, "").unwrap();
    sandbox.run(&["ondemand", "reload"]).unwrap();
    wait_for("its object is gone", service::SOON, || {
        let tree = sandbox.run(&["busctl", "tree", "org.ondemand1"]).ok()?;
        (!tree.contains(path)).then_some(())
    })
    .unwrap();
}
