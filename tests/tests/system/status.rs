//! `ondemand status` for people, and `ondemand events`.

use std::fs;

use serde_json::Value;
use tests::{
    client::{self, Request},
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// Ends a program with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn used_and_stopped(sandbox: &Sandbox) {
    let get = || client::get(front(), Request::default());
    sandbox.in_network(get).unwrap().unwrap();
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

/// What a command prints on a terminal of this width, with this environment.
fn on_terminal(sandbox: &Sandbox, columns: u16, environment: &str, command: &str) -> String {
    let inside = format!("stty rows 24 cols {columns}; {environment} {command}");
    let status = sandbox
        .command("script")
        .args(["--quiet", "--return", "--command", &inside, "/run/terminal"])
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    let text = fs::read_to_string(sandbox.path("/run/terminal")).unwrap();
    assert!(status.success(), "{text}");
    // The lines of script(1) itself.
    let lines = text.lines().filter(|line| !line.starts_with("Script "));
    lines
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

#[test]
fn the_status_is_for_people() {
    require_sandbox!();
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let other = CONFIG
        .replace("8000", "8001")
        .replace("8080", "8090")
        .replace("app.service", "other.service");
    service::write_backend(&sandbox, "other.service", "--listen 127.0.0.1:8090").unwrap();
    service::write_config(
        &sandbox,
        &format!("[service.test]\n{CONFIG}[service.other]\n{other}"),
    )
    .unwrap();
    service::reload(&sandbox, &["test", "other"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    used_and_stopped(&sandbox);
    sandbox
        .run(&["ondemand", "hold", "other.service", "--start"])
        .unwrap();

    let status = |words: &[&str]| {
        sandbox
            .run(&[&["ondemand", "status"], words].concat())
            .unwrap()
    };
    let table = status(&[]);
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("1 of 2 up"), "{table}");
    if tests::skip::is_all_required() || last.contains("given back") {
        assert!(last.contains("given back"), "{table}");
        let json = service::status(&sandbox, "test").unwrap();
        assert!(json["given_back_bytes"].as_u64().unwrap() > 0, "{json}");
    }
    assert!(!table.contains('\x1b'), "a pipe has no colours");
    let active = status(&["--active"]);
    assert!(
        active.contains("other") && !active.contains("test "),
        "{active}"
    );
    // By its unit; with its past and its journal.
    for name in ["test", "app.service", "app"] {
        let one = status(&[name]);
        for word in [
            "no connection is open",
            "LAST STARTS AND STOPS",
            "started",
            "stopped",
            "stopped after",
        ] {
            assert!(one.contains(word), "{name} {word}: {one}");
        }
        assert!(!one.contains("other"), "{one}");
    }
    sandbox
        .run(&["ondemand", "release", "other.service"])
        .unwrap();

    for columns in [40, 60, 80, 200] {
        let shown = on_terminal(&sandbox, columns, "NO_COLOR=1", "ondemand status");
        assert!(!shown.contains('\x1b'), "{shown:?}");
        let widest = shown
            .lines()
            .map(|line| line.chars().count())
            .max()
            .unwrap();
        assert!(widest <= columns.into(), "{columns}: {shown}");
        assert!(
            shown.contains("test") && shown.contains(" of 2 up"),
            "{shown}"
        );
    }
    let shown = on_terminal(&sandbox, 100, "", "ondemand status");
    assert!(shown.contains("\x1b[2mtest"), "{shown:?}");
    let watched = on_terminal(
        &sandbox,
        100,
        "",
        "timeout --preserve-status -s INT 2.5 ondemand status --watch || true",
    );
    assert!(watched.matches("\x1b[H").count() >= 2, "{watched:?}");
}

#[test]
fn events_are_told_as_they_happen() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    let file = "/run/events";
    let shell = format!("exec ondemand events --json >{file}");
    let started = sandbox.command("/bin/sh").args(["-c", &shell]).spawn();
    let _running = Running(started.unwrap());
    let events = || -> Vec<Value> {
        let text = fs::read_to_string(sandbox.path(file)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let seen = |event: &str, reason: Option<&str>| {
        let what = format!("{event} {reason:?}");
        wait_for(&what, SOON, || {
            let mut events = events().into_iter();
            events.find(|it| {
                it["event"] == event && reason.is_none_or(|reason| it["reason"] == reason)
            })
        })
        .unwrap_or_else(|error| panic!("{error:#} {:?}", events()))
    };
    // It has subscribed when it tells of a hold.
    wait_for("it tells of a hold", SOON, || {
        sandbox
            .run(&["ondemand", "hold", "test", "--for", "1h"])
            .unwrap();
        sandbox.run(&["ondemand", "release", "test"]).unwrap();
        events()
            .iter()
            .any(|it| it["event"] == "held")
            .then_some(())
    })
    .unwrap();
    let held = seen("held", None);
    assert!(
        held["until"].is_string() && held["service"] == "test",
        "{held}"
    );
    seen("released", None);
    let get = || client::get(front(), Request::default());
    sandbox.in_network(get).unwrap().unwrap();
    let started = seen("started", None);
    assert_eq!(started["service"], "test");
    assert!(started["took_seconds"].is_number(), "{started}");
    seen("stopped", Some("idle"));
    // A veto.
    sandbox
        .write("/usr/bin/refuses", "#!/bin/sh\nexit 1\n")
        .unwrap();
    sandbox.run(&["chmod", "755", "/usr/bin/refuses"]).unwrap();
    let with_veto = format!("[service.test]\n{CONFIG}veto = \"/usr/bin/refuses\"\n");
    service::write_config(&sandbox, &with_veto).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    sandbox.in_network(get).unwrap().unwrap();
    seen("vetoed", Some("program"));
    // Another agent.
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    seen("agent", Some("ended"));
    seen("agent", Some("started"));
    let before = events().len();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    wait_for("the next agent's events", SOON, || {
        let events = events();
        events[before..]
            .iter()
            .any(|it| it["event"] == "stopped")
            .then_some(())
    })
    .unwrap();
    // A signal that another sends is none of the agent's.
    let forged = [
        "busctl",
        "emit",
        "/org/ondemand1",
        "org.ondemand1.Manager",
        "Started",
        "st",
        "forged",
        "1",
    ];
    sandbox.run(&forged).unwrap();
    let wrong = sandbox
        .command("ondemand")
        .args(["events", "tset"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(events().iter().all(|it| it["service"] != "forged"));
}
