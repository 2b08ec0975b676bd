//! The learned timeout on recorded arrivals, against what a reference implementation chose: gap by gap where its
//! choices are stored, and in the sum for all.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use ondemand_core::learned::{Learned, Terms, Trial};
use tests::{require, require_long, skip};

fn data() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data"))
}

/// Arrivals by service, in microseconds.
fn arrivals(trace: &str) -> BTreeMap<String, Vec<u64>> {
    let path = data().join(trace).join("trace.csv.gz");
    let unpacked = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
    let text = String::from_utf8(unpacked.stdout).unwrap();
    let mut services: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let (time, service) = line.split_once(',').unwrap();
        let at = time.parse::<u64>().unwrap() * 1_000_000;
        services.entry(service.to_owned()).or_default().push(at);
    }
    services
}

/// As the reference: any of its edges may be chosen.
fn terms(cost: u64) -> Terms {
    let [cost, shortest, longest] = [cost, 1, 604_800].map(Duration::from_secs);
    Terms::new(cost, shortest, longest)
}

fn gaps(arrivals: &[u64]) -> impl Iterator<Item = u64> {
    arrivals.windows(2).map(|pair| pair[1] - pair[0])
}

/// `TRACE SERVICE COST: TIMEOUT*TIMES ...`, the last for the time after the last gap.
#[test]
fn it_chooses_what_the_reference_chose() {
    require!(skip::missing(&["gzip"]));
    let expected = std::fs::read_to_string(data().join("learned_timeouts.txt")).unwrap();
    let mut traces = BTreeMap::new();
    let (mut compared, mut different) = (0, 0);
    for line in expected.lines() {
        let (head, runs) = line.split_once(": ").unwrap();
        let [trace, service, cost] = head.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let services = traces.entry(trace).or_insert_with(|| arrivals(trace));
        let mut gaps = gaps(&services[service]);
        let mut learned = Learned::new(terms(cost.parse().unwrap()));
        let runs = runs.split(' ').map(|run| run.split_once('*').unwrap());
        for (timeout, times) in runs {
            let expected: f64 = timeout.parse().unwrap();
            for _ in 0..times.parse().unwrap() {
                compared += 1;
                // Guarded ones are written to six digits.
                let found = learned.timeout().as_secs_f64();
                different += usize::from((found - expected).abs() > expected * 1e-5);
                if let Some(gap) = gaps.next() {
                    learned.learn(Duration::from_micros(gap));
                }
            }
        }
    }
    assert!(compared > 9_000, "{compared}");
    println!("{different} of {compared}");
    // Costs that are equal but for the last digit of a sum.
    assert!(different <= compared / 2000, "{different} of {compared}");
}

/// Sums over a fleet, in seconds.
#[derive(Debug, Default)]
struct Sums {
    cost: f64,
    optimum: f64,
    /// The first 20 gaps of each service.
    young: (f64, f64),
    /// The highest ratio of a service with ten gaps or more.
    worst: f64,
    gaps: u64,
}

fn sums(services: &BTreeMap<String, Vec<u64>>, cost: u64) -> Sums {
    let mut sums = Sums::default();
    for arrivals in services.values() {
        let mut trial = Trial::new(terms(cost));
        let figures = |trial: &Trial| {
            let outcome = trial.outcome();
            (outcome.cost as f64 / 1e6, outcome.optimum as f64 / 1e6)
        };
        let mut young = (0.0, 0.0);
        let mut count = 0;
        for gap in gaps(arrivals) {
            if count == 20 {
                young = figures(&trial);
            }
            trial.gap(gap);
            count += 1;
        }
        let all = figures(&trial);
        if count <= 20 {
            young = all;
        }
        sums.cost += all.0;
        sums.optimum += all.1;
        sums.young.0 += young.0;
        sums.young.1 += young.1;
        if count >= 10 && all.1 > 0.0 {
            sums.worst = sums.worst.max(all.0 / all.1);
        }
        sums.gaps += count;
    }
    sums
}

#[track_caller]
fn check(services: &BTreeMap<String, Vec<u64>>, cost: u64, reference: f64) {
    let sums = sums(services, cost);
    let ratio = sums.cost / sums.optimum;
    println!("{cost} s: {ratio:.4}, {sums:?}");
    assert!(ratio <= 1.02 * reference, "{cost} s: {ratio}");
    assert!(sums.worst <= 2.0, "{cost} s: {}", sums.worst);
    assert!(
        sums.young.0 <= 1.5 * sums.young.1,
        "{cost} s: {:?}",
        sums.young
    );
}

#[test]
fn a_fleet_costs_what_the_reference_costs() {
    require!(skip::missing(&["gzip"]));
    check(&arrivals("azure2019_sample1250"), 300, 1.0763);
}

/// Each arrival somewhere in its minute, instead of at its start.
fn jittered(mut services: BTreeMap<String, Vec<u64>>) -> BTreeMap<String, Vec<u64>> {
    let mut state = 7_u64;
    let mut random = || {
        // splitmix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % 60_000_000
    };
    for at in services.values_mut().flatten() {
        *at += random();
    }
    services
}

#[test]
fn a_fleet_costs_what_the_reference_costs_whatever_a_cold_start_does() {
    require!(skip::missing(&["gzip"]));
    require_long!("seconds in a release build, a minute in this one");
    let given = arrivals("azure2019_sample1250");
    check(&given, 60, 1.0120);
    check(&given, 600, 1.0829);
    let jittered = jittered(given);
    check(&jittered, 60, 1.117);
    check(&jittered, 300, 1.096);
    check(&jittered, 600, 1.096);
}
