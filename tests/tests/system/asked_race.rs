//! No request is lost however often a stop is requested: clients connect all the time, and
//! `ondemand stop` runs repeatedly.

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Loss, Random, Request},
    pause::arrive_at,
    require_long,
    sandbox::Sandbox,
    service::{self, status},
    skip,
};

use crate::require_sandbox;

/// For each service, with [`skip::LONG`] more; `ONDEMAND_RACE_REQUESTS` is another number.
const REQUESTS: usize = 200;
const LONG_REQUESTS: usize = 2_000;
const MEAN_GAP: Duration = Duration::from_millis(70);
/// On a machine that is too busy for a stop between two of them, they repeat, half as often each time.
const MOST_ROUNDS: u32 = 5;

/// Name, whether it is steered, its idle timeout, options of the backend. The proxy of an unsteered
/// service stays for most of its idle timeout, unless it is signalled to exit.
const SERVICES: [(&str, bool, &str, &str); 5] = [
    ("proxied", false, "200ms", ""),
    ("proxy-stays", false, "10min", ""),
    ("steered", true, "200ms", ""),
    ("late-acks", true, "200ms", "--late-ack 25"),
    ("slow-stop", true, "200ms", "--stop-delay-ms 100 --notify"),
];

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8000 + index as u16))
}

/// One-shot requests at random times; returns how they were lost.
fn arrivals(
    address: SocketAddr,
    seed: u64,
    requests: usize,
    mean_gap: Duration,
) -> BTreeMap<Loss, u32> {
    let mut random = Random::new(seed);
    let mut next = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..requests)
            .map(|_| {
                next += random.gap(mean_gap);
                arrive_at(next);
                scope.spawn(move || client::get(address, Request::default()).err())
            })
            .collect();
        let mut losses = BTreeMap::new();
        let lost = clients
            .into_iter()
            .filter_map(|client| client.join().unwrap());
        for loss in lost {
            *losses.entry(loss).or_default() += 1;
        }
        losses
    })
}

/// Requests stops until the clients are done, and counts the completed ones.
fn ask_for_stops(sandbox: &Sandbox, name: &str, stops: &AtomicUsize, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let said = sandbox.run(&["ondemand", "stop", name]);
        if said.is_ok_and(|said| said.contains("stopped")) {
            stops.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Clients, at least until there was a stop or one of them was lost.
fn load(index: usize, requests: usize, stops: &AtomicUsize) -> BTreeMap<Loss, u32> {
    let mut losses = BTreeMap::new();
    for round in 0..MOST_ROUNDS {
        let (rarer, seed) = (2_u32.pow(round), 11 + index as u64 + u64::from(round) * 100);
        let requests = requests.div_ceil(rarer as usize);
        losses = arrivals(address(index), seed, requests, MEAN_GAP * rarer);
        if stops.load(Ordering::Relaxed) > 0 || !losses.is_empty() {
            break;
        }
    }
    losses
}

#[test]
fn stops_as_asked_lose_no_request() {
    require_sandbox!();
    require_long!("the races of idle stops are in the short suite");
    let requests = env::var("ONDEMAND_RACE_REQUESTS");
    let usual = if skip::is_long() {
        LONG_REQUESTS
    } else {
        REQUESTS
    };
    let requests = requests.map_or(usual, |text| text.parse().unwrap());
    let sandbox = service::installed().unwrap();
    let mut text = String::new();
    for (index, (name, steer, idle, options)) in SERVICES.iter().enumerate() {
        let back = 8100 + index;
        let options = format!("--listen 127.0.0.1:{back} {options}");
        service::write_backend(&sandbox, &format!("{name}.service"), &options).unwrap();
        // Its minimum uptime keeps the agent from stopping it by itself.
        text += &format!(
            "[service.{name}]\nlisten = [\"{}\"]\nbackend = \"127.0.0.1:{back}\"\n\
             unit = \"{name}.service\"\nidle_timeout = \"{idle}\"\nmin_uptime = \"1h\"\n\
             steer = {steer}\n\n",
            address(index)
        );
    }
    service::write_config(&sandbox, &text).unwrap();
    let names = SERVICES.map(|(name, ..)| name);
    service::reload(&sandbox, &names).unwrap();
    service::start_agent(&sandbox).unwrap();
    let results = thread::scope(|scope| {
        let sandbox = &sandbox;
        let services: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                scope.spawn(move || {
                    let (done, stops) = (AtomicBool::new(false), AtomicUsize::new(0));
                    let losses = thread::scope(|scope| {
                        scope.spawn(|| ask_for_stops(sandbox, name, &stops, &done));
                        let losses = sandbox.in_network(|| load(index, requests, &stops));
                        done.store(true, Ordering::Release);
                        losses.unwrap()
                    });
                    (losses, stops.into_inner())
                })
            })
            .collect();
        services
            .into_iter()
            .map(|service| service.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (name, (losses, stops)) in names.iter().zip(&results) {
        let known = status(&sandbox, name).unwrap();
        eprintln!("{name}: {requests} requests, {stops} stops, lost: {losses:?}");
        assert!(losses.is_empty(), "{name} lost {losses:?}");
        assert!(*stops >= 1, "{name}: only {stops} stops");
        assert_eq!(known["stops_by_reason"]["idle"], 0, "{known}");
        assert_eq!(known["count_drift"], 0, "{known}");
    }
}
