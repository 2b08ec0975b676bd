//! Writes records to the database.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::Result;
use ondemand_core::{
    caught::Ways,
    runs::StopReason,
    whatif::{SAME_START, unseen},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    KEPT_DAYS, LARGEST, MILLIS_A_DAY, Moment, Record, Turns, What,
    calendar::{Segment, Turn},
    open,
};

/// The number of records between two checks for old ones.
const BETWEEN_PRUNINGS: u64 = 5_000;

/// The database, open for writing.
pub struct Store {
    path: PathBuf,
    db: Connection,
    largest: i64,
    ids: HashMap<String, i64>,
    /// The last one that is written.
    segment: Option<Segment>,
    written: u64,
}

impl Store {
    /// Opens or creates it.
    ///
    /// # Errors
    ///
    /// It cannot be used: the message says why, and what to do.
    pub fn open(path: &Path, now: &Moment) -> Result<Self> {
        let mut store = Self {
            path: path.to_owned(),
            db: open::to_write(path, now)?,
            largest: LARGEST,
            ids: HashMap::new(),
            segment: None,
            written: BETWEEN_PRUNINGS, // the first check is with the first records
        };
        store.db.set_prepared_statement_cache_capacity(32);
        let explain = |error| open::explain(path, error);
        store.set_limit(LARGEST).map_err(explain)?;
        store.read_ids().map_err(explain)?;
        store.segment = open::segments(&store.db).map_err(explain)?.pop();
        Ok(store)
    }

    /// SQLite refuses to let it grow beyond twice the size that is kept: whatever fails, it does not
    /// fill the disk.
    fn set_limit(&mut self, largest: i64) -> rusqlite::Result<()> {
        self.largest = largest;
        let page: i64 = self
            .db
            .pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = largest / page * 2;
        self.db
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
    }

    fn read_ids(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.db.prepare("SELECT name, id FROM service")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.ids = rows.collect::<rusqlite::Result<_>>()?;
        Ok(())
    }

    /// Writes all of them, and that the host lives; or, on an error, nothing.
    ///
    /// # Errors
    ///
    /// The disk is full, or the database damaged, locked, or read-only.
    pub fn write(&mut self, records: &[Record], now: &Moment) -> Result<()> {
        let written = self.try_write(records, now);
        if written.is_err() {
            // The new ids do not exist.
            self.ids.clear();
            // If this fails too, the next write reports it.
            let _ = self.read_ids();
        }
        written.map_err(|error| open::explain(&self.path, error))
    }

    fn try_write(&mut self, records: &[Record], now: &Moment) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let (segment, turn) = Segment::follow(self.segment.as_ref(), now);
        if let (Turn::Boot, Some(last)) = (turn, &self.segment) {
            end_boot(&transaction, last.until)?;
        }
        open::save(&transaction, &segment)?;
        for record in records {
            write_record(&transaction, &mut self.ids, &segment, record)?;
        }
        self.written += records.len() as u64;
        if self.written >= BETWEEN_PRUNINGS {
            self.written = 0;
            prune(&transaction, segment.until, self.largest)?;
        }
        transaction.commit()?;
        self.segment = Some(segment);
        Ok(())
    }
}

/// The host was off: what was open ended with the last sign of life.
fn end_boot(db: &Connection, alive: i64) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE activation SET ended = max(0, ?1 - started), reason = ?2 WHERE ended IS NULL",
        params![alive, StopReason::Unseen.code()],
    )?;
    db.execute("UPDATE service SET quiet_since = NULL", [])?;
    Ok(())
}

fn write_record(
    db: &Transaction<'_>,
    ids: &mut HashMap<String, i64>,
    clock: &Segment,
    record: &Record,
) -> rusqlite::Result<()> {
    match record {
        Record::Watched { services, at } => watch(db, ids, services, clock.at(*at)),
        Record::Ended { at } => db
            .execute(
                "UPDATE watch SET ended = max(began, ?) WHERE ended IS NULL",
                [clock.at(*at)],
            )
            .map(drop),
        Record::Service { name, what } => {
            let id = id(db, ids, name)?;
            write_what(db, id, clock, what)
        }
    }
}

fn id(db: &Connection, ids: &mut HashMap<String, i64>, name: &str) -> rusqlite::Result<i64> {
    if let Some(id) = ids.get(name) {
        return Ok(*id);
    }
    db.execute("INSERT INTO service (name) VALUES (?)", [name])?;
    let id = db.last_insert_rowid();
    ids.insert(name.to_owned(), id);
    Ok(id)
}

fn watch(
    db: &Connection,
    ids: &mut HashMap<String, i64>,
    services: &[String],
    at: i64,
) -> rusqlite::Result<()> {
    let mut wanted = HashSet::new();
    for name in services {
        wanted.insert(id(db, ids, name)?);
    }
    let mut statement = db.prepare("SELECT service FROM watch WHERE ended IS NULL")?;
    let watched = statement.query_map([], |row| row.get(0))?;
    let watched: HashSet<i64> = watched.collect::<rusqlite::Result<_>>()?;
    for service in watched.difference(&wanted) {
        db.execute(
            "UPDATE watch SET ended = max(began, ?) WHERE service = ? AND ended IS NULL",
            [at, *service],
        )?;
    }
    for service in wanted.difference(&watched) {
        db.execute(
            "INSERT OR REPLACE INTO watch (service, began) VALUES (?, ?)",
            [*service, at],
        )?;
    }
    Ok(())
}

fn write_what(db: &Connection, service: i64, clock: &Segment, what: &What) -> rusqlite::Result<()> {
    let execute = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        db.prepare_cached(sql)?.execute(values).map(drop)
    };
    match what {
        What::Up { started } => up(db, service, clock.at(*started)),
        What::Down { since } => end(db, service, clock.at(*since), StopReason::Unseen),
        What::Before { ended } => {
            let ended = clock.at(*ended);
            let running = running(db, service)?;
            match running.is_some_and(|started| started < ended) {
                true => end(db, service, ended, StopReason::Unseen),
                false => Ok(()),
            }
        }
        What::Ran { started, ended } => ran(db, service, clock.at(*started), clock.at(*ended)),
        What::Listening { after } => execute(
            "UPDATE activation SET listening = ?1 WHERE service = ?2 AND ended IS NULL",
            params![after, service],
        ),
        What::FirstByte { after } => execute(
            "UPDATE activation SET first_byte = ?1 WHERE service = ?2 AND ended IS NULL",
            params![after, service],
        ),
        What::Usage {
            started,
            memory,
            cpu,
        } => {
            let started = clock.at(*started);
            execute(
                "UPDATE activation SET memory = coalesce(?1, memory), cpu = coalesce(?2, cpu)
                 WHERE service = ?3 AND started BETWEEN ?4 AND ?5",
                params![
                    memory,
                    cpu,
                    service,
                    started - SAME_START,
                    started + SAME_START
                ],
            )
        }
        What::Stopped {
            at,
            reason,
            connections,
            received,
            sent,
            proxied,
            silent,
            ways,
            turns,
        } => {
            execute(
                "UPDATE activation SET connections = ?1, received = ?2, sent = ?3, silent = ?4,
                     proxied = ?6 WHERE service = ?5 AND ended IS NULL",
                params![connections, received, sent, silent, service, proxied],
            )?;
            if let Some(ways) = ways {
                write_ways(db, service, ways)?;
            }
            // Mostly there is nothing of that.
            if *turns != Turns::default() {
                execute(
                    "UPDATE activation SET evicted = ?1, waited = ?2, thaws = ?3, thawing = ?4, longest_thaw = ?5
                     WHERE service = ?6 AND ended IS NULL",
                    params![
                        turns.evicted.map(|of| of as i64),
                        turns.waited,
                        turns.thaws,
                        turns.thawing,
                        turns.longest_thaw,
                        service
                    ],
                )?;
            }
            end(db, service, clock.at(*at), *reason)
        }
        What::Quiet { since } => execute(
            "UPDATE service SET quiet_since = ?1 WHERE id = ?2",
            params![clock.at(*since), service],
        ),
        What::Found { started, used } => {
            let started = started.map(|at| clock.at(at));
            found(db, service, started, clock.at(*used))
        }
        What::Arrived { at, gap } => arrived(db, service, clock.at(*at), *gap),
    }
}

fn write_ways(db: &Connection, service: i64, ways: &Ways) -> rusqlite::Result<()> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let held_for = i64::try_from(ways.held.held.as_millis()).unwrap_or(i64::MAX);
    db.prepare_cached(
        "UPDATE activation SET held = ?2, held_to_front = ?3, gave_up = ?4, held_for = ?5, refused = ?6, datagrams = ?7,
             held_datagrams = ?8, lost_datagrams = ?9, refused_datagrams = ?10 WHERE service = ?1 AND ended IS NULL",
    )?
    .execute(params![
        service,
        number(ways.held.to_application),
        number(ways.held.to_front),
        number(ways.held.gave_up),
        held_for,
        number(ways.refused),
        number(ways.datagrams),
        number(ways.sent_datagrams),
        number(ways.lost_datagrams),
        number(ways.refused_datagrams),
    ])
    .map(drop)
}

fn arrived(db: &Connection, service: i64, at: i64, gap: Option<i64>) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO gap (ended, service, length) VALUES (?, ?, ?)")?
        .execute(params![at, service, gap])?;
    db.prepare_cached("UPDATE service SET quiet_since = NULL WHERE id = ?")?
        .execute([service])?;
    Ok(())
}

/// A client that no agent saw: it began a run, or used one that an agent saw quiet.
fn found(db: &Connection, service: i64, started: Option<i64>, used: i64) -> rusqlite::Result<()> {
    let quiet: Option<i64> = db
        .prepare_cached("SELECT quiet_since FROM service WHERE id = ?")?
        .query_row([service], |row| row.get(0))?;
    let Some(at) = unseen(quiet, started, used) else {
        return Ok(());
    };
    let seen: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM gap WHERE service = ? AND ended >= ?)")?
        .query_row([service, at - SAME_START], |row| row.get(0))?;
    if seen {
        return Ok(());
    }
    arrived(db, service, at, quiet.map(|quiet| at - quiet))
}

/// When its run began that has not ended.
fn running(db: &Connection, service: i64) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT started FROM activation WHERE service = ? AND ended IS NULL")?
        .query_row([service], |row| row.get(0))
        .optional()
}

/// A run that is over: it is new if no agent saw its start, and one watched the service before.
fn ran(db: &Connection, service: i64, started: i64, ended: i64) -> rusqlite::Result<()> {
    let is_new: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM watch WHERE service = ?1 AND began <= ?2)
                AND NOT EXISTS (SELECT 1 FROM activation
                    WHERE service = ?1 AND started BETWEEN ?2 - ?3 AND ?2 + ?3)",
        )?
        .query_row([service, started, SAME_START], |row| row.get(0))?;
    if is_new {
        up(db, service, started)?;
    }
    end(db, service, ended, StopReason::Unseen)
}

fn up(db: &Connection, service: i64, started: i64) -> rusqlite::Result<()> {
    let running = running(db, service)?;
    if running.is_some_and(|running| (running - started).abs() <= SAME_START) {
        return Ok(());
    }
    // Its end was not seen, but this start is later.
    end(db, service, started, StopReason::Unseen)?;
    db.prepare_cached("INSERT OR REPLACE INTO activation (started, service) VALUES (?, ?)")?
        .execute([started, service])?;
    Ok(())
}

fn end(db: &Connection, service: i64, at: i64, reason: StopReason) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE activation SET ended = max(0, ?1 - started), reason = ?2
         WHERE service = ?3 AND ended IS NULL",
    )?
    .execute([at, reason.code(), service])?;
    Ok(())
}

/// Deletes old records, or as many as the size requires.
fn prune(db: &Connection, now: i64, largest: i64) -> rusqlite::Result<()> {
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let used = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    let mut before = now - KEPT_DAYS * MILLIS_A_DAY;
    if used > largest {
        let oldest: i64 = db.query_row(
            "SELECT min(
                coalesce((SELECT min(started) FROM activation WHERE ended IS NOT NULL), ?1),
                coalesce((SELECT min(ended) FROM gap), ?1))",
            [now],
            |row| row.get(0),
        )?;
        // A twentieth of the covered time.
        before = before.max(oldest + (now - oldest) / 20);
    }
    for sql in [
        "DELETE FROM activation WHERE started < ? AND ended IS NOT NULL",
        "DELETE FROM gap WHERE ended < ?",
        "DELETE FROM watch WHERE ended < ?",
        "DELETE FROM clock WHERE since < (SELECT max(since) FROM clock WHERE since <= ?)",
    ] {
        db.execute(sql, [before])?;
    }
    Ok(())
}

#[cfg(test)]
impl Store {
    /// Sets a smaller limit, for tests.
    pub(super) fn limit(&mut self, largest: i64) {
        self.set_limit(largest).unwrap();
    }

    pub(super) fn db(&self) -> &Connection {
        &self.db
    }
}
