//! The thread that writes, and the agent's end of the way to it.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Record, store::Store};

/// Records that may wait for the disk.
const WAITING: usize = 4096;
/// At most so many records are written at once.
const BATCH: usize = 1024;
/// How soon an attempt is made to open a database that could not be, and how long nothing may
/// be lost before that is said.
const RETRY: Duration = Duration::from_secs(60);
/// How long the last records may take when the agent ends.
const LAST: Duration = Duration::from_secs(2);

/// Takes records, and never blocks. Dropping it ends the thread when it has written them.
pub struct Writer {
    path: PathBuf,
    records: SyncSender<Record>,
    /// Nothing is sent; it ends with the thread.
    done: Receiver<()>,
    /// Records that found no room, since the last one that did.
    dropped: u64,
}

impl Writer {
    /// Starts the thread. A database that cannot be written to is no error: it is said once,
    /// and the thread tries again now and then.
    ///
    /// # Errors
    ///
    /// There can be no more threads.
    pub fn start(path: &Path) -> Result<Self> {
        let (records, source) = sync_channel(WAITING);
        let (end, done) = sync_channel(0);
        let mut thread = Thread {
            path: path.to_owned(),
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

    /// The database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For tasks that have something to add.
    pub fn sender(&self) -> SyncSender<Record> {
        self.records.clone()
    }

    /// Hands it over; if the disk is too slow, it is dropped, which is said.
    pub fn write(&mut self, record: Record) {
        match self.records.try_send(record) {
            Ok(()) if self.dropped > 0 => {
                log::warn!("history: {} records were dropped", self.dropped);
                self.dropped = 0;
            }
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if self.dropped == 0 {
                    log::warn!("history: the disk is too slow, records are dropped");
                }
                self.dropped += 1;
            }
            // The thread has failed, and has said so.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Waits a moment for the last records.
    pub fn finish(self) {
        drop(self.records);
        if let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(LAST) {
            log::warn!("history: the disk is too slow, the last records may be missing");
        }
    }
}

struct Thread {
    path: PathBuf,
    store: Option<Store>,
    tried: Option<Instant>,
    /// Records that could not be written.
    lost: u64,
    /// The last time that they could not.
    failed: Option<Instant>,
    /// The last [`Record::Watched`]: what was lost may have been that.
    watched: Vec<String>,
}

impl Thread {
    fn run(&mut self, source: &Receiver<Record>) {
        while let Ok(first) = source.recv() {
            let mut batch = vec![first];
            batch.extend(source.try_iter().take(BATCH - 1));
            for record in &batch {
                if let Record::Watched { services, .. } = record {
                    self.watched.clone_from(services);
                }
            }
            if self.lost > 0 {
                let services = self.watched.clone();
                let at = jiff::Timestamp::now().as_millisecond();
                batch.insert(0, Record::Watched { services, at });
            }
            match self.write(&batch) {
                Ok(true) if self.failed.is_some_and(|at| at.elapsed() >= RETRY) => {
                    log::info!(
                        "history: is written again; {} records are missing",
                        self.lost
                    );
                    (self.failed, self.lost) = (None, 0);
                }
                Ok(true) => {}
                Ok(false) => self.lost += batch.len() as u64,
                Err(error) => {
                    self.lost += batch.len() as u64;
                    // A disk that is nearly full takes some records and refuses others: said
                    // once, until nothing was refused for a while.
                    if self.failed.replace(Instant::now()).is_none() {
                        log::warn!("history: goes on without it: {error:#}");
                    }
                }
            }
        }
    }

    /// False: it is not yet time for another attempt.
    fn write(&mut self, batch: &[Record]) -> Result<bool> {
        let store = match &mut self.store {
            Some(store) => store,
            None => {
                if self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
                    return Ok(false);
                }
                self.tried = Some(Instant::now());
                self.store.insert(Store::open(&self.path)?)
            }
        };
        store.write(batch)?;
        Ok(true)
    }
}
