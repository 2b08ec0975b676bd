//! Who makes room when memory is short, on recorded arrivals of services with drawn sizes and starts: the agent's own code against GreedyDual-Size-Frequency as its paper
//! has it, LRU, and a fixed timeout that uses the same memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use ondemand_core::room::{
    self, GreedyDual, Member, Memory, Place, Worth,
    simulation::{Outcome, Simulation, Size},
};
use tests::{client::Random, require, skip};

/// What was drawn for a service.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    /// MiB.
    size: u64,
    /// How long its cold start takes, in seconds.
    start: f64,
}

/// Time in seconds, and the service.
type Arrivals = Vec<(u64, usize)>;

/// How much of the trace.
const HOURS: u64 = 8;

/// The arrivals of every fifth service, with what is drawn for each: the same in each run.
fn trace(seed: u64) -> (Arrivals, Vec<Drawn>) {
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
    let path = PathBuf::from(tree).join("azure2019_sample1250/trace.csv.gz");
    let unpacked = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
    let text = String::from_utf8(unpacked.stdout).unwrap();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut arrivals = Vec::new();
    for line in text.lines().skip(1) {
        let (time, service) = line.split_once(',').unwrap();
        let at: u64 = time.parse().unwrap();
        let number: usize = service.trim_start_matches('f').parse().unwrap();
        if number.is_multiple_of(5) && at < HOURS * 3600 {
            let next = names.len();
            arrivals.push((at, *names.entry(service).or_insert(next)));
        }
    }
    let mut random = Random::new(seed);
    let drawn = (0..names.len()).map(|_| Drawn {
        // From 32 MiB to 2 GiB, and from 0.1 to 20 s, each factor as often as any other.
        size: 2_f64.powf(5.0 + 6.0 * random.unit()) as u64,
        start: 0.1 * 200_f64.powf(random.unit()),
    });
    (arrivals, drawn.collect())
}

/// What a policy has come to.
#[derive(Debug, Default)]
struct Sum {
    cold: u64,
    /// For cold starts, in seconds.
    waited: f64,
    /// The mean of the memory that was taken, in MiB.
    mean: f64,
}

/// Which services are up, and what that takes.
struct Host<'d> {
    drawn: &'d [Drawn],
    up: BTreeSet<usize>,
    taken: u64,
    last: u64,
    area: f64,
    sum: Sum,
}

impl<'d> Host<'d> {
    fn new(drawn: &'d [Drawn]) -> Self {
        Self {
            drawn,
            up: BTreeSet::new(),
            taken: 0,
            last: 0,
            area: 0.0,
            sum: Sum::default(),
        }
    }

    fn pass(&mut self, now: u64) {
        self.area += (now - self.last) as f64 * self.taken as f64;
        self.last = now;
    }

    /// Whether it is a cold start.
    fn start(&mut self, service: usize) -> bool {
        let is_cold = self.up.insert(service);
        if is_cold {
            self.taken += self.drawn[service].size;
            self.sum.cold += 1;
            self.sum.waited += self.drawn[service].start;
        }
        is_cold
    }

    fn stop(&mut self, service: usize) {
        assert!(self.up.remove(&service));
        self.taken -= self.drawn[service].size;
    }

    fn end(mut self) -> Sum {
        self.pass(HOURS * 3600);
        self.sum.mean = self.area / (HOURS * 3600) as f64;
        self.sum
    }
}

/// The agent's own code. Returns the shortest time of a decision, too: others have to wait for the processor.
fn ours(arrivals: &Arrivals, drawn: &[Drawn], budget: u64) -> (Sum, Duration) {
    let names: Vec<String> = (0..drawn.len()).map(|it| format!("{it:05}")).collect();
    let mut host = Host::new(drawn);
    let (mut clock, mut worth) = (GreedyDual::default(), vec![Worth::default(); drawn.len()]);
    let mut shortest = Duration::MAX;
    let value = |worth: &Worth, of: usize| {
        let Drawn { size, start } = drawn[of];
        worth.value(Duration::from_secs_f64(start), Some(size << 20))
    };
    for (now, service) in arrivals {
        host.pass(*now);
        if host.start(*service) && host.taken > budget {
            let member = |number: usize| Member {
                name: &names[number],
                group: None,
                place: match (host.up.contains(&number), number == *service) {
                    (_, true) => Place::Taken,
                    (true, _) => Place::Idle,
                    (false, _) => Place::None,
                },
                waits: None,
                worth: value(&worth[number], number),
                memory: Some(drawn[number].size),
                grows: 0,
                gives: true,
            };
            let members: Vec<_> = (0..drawn.len()).map(member).collect();
            let begin = Instant::now();
            let decision = room::decide(&members, &BTreeMap::new(), Some(Memory::Budget(budget)));
            shortest = shortest.min(begin.elapsed());
            for (name, _) in decision.stops {
                let other = name.parse().unwrap();
                host.stop(other);
                let least = value(&worth[other], other);
                clock.evicted(&mut worth[other], least);
            }
        }
        clock.used(&mut worth[*service]);
    }
    (host.end(), shortest)
}

/// The agent's order, as a report replays it: the same, and faster.
fn replayed(arrivals: &Arrivals, drawn: &[Drawn], budget: u64) -> Outcome {
    let size = |it: &Drawn| Size {
        memory: it.size << 20,
        cold_start: Duration::from_secs_f64(it.start),
    };
    let sizes: Vec<Size> = drawn.iter().map(size).collect();
    let mut simulation = Simulation::new(&sizes, budget << 20);
    for (_, service) in arrivals {
        simulation.used(*service);
        simulation.quiet(*service);
    }
    simulation.outcome()
}

/// The paper's: before an object comes in, those of the lowest `clock + frequency * cost / size` go until it fits, and the
/// clock is that of the last one of them.
fn paper(arrivals: &Arrivals, drawn: &[Drawn], budget: u64) -> Sum {
    let mut host = Host::new(drawn);
    let mut clock = 0.0_f64;
    let mut frequency = vec![0_u32; drawn.len()];
    let mut priority = vec![0.0_f64; drawn.len()];
    for (now, service) in arrivals {
        host.pass(*now);
        let it = drawn[*service];
        if !host.up.contains(service) {
            while host.taken + it.size > budget && !host.up.is_empty() {
                let up = host.up.iter().copied();
                let least = up.min_by(|a, b| priority[*a].total_cmp(&priority[*b]));
                let least = least.unwrap();
                clock = priority[least];
                frequency[least] = 0;
                host.stop(least);
            }
        }
        host.start(*service);
        frequency[*service] += 1;
        priority[*service] = clock + f64::from(frequency[*service]) * it.start / it.size as f64;
    }
    host.end()
}

fn least_recently_used(arrivals: &Arrivals, drawn: &[Drawn], budget: u64) -> Sum {
    let mut host = Host::new(drawn);
    let mut used = vec![0_usize; drawn.len()];
    for (order, (now, service)) in arrivals.iter().enumerate() {
        host.pass(*now);
        if !host.up.contains(service) {
            while host.taken + drawn[*service].size > budget && !host.up.is_empty() {
                let oldest = host.up.iter().copied().min_by_key(|it| used[*it]);
                host.stop(oldest.unwrap());
            }
        }
        host.start(*service);
        used[*service] = order;
    }
    host.end()
}

fn fixed_timeout(arrivals: &Arrivals, drawn: &[Drawn], timeout: u64) -> Sum {
    let mut host = Host::new(drawn);
    let mut ends: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut until = vec![0; drawn.len()];
    let pass = |host: &mut Host<'_>, ends: &mut BTreeSet<(u64, usize)>, now: u64| {
        while let Some((at, other)) = ends.first().copied().filter(|(at, _)| *at < now) {
            ends.pop_first();
            host.pass(at);
            host.stop(other);
        }
        host.pass(now);
    };
    for (now, service) in arrivals {
        pass(&mut host, &mut ends, *now);
        ends.remove(&(until[*service], *service));
        host.start(*service);
        until[*service] = now + timeout;
        ends.insert((until[*service], *service));
    }
    pass(&mut host, &mut ends, HOURS * 3600);
    host.end()
}

/// The shortest timeout that takes as much memory as this in the mean.
fn timeout_of(arrivals: &Arrivals, drawn: &[Drawn], mean: f64) -> (u64, Sum) {
    let (mut shortest, mut longest) = (0, HOURS * 3600);
    while longest - shortest > 1 {
        let middle = shortest.midpoint(longest);
        match fixed_timeout(arrivals, drawn, middle).mean < mean {
            true => shortest = middle,
            false => longest = middle,
        }
    }
    (longest, fixed_timeout(arrivals, drawn, longest))
}

#[test]
fn what_goes_first_is_what_is_least_worth_keeping() {
    require!(skip::missing(&["gzip"]));
    let (arrivals, drawn) = trace(20);
    let all: u64 = drawn.iter().map(|it| it.size).sum();
    println!(
        "{} arrivals of {} services, {all} MiB",
        arrivals.len(),
        drawn.len()
    );
    for percent in [10, 20, 40] {
        let budget = all * percent / 100;
        let (ours, _) = ours(&arrivals, &drawn, budget);
        let paper = paper(&arrivals, &drawn, budget);
        let lru = least_recently_used(&arrivals, &drawn, budget);
        let (timeout, fixed) = timeout_of(&arrivals, &drawn, ours.mean);
        for (name, sum) in [
            ("ours", &ours),
            ("paper", &paper),
            ("LRU", &lru),
            ("fixed", &fixed),
        ] {
            println!(
                "budget {percent:2} %: {name:5} {:6} cold starts, {:8.0} s waited, {:6.0} MiB",
                sum.cold, sum.waited, sum.mean
            );
        }
        println!("(fixed: {timeout} s)");
        assert!(
            ours.cold as f64 <= 1.1 * paper.cold as f64,
            "{ours:?} {paper:?}"
        );
        assert!(
            ours.cold < lru.cold && ours.waited < lru.waited,
            "{ours:?} {lru:?}"
        );
        assert!(
            ours.cold < fixed.cold && ours.waited < fixed.waited,
            "{ours:?} {fixed:?}"
        );
    }
}

/// Whatever was drawn.
#[test]
fn other_sizes_and_starts() {
    require!(skip::missing(&["gzip"]));
    for seed in [20, 3, 4, 5] {
        let (arrivals, drawn) = trace(seed);
        let all: u64 = drawn.iter().map(|it| it.size).sum();
        for percent in [10, 20, 40] {
            let budget = all * percent / 100;
            let ours = replayed(&arrivals, &drawn, budget);
            let paper = paper(&arrivals, &drawn, budget);
            let lru = least_recently_used(&arrivals, &drawn, budget);
            println!(
                "seed {seed:2}, budget {percent:2} %: ours {:6}, {:6.0} s; paper {:6}, {:6.0} s; LRU {:6}, {:6.0} s",
                ours.cold_starts,
                ours.waited.as_secs_f64(),
                paper.cold,
                paper.waited,
                lru.cold,
                lru.waited
            );
            let cold = ours.cold_starts;
            assert!(cold as f64 <= 1.1 * paper.cold as f64, "{ours:?} {paper:?}");
            assert!(
                cold < lru.cold && ours.waited.as_secs_f64() < lru.waited,
                "{ours:?} {lru:?}"
            );
        }
    }
}

/// In a build without optimization, too.
#[test]
fn a_thousand_services_are_decided_in_a_millisecond() {
    let mut random = Random::new(1);
    let drawn = (0..1000).map(|_| Drawn {
        size: 1 + (100.0 * random.unit()) as u64,
        start: 1.0,
    });
    let drawn: Vec<_> = drawn.collect();
    let arrivals = (0..2000).map(|at| (at as u64, at % 1000)).collect();
    let (_, shortest) = ours(&arrivals, &drawn, 20_000);
    println!("{shortest:?}");
    assert!(shortest < Duration::from_millis(1), "{shortest:?}");
}
