use super::*;

fn at(seconds: u64) -> Ktime {
    Ktime::from_nanos(seconds * 1_000_000_000)
}

/// `NAME STATE`, of one group: `-` down, `wN` waits since the second N, `taken`, `leaving`, or the worth of an idle one.
fn members(text: &'static str) -> Vec<Member<'static>> {
    let member = |line: &'static str| {
        let (name, state) = line.trim().split_once(' ').unwrap();
        let (place, waits, worth) = match state {
            "-" => (Place::None, None, 0.0),
            "taken" => (Place::Taken, None, 0.0),
            "leaving" => (Place::Leaving, None, 0.0),
            _ => match state.strip_prefix('w') {
                Some(since) => (Place::None, Some(at(since.parse().unwrap())), 0.0),
                None => (Place::Idle, None, state.parse().unwrap()),
            },
        };
        Member {
            name,
            group: Some("gpu"),
            place,
            waits,
            worth,
        }
    };
    text.split(',').map(member).collect()
}

/// `starts / stops`, with the reason of each stop behind a colon; `!`: too many are up.
#[track_caller]
fn check(at_most: u32, text: &'static str, expected: &str) {
    let decision = decide(&members(text), &BTreeMap::from([("gpu", at_most)]));
    let stops = decision.stops.iter().map(|(name, why)| match why {
        Why::For { service, .. } => format!("{name}:{service}"),
        Why::TooMany { .. } => format!("{name}:!"),
    });
    let stops: Vec<_> = stops.collect();
    let found = format!("{} / {}", decision.starts.join(" "), stops.join(" "));
    assert_eq!(found.trim(), expected, "{at_most}: {text}");
}

#[test]
fn who_comes_first_starts_first() {
    check(1, "a -, b -", "/");
    check(1, "a w5, b w3", "b /");
    check(2, "a w5, b w3, c w4", "b c /");
    check(2, "a w3, b w3, c w3", "a b /");
    check(2, "a w5, b taken", "a /");
    check(3, "a w5, b taken, c w4", "c a /");
}

#[test]
fn idle_ones_make_room_and_used_ones_do_not() {
    check(1, "a w5, b taken", "/");
    check(1, "a w5, b 1", "/ b:a");
    check(1, "a w5, b leaving", "/");
    check(1, "a -, b 1", "/");
    check(2, "a w5, b 2, c 1", "/ c:a");
    check(2, "a w5, b 2, c taken", "/ b:a");
    check(2, "a w5, b 2, c 1, d w4", "/ c:d b:a");
    // One is on its way out, for who came first.
    check(2, "a w5, b 2, c leaving, d w4", "/ b:a");
    check(2, "a w5, b 2, c leaving", "/");
    check(3, "a w5, b 2, c 1, d w4", "d / c:a");
}

#[test]
fn too_many_are_brought_back_to_the_limit() {
    check(1, "a 2, b 1", "/ b:!");
    check(1, "a 2, b 1, c 3", "/ b:! a:!");
    check(1, "a taken, b 1", "/ b:!");
    check(1, "a taken, b taken", "/");
    check(1, "a leaving, b 1", "/");
    check(1, "a taken, b leaving, c w1", "/");
    check(1, "a 2, b 1, c w1", "/ b:! a:c");
}

#[test]
fn groups_do_not_share_places() {
    let mut all = members("a w5, b taken, c w1");
    all[1].group = Some("other");
    all[2].group = None;
    let decision = decide(&all, &BTreeMap::from([("gpu", 1), ("other", 1)]));
    assert_eq!(decision.starts, ["a"]);
    assert_eq!(decision.stops, []);
    // A group that is gone has no limit.
    let decision = decide(&members("a w5, b w3"), &BTreeMap::new());
    assert_eq!(decision.starts, ["b", "a"]);
}
