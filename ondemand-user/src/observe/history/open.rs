//! Opens the database, and says in words why it cannot be.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::LARGEST;

/// The version of the tables, `PRAGMA user_version`.
const VERSION: i64 = 1;
/// What the writer keeps in memory of the database, in pages of 4 KiB.
const CACHE_PAGES: i64 = 64;
/// Tells our databases from others, `PRAGMA application_id`: "ondm".
const APPLICATION: i64 = 0x6f6e_646d;
/// What takes a database from the version of its place to the next.
const MIGRATIONS: [&str; VERSION as usize] = [include_str!("schema.sql")];

/// How long another program may hold the database.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens it to write, makes it if it is not there, and brings it up to date.
///
/// # Errors
///
/// It cannot be used: the message says why, and what to do.
pub fn to_write(path: &Path) -> Result<Connection> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
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
            db.pragma_update(None, "journal_mode", "WAL")?;
            // A killed agent loses nothing; a power cut may lose the last records, not more.
            db.pragma_update(None, "synchronous", "NORMAL")?;
            // Records are added at the end: the usual 2 MB would fill with what nobody reads again.
            db.pragma_update(None, "cache_size", CACHE_PAGES)?;
            migrate(&mut db, version)?;
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

/// Each step is whole or not done at all.
fn migrate(db: &mut Connection, version: i64) -> rusqlite::Result<()> {
    for (next, step) in (1..).zip(MIGRATIONS).skip(version as usize) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", next)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Opens it to read; nothing is changed.
///
/// # Errors
///
/// As for [`to_write`], or it is not there.
pub fn to_read(path: &Path) -> Result<Connection> {
    let data = std::fs::metadata(path).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::PermissionDenied => "it is the agent's alone: `sudo ondemand report`",
            _ => "has the agent run yet? `ondemand report --history FILE` names another",
        };
        let what = format!("open the history {} ({next})", path.display());
        anyhow!(error).context(what)
    })?;
    if data.is_dir() {
        bail!("{} is a directory; name the database in it", path.display());
    }
    let ordinary = reader(path, "").and_then(|db| {
        // The first look is what needs the files beside it.
        db.pragma_query_value(None, "application_id", |_| Ok(()))?;
        Ok(db)
    });
    let db = match ordinary {
        Err(error) if is(&error, &[ErrorCode::CannotOpen, ErrorCode::ReadOnly]) => {
            // On a file system that is read-only. Without a log that is all there is.
            let mut log = path.as_os_str().to_owned();
            log.push("-wal");
            if std::fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
                bail!(
                    "{}: its newest records are in {} and nothing can be written here; copy both \
                     to another directory and name the copy with --history",
                    path.display(),
                    log.display()
                );
            }
            reader(path, "&immutable=1").map_err(|error| explain(path, error))?
        }
        result => result.map_err(|error| explain(path, error))?,
    };
    check(path, &db)?;
    Ok(db)
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

/// Whether it is a history of a version that is understood.
pub(super) fn check(path: &Path, db: &Connection) -> Result<()> {
    let shown = path.display();
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let both = pragma("application_id").and_then(|id| Ok((id, pragma("user_version")?)));
    let (application, version) = both.map_err(|error| explain(path, error))?;
    if application != APPLICATION {
        bail!("{shown} is a database, but not a history of ondemand; name another file");
    }
    if version > VERSION {
        bail!(
            "{shown} was written by a newer ondemand (version {version} of its tables, this one \
             knows {VERSION}); use that ondemand, or name another file"
        );
    }
    if version < VERSION {
        bail!("{shown} is of an older ondemand; the agent brings it up to date when it starts");
    }
    Ok(())
}

/// Whether the error is one of these.
fn is(error: &rusqlite::Error, codes: &[ErrorCode]) -> bool {
    error
        .sqlite_error_code()
        .is_some_and(|code| codes.contains(&code))
}

/// An error of the database at `path`, with what to do about it.
pub fn explain(path: &Path, error: rusqlite::Error) -> anyhow::Error {
    let shown = path.display();
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => format!("{shown} is not a history: no SQLite database"),
        Some(ErrorCode::DatabaseCorrupt) => format!(
            "the history {shown} is damaged; move it away, and the agent begins a new one when it \
             is restarted (`sqlite3 {shown} .recover` may save what is in it)"
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("the history {shown} is locked by another program; `fuser {shown}` names it")
        }
        Some(ErrorCode::ReadOnly) => format!("the history {shown} cannot be written to"),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            format!("the history {shown} cannot be opened; may you read it, and its directory?")
        }
        Some(ErrorCode::DiskFull) => format!("no room for the history {shown}: the disk is full"),
        _ => format!("the history {shown}"),
    };
    anyhow!(error).context(what)
}
