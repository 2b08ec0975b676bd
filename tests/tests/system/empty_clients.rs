//! `ignore_empty`: connections without a byte, such as the checks of a load balancer.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{
    client::{self, Request},
    pause::think,
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, on_demand, status, stays, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

const IGNORED: &str = "ignore_empty = true\n";
/// The layouts of a service: the application keeps its address, its clients are steered, or all are proxied.
const LAYOUTS: [&str; 3] = ["own", "steered", "proxied"];

/// Those that are tried.
fn layouts() -> &'static [&'static str] {
    if skip::is_long() {
        &LAYOUTS
    } else {
        &LAYOUTS[..1]
    }
}

/// The lines of a service of this layout, and the options of its application.
fn layout(layout: &str) -> (String, &'static str) {
    match layout {
        "own" => {
            let own = CONFIG.replace("steer = false\n", "");
            (
                own.replace("backend = \"127.0.0.1:8080\"\n", ""),
                "--listen 127.0.0.1:8000",
            )
        }
        "steered" => (CONFIG.replace("steer = false", "steer = true"), ""),
        _ => (CONFIG.to_owned(), ""),
    }
}

fn inside<T: Send>(sandbox: &Sandbox, work: impl FnOnce() -> T + Send) -> T {
    sandbox.in_network(work).unwrap()
}

fn ask(sandbox: &Sandbox) {
    inside(sandbox, || {
        client::get(front(), Request::default()).unwrap()
    });
}

/// Connects, and closes in one of two ways.
fn connect_only(to: SocketAddr, reset: bool) {
    let stream = client::connect(to).unwrap();
    if reset {
        client::reset_at_end(&stream).unwrap();
    }
}

/// How often the application was started.
fn starts(sandbox: &Sandbox) -> usize {
    let journal = sandbox.run(&[
        "journalctl",
        "--no-pager",
        "--output=cat",
        "_PID=1",
        "--unit=app.service",
    ]);
    journal.unwrap().matches("Started app.service").count()
}

#[test]
fn a_connection_without_a_byte_starts_nothing() {
    require_sandbox!();
    for name in layouts() {
        let (lines, options) = layout(name);
        let sandbox = on_demand(&(lines.replace("300ms", "1h") + IGNORED), options).unwrap();
        for agent in ["start", "stop"] {
            sandbox
                .run(&["systemctl", agent, "ondemand.service"])
                .unwrap();
            inside(&sandbox, || {
                for reset in [false, true, false, true] {
                    connect_only(front(), reset);
                }
            });
            // One that stays connected starts the service with its first byte, whatever is sent with it.
            let mut late = inside(&sandbox, || client::connect(front()).unwrap());
            for unit in ["app.service", "ondemand-test.service"] {
                stays(&sandbox, unit, "inactive", Duration::from_millis(300));
            }
            inside(&sandbox, || {
                client::ask(&mut late, Request::default()).unwrap()
            });
            assert_eq!(
                sandbox.property("app.service", "ActiveState").unwrap(),
                "active",
                "{name}"
            );
            drop(late);
            let half = Request {
                half_close: true,
                ..Request::default()
            };
            for _ in 0..2 {
                inside(&sandbox, || client::get(front(), half).unwrap());
                stop(&sandbox);
            }
        }
    }
}

/// Ends the application, its proxy and its lease by hand.
fn stop(sandbox: &Sandbox) {
    for unit in [
        "app.service",
        "ondemand-test.target",
        "ondemand-test.service",
    ] {
        sandbox.run(&["systemctl", "stop", unit]).unwrap();
        wait_state(sandbox, unit, "inactive").unwrap();
    }
}

/// Connects every 20 ms while `work` runs, and returns how often.
fn while_checked<T>(sandbox: &Sandbox, work: impl FnOnce() -> T) -> (T, u64) {
    let (ended, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            inside(sandbox, || {
                while !ended.load(Ordering::Relaxed) {
                    let before = count.fetch_add(1, Ordering::Relaxed);
                    connect_only(front(), before.is_multiple_of(2));
                    think(Duration::from_millis(20));
                }
            });
        });
        let result = work();
        ended.store(true, Ordering::Relaxed);
        (result, count.load(Ordering::Relaxed))
    })
}

#[test]
fn a_connection_without_a_byte_does_not_keep_it_up() {
    require_sandbox!();
    for name in layouts() {
        let (lines, options) = layout(name);
        let (_, checks) = {
            let sandbox = on_demand(&(lines.clone() + IGNORED), options).unwrap();
            ask(&sandbox);
            let checked = while_checked(&sandbox, || {
                wait_state(&sandbox, "app.service", "inactive").unwrap();
                stays(&sandbox, "app.service", "inactive", Duration::from_secs(1));
            });
            let end = wait_for("the agent knows", SOON, || {
                let status = status(&sandbox, "test").ok()?;
                (status["stops_by_reason"]["idle"] == 1).then_some(status)
            })
            .unwrap();
            assert_eq!(end["count_drift"], 0, "{name}: {end}");
            assert_eq!(starts(&sandbox), 1, "{name}");
            // With bytes they are clients, as ever.
            ask(&sandbox);
            checked
        };
        assert!(checks > 10, "{name}: {checks}");
    }
    // The same checks keep it up otherwise.
    let (lines, options) = layout("own");
    let sandbox = on_demand(&lines, options).unwrap();
    ask(&sandbox);
    while_checked(&sandbox, || {
        stays(&sandbox, "app.service", "active", Duration::from_secs(2));
    });
}

#[test]
fn a_reload_changes_it_at_once() {
    require_sandbox!();
    let (lines, options) = layout("steered");
    let lines = lines.replace("300ms", "1h");
    let sandbox = on_demand(&lines, options).unwrap();
    for (text, is_started) in [
        (lines.clone() + IGNORED, false),
        (lines.clone(), true),
        (lines.clone() + IGNORED, false),
    ] {
        service::write_config(&sandbox, &format!("[service.test]\n{text}")).unwrap();
        sandbox
            .run(&["systemctl", "reload", "ondemand.service"])
            .unwrap();
        // A FIN that was dropped comes again: at the changed socket it would be a client.
        inside(&sandbox, || connect_only(front(), !is_started));
        if is_started {
            wait_state(&sandbox, "app.service", "active").unwrap();
            wait_for("the proxy has served it", SOON, || {
                (status(&sandbox, "test").ok()?["front"]["closed"] == 1).then_some(())
            })
            .unwrap();
            stop(&sandbox);
        } else {
            stays(
                &sandbox,
                "app.service",
                "inactive",
                Duration::from_millis(300),
            );
        }
    }
}

/// What `ondemand check` finds of the filter: its level, and the command that mends it.
fn finding(sandbox: &Sandbox, who: &str) -> (String, Value) {
    let script = format!("{who} ondemand check --json || true");
    let text = sandbox.run(&["sh", "-c", &script]).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let found = all.iter().find(|it| it["what"] == "empty").unwrap();
    (
        found["level"].as_str().unwrap().into(),
        found["fix"].clone(),
    )
}

#[test]
fn check_tells_whether_the_filter_is_there() {
    require_sandbox!();
    let (lines, options) = layout("own");
    let sandbox = on_demand(&(lines.replace("300ms", "1h") + IGNORED), options).unwrap();
    assert_eq!(finding(&sandbox, "").0, "ok");
    let (level, fix) = finding(&sandbox, "runuser -u nobody --");
    assert_eq!((&*level, fix), ("warning", Value::Null), "it cannot know");
    // A socket that was opened without it, and no agent that puts it there later.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let drop_in = "/run/systemd/system/ondemand-test.socket.d/none.conf";
    sandbox
        .write(drop_in, "[Socket]\nExecStartPost=\n")
        .unwrap();
    for step in ["daemon-reload", "restart ondemand-test.socket"] {
        let step = format!("systemctl {step}");
        sandbox.run(&step.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let (level, fix) = finding(&sandbox, "");
    assert_eq!(level, "warning");
    let command: Vec<&str> = fix
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(command[..2], ["ondemand", "sieve"], "{command:?}");
    inside(&sandbox, || connect_only(front(), true));
    wait_state(&sandbox, "app.service", "active").unwrap();
    sandbox.run(&command).unwrap();
    assert_eq!(finding(&sandbox, "").0, "ok");
    stop(&sandbox);
    inside(&sandbox, || connect_only(front(), true));
    stays(
        &sandbox,
        "app.service",
        "inactive",
        Duration::from_millis(300),
    );
}
