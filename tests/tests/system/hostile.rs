//! Malicious clients: counts stay right, memory stays bounded, others are served, and no more is
//! started or kept up than SECURITY.md allows.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use tests::{
    client::{self, Request},
    pause::think,
    process::Process,
    sandbox::Sandbox,
    service::{SOON, front, number, on_demand, status, wait_state},
    wait_for,
};

use crate::{
    counts, require_sandbox,
    scans::{sender, swallow, syn},
    steering::{CONFIG, is_steered, wait_route, warm},
};

const ABORTED: u64 = 20_000;
/// What the agent's memory may differ by: the allocator's own habits.
const SLACK_KIB: u64 = 4 << 10;
/// The senders of a flood: addresses that swallow what is sent to them (RFC 5737).
const FLOOD_FROM: &str = "198.51.100.0/24";
const PUBLIC: [u8; 3] = [198, 51, 100];
/// Addresses from which a SYN starts a service whose clients are held.
const PRIVATE: [u8; 3] = [10, 99, 0];
/// The most of them, and for how long.
const MOST_OF_FLOOD: u64 = 1_000_000;
const FLOOD_LASTS: Duration = Duration::from_secs(5);

/// Memory of the agent. KiB.
fn resident(sandbox: &Sandbox) -> u64 {
    let memory = Process::agent(sandbox).and_then(Process::memory).unwrap();
    memory.resident as u64 / 1024
}

/// Opens a connection and resets it.
fn abort(source: IpAddr) {
    let stream = client::connect_from(source, front()).unwrap();
    client::reset_at_end(&stream).unwrap();
}

#[test]
fn twenty_thousand_aborted_connections() {
    require_sandbox!();
    // Longer than TCP waits before it sends a SYN again that met a full queue.
    let sandbox = warm(&CONFIG.replace("1h", "3s"), "");
    let (before, run) = (
        resident(&sandbox),
        sandbox.property("app.service", "InvocationID").unwrap(),
    );
    let next = AtomicU64::new(0);
    sandbox
        .in_network(|| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        // Not all from one address: it has 28,000 ports.
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= ABORTED {
                                break;
                            }
                            let last = 1 + (number % 8) as u8;
                            abort(Ipv4Addr::new(127, 0, 1, last).into());
                        }
                    });
                }
            });
        })
        .unwrap();
    // They are clients like others: it was in use all the time.
    assert_eq!(
        sandbox.property("app.service", "InvocationID").unwrap(),
        run
    );
    let now = counts::settled(&sandbox);
    // Some were never established: their last ACK met a full queue, and was answered by a reset.
    let accepted = now["steered"]["accepted"].as_u64().unwrap();
    assert!(
        (ABORTED - ABORTED / 50..=ABORTED).contains(&accepted),
        "{now}"
    );
    assert_eq!(now["steered"]["closed"], accepted, "{now}");
    assert!(is_steered(&sandbox, front()));
    let after = resident(&sandbox);
    assert!(
        after <= before + SLACK_KIB,
        "{before} KiB, then {after} KiB"
    );
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}

/// Sends SYNs from many addresses as fast as it can until it is ended, up to a maximum.
fn flood(sandbox: &Sandbox, network: [u8; 3], most: u64, end: &AtomicBool, sent: &AtomicU64) {
    sandbox
        .in_network(|| {
            let senders: Vec<(Ipv4Addr, OwnedFd)> = (1..=100)
                .map(|last| {
                    let [first, second, third] = network;
                    let from = Ipv4Addr::new(first, second, third, last);
                    (from, sender(from))
                })
                .collect();
            let to = SockaddrIn::new(127, 0, 0, 1, 0);
            for number in 0..most {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let (from, raw) = &senders[(number % 100) as usize];
                let port = 2_000 + (number / 100 % 50_000) as u16;
                let packet = syn(*from, port, Ipv4Addr::LOCALHOST, front().port());
                // A full queue of the device is no error of the test's.
                let _ = sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty());
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();
}

/// Runs `clients` under a flood.
fn under_a_flood<T>(sandbox: &Sandbox, most: u64, clients: impl FnOnce() -> T) -> T {
    let (end, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| flood(sandbox, PUBLIC, most, &end, &sent));
        wait_for("the flood", SOON, || {
            (sent.load(Ordering::Relaxed) > 1_000).then_some(())
        })
        .unwrap();
        let done = clients();
        end.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_flood_of_syns_wakes_nothing_and_others_are_served() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    swallow(&sandbox, FLOOD_FROM);
    let before = resident(&sandbox);
    // While it is down: none of them completes a handshake, so nothing is started.
    let (end, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    flood(&sandbox, PUBLIC, 20_000, &end, &sent);
    assert_eq!(sent.load(Ordering::Relaxed), 20_000);
    assert_eq!(
        sandbox
            .property("app.service", "ActiveEnterTimestamp")
            .unwrap(),
        ""
    );
    let served = under_a_flood(&sandbox, 2_000_000, || {
        // Proxied, as long as the kernel sends cookies.
        (0..50).filter(|_| !is_steered(&sandbox, front())).count()
    });
    assert_eq!(served, 50);
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
    let now = counts::settled(&sandbox);
    assert_eq!(now["accepted_connections"], 51, "{now}");
    let after = resident(&sandbox);
    assert!(
        after <= before + SLACK_KIB,
        "{before} KiB, then {after} KiB"
    );
}

/// A flood of SYNs that are held costs the agent little: the kernel holds no more than a number.
#[test]
fn a_flood_that_is_held_costs_the_agent_little() {
    require_sandbox!();
    let config = CONFIG.replace("\"proxied\"", "\"held\"");
    // It never gets so far that the flood is its own.
    let sandbox = on_demand(&config, "--start-delay-ms 8000").unwrap();
    swallow(&sandbox, "10.99.0.0/24");
    let agent = Process::agent(&sandbox).unwrap();
    let ticks = || agent.stat(14).unwrap() + agent.stat(15).unwrap();
    let (before, begin) = (ticks(), Instant::now());
    let (end, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| flood(&sandbox, PRIVATE, MOST_OF_FLOOD, &end, &sent));
        think(FLOOD_LASTS);
        end.store(true, Ordering::Relaxed);
    });
    let (used, lasted) = (ticks() - before, begin.elapsed());
    let (sent, peak) = (sent.load(Ordering::Relaxed), agent.memory().unwrap().peak);
    let status = status(&sandbox, "test").unwrap();
    eprintln!(
        "{sent} SYNs in {lasted:.1?}: {used} ticks of 10 ms, {:.1} MB, {}",
        peak / 1e6,
        status["held_clients"]
    );
    assert!(sent > 50_000, "{sent}");
    assert!(peak < 60e6, "{peak}");
    let share = used as f64 / 100.0 / lasted.as_secs_f64();
    assert!(share < 0.2, "{share:.2} of a core");
    // Somebody who means it is served.
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
}

#[test]
fn a_flood_from_an_ignored_network_keeps_nothing_up() {
    require_sandbox!();
    let config = CONFIG.replace("1h", "1s") + &format!("ignore_from = \"{FLOOD_FROM}\"");
    let sandbox = warm(&config, "");
    swallow(&sandbox, FLOOD_FROM);
    under_a_flood(&sandbox, 5_000_000, || {
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    });
    is_steered(&sandbox, front());
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}

#[test]
fn clients_that_never_finish_their_request() {
    require_sandbox!();
    let config = CONFIG.replace("1h", "1s") + "ignore_from = \"127.0.0.9\"";
    let sandbox = warm(&config, "");
    let before = resident(&sandbox);
    // An open connection is use, however slow: those of others are counted, and keep it up.
    let slow = |source: &str, count: usize| -> Vec<TcpStream> {
        let source: IpAddr = source.parse().unwrap();
        let connect = || {
            let mut stream = client::connect_from(source, front()).unwrap();
            stream.write_all(b"GET / HT").unwrap();
            stream
        };
        sandbox
            .in_network(|| (0..count).map(|_| connect()).collect())
            .unwrap()
    };
    let held = slow("127.0.0.8", 300);
    wait_for("they are counted", SOON, || {
        (number(&sandbox, "test", "open_connections").ok()? == 300).then_some(())
    })
    .unwrap();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        assert!(is_steered(&sandbox, front()), "others are served");
    }
    assert!(resident(&sandbox) <= before + SLACK_KIB);
    let ignored = slow("127.0.0.9", 300);
    drop(held);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    drop(ignored);
    wait_for("all are closed", SOON, || {
        let now = status(&sandbox, "test").ok()?;
        (now["ignored"]["closed"] == 300).then_some(())
    })
    .unwrap();
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}
