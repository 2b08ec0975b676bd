//! Dates of segments, and of what is in them.

use super::*;

/// 2026-03-02.
const DAY: i64 = 1_772_409_600_000;
const HOUR: i64 = 3_600_000;
const YEAR: i64 = 365 * 24 * HOUR;

fn moment(boot: &str, monotonic: i64, wall: i64) -> Moment {
    let boot = boot.to_owned();
    Moment {
        boot,
        monotonic: monotonic * HOUR,
        wall: DAY + wall,
    }
}

/// Looks at the clocks (boot, hours of it, wall clock after the day's start), and the dates of each look as seen
/// from the last, in hours of the day.
#[track_caller]
fn check(looks: &[(&str, i64, i64)], dates: &[i64]) {
    let mut segments: Vec<Segment> = Vec::new();
    let mut stamps = Vec::new();
    for (boot, monotonic, wall) in looks {
        let now = moment(boot, *monotonic, *wall);
        let (segment, turn) = Segment::follow(segments.last(), &now);
        if turn == Turn::None {
            segments.pop();
        }
        stamps.push(segment.at(now.monotonic));
        segments.push(segment);
    }
    let (boot, monotonic, wall) = looks.last().unwrap();
    let now = moment(boot, *monotonic, *wall);
    let calendar = Calendar::new(segments, &now).unwrap();
    let hours = |at: &i64| (calendar.wall(*at) - DAY + HOUR / 2).div_euclid(HOUR);
    let found: Vec<i64> = stamps.iter().map(hours).collect();
    assert_eq!(found, dates, "{looks:?}: {calendar:?}");
    for pair in stamps.windows(2) {
        let length: i64 = calendar.pieces(pair[0], pair[1]).map(|(a, b)| b - a).sum();
        assert_eq!(length, pair[1] - pair[0], "{looks:?}");
        let there = calendar.at(calendar.wall(pair[0]));
        assert!((there - pair[0]).abs() <= 1, "{looks:?}");
    }
}

#[test]
fn dates() {
    check(&[("a", 1, HOUR), ("a", 3, 3 * HOUR)], &[1, 3]);
    // Suspended for 4 hours, or a virtual machine that was paused.
    check(
        &[("a", 1, HOUR), ("a", 2, 6 * HOUR), ("a", 3, 7 * HOUR)],
        &[1, 6, 7],
    );
    // It was an hour fast.
    check(&[("a", 1, 2 * HOUR), ("a", 2, 2 * HOUR)], &[1, 2]);
    // Years ahead, and back again: the hour before is the last before it was right.
    let ahead = 51 * YEAR;
    check(
        &[("a", 1, HOUR), ("a", 3, ahead), ("a", 4, 4 * HOUR)],
        &[1, 3, 4],
    );
    // Still ahead: nobody knows better.
    check(&[("a", 1, HOUR), ("a", 2, ahead)], &[1, ahead / HOUR]);
    // Not set at boot.
    let unset = -DAY;
    check(
        &[
            ("a", 1, HOUR),
            ("b", 0, unset),
            ("b", 1, unset + HOUR),
            ("b", 2, 12 * HOUR),
        ],
        &[1, 10, 11, 12],
    );
    // Not set in a whole boot.
    check(
        &[
            ("a", 1, HOUR),
            ("b", 0, unset),
            ("b", 1, unset + HOUR),
            ("c", 0, 12 * HOUR),
        ],
        &[1, 11, 12, 12],
    );
    // Off for ten hours: no time on the history's clock.
    check(
        &[("a", 1, HOUR), ("b", 0, 11 * HOUR), ("b", 1, 12 * HOUR)],
        &[1, 11, 12],
    );
}

#[test]
fn what_moves_the_wall_clock_by_less_than_a_second_is_no_step() {
    let first = Segment::follow(None, &moment("a", 1, HOUR)).0;
    let turn = |wall| Segment::follow(Some(&first), &moment("a", 2, 2 * HOUR + wall)).1;
    assert_eq!([0, 1000, -1000].map(turn), [Turn::None; 3]);
    assert_eq!([1001, -1001].map(turn), [Turn::Step; 2]);
}
