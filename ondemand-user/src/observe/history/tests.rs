//! Records are read as they were written; an unusable database is explained.

mod days;
mod old;
mod past;
mod unseen;
mod year;

use std::{fs, path::Path, sync::LazyLock};

use ondemand_core::{caught::Tally, config::Learning, replay::Timeouts};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{read::Rivals, store::Store, *};

const MINUTE: i64 = 60_000;
/// The wall clock at the boot: 2026-03-02, a Monday.
const BASE: i64 = 1_772_409_600_000;

/// The clocks at a time after the boot.
fn moment(monotonic: i64) -> Moment {
    Moment {
        boot: "boot".to_owned(),
        monotonic,
        wall: BASE + monotonic,
    }
}

fn rivals() -> Rivals<'static> {
    static TIMEOUTS: LazyLock<Timeouts> = LazyLock::new(Timeouts::default);
    (&TIMEOUTS, Learning::default().terms(None))
}

fn place() -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    (directory, path)
}

fn of(name: &str, what: What) -> Record {
    let name = name.to_owned();
    Record::Service { name, what }
}

fn watched(at: i64) -> Record {
    let services = vec!["wiki".to_owned()];
    Record::Watched { services, at }
}

fn ways() -> Ways {
    Ways {
        held: Tally {
            to_application: 5,
            to_front: 1,
            gave_up: 2,
            held: Duration::from_millis(90),
            ..Tally::default()
        },
        refused: 3,
        datagrams: 8,
        refused_datagrams: 4,
        sent_datagrams: 6,
        lost_datagrams: 7,
    }
}

fn stopped(at: i64, reason: StopReason) -> What {
    What::Stopped {
        at,
        reason,
        connections: 3,
        received: 10,
        sent: 20,
        proxied: 1,
        silent: 2,
        ways: Some(ways()),
        turns: Turns {
            evicted: Some(Eviction::ForGroup),
            waited: 1500,
            thaws: 3,
            thawing: 6000,
            longest_thaw: 4000,
        },
    }
}

/// A run from minute 10 to minute 20, and one from 30 that does not end.
fn two_runs() -> Vec<Record> {
    let wiki = |what| of("wiki", what);
    vec![
        watched(0),
        wiki(What::Down { since: 0 }),
        wiki(What::Arrived {
            at: 10 * MINUTE,
            gap: None,
        }),
        wiki(What::Up {
            started: 10 * MINUTE,
        }),
        wiki(What::Listening { after: 250 }),
        wiki(What::FirstByte { after: 300 }),
        wiki(What::Quiet { since: 15 * MINUTE }),
        wiki(What::Usage {
            started: 10 * MINUTE,
            memory: Some(1 << 30),
            cpu: Some(7_000_000),
        }),
        wiki(stopped(20 * MINUTE, StopReason::Idle)),
        wiki(What::Arrived {
            at: 30 * MINUTE,
            gap: Some(15 * MINUTE),
        }),
        wiki(What::Up {
            started: 30 * MINUTE,
        }),
    ]
}

fn written(path: &Path, records: &[Record]) -> Store {
    written_at(path, records, 0)
}

fn written_at(path: &Path, records: &[Record], now: i64) -> Store {
    let mut store = Store::open(path, &moment(now)).unwrap();
    store.write(records, &moment(now)).unwrap();
    store
}

/// Reads a period, at its end. Milliseconds after the boot.
fn read_at(path: &Path, from: Option<i64>, until: i64) -> anyhow::Result<(Period, Vec<Loaded>)> {
    let (from, now) = (from.map(|from| BASE + from), moment(until));
    read(path, from, BASE + until, rivals(), &now)
}

fn load(path: &Path, from: i64, until: i64) -> Loaded {
    let (_, mut services) = read_at(path, Some(from), until).unwrap();
    assert_eq!(services.len(), 1);
    services.remove(0)
}

#[test]
fn a_period_is_cut_out_of_what_was_written() {
    let (_directory, path) = place();
    let _store = written(&path, &two_runs());
    // Minutes from and until: up, watched, starts, gaps, GiB-minutes given back.
    let check = |from, until, expected: (i64, i64, u64, u64, u128)| {
        let found = load(&path, from * MINUTE, until * MINUTE);
        let given_back = found.given_back.known().unwrap() / ((1 << 30) * MINUTE as u128);
        let figures = (
            found.active / MINUTE,
            found.watched / MINUTE,
            found.activations,
            found.replay.arrivals(),
            given_back,
        );
        assert_eq!(figures, expected, "{from} to {until}");
        assert_eq!(
            found.timeline.iter().sum::<i64>() / MINUTE,
            found.active / MINUTE
        );
    };
    check(0, 40, (20, 40, 2, 2, 10));
    check(0, 25, (10, 25, 1, 1, 5));
    check(12, 18, (6, 6, 0, 0, 0));
    check(22, 28, (0, 6, 0, 0, 6));
    check(25, 35, (5, 10, 1, 1, 5));
    let whole = load(&path, 0, 40 * MINUTE);
    assert_eq!(
        (whole.cold_starts, whole.first_bytes),
        (vec![250], vec![300])
    );
    assert_eq!((whole.connections, whole.received, whole.sent), (3, 10, 20));
    assert_eq!(whole.silent, 2);
    assert_eq!((whole.evictions, whole.waits), ([1, 0], (1, 1500)));
    assert_eq!((whole.thaws, whole.longest_thaw), ((3, 6000), 4000));
    assert_eq!(
        (whole.cpu.known(), whole.stops),
        (Some(7_000_000), [1, 0, 0, 0, 0])
    );
}

#[test]
fn a_period_begins_with_what_is_known() {
    let (_directory, path) = place();
    let mut records = two_runs();
    records.splice(..2, [watched(10 * MINUTE)]);
    let _store = written(&path, &records);
    let from = |asked, until| {
        let read = read_at(&path, asked, until * MINUTE);
        read.map(|(period, _)| (period.from - BASE) / MINUTE)
    };
    assert_eq!(from(None, 40).unwrap(), 10);
    assert_eq!(from(Some(-1_000_000 * MINUTE), 40).unwrap(), 10);
    assert_eq!(from(Some(20 * MINUTE), 40).unwrap(), 20);
    let error = from(Some(0), 5).unwrap_err().to_string();
    assert!(error.contains("has no data from 2026-03-0"), "{error}");
}

#[test]
fn the_quiet_at_the_end_of_a_period_counts() {
    let (_directory, path) = place();
    let mut store = written(&path, &two_runs());
    let warm = |until: i64, minutes: u64| {
        let found = load(&path, 0, until * MINUTE);
        let timeouts = Timeouts::default();
        let hour = found.replay.outcomes(&timeouts);
        let hour = hour
            .iter()
            .find(|row| row.timeout == 3_600_000_000)
            .unwrap();
        assert_eq!(
            hour.warm_idle,
            u128::from(minutes * 60_000_000),
            "until {until}"
        );
    };
    warm(14, 0);
    warm(20, 5); // within the gap from 15 to 30
    warm(35, 15); // in use
    store
        .write(
            &[of("wiki", What::Quiet { since: 33 * MINUTE })],
            &moment(0),
        )
        .unwrap();
    warm(35, 17);
    store
        .write(&[Record::Ended { at: 36 * MINUTE }], &moment(0))
        .unwrap();
    warm(60, 18); // it was not watched after that
}

#[test]
fn an_agent_that_was_killed_goes_on_in_the_same_database() {
    let (_directory, path) = place();
    // Like a killed agent: nothing is closed.
    std::mem::forget(written(&path, &two_runs()));
    let again = vec![
        watched(40 * MINUTE),
        of("wiki", stopped(45 * MINUTE, StopReason::Failed)),
    ];
    let store = written(&path, &again);
    let found = load(&path, 0, 50 * MINUTE);
    assert_eq!((found.watched, found.active), (50 * MINUTE, 25 * MINUTE));
    assert_eq!(found.stops, [1, 0, 1, 0, 0]);
    let check: String = store
        .db()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

/// Rows as each version since the first has written them: their meaning never changes.
#[test]
fn an_old_history_reads_the_same() {
    let (_directory, path) = place();
    let store = written(&path, &[watched(0)]);
    let rows = [(0, 5), (1, 4), (2, 3), (3, 2), (4, 1)];
    let codes = rows.iter().flat_map(|(code, count)| vec![*code; *count]);
    for (started, code) in codes.chain([5, 99]).enumerate() {
        let sql = "INSERT INTO activation (started, service, ended, reason) VALUES (?, 1, 1, ?)";
        let started = started as i64 * MINUTE;
        store.db().execute(sql, [started, code]).unwrap();
    }
    let found = load(&path, 0, 40 * MINUTE);
    let names = StopReason::ALL.map(StopReason::as_str);
    assert_eq!(
        names,
        ["idle", "external", "failed", "unknown", "requested"]
    );
    assert_eq!((found.activations, found.stops), (17, [5, 4, 3, 2, 1]));
    // What is written now has the same numbers.
    let (_directory, path) = place();
    for (place, reason) in (0..).zip(StopReason::ALL) {
        let what = What::Up {
            started: place * MINUTE,
        };
        let end = stopped(place * MINUTE + 1, reason);
        let store = written(&path, &[of("wiki", what), of("wiki", end)]);
        let sql = "SELECT reason FROM activation ORDER BY started DESC LIMIT 1";
        let code = store.db().query_row(sql, [], |row| row.get::<_, i64>(0));
        assert_eq!(code, Ok(place));
    }
}

#[test]
fn what_is_too_old_is_forgotten() {
    let (_directory, path) = place();
    let day = |day: i64| day * MILLIS_A_DAY;
    let mut store = written(&path, &two_runs());
    let wiki = |what| of("wiki", what);
    store
        .write(&[wiki(stopped(40 * MINUTE, StopReason::Idle))], &moment(0))
        .unwrap();
    // The first records of a process trigger a check for old ones.
    drop(store);
    let late = day(KEPT_DAYS) + 25 * MINUTE;
    let _store = written_at(&path, &[watched(late)], late);
    let found = load(&path, 0, late);
    assert_eq!((found.activations, found.replay.arrivals()), (1, 1));
}

#[test]
fn its_size_is_bounded() {
    let (_directory, path) = place();
    let mut store = Store::open(&path, &moment(0)).unwrap();
    store.limit(1 << 20);
    let size = || fs::metadata(&path).unwrap().len();
    for batch in 0..40_i64 {
        let run = |number: i64| {
            let at = (batch * 1000 + number) * MINUTE;
            [
                What::Up { started: at },
                stopped(at + 1000, StopReason::Idle),
            ]
            .map(|what| of("wiki", what))
        };
        let records: Vec<Record> = (0..1000).flat_map(run).collect();
        let now = moment((batch + 1) * 1000 * MINUTE);
        store.write(&records, &now).unwrap();
    }
    let kept: i64 = store
        .db()
        .query_row("SELECT count(*) FROM activation", [], |row| row.get(0))
        .unwrap();
    assert!((10_000..40_000).contains(&kept), "{kept}");
    store
        .db()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    assert!(size() < 3 << 20, "{}", size());
}

#[test]
fn a_full_disk_loses_what_finds_no_room_and_nothing_else() {
    let (_directory, path) = place();
    let mut store = written(&path, &two_runs());
    // SQLite's own limit fails like a full disk.
    store
        .db()
        .execute_batch("PRAGMA max_page_count = 1")
        .unwrap();
    let names: Vec<Record> = (0..5000)
        .map(|number| of(&format!("service {number}"), What::Down { since: 0 }))
        .collect();
    let error = format!("{:#}", store.write(&names, &moment(0)).unwrap_err());
    assert!(error.contains("the disk is full"), "{error}");
    store
        .db()
        .execute_batch("PRAGMA max_page_count = 100000")
        .unwrap();
    store.write(&names[..3], &moment(0)).unwrap();
    let (_, services) = read_at(&path, None, 40 * MINUTE).unwrap();
    assert_eq!(services.len(), 4);
}

#[track_caller]
fn unreadable(path: &Path, expected: &str) {
    let error = read_at(path, None, 40 * MINUTE).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains(expected), "{error}");
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn what_is_no_history_says_so() {
    let (directory, path) = place();
    unreadable(&path, "has the agent run yet?");
    assert!(!path.exists(), "a report creates no database");
    unreadable(directory.path(), "is a directory");
    fs::write(&path, "").unwrap();
    unreadable(&path, "is a database, but not a history");
    fs::write(&path, "garbage ".repeat(1000)).unwrap();
    unreadable(&path, "no SQLite database");
    assert!(
        Store::open(&path, &moment(0)).is_err_and(|error| error.to_string().contains("no SQLite"))
    );
    fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TABLE x (y); PRAGMA user_version = 1")
        .unwrap();
    unreadable(&path, "not a history of ondemand");
    let error = Store::open(&path, &moment(0)).err().unwrap().to_string();
    assert!(error.contains("not a history of ondemand"), "{error}");
}

#[test]
fn how_clients_came_is_kept() {
    let (_directory, path) = place();
    let mut store = written(&path, &two_runs());
    let found = load(&path, 0, 25 * MINUTE);
    assert_eq!(found.ways.known(), Some(ways()));
    // What is not known of the second run leaves that of the first as it is.
    let mut unknown = stopped(40 * MINUTE, StopReason::Idle);
    if let What::Stopped { ways, .. } = &mut unknown {
        *ways = None;
    }
    store.write(&[of("wiki", unknown)], &moment(0)).unwrap();
    let found = load(&path, 0, 50 * MINUTE);
    assert_eq!((found.connections, found.ways.known()), (6, Some(ways())));
    assert_eq!(load(&path, 25 * MINUTE, 50 * MINUTE).ways.known(), None);
}

/// A database of the version before, which the agent migrates at its start: nothing is known of its runs.
#[test]
fn one_without_ways_is_migrated() {
    let (_directory, path) = place();
    let db = Connection::open(&path).unwrap();
    for step in [
        include_str!("schema.sql"),
        include_str!("clock.sql"),
        include_str!("silent.sql"),
        include_str!("proxied.sql"),
    ] {
        db.execute_batch(step).unwrap();
    }
    db.execute_batch("PRAGMA application_id = 0x6f6e646d; PRAGMA user_version = 4")
        .unwrap();
    db.execute_batch(&format!(
        "INSERT INTO service (id, name) VALUES (1, 'wiki');
         INSERT INTO clock VALUES (0, 'boot', 0, {BASE}, {});
         INSERT INTO watch VALUES (1, 0, NULL);
         INSERT INTO activation (started, service, ended, reason, connections) VALUES ({MINUTE}, 1, {MINUTE}, 0, 3)",
        3 * MINUTE
    ))
    .unwrap();
    drop(db);
    // By a report before the agent, and after it.
    let check = || {
        let found = load(&path, 0, 5 * MINUTE);
        assert_eq!((found.connections, found.ways.known()), (3, None));
    };
    check();
    let run = [
        of(
            "wiki",
            What::Up {
                started: 3 * MINUTE,
            },
        ),
        of("wiki", stopped(4 * MINUTE, StopReason::Idle)),
    ];
    drop(written_at(&path, &[], 3 * MINUTE));
    check();
    drop(written_at(&path, &run, 4 * MINUTE));
    let found = load(&path, 0, 5 * MINUTE);
    assert_eq!((found.connections, found.ways.known()), (6, Some(ways())));
}

#[test]
fn the_uses_of_all_are_in_the_order_of_time() {
    let (_directory, path) = place();
    let wiki = [
        of(
            "forge",
            What::Arrived {
                at: 12 * MINUTE,
                gap: Some(2 * MINUTE),
            },
        ),
        of("forge", What::Quiet { since: 31 * MINUTE }),
    ];
    let _store = written(&path, &[two_runs(), wiki.to_vec()].concat());
    let read = |from: Option<i64>, until: i64, names: &[&str]| {
        let from = from.map(|from| BASE + from * MINUTE);
        let now = moment(40 * MINUTE);
        let uses = arrivals::read(&path, from, BASE + until * MINUTE, names, &now).unwrap();
        let shown = uses
            .iter()
            .map(|it| format!("{:?} {}", it.what, names[it.service]));
        shown.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(
        read(None, 40, &["forge", "wiki", "other"]),
        "Unknown wiki, Used wiki, Quiet forge, Used forge, Quiet wiki, Used wiki, Quiet forge"
    );
    assert_eq!(read(Some(11), 29, &["forge"]), "Quiet forge, Used forge");
    assert_eq!(read(Some(11), 40, &["wiki"]), "Quiet wiki, Used wiki");
}

#[test]
fn a_newer_version_is_left_alone() {
    let (_directory, path) = place();
    drop(written(&path, &two_runs()));
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 7").unwrap();
    drop(newer);
    unreadable(
        &path,
        "was written by a newer ondemand (version 7 of its tables, this one supports 6)",
    );
    let error = Store::open(&path, &moment(0)).err().unwrap().to_string();
    assert!(error.contains("newer ondemand"), "{error}");
}

#[test]
fn a_damaged_one_says_so() {
    let (_directory, path) = place();
    drop(written(&path, &two_runs()));
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > 5120, "{}", bytes.len());
    bytes[1024..].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    unreadable(&path, "is damaged; move it away");
    bytes.truncate(5000);
    fs::write(&path, &bytes).unwrap();
    unreadable(&path, "is damaged; move it away");
}

#[test]
fn a_locked_one_says_so() {
    let (_directory, path) = place();
    drop(written(&path, &two_runs()));
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .unwrap();
    unreadable(&path, "is locked by another program");
}

#[test]
fn a_period_of_which_nothing_is_known() {
    let (_directory, path) = place();
    drop(Store::open(&path, &moment(0)).unwrap());
    unreadable(&path, "is empty: the agent has not run yet");
    drop(written(&path, &two_runs()));
    let error = read_at(&path, Some(-100), 0).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("has no data from"), "{error}");
    let ended = vec![
        of("wiki", stopped(40 * MINUTE, StopReason::Idle)),
        Record::Ended { at: 40 * MINUTE },
    ];
    drop(written(&path, &ended));
    let after = read_at(&path, Some(41 * MINUTE), 42 * MINUTE);
    assert!(after.unwrap_err().to_string().contains("has no data from"));
}
