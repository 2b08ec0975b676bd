//! The only code that speaks to PID 1 (org.freedesktop.systemd1(5)).

mod address_rules;
mod calls;
mod candidate;
mod ending;
mod facts;
mod freezer;
mod jobs;
mod names;
mod owner;
mod permission;
mod query;
mod reading;
mod signals;
mod standing;
pub mod unit_path;
pub mod units;
mod usage;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use address_rules::Slices;
use anyhow::{Context as _, Result, anyhow};
use calls::{CgroupProxy, ManagerProxy};
pub use candidate::{Candidate, OfService};
pub use facts::{Facts, Listed, Questions};
pub use freezer::Freezable;
use jobs::Jobs;
use names::Names;
use nix::sys::signal::Signal;
use ondemand_core::lifecycle::JobEnd;
pub use reading::{Dependencies, Known, Properties, Reading};
use signals::{Signals, forward};
pub use standing::Standing;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::AbortHandle,
};
use zbus::{Connection, Message, connection::Builder, proxy::CacheProperties};

use crate::host::ablation::{self, Moment};

const NAME: &str = "org.freedesktop.systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Maximum time of PID 1 for a reply. It is busy for seconds during a `daemon-reload`. Longer than
/// the 25 s that it waits for polkit (sd-bus's own limit): otherwise a stop could be carried out after
/// the agent has abandoned it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time of a job before its end is taken as missed. Longer than any working start or stop;
/// the units' states show the result.
const JOB_TIMEOUT: Duration = Duration::from_secs(300);
/// A job's mode: other queued jobs have precedence. A manual stop continues, and so does a start
/// caused by a client.
const GIVE_WAY: &str = "fail";
/// Maximum number of queued signals. The bus would hold up replies behind a full queue.
const QUEUE: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Makes a proxy without connections exit immediately; one with connections ignores it. Apache's
/// httpd uses the same signal for its graceful stop. Its default action is to ignore it, so it does
/// not end a proxy of another version that has connections.
pub const LEAVE: Signal = Signal::SIGWINCH;

/// A change that PID 1 reports.
#[derive(Clone, Debug)]
pub enum Change {
    /// Something of a watched unit changed. The same change may be reported twice.
    Unit {
        /// Its name.
        unit: String,
        /// The change.
        reading: Box<Reading>,
    },
    /// The unit files were reloaded: read the units again.
    Reloaded,
    /// The connection is lost, or PID 1 re-executed itself: connect again. Nothing follows this.
    Lost(String),
}

/// A connection to PID 1. Clones share it.
#[derive(Clone, Debug)]
pub struct Systemd {
    connection: Connection,
    manager: ManagerProxy<'static>,
    watched: Arc<Mutex<Names>>,
    /// For calls that read. The bus lets a connection wait for 128 replies (`max_replies_per_connection` of
    /// dbus-daemon) and then refuses, which would be taken for a systemd that does not answer.
    reads: Arc<Semaphore>,
    /// For calls that act, for which PID 1 asks polkit: reads do not wait for that.
    acts: Arc<Semaphore>,
    jobs: Arc<Jobs>,
}

/// Maximum number of calls that wait for a reply, of each kind.
const AT_ONCE: usize = 48;

/// A connection and its changes.
#[derive(Debug)]
pub struct Link {
    /// For calls.
    pub systemd: Systemd,
    /// PID 1's changes.
    pub changes: mpsc::UnboundedReceiver<Change>,
    forwarder: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl Link {
    /// Connects to the system bus and subscribes to PID 1's signals.
    ///
    /// # Errors
    ///
    /// The bus or PID 1 does not answer.
    pub async fn open() -> Result<Self> {
        let connection = connect().await?;
        // First the rules, then the subscription; the units are read last of all, so that no change
        // is missed.
        let signals = Signals::open(&connection).await?;
        let systemd = Systemd::over(connection).await?;
        // The first start would wait for it, and with it a client.
        drop(systemd.jobs.call(&systemd.connection).await?);
        let subscribed = systemd.manager.subscribe().await;
        subscribed.context("subscribe to systemd's signals")?;
        let (sender, changes) = mpsc::unbounded_channel();
        let forwarder = tokio::spawn(forward(signals, Arc::clone(&systemd.watched), sender));
        Ok(Self {
            systemd,
            changes,
            forwarder: forwarder.abort_handle(),
        })
    }
}

async fn connect() -> Result<Connection> {
    Builder::system()
        .method_timeout(REPLY_TIMEOUT)
        .build()
        .await
        .context("connect to D-Bus, the system bus (is dbus.service running?)")
}

impl Systemd {
    /// A connection for calls only: it receives no changes.
    ///
    /// # Errors
    ///
    /// The bus does not answer.
    pub async fn connect() -> Result<Self> {
        Self::over(connect().await?).await
    }

    async fn over(connection: Connection) -> Result<Self> {
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        Ok(Self {
            connection,
            manager,
            watched: Arc::default(),
            reads: Arc::new(Semaphore::new(AT_ONCE)),
            acts: Arc::new(Semaphore::new(AT_ONCE)),
            jobs: Arc::default(),
        })
    }

    /// Waits for the turn of a call, which ends when the result is dropped. The semaphores are never closed.
    async fn turn(of: &Semaphore) -> Option<SemaphorePermit<'_>> {
        of.acquire().await.ok()
    }

    /// The connection, for calls to other services.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sets the units whose changes are reported.
    pub fn watch<'a>(&self, units: impl IntoIterator<Item = &'a str>) {
        self.names().watch(units);
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service's memory in bytes. `None`: it is not accounted, or the service is down.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn memory(&self, unit: &str) -> Result<Option<u64>> {
        let _turn = Self::turn(&self.reads).await;
        let read = async { self.cgroup(unit).await?.memory_current().await };
        let bytes = read.await;
        let bytes = bytes.with_context(|| format!("query the memory of {unit} from systemd"))?;
        Ok((bytes != u64::MAX).then_some(bytes))
    }

    /// Starts a unit and waits for its job's end.
    pub async fn start(&self, unit: &str) -> JobEnd {
        self.job(Verb::Start, unit, GIVE_WAY).await
    }

    /// The same on request: a queued stop is cancelled, and a running one is waited
    /// for.
    pub async fn start_as_asked(&self, unit: &str) -> JobEnd {
        self.job(Verb::Start, unit, "replace").await
    }

    /// Stops a unit and waits for its job's end.
    pub async fn stop(&self, unit: &str) -> JobEnd {
        self.job(Verb::Stop, unit, GIVE_WAY).await
    }

    /// Stops and starts a unit that is up, and waits for the job's end.
    pub async fn restart(&self, unit: &str) -> JobEnd {
        self.job(Verb::Restart, unit, GIVE_WAY).await
    }

    /// Makes PID 1 run its generators and load all units again; returns when it has.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer, or refuses.
    pub async fn daemon_reload(&self) -> Result<()> {
        self.manager.reload().await.context("daemon-reload")
    }

    /// Stops a unit whatever is queued for it, and waits for its job's end.
    pub async fn stop_at_once(&self, unit: &str) -> JobEnd {
        self.job(Verb::Stop, unit, "replace").await
    }

    /// Restarts a unit, whatever is queued for it, and waits for its job's end.
    pub async fn restart_at_once(&self, unit: &str) -> JobEnd {
        self.job(Verb::Restart, unit, "replace").await
    }

    /// Forgets a unit's starts, which count towards its start limit.
    ///
    /// # Errors
    ///
    /// PID 1 refuses.
    pub async fn forget_starts(&self, unit: &str) -> Result<()> {
        let _turn = Self::turn(&self.acts).await;
        let done = self.manager.reset_failed_unit(unit).await;
        done.map_err(|error| anyhow!(explain("ResetFailedUnit", unit, &error)))
    }

    /// Sends a signal to a service's main process.
    ///
    /// # Errors
    ///
    /// PID 1 refuses: the service is down, for example.
    pub async fn signal(&self, unit: &str, signal: Signal) -> Result<()> {
        let _turn = Self::turn(&self.acts).await;
        let sent = self.manager.kill_unit(unit, "main", signal as i32).await;
        sent.map_err(|error| anyhow!(explain("KillUnit", unit, &error)))
    }

    async fn job(&self, verb: Verb, unit: &str, mode: &str) -> JobEnd {
        let method = verb.method();
        let end = tokio::time::timeout(JOB_TIMEOUT, self.run_job(verb, unit, mode)).await;
        match end {
            Ok(Ok(result)) => match result.as_str() {
                "done" | "skipped" => JobEnd::Done,
                "canceled" => JobEnd::Canceled,
                _ => JobEnd::Failed(format!("{method} {unit} ended as {result}")),
            },
            Ok(Err(error)) => JobEnd::Failed(explain(method, unit, &error)),
            Err(_) => JobEnd::Failed(format!("{method} {unit} has not finished")),
        }
    }

    /// A queued job is not a finished one: its end is reported by a signal, which may arrive before
    /// the reply to the call.
    async fn run_job(&self, verb: Verb, unit: &str, mode: &str) -> zbus::Result<String> {
        let turn = Self::turn(&self.acts).await;
        let call = self.jobs.call(&self.connection).await?;
        let job = match verb {
            Verb::Start => self.manager.start_unit(unit, mode).await?,
            Verb::Stop => self.manager.stop_unit(unit, mode).await?,
            Verb::Restart => self.manager.restart_unit(unit, mode).await?,
        };
        let end = call.job(job);
        // It may take minutes.
        drop(turn);
        match verb {
            Verb::Start => ablation::reached(Moment::RetakeQueued),
            Verb::Stop => ablation::reached(Moment::ReleaseQueued),
            Verb::Restart => {}
        }
        end.await
            .map_err(|_| zbus::Error::Failure("the bus closed the connection".into()))
    }

    /// The properties of a unit with a cgroup.
    async fn cgroup(&self, unit: &str) -> zbus::Result<CgroupProxy<'static>> {
        CgroupProxy::builder(&self.connection)
            .path(unit_path::of(unit))
            .interface(interface_of(unit))
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    /// All properties of one of a unit's interfaces. Not by zbus' own proxy for it, which converts them
    /// to a map and does not expose the reply's position in the stream of messages.
    async fn all_properties(&self, unit: &str, interface: &str) -> Result<Message> {
        let path = unit_path::of(unit);
        let _turn = Self::turn(&self.reads).await;
        self.connection
            .call_method(
                Some(NAME),
                path.as_str(),
                Some(PROPERTIES),
                "GetAll",
                &interface,
            )
            .await
            .with_context(|| format!("query {unit} from systemd"))
    }
}

/// What a job does.
#[derive(Clone, Copy)]
enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    /// The call that queues it, for messages.
    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
        }
    }
}

/// The interface with the properties of a unit's cgroup.
fn interface_of(unit: &str) -> &'static str {
    match unit.rsplit_once('.') {
        Some((_, "socket")) => "org.freedesktop.systemd1.Socket",
        Some((_, "slice")) => "org.freedesktop.systemd1.Slice",
        _ => SERVICE,
    }
}

fn explain(method: &str, unit: &str, error: &zbus::Error) -> String {
    let hint = match permission::is_denied(error) {
        true => " (polkit does not allow it for the agent's user: see `ondemand check`)",
        false => "",
    };
    format!("{method} {unit}: {error}{hint}")
}
