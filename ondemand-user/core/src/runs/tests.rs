//! Looks at a unit, and the events that follow.

mod heard;

use super::*;
use crate::measure::{
    sample::{Leg, Sample},
    unit::ActiveState,
};

const fn at(seconds: u64) -> Ktime {
    Ktime::from_nanos(seconds * 1_000_000_000)
}

/// Started at `began`, active since one second later, inactive since `ended`; 0: never.
fn unit(state: &str, began: u64, ended: u64) -> Unit {
    let stamp = |seconds: u64| (seconds > 0).then(|| at(seconds));
    Unit {
        state: ActiveState::parse(state),
        inactive_exit: stamp(began),
        active_enter: stamp(began).map(|at| at + Duration::from_secs(1)),
        inactive_enter: stamp(ended),
        ..Unit::default()
    }
}

fn sample(accepted: u64, open: u64) -> Sample {
    let front = Leg {
        accepted,
        closed: accepted - open,
        received_bytes: 10 * accepted,
        sent_bytes: 100 * accepted,
    };
    Sample {
        at: at(0),
        front,
        steered: Leg::default(),
        back: Leg::default(),
        ignored: Leg::default(),
        refused: 0,
        older: 0,
        last_activity: None,
        last_open: None,
        lookups: 0,
        last_lookup: None,
        served: None,
        datagrams: 0,
        refused_datagrams: 0,
    }
}

fn word(event: &RunEvent) -> Option<String> {
    let millis = |took: &Duration| took.as_millis();
    Some(match event {
        RunEvent::Found(_) | RunEvent::Began { .. } | RunEvent::Down { .. } => return None,
        RunEvent::Started(_) => "started".into(),
        RunEvent::Listening { after, .. } => format!("listening:{}", millis(after)),
        RunEvent::Ready { took } => format!("ready:{}", millis(took)),
        RunEvent::FirstByte { after } => format!("first-byte:{}", millis(after)),
        RunEvent::Ending => "ending".into(),
        RunEvent::Ended { reason, run, .. } => match run.connections {
            0 => reason.as_str().into(),
            connections => format!("{}:{connections}", reason.as_str()),
        },
        RunEvent::StartFailed { .. } => "start-failed".into(),
    })
}

/// One look at a unit in the state, begun, ended.
fn look(runs: &mut Runs, now: Ktime, unit: &Unit, sample: Option<Sample>) -> String {
    let look = Look {
        now,
        backend: unit,
        sample: sample.as_ref(),
        announced: true,
    };
    let events = runs.follow(&look, None);
    let words: Vec<String> = events.iter().filter_map(word).collect();
    words.join(" ")
}

/// Looks from second 100 on, one per second; checks all of their events.
#[track_caller]
fn check(since: Option<u64>, looks: &[(&str, u64, u64)], expected: &str) {
    let mut runs = since.map_or_else(Runs::default, |since| Runs::since(at(since)));
    let look = |(seconds, (state, began, ended)): (u64, &(&str, u64, u64))| {
        look(&mut runs, at(seconds), &unit(state, *began, *ended), None)
    };
    let words: Vec<String> = (100..).zip(looks).map(look).collect();
    let words: Vec<&str> = words.iter().flat_map(|word| word.split(' ')).collect();
    let words = words.join(" ");
    let words: Vec<&str> = words.split_whitespace().collect();
    assert_eq!(words.join(" "), expected, "{looks:?}");
}

#[test]
fn runs_are_recognised_by_their_stamps() {
    let check = |looks: &[_], expected| check(None, looks, expected);
    check(&[("active", 5, 0)], "");
    check(&[("inactive", 5, 7)], "");
    check(&[("inactive", 0, 0), ("active", 101, 0)], "started");
    check(&[("active", 5, 0), ("inactive", 5, 101)], "external");
    check(&[("active", 5, 0), ("failed", 5, 101)], "failed");
    check(
        &[
            ("active", 5, 0),
            ("deactivating", 5, 0),
            ("deactivating", 5, 0),
            ("inactive", 5, 102),
        ],
        "ending external",
    );
    // A restart of which only the end was seen.
    check(
        &[("active", 5, 0), ("active", 102, 101)],
        "external started",
    );
    // An unseen run.
    check(
        &[("inactive", 5, 7), ("inactive", 101, 103)],
        "started ready:1000 external",
    );
    check(
        &[("active", 5, 0), ("failed", 101, 103)],
        "external started ready:1000 failed",
    );
    // A crash, and systemd's own restart.
    check(
        &[
            ("active", 5, 0),
            ("activating", 5, 101),
            ("active", 102, 101),
        ],
        "external started",
    );
    // The same if systemd does not report it as down in between (before version 254).
    check(
        &[("active", 5, 0), ("activating", 5, 0), ("active", 102, 0)],
        "external started",
    );
    // After a crash systemd restarts it too often: this is not a start.
    check(
        &[
            ("inactive", 5, 7),
            ("active", 101, 7),
            ("activating", 101, 102),
            ("failed", 101, 102),
        ],
        "started ready:1000 external",
    );
    check(
        &[("active", 5, 0), ("activating", 5, 101), ("failed", 5, 101)],
        "external",
    );
    // A run ends, and the start after it fails.
    let mut runs = Runs::default();
    look(&mut runs, at(100), &unit("active", 5, 0), None);
    let mut failed = unit("failed", 101, 102);
    failed.active_enter = Some(at(6));
    assert_eq!(look(&mut runs, at(103), &failed, None), "failed");
    // A start that fails, another one, and `systemctl reset-failed`.
    let failing = |began, ended| {
        let mut failing = unit("failed", began, ended);
        failing.active_enter = None;
        failing
    };
    let mut runs = Runs::default();
    let idle = Unit {
        state: ActiveState::Inactive,
        ..Unit::default()
    };
    assert_eq!(look(&mut runs, at(100), &idle, None), "");
    for (began, expected) in [(101, "start-failed"), (101, ""), (103, "start-failed")] {
        let failed = failing(began, began + 1);
        assert_eq!(look(&mut runs, at(105), &failed, None), expected);
    }
    let failed = Stamps::of(&failing(103, 104)).unwrap();
    let reset = Stamps {
        failed: false,
        ..failed
    };
    assert_eq!(reset.since(&failed), [Change::Down]);
    assert_eq!(failed.since(&reset), [Change::Failed]);
    // Reported twice, or unknown.
    check(&[("active", 5, 0), ("active", 5, 0)], "");
    check(
        &[("unknown", 0, 0), ("active", 5, 0), ("unknown", 0, 0)],
        "",
    );
    // If a stamp is missing, the state decides.
    check(
        &[("inactive", 0, 0), ("active", 0, 0), ("inactive", 0, 0)],
        "started external",
    );
}

#[test]
fn what_is_younger_than_the_watch_happened_in_it() {
    // However late the first look was: its client connected right after the service was configured.
    check(Some(50), &[("active", 60, 0)], "started");
    check(Some(50), &[("active", 50, 0)], "started ready:1000");
    check(Some(50), &[("active", 40, 0)], "");
    check(
        Some(50),
        &[("inactive", 60, 70)],
        "started ready:1000 external",
    );
    check(Some(50), &[("inactive", 40, 60)], "external");
    check(Some(50), &[("failed", 40, 60)], "failed");
    check(Some(50), &[("inactive", 40, 45)], "");
    check(Some(50), &[("active", 60, 55)], "external started");
    check(Some(50), &[("active", 60, 45)], "started");
    check(
        Some(50),
        &[("deactivating", 40, 0), ("inactive", 40, 101)],
        "ending external",
    );
    let mut failed = unit("failed", 40, 60);
    failed.active_enter = Some(at(30));
    let mut runs = Runs::since(at(50));
    assert_eq!(look(&mut runs, at(100), &failed, None), "start-failed");
}

#[test]
fn what_was_before_the_watch_is_found() {
    #[track_caller]
    fn check(state: &str, began: u64, ended: u64, running: bool, active: bool) {
        check_unit(unit(state, began, ended), running, active);
    }
    #[track_caller]
    fn check_unit(unit: Unit, running: bool, active: bool) {
        let look = Look {
            now: at(100),
            backend: &unit,
            sample: None,
            announced: true,
        };
        let mut runs = Runs::since(at(50));
        let events = runs.follow(&look, None);
        let Some(RunEvent::Found(found)) = events.first() else {
            panic!("{events:?}");
        };
        assert_eq!((found.running, found.active), (running, active));
        let late = runs.found();
        assert_eq!(late, Stamps::of(&unit).map(RunEvent::Found));
    }
    check("active", 40, 0, true, true);
    check("active", 50, 0, false, true);
    check("active", 60, 0, false, false);
    check("inactive", 40, 60, true, true);
    check("inactive", 40, 45, false, false);
    check("activating", 60, 45, false, false);
    check("deactivating", 40, 0, true, true);
    // An aborted start.
    let given_up = Unit {
        active_enter: Some(at(30)),
        ..unit("deactivating", 40, 35)
    };
    check_unit(given_up, false, true);
}

#[test]
fn ends_have_the_reason_of_who_began_them() {
    #[track_caller]
    fn check(state: &str, released: Option<bool>, expected: StopReason) {
        let mut runs = Runs::default();
        look(&mut runs, at(10), &unit("active", 5, 0), None);
        let released = released.map(|asked| Released {
            quiet: Duration::from_secs(7),
            asked,
            silent: 0,
        });
        let look = Look {
            now: at(13),
            backend: &unit(state, 5, 12),
            sample: None,
            announced: true,
        };
        let events = runs.follow(&look, released);
        let ended = events.iter().find_map(|event| match event {
            RunEvent::Ended { at, reason, .. } => Some((*at, *reason)),
            _ => None,
        });
        assert_eq!(ended, Some((at(12), expected)));
    }
    check("inactive", None, StopReason::External);
    check("failed", None, StopReason::Failed);
    check("inactive", Some(false), StopReason::Idle);
    check("inactive", Some(true), StopReason::Requested);
    // The stop failed, but it was intended.
    check("failed", Some(false), StopReason::Idle);
}

#[test]
fn what_has_no_stamp_of_its_own() {
    let mut runs = Runs::default();
    let mut see = |now, unit: &Unit| {
        let look = Look {
            now: at(now),
            backend: unit,
            sample: None,
            announced: true,
        };
        runs.follow(&look, None)
    };
    see(100, &unit("active", 5, 3));
    // A crash that systemd does not report as an end: it ended when that was seen.
    let events = see(102, &unit("activating", 5, 3));
    let ended =
        |event: &RunEvent| matches!(event, RunEvent::Ended { at: ended, .. } if *ended == at(102));
    assert!(events.iter().any(ended), "{events:?}");
    // Of the next run only the start's end is known, of the one after it only its begin.
    let crashed = Unit {
        active_enter: Some(at(104)),
        ..unit("activating", 106, 3)
    };
    let started = RunEvent::Started(Start {
        began: None,
        up: Some(at(104)),
    });
    assert!(see(107, &crashed).contains(&started));
}

#[test]
fn a_client_counts_for_the_run_that_it_began() {
    let mut runs = Runs::default();
    let mut see = |state, began, ended, now, sample| {
        look(&mut runs, at(now), &unit(state, began, ended), sample)
    };
    let accepted = |accepted| Some(sample(accepted, 0));
    see("inactive", 0, 0, 100, accepted(12));
    // It is accepted before the backend is up.
    see("activating", 0, 0, 101, accepted(13));
    see("active", 101, 0, 102, accepted(14));
    assert_eq!(
        see("inactive", 101, 103, 103, accepted(14)),
        "ready:1000 external:2"
    );
    see("active", 104, 103, 105, accepted(15));
    // What could not be read belongs to the next run.
    assert_eq!(see("inactive", 104, 106, 106, None), "ready:1000 external");
    see("active", 107, 106, 108, accepted(16));
    assert_eq!(
        see("inactive", 107, 109, 109, accepted(16)),
        "ready:1000 external:2"
    );
}
