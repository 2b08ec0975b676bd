//! The gaps and starts of all services, for an agent that learns from them.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::Result;
use rusqlite::Connection;

use super::{Moment, calendar::Calendar, open};

/// What the history tells of services, oldest first.
pub trait Listener {
    /// A start took this long, until the application listened.
    fn start(&mut self, service: &str, took: Duration);
    /// A gap between two uses is over, since that date: milliseconds since 1970.
    fn gap(&mut self, service: &str, length: Duration, ended: i64);
}

/// Tells all that was over at `now`: first the starts, then the gaps. A file that does not exist has nothing to tell.
///
/// # Errors
///
/// It cannot be read: some of it may have been told.
pub fn tell(path: &Path, now: &Moment, listener: &mut impl Listener) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut db = open::to_read(path, now)?;
    let explain = |error| open::explain(path, error);
    // One consistent state, while the agent keeps writing.
    let db = db.transaction().map_err(explain)?;
    tell_open(&db, now, listener).map_err(explain)
}

/// Like [`tell`], for an open database.
pub(crate) fn tell_open(
    db: &Connection,
    now: &Moment,
    listener: &mut impl Listener,
) -> rusqlite::Result<()> {
    let segments = open::segments(db)?;
    // If the agent has not written since the boot, all of it is over.
    let last = segments.last().filter(|last| last.boot == now.boot);
    let until = last.map_or(i64::MAX, |last| last.at(now.monotonic));
    let mut names = HashMap::new();
    let mut statement = db.prepare("SELECT id, name FROM service")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        names.insert(row.get::<_, i64>(0)?, row.get::<_, String>(1)?);
    }
    let calendar = Calendar::new(segments, now);
    let wall = |at| calendar.as_ref().map_or(at, |calendar| calendar.wall(at));
    let each = |sql: &str, take: &mut dyn FnMut(&str, Duration, i64)| {
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([until])?;
        while let Some(row) = rows.next()? {
            let name = names.get(&row.get(0)?);
            let millis = row
                .get(1)
                .ok()
                .and_then(|millis: i64| u64::try_from(millis).ok());
            if let Some((name, millis)) = name.zip(millis) {
                take(name, Duration::from_millis(millis), wall(row.get(2)?));
            }
        }
        Ok::<_, rusqlite::Error>(())
    };
    each(
        "SELECT service, listening, started FROM activation WHERE started < ? AND listening IS NOT NULL ORDER BY started",
        &mut |name, took, _| listener.start(name, took),
    )?;
    each(
        "SELECT service, length, ended FROM gap WHERE ended < ? AND length IS NOT NULL ORDER BY ended",
        &mut |name, length, ended| listener.gap(name, length, ended),
    )
}
