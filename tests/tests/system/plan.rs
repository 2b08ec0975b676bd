//! What a plan needs beside what-if: how clients waited, what services take while they run, and what keeps them up.

use std::net::SocketAddr;

use tests::{
    client::{self, Kept, Request},
    metrics::{Samples, address, scrape, write_config},
    sandbox::{Cgroups, Sandbox},
    service::{self, SOON, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

/// A client's way: the port, what the application's unit is told, and its lines.
const WAYS: [(&str, u16, &str, &str); 4] = [
    (
        "held",
        8001,
        "--listen 127.0.0.1:8001",
        "first_client = \"held\"\nidle_timeout = \"300ms\"",
    ),
    (
        "proxied",
        8002,
        "--listen 127.0.0.1:9002",
        "backend = \"127.0.0.1:9002\"\nsteer = false\nidle_timeout = \"300ms\"",
    ),
    (
        "native",
        8003,
        "--inherited",
        "activation = \"native\"\nidle_timeout = \"300ms\"",
    ),
    (
        "thawed",
        8004,
        "--listen 127.0.0.1:8004",
        "freeze_after = \"200ms\"\nidle_timeout = \"infinity\"",
    ),
];

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn ask(sandbox: &Sandbox, port: u16) {
    let answer = sandbox.in_network(|| client::get(at(port), Request::default()));
    answer.unwrap().unwrap();
}

fn prepared(cgroups: Cgroups) -> Sandbox {
    let sandbox = Sandbox::boot_with(cgroups).unwrap();
    service::prepare(&sandbox).unwrap();
    let mut config = String::new();
    for (way, port, options, lines) in WAYS {
        let unit = format!("{way}-app.service");
        service::write_backend(&sandbox, &unit, options).unwrap();
        config += &format!(
            "[service.{way}]\nlisten = [\"{}\"]\nunit = \"{unit}\"\nmin_uptime = \"0s\"\n\
             start_timeout = \"10s\"\n{lines}\n\n",
            at(port)
        );
    }
    service::write_own_socket(&sandbox, "native-app.service", &at(8003).to_string()).unwrap();
    write_config(&sandbox, &address().to_string(), &config).unwrap();
    service::reload(&sandbox, &["held", "proxied", "native", "thawed"]).unwrap();
    sandbox
        .run(&["systemctl", "start", "native-app.socket"])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn waits(samples: &Samples, way: &str) -> (f64, f64) {
    let figure =
        |what: &str| samples[&format!("ondemand_client_wait_seconds_{what}{{way=\"{way}\"}}")];
    (figure("count"), figure("sum"))
}

fn kept<'s>(samples: &'s Samples, service: &str) -> Vec<&'s str> {
    let begin = format!("ondemand_kept_up{{service=\"{service}\",reason=\"");
    let of_it = samples.iter().filter(|(_, value)| **value == 1.0);
    of_it
        .filter_map(|(key, _)| key.strip_prefix(&begin)?.strip_suffix("\"}"))
        .collect()
}

/// Scrapes until it is as it should be.
#[track_caller]
fn wait_scrape(sandbox: &Sandbox, what: &str, good: impl Fn(&Samples) -> bool) -> Samples {
    let mut last = Samples::new();
    let found = wait_for(what, SOON, || {
        last = scrape(sandbox).ok()?;
        good(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {last:#?}"))
}

#[test]
fn how_clients_waited() {
    require_sandbox!();
    let sandbox = prepared(Cgroups::Unified);
    let none = scrape(&sandbox).unwrap();
    assert!(none["ondemand_host_memory_bytes"] > 1e6);
    for (way, port, ..) in WAYS {
        assert_eq!(waits(&none, way), (0.0, 0.0));
        assert_eq!(kept(&none, way), [""; 0]);
        if way != "thawed" {
            ask(&sandbox, port);
            continue;
        }
        // Its first client is proxied, and the next one thaws it.
        ask(&sandbox, port);
        wait_scrape(&sandbox, "it is frozen", |samples| {
            samples["ondemand_frozen{service=\"thawed\"}"] == 1.0
        });
        ask(&sandbox, port);
    }
    let after = wait_scrape(&sandbox, "all have waited", |samples| {
        WAYS.iter().all(|(way, ..)| waits(samples, way).0 > 0.0)
    });
    for (way, expected) in [("held", 1.0), ("proxied", 2.0), ("native", 1.0)] {
        let (count, sum) = waits(&after, way);
        assert_eq!(count, expected, "{way}: {after:#?}");
        // Of Type=simple the last is active as soon as it has a process.
        let least = if way == "native" { 0.0 } else { 0.0005 };
        assert!((least..10.0).contains(&sum), "{way}: {sum}");
    }
    assert_eq!(kept(&after, "thawed"), ["never"]);
    // What was counted outlives the agent.
    let before = scrape(&sandbox).unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    let next = wait_scrape(&sandbox, "the next agent is scraped", |_| true);
    for (way, ..) in WAYS {
        assert_eq!(waits(&next, way), waits(&before, way));
    }
}

#[test]
fn what_services_take_and_what_keeps_them_up() {
    require_sandbox!();
    // Memory is accounted only where this machine does.
    let sandbox = prepared(Cgroups::Accounted);
    ask(&sandbox, 8001);
    ask(&sandbox, 8004);
    wait_state(&sandbox, "held-app.service", "inactive").unwrap();
    let held = sandbox.in_network(|| Kept::connect(at(8001)).unwrap());
    let held = held.unwrap();
    let kept_up = wait_scrape(&sandbox, "its client keeps it up", |samples| {
        kept(samples, "held") == ["clients"]
    });
    // It was stopped before: then it was measured.
    let of_held = |samples: &Samples, name: &str| {
        samples
            .get(&format!("ondemand_{name}{{service=\"held\"}}"))
            .copied()
    };
    match sandbox
        .property("held-app.service", "MemoryCurrent")
        .unwrap()
        .as_str()
    {
        "[not set]" => skip::part("memory is not accounted here"),
        _ => {
            assert!(
                of_held(&kept_up, "memory_bytes") > Some(1e4),
                "{kept_up:#?}"
            );
            assert!(of_held(&kept_up, "used_memory_byte_seconds_total") > Some(0.0));
            wait_scrape(&sandbox, "what is never stopped is measured", |samples| {
                samples.get("ondemand_memory_bytes{service=\"thawed\"}") > Some(&1e4)
            });
        }
    }
    match sandbox
        .property("held-app.service", "CPUUsageNSec")
        .unwrap()
        .as_str()
    {
        "[not set]" => skip::say("CPU time is not accounted here"),
        _ => assert!(
            of_held(&kept_up, "cpu_seconds_total") > Some(0.0),
            "{kept_up:#?}"
        ),
    }
    drop(held);
}
