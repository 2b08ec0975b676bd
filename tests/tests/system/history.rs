//! The history is what really happened, and nothing that befalls it hurts the agent.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    client::{self, Request},
    pause::idle_for,
    require_long,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, number, wait_state},
    skip, wait_for,
};

use crate::{
    datagrams,
    faults::agent_pid,
    held::{self, asleep},
    require_sandbox,
    stranger::add_neighbour,
};

pub(crate) const HISTORY: &str = "/var/lib/ondemand/history.db";

/// A sandbox with one service whose agent writes a history, not yet started.
pub(crate) fn prepared(history: &str, timeout: &str) -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = CONFIG.replace("300ms", timeout);
    let config =
        format!("[agent]\nmetrics = \"\"\nhistory = \"{history}\"\n\n[service.test]\n{config}");
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox
}

/// One request: bytes to and from the server, and when it began and ended.
pub(crate) fn ask(sandbox: &Sandbox) -> (u64, u64, Instant, Instant) {
    let begin = Instant::now();
    let answer = sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    (answer.sent, answer.received, begin, Instant::now())
}

fn report(sandbox: &Sandbox, more: &[&str]) -> Value {
    let words = [&["ondemand", "report", "--json"], more].concat();
    serde_json::from_str(&sandbox.run(&words).unwrap()).unwrap()
}

/// Reports until as many stops are in it: the history is written behind the agent.
fn report_with_stops(sandbox: &Sandbox, stops: u64, more: &[&str]) -> Value {
    wait_for(&format!("{stops} stops in the history"), SOON, || {
        let report = report(sandbox, more);
        let by_reason = report["total"]["stops_by_reason"].as_object()?;
        let sum: u64 = by_reason.values().filter_map(Value::as_u64).sum();
        (sum == stops).then_some(report)
    })
    .unwrap()
}

/// Of clients that were held or refused, and of datagrams, in all that people read.
#[test]
fn how_clients_came_is_in_the_report() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    let options = "--listen [::]:8000 --udp [::]:8000 --start-delay-ms 200";
    service::write_backend(&sandbox, "app.service", options).unwrap();
    let text = format!(
        "[agent]\nmetrics = \"127.0.0.1:9464\"\nhistory = \"{HISTORY}\"\n\n[service.test]\n\
         listen = [\"0.0.0.0:8000\", \"udp:0.0.0.0:8000\"]\nunit = \"app.service\"\nidle_timeout = \"300ms\"\n\
         min_uptime = \"0s\"\nfirst_client = \"held\"\nwake_from = [\"10.77.0.0/24\"]\n"
    );
    sandbox.write("/etc/ondemand/ondemand.toml", text).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let (near, local) = ("10.77.0.1:8000", "127.0.0.1:8000");
    asleep(&sandbox);
    held::ask(&sandbox, false, local).unwrap_err();
    datagrams::client(&sandbox, false, local)
        .ask(b"no", datagrams::PATIENCE)
        .unwrap_err();
    held::ask(&sandbox, true, near).unwrap();
    let line = sandbox.run(&["ondemand", "status", "test"]).unwrap();
    assert!(line.contains("clients: 1 held for "), "{line}");
    assert!(line.contains("1 refused; 0 datagrams, 1 refused"), "{line}");
    asleep(&sandbox);
    let client = datagrams::client(&sandbox, true, near);
    client.ask(b"first", datagrams::PATIENCE).unwrap();
    client.ask(b"second", datagrams::PATIENCE).unwrap();
    asleep(&sandbox);
    let report = report_with_stops(&sandbox, 2, &[]);
    let service = &report["services"][0];
    let held = &service["held_clients"];
    assert_eq!(held["to_application"], 1, "{held}");
    let seconds = float(held, "seconds");
    assert!((0.2..5.0).contains(&seconds), "{held}");
    assert_eq!(service["refused_connections"], 1, "{service}");
    assert_eq!(service["proxied_connections"], 0, "{service}");
    // The second one may still have lined up behind the first.
    let held = service["datagrams"]["held"].as_u64().unwrap();
    assert!((1..=2).contains(&held), "{service}");
    let expected = serde_json::json!({"passed": 2, "held": held, "lost": 0, "refused": 1});
    assert_eq!(service["datagrams"], expected);
    let text = sandbox.run(&["ondemand", "report"]).unwrap();
    let datagrams = format!("2 datagrams, {held} held, 1 refused");
    for words in [" on average, 1 refused", &datagrams] {
        assert!(text.contains(words), "{words} in {text}");
    }
}

fn float(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn the_report_says_what_happened() {
    require_sandbox!();
    let sandbox = prepared(HISTORY, "2500ms");
    service::start_agent(&sandbox).unwrap();
    let agent_began = Instant::now();
    let (mut sent, mut received, mut gaps) = (0, 0, Vec::new());
    let mut last: Option<Instant> = None;
    // Two cold starts, each followed by a use that finds it warm after a gap.
    for use_ in 0..4 {
        let asked = ask(&sandbox);
        sent += asked.0;
        received += asked.1;
        gaps.extend(last.map(|last| asked.2.duration_since(last).as_secs_f64()));
        last = Some(asked.3);
        if use_ % 2 == 0 {
            idle_for(Duration::from_millis(1_500)); // the gap
        } else {
            wait_state(&sandbox, "app.service", "inactive").unwrap();
        }
    }
    let timeouts = "1s,2s,1min";
    let report = report_with_stops(&sandbox, 2, &["--timeouts", timeouts]);
    let observed = agent_began.elapsed().as_secs_f64();
    let service = &report["services"][0];
    assert_eq!(service["name"], "test");
    assert_eq!(service["arrivals"], 4);
    assert_eq!(service["activations"], 2);
    assert_eq!(service["stops_by_reason"]["idle"], 2);
    assert_eq!(service["connections"], 4);
    // It is not steered.
    assert_eq!(service["proxied_connections"], 4);
    assert_eq!(service["received_bytes"], sent);
    assert_eq!(service["sent_bytes"], received);
    assert_eq!(service["cold_start"]["count"], 2, "{service}");
    assert_eq!(service["first_byte"]["count"], 2, "{service}");
    let p50 = |what: &str| float(&service[what], "p50_seconds");
    assert!(p50("cold_start") <= p50("first_byte") + 0.02, "{service}");
    assert!(p50("first_byte") < 5.0);
    // Up for the warm gap and the timeout, twice.
    let active = float(service, "active_seconds");
    assert!((8.0..15.0).contains(&active), "{active}");
    let known = active + float(service, "inactive_seconds");
    assert!((known - observed).abs() < 2.0, "{known} of {observed}");
    if sandbox.property("system.slice", "MemoryCurrent").unwrap() != "[not set]" {
        assert!(
            float(service, "memory_gib_hours_given_back") > 0.0,
            "{service}"
        );
    } else {
        skip::part("memory is not accounted here");
    }
    if sandbox
        .property("app.service", "CPUUsageNSec")
        .is_ok_and(|cpu| cpu != "[not set]")
    {
        assert!(float(service, "cpu_seconds") > 0.0, "{service}");
    } else {
        // No package changes that: systemd does not use cpu and cpuacct of cgroup v1 where they are
        // mounted apart.
        skip::say("CPU time is not accounted here");
    }
    // Gaps of about 1.5 s, 2.6 s, 1.5 s: what the clients measured, too.
    let row = |row: usize| &service["what_if"][row];
    let beyond = |limit: f64| 1 + gaps.iter().filter(|gap| **gap > limit).count();
    for (place, limit) in [(0, 1.0), (1, 2.0), (2, 60.0)] {
        let row = row(place);
        assert_eq!(row["cold_starts"], beyond(limit), "{gaps:?}: {service}");
        let open = last.unwrap().elapsed().as_secs_f64().min(limit);
        let expected: f64 = gaps.iter().map(|gap| gap.min(limit)).sum::<f64>() + open;
        let found = float(row, "warm_idle_seconds");
        assert!(
            (found - expected).abs() < 1.0,
            "{limit} s: {found}, {expected}"
        );
    }
    assert_eq!(report["total"]["arrivals"], 4);
    let text = sandbox
        .run(&["ondemand", "report", "test", "--last", "1h"])
        .unwrap();
    assert!(text.contains("activations   2"), "{text}");
}

#[test]
fn a_killed_agent_loses_nothing() {
    require_sandbox!();
    let sandbox = prepared(HISTORY, "2s");
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    report_with_stops(&sandbox, 1, &[]);
    // Up until the start is on disk.
    let kept = sandbox.in_network(|| client::Kept::connect(front()));
    let kept = kept.unwrap().unwrap();
    wait_for("the second start is in the history", SOON, || {
        (report(&sandbox, &[])["total"]["activations"] == 2).then_some(())
    })
    .unwrap();
    let pid = agent_pid(&sandbox).to_string();
    sandbox.run(&["kill", "-9", &pid]).unwrap();
    drop(kept);
    wait_state(&sandbox, "app.service", "inactive").unwrap(); // by the agent that follows
    let after = report_with_stops(&sandbox, 2, &[]);
    assert_eq!(after["total"]["activations"], 2, "{after}");
    assert_eq!(after["total"]["stops_by_reason"]["idle"], 2, "{after}");
    // Ended in order, it has written everything that it knew.
    ask(&sandbox);
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let ended = report(&sandbox, &[]);
    assert_eq!(ended["total"]["activations"], 3, "{ended}");
    assert_eq!(ended["total"]["arrivals"], 3, "{ended}");
    let journal = sandbox.journal("ondemand.service");
    assert!(!journal.contains("history"), "{journal}");
}

/// The agent stops the service although its history cannot be written, and logs why once.
#[track_caller]
fn goes_on_without(sandbox: &Sandbox, message: &str) {
    service::start_agent(sandbox).unwrap();
    for stops in 1..=2 {
        ask(sandbox);
        wait_for("the service is stopped", SOON, || {
            (number(sandbox, "test", "stops").ok()? == stops).then_some(())
        })
        .unwrap();
    }
    let journal = sandbox.journal("ondemand.service");
    assert_eq!(
        journal.matches("history: not recording").count(),
        1,
        "{journal}"
    );
    assert!(journal.contains(message), "{journal}");
}

#[test]
fn a_report_of_what_cannot_be_written_to() {
    require_sandbox!();
    let sandbox = prepared(HISTORY, "300ms");
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    report_with_stops(&sandbox, 1, &[]);
    let copy =
        "mkdir /run/copy && mount -t tmpfs none /run/copy && cp /var/lib/ondemand/* /run/copy";
    let frozen = |sandbox: &Sandbox| {
        sandbox.run(&["sh", "-c", copy]).unwrap();
        sandbox
            .run(&["rm", "-f", "/run/copy/history.db-shm"])
            .unwrap();
        sandbox
            .run(&["mount", "-o", "remount,ro", "/run/copy"])
            .unwrap();
    };
    // While the agent runs, the newest records are in the log.
    frozen(&sandbox);
    let words = ["ondemand", "report", "--history", "/run/copy/history.db"];
    let error = format!("{:#}", sandbox.run(&words).unwrap_err());
    assert!(
        error.contains("its newest records are in /run/copy/history.db-wal"),
        "{error}"
    );
    sandbox
        .run(&["sh", "-c", "umount /run/copy && rmdir /run/copy"])
        .unwrap();
    // Ended in order, it leaves one file.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    frozen(&sandbox);
    let text = sandbox.run(&words).unwrap();
    assert!(text.contains("activations   1"), "{text}");
}

#[test]
fn the_agent_goes_on_without_it() {
    require_sandbox!();
    let sandbox = prepared("/usr/share/history.db", "300ms");
    // Its unit may write to /var/lib/ondemand only.
    goes_on_without(&sandbox, "history /usr/share/history.db cannot be");
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
}

#[test]
fn the_agent_goes_on_when_it_is_damaged() {
    require_sandbox!();
    let sandbox = prepared(HISTORY, "300ms");
    sandbox
        .write(HISTORY, "this is no database at all")
        .unwrap();
    goes_on_without(&sandbox, "is not a history: no SQLite database");
    // A file of another program is not touched.
    let text = std::fs::read_to_string(sandbox.path(HISTORY)).unwrap();
    assert_eq!(text, "this is no database at all");
}

#[test]
fn the_agent_goes_on_when_the_disk_is_full() {
    require_sandbox!();
    require_long!("the history may fail in many ways; the short suite has a killed agent");
    let sandbox = prepared(HISTORY, "300ms");
    sandbox.run(&["mkdir", "-p", "/var/lib/ondemand"]).unwrap();
    let mount = "mount -t tmpfs -o size=1M,mode=0700 none /var/lib/ondemand";
    sandbox.run(&["sh", "-c", mount]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let use_it = |stops: u64| {
        ask(&sandbox);
        wait_for("the service is stopped", SOON, || {
            (number(&sandbox, "test", "stops").ok()? == stops).then_some(())
        })
        .unwrap();
    };
    use_it(1);
    report_with_stops(&sandbox, 1, &[]);
    let fill = "head -c 2M /dev/zero >/var/lib/ondemand/filler || true";
    sandbox.run(&["sh", "-c", fill]).unwrap();
    let said = |what: &str| sandbox.journal("ondemand.service").matches(what).count();
    let mut stops = 1;
    // There may be room left in the file that it has.
    wait_for("the disk is full", SOON, || {
        stops += 1;
        use_it(stops);
        (said("history: not recording") > 0).then_some(())
    })
    .unwrap();
    stops += 1;
    use_it(stops);
    assert_eq!(said("history: not recording"), 1);
    assert_eq!(said("the disk is full"), 1);
    // With space again it is written, in the same database.
    sandbox.run(&["rm", "/var/lib/ondemand/filler"]).unwrap();
    let activations = || {
        let report = report(&sandbox, &[]);
        report["total"]["activations"].as_u64().unwrap()
    };
    let before = activations();
    wait_for("it is written again", SOON, || {
        stops += 1;
        use_it(stops);
        (activations() > before).then_some(())
    })
    .unwrap();
    assert!(activations() <= stops);
    assert_eq!(said("history: not recording"), 1);
}
