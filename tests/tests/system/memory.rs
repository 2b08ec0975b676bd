//! Idle services that stay warm as long as their memory fits.

use std::{net::SocketAddr, time::Duration};

use tests::{
    client::{self, Request},
    pause::idle_for,
    sandbox::{Cgroups, Sandbox},
    service::{self, SOON, status, stays, wait_journal, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// While a process ends, its memory is less from moment to moment.
#[test]
fn what_a_stop_gives_back_is_what_the_application_took() {
    require_sandbox!();
    tests::require!(tests::skip::missing(&["/usr/bin/python3"]));
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    service::write_wiki(&sandbox).unwrap();
    let wiki = "[service.wiki]\nlisten = [\"0.0.0.0:8000\", \"[::]:8000\"]\nunit = \"wiki.service\"\n\
                idle_timeout = \"1s\"\nmin_uptime = \"0s\"\n";
    service::write_config(&sandbox, wiki).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    sandbox
        .run(&["systemctl", "disable", "wiki.service"])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    for round in 0..3 {
        ask(&sandbox, 8000, "");
        let taken = sandbox.property("wiki.service", "MemoryCurrent").unwrap();
        let Ok(taken) = taken.parse::<u64>() else {
            return tests::skip::part("memory is not accounted here");
        };
        wait_state(&sandbox, "wiki.service", "inactive").unwrap();
        let given = wait_for("what it gave back is known", SOON, || {
            status(&sandbox, "wiki").ok()?["given_back_bytes"].as_u64()
        })
        .unwrap();
        assert!(given > taken * 3 / 4, "{round}: {given} of {taken}");
    }
}

const PORTS: [u16; 3] = [8001, 8002, 8003];

fn unit(port: u16) -> String {
    format!("app{port}.service")
}

fn name(port: u16) -> String {
    format!("test{port}")
}

fn write_config(sandbox: &Sandbox, agent: &str, idle_timeout: &str) {
    let mut config = format!("[agent]\nmetrics = \"\"\nhistory = \"\"\n{agent}\n");
    for port in PORTS {
        config += &format!(
            "[service.{}]\nlisten = [\"127.0.0.1:{port}\"]\nunit = \"{}\"\nidle_timeout = \"{idle_timeout}\"\n\
             min_uptime = \"0s\"\n",
            name(port),
            unit(port),
        );
    }
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
}

/// `None`: this machine's systemd does not account memory.
fn prepared(agent: &str, idle_timeout: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    for port in PORTS {
        // All of them take as long to start, whatever else the machine does.
        let options = format!("--listen 127.0.0.1:{port} --start-delay-ms 300");
        service::write_backend(&sandbox, &unit(port), &options).unwrap();
    }
    write_config(&sandbox, agent, idle_timeout);
    service::reload(&sandbox, &PORTS.map(name).each_ref().map(String::as_str)).unwrap();
    service::start_agent(&sandbox).unwrap();
    ask(&sandbox, PORTS[0], "");
    let memory = sandbox.property(&unit(PORTS[0]), "MemoryCurrent").unwrap();
    if memory.parse::<u64>().is_err() {
        println!("skipped: memory is not accounted here: {memory}");
        return None;
    }
    Some(sandbox)
}

fn ask(sandbox: &Sandbox, port: u16, query: &'static str) {
    let request = Request {
        query,
        ..Request::default()
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let answer = sandbox.in_network(|| client::get(address, request));
    answer
        .unwrap()
        .unwrap_or_else(|loss| panic!("{loss}: {}", sandbox.journal("ondemand.service")));
}

fn is_up(sandbox: &Sandbox, port: u16) -> bool {
    sandbox.property(&unit(port), "ActiveState").unwrap() == "active"
}

/// Its memory is known to the agent.
fn wait_kept(sandbox: &Sandbox, port: u16) {
    wait_for("it is kept", SOON, || {
        let detail = status(sandbox, &name(port)).ok()?["detail"].to_string();
        detail.contains("as long as its memory fits").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", sandbox.journal("ondemand.service")));
}

#[test]
fn idle_services_stay_up_until_their_memory_is_needed() {
    require_sandbox!();
    let Some(sandbox) = prepared("memory_budget = \"150MiB\"", "1s") else {
        return;
    };
    let [a, b, c] = PORTS;
    ask(&sandbox, a, "grow=60");
    ask(&sandbox, b, "grow=60");
    for port in [a, b] {
        wait_kept(&sandbox, port);
    }
    // The one is used more often.
    for _ in 0..3 {
        idle_for(Duration::from_millis(1100));
        ask(&sandbox, b, "");
    }
    stays(&sandbox, &unit(a), "active", Duration::from_millis(1500));
    assert!(is_up(&sandbox, b));
    ask(&sandbox, c, "grow=60");
    // One of those that were used once or twice.
    let gone = wait_for("one of them goes", SOON, || {
        [a, c].into_iter().find(|port| !is_up(&sandbox, *port))
    });
    let gone =
        gone.unwrap_or_else(|error| panic!("{error:#}: {}", sandbox.journal("ondemand.service")));
    let journal = wait_journal(
        &sandbox,
        "ondemand.service",
        "are lacking (memory_budget)",
        1,
    )
    .unwrap();
    assert!(!journal.contains("test8002: giving back"), "{journal}");
    wait_kept(&sandbox, b);
    // It is known how much it takes: another one goes before it has taken it.
    ask(&sandbox, gone, "");
    let words = format!("for {}: ", name(gone));
    let journal = wait_journal(&sandbox, "ondemand.service", &words, 1).unwrap();
    assert!(is_up(&sandbox, gone), "{journal}");
    // Without a budget they go.
    write_config(&sandbox, "", "300ms");
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
    for port in PORTS {
        wait_state(&sandbox, &unit(port), "inactive").unwrap();
    }
}

#[test]
fn the_host_says_how_much_there_is() {
    require_sandbox!();
    let agent = |reserve: &str| format!("memory_budget = \"auto\"\nreserve = \"{reserve}\"");
    let Some(sandbox) = prepared(&agent("1MiB"), "1s") else {
        return;
    };
    let [a, b, _] = PORTS;
    ask(&sandbox, a, "");
    wait_kept(&sandbox, a);
    stays(&sandbox, &unit(a), "active", Duration::from_millis(1500));
    // No host has so much.
    write_config(&sandbox, &agent("1024TiB"), "1h");
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
    wait_state(&sandbox, &unit(a), "inactive").unwrap();
    ask(&sandbox, b, "");
    wait_state(&sandbox, &unit(b), "inactive").unwrap();
    let journal = sandbox.journal("ondemand.service");
    assert!(journal.contains("test8002: giving back"), "{journal}");
}
