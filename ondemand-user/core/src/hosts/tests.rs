//! Plans that can be computed by hand, and what holds of any.

use std::time::Duration;

use super::*;
use crate::{
    learned::{Terms as Learning, Trial},
    replay::{Replay, Timeouts},
    room::{self, GreedyDual, Member, Memory, Place, Worth},
};

const MICROS: u64 = 1_000_000;

/// Services of these bytes, whose starts take two seconds.
fn services(memory: &[u64]) -> Vec<Service> {
    let service = |memory: &u64| Service {
        memory: *memory,
        start: 2 * MICROS,
    };
    memory.iter().map(service).collect()
}

/// `arrivals`: seconds and service; fixed timeouts in seconds.
fn plan(
    memory: &[u64],
    (hosts, capacity): (u32, u64),
    timeouts: &[u64],
    arrivals: &[(u64, usize)],
    end: u64,
) -> Plan {
    let timeouts: Vec<u64> = timeouts.iter().map(|seconds| seconds * MICROS).collect();
    let mut run = Simulation::new(services(memory), hosts, capacity, timeouts.len()).unwrap();
    for (at, service) in arrivals {
        run.arrive(*service, at * MICROS, &timeouts);
    }
    run.end(end * MICROS)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}

#[test]
fn two_services_on_one_host() {
    // a: 0..10 and 50..60. b: 5..15. Both together: 5..10.
    let arrivals = [(0, 0), (5, 1), (50, 0)];
    let plan = plan(&[6, 5], (2, 10), &[10], &arrivals, 100);
    assert_eq!((plan.memory, plan.always_up), (11, 2));
    assert_eq!(plan.length, 100 * MICROS);
    let [found] = plan.outcomes.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!(found.cold_starts, 3);
    assert_eq!(found.waits.sum(), 3 * 2 * u128::from(MICROS));
    assert_eq!(found.memory.sum(), (20 * 6 + 10 * 5) * u128::from(MICROS));
    assert_eq!(found.memory.largest(), 11);
    assert_eq!(found.memory.quantile(50), Some(0));
    assert_eq!(found.memory.quantile(94), Some(6));
    assert_eq!(found.memory.quantile(99), Some(11));
    assert_eq!(found.hosts_at_p99(10), Some(2));
    assert_eq!(found.hosts_at_p99(11), Some(1));
    let placed = [(2, 0), (1, 5)].map(|(hosts, over): (u32, u64)| Placed {
        hosts,
        over: u128::from(over * MICROS),
        worst: over * MICROS,
    });
    assert_eq!(found.placed, placed);
    assert!(placed[0].is_carried(plan.length) && !placed[1].is_carried(plan.length));
}

#[test]
fn who_waits() {
    // The second client comes during the start, the third after it.
    let arrivals = [(0, 0), (1, 0), (2, 0), (100, 0)];
    let found = plan(&[1], (1, 1), &[10], &arrivals, 100).outcomes.remove(0);
    assert_eq!(found.cold_starts, 2);
    assert_eq!(found.waits.weight(), 3);
    assert_eq!(found.waits.sum(), 5 * u128::from(MICROS));
    assert_eq!(found.waits.quantile(50), Some(2 * MICROS));
}

#[test]
fn at_exactly_its_timeout_it_is_up() {
    let found = plan(&[1], (1, 1), &[10], &[(0, 0), (10, 0), (21, 0)], 21);
    assert_eq!(found.outcomes[0].cold_starts, 2);
    assert_eq!(found.outcomes[0].memory.sum(), 20 * u128::from(MICROS));
}

#[test]
fn a_timeout_that_becomes_shorter() {
    let mut run = Simulation::new(services(&[1]), 1, 1, 1).unwrap();
    run.arrive(0, 0, &[100]);
    run.arrive(0, 10, &[5]);
    run.arrive(0, 40, &[1000]);
    let found = run.end(50).outcomes.remove(0);
    assert_eq!((found.cold_starts, found.memory.sum()), (2, 15 + 10));
}

#[test]
fn what_is_no_plan() {
    assert_eq!(
        Simulation::new(services(&[1, 11]), 5, 10, 1).unwrap_err(),
        1
    );
    let none = Simulation::new(services(&[]), 5, 10, 1).unwrap().end(0);
    assert_eq!((none.always_up, none.outcomes.len()), (0, 0));
    // All at the same moment: there is no time to take a share of.
    let at_once = plan(&[3], (1, 10), &[1], &[(0, 0)], 0).outcomes.remove(0);
    assert_eq!(at_once.hosts_at_p99(10), None);
    assert_eq!(at_once.memory.largest(), 3);
}

/// A fleet at random, and arrivals of it in a day. Seconds.
fn any(random: &mut Random) -> (Vec<u64>, Vec<(u64, usize)>) {
    let count = 1 + random.below(30);
    let memory: Vec<u64> = (0..count).map(|_| 1 + random.below(100)).collect();
    let mut arrivals = Vec::new();
    for service in 0..memory.len() {
        for _ in 0..1 + random.below(40) {
            arrivals.push((random.below(86_400), service));
        }
    }
    arrivals.sort_unstable();
    (memory, arrivals)
}

#[test]
fn it_is_the_sum_of_each_replay() {
    let seconds = [1, 60, 3600];
    let timeouts = Timeouts::new(&seconds.map(Duration::from_secs)).unwrap();
    let learning = Learning::new(
        Duration::from_secs(300),
        Duration::from_secs(5),
        Duration::MAX,
    );
    for seed in 1..40 {
        let (memory, arrivals) = any(&mut Random(seed));
        let mut replays = vec![Replay::new(&timeouts); memory.len()];
        let mut trials = vec![Trial::new(learning); memory.len()];
        let mut last = vec![None; memory.len()];
        let mut run = Simulation::new(services(&memory), 3, 100, 4).unwrap();
        for (at, service) in &arrivals {
            let at = at * MICROS;
            match last[*service].replace(at) {
                Some(before) => {
                    replays[*service].gap(&timeouts, at - before);
                    trials[*service].gap(at - before);
                }
                None => {
                    replays[*service].first();
                    trials[*service].first();
                }
            }
            let learned = trials[*service].learned().timeout().as_micros() as u64;
            let mut next = timeouts.micros().to_vec();
            next.push(learned);
            run.arrive(*service, at, &next);
        }
        let end = arrivals.last().unwrap().0 * MICROS + 7;
        let (mut cold_starts, mut up) = ([0; 4], [0_u128; 4]);
        for (service, memory) in memory.iter().enumerate() {
            let quiet = end - last[service].unwrap();
            replays[service].end(quiet);
            trials[service].end(quiet);
            let outcomes = replays[service].outcomes(&timeouts);
            let fixed = outcomes.iter().map(|it| (it.cold_starts, it.warm_idle));
            let learned = trials[service].outcome();
            let all = fixed.chain([(learned.cold_starts, learned.warm_idle)]);
            for (policy, (cold, warm)) in all.enumerate() {
                cold_starts[policy] += cold;
                up[policy] += warm * u128::from(*memory);
            }
        }
        let plan = run.end(end);
        for (policy, found) in plan.outcomes.iter().enumerate() {
            assert_eq!(found.cold_starts, cold_starts[policy], "{seed}, {policy}");
            assert_eq!(found.memory.sum(), up[policy], "{seed}, {policy}");
            assert_eq!(found.memory.weight(), plan.length);
        }
    }
}

#[test]
fn who_starts_takes_the_room_of_the_least_worth() {
    // The starts of a and b take two seconds; b has been used more often when c needs room, which later makes room for a.
    let arrivals = [(0, 0), (10, 1), (20, 1), (30, 2), (40, 1), (50, 0)];
    let plan = plan(&[4, 4, 4], (2, 10), &[], &arrivals, 100);
    let [two, one] = plan.budgeted.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!((two.placed[0].hosts, one.placed[0].hosts), (2, 1));
    assert_eq!((two.cold_starts, one.cold_starts), (3, 4));
    assert_eq!(one.waits.sum(), 4 * 2 * u128::from(MICROS));
    assert_eq!(
        one.memory.sum(),
        (10 * 4 + 90 * 8) * u128::from(MICROS),
        "it is full from the second start on"
    );
    assert_eq!(one.placed[0].over, 0);
    assert_eq!(two.memory.largest(), 12);
}

#[test]
fn what_starts_does_not_make_room() {
    // Both start: for two seconds there is too much. The first that is over goes for the second.
    let found = plan(&[6, 6], (1, 10), &[], &[(0, 0), (1, 1), (9, 0)], 10).budgeted;
    let [one] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(one.cold_starts, 3);
    assert_eq!(one.placed[0].over, u128::from(MICROS));
    assert_eq!(one.memory.sum(), (6 + 12 + 8 * 6) * u128::from(MICROS));
}

/// The same by `room::decide` for each host, which looks at all of its services.
fn decided(memory: &[u64], capacity: u64, homes: &[u32], arrivals: &[(u64, usize)]) -> u64 {
    let names: Vec<String> = (0..memory.len()).map(|it| format!("{it:05}")).collect();
    let mut worth = vec![Worth::default(); memory.len()];
    let mut ready = vec![None; memory.len()];
    let mut clocks = [GreedyDual::default(); 8];
    let mut cold_starts = 0;
    // Ends of starts are looked at, too.
    let mut looks: Vec<(u64, Option<usize>)> = Vec::new();
    for (at, service) in arrivals {
        looks.extend([(*at, Some(*service)), (at + 2, None)]);
    }
    // An arrival comes before the ends of starts at the same time.
    looks.sort_by_key(|(at, service)| (*at, service.is_none()));
    for (now, service) in looks {
        if let Some(service) = service.filter(|it| ready[*it].is_none()) {
            ready[service] = Some(now + 2);
            cold_starts += 1;
        }
        for host in 0..8 {
            let value = |it: usize| worth[it].value(Duration::from_secs(2), Some(memory[it]));
            let here = (0..memory.len()).filter(|it| homes[*it] == host);
            let member = |number: usize| Member {
                name: &names[number],
                group: None,
                place: match ready[number] {
                    None => Place::None,
                    Some(ready) if ready > now || service.is_some() && ready == now => Place::Taken,
                    Some(_) => Place::Idle,
                },
                waits: None,
                worth: value(number),
                memory: Some(memory[number]),
                grows: 0,
                gives: true,
            };
            let members: Vec<_> = here.map(member).collect();
            let none = std::collections::BTreeMap::new();
            let stops = room::decide(&members, &none, Some(Memory::Budget(capacity))).stops;
            for (name, _) in stops {
                let other: usize = name.parse().unwrap();
                let least = worth[other].value(Duration::from_secs(2), Some(memory[other]));
                clocks[host as usize].evicted(&mut worth[other], least);
                ready[other] = None;
            }
        }
        if let Some(service) = service {
            clocks[homes[service] as usize].used(&mut worth[service]);
        }
    }
    cold_starts
}

#[test]
fn a_budget_is_the_agents_own() {
    for seed in 1..20 {
        let (memory, arrivals) = any(&mut Random(seed));
        let plan = plan(&memory, (8, 300), &[], &arrivals, 86_400);
        for outcome in &plan.budgeted {
            let hosts = outcome.placed[0].hosts;
            let homes = placement::first_fit(&memory, hosts, 300);
            let expected = decided(&memory, 300, &homes, &arrivals);
            assert_eq!(outcome.cold_starts, expected, "{seed}, {hosts}");
            assert_eq!(outcome.memory.weight(), plan.length);
            assert!(outcome.memory.largest() <= memory.iter().sum());
        }
        let least = plan.budgeted.iter().map(|it| it.cold_starts).min();
        assert!(least >= Some(memory.len() as u64), "{seed}");
    }
}

#[test]
fn more_memory_never_needs_more_hosts() {
    for seed in 1..40 {
        let (memory, arrivals) = any(&mut Random(seed));
        let run = |hosts, capacity| {
            plan(&memory, (hosts, capacity), &[60, 3600], &arrivals, 86_400).outcomes
        };
        let mut before = [u64::MAX; 2];
        for capacity in [100, 130, 200, 400, 4000] {
            let found = run(4, capacity);
            let needed = [0, 1].map(|it| found[it].hosts_at_p99(capacity).unwrap());
            assert!(needed[0] <= before[0] && needed[1] <= before[1], "{seed}");
            assert!(
                needed[0] <= needed[1],
                "{seed}: a longer timeout takes more"
            );
            before = needed;
            for outcome in &found {
                // A host for each p99 of all is the least that any placement takes, but for its own 1 %.
                assert!(outcome.memory.quantile(99) <= Some(outcome.memory.largest()));
                let of_one = outcome.placed.last().unwrap();
                assert_eq!(of_one.hosts, 1);
                assert_eq!(of_one.over, u128::from(of_one.worst));
            }
        }
        // Enough for all: nothing is ever over.
        let all = run(30, 100);
        assert!(all.iter().all(|outcome| outcome.placed[0].over == 0));
    }
}

/// A day of 2,000 functions at random, by each of 22 policies: 0.4 s in a release build.
#[test]
fn a_day_of_two_thousand_functions() {
    let mut random = Random(5);
    let memory: Vec<u64> = (0..2000).map(|_| (64 + random.below(960)) << 20).collect();
    let timeouts: Vec<u64> = (0..22).map(|step| (1 << step) * MICROS).collect();
    let minutes = if cfg!(debug_assertions) { 30 } else { 1440 };
    let mut run = Simulation::new(services(&memory), 200, 16 << 30, timeouts.len()).unwrap();
    let mut count = 0;
    for minute in 0..minutes {
        for service in 0..memory.len() {
            // As in the Azure trace: a few all the time, most of them seldom.
            if random.below(1 + service as u64 / 4) == 0 || service < 100 {
                run.arrive(service, minute * 60 * MICROS, &timeouts);
                count += 1;
            }
        }
    }
    let plan = run.end(minutes * 60 * MICROS);
    assert!(count > 0 && plan.always_up > 60, "{count}");
    assert!(
        plan.outcomes
            .is_sorted_by_key(|it| std::cmp::Reverse(it.cold_starts))
    );
    let [fewest, most] = [plan.budgeted.first(), plan.budgeted.last()].map(Option::unwrap);
    assert!(fewest.cold_starts <= 2000, "all fits, so each starts once");
    assert!(most.cold_starts > fewest.cold_starts);
}
