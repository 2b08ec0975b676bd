//! `ondemand proxy`: waits for the backend, then carries the connections of the front socket to
//! it, until a while after the last one has gone.
//!
//! In place of systemd-socket-proxyd, and in the process that has waited: no second program has
//! to be loaded while the first client waits, a client that half-closes gets its answer, two
//! descriptors a connection do instead of six, and SIGTERM lets those finish who are being
//! served (systemd-socket-proxyd 252 does neither).

mod buffers;
mod carry;
mod listener;
pub mod wait;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use carry::carry;
use listener::Listeners;
use nix::sys::signal::Signal;
use ondemand_core::{config::Endpoint, words::counted};
use tokio::{
    signal::unix::{self, SignalKind, signal},
    task::JoinSet,
    time::Instant,
};
use wait::Clients;

/// Connections at a time; more wait at the front socket. Each takes two descriptors, and
/// `LimitNOFILE=` of the unit has room for them.
const MOST: usize = 30_000;
/// After accept(2) failed, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells a proxy that has no connection to leave now, and one that has some nothing. As Apache's
/// httpd has it for its graceful stop; by default nothing comes of it, so that no proxy of another
/// version ends by it in the midst of a connection.
pub const LEAVE: Signal = Signal::SIGWINCH;

/// Whom to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The service's name, for messages.
    pub name: String,
    /// The application's unit.
    pub unit: String,
    /// Where the application listens.
    pub backend: Endpoint,
    /// How long the first client is held.
    pub start_timeout: Duration,
    /// How long to stay without a connection.
    pub exit_idle_time: Duration,
}

/// Waits until the backend listens, then serves.
///
/// # Errors
///
/// There are no sockets, or the backend did not come up: the clients that waited are let go
/// by then.
pub fn run(options: &Options) -> Result<()> {
    let clients = Clients::inherited();
    if clients.sockets().is_empty() {
        bail!(
            "no socket was passed on: ondemand-{}.socket starts this program (sd_listen_fds(3))",
            options.name
        );
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
            tokio::select! {
                waited = wait::wait_for_backend(
                    &options.name,
                    &options.unit,
                    &options.backend,
                    options.start_timeout,
                    &clients,
                ) => waited?,
                // The clients go on waiting, for the next proxy.
                _ = terminate.recv() => return Ok(()),
            }
            let listeners = Listeners::take(clients)?;
            serve(listeners, options, &mut terminate).await
        })
}

async fn serve(
    mut listeners: Listeners,
    options: &Options,
    terminate: &mut unix::Signal,
) -> Result<()> {
    let mut leave = signal(SignalKind::from_raw(LEAVE as i32)).context("listen to SIGWINCH")?;
    let mut connections = JoinSet::new();
    let mut idle_at = Instant::now() + options.exit_idle_time;
    loop {
        tokio::select! {
            accepted = listeners.accept(), if connections.len() < MOST => match accepted {
                Ok(client) => {
                    connections.spawn(carry(client, options.backend.clone()));
                }
                Err(error) => {
                    log::warn!("{}: accept: {error}", options.name);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {
                idle_at = Instant::now() + options.exit_idle_time;
            }
            () = tokio::time::sleep_until(idle_at), if connections.is_empty() => return Ok(()),
            // Whoever came meanwhile is served, here or by the next proxy.
            _ = leave.recv() => if connections.is_empty() {
                idle_at = Instant::now();
            },
            _ = terminate.recv() => break,
        }
    }
    // Whoever comes now waits for the next proxy.
    drop(listeners);
    if !connections.is_empty() {
        let open = counted(connections.len() as u64, "connection");
        log::info!("{}: is told to end; lets {open} finish", options.name);
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The path of a Unix socket, or the address, to connect to.
fn is_absent(error: &std::io::Error, backend: &Endpoint) -> bool {
    use std::io::ErrorKind;
    match (error.kind(), backend) {
        (ErrorKind::ConnectionRefused, _) => true,
        (ErrorKind::NotFound, Endpoint::Unix(path)) => Path::new(path).is_absolute(),
        _ => false,
    }
}
