//! The plots of the last week.
//!
//! To read a week of a thousand services takes a second and more memory than the agent has otherwise. So another process
//! does it, `ondemand report`, when somebody looks, and its answer is kept for some minutes.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::{
    io::AsyncReadExt as _,
    process::Command,
    task::AbortHandle,
    time::{sleep, timeout},
};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(600);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(60);
/// Maximum time for the report.
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum size of the report in bytes: 1,024 services, whose names are long, have 2 MB.
const LARGEST: u64 = 16 << 20;

/// The data of the plots, as JSON.
#[derive(Debug)]
pub struct Plots {
    /// Of all services, and of those that save most.
    pub all: Bytes,
    /// Of each service.
    pub services: HashMap<String, Bytes>,
}

/// What there is now.
#[derive(Clone, Debug, Default)]
pub enum Found {
    /// Nobody has asked for some time.
    #[default]
    Nothing,
    /// It is being read.
    Making,
    /// It is there.
    Made(Arc<Plots>),
    /// It could not be read.
    Failed(Arc<str>),
}

/// The last week of a history.
#[derive(Clone, Debug, Default)]
pub struct Week(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    history: Option<PathBuf>,
    found: Found,
    task: Option<AbortHandle>,
}

impl Week {
    /// Sets the history. `None`: there is none.
    pub fn configure(&self, history: Option<PathBuf>) {
        let mut state = self.state();
        if state.history == history {
            return;
        }
        if let Some(task) = state.task.take() {
            task.abort();
        }
        (state.history, state.found) = (history, Found::Nothing);
    }

    /// What there is now. If there is nothing it is made, for who asks later. `None`: there is no history.
    pub fn ask(&self) -> Option<Found> {
        let mut state = self.state();
        let history = state.history.clone()?;
        if let Found::Nothing = state.found {
            state.found = Found::Making;
            let week = self.clone();
            let task = tokio::spawn(async move {
                let made = timeout(PATIENCE, read(history)).await;
                let made = made.unwrap_or_else(|_| {
                    Err(anyhow::anyhow!(
                        "it took longer than {} s",
                        PATIENCE.as_secs()
                    ))
                });
                let (found, kept) = match made {
                    Ok(plots) => (Found::Made(Arc::new(plots)), KEPT),
                    Err(error) => {
                        let error = format!("{error:#}");
                        log::warn!("the page has no plots of the last week: {error}");
                        (Found::Failed(error.into()), AGAIN)
                    }
                };
                week.state().found = found;
                sleep(kept).await;
                week.state().found = Found::Nothing;
            });
            state.task = Some(task.abort_handle());
        }
        Some(state.found.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(history: PathBuf) -> Result<Plots> {
    // The program that runs, also after an upgrade has replaced its file.
    let mut child = Command::new("/proc/self/exe")
        .args(["report", "--last", "7d", "--page-data", "--history"])
        .arg(history)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("run `ondemand report`")?;
    let (mut text, mut errors) = (String::new(), String::new());
    let output = child.stdout.take().context("its output")?;
    let complaints = child.stderr.take().context("its errors")?;
    let (mut output, mut complaints) = (output.take(LARGEST), complaints.take(4096));
    let (read, _) = tokio::join!(
        output.read_to_string(&mut text),
        complaints.read_to_string(&mut errors)
    );
    read.context("read the report")?;
    drop(output);
    let status = child.wait().await.context("wait for the report")?;
    ensure!(status.success(), "{}", errors.trim());
    split(&text)
}

/// The first line is of all, each other one of the service whose name it begins with.
fn split(text: &str) -> Result<Plots> {
    let mut lines = text.lines();
    let all = lines.next().context("the report is empty")?;
    let each = lines.filter_map(|line| line.split_once('\t'));
    Ok(Plots {
        all: Bytes::copy_from_slice(all.as_bytes()),
        services: each
            .map(|(name, json)| (name.to_owned(), Bytes::copy_from_slice(json.as_bytes())))
            .collect(),
    })
}
