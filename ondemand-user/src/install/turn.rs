//! One change of what is set up at a time. A reload of the agent settles the same services as an
//! `ondemand apply` that is under way: each would open a front socket that the other has just closed.

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::time::{Instant, sleep};

/// Only root can write there, and only root takes turns.
const DIRECTORY: &str = "/run/ondemand-generator";
/// How long another may take: the start and stop of some applications, one after the other.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// This process alone changes what is set up, until it is dropped. A process that dies ends its turn.
#[derive(Debug)]
pub struct Turn {
    _lock: Flock<File>,
}

impl Turn {
    /// Waits for it. What is to be set up must be read after that: the one before may have been told of
    /// something newer.
    ///
    /// # Errors
    ///
    /// Another does not end within a minute, or the directory cannot be opened.
    pub async fn take() -> Result<Self> {
        Self::at(Path::new(DIRECTORY), PATIENCE).await
    }

    async fn at(directory: &Path, patience: Duration) -> Result<Self> {
        let place = || directory.display().to_string();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        builder.create(directory).with_context(place)?;
        let deadline = Instant::now() + patience;
        let mut file = File::open(directory).with_context(place)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self { _lock: lock }),
                Err((back, Errno::EWOULDBLOCK)) => file = back,
                Err((_, error)) => return Err(error).with_context(|| format!("lock {}", place())),
            }
            ensure!(
                Instant::now() < deadline,
                "another `ondemand apply`, `permit` or reload has been at work for {} s; try again when it is done \
                 (it holds a lock on {})",
                patience.as_secs(),
                place()
            );
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_waits_for_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("made");
        let first = Turn::at(&place, Duration::ZERO).await.unwrap();
        let error = Turn::at(&place, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("another `ondemand apply`"));
        let (second, ()) = tokio::join!(Turn::at(&place, PATIENCE), async { drop(first) });
        second.unwrap();
    }
}
