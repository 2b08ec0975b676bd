//! Mends what version 1 of the tables had by the wall clock alone, as far as it can be known.
//!
//! There, a run that was open at a power cut ended when the next agent looked, a step of the clock
//! stretched a span by years, and nothing says in which boot a row was written. What is unknown is
//! cut, never invented: a span that touches a time that cannot be true keeps what was measured
//! otherwise, and one of which nobody saw the end ends with the last record of anything.

use ondemand_core::runs::StopReason;
use rusqlite::{Connection, params};

use super::{
    MILLIS_A_DAY, Moment,
    calendar::{EARLIEST, Segment},
    open::save,
};

/// A longer span is none. Milliseconds.
const LONGEST: i64 = 3650 * MILLIS_A_DAY;
/// A silence that is no sign of a host that is off. Milliseconds.
const SILENCE: i64 = 600_000;

/// All moments in the tables.
const STAMPS: &str = "SELECT started AS at FROM activation
    UNION ALL SELECT started + ended FROM activation WHERE ended IS NOT NULL
    UNION ALL SELECT ended FROM gap
    UNION ALL SELECT began FROM watch
    UNION ALL SELECT ended FROM watch
    UNION ALL SELECT quiet_since FROM service";

/// Mends the tables, and starts the clock of version 2 at `now`: it goes on from the wall clock's times.
///
/// # Errors
///
/// The database fails.
pub fn mend(db: &Connection, now: &Moment) -> rusqlite::Result<()> {
    let latest = match now.wall < EARLIEST {
        true => i64::MAX,
        false => now.wall.saturating_add(MILLIS_A_DAY),
    };
    let boot = now.wall.saturating_sub(now.monotonic);
    cut_impossible(db, latest)?;
    date_unset(db, boot)?;
    date_ahead(db, latest, boot)?;
    cut_unseen(db)?;
    let Some((first, last)) = extent(db, i64::MIN, i64::MAX)? else {
        return Ok(());
    };
    // The rows of this boot keep their times.
    let since = match last < now.wall {
        true => boot,
        false => last.saturating_add(1),
    };
    end_older_boots(db, since)?;
    if first < since {
        let older = Segment {
            since: first,
            boot: String::new(),
            monotonic: 0,
            wall: first,
            until: last.min(since.saturating_sub(1)),
        };
        save(db, &older)?;
    }
    let present = Segment {
        since,
        boot: now.boot.clone(),
        monotonic: 0,
        wall: boot,
        until: since.saturating_add(now.monotonic),
    };
    save(db, &present)
}

/// The first and the last moment in the tables between two dates.
fn extent(db: &Connection, from: i64, until: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    let sql = format!("SELECT min(at), max(at) FROM ({STAMPS}) WHERE at >= ? AND at < ?");
    db.query_row(&sql, [from, until], |row| {
        let (first, last): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
        Ok(first.zip(last))
    })
}

/// Spans that begin before a history can, end in the future, or are too long.
fn cut_impossible(db: &Connection, latest: i64) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE activation SET ended = max(coalesce(listening, 0), coalesce(first_byte, 0), 0)
         WHERE started + ended > ?2 AND started < ?2
            OR started < ?1 AND (ended IS NULL OR started + ended > ?1)
            OR ended > ?3",
        [EARLIEST, latest, LONGEST],
    )?;
    db.execute(
        "UPDATE OR REPLACE watch SET began = coalesce((
            SELECT min(at) FROM (SELECT min(started) AS at FROM activation WHERE started >= ?1
                UNION ALL SELECT min(ended) FROM gap WHERE ended >= ?1)), ended, ?1)
         WHERE began < ?1 AND (ended IS NULL OR ended > ?1)",
        [EARLIEST],
    )?;
    db.execute(
        "UPDATE watch SET ended = began WHERE began < ?1 AND ended > ?1",
        [latest],
    )?;
    Ok(())
}

/// Moves what was written before the clock was set to the time before what follows.
fn date_unset(db: &Connection, boot: i64) -> rusqlite::Result<()> {
    let Some((_, last)) = extent(db, i64::MIN, EARLIEST)? else {
        return Ok(());
    };
    let follows = extent(db, EARLIEST, i64::MAX)?;
    let follows = follows.map_or(boot, |(first, _)| first.min(boot));
    let later = follows.saturating_sub(1).saturating_sub(last);
    shift(db, (i64::MIN, EARLIEST), later)
}

/// Moves what was written under a clock that was ahead to the time after everything else.
fn date_ahead(db: &Connection, latest: i64, boot: i64) -> rusqlite::Result<()> {
    let Some((first, last)) = extent(db, latest, i64::MAX)? else {
        return Ok(());
    };
    let begin = match extent(db, i64::MIN, latest)? {
        Some((_, before)) => before.saturating_add(1),
        None => boot.saturating_sub(last.saturating_sub(first)),
    };
    shift(db, (latest, i64::MAX), begin.saturating_sub(first))
}

fn shift(db: &Connection, dates: (i64, i64), by: i64) -> rusqlite::Result<()> {
    for (table, column) in [
        ("activation", "started"),
        ("gap", "ended"),
        ("watch", "began"),
        ("watch", "ended"),
        ("service", "quiet_since"),
    ] {
        let sql = format!(
            "UPDATE OR REPLACE {table} SET {column} = {column} + ?1 WHERE {column} >= ?2 AND {column} < ?3"
        );
        db.execute(&sql, [by, dates.0, dates.1])?;
    }
    Ok(())
}

/// The last record of anything from `started` on and before an end.
fn sign(db: &Connection, started: i64, before: i64) -> rusqlite::Result<i64> {
    let sql = "SELECT max(at) FROM (
        SELECT max(started) AS at FROM activation WHERE started < ?2
        UNION ALL SELECT max(started + ended) FROM activation
            WHERE started BETWEEN ?1 AND ?2 AND started + ended < ?2 AND reason IS NOT ?3
        UNION ALL SELECT max(ended) FROM gap WHERE ended < ?2
        UNION ALL SELECT max(began) FROM watch WHERE began < ?2
        UNION ALL SELECT max(ended) FROM watch WHERE ended < ?2
        UNION ALL SELECT max(quiet_since) FROM service WHERE quiet_since < ?2)";
    let values = params![started, before, StopReason::Unseen.code()];
    let found: Option<i64> = db
        .prepare_cached(sql)?
        .query_row(values, |row| row.get(0))?;
    Ok(found.map_or(started, |at| at.max(started)))
}

/// Runs of which no agent saw the end: it was dated when the next one looked.
fn cut_unseen(db: &Connection) -> rusqlite::Result<()> {
    let mut statement = db
        .prepare("SELECT started, service, ended FROM activation WHERE reason = ? AND ended > ?")?;
    let rows = statement.query_map([StopReason::Unseen.code(), SILENCE], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    let rows: Vec<(i64, i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
    let mut cut =
        db.prepare("UPDATE activation SET ended = ? WHERE started = ? AND service = ?")?;
    for (started, service, length) in rows {
        let ended = started.saturating_add(length);
        let alive = sign(db, started, ended)?;
        if ended.saturating_sub(alive) > SILENCE {
            cut.execute([alive.saturating_sub(started), started, service])?;
        }
    }
    Ok(())
}

/// Runs that are open since before this boot.
fn end_older_boots(db: &Connection, boot: i64) -> rusqlite::Result<()> {
    let mut statement =
        db.prepare("SELECT started, service FROM activation WHERE ended IS NULL AND started < ?")?;
    let rows = statement.query_map([boot], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
    for (started, service) in rows {
        let alive = sign(db, started, boot)?;
        db.execute(
            "UPDATE activation SET ended = ?, reason = ? WHERE started = ? AND service = ?",
            [
                alive.saturating_sub(started),
                StopReason::Unseen.code(),
                started,
                service,
            ],
        )?;
    }
    Ok(())
}
