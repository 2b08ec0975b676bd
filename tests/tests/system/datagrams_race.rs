//! Datagrams that come while the application is stopped.

use std::time::Duration;

use tests::{
    client::Random,
    datagrams::gaps,
    require_long,
    service::{number, status},
};

use crate::{
    datagrams::{PATIENCE, client, with_udp},
    held::asleep,
    require_sandbox,
};

/// Every so many datagrams there is a pause in which the application is stopped, or nearly.
const EVERY: u32 = 50;

/// So many datagrams at a spacing of 5 ms, with a pause that ends at about the time of a stop after each [`EVERY`].
fn run(number_of_datagrams: u32, to: &str) -> u64 {
    let sandbox = with_udp("");
    asleep(&sandbox);
    let client = client(&sandbox, true, to);
    let random = std::sync::Mutex::new(Random::new(7));
    let pause = |n: u32| match (n + 1) % EVERY {
        0 => {
            let (from, to) = (Duration::from_millis(290), Duration::from_millis(370));
            random.lock().unwrap().between(from, to)
        }
        _ => Duration::from_millis(5),
    };
    let heard = client.count(number_of_datagrams, pause, PATIENCE);
    let status = status(&sandbox, "test").unwrap();
    let gaps = gaps(&heard, number_of_datagrams);
    assert_eq!(gaps, (vec![], vec![]), "{status}");
    assert_eq!(status["datagrams"]["lost"], 0, "{status}");
    number(&sandbox, "test", "stops").unwrap()
}

#[test]
fn no_datagram_is_lost_in_a_stop() {
    require_sandbox!();
    let stops = run(600, "10.77.0.1:8000");
    assert!(stops >= 3, "{stops}");
}

#[test]
fn no_datagram_is_lost_in_two_hundred_stops() {
    require_sandbox!();
    require_long!("two minutes of stops");
    let mut stops = 0;
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        stops += run(10_000, to);
    }
    assert!(stops >= 200, "{stops}");
}
