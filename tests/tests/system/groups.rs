//! Groups: services of which only some are up at a time.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Kept, Loss, Random, Request},
    pause::{load_for, think},
    require_long,
    sandbox::Sandbox,
    service::{self, SOON, status, stays, wait_journal, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// The ports of three services.
const PORTS: [u16; 3] = [8001, 8002, 8003];

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn unit(port: u16) -> String {
    format!("app{port}.service")
}

fn name(port: u16) -> String {
    format!("test{port}")
}

/// Services of the group `gpu`, whose applications fail if two of them are up. `extra`: lines for each. The agent runs.
fn group(extra: &dyn Fn(u16) -> &'static str, options: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    let mut config = "[group.gpu]\nat_most = 1\n".to_owned();
    for port in PORTS {
        let (unit, name) = (unit(port), name(port));
        let own = format!("--listen 127.0.0.1:{port} {options}");
        service::write_backend(&sandbox, &unit, &own).unwrap();
        // What cannot be had twice.
        let card =
            "[Service]\nExecStartPre=/bin/mkdir /run/card\nExecStopPost=-/bin/rmdir /run/card\n";
        let place = format!("/etc/systemd/system/{unit}.d/card.conf");
        sandbox.write(&place, card).unwrap();
        config += &format!(
            "[service.{name}]\nlisten = [\"127.0.0.1:{port}\"]\nunit = \"{unit}\"\ngroup = \"gpu\"\nidle_timeout = \"1h\"\n\
             min_uptime = \"1h\"\n{}\n",
            extra(port)
        );
    }
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &PORTS.map(name).each_ref().map(String::as_str)).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox, port: u16) -> Duration {
    let answer = sandbox.in_network(|| client::get(address(port), Request::default()));
    answer
        .unwrap()
        .unwrap_or_else(|loss| panic!("{loss}: {}", journals(sandbox)))
        .took
}

fn keep(sandbox: &Sandbox, port: u16) -> Kept {
    sandbox
        .in_network(|| {
            let mut kept = Kept::connect(address(port)).unwrap();
            kept.ask().unwrap();
            kept
        })
        .unwrap()
}

fn journals(sandbox: &Sandbox) -> String {
    sandbox
        .run(&["journalctl", "--no-pager", "-o", "short-precise"])
        .unwrap_or_default()
}

fn detail(sandbox: &Sandbox, port: u16) -> String {
    status(sandbox, &name(port)).unwrap()["detail"].to_string()
}

/// Clients of all three at random times. Returns the longest wait, in seconds.
fn random_clients(sandbox: &Sandbox, span: Duration) {
    let is_over = AtomicBool::new(false);
    let found: Mutex<Vec<(u16, Result<Duration, Loss>)>> = Mutex::default();
    sandbox
        .in_network(|| {
            thread::scope(|scope| {
                for port in PORTS {
                    let (is_over, found) = (&is_over, &found);
                    scope.spawn(move || {
                        let mut random = Random::new(u64::from(port));
                        while !is_over.load(Ordering::Relaxed) {
                            let request = Request {
                                query: "wait=100",
                                ..Request::default()
                            };
                            let took = client::get(address(port), request);
                            found.lock().unwrap().push((port, took.map(|it| it.took)));
                            think(random.gap(Duration::from_millis(300)));
                        }
                    });
                }
                load_for(span);
                is_over.store(true, Ordering::Relaxed);
            });
        })
        .unwrap();
    let found = found.into_inner().unwrap();
    for port in PORTS {
        let all = found.iter().filter(|(of, _)| *of == port);
        let lost: Vec<_> = all.clone().filter(|(_, took)| took.is_err()).collect();
        assert!(lost.is_empty(), "{lost:?}: {}", journals(sandbox));
        let longest = all.clone().filter_map(|(_, took)| took.clone().ok()).max();
        println!(
            "{port}: {} requests, {longest:?} at most",
            all.clone().count()
        );
        assert!(
            all.count() >= 3 && longest < Some(SOON),
            "{longest:?}: {}",
            journals(sandbox)
        );
        // The application would have failed to start.
        let failed = sandbox.property(&unit(port), "Result").unwrap();
        assert_eq!(failed, "success", "{}", journals(sandbox));
    }
    let journal = journals(sandbox);
    assert!(!journal.contains("cannot create directory"), "{journal}");
}

/// Each by another way.
fn mixed(port: u16) -> &'static str {
    match port {
        8001 => "first_client = \"held\"",
        8002 => "first_client = \"proxied\"",
        _ => "",
    }
}

#[test]
fn one_is_up_at_a_time_and_no_request_is_lost() {
    require_sandbox!();
    let sandbox = group(&mixed, "");
    random_clients(&sandbox, Duration::from_secs(8));
}

#[test]
fn one_is_up_at_a_time_for_ten_minutes() {
    require_long!("ten minutes of clients");
    require_sandbox!();
    let sandbox = group(&mixed, "--start-delay-ms 100");
    random_clients(&sandbox, Duration::from_secs(600));
}

#[test]
fn a_client_waits_for_one_that_is_in_use() {
    require_sandbox!();
    let sandbox = group(&|_| "start_timeout = \"4s\"\nfirst_client = \"held\"", "");
    let [a, b, c] = PORTS;
    let mut kept = keep(&sandbox, a);
    let asks = |port: u16| sandbox.in_network(|| client::get(address(port), Request::default()));
    thread::scope(|scope| {
        let waits = scope.spawn(|| asks(b).unwrap());
        let shows = "waits for room in the group gpu since";
        wait_for("it is shown", SOON, || {
            detail(&sandbox, b).contains(shows).then_some(())
        })
        .unwrap();
        let room = &status(&sandbox, &name(b)).unwrap()["room"];
        assert!(
            room["group"] == "gpu" && room["waits_seconds"].as_f64() > Some(0.0),
            "{room}"
        );
        // Its turn is first.
        let second = scope.spawn(|| asks(c).unwrap());
        wait_for("the second waits", SOON, || {
            detail(&sandbox, c).contains(shows).then_some(())
        })
        .unwrap();
        kept.ask().unwrap();
        drop(kept);
        waits.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    let room = status(&sandbox, &name(b)).unwrap()["room"].clone();
    assert!(
        room["waits"] == 1 && room["waited_seconds"].as_f64() > Some(0.0),
        "{room}"
    );
    let room = status(&sandbox, &name(a)).unwrap()["room"].clone();
    assert!(room["evictions_for_group"] == 1, "{room}");
    wait_for("it goes next", SOON, || {
        let known = status(&sandbox, &name(c)).ok()?;
        (known["room"]["goes_next"] == true).then_some(())
    })
    .unwrap();
    let journal = journals(&sandbox);
    let at = |port: u16| journal.find(&format!("{}: starting, there is room", name(port)));
    assert!(at(b).is_some() && at(b) < at(c), "{journal}");
    // In vain.
    let mut kept = keep(&sandbox, a);
    let begin = Instant::now();
    let loss = asks(b).unwrap().unwrap_err();
    assert!(begin.elapsed() >= Duration::from_secs(3), "{loss}");
    assert_eq!(
        sandbox.property(&unit(b), "ActiveState").unwrap(),
        "inactive"
    );
    kept.ask().unwrap();
    wait_journal(
        &sandbox,
        "ondemand-room@test8002.service",
        "no service of its group was idle",
        1,
    )
    .unwrap();
    wait_journal(
        &sandbox,
        "ondemand-test8002.service",
        "app8002.service was not started: no service",
        1,
    )
    .unwrap();
    // That is no fault.
    wait_state(&sandbox, "ondemand-room@test8002.service", "inactive").unwrap();
    let failed = sandbox
        .run(&["systemctl", "--failed", "--plain", "--no-legend"])
        .unwrap();
    assert!(!failed.contains("8002"), "{failed}");
    // It is as if nothing had been.
    drop(kept);
    ask(&sandbox, b);
}

#[test]
fn a_start_by_hand_waits_too() {
    require_sandbox!();
    let sandbox = group(&|_| "start_timeout = \"10s\"", "");
    let [a, b, _] = PORTS;
    ask(&sandbox, a);
    // Nobody uses it.
    sandbox.run(&["systemctl", "start", &unit(b)]).unwrap();
    wait_state(&sandbox, &unit(a), "inactive").unwrap();
    // A restart keeps its place.
    sandbox.run(&["systemctl", "restart", &unit(b)]).unwrap();
    let mut kept = keep(&sandbox, b);
    thread::scope(|scope| {
        let start = scope.spawn(|| sandbox.run(&["ondemand", "start", &name(a)]));
        wait_for("it waits", SOON, || {
            detail(&sandbox, a).contains("waits for room").then_some(())
        })
        .unwrap();
        kept.ask().unwrap();
        drop(kept);
        start.join().unwrap().unwrap();
    });
    wait_state(&sandbox, &unit(b), "inactive").unwrap();
}

#[test]
fn without_an_agent_everything_starts_and_the_next_one_brings_it_back() {
    require_sandbox!();
    let sandbox = group(&|_| "", "");
    let [a, b, _] = PORTS;
    for port in [a, b] {
        let place = format!("/etc/systemd/system/{}.d/card.conf", unit(port));
        sandbox.write(&place, "").unwrap();
    }
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    for port in [a, b] {
        assert!(ask(&sandbox, port) < SOON);
    }
    for port in [a, b] {
        assert_eq!(
            sandbox.property(&unit(port), "ActiveState").unwrap(),
            "active"
        );
    }
    service::start_agent(&sandbox).unwrap();
    wait_for("one of them goes", SOON, || {
        let states = [a, b].map(|port| sandbox.property(&unit(port), "ActiveState").unwrap());
        states.contains(&"inactive".to_owned()).then_some(())
    })
    .unwrap();
    // A program that cannot be executed keeps nothing down.
    let broken = "[Service]\nExecStart=\nExecStart=/nonexistent\n";
    let place = |port| {
        format!(
            "/etc/systemd/system/ondemand-room@{}.service.d/x.conf",
            name(port)
        )
    };
    for port in [a, b] {
        sandbox.write(&place(port), broken).unwrap();
    }
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    for port in [a, b] {
        ask(&sandbox, port);
    }
}

#[test]
fn an_agent_that_dies_while_a_client_waits() {
    require_sandbox!();
    let sandbox = group(&|_| "first_client = \"held\"", "");
    let [a, b, _] = PORTS;
    let mut kept = keep(&sandbox, a);
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            sandbox
                .in_network(|| client::get(address(b), Request::default()))
                .unwrap()
        });
        for _ in 0..2 {
            wait_for("it waits", SOON, || {
                let known = status(&sandbox, &name(b)).ok()?;
                known["detail"]
                    .to_string()
                    .contains("waits for room")
                    .then_some(())
            })
            .unwrap_or_else(|error| panic!("{error:#}: {}", journals(&sandbox)));
            let kill = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
            sandbox.run(&kill).unwrap();
        }
        stays(&sandbox, &unit(b), "inactive", Duration::from_millis(500));
        kept.ask().unwrap();
        drop(kept);
        waits
            .join()
            .unwrap()
            .unwrap_or_else(|loss| panic!("{loss}: {}", journals(&sandbox)));
    });
}

/// One that has clients all the time, none of whom stays, does not keep another one waiting for longer than a moment.
#[test]
fn clients_that_come_one_after_the_other_let_another_one_in() {
    require_sandbox!();
    let sandbox = group(&|_| "start_timeout = \"20s\"\nfirst_client = \"held\"", "");
    let [a, b, _] = PORTS;
    ask(&sandbox, a);
    let is_over = AtomicBool::new(false);
    let took = sandbox.in_network(|| {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        client::get(address(a), Request::default()).unwrap();
                        think(Duration::from_millis(10));
                    }
                });
            }
            think(Duration::from_millis(500));
            let took: Vec<Duration> = (0..4)
                .map(|_| {
                    let took = client::get(address(b), Request::default()).unwrap().took;
                    // The other one has it back.
                    think(Duration::from_millis(500));
                    took
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            took
        })
    });
    let took = took.unwrap();
    println!("it waited {took:?}");
    // It would be 20 s, if each client of the other one kept that up.
    assert!(
        took.iter().all(|took| *took < Duration::from_secs(5)),
        "{took:?}: {}",
        journals(&sandbox)
    );
    let room = status(&sandbox, &name(a)).unwrap()["room"].clone();
    assert!(room["evictions_for_group"].as_u64() >= Some(3), "{room}");
}
