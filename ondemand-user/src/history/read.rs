//! Reads a period of the history, once and in the order of time.

use std::{path::Path, thread};

use anyhow::{Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use rusqlite::{Connection, Row, types::ValueRef};

use super::{Known, REASONS, hours::Hours, open};
use crate::replay::{Replay, Timeouts};

/// Into so many equal parts a period is cut for the picture of states.
pub const TIMELINE: usize = 240;

/// From when until when. Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first moment.
    pub from: i64,
    /// The first moment after it.
    pub until: i64,
}

impl Period {
    /// How much of a span is in it.
    fn part(self, from: i64, until: i64) -> i64 {
        (until.min(self.until) - from.max(self.from)).max(0)
    }
}

/// Arrivals by hour of the week, local time, from Monday at midnight on.
pub type Week = Box<[u32; 168]>;

/// What the history knows of one service in a period. Spans are milliseconds.
#[derive(Debug)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// Its quiet gaps. A gap belongs to the period in which it ends.
    pub replay: Replay,
    /// Arrivals by hour of the week, local time, from Monday at midnight on.
    pub week: Week,
    /// For how long it was watched.
    pub watched: i64,
    /// For how long it was up.
    pub active: i64,
    /// How long it was up in each part of the period.
    pub timeline: Box<[i64; TIMELINE]>,
    /// Starts in the period.
    pub activations: u64,
    /// From the begin of a start until the application listened.
    pub cold_starts: Vec<u32>,
    /// From the begin of a start to the first packet to a client.
    pub first_bytes: Vec<u32>,
    /// Bytes of memory at a stop, times the milliseconds until the next start.
    pub given_back: Known<u128>,
    /// Of the runs that ended in the period; CPU time in microseconds.
    pub cpu: Known<u64>,
    /// See `cpu`.
    pub connections: u64,
    /// See `cpu`.
    pub received: u64,
    /// See `cpu`.
    pub sent: u64,
    /// Ends of runs, as [`REASONS`].
    pub stops: [u64; REASONS.len()],
    /// It is down since then, and had so much memory.
    down: Option<(i64, Option<u64>)>,
    /// The last memory that was measured.
    memory: Option<u64>,
    quiet_since: Option<i64>,
    watched_until: i64,
}

/// Reads what is in the database at `path`, from the begin of what it knows if `from` is `None` or
/// before that.
/// Gives the period, which ends at `until`, and all services by their names.
///
/// # Errors
///
/// It cannot be read, or knows nothing of this period.
pub fn read(
    path: &Path,
    from: Option<i64>,
    until: i64,
    timeouts: &Timeouts,
) -> Result<(Period, Vec<Loaded>)> {
    let mut db = open::to_read(path)?;
    let explain = |error| open::explain(path, error);
    // One state of it, while the agent goes on writing.
    let db = db.transaction().map_err(explain)?;
    let Some(begin) = begin(&db).map_err(explain)? else {
        bail!(
            "the history {} is empty: the agent has not run yet",
            path.display()
        );
    };
    let asked = from.unwrap_or(begin).min(until);
    let period = Period {
        // Of what was before, nothing is known.
        from: asked.max(begin).min(until),
        until,
    };
    let mut reader = Reader {
        period,
        services: Vec::new(),
    };
    reader.services(&db, timeouts).map_err(explain)?;
    // The two large tables are read at the same time.
    let count = reader.services.len();
    let gaps = thread::scope(|scope| {
        let gaps = scope.spawn(|| {
            let db = open::to_read(path)?;
            gaps(&db, period, timeouts, count).map_err(explain)
        });
        reader.watches(&db).map_err(explain)?;
        reader.activations(&db).map_err(explain)?;
        match gaps.join() {
            Ok(gaps) => gaps,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    for (service, (replay, week)) in reader.services.iter_mut().zip(gaps) {
        if let Some(service) = service {
            (service.replay, service.week) = (replay, week);
        }
    }
    reader.end(&db).map_err(explain)?;
    let services: Vec<Loaded> = reader.services.into_iter().flatten().collect();
    if !services.iter().any(Loaded::is_known) {
        let shown = |at| Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), local);
        bail!(
            "the history {} knows nothing from {} to {}; it begins at {}",
            path.display(),
            shown(asked),
            shown(period.until),
            shown(begin)
        );
    }
    Ok((period, services))
}

fn local(at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::system());
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The first thing that is known.
fn begin(db: &Connection) -> rusqlite::Result<Option<i64>> {
    db.query_row(
        "SELECT min(at) FROM (SELECT min(began) AS at FROM watch
             UNION ALL SELECT min(started) FROM activation
             UNION ALL SELECT min(ended) FROM gap)",
        [],
        |row| row.get(0),
    )
}

struct Reader {
    period: Period,
    /// By their numbers in the database.
    services: Vec<Option<Loaded>>,
}

/// A run as the database has it.
struct Run {
    started: i64,
    ended: Option<i64>,
    memory: Option<u64>,
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    // Millions of times: an i64 by way of FromSql takes twice as long.
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    })
}

impl Reader {
    fn of(&mut self, service: i64) -> Option<&mut Loaded> {
        let place = usize::try_from(service).ok()?;
        self.services.get_mut(place)?.as_mut()
    }

    fn services(&mut self, db: &Connection, timeouts: &Timeouts) -> rusqlite::Result<()> {
        let mut statement = db.prepare("SELECT id, name, quiet_since FROM service ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let Ok(place @ 0..1_000_000) = usize::try_from(id) else {
                continue; // The agent numbers them from 1 on.
            };
            self.services.resize_with(place, || None);
            self.services.push(Some(Loaded {
                name: row.get(1)?,
                quiet_since: row.get(2)?,
                replay: Replay::new(timeouts),
                week: Box::new([0; 168]),
                watched: 0,
                active: 0,
                timeline: Box::new([0; TIMELINE]),
                activations: 0,
                cold_starts: Vec::new(),
                first_bytes: Vec::new(),
                given_back: Known::default(),
                cpu: Known::default(),
                connections: 0,
                received: 0,
                sent: 0,
                stops: [0; REASONS.len()],
                down: None,
                memory: None,
                watched_until: i64::MIN,
            }));
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
                service.watched += period.part(began, ended);
                service.watched_until = service.watched_until.max(ended.min(period.until));
            }
        }
        Ok(())
    }

    fn activations(&mut self, db: &Connection) -> rusqlite::Result<()> {
        const COLUMNS: &str = "started, service, ended, memory";
        let period = self.period;
        // Of each service the last run that began before.
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
            "SELECT {COLUMNS}, listening, first_byte, reason, connections, received, sent, cpu
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
            if let Some(reason) = row.get::<_, Option<u32>>(6)?
                && let Some(count) = service.stops.get_mut(reason as usize)
            {
                *count += 1;
            }
            service.connections += unsigned(row, 7)?.unwrap_or(0);
            service.received += unsigned(row, 8)?.unwrap_or(0);
            service.sent += unsigned(row, 9)?.unwrap_or(0);
            service.cpu.add(unsigned(row, 10)?);
        }
        Ok(())
    }

    /// A run of a service, in the order of time.
    fn run(&mut self, id: i64, run: &Run) {
        let period = self.period;
        let Some(service) = self.of(id) else {
            return;
        };
        if let Some((since, memory)) = service.down.take() {
            service.give_back(memory, period.part(since, run.started));
        }
        let until = run.ended.map_or(period.until, |ended| run.started + ended);
        service.active += period.part(run.started, until);
        service.draw(period, run.started, until);
        service.memory = run.memory.or(service.memory);
        if run.ended.is_some() {
            service.down = Some((until, service.memory));
        }
    }

    /// What had not ended at the end of the period.
    fn end(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let period = self.period;
        // Of each service the first gap that ended after it.
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
            // It was quiet then, or nobody knows, whatever it is now.
            let length: Option<i64> = row.get(2)?;
            let since = length.map(|length| ended - length);
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
                service.give_back(memory, period.part(since, service.watched_until.max(since)));
            }
        }
        Ok(())
    }
}

/// The gaps of so many services, and when they ended.
fn gaps(
    db: &Connection,
    period: Period,
    timeouts: &Timeouts,
    count: usize,
) -> rusqlite::Result<Vec<(Replay, Week)>> {
    let mut services: Vec<(Replay, Week)> = Vec::new();
    services.resize_with(count, || (Replay::new(timeouts), Box::new([0; 168])));
    let mut hours = Hours::new();
    let mut statement = db.prepare(
        "SELECT ended, service, length FROM gap WHERE ended >= ? AND ended < ? ORDER BY ended",
    )?;
    let mut rows = statement.query([period.from, period.until])?;
    while let Some(row) = rows.next()? {
        let hour = hours.of(row.get(0)?);
        let Some((replay, week)) = services.get_mut(row.get::<_, u32>(1)? as usize) else {
            continue;
        };
        match unsigned(row, 2)? {
            Some(length) => replay.gap(timeouts, length.saturating_mul(1000)),
            None => replay.first(),
        }
        week[hour] = week[hour].saturating_add(1);
    }
    Ok(services)
}

fn run(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        started: row.get(0)?,
        ended: row.get(2)?,
        memory: unsigned(row, 3)?,
    })
}

impl Loaded {
    fn is_known(&self) -> bool {
        self.watched > 0 || self.active > 0 || self.replay.arrivals() > 0
    }

    /// It was down for so long.
    fn give_back(&mut self, memory: Option<u64>, span: i64) {
        if span > 0 {
            let given = memory.map(|memory| u128::from(memory) * span as u128);
            self.given_back.add(given);
        }
    }

    /// Nobody has come since then, at the end of the period.
    fn open(&mut self, period: Period, since: Option<i64>) {
        let Some(since) = since else {
            return;
        };
        let end = self.watched_until.min(period.until);
        let length = period.part(since, end);
        self.replay.end(length as u64 * 1000);
    }

    /// Notes in the timeline that it was up.
    fn draw(&mut self, period: Period, from: i64, until: i64) {
        let (from, until) = (from.max(period.from), until.min(period.until));
        let length = period.until - period.from;
        if from >= until || length <= 0 {
            return;
        }
        // In parts of a part, so that the sums are whole.
        let place = |at: i64| (at - period.from).saturating_mul(TIMELINE as i64);
        let (first, last) = (place(from), place(until));
        for part in first / length..=(last - 1) / length {
            let (begin, end) = (part * length, (part + 1) * length);
            let share = last.min(end) - first.max(begin);
            self.timeline[part as usize] += share / TIMELINE as i64;
        }
    }
}
