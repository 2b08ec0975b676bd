use super::*;
use crate::measure::sample::Leg;

const fn ms(ms: u64) -> Ktime {
    Ktime::from_nanos(ms * 1_000_000)
}

const RULES: Rules = Rules {
    idle_timeout: Some(Duration::from_secs(10)),
    min_uptime: Duration::ZERO,
    silent_after: None,
    ignores_empty: false,
};

fn sample() -> Sample {
    Sample {
        at: ms(0),
        front: Leg::default(),
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

fn leg(accepted: u64, closed: u64) -> Leg {
    Leg {
        accepted,
        closed,
        ..Leg::default()
    }
}

fn facts() -> Facts {
    Facts {
        started: Some(ms(1_000)),
        ..Facts::default()
    }
}

#[track_caller]
fn check(rules: Rules, now: u64, sample: Option<Sample>, facts: Facts, expected: Verdict) {
    assert_eq!(decide(&rules, ms(now), sample.as_ref(), &facts), expected);
}

fn quiet(since: u64, idle_at: u64) -> Verdict {
    Verdict::Quiet {
        since: ms(since),
        idle_at: Some(ms(idle_at)),
    }
}

fn idle(since: u64) -> Verdict {
    Verdict::Idle { since: ms(since) }
}

#[test]
fn connections_keep_it_up() {
    let busy = |open| Verdict::Busy { open };
    let late = 99_000;
    check(
        RULES,
        late,
        Some(Sample {
            front: leg(3, 2),
            ..sample()
        }),
        facts(),
        busy(1),
    );
    check(
        RULES,
        late,
        Some(Sample {
            steered: leg(3, 2),
            ..sample()
        }),
        facts(),
        busy(1),
    );
    check(
        RULES,
        late,
        Some(Sample {
            back: leg(3, 2),
            ..sample()
        }),
        facts(),
        busy(1),
    );
    check(
        RULES,
        late,
        Some(Sample {
            older: 2,
            ..sample()
        }),
        facts(),
        busy(2),
    );
    // A client behind the proxy has two legs and is one client.
    let both = Sample {
        front: leg(3, 1),
        back: leg(9, 8),
        steered: leg(5, 4),
        ..sample()
    };
    check(RULES, late, Some(both), facts(), busy(3));
    let unix = Facts {
        uncounted: 4,
        ..facts()
    };
    check(
        RULES,
        late,
        Some(Sample {
            back: leg(3, 1),
            ..sample()
        }),
        unix,
        busy(4),
    );
    check(RULES, late, Some(sample()), unix, busy(4));
    // However long they are silent.
    let silent = Sample {
        front: leg(1, 0),
        last_activity: Some(ms(1)),
        ..sample()
    };
    check(RULES, late, Some(silent), facts(), busy(1));
    // An unknown start does not matter while a client is connected.
    check(RULES, late, Some(silent), Facts::default(), busy(1));
}

#[test]
fn the_clock_begins_at_the_latest_sign_of_life() {
    // Started by hand and never used.
    check(RULES, 10_999, Some(sample()), facts(), quiet(1_000, 11_000));
    check(RULES, 11_000, Some(sample()), facts(), idle(1_000));
    // The last packet; its stamp may lag by one tick.
    let used = Sample {
        front: leg(1, 1),
        last_activity: Some(ms(5_000)),
        ..sample()
    };
    check(RULES, 15_009, Some(used), facts(), quiet(5_000, 15_010));
    check(RULES, 15_010, Some(used), facts(), idle(5_000));
    // A SYN without a connection yet.
    let lookup = Sample {
        last_lookup: Some(ms(7_000)),
        ..used
    };
    check(RULES, 17_009, Some(lookup), facts(), quiet(7_000, 17_010));
    check(RULES, 17_010, Some(lookup), facts(), idle(7_000));
    // A connection outside the counters, seen last at 8 s.
    let uncounted = Facts {
        uncounted_until: Some(ms(8_000)),
        ..facts()
    };
    check(RULES, 17_999, Some(lookup), uncounted, quiet(8_000, 18_000));
    check(RULES, 18_000, Some(lookup), uncounted, idle(8_000));
    // Activity before the start belongs to the previous run.
    let before = Sample {
        last_activity: Some(ms(300)),
        ..sample()
    };
    check(RULES, 11_000, Some(before), facts(), idle(1_000));
}

#[test]
fn min_uptime_counts_from_the_start() {
    let rules = Rules {
        min_uptime: Duration::from_secs(30),
        ..RULES
    };
    let used = Sample {
        last_activity: Some(ms(2_000)),
        ..sample()
    };
    check(rules, 30_999, Some(used), facts(), quiet(2_000, 31_000));
    check(rules, 31_000, Some(used), facts(), idle(2_000));
    let later = Sample {
        last_activity: Some(ms(40_000)),
        ..sample()
    };
    check(rules, 50_009, Some(later), facts(), quiet(40_000, 50_010));
    check(rules, 50_010, Some(later), facts(), idle(40_000));
}

#[test]
fn syn_cookies_lengthen_a_short_timeout_for_lookups_alone() {
    let rules = Rules {
        idle_timeout: Some(Duration::from_millis(200)),
        ..RULES
    };
    let cookies = Facts {
        syn_cookies: true,
        ..facts()
    };
    let lookup = Sample {
        last_lookup: Some(ms(5_000)),
        ..sample()
    };
    check(rules, 5_210, Some(lookup), facts(), idle(5_000));
    check(rules, 5_210, Some(lookup), cookies, quiet(5_000, 7_010));
    check(rules, 7_010, Some(lookup), cookies, idle(5_000));
    let packet = Sample {
        last_activity: Some(ms(5_000)),
        ..sample()
    };
    check(rules, 5_210, Some(packet), cookies, idle(5_000));
    let lookup = Sample {
        last_lookup: Some(ms(5_000)),
        ..sample()
    };
    check(RULES, 15_010, Some(lookup), cookies, idle(5_000));
}

#[test]
fn a_scan_keeps_it_up_for_four_idle_timeouts_at_most() {
    let scanned = |at| Sample {
        last_activity: Some(ms(5_000)),
        last_lookup: Some(ms(at)),
        ..sample()
    };
    check(
        RULES,
        40_000,
        Some(scanned(39_000)),
        facts(),
        quiet(39_000, 45_000),
    );
    check(RULES, 45_000, Some(scanned(44_999)), facts(), idle(44_999));
}

#[test]
fn an_infinite_timeout_never_ends() {
    let rules = Rules {
        idle_timeout: None,
        ..RULES
    };
    let never = Verdict::Quiet {
        since: ms(1_000),
        idle_at: None,
    };
    check(rules, u64::MAX / 2_000_000, Some(sample()), facts(), never);
}

#[test]
fn a_held_service_is_not_idle() {
    let late = 99_000;
    let until = |until| Facts {
        hold: Some(Hold { until }),
        ..facts()
    };
    let held = |until| Verdict::Held {
        since: ms(1_000),
        until,
    };
    check(RULES, late, Some(sample()), until(None), held(None));
    let end = Some(ms(late + 1));
    check(RULES, late, Some(sample()), until(end), held(end));
    check(RULES, 1_001, Some(sample()), until(end), held(end));
    check(Rules::AT_ONCE, late, Some(sample()), until(end), held(end));
    let never = Rules {
        idle_timeout: None,
        ..RULES
    };
    check(never, late, Some(sample()), until(end), held(end));
    // Open connections have precedence, and a hold does not turn unknown into known.
    let busy = Sample {
        front: leg(1, 0),
        ..sample()
    };
    let open = Verdict::Busy { open: 1 };
    check(RULES, late, Some(busy), until(None), open);
    let unknown = Verdict::Unknown(Reason::NoSample);
    check(RULES, late, None, until(None), unknown);
}

#[test]
fn a_stop_that_was_asked_for_waits_for_no_timeout() {
    let check = |now, sample, facts, expected| {
        check(Rules::AT_ONCE, now, Some(sample), facts, expected);
    };
    check(1_000, sample(), facts(), idle(1_000));
    // The stamp of the last packet may lag by one tick.
    let used = Sample {
        front: leg(1, 1),
        last_activity: Some(ms(5_000)),
        ..sample()
    };
    check(5_009, used, facts(), quiet(5_000, 5_010));
    check(5_010, used, facts(), idle(5_000));
    // The only trace of a cookie may be its look-up.
    let lookup = Sample {
        last_lookup: Some(ms(5_005)),
        ..used
    };
    check(5_010, lookup, facts(), idle(5_005));
    let cookies = Facts {
        syn_cookies: true,
        ..facts()
    };
    check(5_010, lookup, cookies, quiet(5_005, 7_015));
    let busy = Sample {
        steered: leg(2, 1),
        ..sample()
    };
    check(5_010, busy, facts(), Verdict::Busy { open: 1 });
}

#[test]
fn unknown_is_not_idle() {
    let late = 99_000;
    let unknown = Verdict::Unknown;
    check(RULES, late, None, facts(), unknown(Reason::NoSample));
    let negative = Sample {
        back: leg(3, 4),
        ..sample()
    };
    check(
        RULES,
        late,
        Some(negative),
        facts(),
        unknown(Reason::NegativeOpen),
    );
    // Even if another leg compensates for it.
    let negative = Sample {
        back: leg(3, 4),
        front: leg(9, 1),
        ..sample()
    };
    check(
        RULES,
        late,
        Some(negative),
        facts(),
        unknown(Reason::NegativeOpen),
    );
    check(
        RULES,
        late,
        Some(sample()),
        Facts::default(),
        unknown(Reason::NoStart),
    );
    let ahead = Some(ms(late + 1));
    let future = Sample {
        last_activity: ahead,
        ..sample()
    };
    check(RULES, late, Some(future), facts(), unknown(Reason::Clock));
    let future = Sample {
        last_lookup: ahead,
        ..sample()
    };
    check(RULES, late, Some(future), facts(), unknown(Reason::Clock));
    let future = Sample {
        at: ms(late + 1),
        ..sample()
    };
    check(RULES, late, Some(future), facts(), unknown(Reason::Clock));
    let future = Facts {
        started: ahead,
        ..facts()
    };
    check(RULES, late, Some(sample()), future, unknown(Reason::Clock));
    let future = Facts {
        uncounted_until: ahead,
        ..facts()
    };
    check(RULES, late, Some(sample()), future, unknown(Reason::Clock));
}

/// One that is used by two connections since 1 s.
fn two_connections() -> Sample {
    let leg = Leg {
        accepted: 2,
        ..Leg::default()
    };
    Sample {
        steered: leg,
        last_activity: Some(ms(1_000)),
        last_open: Some(ms(1_000)),
        ..sample()
    }
}

const SILENT: Rules = Rules {
    silent_after: Some(Duration::from_secs(30)),
    ..RULES
};

fn seen(at: u64, newest: u64) -> Facts {
    Facts {
        silence: Some(Silence {
            at: ms(at),
            changes: (2, 0),
            newest: ms(newest),
        }),
        ..facts()
    }
}

#[test]
fn silent_connections_are_no_use() {
    let (busy, idle) = (Verdict::Busy { open: 2 }, idle(5_000));
    let check = |now, facts, expected| {
        let sample = Sample {
            at: ms(now),
            ..two_connections()
        };
        assert_eq!(decide(&SILENT, ms(now), Some(&sample), &facts), expected);
    };
    check(40_000, facts(), busy);
    check(35_000, seen(35_000, 5_000), idle);
    check(35_000, seen(34_999, 5_000), busy);
    check(35_400, seen(35_000, 5_000), idle);
    // A byte may have come since.
    check(36_000, seen(35_000, 5_000), busy);
    check(35_000, seen(35_000, 5_001), busy);
    // Another connection was made, or closed.
    let other = Facts {
        silence: Some(Silence {
            changes: (3, 1),
            ..seen(35_000, 5_000).silence.unwrap()
        }),
        ..facts()
    };
    check(35_000, other, busy);
    // Of these nothing is known.
    let unix = Facts {
        uncounted: 1,
        ..seen(35_000, 5_000)
    };
    check(35_000, unix, busy);
    let older = Sample {
        older: 1,
        ..two_connections()
    };
    let verdict = decide(&SILENT, ms(35_000), Some(&older), &seen(35_000, 5_000));
    assert_eq!(verdict, Verdict::Busy { open: 3 });
    let verdict = decide(
        &RULES,
        ms(35_000),
        Some(&two_connections()),
        &seen(35_000, 5_000),
    );
    assert_eq!(verdict, busy, "not asked for");
}

#[test]
fn where_empty_connections_are_no_use_a_look_up_is_none() {
    let rules = Rules {
        ignores_empty: true,
        ..RULES
    };
    let checked = Sample {
        last_lookup: Some(ms(10_900)),
        ..sample()
    };
    let cookies = Facts {
        syn_cookies: true,
        ..facts()
    };
    let without = decide(&rules, ms(11_010), Some(&sample()), &facts());
    assert!(matches!(without, Verdict::Idle { .. }), "{without:?}");
    assert_eq!(
        decide(&rules, ms(11_010), Some(&checked), &facts()),
        without
    );
    // A cookie's client may be about to send.
    check(rules, 11_010, Some(checked), cookies, quiet(1_000, 12_910));
    let open = Sample {
        steered: Leg {
            accepted: 1,
            ..Leg::default()
        },
        ..checked
    };
    check(
        rules,
        11_010,
        Some(open),
        facts(),
        Verdict::Busy { open: 1 },
    );
}

#[test]
fn silence_is_looked_at_when_it_can_decide() {
    #[track_caller]
    fn check(rules: &Rules, sample: Sample, facts: &Facts, expected: Option<u64>) {
        assert_eq!(silence_due(rules, &sample, facts), expected.map(ms));
    }
    let two = two_connections();
    check(&RULES, two, &facts(), None);
    check(&SILENT, sample(), &facts(), None);
    // The last one to be made cannot be silent for long enough before.
    check(&SILENT, two, &facts(), Some(31_010));
    // One was closed since: the others may be silent for long.
    let closed = Sample {
        last_activity: Some(ms(20_000)),
        ..two
    };
    check(&SILENT, closed, &facts(), Some(30_010));
    // Known from a look, and a newer one has nothing to add.
    check(&SILENT, two, &seen(31_010, 25_000), Some(55_010));
    check(&SILENT, closed, &seen(31_010, 500), Some(30_510));
    let slow = Rules {
        idle_timeout: Some(Duration::from_secs(60)),
        ..SILENT
    };
    check(&slow, two, &seen(31_010, 25_000), Some(85_010));
    // Another was made since that look.
    let third = Leg {
        accepted: 3,
        ..two.steered
    };
    let third = Sample {
        steered: third,
        last_activity: Some(ms(40_000)),
        last_open: Some(ms(40_000)),
        ..two
    };
    check(&SILENT, third, &seen(31_010, 25_000), Some(70_010));
    let hold = |until| Facts {
        hold: Some(Hold { until }),
        ..facts()
    };
    check(&SILENT, two, &hold(None), None);
    check(&SILENT, two, &hold(Some(ms(99_000))), Some(99_000));
    check(&SILENT, Sample { older: 1, ..two }, &facts(), None);
}

#[test]
fn a_service_that_another_needs_is_in_use() {
    let late = 99_000;
    let needed = |need| Facts {
        need: Some(need),
        ..facts()
    };
    let verdict = Verdict::Needed { since: ms(1_000) };
    check(RULES, late, Some(sample()), needed(Need::Present), verdict);
    // It is the other's end that begins its idle time, as a client's.
    let until = needed(Need::Until(ms(5_000)));
    check(RULES, 14_999, Some(sample()), until, quiet(5_000, 15_000));
    check(RULES, 15_000, Some(sample()), until, idle(5_000));
    // An older one changes nothing, and one of the future is unknown.
    let before = needed(Need::Until(ms(500)));
    check(RULES, 11_000, Some(sample()), before, idle(1_000));
    let unknown = Verdict::Unknown(Reason::Clock);
    check(RULES, 4_000, Some(sample()), until, unknown);
    // Also when a stop is requested.
    let at_once = Rules::AT_ONCE;
    check(
        at_once,
        late,
        Some(sample()),
        needed(Need::Present),
        verdict,
    );
}
