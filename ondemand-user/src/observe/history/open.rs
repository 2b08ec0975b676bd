//! Opens the database, and explains failures.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, params};

use super::{LARGEST, Moment, calendar::Segment, mend};

/// The version of the tables, `PRAGMA user_version`.
pub const VERSION: i64 = 6;
/// Size of a page: each write takes whole ones, and changes a few bytes in four to nine. Bytes.
const PAGE: i64 = 1024;
/// Size of the writer's cache. KiB.
const CACHE: i64 = 256;
/// Size of the log from which on it is merged into the database. Bytes.
const LOG: i64 = 4 << 20;
/// Identifies databases of ondemand, `PRAGMA application_id`: "ondm".
pub const APPLICATION: i64 = 0x6f6e_646d;
/// Each takes a database from the version of its index to the next.
const MIGRATIONS: [&str; VERSION as usize] = [
    include_str!("schema.sql"),
    include_str!("clock.sql"),
    include_str!("silent.sql"),
    include_str!("proxied.sql"),
    include_str!("ways.sql"),
    include_str!("room.sql"),
];

/// How long to wait for a lock of another program.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens it for writing, creates it if it does not exist, and migrates it to the present version.
///
/// # Errors
///
/// It cannot be used: the message says why, and what to do.
pub fn to_write(path: &Path, now: &Moment) -> Result<Connection> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("create the directory {}", directory.display()))?;
    }
    let prepare = || -> rusqlite::Result<Connection> {
        let mut db = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        db.busy_timeout(PATIENCE)?;
        let version = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if is_usable(&db, version)? {
            // One that exists keeps its own.
            db.pragma_update(None, "page_size", PAGE)?;
            db.pragma_update(None, "journal_mode", "WAL")?;
            // A killed agent loses nothing; a power cut may lose the last records, but no more.
            db.pragma_update(None, "synchronous", "NORMAL")?;
            // Records are appended: the default of 2 MB would fill with pages that are not read again.
            db.pragma_update(None, "cache_size", -CACHE)?;
            let page: i64 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
            db.pragma_update_and_check(None, "wal_autocheckpoint", LOG / page, |_| Ok(()))?;
            migrate(&mut db, version, now)?;
        }
        Ok(db)
    };
    let db = prepare().map_err(|error| explain(path, error))?;
    check(path, &db)?;
    Ok(db)
}

fn is_usable(db: &Connection, version: i64) -> rusqlite::Result<bool> {
    let application: i64 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = version == 0 && tables == 0 && application == 0;
    Ok(empty || (application == APPLICATION && (1..=VERSION).contains(&version)))
}

/// Each step is atomic.
pub fn migrate(db: &mut Connection, version: i64, now: &Moment) -> rusqlite::Result<()> {
    for (next, step) in (1..).zip(MIGRATIONS).skip(version as usize) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        if next == 2 {
            mend::mend(&transaction, now)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", next)?;
        transaction.commit()?;
    }
    Ok(())
}

/// All segments of its clock, in their order.
pub fn segments(db: &Connection) -> rusqlite::Result<Vec<Segment>> {
    let sql = "SELECT since, boot, monotonic, wall, until FROM clock ORDER BY since";
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Segment {
            since: row.get(0)?,
            boot: row.get(1)?,
            monotonic: row.get(2)?,
            wall: row.get(3)?,
            until: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// Adds a segment, or that it lasts.
pub fn save(db: &Connection, segment: &Segment) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO clock VALUES (?, ?, ?, ?, ?)";
    let Segment {
        since,
        boot,
        monotonic,
        wall,
        until,
    } = segment;
    let values = params![since, boot, monotonic, wall, until];
    db.prepare_cached(sql)?.execute(values).map(drop)
}

/// Opens it for reading; nothing is changed. One of an older version is migrated in memory, as at `now`.
///
/// # Errors
///
/// Like [`to_write`], or it does not exist.
pub fn to_read(path: &Path, now: &Moment) -> Result<Connection> {
    let data = std::fs::metadata(path).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::PermissionDenied => {
                "only the agent and root may read it: `sudo ondemand report`"
            }
            _ => "has the agent run yet? use --history FILE for another one",
        };
        let what = format!("open the history {} ({next})", path.display());
        anyhow!(error).context(what)
    })?;
    if data.is_dir() {
        bail!(
            "{} is a directory; use --history with the database in it",
            path.display()
        );
    }
    let ordinary = reader(path, "").and_then(|db| {
        // The first query needs the files beside it.
        db.pragma_query_value(None, "application_id", |_| Ok(()))?;
        Ok(db)
    });
    let mut db = match ordinary {
        Err(error) if is(&error, &[ErrorCode::CannotOpen, ErrorCode::ReadOnly]) => {
            // On a read-only file system. Without a log the database is complete.
            let mut log = path.as_os_str().to_owned();
            log.push("-wal");
            if std::fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
                bail!(
                    "{}: its newest records are in {} and this directory is not writable; copy both \
                     to another directory and use the copy with --history",
                    path.display(),
                    log.display()
                );
            }
            reader(path, "&immutable=1").map_err(|error| explain(path, error))?
        }
        result => result.map_err(|error| explain(path, error))?,
    };
    let older = |db: &Connection| -> rusqlite::Result<Option<i64>> {
        let version = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok(Some(version).filter(|version| (1..VERSION).contains(version)))
    };
    let db = match older(&db) {
        Ok(Some(version)) if is_usable(&db, version).unwrap_or(false) => {
            migrated(&mut db, version, now).map_err(|error| explain(path, error))?
        }
        _ => db,
    };
    check(path, &db)?;
    Ok(db)
}

/// A copy in memory, of the present version.
fn migrated(db: &mut Connection, version: i64, now: &Moment) -> rusqlite::Result<Connection> {
    let mut bytes = db.serialize(MAIN_DB)?.to_vec();
    // A database in memory has no log (https://sqlite.org/fileformat2.html, offsets 18 and 19).
    if let Some(modes) = bytes.get_mut(18..20) {
        modes.fill(1);
    }
    let mut copy = Connection::open_in_memory()?;
    copy.deserialize_read_exact(MAIN_DB, &bytes[..], bytes.len(), false)?;
    migrate(&mut copy, version, now)?;
    Ok(copy)
}

fn reader(path: &Path, more: &str) -> rusqlite::Result<Connection> {
    let mut uri = "file:".to_owned();
    for byte in std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .as_os_str()
        .as_encoded_bytes()
    {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte));
            }
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    let db = Connection::open_with_flags(
        format!("{uri}?mode=ro{more}"),
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(PATIENCE)?;
    db.pragma_update(None, "mmap_size", LARGEST)?;
    Ok(db)
}

/// Checks that it is a history of a supported version.
pub(super) fn check(path: &Path, db: &Connection) -> Result<()> {
    let shown = path.display();
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let both = pragma("application_id").and_then(|id| Ok((id, pragma("user_version")?)));
    let (application, version) = both.map_err(|error| explain(path, error))?;
    if application != APPLICATION {
        bail!("{shown} is a database, but not a history of ondemand; use another file");
    }
    if version > VERSION {
        bail!(
            "{shown} was written by a newer ondemand (version {version} of its tables, this one \
             supports {VERSION}); use that ondemand, or another file"
        );
    }
    if version < VERSION {
        bail!("{shown} was written by an older ondemand; the agent migrates it when it starts");
    }
    Ok(())
}

/// Whether the error has one of these codes.
fn is(error: &rusqlite::Error, codes: &[ErrorCode]) -> bool {
    error
        .sqlite_error_code()
        .is_some_and(|code| codes.contains(&code))
}

/// An error of the database at `path`, with the remedy.
pub fn explain(path: &Path, error: rusqlite::Error) -> anyhow::Error {
    let shown = path.display();
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => format!("{shown} is not a history: no SQLite database"),
        Some(ErrorCode::DatabaseCorrupt) => format!(
            "the history {shown} is damaged; move it away, and the agent creates a new one when it \
             is restarted (`sqlite3 {shown} .recover` may save its contents)"
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("the history {shown} is locked by another program; `fuser {shown}` shows it")
        }
        Some(ErrorCode::ReadOnly) => format!("the history {shown} is read-only"),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            format!(
                "the history {shown} cannot be opened; check the permissions of it and its directory"
            )
        }
        Some(ErrorCode::DiskFull) => format!("no room for the history {shown}: the disk is full"),
        _ => format!("the history {shown}"),
    };
    anyhow!(error).context(what)
}
