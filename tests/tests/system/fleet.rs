//! A Prometheus that scrapes several hosts.

use std::{process::Command, time::Duration};

use tests::{
    client::{self, Request},
    metrics::write_config,
    pause::idle_for,
    prometheus::{self, Prometheus},
    require,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    skip, wait_for,
};

use crate::{
    prometheus::{dashboard, queries},
    require_sandbox,
};

/// The address of a host's agent in the first one's network.
pub(crate) fn agent(number: usize) -> String {
    match number {
        0 => "127.0.0.1:9464".into(),
        _ => format!("10.99.{number}.2:9464"),
    }
}

/// Connects a host with the first one.
pub(crate) fn connect(first: &Sandbox, host: &Sandbox, number: usize) {
    let [here, there] = [first, host].map(|sandbox| format!("/proc/{}/ns/net", sandbox.init()));
    let ip = |net: &str, words: String| {
        let done = Command::new("nsenter")
            .arg(format!("--net={net}"))
            .args(["--", "ip"])
            .args(words.split(' '))
            .status()
            .unwrap();
        assert!(done.success(), "ip {words}");
    };
    let init = host.init();
    ip(
        &here,
        format!("link add host{number} type veth peer name first netns {init}"),
    );
    ip(
        &here,
        format!("addr add 10.99.{number}.1/24 dev host{number}"),
    );
    ip(&here, format!("link set host{number} up"));
    ip(&there, format!("addr add 10.99.{number}.2/24 dev first"));
    ip(&there, "link set first up".into());
}

/// A host with a service that is stopped when it is unused, and one that never is.
fn host(number: usize, first: Option<&Sandbox>) -> Sandbox {
    // Memory is accounted only where this machine does.
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    if let Some(first) = first {
        connect(first, &sandbox, number);
    }
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_backend(&sandbox, "ever.service", "--listen 127.0.0.1:8081").unwrap();
    let services = format!(
        "[group.card]\nat_most = 1\n\n[service.test]\n{CONFIG}group = \"card\"\n\n[service.ever]\nlisten = [\"127.0.0.1:8001\"]\n\
         backend = \"127.0.0.1:8081\"\nunit = \"ever.service\"\nidle_timeout = \"infinity\"\n"
    );
    write_config(&sandbox, &agent(number), &services).unwrap();
    service::reload(&sandbox, &["test", "ever"]).unwrap();
    sandbox
        .run(&["systemctl", "start", "ever.service"])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox) {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

#[test]
fn every_query_of_the_fleet_has_an_answer() {
    require_sandbox!();
    require!(prometheus::unavailable());
    let count = if skip::is_long() { 5 } else { 2 };
    let mut hosts = vec![host(0, None)];
    for number in 1..count {
        let next = host(number, hosts.first());
        hosts.push(next);
    }
    let agents: Vec<String> = (0..count).map(agent).collect();
    let agents: Vec<&str> = agents.iter().map(String::as_str).collect();
    let prometheus = Prometheus::scraping(&hosts[0], &agents).unwrap();
    let number = |query: &str| prometheus.number(query).unwrap();
    let wait_number = |query: &str, value: f64| {
        let is_it = || (number(query) == Some(value)).then_some(());
        wait_for(query, SOON, is_it)
            .unwrap_or_else(|error| panic!("{error:#}: {:?}", prometheus.query(query)));
    };
    wait_number("sum(up{job=\"ondemand\"})", count as f64);
    // The first host has two gaps, one of more than a second; each other one has one.
    for host in &hosts {
        ask(host);
        ask(host);
    }
    idle_for(Duration::from_millis(900));
    ask(&hosts[0]);
    // What the hosts have counted adds up.
    let all = "sum(ondemand_whatif_cold_starts_total{timeout=\"604800\"})";
    wait_number(all, count as f64);
    wait_number(
        "sum(ondemand_whatif_cold_starts_total{timeout=\"1\"})",
        count as f64 + 1.0,
    );
    let waited = "sum(ondemand_client_wait_seconds_count{way=\"proxied\"}) >= ";
    let is_it = || number(&format!("{waited}{count}")).map(drop);
    wait_for("clients of all have waited", SOON, is_it).unwrap();

    let accounted = number("ondemand_memory_bytes").is_some();
    let cpu = number("ondemand_cpu_seconds_total").is_some();
    for (panel, query) in queries(&dashboard("fleet.json")) {
        let of_memory = ["saved_memory", "ondemand_memory", "used_memory"];
        if !accounted && of_memory.iter().any(|name| query.contains(name)) {
            skip::part(format!("memory is not accounted here: {panel}"));
            prometheus.query(&query).unwrap();
            continue;
        }
        if !cpu && query.contains("ondemand_cpu_seconds") {
            skip::say(format!("CPU time is not accounted here: {panel}"));
            prometheus.query(&query).unwrap();
            continue;
        }
        let found = wait_for(&panel, SOON, || {
            let result = prometheus.query(&query).unwrap();
            (!result.is_empty()).then_some(result)
        });
        let found = found.unwrap_or_else(|error| panic!("{error:#}: {query}"));
        eprintln!("{panel}: {} of {}", found[0]["value"][1], found.len());
        if panel == "Services that never stop, and why" {
            for row in &found {
                assert_eq!(row["metric"]["service"], "ever", "{row}");
                assert_eq!(row["metric"]["reason"], "never", "{row}");
            }
            assert_eq!(found.len(), count);
        }
        if panel == "Hosts that could be given back" {
            // Together they take a few megabytes.
            let fewer = found[0]["value"][1].as_str().unwrap();
            assert_eq!(fewer, (count - 1).to_string());
        }
    }
}
