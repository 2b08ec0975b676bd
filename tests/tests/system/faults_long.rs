//! A hundred thousand requests and a thousand stops, while agents are killed, configurations are
//! reloaded, and systemd and the bus restart: none is lost.
//!
//! Only where `ONDEMAND_LONG` is set, as `cargo xtask test --long` does: it takes ten minutes.
//! `ONDEMAND_RACE_REQUESTS` is another number of requests.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tests::{
    metrics, require_long,
    sandbox::Sandbox,
    service::{self, SOON, status, wait_state},
    wait_closely, wait_for,
};

use crate::{
    faults::said,
    require_sandbox,
    steering_race::{Rounds, SERVICES, Target, describe, write_services},
};

const REQUESTS: usize = 100_000;
/// Many while it is warm, then single ones, mostly after a stop, then some around its end.
const ROUNDS: Rounds = Rounds {
    random: &[
        (300, Duration::from_millis(8)),
        (16, Duration::from_millis(600)),
    ],
    aimed: 12,
};
/// A load that takes longer does not end.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// From one fault to the next.
const EVERY: Duration = Duration::from_secs(4);

/// What happens, one after the other; a killed agent is back within two seconds.
const FAULTS: [(&str, &[&str]); 10] = [
    ("agent killed", KILL),
    ("agent reloaded", RELOAD),
    ("agent killed", KILL),
    ("systemd reloaded", &["systemctl", "daemon-reload"]),
    ("agent killed", KILL),
    ("agent reloaded", RELOAD),
    ("agent killed", KILL),
    ("systemd re-executed", &["systemctl", "daemon-reexec"]),
    (
        "agent restarted",
        &["systemctl", "restart", "ondemand.service"],
    ),
    (
        "bus killed",
        &["systemctl", "kill", "--signal=KILL", "dbus.service"],
    ),
];
const KILL: &[&str] = &["systemctl", "kill", "--signal=KILL", "ondemand.service"];
const RELOAD: &[&str] = &["systemctl", "kill", "--signal=HUP", "ondemand.service"];

fn set_up() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let text = write_services(&sandbox);
    // Only they know of the stops of all agents.
    let address = metrics::address().to_string();
    metrics::write_config(&sandbox, &address, &text).unwrap();
    service::reload(&sandbox, &SERVICES.map(|(name, ..)| name)).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// One fault after the other, until the other end of `over` is gone; how many of each.
fn disturb(sandbox: &Sandbox, over: &Receiver<()>) -> BTreeMap<&'static str, u32> {
    let mut done = BTreeMap::new();
    for (name, words) in FAULTS.into_iter().cycle() {
        if over.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        // The agent may just not be there.
        if sandbox.run(words).is_ok() {
            *done.entry(name).or_default() += 1;
        }
    }
    done
}

#[test]
fn a_hundred_thousand_requests() {
    require_sandbox!();
    require_long!("it takes ten minutes");
    let total = env::var("ONDEMAND_RACE_REQUESTS").map_or(REQUESTS, |text| text.parse().unwrap());
    let start = Instant::now();
    let sandbox = set_up();
    let targets: Vec<Target> = SERVICES
        .iter()
        .enumerate()
        .map(|(index, (_, _, idle))| Target::new(index, *idle, ROUNDS))
        .collect();
    let end = AtomicBool::new(false);
    let faults = thread::scope(|scope| {
        let (goes_on, over) = mpsc::channel();
        let sandbox = &sandbox;
        let faults = scope.spawn(move || disturb(sandbox, &over));
        let load = || {
            thread::scope(|scope| {
                for (seed, target) in (101..).zip(&targets) {
                    let part = total.div_ceil(targets.len());
                    let end = &end;
                    scope.spawn(move || target.load(part, seed, end));
                }
                let is_done = |target: &Target| target.requests() >= total / targets.len();
                let is_lost = |target: &Target| !target.outcome.lock().unwrap().lost.is_empty();
                let mut told = Instant::now();
                let every = Duration::from_millis(100);
                let over = wait_closely("the load's end", LONGEST, every, || {
                    if told.elapsed() > Duration::from_secs(30) {
                        told = Instant::now();
                        let done: usize = targets.iter().map(Target::requests).sum();
                        eprintln!("{done} requests in {:.0?}", start.elapsed());
                    }
                    // After a loss, the rest would show nothing more.
                    (targets.iter().all(is_done) || targets.iter().any(is_lost)).then_some(())
                });
                end.store(!targets.iter().all(is_done), Ordering::Relaxed);
                over
            })
        };
        let loaded = sandbox.in_network(load);
        drop(goes_on);
        loaded.unwrap().unwrap();
        for (target, (name, ..)) in targets.iter().zip(SERVICES) {
            let lost = &target.outcome.lock().unwrap().lost;
            if !lost.is_empty() {
                eprintln!("{name}: lost {lost:?} after {:.0?}", start.elapsed());
            }
        }
        faults.join().unwrap()
    });
    wait_state(&sandbox, "ondemand.service", "active").unwrap();
    for (name, ..) in SERVICES {
        wait_state(&sandbox, &format!("app-{name}.service"), "inactive").unwrap();
    }
    let samples = wait_for("the last agent serves metrics", SOON, || {
        metrics::scrape(&sandbox).ok()
    })
    .unwrap();
    let mut stops: BTreeMap<String, u64> = BTreeMap::new();
    for (name, value) in samples {
        if let Some(labels) = name.strip_prefix("ondemand_stops_total")
            && let Some((_, reason)) = labels.split_once("reason=\"")
        {
            let reason = reason.trim_end_matches(['"', '}']);
            *stops.entry(reason.to_owned()).or_default() += value as u64;
        }
    }
    let (mut requests, mut latencies) = (0, Vec::new());
    let mut lost = BTreeMap::new();
    for (target, (name, ..)) in targets.into_iter().zip(SERVICES) {
        let outcome = target.outcome.into_inner().unwrap();
        requests += outcome.latencies.len();
        latencies.extend(outcome.latencies);
        if outcome.lost.is_empty() {
            let now = status(&sandbox, name).unwrap();
            assert_eq!(
                now["accepted_connections"], outcome.connections,
                "{name}: {now}"
            );
            assert_eq!(now["open_connections"], 0, "{name}: {now}");
        }
        for ((kind, loss), times) in outcome.lost {
            lost.insert((name, kind, loss), times);
        }
    }
    eprintln!(
        "{requests} requests in {:.0?}, stops {stops:?}, faults {faults:?}, lost {lost:?}; {}",
        start.elapsed(),
        describe(latencies)
    );
    assert!(lost.is_empty(), "lost: {lost:?}");
    let killed = said(&sandbox, "ondemand.service", &["status=9/KILL"]);
    assert!(killed as u32 >= faults.get("agent killed").copied().unwrap_or(0) / 2);
    let stops: u64 = stops.values().sum();
    assert!(stops >= total as u64 / 100, "only {stops} stops");
}
