//! What counters have counted in a period, by their values at a few moments: a counter begins again at zero when its host
//! is booted, and a service may come or go in the middle.
//!
//! The time for which a service was watched since the boot, up or down, is itself a counter, which grows with the
//! clock. So where it has grown by less than the time the host was booted, however large it is again, and it says when it
//! began.

use super::api::Point;

/// A stretch in which counters have only grown. Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its begin. `None`: everything that its end has was counted in it.
    pub from: Option<i64>,
    /// Its last sample.
    pub to: i64,
}

/// What is asked for, and how exact its samples are.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// Milliseconds since 1970.
    pub from: i64,
    /// The same.
    pub until: i64,
    /// How much later a value may be than it looks: of a sample, or of the time that it says. Milliseconds.
    pub blur: i64,
}

/// A look between two points that may hide a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The point before.
    pub after: i64,
    /// The point with too little.
    pub before: i64,
    /// The counter has decreased: it is certain.
    pub is_sure: bool,
}

/// Where a counter of watched seconds has grown by less than time has passed.
pub fn doubts(points: &[Point], blur: i64) -> Vec<Doubt> {
    let grown = |pair: &[Point]| (pair[1].1 - pair[0].1) * 1e3;
    let pairs = points.windows(2);
    let pairs = pairs.filter(|pair| (grown(pair) as i64) < pair[1].0 - pair[0].0 - blur);
    pairs
        .map(|pair| Doubt {
            after: pair[0].0,
            before: pair[1].0,
            is_sure: pair[1].1 < pair[0].1,
        })
        .collect()
}

/// The last moments before each decrease.
pub fn drops(points: &[Point]) -> Vec<i64> {
    let pairs = points.windows(2).filter(|pair| pair[1].1 < pair[0].1);
    pairs.map(|pair| pair[0].0).collect()
}

/// Whether all that a counter of watched seconds has at its first point was counted in the period.
pub fn begins_in(period: &Period, first: Point) -> bool {
    first.0 - (first.1 * 1e3) as i64 >= period.from - period.blur
}

/// The segments of a service, by its points, ascending, of watched seconds; `boots`: the last samples before boots of its
/// host.
pub fn segments(points: &[Point], boots: &[i64], period: &Period) -> Vec<Segment> {
    let Some(first) = points.first() else {
        return Vec::new();
    };
    let is_older = first.0 <= period.from || !begins_in(period, *first);
    let mut from = is_older.then_some(first.0);
    let mut found = Vec::new();
    for pair in points.windows(2) {
        let [before, after] = [pair[0], pair[1]];
        let boots = boots
            .iter()
            .filter(|boot| (before.0..after.0).contains(boot));
        let mut at: Vec<i64> = boots.copied().collect();
        if at.is_empty() && after.1 < before.1 {
            at.push(before.0);
        }
        for to in at {
            found.push(Segment { from, to });
            from = None;
        }
    }
    let to = points[points.len() - 1].0;
    if from != Some(to) {
        found.push(Segment { from, to });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Period = Period {
        from: 0,
        until: 100_000,
        blur: 1000,
    };

    #[track_caller]
    fn check(points: &[Point], boots: &[i64], expected: &[(Option<i64>, i64)]) {
        let found = segments(points, boots, &PERIOD);
        let found: Vec<_> = found.iter().map(|it| (it.from, it.to)).collect();
        assert_eq!(found, expected, "{points:?}");
    }

    #[test]
    fn a_service_that_comes_stays_or_goes() {
        check(&[], &[], &[]);
        check(&[(0, 500.0), (100_000, 600.0)], &[], &[(Some(0), 100_000)]);
        // Watched since 40 s.
        check(&[(50_000, 10.0), (100_000, 60.0)], &[], &[(None, 100_000)]);
        check(&[(50_000, 10.0)], &[], &[(None, 50_000)]);
        // Older than the period, but unseen at its begin; gone before its end.
        check(
            &[(50_000, 900.0), (70_000, 920.0)],
            &[],
            &[(Some(50_000), 70_000)],
        );
        check(&[(50_000, 900.0)], &[], &[]);
    }

    #[test]
    fn a_host_that_is_booted() {
        let seen = [(0, 500.0), (50_000, 550.0), (100_000, 20.0)];
        check(&seen, &[], &[(Some(0), 50_000), (None, 100_000)]);
        check(&seen, &[72_000], &[(Some(0), 72_000), (None, 100_000)]);
        check(
            &seen,
            &[60_000, 72_000],
            &[(Some(0), 60_000), (None, 72_000), (None, 100_000)],
        );
        // It has more again than it had.
        let hidden = [(0, 1.0), (100_000, 30.0)];
        check(&hidden, &[65_000], &[(Some(0), 65_000), (None, 100_000)]);
    }

    #[test]
    fn what_has_grown_too_little_is_in_doubt() {
        let points = [(0, 10.0), (50_000, 59.9), (100_000, 60.0), (150_000, 5.0)];
        let doubt = |after, before, is_sure| Doubt {
            after,
            before,
            is_sure,
        };
        assert_eq!(
            doubts(&points, 1000),
            [doubt(50_000, 100_000, false), doubt(100_000, 150_000, true)]
        );
        assert_eq!(drops(&points), [100_000]);
        assert!(doubts(&points[..2], 1000).is_empty());
    }
}
