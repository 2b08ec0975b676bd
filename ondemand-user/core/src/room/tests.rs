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
            memory: Some(10),
            grows: 0,
            gives: true,
        }
    };
    text.split(',').map(member).collect()
}

/// `starts / stops`, with the reason of each stop behind a colon; `!`: too many are up.
#[track_caller]
fn check(at_most: u32, text: &'static str, expected: &str) {
    let decision = decide(&members(text), &BTreeMap::from([("gpu", at_most)]), None);
    let stops = decision.stops.iter().map(|(name, why)| match why {
        Why::For { service, .. } => format!("{name}:{service}"),
        Why::TooMany { .. } => format!("{name}:!"),
        Why::Memory { .. } => unreachable!(),
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
fn nobody_goes_for_one_that_is_only_expected() {
    let check = |text, at_most, memory| {
        let mut members = members(text);
        members[0].grows = 10;
        let groups = BTreeMap::from([("gpu", at_most)]);
        fits(&members[0], &members, &groups, memory)
    };
    assert!(check("a -, b -", 1, None));
    for text in ["a -, b taken", "a -, b 1", "a -, b leaving", "a -, b w3"] {
        assert!(!check(text, 1, None), "{text}");
        assert!(check(text, 2, None), "{text}");
    }
    let budget = |bytes| Some(Memory::Budget(bytes));
    assert!(check("a -, b 1, c w1", 3, budget(20)) && !check("a -, b 1", 2, budget(19)));
    let host = |available, is_short| {
        Some(Memory::Host {
            available,
            reserve: 5,
            is_short,
        })
    };
    assert!(check("a -, b 1", 2, host(15, false)) && !check("a -, b 1", 2, host(14, false)));
    assert!(!check("a -, b 1", 2, host(100, true)));
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
    let decision = decide(&all, &BTreeMap::from([("gpu", 1), ("other", 1)]), None);
    assert_eq!(decision.starts, ["a"]);
    assert_eq!(decision.stops, []);
    // A group that is gone has no limit.
    let decision = decide(&members("a w5, b w3"), &BTreeMap::new(), None);
    assert_eq!(decision.starts, ["b", "a"]);
}

/// Each of the members takes 10; `change` is for some of them. Returns who goes, and what is too much even then.
fn stops(text: &'static str, memory: Memory, change: impl Fn(&mut Member<'_>)) -> (String, u64) {
    let mut members = members(text);
    members.iter_mut().for_each(|it| it.group = None);
    members.iter_mut().for_each(change);
    let decision = decide(&members, &BTreeMap::new(), Some(memory));
    let names: Vec<_> = decision
        .stops
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    (names.join(" "), decision.over)
}

#[test]
fn idle_ones_go_until_the_others_fit() {
    let check = |text, budget, expected: &str, over| {
        let found = stops(text, Memory::Budget(budget), |_| {});
        assert_eq!(found, (expected.to_owned(), over), "{budget}: {text}");
    };
    check("a 2, b 1, c taken", 30, "", 0);
    check("a 2, b 1, c taken", 29, "b", 0);
    check("a 2, b 1, c taken", 20, "b", 0);
    check("a 2, b 1, c taken", 19, "b a", 0);
    check("a 2, b 1, c taken", 5, "b a", 5);
    check("a taken, b taken", 5, "", 15);
    check("a 2, b leaving, c -", 10, "", 0);
    check("a 2, b leaving, c taken", 10, "a", 0);
}

#[test]
fn one_that_starts_counts_as_it_was_before_and_one_that_is_unknown_not_at_all() {
    let grows = |it: &mut Member<'_>| {
        if it.name == "c" {
            (it.memory, it.grows) = (Some(1), 19);
        }
    };
    assert_eq!(
        stops("a 2, b 1, c taken", Memory::Budget(30), grows),
        ("b".into(), 0)
    );
    let unknown = |it: &mut Member<'_>| {
        if it.name == "b" {
            it.memory = None;
        }
    };
    assert_eq!(
        stops("a 2, b 1, c taken", Memory::Budget(20), unknown),
        (String::new(), 0)
    );
    assert_eq!(
        stops("a 2, b 1, c taken", Memory::Budget(15), unknown),
        ("a".into(), 0)
    );
    let keeps = |it: &mut Member<'_>| it.gives = it.name != "b";
    assert_eq!(
        stops("a 2, b 1, c taken", Memory::Budget(5), keeps),
        ("a".into(), 15)
    );
}

#[test]
fn the_host_says_what_there_is() {
    let host = |available, is_short| Memory::Host {
        available,
        reserve: 100,
        is_short,
    };
    let check = |text, memory, expected: &str| {
        assert_eq!(
            stops(text, memory, |_| {}).0,
            expected,
            "{memory:?}: {text}"
        );
    };
    check("a 2, b 1, c taken", host(100, false), "");
    check("a 2, b 1, c taken", host(99, false), "b");
    check("a 2, b 1, c taken", host(85, false), "b a");
    check("a 2, b leaving, c taken", host(95, false), "");
    check("a 2, b leaving, c taken", host(85, false), "a");
    // One at a time: what it gives back is known when it has gone.
    check("a 2, b 1, c taken", host(500, true), "b");
    check("a 2, b leaving, c taken", host(500, true), "");
    check("a 2, b 1, c taken", host(85, true), "b a");
    // What is about to start needs it, too.
    let starts = |it: &mut Member<'_>| it.grows = if it.name == "c" { 5 } else { 0 };
    assert_eq!(stops("a 2, b 1, c taken", host(104, false), starts).0, "b");
    assert_eq!(stops("a 2, b 1, c taken", host(105, false), starts).0, "");
}

#[test]
fn who_goes_for_its_group_gives_its_memory_back() {
    let mut all = members("a w5, b 1, c 2");
    all[2].group = None;
    let decision = decide(
        &all,
        &BTreeMap::from([("gpu", 1)]),
        Some(Memory::Budget(10)),
    );
    assert_eq!(decision.stops.len(), 1, "{decision:?}");
    assert_eq!((decision.stops[0].0.as_str(), decision.over), ("b", 0));
}

/// A thousandth of a second in a release build; here with room for a debug build on a busy host.
#[test]
fn a_thousand_services_are_no_work() {
    let names: Vec<String> = (0..1000)
        .map(|number| format!("service-{number}"))
        .collect();
    let members: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| Member {
            name,
            group: number.is_multiple_of(2).then_some("gpu"),
            place: [Place::None, Place::Idle, Place::Idle, Place::Taken][number % 4],
            waits: number.is_multiple_of(8).then(|| at(number as u64)),
            worth: (number * 7919 % 1000) as f64,
            memory: Some(10),
            grows: 0,
            gives: true,
        })
        .collect();
    let groups = BTreeMap::from([("gpu", 100)]);
    let decision = decide(&members, &groups, Some(Memory::Budget(1000)));
    assert!(decision.stops.len() > 300, "{}", decision.stops.len());
}

#[test]
fn it_is_known_who_would_go_next() {
    let mut all = members("a 2, b 1, c taken, d 3");
    all[3].group = None;
    let groups = BTreeMap::from([("gpu", 9)]);
    let next = |all: &[Member<'_>], memory| {
        let next = decide(all, &groups, memory).next;
        next.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(next(&all, None), "b");
    all[0].gives = false;
    all[1].memory = None;
    assert_eq!(next(&all, Some(Memory::Budget(1000))), "b d");
}
