//! `ondemand wait-listening`: holds the proxy back until the backend really listens.
//!
//! It is the first half of the proxy's life: it holds the front socket's descriptors, and its
//! clients wait in their queues. When the backend is there it becomes the proxy, in the same
//! process. When the backend will not come it closes the waiting connections before it goes:
//! PID 1 would otherwise find them at the socket and start it again, as fast as it can.

mod clients;
mod decision;
mod first_try;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clients::Clients;
use decision::{Decision, Seen, decide};
use first_try::FirstTry;

use crate::{
    config::Endpoint,
    lifecycle::unit::Unit,
    listening,
    systemd::{Known, Systemd},
};

/// Between two looks for the listener: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// A wait longer than this is worth a line.
const WORTH_SAYING: Duration = Duration::from_secs(1);
/// Between two attempts to reach the bus.
const BUS_PAUSE: Duration = Duration::from_millis(500);

/// Waits until `unit` is active and `backend` listens, then becomes `command`, if there is one.
///
/// # Errors
///
/// The backend failed, or did not come up within `start_timeout`, or `command` cannot be run.
/// The clients that waited at inherited sockets (sd_listen_fds(3)) are let go by then.
pub fn run(
    name: &str,
    unit: &str,
    backend: &Endpoint,
    start_timeout: Duration,
    command: &[OsString],
) -> Result<()> {
    let clients = Clients::inherited();
    let result = wait(name, unit, backend, start_timeout).and_then(|()| become_command(command));
    if result.is_err() {
        let count = clients.let_go();
        if count > 0 {
            log::warn!(
                "{name}: closed {}",
                crate::words::counted(count, "waiting connection")
            );
        }
    }
    result
}

/// Does not come back if it succeeds, unless there is no command.
fn become_command(command: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

fn wait(name: &str, unit: &str, backend: &Endpoint, start_timeout: Duration) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?
        .block_on(watch(name, unit, backend, start_timeout))
}

async fn watch(name: &str, unit: &str, backend: &Endpoint, start_timeout: Duration) -> Result<()> {
    let start = Instant::now();
    let first_try = FirstTry::begin();
    let mut bus = Bus::default();
    let mut pause = FIRST_PAUSE;
    loop {
        // The unit's state is read after the listener was seen: the listener of a backend that
        // is being stopped must not be taken for that of the next one.
        let listening = listening::is_listening(backend)
            .with_context(|| format!("look for a listener at {backend}"))?;
        let seen = Seen {
            listening,
            unit: bus.unit(name, unit).await,
            waited: first_try.elapsed(),
        };
        match decide(&seen, start_timeout) {
            Decision::Go => break,
            Decision::Wait => {}
            Decision::GiveUp(why) => {
                first_try.end();
                bail!(
                    "{name}: no answer for its clients: {}; see journalctl -u {unit}",
                    why.text(unit, backend, start_timeout)
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    first_try.end();
    let waited = start.elapsed();
    if waited > WORTH_SAYING {
        log::info!(
            "{name}: {unit} listens at {backend} after {:.1} s",
            waited.as_secs_f64()
        );
    }
    Ok(())
}

/// The connection to systemd, as far as there is one.
#[derive(Default)]
struct Bus {
    systemd: Option<Systemd>,
    failed: Option<Instant>,
}

impl Bus {
    /// The unit's state; `None` if systemd cannot be asked.
    async fn unit(&mut self, name: &str, unit: &str) -> Option<Unit> {
        if self.failed.is_some_and(|at| at.elapsed() < BUS_PAUSE) {
            return None;
        }
        match self.ask(unit).await {
            Ok(known) => Some(known.unit),
            Err(error) => {
                if self.failed.is_none() {
                    log::warn!(
                        "{name}: goes by its listener alone, because systemd cannot be asked: {error:#}"
                    );
                }
                self.systemd = None;
                self.failed = Some(Instant::now());
                None
            }
        }
    }

    async fn ask(&mut self, unit: &str) -> Result<Known> {
        let systemd = match &self.systemd {
            Some(systemd) => systemd,
            None => self.systemd.insert(Systemd::connect().await?),
        };
        let mut known = Known::default();
        known.apply(&systemd.read(unit).await?);
        Ok(known)
    }
}
