//! The inputs and outputs of the protocol.

use std::{fmt, time::Duration};

use super::{
    ablation::Protection,
    note::{Cause, Note, VetoReason},
};
use crate::{
    config::{Endpoint, Service},
    measure::{
        Ktime,
        sample::{Sample, Sockets},
        unit::Units,
    },
    policy::Verdict,
    runs::RunEvent,
    words::{Span, counted},
};

/// How long a request waits for what ends by itself: a proxy without clients, a job,
/// a client that may be connecting.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration of the protocol for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Whether there is a gate.
    pub steer: bool,
    /// Whether it has a list of clients that may start it.
    pub wake_list: bool,
    /// Whether PID 1 holds the application's listener, so that the gate may be open while that is down.
    pub native: bool,
    /// Whether clients may be held while the gate is closed.
    pub catch: bool,
    /// Whether it receives datagrams, which are held while it is down or stops.
    pub datagrams: bool,
    /// Whether a veto program is run before a stop.
    pub ask: bool,
    /// Log what would be stopped, and stop nothing.
    pub dry_run: bool,
    /// How long the proxy stays up without clients.
    pub proxy_stays: Duration,
    /// Whether a snapshot shows the front socket.
    pub tcp_front: bool,
    /// Whether it is reported when the application listens, or is ready.
    pub tcp_backend: bool,
    /// The protections that a test leaves out.
    pub leaves_out: &'static [Protection],
}

impl Options {
    /// Returns the options of `service`.
    pub fn new(service: &Service, dry_run: bool) -> Self {
        Self {
            steer: service.steer,
            wake_list: !service.wake_from.is_absent(),
            native: service.activation.is_native(),
            catch: false,
            datagrams: service.has_datagrams(),
            ask: service.veto.is_some(),
            dry_run,
            proxy_stays: crate::proxy_stay::exit_idle_time(service),
            tcp_front: service.listen.iter().any(Endpoint::is_tcp) || service.has_datagrams(),
            tcp_backend: (!matches!(service.backend, Endpoint::Unix(_)) || service.ready.is_some())
                // It does not listen itself.
                && !service.activation.is_native(),
            leaves_out: &[],
        }
    }
}

/// What is known at the moment of a step.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The present.
    pub now: Ktime,
    /// The kernel's counters. `None`: they could not be read.
    pub sample: Option<Sample>,
    /// The policy's verdict on them.
    pub verdict: Verdict,
    /// The service's units.
    pub units: Units,
    /// The number of clients that are held.
    pub caught: u64,
    /// The number of datagrams that are held.
    pub datagrams: u64,
    /// Whether the application has bound the ports where they arrive.
    pub bound: bool,
    /// Whether there is a listener that connections can be steered to. Known only if clients are held.
    pub listens: bool,
    /// Whether the application is ready for clients, if more than a listener was asked for (`ready`).
    pub ready: bool,
    /// Whether a client that is held may have it started: there is room ([`crate::room`]).
    pub room: bool,
    /// Open connections that are no use, because no byte goes on them: the verdict is in spite of these.
    pub silent: u64,
}

impl View {
    /// The number of clients and datagrams that are held.
    pub fn waiting(&self) -> u64 {
        self.caught + self.datagrams
    }
}

/// The cause of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Something may have changed, or time has passed.
    Changed,
    /// The veto program's answer.
    Veto(Answer),
    /// The result of [`Command::TakeSnapshot`], `None` if it failed. The view is newer.
    Snapshot(Option<Sockets>),
    /// The end of [`Command::ReleaseLease`] or [`Command::TakeLease`]. The view is newer.
    Job(JobEnd),
    /// A stop is requested: answered with one [`Command::Answer`]. The next view's verdict must wait
    /// for no timeout, see [`super::Lifecycle::is_asked`].
    Stop,
    /// The same to make room for another service: it counts as a stop of an idle service.
    MakeRoom,
    /// The same for one whose clients have waited longer than those that are held now: these keep nothing up, and wait
    /// for their turn.
    GiveWay,
}

/// The answer of the veto program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The service may be stopped.
    Allow,
    /// The service must stay up, and why.
    Keep(String),
}

/// How a job of systemd ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JobEnd {
    /// `done`.
    Done,
    /// Another job replaced it. It may have had its effect nevertheless.
    Canceled,
    /// It was refused or failed, and why.
    Failed(String),
}

/// A command for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// New connections go to the front socket. If it fails, answer the following
    /// `TakeSnapshot` with `None`.
    CloseGate,
    /// New connections go to the backend, and so do the clients that are held.
    OpenGate,
    /// While the gate is closed: hold clients from now on (true), or let them go to the front socket. After an
    /// error, nothing has changed.
    Catch(bool),
    /// Datagrams pass to the application from now on, those that are held first (true), or are held. After an error,
    /// nothing has changed.
    PassDatagrams(bool),
    /// Let one connection pass the closed gate, and send the first of the clients that are held.
    PassOne,
    /// The clients that are held go to the front socket.
    HandOver,
    /// Serve clients that may not start the service from now on (true), or refuse them. After an error,
    /// nothing has changed.
    Admit(bool),
    /// Run the veto program, answer with [`Input::Veto`].
    AskVeto {
        /// How long the service has been unused.
        quiet: Duration,
    },
    /// If there is a gate, wait for the end of earlier look-ups. Then take a snapshot of the sockets
    /// and answer with [`Input::Snapshot`].
    TakeSnapshot,
    /// Stop the lease's unit, answer with [`Input::Job`].
    ReleaseLease,
    /// Start the lease's unit, answer with [`Input::Job`].
    TakeLease,
    /// End what systemd starts again and again; no input follows.
    EndLoop(EndLoop),
    /// The backend's starts up to now do not count towards its start limit; no input follows.
    ForgetStarts,
    /// Stop the proxy's unit; no input follows.
    StopProxy,
    /// Signal the proxy to exit if it has no connection; no input follows.
    DismissProxy,
    /// Publish the event to the subscribers of the backend's runs.
    Run(RunEvent),
    /// Count it.
    Count(Counter),
    /// Log it.
    Say(Note),
    /// Answer a requested stop.
    Answer(Reply),
    /// Step again at this time, or earlier. It replaces the time of the previous step; a step without
    /// it waits for an event only.
    WaitUntil(Ktime),
}

/// The end of what systemd starts again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndLoop {
    /// The proxy cannot run: restart the front socket, which closes the waiting clients' connections, then stop
    /// the proxy.
    Proxy {
        /// Failures in a row.
        times: u32,
    },
    /// The application is about to be restarted, and nobody waits for it any more: stop its unit.
    Backend {
        /// Restarts since it was started otherwise.
        times: u32,
        /// It was restarted too often. False: it is unused, and a job that is queued by now has precedence.
        often: bool,
        /// Clients wait: restart the front socket before.
        waiting: bool,
    },
}

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A stop that was not completed.
    Veto(VetoReason),
    /// The counters and the socket tables differed.
    Drift,
    /// The proxy failed, and systemd starts it again.
    ProxyFailed,
    /// systemd restarts the application by itself.
    Restarted,
}

/// The result of a requested stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The service is down.
    Stopped,
    /// The service was already down.
    NotRunning,
    /// The service stays up.
    Kept(Refusal),
}

/// Why the service stays up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The number of open connections.
    Open(u64),
    /// It is held.
    Held,
    /// A service that is up needs it.
    Needed,
    /// It is starting.
    Starting,
    /// Its proxy is up, and stays for this time without clients.
    Proxy(Duration),
    /// Its use is unknown, and why.
    Unknown(String),
    /// A dry run; it would have been stopped.
    DryRun,
    /// The units did not settle in time.
    Slow,
    /// A veto of the protocol.
    Vetoed(Cause),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(1) => f.write_str("1 connection is open"),
            Self::Open(open) => write!(f, "{} are open", counted(*open, "connection")),
            Self::Held => f.write_str("it is held; release it first (`ondemand release`)"),
            Self::Needed => f.write_str("a service that is up needs it; stop that first"),
            Self::Starting => f.write_str("it is starting; try again when it is up"),
            Self::Proxy(stays) => write!(
                f,
                "its proxy is still up; it exits {} after its last client",
                Span(*stays)
            ),
            Self::Unknown(why) => write!(f, "its use is unknown: {why}"),
            Self::DryRun => f.write_str("dry run; it would be stopped now"),
            Self::Slow => write!(
                f,
                "its units did not settle within {}; see `ondemand status`",
                Span(PATIENCE)
            ),
            Self::Vetoed(cause @ Cause::Program(_)) => write!(f, "its veto program says: {cause}"),
            Self::Vetoed(cause) => write!(f, "{cause}"),
        }
    }
}
