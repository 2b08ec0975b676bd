//! Who came when, of all services together: for what only the order of all of them shows.

use std::{collections::HashMap, path::Path};

use anyhow::Result;

use super::{Moment, calendar::Calendar, open};

/// More than these are not read: the newest are. Each takes 24 bytes.
const MOST: i64 = 2_000_000;

/// A moment of a service. In the order of time; a use may be shorter than a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// Milliseconds of the history's clock.
    at: i64,
    /// What happened.
    pub what: Happened,
    /// Its place among the names.
    pub service: usize,
}

/// What happened to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    /// Nobody knows what has become of it: the host was off, or no agent ran.
    Unknown,
    /// A client came.
    Used,
    /// The last client has left.
    Quiet,
}

/// Reads the uses from `from` (`None`: all) until `until`, in milliseconds since 1970, of the services with these names.
///
/// # Errors
///
/// It cannot be read.
pub fn read(
    path: &Path,
    from: Option<i64>,
    until: i64,
    names: &[&str],
    now: &Moment,
) -> Result<Vec<Use>> {
    let db = open::to_read(path, now)?;
    let explain = |error| open::explain(path, error);
    let read = || -> rusqlite::Result<Vec<Use>> {
        let segments = open::segments(&db)?;
        let Some(calendar) = Calendar::new(segments, now) else {
            return Ok(Vec::new());
        };
        let from = from.map_or(i64::MIN, |from| calendar.at(from));
        let until = calendar.at(until);
        let places: HashMap<&str, usize> = names.iter().copied().zip(0..).collect();
        let mut ids = HashMap::new();
        let mut uses = Vec::new();
        let mut statement = db.prepare("SELECT id, name, quiet_since FROM service")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            let Some(service) = places.get(name.as_str()).copied() else {
                continue;
            };
            ids.insert(row.get::<_, i64>(0)?, service);
            if let Some(at) = row.get::<_, Option<i64>>(2)?.filter(|at| *at < until) {
                let what = Happened::Quiet;
                uses.push(Use { at, what, service });
            }
        }
        let mut statement = db.prepare(
            "SELECT ended, service, length FROM gap WHERE ended >= ? AND ended < ? ORDER BY ended DESC LIMIT ?",
        )?;
        let mut rows = statement.query([from, until, MOST])?;
        while let Some(row) = rows.next()? {
            let Some(service) = ids.get(&row.get(1)?).copied() else {
                continue;
            };
            let ended: i64 = row.get(0)?;
            let length: Option<i64> = row.get(2)?;
            let (before, what) = match length {
                Some(length) => (ended.saturating_sub(length), Happened::Quiet),
                None => (ended, Happened::Unknown),
            };
            let used = Use {
                at: ended,
                what: Happened::Used,
                service,
            };
            uses.extend([
                Use {
                    at: before,
                    what,
                    service,
                },
                used,
            ]);
        }
        uses.sort_unstable();
        Ok(uses)
    };
    read().map_err(explain)
}
