//! No request is lost however often the service is stopped; beside it, in the same run and
//! under the same arrivals, what people use today loses some.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Loss, Random, Request},
    sandbox::Sandbox,
    service::{self, number},
};

use crate::require_sandbox;

const SERVICES: u16 = 5;
const REQUESTS: usize = 1_000;
const MEAN_GAP: Duration = Duration::from_millis(60);
/// One arrival in so many comes about when the service goes idle.
const AIMED: f64 = 1.0 / 8.0;
/// How much later than the idle timeout, at most.
const AIM: Duration = Duration::from_millis(400);
/// One for each service.
const IDLE_MS: [u64; SERVICES as usize] = [200, 220, 250, 300, 400];

/// What people write today: a loop (in real life a timer) that looks for connections with
/// ss and stops the service if it saw none for the timeout.
const CHECKER: &str = r#"#!/bin/bash
quiet=0
while sleep 0.05; do
    if [ "$(systemctl is-active "$1")" != active ]; then quiet=0; continue; fi
    if ss -Htn state established "( sport = :$2 )" | grep -q .; then quiet=0; continue; fi
    quiet=$((quiet + 50))
    if [ $quiet -ge "$3" ]; then systemctl stop "$1"; quiet=0; fi
done
"#;

fn config(index: u16) -> String {
    format!(
        "[service.t{index}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"127.0.0.1:{}\"\n\
         unit = \"app{index}.service\"\nidle_timeout = \"{}ms\"\nmin_uptime = \"0s\"\nsteer = false\n\n",
        8000 + index,
        8100 + index,
        IDLE_MS[usize::from(index)],
    )
}

/// Socket, proxy and application as the manual of systemd-socket-proxyd shows them.
fn write_classic(sandbox: &Sandbox, index: u16) {
    let unit = |name: &str, text: String| {
        sandbox
            .write(&format!("/etc/systemd/system/{name}"), text)
            .unwrap();
    };
    let (front, back) = (9000 + index, 9100 + index);
    unit(
        &format!("classic{index}.socket"),
        format!(
            "[Socket]\nListenStream=127.0.0.1:{front}\nBacklog=4096\nTriggerLimitIntervalSec=0\n"
        ),
    );
    unit(
        &format!("classic{index}.service"),
        format!(
            "[Unit]\nRequires=classic-app{index}.service\nAfter=classic-app{index}.service\n\
             StartLimitIntervalSec=0\n[Service]\n\
             ExecStart=/lib/systemd/systemd-socket-proxyd 127.0.0.1:{back}\nLimitNOFILE=65536\n"
        ),
    );
    unit(
        &format!("classic-app{index}.service"),
        format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\n\
             ExecStart=/usr/bin/test-backend --notify --listen 127.0.0.1:{back}\n"
        ),
    );
}

/// Random one-shot requests at random times; gives how many were lost, by how.
fn arrivals(address: SocketAddr, idle: Duration, seed: u64) -> BTreeMap<Loss, u32> {
    let mut random = Random::new(seed);
    let mut next = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..REQUESTS)
            .map(|_| {
                next += if random.unit() < AIMED {
                    random.between(idle, idle + AIM)
                } else {
                    random.gap(MEAN_GAP)
                };
                thread::sleep(next.saturating_duration_since(Instant::now()));
                scope.spawn(move || client::get(address, Request::default()).err())
            })
            .collect();
        let mut losses = BTreeMap::new();
        for loss in clients
            .into_iter()
            .filter_map(|client| client.join().unwrap())
        {
            *losses.entry(loss).or_default() += 1;
        }
        losses
    })
}

/// Ends a program that this test started, also when the test fails.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn five_thousand_requests_and_no_loss() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let script = sandbox.path("/tmp/checker");
    std::fs::write(&script, CHECKER).unwrap();
    sandbox.install(&script, "/usr/bin/checker").unwrap();
    let mut text = String::new();
    for index in 0..SERVICES {
        let options = format!("--listen 127.0.0.1:{}", 8100 + index);
        service::write_backend(&sandbox, &format!("app{index}.service"), &options).unwrap();
        write_classic(&sandbox, index);
        text += &config(index);
    }
    service::write_config(&sandbox, &text).unwrap();
    let names: Vec<String> = (0..SERVICES).map(|index| format!("t{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names).unwrap();
    service::start_agent(&sandbox).unwrap();
    let checkers: Vec<Kill> = (0..SERVICES)
        .map(|index| {
            sandbox
                .run(&["systemctl", "start", &format!("classic{index}.socket")])
                .unwrap();
            let unit = format!("classic-app{index}.service");
            let idle = IDLE_MS[usize::from(index)].to_string();
            let port = (9100 + index).to_string();
            Kill(
                sandbox
                    .command("/usr/bin/checker")
                    .args([&unit, &port, &idle])
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();

    let run = |base: u16| -> BTreeMap<Loss, u32> {
        thread::scope(|scope| {
            let services: Vec<_> = (0..SERVICES)
                .map(|index| {
                    let sandbox = &sandbox;
                    scope.spawn(move || {
                        let address = SocketAddr::from(([127, 0, 0, 1], base + index));
                        let idle = Duration::from_millis(IDLE_MS[usize::from(index)]);
                        sandbox
                            .in_network(|| arrivals(address, idle, 7 + u64::from(index)))
                            .unwrap()
                    })
                })
                .collect();
            let mut all = BTreeMap::new();
            for losses in services.into_iter().map(|service| service.join().unwrap()) {
                for (loss, count) in losses {
                    *all.entry(loss).or_default() += count;
                }
            }
            all
        })
    };
    let (ours, classic) = thread::scope(|scope| {
        let ours = scope.spawn(|| run(8000));
        let classic = scope.spawn(|| run(9000));
        (ours.join().unwrap(), classic.join().unwrap())
    });
    drop(checkers);

    let stops: u64 = names
        .iter()
        .map(|name| number(&sandbox, name, "stops").unwrap())
        .sum();
    let accepted: u64 = names
        .iter()
        .map(|name| number(&sandbox, name, "accepted_connections").unwrap())
        .sum();
    let drift: u64 = names
        .iter()
        .map(|name| number(&sandbox, name, "count_drift").unwrap())
        .sum();
    let classic_stops: usize = (0..SERVICES)
        .map(|index| {
            sandbox
                .journal(&format!("classic-app{index}.service"))
                .matches("Stopped")
                .count()
        })
        .sum();
    let total = usize::from(SERVICES) * REQUESTS;
    eprintln!("ondemand: {total} requests, {stops} stops, lost: {ours:?}");
    eprintln!("checker script: {total} requests, {classic_stops} stops, lost: {classic:?}");
    assert!(ours.is_empty(), "lost: {ours:?}");
    assert!(stops >= 100, "only {stops} stops");
    assert_eq!(accepted, total as u64);
    assert_eq!(drift, 0);
    assert!(
        !classic.is_empty(),
        "the same arrivals lost nothing with a checker script"
    );
}
