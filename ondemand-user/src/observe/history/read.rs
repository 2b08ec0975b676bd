//! Reads a period of the history, once and in ascending order.

use std::{path::Path, thread, time::Duration};

use anyhow::{Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use ondemand_core::{
    caught::{Tally, Ways},
    learned::{Terms, Trial},
    replay::{Replay, Timeouts},
    runs::StopReason,
};
use rusqlite::{Connection, Row, types::ValueRef};

use super::{
    Moment,
    calendar::Calendar,
    hours::Hours,
    loaded::{Loaded, Period, Week},
    open,
};

/// The timeouts that are compared: fixed ones, and the learned one by these terms.
pub type Rivals<'a> = (&'a Timeouts, Terms);

/// Reads the database at `path`, from its first record if `from` is `None` or before that, as seen from
/// `now`. Returns the period, which ends at `until`, and all services by name. All of these times are
/// milliseconds since 1970.
///
/// # Errors
///
/// It cannot be read, or has no data of this period.
pub fn read(
    path: &Path,
    from: Option<i64>,
    until: i64,
    rivals: Rivals<'_>,
    now: &Moment,
) -> Result<(Period, Vec<Loaded>)> {
    let mut db = open::to_read(path, now)?;
    let explain = |error| open::explain(path, error);
    // One consistent state, while the agent keeps writing.
    let db = db.transaction().map_err(explain)?;
    let mut reader = Reader::begin(path, &db, from, until, rivals, now)?;
    // The two large tables are read in parallel.
    let (period, calendar) = (reader.period, reader.calendar.clone());
    let known = reader.known();
    let gaps = thread::scope(|scope| {
        let gaps = scope.spawn(|| {
            let db = open::to_read(path, now)?;
            gaps(&db, period, &calendar, rivals, &known).map_err(explain)
        });
        reader.watches(&db).map_err(explain)?;
        reader.activations(&db).map_err(explain)?;
        match gaps.join() {
            Ok(gaps) => gaps,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    reader.finish(path, &db, gaps)
}

/// Like [`read`], for an open database, on this thread alone.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_open(
    path: &Path,
    db: &Connection,
    from: Option<i64>,
    until: i64,
    rivals: Rivals<'_>,
    now: &Moment,
) -> Result<(Period, Vec<Loaded>)> {
    let explain = |error| open::explain(path, error);
    open::check(path, db)?;
    let mut reader = Reader::begin(path, db, from, until, rivals, now)?;
    reader.watches(db).map_err(explain)?;
    reader.activations(db).map_err(explain)?;
    let (period, known) = (reader.period, reader.known());
    let gaps = gaps(db, period, &reader.calendar, rivals, &known).map_err(explain)?;
    reader.finish(path, db, gaps)
}

fn local(at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::system());
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The first record.
fn begin(db: &Connection) -> rusqlite::Result<Option<i64>> {
    db.query_row(
        "SELECT min(at) FROM (SELECT min(began) AS at FROM watch
             UNION ALL SELECT min(started) FROM activation
             UNION ALL SELECT min(ended) FROM gap)",
        [],
        |row| row.get(0),
    )
}

/// From this number of a service on, a database is damaged: the agent counts from 1, and reading
/// takes memory up to the largest.
const MOST_SERVICES: usize = 1 << 16;

struct Reader {
    calendar: Calendar,
    /// On the history's clock, as all that follows.
    period: Period,
    /// The period by the wall clock.
    dates: Period,
    /// The requested start, which may be before the first record. By the wall clock.
    asked: i64,
    /// The first record. By the wall clock.
    begin: i64,
    /// By their numbers in the database.
    services: Vec<Option<Box<Loaded>>>,
}

/// A run in the database.
struct Run {
    started: i64,
    ended: Option<i64>,
    memory: Option<u64>,
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    // Millions of times: an i64 by FromSql takes twice as long.
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    })
}

impl Reader {
    fn begin(
        path: &Path,
        db: &Connection,
        from: Option<i64>,
        until: i64,
        rivals: Rivals<'_>,
        now: &Moment,
    ) -> Result<Self> {
        let explain = |error| open::explain(path, error);
        let segments = open::segments(db).map_err(explain)?;
        let begin = begin(db).map_err(explain)?;
        let Some((calendar, begin)) = Calendar::new(segments, now).zip(begin) else {
            bail!(
                "the history {} is empty: the agent has not run yet",
                path.display()
            );
        };
        let begin = calendar.wall(begin);
        let asked = from.unwrap_or(begin).min(until);
        let dates = Period {
            // What was before is unknown.
            from: asked.max(begin).min(until),
            until,
        };
        let end = calendar.at(dates.until).min(calendar.end());
        let period = Period {
            from: calendar.at(dates.from).min(end),
            until: end,
        };
        let mut reader = Self {
            calendar,
            period,
            dates,
            asked,
            begin,
            services: Vec::new(),
        };
        reader.services(db, rivals).map_err(explain)?;
        Ok(reader)
    }

    /// Assembles the results.
    fn finish(mut self, path: &Path, db: &Connection, gaps: Gaps) -> Result<(Period, Vec<Loaded>)> {
        for (service, gaps) in self.services.iter_mut().zip(gaps) {
            if let Some((service, (replay, trial, week))) = service.as_mut().zip(gaps) {
                (service.replay, service.trial, service.week) = (replay, trial, week);
            }
        }
        self.end(db).map_err(|error| open::explain(path, error))?;
        let Self {
            dates,
            asked,
            begin,
            services,
            ..
        } = self;
        let services: Vec<Loaded> = services.into_iter().flatten().map(|it| *it).collect();
        if !services.iter().any(Loaded::is_known) {
            let shown = |at| Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), local);
            bail!(
                "the history {} has no data from {} to {}; it starts at {}",
                path.display(),
                shown(asked),
                shown(dates.until),
                shown(begin)
            );
        }
        Ok((dates, services))
    }

    /// Which numbers belong to a service.
    fn known(&self) -> Vec<bool> {
        self.services.iter().map(Option::is_some).collect()
    }

    fn of(&mut self, service: i64) -> Option<&mut Loaded> {
        let place = usize::try_from(service).ok()?;
        self.services.get_mut(place)?.as_deref_mut()
    }

    fn services(&mut self, db: &Connection, rivals: Rivals<'_>) -> rusqlite::Result<()> {
        let mut statement = db.prepare("SELECT id, name, quiet_since FROM service ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let Ok(place @ 0..MOST_SERVICES) = usize::try_from(id) else {
                continue;
            };
            self.services.resize_with(place, || None);
            let (name, quiet_since) = (row.get(1)?, row.get(2)?);
            let loaded = Loaded::new(name, quiet_since, rivals);
            self.services.push(Some(Box::new(loaded)));
        }
        Ok(())
    }

    fn watches(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let period = self.period;
        let mut statement = db.prepare("SELECT service, began, ended FROM watch")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let began: i64 = row.get(1)?;
            let ended = row.get::<_, Option<i64>>(2)?.unwrap_or(period.until);
            if let Some(service) = self.of(row.get(0)?) {
                service.watched = service.watched.saturating_add(period.part(began, ended));
                service.watched_until = service.watched_until.max(ended.min(period.until));
            }
        }
        Ok(())
    }

    fn activations(&mut self, db: &Connection) -> rusqlite::Result<()> {
        const COLUMNS: &str = "started, service, ended, memory";
        let period = self.period;
        // For each service the last run that started before.
        let mut missing = self.services.iter().flatten().count();
        let mut found = vec![false; self.services.len()];
        let sql =
            format!("SELECT {COLUMNS} FROM activation WHERE started < ? ORDER BY started DESC");
        let mut statement = db.prepare(&sql)?;
        let mut rows = statement.query([period.from])?;
        while missing > 0
            && let Some(row) = rows.next()?
        {
            let id: i64 = row.get(1)?;
            if self.of(id).is_none() || std::mem::replace(&mut found[id as usize], true) {
                continue;
            }
            missing -= 1;
            let run = run(row)?;
            self.run(id, &run);
        }
        let sql = format!(
            "SELECT {COLUMNS}, listening, first_byte, reason, connections, received, sent, cpu, silent, proxied,
                 evicted, waited, thaws, thawing, longest_thaw, {WAYS}
             FROM activation WHERE started >= ? AND started < ? ORDER BY started"
        );
        let mut statement = db.prepare(&sql)?;
        let mut rows = statement.query([period.from, period.until])?;
        while let Some(row) = rows.next()? {
            let (id, run) = (row.get(1)?, run(row)?);
            self.run(id, &run);
            let Some(service) = self.of(id) else {
                continue;
            };
            service.activations += 1;
            if let Some(took) = unsigned(row, 4)? {
                service
                    .cold_starts
                    .push(u32::try_from(took).unwrap_or(u32::MAX));
            }
            if let Some(took) = unsigned(row, 5)? {
                service
                    .first_bytes
                    .push(u32::try_from(took).unwrap_or(u32::MAX));
            }
            if run.ended.is_none() {
                continue;
            }
            let code = row.get::<_, Option<u32>>(6)?.map(i64::from);
            if let Some(reason) = code.and_then(StopReason::from_code) {
                service.stops[reason as usize] += 1;
            }
            let sums = [
                &mut service.connections,
                &mut service.received,
                &mut service.sent,
            ];
            for (sum, column) in sums.into_iter().zip(7..) {
                *sum = sum.saturating_add(unsigned(row, column)?.unwrap_or(0));
            }
            service.cpu.add(unsigned(row, 10)?);
            let silent = unsigned(row, 11)?.unwrap_or(0);
            service.silent = service.silent.saturating_add(silent);
            service.proxied.add(unsigned(row, 12)?);
            service.take_turns(row, 13)?;
            service.ways.add(ways(row, 18)?);
        }
        Ok(())
    }

    /// Handles a run of a service, in ascending order.
    fn run(&mut self, id: i64, run: &Run) {
        let (period, dates) = (self.period, self.dates);
        let place = usize::try_from(id).ok();
        let service = place.and_then(|place| self.services.get_mut(place)?.as_deref_mut());
        let Some(service) = service else {
            return;
        };
        if let Some((since, memory)) = service.down.take() {
            service.give_back(memory, period.part(since, run.started));
        }
        let until = run
            .ended
            .map_or(period.until, |ended| run.started.saturating_add(ended));
        service.active = service
            .active
            .saturating_add(period.part(run.started, until));
        for (from, until) in self.calendar.pieces(run.started, until) {
            service.draw(dates, from, until);
        }
        service.memory = run.memory.or(service.memory);
        if run.ended.is_some() {
            service.down = Some((until, service.memory));
        }
    }

    /// Handles what had not ended at the end of the period.
    fn end(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let period = self.period;
        // For each service the first gap that ended after it.
        let mut missing = self.services.iter().flatten().count();
        let mut later = vec![false; self.services.len()];
        let mut statement =
            db.prepare("SELECT ended, service, length FROM gap WHERE ended >= ? ORDER BY ended")?;
        let mut rows = statement.query([period.until])?;
        while missing > 0
            && let Some(row) = rows.next()?
        {
            let (ended, id): (i64, i64) = (row.get(0)?, row.get(1)?);
            if self.of(id).is_none() || std::mem::replace(&mut later[id as usize], true) {
                continue;
            }
            missing -= 1;
            // It was quiet then, or that is unknown, whatever its present state is.
            let length: Option<i64> = row.get(2)?;
            let since = length.map(|length| ended.saturating_sub(length));
            if let Some(service) = self.of(id) {
                service.open(period, since.filter(|since| *since < period.until));
            }
        }
        for (service, later) in self.services.iter_mut().zip(later) {
            let Some(service) = service.as_mut().filter(|_| !later) else {
                continue;
            };
            service.open(period, service.quiet_since);
        }
        for service in self.services.iter_mut().flatten() {
            if let Some((since, memory)) = service.down {
                let until = service.watched_until.max(since);
                service.give_back(memory, period.part(since, until));
            }
        }
        Ok(())
    }
}

/// The gaps of a service, and when they ended.
type Gaps = Vec<Option<(Replay, Trial, Week)>>;

/// Reads the gaps of the known services.
fn gaps(
    db: &Connection,
    period: Period,
    calendar: &Calendar,
    rivals: Rivals<'_>,
    known: &[bool],
) -> rusqlite::Result<Gaps> {
    let none = || {
        (
            Replay::new(rivals.0),
            Trial::new(rivals.1),
            Box::new([0; 168]),
        )
    };
    let mut services: Gaps = known.iter().map(|known| known.then(none)).collect();
    let mut hours = Hours::new();
    let mut statement = db.prepare(
        "SELECT ended, service, length FROM gap WHERE ended >= ? AND ended < ? ORDER BY ended",
    )?;
    let mut rows = statement.query([period.from, period.until])?;
    while let Some(row) = rows.next()? {
        let hour = hours.of(calendar.wall(row.get(0)?));
        let service = services.get_mut(row.get::<_, u32>(1)? as usize);
        let Some((replay, trial, week)) = service.and_then(Option::as_mut) else {
            continue;
        };
        match unsigned(row, 2)? {
            Some(length) => {
                let length = length.saturating_mul(1000);
                replay.gap(rivals.0, length);
                trial.gap(length);
            }
            None => {
                replay.first();
                trial.first();
            }
        }
        week[hour] = week[hour].saturating_add(1);
    }
    Ok(services)
}

/// The columns of [`ways`].
const WAYS: &str = "held, held_to_front, gave_up, held_for, refused, datagrams, held_datagrams, lost_datagrams, refused_datagrams";

/// How clients have come, from this column on.
fn ways(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Ways>> {
    let mut numbers = [0; 9];
    for (number, column) in numbers.iter_mut().zip(first..) {
        let Some(found) = unsigned(row, column)? else {
            return Ok(None);
        };
        *number = found;
    }
    let [
        to_application,
        to_front,
        gave_up,
        held_for,
        refused,
        datagrams,
        sent_datagrams,
        lost_datagrams,
        refused_datagrams,
    ] = numbers;
    Ok(Some(Ways {
        held: Tally {
            to_application,
            to_front,
            gave_up,
            held: Duration::from_millis(held_for),
            ..Tally::default()
        },
        refused,
        datagrams,
        refused_datagrams,
        sent_datagrams,
        lost_datagrams,
    }))
}

fn run(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        started: row.get(0)?,
        ended: row.get(2)?,
        memory: unsigned(row, 3)?,
    })
}
