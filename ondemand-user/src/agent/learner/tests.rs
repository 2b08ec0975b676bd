//! Tests of what is learned of one service.

use ondemand_core::config::{ColdStartCost, Config};

use super::*;

fn service(lines: &str) -> Service {
    let text = format!(
        "[service.wiki]\nlisten = \"127.0.0.1:80\"\nbackend = \"127.0.0.1:81\"\nunit = \"wiki.service\"\n{lines}"
    );
    let config = Config::parse(std::path::Path::new("/x"), &text).unwrap();
    config.services["wiki"].clone()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(minute: u64) -> Ktime {
    Ktime::from_nanos(minute * 60_000_000_000)
}

/// Learns as many gaps of an hour. Returns the messages.
fn hours(learner: &mut Learner, service: &Service, gaps: u64) -> Vec<String> {
    let learn = |gap| learner.learn(seconds(3600), service, at(gap));
    (0..gaps).filter_map(learn).collect()
}

#[test]
fn the_journal_has_changes_by_more_than_a_step() {
    let auto = service("idle_timeout = \"auto\"");
    let mut learner = Learner::new(&auto.learning);
    let messages = hours(&mut learner, &auto, 30);
    // The first, and one after ten minutes: what changed between them is in it.
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("is learned: 30 s"), "{messages:?}");
    assert!(
        messages[1].contains("was 30 s, and is 8 s: 0 of the last"),
        "{messages:?}"
    );
    // One that is not in force is nobody's business.
    let fixed = service("idle_timeout = \"1h\"");
    let mut shadow = Learner::new(&fixed.learning);
    assert!(hours(&mut shadow, &fixed, 30).is_empty());
    assert_eq!(shadow.timeout(), learner.timeout());
    let tally = shadow.tally();
    assert!(tally.fixed_cost > 3.0 * tally.learned_cost, "{tally:?}");
    assert_eq!(tally.reasons.iter().sum::<u64>(), 30);
}

#[test]
fn what_the_history_has_replaces_what_is_known_unless_it_is_less() {
    let auto = service("idle_timeout = \"auto\"");
    let past = |gaps| {
        let mut past = Learner::new(&auto.learning);
        hours(&mut past, &auto, gaps);
        let (starts, learned) = past.stored();
        let (starts, learned) = (starts.clone(), learned.clone());
        Some(Stored {
            starts,
            learned,
            rhythm: None,
        })
    };
    #[track_caller]
    fn check(auto: &Service, known: u64, past: Option<Stored>, meanwhile: u64, expected: u64) {
        let mut learner = Learner::new(&auto.learning);
        hours(&mut learner, auto, known);
        learner.begin();
        hours(&mut learner, auto, meanwhile);
        learner.rebuilt(past, &auto.learning);
        assert_eq!(learner.gaps(), expected);
        // The next gap is in the history, too: it is not learned twice.
        hours(&mut learner, auto, 1);
        assert_eq!(learner.gaps(), expected + 1);
    }
    check(&auto, 0, past(20), 0, 20);
    check(&auto, 0, past(20), 2, 22);
    check(&auto, 20, past(20), 2, 22);
    // It was lost, or is another one.
    check(&auto, 20, past(3), 2, 22);
    check(&auto, 20, None, 2, 22);
    // By what a cold start cost before, nothing is known of what it costs now.
    let dear = service("cold_start_cost = \"1h\"");
    check(&dear, 20, past(3), 0, 20);
}

#[test]
fn a_measured_cost_follows_the_usual_start() {
    let measured = service("cold_start_cost = \"100x\"");
    assert_eq!(
        measured.learning.cold_start_cost,
        ColdStartCost::Starts(100_000)
    );
    let mut learner = Learner::new(&measured.learning);
    assert_eq!(learner.cold_start_cost(), seconds(300));
    assert!(
        learner.started(seconds(1), &measured.learning),
        "it was not measured before"
    );
    assert_eq!(learner.cold_start_cost(), seconds(100));
    hours(&mut learner, &measured, 5);
    for millis in [1200, 900, 1400, 1100] {
        let anew = learner.started(Duration::from_millis(millis), &measured.learning);
        assert!(!anew, "{millis}");
    }
    assert_eq!(
        (learner.cold_start_cost(), learner.gaps()),
        (seconds(100), 5)
    );
    let anew: Vec<bool> = (0..9)
        .map(|_| learner.started(seconds(3), &measured.learning))
        .collect();
    assert_eq!(anew.iter().filter(|anew| **anew).count(), 1, "{anew:?}");
    assert_eq!(
        (learner.cold_start_cost(), learner.gaps()),
        (seconds(300), 0)
    );
    // A stated one does not.
    let stated = service("");
    let mut learner = Learner::new(&stated.learning);
    assert!(!learner.started(seconds(60), &stated.learning));
}

#[test]
fn another_configuration_keeps_what_it_can() {
    let before = service("idle_timeout = \"auto\"");
    let mut learner = Learner::new(&before.learning);
    hours(&mut learner, &before, 10);
    assert!(!learner.reconfigure(&service("idle_timeout_min = \"1h\"").learning));
    assert_eq!((learner.gaps(), learner.timeout()), (10, seconds(3600)));
    assert!(learner.reconfigure(&service("cold_start_cost = \"1min\"").learning));
    assert_eq!(learner.gaps(), 0);
}
