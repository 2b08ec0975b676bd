//! Clients of different habits, and what they did.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tests::client::{self, Loss, Random, Request};

/// Maximum delay after the idle timeout of a client that is aimed at the stop.
const AIM: Duration = Duration::from_millis(400);
/// From the end of some clients to the next ones that are not aimed, on average.
const GAP: Duration = Duration::from_millis(150);
/// At the same time at one service, at most.
const TOGETHER: f64 = 4.0;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// A few requests, each on a connection of its own.
    Short,
    /// Several on one connection, with pauses that may be longer than the idle timeout.
    KeepAlive,
    /// Much in one answer.
    Download,
    /// Much in one request.
    Upload,
    /// Writes and reads a little now and then.
    Slow,
}

const HABITS: [Habit; 5] = [
    Habit::Short,
    Habit::KeepAlive,
    Habit::Download,
    Habit::Upload,
    Habit::Slow,
];

/// What the clients of one service did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Connections that were made.
    pub connections: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes to the service.
    pub sent: u64,
    /// Bytes from it.
    pub received: u64,
    /// Requests that were not answered, by what happened to them.
    pub lost: BTreeMap<Loss, u64>,
}

impl Tally {
    /// Puts another one on top.
    pub fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.sent += other.sent;
        self.received += other.received;
        for (loss, count) in other.lost {
            *self.lost.entry(loss).or_default() += count;
        }
    }

    fn connect(&mut self, address: SocketAddr) -> Result<TcpStream, Loss> {
        let stream = client::connect(address)?;
        self.connections += 1;
        Ok(stream)
    }

    fn ask(&mut self, stream: &mut TcpStream, request: Request) -> Result<(), Loss> {
        let answer = client::ask(stream, request)?;
        self.requests += 1;
        self.sent += answer.sent;
        self.received += answer.received;
        Ok(())
    }
}

/// Clients of one service, until the end: some at once, then a pause.
///
/// # Panics
///
/// If one of them panics.
pub fn visit(address: SocketAddr, idle: Duration, seed: u64, end: Instant) -> Tally {
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    while Instant::now() < end {
        let together = 1 + (random.unit() * TOGETHER) as u64;
        let visits = thread::scope(|scope| {
            let visitors: Vec<_> = (0..together)
                .map(|_| {
                    let habit = HABITS[(random.unit() * HABITS.len() as f64) as usize];
                    let random = Random::new((random.unit() * 1e15) as u64);
                    scope.spawn(move || one(address, habit, idle, random))
                })
                .collect();
            let visits = visitors.into_iter().map(|visitor| match visitor.join() {
                Ok(visit) => visit,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            visits.collect::<Vec<_>>()
        });
        visits.into_iter().for_each(|visit| tally.add(visit));
        thread::sleep(match random.unit() {
            ..0.5 => random.between(idle, idle + AIM),
            _ => random.gap(GAP),
        });
    }
    tally
}

fn one(address: SocketAddr, habit: Habit, idle: Duration, mut random: Random) -> Tally {
    let mut tally = Tally::default();
    if let Err(loss) = follow(&mut tally, address, habit, idle, &mut random) {
        *tally.lost.entry(loss).or_default() += 1;
    }
    tally
}

fn follow(
    tally: &mut Tally,
    address: SocketAddr,
    habit: Habit,
    idle: Duration,
    random: &mut Random,
) -> Result<(), Loss> {
    let mut some =
        |least: usize, most: usize| least + (random.unit() * (most - least) as f64) as usize;
    let large = 1 << 20;
    match habit {
        Habit::Short => {
            for _ in 0..some(1, 6) {
                let mut stream = tally.connect(address)?;
                tally.ask(&mut stream, Request::default())?;
            }
        }
        Habit::KeepAlive => {
            let mut stream = tally.connect(address)?;
            let last = some(1, 5);
            for place in 0..=last {
                let request = Request {
                    keep_alive: place < last,
                    ..Request::default()
                };
                tally.ask(&mut stream, request)?;
                if place < last {
                    thread::sleep(idle.mul_f64(some(0, 130) as f64 / 100.0));
                }
            }
        }
        Habit::Download => {
            let mut stream = tally.connect(address)?;
            let download = some(large / 4, large * 2);
            tally.ask(
                &mut stream,
                Request {
                    download,
                    ..Request::default()
                },
            )?;
        }
        Habit::Upload => {
            let mut stream = tally.connect(address)?;
            let upload = some(large / 8, large);
            let half_close = some(0, 2) == 1;
            tally.ask(
                &mut stream,
                Request {
                    upload,
                    half_close,
                    ..Request::default()
                },
            )?;
        }
        Habit::Slow => {
            let mut stream = tally.connect(address)?;
            slow(tally, &mut stream, idle / 4)?;
        }
    }
    Ok(())
}

/// A request in parts, and its answer in parts.
fn slow(tally: &mut Tally, stream: &mut TcpStream, pause: Duration) -> Result<(), Loss> {
    const BODY: usize = 2000;
    let head = format!("GET /?bytes={BODY} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    for part in head.as_bytes().chunks(20) {
        stream
            .write_all(part)
            .map_err(|error| Loss::Send(error.kind()))?;
        thread::sleep(pause);
    }
    let mut answer = Vec::new();
    let mut part = [0; 500];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&part[..len]),
            Err(error) => return Err(Loss::Receive(error.kind())),
        }
        thread::sleep(pause);
    }
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n");
    match body {
        None if answer.is_empty() => return Err(Loss::Closed),
        Some(head) if answer.len() == head + 4 + BODY => {}
        _ => return Err(Loss::Truncated),
    }
    tally.requests += 1;
    tally.sent += head.len() as u64;
    tally.received += answer.len() as u64;
    Ok(())
}
