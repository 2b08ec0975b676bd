//! Databases of version 1, which had the wall clock's times alone: mended as far as they tell.

use super::*;

const HOUR: i64 = 60 * MINUTE;

/// Makes one with these statements; times are written as hours after [`BASE`], `NOW` minus it.
fn old(path: &Path, sql: &str) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    db.execute_batch(include_str!("../schema.sql")).unwrap();
    db.execute_batch("PRAGMA application_id = 0x6f6e646d; PRAGMA user_version = 1")
        .unwrap();
    db.execute_batch("INSERT INTO service (id, name) VALUES (1, 'wiki'), (2, 'forge')")
        .unwrap();
    db.execute_batch(&sql.replace("T+", &format!("{BASE}+{HOUR}*")))
        .unwrap();
}

/// Hours since [`BASE`] at which the agent of this version starts, and hours since the boot; then each
/// service's minutes up at that moment and half an hour later, when it has found the wiki as it is.
#[track_caller]
fn check(sql: &str, now: (i64, i64), what: &[What], minutes: [i64; 2], later: [i64; 2]) {
    let (_directory, path) = place();
    old(&path, sql);
    let mut now = Moment {
        boot: "boot".to_owned(),
        monotonic: now.1 * HOUR,
        wall: BASE + now.0 * HOUR,
    };
    let up = |now: &Moment| {
        let (_, services) = read(&path, None, now.wall, rivals(), now).unwrap();
        let mut found = [0, 0];
        for service in services {
            found[usize::from(service.name == "forge")] = service.active / MINUTE;
        }
        found
    };
    // By a report before the agent, which changes nothing, and after it.
    assert_eq!(up(&now), minutes, "{sql}");
    let db = Connection::open(&path).unwrap();
    let version = db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    assert_eq!(version, Ok(1));
    drop(db);
    let mut store = Store::open(&path, &now).unwrap();
    store.write(&[], &now).unwrap();
    assert_eq!(up(&now), minutes, "{sql}");
    let records: Vec<Record> = what.iter().map(|what| of("wiki", *what)).collect();
    store.write(&records, &now).unwrap();
    now.monotonic += HOUR / 2;
    now.wall += HOUR / 2;
    assert_eq!(up(&now), later, "{sql}");
}

#[test]
fn what_nobody_saw_is_cut_at_the_last_sign_of_life() {
    let run = "INSERT INTO activation (started, service, ended, reason) VALUES ";
    // The power was cut at 2, the host was off until 12, and the next agent dated the end then. The
    // forge's stop at 1:30 is the last that is known of that evening.
    let cut = format!(
        "{run} (T+0, 1, {HOUR}*12, 3), (T+1, 2, {HOUR}/2, 0), (T+12, 1, {HOUR}, 0);
         INSERT INTO watch VALUES (1, T+0, NULL), (2, T+0, NULL)"
    );
    check(&cut, (14, 2), &[], [150, 30], [150, 30]);
    // It was cut at the end, and nobody has looked since.
    let open = format!("{run} (T+0, 1, NULL, NULL), (T+1, 2, {HOUR}/2, 0)");
    let up = [What::Up { started: 0 }];
    check(&open, (14, 2), &up, [90, 30], [90 + 150, 30]);
}

#[test]
fn a_run_of_this_boot_goes_on() {
    let open = "INSERT INTO activation (started, service) VALUES (T+10, 1), (T+11, 2)";
    let up = [What::Up { started: HOUR + 7 }];
    check(open, (12, 3), &up, [120, 60], [150, 90]);
    let ended = [stopped(3 * HOUR, StopReason::Idle)];
    check(open, (12, 3), &ended, [120, 60], [120, 90]);
}

#[test]
fn spans_that_a_step_stretched_are_cut() {
    let run = "INSERT INTO activation (started, service, ended, reason, listening) VALUES ";
    let years = 51 * 365 * 24;
    // Ahead at its end; started with a clock that was not set; both in one history.
    let ahead = format!("{run} (T+0, 1, {years}*{HOUR}, 0, 120000), (T+1, 2, {HOUR}, 0, 1)");
    check(&ahead, (14, 2), &[], [2, 60], [2, 60]);
    let unset = format!(
        "{run} (60000, 1, T+0, 0, 120000), (T+1, 2, {HOUR}, 0, 1);
         INSERT INTO watch VALUES (1, 1000, NULL), (2, 1000, T+3)"
    );
    check(&unset, (14, 2), &[], [2, 60], [2, 60]);
    // Written under a clock that was ahead: it was before this boot.
    let future = format!("{run} (T+{years}, 1, {HOUR}, 0, 1), (T+1, 2, {HOUR}, 0, 1)");
    check(&future, (14, 2), &[], [60, 60], [60, 60]);
    // The clock is not set yet when it is mended.
    let late = -BASE / HOUR;
    check(&ahead, (late, 1), &[], [2, 60], [2, 60]);
}

#[test]
fn an_empty_one_and_one_that_is_mended_twice() {
    let (_directory, path) = place();
    old(&path, "");
    drop(written(&path, &two_runs()));
    for _ in 0..2 {
        let (_, services) = read_at(&path, None, 40 * MINUTE).unwrap();
        let wiki = services.iter().find(|service| service.name == "wiki");
        assert_eq!(wiki.unwrap().active / MINUTE, 20);
        drop(Store::open(&path, &moment(0)).unwrap());
    }
}
