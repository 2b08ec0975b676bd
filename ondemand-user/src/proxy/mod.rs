//! `ondemand proxy`: waits for the backend, then carries the connections of the front socket to
//! it, and exits some time after the last one.
//!
//! It replaces systemd-socket-proxyd, in the process that has waited: no second program is loaded
//! while the first client waits, a client that half-closes gets its response, a connection takes two
//! descriptors instead of six, and SIGTERM lets open connections finish (systemd-socket-proxyd 252
//! supports neither half-close nor that).

mod backend;
mod buffers;
mod carry;
mod datagrams;
mod first;
mod listener;
mod lobby;
mod memory;
mod one_way;
mod seldom;
mod silence;
mod source;
mod stranger;
mod stream;
pub mod wait;

use std::{
    fmt, future,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use backend::{Backend, PATIENCE};
use carry::carry;
use datagrams::Sending;
use listener::Listeners;
use memory::Memory;
use ondemand_core::{config::Endpoint, words::counted};
use seldom::Seldom;
use stranger::Guard;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    task::JoinSet,
    time::Instant,
};
use wait::{Awaited, Clients};

use crate::{host::program, systemd};

/// Maximum number of connections; more wait at the front socket. Each takes two descriptors, and
/// `LimitNOFILE=` of the unit allows them.
const MOST: usize = 30_000;
/// The pause after accept(2) failed, for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long it takes at most to read what has come.
const UNREAD: Duration = Duration::from_millis(5);

/// What to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The application.
    pub awaited: Awaited,
    /// How long to stay without a connection.
    pub exit_idle_time: Duration,
    /// Connections without a byte for this time are no use. `None`: all are.
    pub silent_after: Option<Duration>,
    /// Where the application receives datagrams.
    pub datagrams: Vec<SocketAddr>,
    /// Browsers see a page while they wait, made from this file if there is one. `None`: they see nothing.
    pub page: Option<Option<PathBuf>>,
}

/// The backend did not become ready, and the waiting clients were closed: no other proxy has anything to do for
/// them.
#[derive(Debug)]
pub struct GaveUp(anyhow::Error);

impl std::error::Error for GaveUp {}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl GaveUp {
    /// Of the end of a wait; one that the next proxy continues stays as it is, and that there was no room.
    fn of(error: anyhow::Error) -> anyhow::Error {
        match error.is::<wait::OutOfSight>() || error.is::<wait::room::NoRoom>() {
            true => error,
            false => Self(error).into(),
        }
    }
}

/// Waits until the backend listens, then serves.
///
/// # Errors
///
/// There are no sockets, or the backend did not become ready: the waiting connections are closed
/// by then.
pub fn run(options: &Options) -> Result<()> {
    let clients = Clients::inherited();
    if clients.sockets().is_empty() {
        bail!(
            "no socket was passed: this program is started by ondemand-{}.socket (sd_listen_fds(3))",
            options.awaited.name
        );
    }
    let sending = match options.datagrams.as_slice() {
        [] => None,
        own => Sending::open(own.to_vec())
            .inspect_err(|error| log::error!("datagrams that wait are lost: {error:#}"))
            .ok(),
    };
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
            if let Some(template) = &options.page {
                return lobby::run(
                    options,
                    sending,
                    clients,
                    template.as_deref(),
                    &mut terminate,
                )
                .await;
            }
            let guard = options.awaited.guard();
            let waiting = wait::wait_for_backend(&options.awaited, &clients, &guard);
            let left = tokio::select! {
                waited = waiting => waited.map_err(GaveUp::of)?,
                // The clients keep waiting, for the next proxy.
                _ = terminate.recv() => return Ok(()),
            };
            let mut listeners = Listeners::take(clients)?;
            begin_datagrams(sending, &options.awaited.name, &mut listeners);
            let backend = new_backend(options, guard, left);
            buffers::begin();
            let none = JoinSet::new();
            serve(Some(listeners), options, backend, none, &mut terminate).await
        });
    match served {
        // Its clients are closed, as after a start that failed; but nothing has failed.
        Err(error) if error.is::<wait::room::NoRoom>() => {
            log::warn!("{error:#}");
            Ok(())
        }
        served => served,
    }
}

/// The application is ready: what waits for it is sent on.
fn begin_datagrams(sending: Option<Sending>, name: &str, listeners: &mut Listeners) {
    let fronts = std::mem::take(&mut listeners.datagrams);
    match sending {
        Some(sending) => drop(tokio::spawn(sending.run(name.to_owned(), fronts))),
        // PID 1 would start the next proxy for them at once.
        None => {
            for front in &fronts {
                datagrams::drop_all(front.as_raw_fd());
            }
        }
    }
}

/// `left`: of `start_timeout`.
fn new_backend(options: &Options, guard: Guard, left: Duration) -> Arc<Backend> {
    // An application that has listened only now has the usual patience at least.
    let left = if left.is_zero() {
        left
    } else {
        left.max(PATIENCE)
    };
    Arc::new(Backend::new(
        &options.awaited.name,
        options.awaited.application.clone(),
        guard,
        Instant::now() + left,
    ))
}

/// Serves those who are there, and, with the front sockets, those who come.
async fn serve(
    listeners: Option<Listeners>,
    options: &Options,
    backend: Arc<Backend>,
    mut connections: JoinSet<()>,
    terminate: &mut unix::Signal,
) -> Result<()> {
    let name = &options.awaited.name;
    let mut leave =
        signal(SignalKind::from_raw(systemd::LEAVE as i32)).context("handle SIGWINCH")?;
    let Some(mut listeners) = listeners else {
        return finish(name, &backend, connections).await;
    };
    let mut accept_failed = Seldom::default();
    let mut loops = Seldom::default();
    let mut memory = Memory::default();
    let mut idle_at = Instant::now() + options.exit_idle_time;
    loop {
        tokio::select! {
            accepted = listeners.accept(), if connections.len() < MOST => match accepted {
                // The kernel's program does not know this proxy for one of the service's units.
                Ok((client, Some(ends))) if source::is_outgoing(ends) => {
                    client.reset_at_close();
                    if loops.occurs(Instant::now()).is_some() {
                        log::error!(
                            "{name}: a connection of this proxy to the application has come back to it"
                        );
                    }
                }
                Ok((client, ends)) => {
                    silence::ends();
                    let backend = Arc::clone(&backend);
                    connections.spawn(async move { carry(client, ends, &backend).await });
                }
                Err(error) => {
                    if let Some(before) = accept_failed.occurs(Instant::now()) {
                        let before = match before {
                            0 => String::new(),
                            _ => format!(" ({} not logged)", counted(before, "failure")),
                        };
                        log::warn!("{name}: accept: {error}{before}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {
                idle_at = Instant::now() + options.exit_idle_time;
                // After an upgrade the next client gets a proxy of the program that is installed now.
                if connections.is_empty() && program::is_replaced() {
                    log::info!("{name}: its program was replaced; the next client has the new one");
                    idle_at = Instant::now();
                }
            }
            () = until(memory.due()) => {
                memory.give_back(Instant::now());
            }
            () = tokio::time::sleep_until(idle_at), if connections.is_empty() => return Ok(()),
            // Clients that connected meanwhile are served, here or by the next proxy.
            _ = leave.recv() => if connections.is_empty() {
                idle_at = Instant::now();
            } else if let Some(after) = options.silent_after && silence::lasts(after) {
                // What has come and is not read yet is read now.
                tokio::time::sleep(UNREAD).await;
                if silence::lasts(after) {
                    let silent = counted(connections.len() as u64, "silent connection");
                    log::info!("{name}: closing {silent}");
                    return Ok(());
                }
            },
            _ = terminate.recv() => break,
        }
        memory.follow(connections.len(), Instant::now());
    }
    // New clients wait for the next proxy.
    drop(listeners);
    finish(name, &backend, connections).await
}

/// After SIGTERM.
async fn finish(name: &str, backend: &Backend, mut connections: JoinSet<()>) -> Result<()> {
    backend.hurry();
    if !connections.is_empty() {
        let open = counted(connections.len() as u64, "connection");
        log::info!("{name}: received SIGTERM; waiting for {open} to finish");
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Completes at that moment. `None`: never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => future::pending().await,
    }
}

/// Whether the error means that nothing listens at the backend's path or address.
fn is_absent(error: &std::io::Error, backend: &Endpoint) -> bool {
    use std::io::ErrorKind;
    match (error.kind(), backend) {
        (ErrorKind::ConnectionRefused, _) => true,
        (ErrorKind::NotFound, Endpoint::Unix(path)) => Path::new(path).is_absolute(),
        _ => false,
    }
}
