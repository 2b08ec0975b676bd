use std::f64::consts::TAU;

use super::*;

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// 2026-03-02, a Monday, 00:00 UTC.
const MONDAY: f64 = 1_772_409_600.0;
const TERMS: Terms = Terms {
    cold_start: Duration::from_secs(300),
    start: Duration::from_secs(2),
    idle_timeout: Duration::from_secs(300),
};

/// xorshift64*: random enough, and the same on every host.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Between minus one and one.
    fn jitter(&mut self) -> f64 {
        2.0 * self.uniform() - 1.0
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (TAU * self.uniform()).cos()
    }
}

/// What arrivals have cost, in seconds, without and with pre-warming.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    returns: u32,
    cold_starts: u32,
    used: u32,
    wasted: u32,
    without: f64,
    with: f64,
}

/// Runs the rhythm as the agent does. Uses take no time; `offset` is the local clock's, in seconds.
fn run(arrivals: &[f64], terms: &Terms, offset: impl Fn(f64) -> f64) -> Outcome {
    let (cost, start, timeout) = (
        terms.cost(),
        terms.start(),
        terms.idle_timeout.as_secs_f64(),
    );
    let moment = |at: f64| Moment::new(at as i64, (at + offset(at)) as i64);
    let mut rhythm = Rhythm::default();
    let mut outcome = Outcome::default();
    for pair in arrivals.windows(2) {
        let (last, at) = (pair[0], pair[1]);
        let gap = at - last;
        if gap <= timeout {
            outcome.without += gap;
            outcome.with += gap;
            continue;
        }
        outcome.returns += 1;
        outcome.without += timeout + cost + start;
        outcome.with += timeout;
        let mut now = last;
        let mut is_warm = false;
        loop {
            let quiet = Duration::from_secs_f64(now - last);
            rhythm.pass(moment(now), Some(quiet), terms);
            let Some(expected) = rhythm.expected(moment(now)) else {
                break;
            };
            let opens = now + expected.opens_in.as_secs_f64();
            let closes = now + expected.closes_in.as_secs_f64();
            if opens >= at {
                break;
            }
            let up = opens.max(last + timeout);
            if opens > last + timeout {
                outcome.with += start;
            }
            outcome.with += (closes.min(at) - up).max(0.0);
            if closes > at {
                is_warm = at >= opens + start;
                outcome.used += u32::from(is_warm);
                break;
            }
            outcome.wasted += 1;
            now = closes;
        }
        if !is_warm {
            outcome.cold_starts += 1;
            outcome.with += cost + start;
        }
        rhythm.returned(moment(at), Duration::from_secs_f64(gap), terms);
        assert!(rhythm.is_sound());
    }
    outcome
}

/// `left`: how many of the cold starts may be left; `cost`: how much of the cost.
#[track_caller]
fn check(arrivals: &[f64], offset: impl Fn(f64) -> f64, left: f64, cost: f64) -> Outcome {
    let found = run(arrivals, &TERMS, offset);
    let of_starts = f64::from(found.cold_starts) / f64::from(found.returns);
    let of_cost = found.with / found.without;
    assert!(
        of_starts <= left && of_cost <= cost,
        "{of_starts:.3} of the cold starts, {of_cost:.3} of the cost: {found:?}"
    );
    found
}

fn no_offset(_: f64) -> f64 {
    0.0
}

/// Arrivals with these gaps between them.
fn after(mut gap: impl FnMut() -> f64, count: usize) -> Vec<f64> {
    let mut at = MONDAY;
    let mut next = || {
        at += gap();
        at
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn an_hourly_client_finds_it_up() {
    let mut random = Random(1);
    let at_the_hour: Vec<f64> = (0..250)
        .map(|hour| MONDAY + HOUR * f64::from(hour) + 180.0 * random.jitter())
        .collect();
    check(&at_the_hour, no_offset, 0.2, 0.9);
    let walking = after(|| HOUR + 180.0 * random.jitter(), 250);
    check(&walking, no_offset, 0.2, 0.9);
    let exact = after(|| HOUR, 250);
    let found = check(&exact, no_offset, 0.05, 0.6);
    assert_eq!(found.wasted, 0);
    // A cold start is not worth to be up for more of them.
    let normal = after(|| HOUR + 180.0 * random.normal(), 250);
    check(&normal, no_offset, 0.5, 0.95);
}

#[test]
fn a_morning_is_one_of_a_place_and_of_a_day_of_the_week() {
    let mut random = Random(2);
    let mut mornings = |days: &dyn Fn(u32) -> bool, offset: &dyn Fn(f64) -> f64| {
        let all = (0..420).filter(|day| days(*day));
        let at = all.map(|day| MONDAY + DAY * f64::from(day) + 8.0 * HOUR);
        let at = at.map(|at| at - offset(at) + 60.0 * random.jitter());
        at.collect::<Vec<f64>>()
    };
    let every_day = mornings(&|_| true, &no_offset);
    let workdays = mornings(&|day| day % 7 < 5, &no_offset);
    let mondays = mornings(&|day| day % 7 == 0, &no_offset);
    check(&every_day, no_offset, 0.15, 0.7);
    let found = check(&workdays, no_offset, 0.2, 0.75);
    // Until it is known that nobody comes on a Saturday.
    assert!(found.wasted < 60, "{found:?}");
    check(&mondays, no_offset, 0.2, 0.75);
    // The clocks are changed three times in that.
    let summer = |at: f64| {
        let day = (at - MONDAY) / DAY % 365.0;
        let is_summer = (27.0..237.0).contains(&day);
        if is_summer { 2.0 * HOUR } else { HOUR }
    };
    check(&mornings(&|_| true, &summer), summer, 0.2, 0.75);
    check(&every_day, summer, 0.2, 0.75);
}

#[test]
fn chance_has_no_rhythm() {
    let mut random = Random(3);
    for mean in [400.0, 600.0, 1000.0, 3600.0, 20_000.0] {
        let arrivals = after(|| random.exponential(mean), 800);
        check(&arrivals, no_offset, 1.0, 1.01);
    }
}

#[test]
fn a_rhythm_that_is_over_is_left() {
    let hourly = after(|| HOUR, 100);
    let mut arrivals = hourly.clone();
    let last = *hourly.last().unwrap();
    // Nobody for a month.
    arrivals.push(last + 30.5 * DAY);
    let found = run(&arrivals, &TERMS, no_offset);
    assert!(found.wasted < 100, "{found:?}");
    let regular = run(&hourly, &TERMS, no_offset);
    let lost = (found.with - regular.with) - (found.without - regular.without);
    assert!(lost <= (SAVED_UP + 1.0) * TERMS.cost(), "{lost} {found:?}");
}

#[test]
fn a_clock_that_is_set_makes_it_forget() {
    let mut rhythm = Rhythm::default();
    let at = |hours: i64| Moment::new(hours * 3600, hours * 3600);
    let hour = Duration::from_secs(3600);
    for hours in 0..20 {
        rhythm.returned(at(hours), hour, &TERMS);
    }
    let expected = rhythm.expected(at(19)).unwrap();
    assert!(expected.opens_in < hour && expected.closes_in > hour - Duration::from_secs(60));
    // A gap in which it was up is none.
    let before = rhythm.clone();
    rhythm.returned(at(19), TERMS.idle_timeout, &TERMS);
    assert_eq!(rhythm, before);
    rhythm.returned(at(5), hour, &TERMS);
    assert_eq!((rhythm.returns(), rhythm.expected(at(5))), (1, None));
    // Of years, and of the end of time.
    for hours in [100_000, i64::MAX / 3600, i64::MIN / 3600, 7] {
        rhythm.returned(at(hours), Duration::MAX, &TERMS);
        rhythm.pass(at(hours), Some(Duration::MAX), &TERMS);
        assert!(rhythm.is_sound());
    }
}

#[test]
fn it_is_small_and_outlives_the_agent() {
    let mut random = Random(4);
    let mut rhythm = Rhythm::default();
    let mut at = MONDAY;
    for _ in 0..200 {
        at += HOUR * (1.0 + 10.0 * random.uniform());
        let moment = Moment::new(at as i64, at as i64 + 7200);
        rhythm.returned(moment, Duration::from_secs(3600), &TERMS);
    }
    let text = serde_json::to_string(&rhythm).unwrap();
    assert!(text.len() < 6000, "{}", text.len());
    assert_eq!(serde_json::from_str::<Rhythm>(&text).unwrap(), rhythm);
    let patterns = Kind::ALL.len() * (size_of::<Pattern>() + 2 * fit::MOST * size_of::<Window>());
    assert!(MOST * size_of::<Moment>() + patterns < 4096);
    let mut unsound = rhythm.clone();
    unsound.patterns.pop();
    assert!(!unsound.is_sound());
}
