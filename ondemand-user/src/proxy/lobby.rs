//! Clients of an application that has a page for browsers (`waiting_page`). They are taken from the front socket while it
//! starts: what a browser has sent is looked at where the kernel keeps it, and one that has waited for a second sees a page. All
//! others hear nothing, and are carried to the application, which reads what they have sent, when it is ready.

use std::{
    future::pending,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, ErrorKind},
    path::Path,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use ondemand_core::{
    waiting::{Judged, LONGEST_HEAD, Moment, PATIENCE, Template, again, judge},
    words::counted,
};
use tokio::{
    signal::unix,
    sync::{OnceCell, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    ACCEPT_PAUSE, GaveUp, MOST, Options, backend::Backend, begin_datagrams, buffers, carry::carry,
    datagrams::Sending, listener::Listeners, new_backend, serve, silence, source, source::Ends,
    stream::Stream, until, wait,
};
use crate::{bus::names, host::page_template, proxy::wait::Clients};

/// The first and the longest pause between two looks at a request that is not all there.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// What has come with the connection is seen within this time.
const AT_ONCE: Duration = Duration::from_millis(20);
/// How long a page may be late for want of the usual time of a start.
const TO_ASK: Duration = Duration::from_millis(300);
/// How long a browser may take to receive what is written.
const TO_WRITE: Duration = Duration::from_secs(10);
/// How long it may take to close a connection that has ended.
const TO_CLOSE: Duration = Duration::from_secs(2);
/// What a browser may send beside its request.
const MOST_MORE: usize = 64 * 1024;
/// How long clients wait on after SIGTERM: their application may be restarted. Shorter than `TimeoutStopSec=`.
const LAST_WAIT: Duration = Duration::from_secs(6);

/// What becomes of those who wait.
#[derive(Clone)]
enum Phase {
    Waiting,
    Ready(Arc<Backend>),
    /// The application was not ready in time, or has failed.
    Failed,
    /// Others of its group were in use all the time.
    NoRoom,
    /// The next proxy goes on.
    Again,
}

/// Where they wait.
struct Lobby {
    name: String,
    template: Template,
    /// When the start began.
    since: Instant,
    usual: OnceCell<Option<Duration>>,
    phase: watch::Sender<Phase>,
}

/// Waits until the backend is ready, with the page of this template for browsers, then serves.
///
/// # Errors
///
/// The backend did not become ready: all who waited have been told, or closed.
pub(super) async fn run(
    options: &Options,
    sending: Option<Sending>,
    clients: Clients,
    template: Option<&Path>,
    terminate: &mut unix::Signal,
) -> Result<()> {
    let (guard, nobody) = (options.awaited.guard(), Clients::none());
    let mut waiting = pin!(wait::wait_for_backend(&options.awaited, &nobody, &guard));
    let since = Instant::now();
    // Nobody sees a page before that: until then all are left at the socket, for whoever serves them.
    let early = tokio::select! {
        waited = &mut waiting => Some(waited),
        _ = terminate.recv() => return Ok(()),
        () = sleep(PATIENCE) => None,
    };
    let mut listeners = Some(Listeners::take(clients)?);
    let mut connections = JoinSet::new();
    buffers::begin();
    let lobby = Lobby::open(&options.awaited.name, template, since);
    let waited = match early {
        Some(waited) => waited,
        None => {
            let mut end = None;
            loop {
                tokio::select! {
                    waited = &mut waiting => break waited,
                    accepted = accept(&mut listeners), if connections.len() < MOST => {
                        lobby.admit(accepted, &mut connections).await;
                    }
                    Some(_) = connections.join_next() => {}
                    // An application that systemd restarts takes its proxy along.
                    _ = terminate.recv(), if end.is_none() => {
                        listeners = None;
                        end = Some(Instant::now() + LAST_WAIT);
                    }
                    () = until(end) => {
                        lobby.phase.send_replace(Phase::Again);
                        while connections.join_next().await.is_some() {}
                        return Ok(());
                    }
                }
                if end.is_some() && connections.is_empty() {
                    return Ok(());
                }
            }
        }
    };
    match waited {
        Ok(left) => {
            let backend = new_backend(options, options.awaited.guard(), left);
            lobby.phase.send_replace(Phase::Ready(Arc::clone(&backend)));
            if let Some(listeners) = &mut listeners {
                begin_datagrams(sending, &lobby.name, listeners);
            }
            serve(listeners, options, backend, connections, terminate).await
        }
        Err(error) => {
            // All who are at the socket: PID 1 would start the next proxy for them at once.
            while let Ok(accepted) = timeout(AT_ONCE, accept(&mut listeners)).await
                && accepted.is_ok()
                && connections.len() < MOST
            {
                lobby.admit(accepted, &mut connections).await;
            }
            if let Some(listeners) = &mut listeners {
                begin_datagrams(None, &lobby.name, listeners);
            }
            let closed = counted(connections.len() as u64, "waiting connection");
            log::warn!("{}: closed {closed}", lobby.name);
            lobby
                .phase
                .send_replace(match error.is::<wait::room::NoRoom>() {
                    true => Phase::NoRoom,
                    false => Phase::Failed,
                });
            while connections.join_next().await.is_some() {}
            Err(GaveUp::of(error))
        }
    }
}

type Accepted = io::Result<(Stream, Option<Ends>)>;

async fn accept(listeners: &mut Option<Listeners>) -> Accepted {
    match listeners {
        Some(listeners) => listeners.accept().await,
        None => pending().await,
    }
}

impl Lobby {
    fn open(name: &str, template: Option<&Path>, since: Instant) -> Arc<Self> {
        let template = template
            .map(page_template::read)
            .transpose()
            .unwrap_or_else(|error| {
                log::warn!("{name}: browsers see the usual page: {error:#}");
                None
            });
        Arc::new(Self {
            name: name.to_owned(),
            template: template.unwrap_or_default(),
            since,
            usual: OnceCell::new(),
            phase: watch::Sender::new(Phase::Waiting),
        })
    }

    /// How long the start usually takes, if the agent knows it and answers at once.
    async fn usual(&self) -> Option<Duration> {
        let ask = async || {
            let asked = async {
                let connection = zbus::Connection::system().await?;
                names::usual_start(&connection, &self.name).await
            };
            match timeout(TO_ASK, asked).await {
                Ok(Ok(usual)) => usual,
                Ok(Err(error)) => {
                    log::debug!("{}: its usual start: {error}", self.name);
                    None
                }
                Err(_) => None,
            }
        };
        *self.usual.get_or_init(ask).await
    }

    async fn admit(self: &Arc<Self>, accepted: Accepted, connections: &mut JoinSet<()>) {
        match accepted {
            // The kernel's program does not know this proxy for one of the service's units.
            Ok((client, Some(ends))) if source::is_outgoing(ends) => client.reset_at_close(),
            Ok((client, ends)) => {
                silence::ends();
                let lobby = Arc::clone(self);
                connections.spawn(async move { lobby.keep(client, ends).await });
            }
            Err(error) => {
                log::debug!("{}: accept: {error}", self.name);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Keeps a client until the application is ready, and carries it there.
    async fn keep(&self, client: Stream, ends: Option<Ends>) {
        // Those that are accepted first have waited at the socket since then.
        let now = Instant::now();
        let is_first = now < self.since + PATIENCE + AT_ONCE;
        let arrived = if is_first { self.since } else { now };
        let mut phase = self.phase.subscribe();
        let decided = tokio::select! {
            biased;
            decided = decided(&mut phase) => decided,
            length = is_browser(&client, arrived) => {
                self.show(&client, length, arrived, &mut phase).await;
                return;
            }
        };
        match decided {
            Phase::Ready(backend) => carry(client, ends, &backend).await,
            _ => {
                // What came last may not have been seen.
                let _ = timeout(AT_ONCE, client.readable()).await;
                if let Some(length) = navigation(&client) {
                    self.show(&client, length, arrived, &mut phase).await;
                }
            }
        }
    }

    /// Shows the page until there is more to say. `length`: of the request.
    async fn show(
        &self,
        client: &Stream,
        length: usize,
        arrived: Instant,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let (nonce, usual) = (nonce(), self.usual().await);
        let moment = || Moment {
            name: &self.name,
            waited: arrived.elapsed(),
            started: self.since.elapsed(),
            usual,
            nonce: &nonce,
        };
        let shown = async {
            let page = self.template.begin(&moment());
            timeout(TO_WRITE, client.write_all(&page)).await??;
            let decided = tokio::select! {
                decided = decided(phase) => decided,
                () = is_gone(client, length) => return Ok(()),
            };
            let end = match decided {
                Phase::Ready(_) => again(0),
                Phase::Again | Phase::Waiting => again(1),
                Phase::Failed => moment().failed(),
                Phase::NoRoom => moment().has_no_room(),
            };
            timeout(TO_WRITE, client.write_all(&end)).await??;
            client.end()?;
            // With anything unread the kernel would reset the connection, and the browser lose the end.
            let _ = timeout(TO_CLOSE, is_gone(client, length)).await;
            io::Result::Ok(())
        };
        if let Err(error) = shown.await {
            log::debug!("{}: a browser has left: {error}", self.name);
        }
    }
}

async fn decided(phase: &mut watch::Receiver<Phase>) -> Phase {
    let decided = phase
        .wait_for(|phase| !matches!(phase, Phase::Waiting))
        .await;
    // The sender is with those who wait.
    decided.map_or(Phase::Again, |phase| phase.clone())
}

/// Completes when a browser has waited for its page; with the length of its request. Never for anybody else.
async fn is_browser(client: &Stream, arrived: Instant) -> usize {
    let mut from = arrived;
    if timeout(AT_ONCE, client.readable()).await.is_err() {
        // A connection that a browser has made ahead of its request.
        if client.readable().await.is_err() {
            return pending().await;
        }
        from = Instant::now();
    }
    sleep_until(from + PATIENCE).await;
    let mut pause = PAUSE;
    loop {
        match look(client) {
            (Judged::Navigation, length) => return length,
            (Judged::Other, _) => return pending().await,
            (Judged::Incomplete, _) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn navigation(client: &Stream) -> Option<usize> {
    match look(client) {
        (Judged::Navigation, length) => Some(length),
        _ => None,
    }
}

/// Looks at what a client has sent, and leaves it in the kernel.
fn look(client: &Stream) -> (Judged, usize) {
    let mut bytes = [0; LONGEST_HEAD + 1];
    match client.try_peek(&mut bytes) {
        // It has ended without a request.
        Ok(0) => (Judged::Other, 0),
        Ok(length) => (judge(&bytes[..length]), length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => (Judged::Incomplete, 0),
        Err(_) => (Judged::Other, 0),
    }
}

/// Completes when the client has closed its end, or sends more than a browser does. Reads its request.
async fn is_gone(client: &Stream, length: usize) {
    let mut left = length + MOST_MORE;
    let mut bytes = [0; 1024];
    while client.readable().await.is_ok() {
        match client.try_read_bytes(&mut bytes) {
            Ok(0) => return,
            Ok(read) if read > left => return,
            Ok(read) => left -= read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// A word that nobody can guess: hashes with keys that the kernel has drawn by lot.
fn nonce() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}
