//! The writing thread, and the agent's channel to it.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Moment, Record, store::Store};

/// Maximum number of records that wait for the disk.
const WAITING: usize = 4096;
/// Maximum number of records per write: a few megabytes.
const BATCH: usize = 1 << 16;
/// How long records are gathered before they are written: what a kill may lose.
const GATHERED: Duration = Duration::from_secs(5);
/// How often a sign of life is written if nothing happens: what was open at a power cut ended with the last.
const SIGN_OF_LIFE: Duration = Duration::from_secs(300);
/// The pause before another attempt to open the database, and how long no record may be lost
/// before this is logged.
const RETRY: Duration = Duration::from_secs(60);
/// Maximum time for the last records when the agent exits.
const LAST: Duration = Duration::from_secs(2);

/// Takes records, and never blocks. Dropping it ends the thread after its last write.
pub struct Writer {
    path: PathBuf,
    records: SyncSender<Record>,
    /// Nothing is sent; it closes with the thread.
    done: Receiver<()>,
    /// Records dropped since the last one that was accepted.
    dropped: u64,
}

impl Writer {
    /// Starts the thread. An unwritable database is not an error: it is logged once, and the thread
    /// retries periodically.
    ///
    /// # Errors
    ///
    /// No thread can be created.
    pub fn start(path: &Path) -> Result<Self> {
        Self::start_by(path, Moment::now)
    }

    /// Like [`Writer::start`], by these clocks.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start_by(path: &Path, clocks: fn() -> Moment) -> Result<Self> {
        let (records, source) = sync_channel(WAITING);
        let (end, done) = sync_channel(0);
        let mut thread = Thread {
            path: path.to_owned(),
            clocks,
            store: None,
            tried: None,
            lost: 0,
            failed: None,
            watched: Vec::new(),
        };
        thread::Builder::new()
            .name("history".into())
            .spawn(move || {
                thread.run(&source);
                drop(end);
            })
            .context("start the history's thread")?;
        Ok(Self {
            path: path.to_owned(),
            records,
            done,
            dropped: 0,
        })
    }

    /// The path of the database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A sender for tasks.
    pub fn sender(&self) -> SyncSender<Record> {
        self.records.clone()
    }

    /// Sends a record; if the disk is too slow, it is dropped, which is logged.
    pub fn write(&mut self, record: Record) {
        match self.records.try_send(record) {
            Ok(()) if self.dropped > 0 => {
                log::warn!("history: {} records were dropped", self.dropped);
                self.dropped = 0;
            }
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if self.dropped == 0 {
                    log::warn!("history: the disk is too slow, dropping records");
                }
                self.dropped += 1;
            }
            // The thread has failed, and has logged it.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Waits for the last records, not longer than [`LAST`].
    pub fn finish(self) {
        drop(self.records);
        if let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(LAST) {
            log::warn!("history: the disk is too slow, the last records may be missing");
        }
    }
}

struct Thread {
    path: PathBuf,
    clocks: fn() -> Moment,
    store: Option<Store>,
    tried: Option<Instant>,
    /// Records that could not be written.
    lost: u64,
    /// The last failure.
    failed: Option<Instant>,
    /// The last [`Record::Watched`]: it may be among the lost ones.
    watched: Vec<String>,
}

impl Thread {
    fn run(&mut self, source: &Receiver<Record>) {
        loop {
            let mut batch = match source.recv_timeout(SIGN_OF_LIFE) {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // The first one shows at once whether it can be written, and closes what an older boot left open.
            if self.tried.is_some() {
                gather(source, &mut batch);
            }
            for record in &batch {
                if let Record::Watched { services, .. } = record {
                    self.watched.clone_from(services);
                }
            }
            if self.lost > 0 {
                let services = self.watched.clone();
                let at = (self.clocks)().monotonic;
                batch.insert(0, Record::Watched { services, at });
            }
            match self.write(&batch) {
                Ok(true) if self.failed.is_some_and(|at| at.elapsed() >= RETRY) => {
                    log::info!(
                        "history: recording again; {} records are missing",
                        self.lost
                    );
                    (self.failed, self.lost) = (None, 0);
                }
                Ok(true) => {}
                Ok(false) => self.lost += batch.len() as u64,
                Err(error) => {
                    self.lost += batch.len() as u64;
                    // A nearly full disk accepts some records and refuses others: logged once, until
                    // none was refused for a while.
                    if self.failed.replace(Instant::now()).is_none() {
                        log::warn!("history: not recording: {error:#}");
                    }
                }
            }
        }
    }

    /// Returns false if it is not yet time for another attempt.
    fn write(&mut self, batch: &[Record]) -> Result<bool> {
        let now = (self.clocks)();
        let store = match &mut self.store {
            Some(store) => store,
            None => {
                if self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
                    return Ok(false);
                }
                self.tried = Some(Instant::now());
                self.store.insert(Store::open(&self.path, &now)?)
            }
        };
        store.write(batch, &now)?;
        Ok(true)
    }
}

/// Takes what comes soon after the first record, and all that is there when the agent exits: each write
/// takes whole pages of the database, however small it is.
fn gather(source: &Receiver<Record>, batch: &mut Vec<Record>) {
    let end = Instant::now() + GATHERED;
    while (1..BATCH).contains(&batch.len()) {
        match source.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(record) => batch.push(record),
            Err(_) => break,
        }
    }
}
