//! What a scrape shows, and that its counters never go backwards.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tests::{
    client::{self, Answer, Request},
    http,
    metrics::{Samples, address, is_counter, of_test, on_demand, scrape, wait_value, write_config},
    pause::{idle_for, think},
    prometheus, require,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, front, wait_state},
    skip,
};

use crate::{
    faults::{agent_pid, wait_next_agent},
    require_sandbox,
};

const RECORD: &str = "/run/ondemand/metrics/test.json";

pub(crate) fn ask(sandbox: &Sandbox) -> Answer {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap()
}

fn boot(cgroups: Cgroups, config: &str) -> Sandbox {
    on_demand(Sandbox::boot_with(cgroups).unwrap(), config, "").unwrap()
}

pub(crate) fn kill_agent(sandbox: &Sandbox) {
    let pid = agent_pid(sandbox);
    sandbox.run(&["kill", "-KILL", &pid.to_string()]).unwrap();
    wait_next_agent(sandbox, pid);
}

#[test]
fn a_scrape_shows_what_happened() {
    require_sandbox!();
    let sandbox = boot(Cgroups::Accounted, CONFIG);
    let samples = scrape(&sandbox).unwrap();
    let state =
        |samples: &Samples, state: &str| of_test(samples, "state", &format!(",state=\"{state}\""));
    assert_eq!(state(&samples, "inactive"), Some(1.0));
    assert_eq!(state(&samples, "active"), Some(0.0));
    assert_eq!(of_test(&samples, "idle_seconds", ""), None, "it is down");
    assert_eq!(of_test(&samples, "idle_timeout_seconds", ""), Some(0.3));
    assert_eq!(of_test(&samples, "starts_total", ""), Some(0.0));

    let answer = ask(&sandbox);
    let held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    let samples = wait_value(&sandbox, "open_connections", "", 1.0).unwrap();
    assert_eq!(state(&samples, "active"), Some(1.0));
    assert_eq!(of_test(&samples, "idle_seconds", ""), Some(0.0));
    assert_eq!(
        of_test(&samples, "accepted_connections_total", ""),
        Some(2.0)
    );
    let bytes = |name| of_test(&samples, name, "");
    assert_eq!(bytes("received_bytes_total"), Some(answer.sent as f64));
    assert_eq!(bytes("sent_bytes_total"), Some(answer.received as f64));
    assert_eq!(of_test(&samples, "starts_total", ""), Some(1.0));
    let samples = wait_value(&sandbox, "start_duration_seconds_count", "", 1.0).unwrap();
    let took = of_test(&samples, "start_duration_seconds_sum", "").unwrap();
    // Zero where it listened before PID 1 stamped its start.
    assert!((0.0..10.0).contains(&took), "{took} s");

    drop(held);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let stopped = wait_value(&sandbox, "stops_total", ",reason=\"idle\"", 1.0).unwrap();
    assert_eq!(
        of_test(&stopped, "stops_total", ",reason=\"external\""),
        Some(0.0)
    );
    idle_for(Duration::from_secs(2));
    let later = scrape(&sandbox).unwrap();
    let grown = |name| {
        let value = |samples| of_test(samples, name, "").unwrap();
        value(&later) - value(&stopped)
    };
    // What is shown may be a quarter of a second old.
    assert!(grown("inactive_seconds_total") >= 1.7);
    assert_eq!(grown("active_seconds_total"), 0.0);
    // Where this machine accounts memory: at least the 100 kB of any process, for a second.
    if of_test(&later, "saved_memory_byte_seconds_total", "").is_some() {
        assert!(grown("saved_memory_byte_seconds_total") > 100_000.0);
    } else {
        skip::part("memory is not accounted here");
    }
}

#[test]
fn what_happens_without_an_agent_is_counted_by_the_next() {
    require_sandbox!();
    let sandbox = boot(Cgroups::Unified, &CONFIG.replace("300ms", "1h"));
    ask(&sandbox);
    let running = wait_value(&sandbox, "starts_total", "", 1.0).unwrap();
    // Does this while no agent runs, and returns what the next one reports.
    let unseen = |work: &dyn Fn()| {
        let systemctl = |verb| {
            sandbox
                .run(&["systemctl", verb, "ondemand.service"])
                .unwrap()
        };
        systemctl("stop");
        work();
        systemctl("start");
        scrape(&sandbox).unwrap()
    };
    let app = |verb| drop(sandbox.run(&["systemctl", verb, "app.service"]).unwrap());
    let stops = |samples: &Samples| {
        ["idle", "external", "failed"].map(|reason| {
            of_test(samples, "stops_total", &format!(",reason=\"{reason}\"")).unwrap()
        })
    };

    let restarted = unseen(&|| {
        app("stop");
        idle_for(Duration::from_secs(1));
        app("start");
    });
    assert_eq!(of_test(&restarted, "starts_total", ""), Some(2.0));
    assert_eq!(stops(&restarted), [0.0, 1.0, 0.0]);
    let inactive = |samples| of_test(samples, "inactive_seconds_total", "").unwrap();
    assert!(inactive(&restarted) - inactive(&running) >= 1.0);
    never_less(&running, &restarted);

    let failed = unseen(&|| {
        sandbox
            .run(&["systemctl", "kill", "-s", "KILL", "app.service"])
            .unwrap();
        wait_state(&sandbox, "app.service", "failed").unwrap();
    });
    assert_eq!(of_test(&failed, "starts_total", ""), Some(2.0));
    assert_eq!(stops(&failed), [0.0, 1.0, 1.0]);
    never_less(&restarted, &failed);
}

/// Counters of the one are in the other, and not smaller.
#[track_caller]
fn never_less(before: &Samples, after: &Samples) {
    for (name, value) in before.iter().filter(|(name, _)| is_counter(name)) {
        let now = after.get(name);
        assert!(
            now.is_some_and(|now| now >= value),
            "{name} was {value} and is {now:?}"
        );
    }
}

/// Ends the scraping.
struct Over<'f>(&'f AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn counters_never_go_backwards_however_often_the_agent_is_killed() {
    require_sandbox!();
    let sandbox = boot(Cgroups::Accounted, CONFIG);
    // It is killed more often than systemd has patience for.
    let patience = "/etc/systemd/system/ondemand.service.d/patience.conf";
    sandbox
        .write(patience, "[Unit]\nStartLimitIntervalSec=0\n")
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let over = AtomicBool::new(false);
    let scrapes = thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut last = Samples::new();
            let mut scrapes = 0;
            while !over.load(Ordering::Relaxed) {
                // None is served while no agent runs.
                if let Ok(samples) = scrape(&sandbox) {
                    let known = |name: &String| samples.contains_key(name);
                    last.retain(|name, _| known(name));
                    never_less(&last, &samples);
                    last = samples;
                    scrapes += 1;
                }
                think(Duration::from_millis(20));
            }
            scrapes
        });
        let ends = Over(&over); // also if a step fails
        for round in 0..5 {
            ask(&sandbox);
            // At different moments of the stop each time, which starts about 300 ms from here.
            idle_for(Duration::from_millis(290 + round * 20));
            kill_agent(&sandbox);
            wait_state(&sandbox, "app.service", "inactive").unwrap();
        }
        drop(ends);
        scraper.join().unwrap()
    });
    assert!(scrapes > 20, "{scrapes} scrapes");
    let samples = scrape(&sandbox).unwrap();
    assert_eq!(of_test(&samples, "starts_total", ""), Some(5.0));
    let stops = |reason| of_test(&samples, "stops_total", reason).unwrap();
    let all =
        stops(",reason=\"idle\"") + stops(",reason=\"external\"") + stops(",reason=\"failed\"");
    assert_eq!(all, 5.0, "{samples:#?}");
}

#[test]
fn what_systemd_cannot_be_asked_for_is_absent() {
    require_sandbox!();
    let sandbox = boot(Cgroups::Unified, CONFIG);
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let before = wait_value(&sandbox, "state", ",state=\"inactive\"", 1.0).unwrap();
    sandbox
        .run(&["systemctl", "stop", "dbus.socket", "dbus.service"])
        .unwrap();
    let without = tests::wait_for("the state is unknown", service::SOON, || {
        let samples = scrape(&sandbox).ok()?;
        let known = samples.keys().any(|name| name.contains("_state{"));
        (!known).then_some(samples)
    })
    .unwrap();
    for name in [
        "active_seconds_total",
        "inactive_seconds_total",
        "idle_seconds",
    ] {
        assert_eq!(of_test(&without, name, ""), None, "{name}");
    }
    // The kernel and the agent still know theirs.
    for name in ["accepted_connections_total", "starts_total"] {
        assert_eq!(of_test(&without, name, ""), Some(1.0), "{name}");
    }
    sandbox
        .run(&["systemctl", "start", "dbus.socket", "dbus.service"])
        .unwrap();
    let after = wait_value(&sandbox, "state", ",state=\"inactive\"", 1.0).unwrap();
    never_less(&before, &after);
}

#[test]
fn a_corrupt_record_begins_at_zero_and_is_said() {
    require_sandbox!();
    let sandbox = boot(Cgroups::Unified, CONFIG);
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    wait_value(&sandbox, "stops_total", ",reason=\"idle\"", 1.0).unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let text = fs::read_to_string(sandbox.path(RECORD)).unwrap();
    sandbox.write(RECORD, &text[..text.len() / 2]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let samples = scrape(&sandbox).unwrap();
    assert_eq!(of_test(&samples, "starts_total", ""), Some(0.0));
    assert_eq!(
        of_test(&samples, "accepted_connections_total", ""),
        Some(1.0),
        "the kernel's"
    );
    let journal = sandbox.journal("ondemand.service");
    assert!(
        journal.contains("test: its starts, stops and times start at zero")
            && journal.contains(RECORD),
        "{journal}"
    );
}

#[test]
fn a_removed_service_vanishes_and_goes_on_when_it_comes_back() {
    require_sandbox!();
    let sandbox = boot(Cgroups::Unified, CONFIG);
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let before = wait_value(&sandbox, "stops_total", ",reason=\"idle\"", 1.0).unwrap();
    let reload = |services: &str| {
        write_config(&sandbox, &address().to_string(), services).unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        sandbox
            .run(&["systemctl", "reload", "ondemand.service"])
            .unwrap();
    };
    reload("");
    tests::wait_for("its series vanish", service::SOON, || {
        let samples = scrape(&sandbox).ok()?;
        samples
            .keys()
            .all(|name| !name.contains("test"))
            .then_some(())
    })
    .unwrap();
    reload(&format!("[service.test]\n{CONFIG}"));
    // Until systemd has reported its unit's state, its times are unknown.
    let after = wait_value(&sandbox, "state", ",state=\"inactive\"", 1.0).unwrap();
    never_less(&before, &after);
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    require_sandbox!();
    require!(prometheus::unavailable());
    let sandbox = boot(Cgroups::Accounted, CONFIG);
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let reply = http::get(&sandbox, address(), "/metrics", "Accept: */*\r\n").unwrap();
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    prometheus::promtool(&["check", "metrics"], &reply.body).unwrap();
    let reply = http::get(
        &sandbox,
        address(),
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n",
    )
    .unwrap();
    assert!(
        reply
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0")
    );
}
