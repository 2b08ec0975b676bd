//! What goes into the protocol and what comes out of it.

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

/// How long a request waits for what is about to end by itself: a proxy without clients, a job,
/// a client that may be on its way.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What the configuration says about the protocol of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Whether there is a gate.
    pub steer: bool,
    /// Whether some clients may not wake it.
    pub wake_list: bool,
    /// Whether a program is asked before a stop.
    pub ask: bool,
    /// Say what would be stopped, and stop nothing.
    pub dry_run: bool,
    /// How long the proxy stays up without clients.
    pub proxy_stays: Duration,
    /// Whether the front socket is one of those that a snapshot shows.
    pub tcp_front: bool,
    /// Whether the backend's listener is one of those that the kernel tells of.
    pub tcp_backend: bool,
    /// What a test leaves out.
    pub leaves_out: &'static [Protection],
}

impl Options {
    /// The options of `service`.
    pub fn new(service: &Service, dry_run: bool) -> Self {
        let tcp = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp(_));
        Self {
            steer: service.steer,
            wake_list: !service.wake_from.is_absent(),
            ask: service.veto.is_some(),
            dry_run,
            proxy_stays: crate::proxy_stay::exit_idle_time(service),
            tcp_front: service.listen.iter().any(tcp),
            tcp_backend: tcp(&service.backend),
            leaves_out: &[],
        }
    }
}

/// Everything that is known at the moment of a step.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The present.
    pub now: Ktime,
    /// The kernel's counters, just read. `None`: they could not be.
    pub sample: Option<Sample>,
    /// What the policy says about them.
    pub verdict: Verdict,
    /// The service's units.
    pub units: Units,
}

/// What brought a step about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Something may have changed, or time has passed.
    Changed,
    /// The veto program's answer.
    Veto(Answer),
    /// What [`Command::TakeSnapshot`] saw, `None` if it failed. The view is younger than it.
    Snapshot(Option<Sockets>),
    /// The end of [`Command::ReleaseLease`] or [`Command::TakeLease`]. The view is younger.
    Job(JobEnd),
    /// Somebody asks for a stop now: answered with one [`Command::Answer`]. The next view's verdict
    /// is to wait for no timeout, as [`super::Lifecycle::is_asked`] tells.
    Stop,
}

/// What the veto program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may be stopped.
    Allow,
    /// Keep it up, and why.
    Keep(String),
}

/// How a job of systemd ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JobEnd {
    /// `done`.
    Done,
    /// Another job took its place. It may have had its effect all the same.
    Canceled,
    /// It was refused or failed, and why.
    Failed(String),
}

/// What the agent is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// New connections go to the front socket. If it fails, answer the following
    /// `TakeSnapshot` with `None`.
    CloseGate,
    /// New connections go to the backend.
    OpenGate,
    /// Clients that may not wake the service are served from now on (true), or refused. What fails
    /// is left as it was.
    Admit(bool),
    /// Run the veto program, answer with [`Input::Veto`].
    AskVeto {
        /// How long nobody has used it.
        quiet: Duration,
    },
    /// Wait for the look-ups that began before, where there is a gate, then look at the sockets
    /// and answer with [`Input::Snapshot`].
    TakeSnapshot,
    /// Stop the lease's unit, answer with [`Input::Job`].
    ReleaseLease,
    /// Start the lease's unit, answer with [`Input::Job`].
    TakeLease,
    /// Stop the proxy's unit; nobody waits for the end.
    StopProxy,
    /// Tell the proxy to leave now if it has no connection; nobody waits for the end.
    DismissProxy,
    /// Tell those who subscribe to the runs of the backend.
    Run(RunEvent),
    /// Count it.
    Count(Counter),
    /// Log it.
    Say(Note),
    /// Tell whoever asked for a stop how it ended.
    Answer(Reply),
    /// Step again then, or sooner. It replaces the wish of the step before; a step without
    /// it waits for an event alone.
    WaitUntil(Ktime),
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A stop that was not carried through.
    Veto(VetoReason),
    /// The counters and the socket tables differed.
    Drift,
}

/// How a stop that somebody asked for ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is down.
    Stopped,
    /// It was down already.
    NotRunning,
    /// It stays up.
    Kept(Refusal),
}

/// Why it stays up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// So many connections are open.
    Open(u64),
    /// It is held.
    Held,
    /// It is starting.
    Starting,
    /// Its proxy is up, and without clients stays for so long.
    Proxy(Duration),
    /// Nobody can tell whether it is used, and why.
    Unknown(String),
    /// The agent stops nothing; it would have been stopped.
    DryRun,
    /// What was waited for did not come.
    Slow,
    /// The protocol's own veto.
    Vetoed(Cause),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(1) => f.write_str("1 connection is open"),
            Self::Open(open) => write!(f, "{} are open", counted(*open, "connection")),
            Self::Held => f.write_str("it is held; release it first (`ondemand release`)"),
            Self::Starting => f.write_str("it is starting; try again when it is up"),
            Self::Proxy(stays) => write!(
                f,
                "its proxy is still up; it ends {} after its last client",
                Span(*stays)
            ),
            Self::Unknown(why) => write!(f, "nobody can tell whether it is used: {why}"),
            Self::DryRun => f.write_str("the agent runs dry; it would be stopped now"),
            Self::Slow => write!(
                f,
                "its units did not settle within {}; `ondemand status` says more",
                Span(PATIENCE)
            ),
            Self::Vetoed(cause @ Cause::Program(_)) => write!(f, "its veto program says: {cause}"),
            Self::Vetoed(cause) => write!(f, "{cause}"),
        }
    }
}
