//! The policy against its promises.

use std::time::Duration;

use super::*;

const COST: f64 = 300.0;

fn terms(cost: f64) -> Terms {
    within(cost, 1.0, 604_800.0)
}

fn within(cost: f64, shortest: f64, longest: f64) -> Terms {
    let [cost, shortest, longest] = [cost, shortest, longest].map(Duration::from_secs_f64);
    Terms::new(cost, shortest, longest)
}

fn learned(terms: Terms, gaps: impl IntoIterator<Item = f64>) -> Learned {
    let mut learned = Learned::new(terms);
    for gap in gaps {
        learned.learn(Duration::from_secs_f64(gap));
    }
    learned
}

/// From a second to a month, the same on every host.
fn any(random: &mut u64) -> f64 {
    // xorshift64*
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    let uniform = (random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64;
    (uniform * (2_592_000_f64).ln()).exp()
}

#[test]
fn its_state_is_small() {
    assert!(size_of::<Learned>() <= 4096, "{}", size_of::<Learned>());
}

#[test]
fn it_says_why() {
    #[track_caller]
    fn check(gaps: &[f64], expected: &str) {
        let learned = learned(terms(COST), gaps.iter().copied());
        assert_eq!(learned.choice().to_string(), expected);
        assert_eq!(learned.choice().timeout, learned.timeout());
    }
    check(
        &[],
        "2 min: 0 gaps between clients so far, too few to say more",
    );
    check(
        &[4000.0],
        "30 s: 1 gap between clients so far, too few to say more",
    );
    check(
        &[20.0; 12],
        "3 min: 11 of the last 11 gaps after one of at most 1 min ended within 3 min",
    );
    check(
        &[7000.0; 12],
        "8 s: 0 of the last 11 gaps after one of more than 1 h 6 min ended within 8 s",
    );
}

#[test]
fn bursts_and_a_rhythm_get_different_timeouts() {
    let bursts = (1..=30).map(|gap| if gap % 10 == 0 { 7000.0 } else { 20.0 });
    let rhythm = (0..30).map(|_| 3600.0);
    let [bursts, rhythm] = [
        learned(terms(COST), bursts.take(29)),
        learned(terms(COST), rhythm),
    ];
    assert!(
        bursts.timeout() > Duration::from_secs(20),
        "{}",
        bursts.choice()
    );
    assert!(
        rhythm.timeout() < Duration::from_secs(20),
        "{}",
        rhythm.choice()
    );
    assert_eq!(bursts.choice().reason.kind(), Kind::LikeTheLast);
}

#[test]
fn it_keeps_within_its_bounds() {
    let mut random = 5;
    for (shortest, longest) in [
        (5.0, 604_800.0),
        (7.0, 7.0),
        (600.0, 3600.0),
        (5.0, 20.0),
        (9.0, 1.0),
    ] {
        let mut learned = Learned::new(within(COST, shortest, longest));
        for _ in 0..300 {
            let timeout = learned.timeout().as_secs_f64();
            let bounds = shortest..=longest.max(shortest);
            assert!(bounds.contains(&timeout), "{timeout}, {bounds:?}");
            assert!(learned.is_sound());
            learned.learn(Duration::from_secs_f64(any(&mut random)));
        }
    }
}

#[test]
fn other_bounds_keep_what_was_learned_and_another_cost_does_not() {
    let before = learned(terms(COST), [3600.0; 30]);
    let bounded = before.clone().by(within(COST, 60.0, 600.0));
    assert_eq!(bounded.gaps(), 30);
    assert_eq!(bounded.timeout(), Duration::from_secs(60));
    assert_eq!(bounded.by(terms(COST)), before);
    assert_eq!(before.by(terms(60.0)), Learned::new(terms(60.0)));
}

#[test]
fn strange_gaps_are_gaps() {
    let year = 3.2e7;
    let gaps = [0.0, 1e-6, year, 100.0 * year, 1e13, 0.0];
    let mut learned = Learned::new(terms(COST));
    for gap in gaps.iter().cycle().take(10_000) {
        learned.learn(Duration::from_secs_f64(*gap));
        assert!(learned.is_sound());
        assert!(learned.timeout() >= SHORTEST.min(Duration::from_secs(1)));
    }
    learned.learn(Duration::MAX);
    assert!(learned.is_sound());
    for _ in 0..100_000 {
        learned.learn(Duration::ZERO);
    }
    assert!(learned.is_sound());
}

#[test]
fn what_was_stored_is_the_same() {
    let mut random = 6;
    let before = learned(terms(60.0), (0..100).map(|_| any(&mut random)));
    let stored = serde_json::to_string(&before).unwrap();
    let after: Learned = serde_json::from_str(&stored).unwrap();
    assert_eq!(before.choice(), after.choice());
    assert_eq!(before.gaps(), after.gaps());
    assert!(after.is_sound());
    let unknown = serde_json::to_string(&Learned::new(terms(60.0))).unwrap();
    assert_eq!(
        serde_json::from_str::<Learned>(&unknown).unwrap(),
        Learned::new(terms(60.0))
    );
    for (from, to) in [
        ("\"last\":", "\"last\":9"),
        ("\"bank\":", "\"bank\":-1"),
        ("\"score\":", "\"score\":1e999,\"x\":"),
    ] {
        let damaged = stored.replacen(from, to, 1);
        let read: Result<Learned, _> = serde_json::from_str(&damaged);
        assert!(read.is_err() || !read.unwrap().is_sound(), "{from}");
    }
}

#[test]
fn a_trial_counts_what_the_policy_would_have_cost() {
    let mut trial = Trial::new(terms(COST));
    trial.first();
    let mut learned = Learned::new(terms(COST));
    let (mut cold, mut warm) = (1, 0);
    let mut optimum = 300;
    for gap in [10_u64, 299, 300, 301, 5000, 0]
        .into_iter()
        .cycle()
        .take(50)
    {
        let timeout = learned.timeout().as_secs();
        cold += u64::from(gap > timeout);
        warm += gap.min(timeout);
        optimum += gap.min(300);
        learned.learn(Duration::from_secs(gap));
        trial.gap(gap * 1_000_000);
    }
    trial.end(1_000_000);
    let micros = |seconds: u64| u128::from(seconds) * 1_000_000;
    let expected = Outcome {
        cold_starts: cold,
        warm_idle: micros(warm + 1),
        cost: micros(warm + 1 + cold * 300),
        optimum: micros(optimum),
    };
    assert_eq!(trial.outcome(), expected);
    assert_eq!(trial.learned(), &learned);
}
