//! No request is lost however often the service is stopped; beside it, in the same run and
//! under the same arrivals, what people use today loses some.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use tests::{
    arrivals::Arrivals,
    classic::{Checking, Classic, End},
    client::Loss,
    service::{self, number},
    skip,
};

use crate::require_sandbox;

const SERVICES: u16 = 5;
/// For each service; with [`skip::LONG`] more.
const REQUESTS: usize = 100;
const LONG_REQUESTS: usize = 2_000;
const MEAN_GAP: Duration = Duration::from_millis(60);
/// One arrival in this number is aimed at the moment when the service becomes idle.
const AIMED: f64 = 1.0 / 8.0;
/// How much later than the idle timeout, at most.
const AIM: Duration = Duration::from_millis(400);
/// One for each service.
const IDLE_MS: [u64; SERVICES as usize] = [200, 220, 250, 300, 400];

fn config(index: u16) -> String {
    format!(
        "[service.t{index}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"127.0.0.1:{}\"\n\
         unit = \"app{index}.service\"\nidle_timeout = \"{}ms\"\nmin_uptime = \"0s\"\nsteer = false\n\n",
        8000 + index,
        8100 + index,
        IDLE_MS[usize::from(index)],
    )
}

fn classic(index: u16) -> Classic {
    Classic {
        name: format!("classic{index}"),
        front: 9000 + index,
        backend: 9100 + index,
        end: End::StopBackend,
        idle: Duration::from_millis(IDLE_MS[usize::from(index)]),
    }
}

#[test]
fn requests_at_all_times_and_no_loss() {
    require_sandbox!();
    let requests = if skip::is_long() {
        LONG_REQUESTS
    } else {
        REQUESTS
    };
    let sandbox = service::installed().unwrap();
    let mut text = String::new();
    for index in 0..SERVICES {
        let options = format!("--listen 127.0.0.1:{}", 8100 + index);
        service::write_backend(&sandbox, &format!("app{index}.service"), &options).unwrap();
        classic(index).write(&sandbox).unwrap();
        text += &config(index);
    }
    service::write_config(&sandbox, &text).unwrap();
    let names: Vec<String> = (0..SERVICES).map(|index| format!("t{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names).unwrap();
    service::start_agent(&sandbox).unwrap();
    let checkers: Vec<Option<Checking>> = (0..SERVICES)
        .map(|index| classic(index).start(&sandbox).unwrap())
        .collect();

    let run = |base: u16| -> BTreeMap<Loss, u32> {
        thread::scope(|scope| {
            let services: Vec<_> = (0..SERVICES)
                .map(|index| {
                    let sandbox = &sandbox;
                    scope.spawn(move || {
                        let arrivals = Arrivals {
                            address: SocketAddr::from(([127, 0, 0, 1], base + index)),
                            requests,
                            mean_gap: MEAN_GAP,
                            aimed: AIMED,
                            idle: Duration::from_millis(IDLE_MS[usize::from(index)]),
                            aim: AIM,
                            seed: 7 + u64::from(index),
                        };
                        sandbox.in_network(|| arrivals.run()).unwrap()
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
    let (ours, theirs) = thread::scope(|scope| {
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
        .map(|index| classic(index).stops(&sandbox))
        .sum();
    let total = usize::from(SERVICES) * requests;
    eprintln!("ondemand: {total} requests, {stops} stops, lost: {ours:?}");
    eprintln!("checker script: {total} requests, {classic_stops} stops, lost: {theirs:?}");
    assert!(ours.is_empty(), "lost: {ours:?}");
    assert!(stops >= total as u64 / 50, "only {stops} stops");
    assert_eq!(accepted, total as u64);
    assert_eq!(drift, 0);
    // Of fewer requests it may lose none.
    assert!(
        !theirs.is_empty() || !skip::is_long(),
        "the same arrivals lost nothing with a checker script"
    );
}
