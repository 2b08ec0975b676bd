//! A history: damaged, or written by another program.

use std::{cell::RefCell, path::Path, time::Duration};

use ondemand_core::{config::Learning, learned::Learned, replay::Timeouts};
use rusqlite::{Connection, MAIN_DB, params};

use super::Numbers;
use crate::observe::history::{Moment, open, past, read::read_open};

/// The start of a database.
const MAGIC: &[u8] = b"SQLite format 3\0";

thread_local! {
    /// An empty history, and a place for others.
    static DATABASES: RefCell<(Connection, Connection)> = RefCell::new((
        empty(),
        Connection::open_in_memory().expect("a database in memory"),
    ));
}

fn empty() -> Connection {
    let mut db = Connection::open_in_memory().expect("a database in memory");
    open::migrate(&mut db, 0, &now()).expect("the tables");
    // Without it nothing is read.
    let clock = "INSERT INTO clock VALUES (1750000000000, '', 0, 1750000000000, 1800000000000)";
    db.execute(clock, []).expect("a clock");
    db
}

fn now() -> Moment {
    Moment {
        boot: "boot".into(),
        monotonic: 1_000_000,
        wall: 1_800_000_000_000,
    }
}

/// Takes the bytes of a database; or the period and then rows, each with a byte for its table and
/// arbitrary numbers for its columns.
pub fn history(data: &[u8]) {
    DATABASES.with_borrow_mut(|(rows, file)| {
        if data.starts_with(MAGIC) {
            whole(file, data);
        } else {
            let mut numbers = Numbers(data);
            let (from, until) = (numbers.i64(), numbers.i64());
            rows.execute_batch("BEGIN").expect("begin");
            while !numbers.is_empty() {
                // A row that the tables refuse is skipped.
                let _ = insert(rows, &mut numbers);
            }
            let from = (from != 0).then_some(from);
            look(rows, from, until);
            rows.execute_batch("ROLLBACK").expect("go back");
        }
    });
}

fn whole(db: &mut Connection, data: &[u8]) {
    if db
        .deserialize_read_exact(MAIN_DB, data, data.len(), false)
        .is_err()
    {
        return;
    }
    // One of the version before is mended first.
    if let Ok(1) = db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)) {
        let _ = open::migrate(db, 1, &now());
    }
    look(db, None, 1_800_000_000_000);
    look(db, Some(1_799_000_000_000), 1_799_500_000_000);
}

/// All services as one.
struct Told(Learned);

impl past::Listener for Told {
    fn start(&mut self, _: &str, _: Duration) {}

    fn gap(&mut self, _: &str, length: Duration, _: i64) {
        self.0.learn(length);
    }
}

fn look(db: &Connection, from: Option<i64>, until: i64) {
    let timeouts = Timeouts::default();
    let path = Path::new("/var/lib/ondemand/history.db");
    // What is wrong with the rest of it is no matter for those who learn.
    let mut told = Told(Learned::new(Learning::default().terms(None)));
    let _ = past::tell_open(db, &now(), &mut told);
    assert!(told.0.is_sound());
    let rivals = (&timeouts, Learning::default().terms(None));
    let Ok((period, services)) = read_open(path, db, from, until, rivals, &now()) else {
        return;
    };
    assert!(period.from <= period.until);
    for service in services {
        assert!(service.watched >= 0 && service.active >= 0);
        assert!(service.timeline.iter().all(|part| *part >= 0));
        let outcomes = service.replay.outcomes(&timeouts);
        assert!(outcomes.is_sorted_by(|a, b| a.cold_starts >= b.cold_starts));
    }
}

fn insert(db: &Connection, numbers: &mut Numbers<'_>) -> rusqlite::Result<usize> {
    let (table, service) = (numbers.u8(), i64::from(numbers.u8() % 4));
    let (a, b, c) = (numbers.i64(), numbers.i64(), numbers.i64());
    let known = |value: i64| (value != 0).then_some(value);
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| db.prepare_cached(sql)?.execute(values);
    match table % 6 {
        0 => run(
            "INSERT INTO service VALUES (?1, ?2, ?3)",
            params![service, format!("service {service}"), known(a)],
        ),
        1 => run(
            "INSERT INTO watch VALUES (?1, ?2, ?3)",
            params![service, a, known(b)],
        ),
        2 => run(
            "INSERT INTO gap VALUES (?1, ?2, ?3)",
            params![a, service, known(b)],
        ),
        3 => run(
            "INSERT INTO gap VALUES (?1, ?2, ?3)",
            params![a, b, known(c)],
        ),
        4 => run(
            "INSERT INTO activation VALUES (?1, ?2, ?5, ?6, ?3, ?7, ?8, ?9, ?10, ?4, ?11)",
            params![
                a,
                service,
                known(b),
                known(c),
                known(numbers.i64()),
                known(numbers.i64()),
                known(numbers.i64()),
                numbers.i64(),
                numbers.i64(),
                numbers.i64(),
                numbers.i64()
            ],
        ),
        _ => run(
            "INSERT INTO clock VALUES (?1, ?2, ?3, ?4, ?5)",
            params![a, ["", "boot"][service as usize % 2], b, c, numbers.i64()],
        ),
    }
}
