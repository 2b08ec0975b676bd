//! Days on which the clocks do what clocks do: the active time is what it was, to the second.

use super::*;

const YEARS: i64 = 51 * 365 * 24 * 60;
/// Back to 1970.
const UNSET: i64 = -BASE / MINUTE;

/// What happens to the host, its service or its agent. Minutes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start,
    Stop,
    Pass(i64),
    /// The wall clock is set by this.
    Set(i64),
    Suspend(i64),
    /// The power is cut, and comes back after this.
    Off(i64),
    /// The agent is killed, and the next one runs.
    Killed,
}
use Step::{Killed, Off, Pass, Set, Start, Stop, Suspend};

struct Host {
    path: std::path::PathBuf,
    now: Moment,
    boots: i64,
    store: Store,
    /// When the run began that lasts, in this boot.
    running: Option<i64>,
}

impl Host {
    fn write(&mut self, what: Option<What>) {
        let records: Vec<Record> = what.into_iter().map(|what| of("wiki", what)).collect();
        self.store.write(&records, &self.now).unwrap();
    }

    /// The next agent, which finds what is there.
    fn agent(&mut self) {
        self.store = Store::open(&self.path, &self.now).unwrap();
        let at = self.now.monotonic;
        self.store.write(&[watched(at)], &self.now).unwrap();
        self.write(Some(match self.running {
            Some(started) => What::Up { started },
            None => What::Down { since: at },
        }));
    }

    fn step(&mut self, step: Step) {
        let at = self.now.monotonic;
        match step {
            Start => {
                self.running = Some(at);
                self.write(Some(What::Up { started: at }));
            }
            Stop => {
                self.running = None;
                self.write(Some(stopped(at, StopReason::Idle)));
            }
            Pass(minutes) => {
                for _ in 0..minutes {
                    self.now.monotonic += MINUTE;
                    self.now.wall += MINUTE;
                    self.write(None);
                }
            }
            Set(minutes) => self.now.wall += minutes * MINUTE,
            Suspend(minutes) => self.now.wall += minutes * MINUTE,
            Off(minutes) => {
                self.boots += 1;
                self.now = Moment {
                    boot: format!("boot {}", self.boots),
                    // The agent is not the first to run.
                    monotonic: 5_000,
                    wall: self.now.wall + minutes * MINUTE,
                };
                self.running = None;
                self.agent();
            }
            Killed => self.agent(),
        }
    }
}

/// The minutes up and watched after these steps, from the first record to the end.
#[track_caller]
fn check(steps: &[Step], active: i64, watched: i64) {
    let (_directory, path) = place();
    let now = moment(60 * MINUTE);
    let store = Store::open(&path, &now).unwrap();
    let mut host = Host {
        path,
        now,
        boots: 0,
        store,
        running: None,
    };
    host.agent();
    for step in steps {
        host.step(*step);
    }
    let read = read(&host.path, None, host.now.wall, rivals(), &host.now);
    let (period, mut services) = read.unwrap();
    let found = services.remove(0);
    let seconds = |millis: i64| (millis + 500) / 1000;
    assert_eq!(seconds(found.active), active * 60, "{steps:?}");
    // A boot counts from its start on.
    let boots = host.boots * 5;
    let awake = seconds(found.watched) - watched * 60;
    assert!((0..=boots).contains(&awake), "{awake} s: {steps:?}");
    let drawn: i64 = found.timeline.iter().sum();
    assert!((drawn - found.active).abs() < 1000, "{drawn}: {steps:?}");
    assert!(period.from <= period.until, "{period:?}");
}

#[test]
fn the_active_time_is_what_it_was() {
    check(&[Start, Pass(60), Stop, Pass(60)], 60, 120);
    check(&[Start, Pass(60)], 60, 60);
    // Time servers, and people.
    check(&[Start, Pass(60), Set(YEARS), Pass(30), Stop], 90, 90);
    check(
        &[
            Start,
            Pass(60),
            Set(YEARS),
            Pass(30),
            Set(-YEARS),
            Pass(30),
            Stop,
        ],
        120,
        120,
    );
    check(&[Start, Pass(60), Set(-YEARS), Pass(30), Stop], 90, 90);
    check(
        &[Start, Pass(60), Set(-60), Pass(30), Stop, Pass(5)],
        90,
        95,
    );
    check(&[Start, Pass(60), Set(60), Pass(30), Stop, Pass(5)], 90, 95);
    check(
        &[
            Set(YEARS),
            Start,
            Pass(60),
            Stop,
            Pass(5),
            Set(-YEARS),
            Pass(5),
        ],
        60,
        70,
    );
    // Not set at boot, and in a whole boot.
    check(
        &[
            Pass(9),
            Off(600),
            Set(UNSET),
            Start,
            Pass(10),
            Set(-UNSET),
            Pass(50),
            Stop,
        ],
        60,
        69,
    );
    check(
        &[
            Start,
            Pass(60),
            Off(600),
            Set(UNSET),
            Start,
            Pass(60),
            Stop,
            Off(1),
            Set(-UNSET),
            Start,
            Pass(60),
            Stop,
        ],
        180,
        180,
    );
    check(
        &[Start, Pass(60), Off(600), Set(UNSET), Start, Pass(60)],
        120,
        120,
    );
    // Off with a clock that was ahead.
    check(
        &[
            Start,
            Pass(60),
            Set(YEARS),
            Pass(60),
            Off(600),
            Set(-YEARS),
            Start,
            Pass(60),
        ],
        180,
        180,
    );
    // The host slept.
    check(&[Start, Pass(60), Suspend(480), Pass(60), Stop], 120, 120);
    check(&[Start, Pass(60), Stop, Suspend(480), Pass(60)], 60, 120);
    // The power was cut.
    check(&[Start, Pass(60), Off(600), Pass(60)], 60, 120);
    check(
        &[Start, Pass(60), Off(600), Start, Pass(60), Off(60), Pass(9)],
        120,
        129,
    );
    check(
        &[
            Start,
            Pass(60),
            Off(600),
            Start,
            Pass(30),
            Killed,
            Pass(30),
            Stop,
        ],
        120,
        120,
    );
    // The agent was.
    check(&[Start, Pass(60), Killed, Pass(60), Stop], 120, 120);
    check(
        &[Start, Pass(60), Set(YEARS), Killed, Pass(60), Stop],
        120,
        120,
    );
    check(
        &[Start, Pass(60), Set(-YEARS), Killed, Pass(60), Stop],
        120,
        120,
    );
    check(
        &[Start, Pass(60), Suspend(480), Killed, Pass(60), Stop],
        120,
        120,
    );
}

#[test]
fn a_wrong_clock_deletes_nothing() {
    let (_directory, path) = place();
    let mut store = written(&path, &two_runs());
    let many = vec![of("wiki", What::Quiet { since: 0 }); 5000];
    let ahead = Moment {
        wall: BASE + YEARS * MINUTE,
        ..moment(60 * MINUTE)
    };
    store.write(&many, &ahead).unwrap();
    let (_, services) = read(&path, None, ahead.wall, rivals(), &ahead).unwrap();
    assert_eq!(services[0].activations, 2);
}
