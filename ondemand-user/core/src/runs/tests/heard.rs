//! The kernel's reports of a run: its listener and its first byte.

use super::*;

#[test]
fn a_start_is_over_when_the_application_listens_and_systemd_says_so() {
    /// Seconds at which it listens, before and after systemd reports it active at 102.
    #[track_caller]
    fn check(before: Option<u64>, after: Option<u64>, expected: &str) {
        let mut runs = Runs::default();
        look(&mut runs, at(100), &unit("inactive", 0, 0), None);
        if let Some(seconds) = before {
            runs.listens(at(seconds));
        }
        let mut words = vec![look(&mut runs, at(102), &unit("active", 101, 0), None)];
        if let Some(seconds) = after {
            runs.listens(at(seconds));
            words.push(look(&mut runs, at(110), &unit("active", 101, 0), None));
        }
        // A second one.
        runs.listens(at(115));
        words.push(look(&mut runs, at(120), &unit("inactive", 101, 120), None));
        words.retain(|word| !word.is_empty());
        assert_eq!(words.join(" "), expected);
    }
    check(Some(101), None, "started listening:0 ready:1000 external");
    check(
        None,
        Some(104),
        "started listening:3000 ready:3000 external",
    );
    check(
        None,
        Some(102),
        "started listening:1000 ready:1000 external",
    );
    check(
        Some(98),
        Some(104),
        "started listening:3000 ready:3000 external",
    );
    let mut runs = Runs::default();
    look(&mut runs, at(100), &unit("inactive", 0, 0), None);
    let started = look(&mut runs, at(102), &unit("active", 101, 0), None);
    let ended = look(&mut runs, at(120), &unit("inactive", 101, 120), None);
    // It never listened.
    assert_eq!(
        (started.as_str(), ended.as_str()),
        ("started", "ready:1000 external")
    );
    // It listened, and no longer does.
    let mut runs = Runs::since(at(50));
    runs.listens(at(102));
    let all = look(&mut runs, at(110), &unit("inactive", 101, 105), None);
    assert_eq!(all, "started listening:1000 ready:1000 external");
}

#[test]
fn a_listener_belongs_to_one_start() {
    let mut runs = Runs::since(at(50));
    let mut see = |listens: Option<u64>, began, ended| {
        if let Some(seconds) = listens {
            runs.listens(at(seconds));
        }
        look(&mut runs, at(200), &unit("active", began, ended), None)
    };
    // The run is older than the watch: a listener now does not show the duration of its start.
    assert_eq!(see(Some(60), 40, 0), "");
    // It belongs to the next start: not 60 s after the first one.
    assert_eq!(see(Some(101), 40, 0), "");
    assert_eq!(
        see(None, 100, 99),
        "external started listening:1000 ready:1000"
    );
    assert_eq!(see(Some(105), 100, 99), "", "a second one");
    assert_eq!(see(None, 120, 110), "external started", "no listener yet");
    assert_eq!(see(Some(123), 120, 110), "listening:3000 ready:3000");
}

/// On a busy host the kernel's report is known long before systemd's signals.
#[test]
fn a_listener_waits_for_systemds_signals() {
    let ms = |ms: u64| Ktime::from_nanos(ms * 1_000_000);
    let old = unit("active", 100, 0);
    let running = || {
        let mut runs = Runs::since(at(50));
        // Its listener was older than the agent.
        assert_eq!(look(&mut runs, at(147), &old, None), "started");
        assert_eq!(runs.due(), None);
        runs.listens(ms(200_500));
        assert_eq!(look(&mut runs, ms(200_500), &old, None), "");
        assert_eq!(runs.due(), Some(ms(202_500)));
        runs
    };
    // It was that of the next run.
    let mut runs = running();
    let next = unit("active", 200, 199);
    let all = "ready:1000 external started listening:500 ready:1000";
    assert_eq!(look(&mut runs, at(202), &next, None), all);
    assert_eq!(runs.due(), None);
    // The first signal is that of the end.
    let mut runs = running();
    let down = unit("inactive", 100, 199);
    assert_eq!(look(&mut runs, at(201), &down, None), "ready:1000 external");
    assert_eq!(runs.due(), None);
    let all = "started listening:500 ready:1000";
    assert_eq!(look(&mut runs, at(202), &next, None), all);
    // It is slow indeed: nothing is heard of systemd.
    let mut runs = running();
    let all = "listening:100500 ready:100500";
    assert_eq!(look(&mut runs, ms(202_500), &old, None), all);
    assert_eq!(runs.due(), None);
    // Systemd is notified by it, later.
    let mut runs = Runs::since(at(50));
    look(&mut runs, at(100), &unit("inactive", 0, 0), None);
    runs.listens(at(140));
    let mut slow = unit("active", 101, 0);
    slow.active_enter = Some(at(141));
    let all = "started listening:39000 ready:40000";
    assert_eq!(look(&mut runs, at(141), &slow, None), all);
}

#[test]
fn what_belongs_to_a_start() {
    #[track_caller]
    fn check(end: Option<u64>, begin: u64, at: u64, expected: Option<u64>) {
        let nanos = Ktime::from_nanos;
        let stamps = Stamps {
            began: Some(nanos(begin)),
            down: end.map(nanos),
            ..Stamps::default()
        };
        let current = Current::new(&stamps, true);
        let expected = expected.map(Duration::from_nanos);
        assert_eq!(current.since_begin(nanos(at)), expected);
    }
    check(None, 50, 57, Some(7));
    check(None, 50, 48, Some(0));
    check(Some(40), 50, 57, Some(7));
    check(Some(40), 50, 48, Some(0));
    check(Some(40), 50, 39, None);
    // The unit has ended since: the end of the previous run is unknown.
    check(Some(60), 50, 48, None);
    // Long before the start.
    check(None, 3_000_000_000, 50, None);
}

#[test]
fn the_first_byte() {
    let ms = |ms: u64| Ktime::from_nanos(ms * 1_000_000);
    let begun = || {
        let mut runs = Runs::since(at(50));
        look(&mut runs, at(100), &unit("inactive", 0, 0), None);
        runs
    };
    let up = unit("active", 101, 0);
    let one = Some(sample(1, 1));
    let mut runs = begun();
    runs.listens(at(102));
    let started = "started listening:1000 ready:1000";
    assert_eq!(look(&mut runs, at(103), &up, one), started);
    runs.answered(ms(102_600));
    assert_eq!(look(&mut runs, at(103), &up, one), "first-byte:1600");
    runs.answered(at(109));
    assert_eq!(
        look(&mut runs, at(109), &up, one),
        "",
        "of a run there is one"
    );
    // A slow one: the client stays connected.
    let mut runs = begun();
    runs.listens(at(102));
    look(&mut runs, at(103), &up, one);
    look(&mut runs, at(110), &up, one);
    runs.answered(at(111));
    assert_eq!(look(&mut runs, at(111), &up, one), "first-byte:10000");
    // Known before the listener is.
    let mut runs = begun();
    runs.answered(ms(102_600));
    assert_eq!(look(&mut runs, at(103), &up, one), "started");
    runs.listens(at(102));
    let all = "listening:1000 ready:1000 first-byte:1600";
    assert_eq!(look(&mut runs, at(103), &up, one), all);
    // A response of the previous run.
    let mut runs = begun();
    runs.listens(at(102));
    runs.answered(ms(99_900));
    assert_eq!(look(&mut runs, at(103), &up, one), started);
    // Started by hand; the first client connects later.
    let mut runs = begun();
    runs.listens(at(102));
    look(&mut runs, at(103), &up, None);
    look(&mut runs, ms(103_500), &up, Some(sample(0, 0)));
    runs.answered(at(160));
    assert_eq!(look(&mut runs, at(160), &up, one), "");
}
