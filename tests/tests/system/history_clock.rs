//! The report's active time is what it was, whatever befalls the clock and the host.

use std::time::Duration;

use serde_json::Value;
use tests::{
    built,
    pause::idle_for,
    sandbox::Sandbox,
    service::{self, SOON, wait_state},
    wait_for,
};

use crate::{
    faults::agent_pid,
    history::{HISTORY, ask, prepared},
    require_sandbox,
};

/// By how many milliseconds the wall clock is ahead: see `ondemand::ablation`. No namespace has one.
const AHEAD: &str = "/etc/ondemand-wall-ahead";
const YEARS: i64 = 51 * 365 * 86_400_000;

fn set_up() -> Sandbox {
    let sandbox = prepared(HISTORY, "1500ms");
    let program = built("ondemand-ablated").unwrap();
    sandbox.install(&program, "/usr/bin/ondemand").unwrap();
    let drop_in = format!("[Service]\nEnvironment=ONDEMAND_WALL_AHEAD={AHEAD}\nRestart=no\n");
    let place = "/etc/systemd/system/ondemand.service.d/wall.conf";
    sandbox.write(place, drop_in).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    set(&sandbox, 0);
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn set(sandbox: &Sandbox, ahead: i64) {
    sandbox.write(AHEAD, ahead.to_string()).unwrap();
}

/// The service in the report, by the same clock.
fn report(sandbox: &Sandbox) -> Option<Value> {
    let script = format!("ONDEMAND_WALL_AHEAD={AHEAD} ondemand report --json");
    let text = sandbox.run(&["sh", "-c", &script]).ok()?;
    let report: Value = serde_json::from_str(&text).ok()?;
    Some(report["services"][0].clone())
}

#[track_caller]
fn with_stops(sandbox: &Sandbox, stops: u64) -> Value {
    wait_stops(stops, || report(sandbox))
}

/// Waits until this many stops are in the history, as the service in the report has it.
#[track_caller]
pub(crate) fn wait_stops(stops: u64, report: impl Fn() -> Option<Value>) -> Value {
    wait_for(&format!("{stops} stops in the history"), SOON, || {
        let report = report()?;
        let by_reason = report["stops_by_reason"].as_object()?;
        let sum: u64 = by_reason.values().filter_map(Value::as_u64).sum();
        (sum == stops).then_some(report)
    })
    .unwrap()
}

/// How long the last run took, by systemd's monotonic stamps. Seconds.
pub(crate) fn run(sandbox: &Sandbox) -> f64 {
    let stamp = |name: &str| -> f64 {
        let name = format!("{name}TimestampMonotonic");
        let text = sandbox.property("app.service", &name).unwrap();
        text.parse().unwrap()
    };
    (stamp("InactiveEnter") - stamp("InactiveExit")) / 1e6
}

#[track_caller]
fn active(report: &Value, expected: f64) {
    let found = report["active_seconds"].as_f64().unwrap();
    assert!((found - expected).abs() < 0.1, "{expected}: {report}");
}

#[test]
fn steps_of_the_clock_stretch_nothing() {
    require_sandbox!();
    let sandbox = set_up();
    let mut sum = 0.0;
    // In each run the clock is set once: years ahead, back, years back, back.
    for (stops, ahead) in (1..).zip([YEARS, 0, -YEARS, 0]) {
        ask(&sandbox);
        set(&sandbox, ahead);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        sum += run(&sandbox);
        let report = with_stops(&sandbox, stops);
        active(&report, sum);
        let down = report["inactive_seconds"].as_f64().unwrap();
        assert!(down < 120.0, "{report}");
    }
    // The next agent reads the same.
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    active(&with_stops(&sandbox, 4), sum);
}

#[test]
fn a_host_that_was_off_was_not_active() {
    require_sandbox!();
    let sandbox = set_up();
    ask(&sandbox);
    let kept = sandbox
        .in_network(|| tests::client::Kept::connect(service::front()))
        .unwrap()
        .unwrap();
    wait_for("the start is in the history", SOON, || {
        let report = report(&sandbox)?;
        (report["activations"] == 1).then_some(())
    })
    .unwrap();
    // A power cut: the agent writes nothing more, and nothing that ran before runs after it.
    let pid = agent_pid(&sandbox).to_string();
    sandbox.run(&["kill", "-9", &pid]).unwrap();
    drop(kept);
    idle_for(Duration::from_secs(2)); // off
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    let up = run(&sandbox);
    let boot = "echo another-boot >/run/boot && \
                mount --bind /run/boot /proc/sys/kernel/random/boot_id";
    sandbox.run(&["sh", "-c", boot]).unwrap();
    // The unit has a /proc of its own (ProtectProc=).
    let drop_in = "[Service]\nBindReadOnlyPaths=/run/boot:/proc/sys/kernel/random/boot_id\n";
    let place = "/etc/systemd/system/ondemand.service.d/boot.conf";
    sandbox.write(place, drop_in).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    set(&sandbox, 36_000_000); // for ten hours
    wait_state(&sandbox, "ondemand.service", "failed").unwrap();
    service::start_agent(&sandbox).unwrap();
    let report = with_stops(&sandbox, 1);
    assert_eq!(report["stops_by_reason"]["unknown"], 1, "{report}");
    let found = report["active_seconds"].as_f64().unwrap();
    assert!(found > 0.0 && found < up - 1.5, "{up}: {report}");
}
