//! The files that an agent writes for the next one: they may be damaged.

use std::time::Duration;

use jiff::Timestamp;
use ondemand_core::{
    caught::Tally,
    config::WhatIfBy,
    holds::{self, Left, Moment},
    learned::stored,
    lifecycle::{Counter, note::VetoReason},
    measure::{
        Ktime,
        unit::{ActiveState, Unit},
    },
    replay::Timeouts,
    rhythm,
    runs::{Look, Runs},
    whatif::WhatIf,
};

use crate::observe::metrics::{
    Configuration, Observation,
    ledger::Ledger,
    record, render,
    uses::{self, Uses},
};

/// What was learned: what was parsed is sound, goes on learning, and is parsed again.
pub fn learned(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mut read, damaged) = stored::parse(&text);
    assert!(read.len() + damaged <= text.lines().count());
    let terms = rhythm::Terms {
        cold_start: Duration::from_secs(300),
        start: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
    };
    for stored in read.values_mut() {
        let (starts, learned) = (&stored.starts, &mut stored.learned);
        if let Some(rhythm) = &mut stored.rhythm {
            for at in [0, 1_800_000_000, i64::MAX] {
                let at = rhythm::Moment::new(at, at);
                rhythm.pass(at, Some(Duration::MAX), &terms);
                rhythm.returned(at, Duration::from_secs(3600), &terms);
                let _ = rhythm.expected(at);
                assert!(rhythm.is_sound());
            }
        }
        let _ = starts.usual();
        for gap in [0, 1, 90, 100_000_000] {
            learned.learn(Duration::from_secs(gap));
            assert!(learned.is_sound());
            assert!(!learned.choice().to_string().contains(char::is_control));
        }
    }
    let services = read.iter();
    let text = stored::text(services.map(|(name, it)| (name.as_str(), it)));
    assert_eq!(stored::parse(&text).1, 0, "{text}");
}

/// The holds: what was parsed is written and parsed again without loss.
pub fn holds(data: &[u8]) {
    let boot = "3b7a4e2c";
    let known = ["wiki", "llm", "w"];
    let now = Moment {
        uptime: Duration::from_secs(1_000),
        wall: Timestamp::constant(1_800_000_000, 0),
    };
    let (read, problems) = holds::parse(data, &now, boot, known.into_iter());
    let lines = String::from_utf8_lossy(data).lines().count();
    assert!(problems.len() <= lines);
    let text = holds::text(&read, &now, boot);
    let (again, problems) = holds::parse(text.as_bytes(), &now, boot, known.into_iter());
    assert!(problems.is_empty(), "{problems:?} of {text}");
    let held = |holds: &holds::Holds| known.map(|name| holds.left(name, &now));
    for (before, after) in held(&read).into_iter().zip(held(&again)) {
        match (before, after) {
            // The file has decimal fractions.
            (Some(Left::For(before)), Some(Left::For(after))) => {
                let off = before.abs_diff(after);
                assert!(off <= before / 1_000_000 + Duration::from_millis(1));
                // For people and for the bus.
                let _ = (before.as_secs(), Left::For(after).until_micros(&now));
            }
            // The rest was so short that it is zero.
            (Some(Left::For(before)), None) => assert!(before < Duration::from_millis(1)),
            (before, after) => assert_eq!(before, after),
        }
    }
}

/// The record of the metrics: whatever it contains, counting continues and a scrape gets its text.
pub fn ledger(data: &[u8]) {
    gaps(data);
    let Ok(mut ledger) = record::parse(data) else {
        return;
    };
    let at = |seconds: u64| Ktime::from_nanos(seconds * 1_000_000_000);
    let now = Ktime::from_nanos(u64::MAX / 2);
    let mut unit = Unit {
        state: ActiveState::Active,
        inactive_exit: Some(at(4)),
        active_enter: Some(at(5)),
        ..Unit::default()
    };
    ledger.set_unit("wiki.service");
    let look = |ledger: &mut Ledger, runs: &mut Runs, unit: &Unit| {
        let look = Look {
            now,
            backend: unit,
            sample: None,
            announced: true,
        };
        for event in runs.follow(&look, None) {
            ledger.take(&event, now);
        }
    };
    let mut runs = Runs::since(at(3));
    look(&mut ledger, &mut runs, &unit);
    ledger.count(Counter::Veto(VetoReason::HalfOpen));
    ledger.count(Counter::Drift);
    ledger.lease(true);
    ledger.times.measured(u64::MAX);
    (unit.state, unit.inactive_enter) = (ActiveState::Inactive, Some(at(7)));
    look(&mut ledger, &mut runs, &unit);
    (unit.inactive_exit, unit.active_enter) = (Some(at(9)), Some(at(10)));
    unit.inactive_enter = Some(at(12));
    // By the next agent.
    look(&mut ledger, &mut Runs::since(at(20)), &unit);
    ledger.times.advance(Ktime::from_nanos(u64::MAX));
    let written = serde_json::to_vec(&ledger).expect("a ledger can be written");
    assert_eq!(record::parse(&written).ok().as_ref(), Some(&ledger));
    let row = Observation {
        service: "wiki".into(),
        state: Some(unit.state),
        sample: None,
        open: None,
        idle: None,
        unused: None,
        kept: None,
        idle_timeout: None,
        learned: Default::default(),
        ready: None,
        held: Tally::default(),
        frozen: (false, false, 0),
        room: None,
        prewarms: [0; 2],
        datagrams: None,
    };
    let configuration = Configuration {
        last_reload_successful: false,
        last_reload_success: None,
    };
    let uses = Uses::open("/proc/none".into());
    let text = render::open_metrics(&[(row, ledger)], &configuration, WhatIfBy::Service, &uses);
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines() {
        assert!(
            line.starts_with("# ") || line.starts_with("ondemand_"),
            "{line:?}"
        );
    }
}

/// The gaps of all services: what was parsed goes on counting, and adds up.
fn gaps(data: &[u8]) {
    let (services, _, _) = uses::parse(&String::from_utf8_lossy(data));
    let mut sum = WhatIf::default();
    for mut gaps in services.into_values() {
        gaps.found(Some(i64::MIN), i64::MAX, Duration::MAX);
        gaps.quiet(i64::MIN, Duration::ZERO);
        gaps.arrived(i64::MAX, Some(i64::MAX), Duration::MAX);
        sum.merge(&gaps);
        assert!(sum.is_sound());
    }
    let outcomes = sum.replay().outcomes(Timeouts::ladder());
    assert!(
        outcomes
            .iter()
            .all(|it| it.cold_starts <= sum.replay().arrivals())
    );
}
