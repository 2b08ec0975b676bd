//! A day on a machine whose own clock is set: steps of years both ways, the end of summer time, a suspend, a power cut.
//! No namespace has a wall clock, so this is for a machine that belongs to the tests (`cargo xtask test --vm`);
//! `history_clock` has the same with a clock of the agent's own.

use std::time::Duration;

use nix::{
    sys::time::{TimeSpec, TimeValLike as _},
    time::{ClockId, clock_gettime, clock_settime},
};
use serde_json::Value;
use tests::{
    pause::idle_for,
    sandbox::Sandbox,
    service::{self, SOON, wait_state},
    skip, wait_for,
};

use crate::{
    faults::agent_pid,
    history::{HISTORY, ask, prepared},
    history_clock::{run, wait_stops},
    require_sandbox,
};

/// Seconds.
const HOUR: i64 = 3600;
const YEARS: i64 = 30 * 365 * 24 * HOUR;
/// Two seconds before the last hour of summer time in central Europe comes once more (2026-10-25).
const BEFORE_DST: i64 = 1_792_889_998;
const CENTRAL_EUROPE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

fn now() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .unwrap()
        .num_seconds()
}

fn set(seconds: i64) {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::seconds(seconds)).unwrap();
}

/// Suspends the machine until it is woken from outside. Returns for how many seconds.
fn suspend() -> i64 {
    let suspended = || {
        let [all, running] = [ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_MONOTONIC]
            .map(|clock| clock_gettime(clock).unwrap().num_seconds());
        all - running
    };
    let before = suspended();
    std::fs::write("/sys/power/state", "mem").unwrap();
    suspended() - before
}

fn report(sandbox: &Sandbox) -> Option<Value> {
    let script = format!("TZ='{CENTRAL_EUROPE}' ondemand report --json");
    let text = sandbox.run(&["sh", "-c", &script]).ok()?;
    let report: Value = serde_json::from_str(&text).ok()?;
    Some(report["services"][0].clone())
}

#[track_caller]
fn with_stops(sandbox: &Sandbox, stops: u64) -> Value {
    wait_stops(stops, || report(sandbox))
}

#[track_caller]
fn active(report: &Value, expected: f64) {
    let found = report["active_seconds"].as_f64().unwrap();
    assert!((found - expected).abs() < 1.0, "{expected}: {report}");
}

#[test]
fn a_day_of_the_machines_clock() {
    require_sandbox!();
    if !skip::is_own_machine() {
        return skip::say("it sets the machine's clock; cargo xtask test --vm");
    }
    let sandbox = prepared(HISTORY, "1500ms");
    service::start_agent(&sandbox).unwrap();
    let (mut sum, mut stops) = (0.0, 0);
    let begin = now();
    // In each run the clock is set once.
    for to in [begin + YEARS, begin, begin - YEARS, BEFORE_DST] {
        ask(&sandbox);
        set(to);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        (sum, stops) = (sum + run(&sandbox), stops + 1);
        active(&with_stops(&sandbox, stops), sum);
    }

    // Summer time ends while it is up.
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    (sum, stops) = (sum + run(&sandbox), stops + 1);
    active(&with_stops(&sandbox, stops), sum);

    // The host is suspended while it is up, for longer than its idle timeout.
    ask(&sandbox);
    let slept = suspend();
    assert!(slept > 10, "it was suspended for {slept} s");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    (sum, stops) = (sum + run(&sandbox), stops + 1);
    active(&with_stops(&sandbox, stops), sum);

    // A power cut under a client, then off for ten hours.
    ask(&sandbox);
    let kept = sandbox
        .in_network(|| tests::client::Kept::connect(service::front()))
        .unwrap()
        .unwrap();
    wait_for("the start is in the history", SOON, || {
        (report(&sandbox)?["activations"] == stops + 1).then_some(())
    })
    .unwrap();
    let pid = agent_pid(&sandbox).to_string();
    sandbox.run(&["kill", "-9", &pid]).unwrap();
    drop(kept);
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    let last = run(&sandbox);
    let boot = "echo another-boot >/run/boot && \
                mount --bind /run/boot /proc/sys/kernel/random/boot_id";
    sandbox.run(&["sh", "-c", boot]).unwrap();
    let drop_in = "[Service]\nBindReadOnlyPaths=/run/boot:/proc/sys/kernel/random/boot_id\n";
    let place = "/etc/systemd/system/ondemand.service.d/boot.conf";
    sandbox.write(place, drop_in).unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    set(now() + 10 * HOUR);
    idle_for(Duration::from_millis(100));
    service::start_agent(&sandbox).unwrap();
    let report = with_stops(&sandbox, stops + 1);
    let found = report["active_seconds"].as_f64().unwrap();
    assert!(
        found > sum - 1.0 && found < sum + last + 1.0,
        "{sum} and {last}: {report}"
    );
}
