//! The stop protocol, as a pure state machine: it reads no clock, does no input or output
//! and cannot fail.
//!
//! The agent calls [`Lifecycle::step`] whenever something may have changed and carries out
//! the commands that it returns, in their order. The protocol's steps:
//!
//! 1. [`Step::Rest`]: wait until the service is idle, the proxy is down and no job is queued.
//!    If a veto program is configured, run it ([`Step::Asking`]): it may take long, so everything
//!    that the release rests on is measured after its answer.
//! 2. Close the gate (where connections are steered): new ones queue at the front socket.
//! 3. [`Step::Looking`]: wait until the look-ups that may have seen the gate open are over, take
//!    a snapshot of the sockets, and read the counters once more. If they changed since step 1,
//!    if a handshake is half open, or if the two differ: keep the service up.
//! 4. [`Step::Releasing`]: release the lease, wait for the job's end, then
//!    [`Step::Settling`]: wait until the backend is down. If another unit needs it, take the
//!    lease again ([`Step::Retaking`]).
//! 5. The gate is open only while the backend is active, the lease is held, neither has a
//!    job and no step between 2 and 4 is in progress; and only after a process was seen to accept a
//!    connection of the listener in this run, usually the proxy's first one: nobody may accept at the
//!    listener of a container's published port; and when it is ready, where more than a listener was asked for. After a half-open handshake it stays closed
//!    until a client has connected: half-open handshakes at the backend then complete or expire, and
//!    a scan, which continues at the front socket, cannot keep the service up.
//!
//! An application that takes its listener from a socket unit of its own ([`Options::native`]) has clients in the
//! queue of PID 1's socket while it is down. There the gate is closed only from step 2 to the application's end, and
//! opens when that is seen, not when the job ends: clients that were held meanwhile start it like any others.
//!
//! Clients that are held ([`crate::caught`]) wait before the gate: while the service is down they have it started
//! ([`Step::Waking`]), a stop in progress is vetoed or followed by a start, and they are sent on when the gate opens.
//! Before a connection was accepted in this run, one of them passes the closed gate.
//!
//! Datagrams have a gate of their own, which needs no accepted connection: they pass while the application is up and has bound
//! their ports, and are held otherwise.
//!
//! It is safe to start in any state of the units: a lease that an agent released before it died
//! is taken again.

pub mod ablation;
mod caught;
mod datagrams;
mod look;
pub mod loops;
mod messages;
pub mod note;
pub mod pause;
mod request;
mod settle;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ablation::Protection;
use loops::{ProxyFailures, Restarts, Starts};
pub use messages::{
    Answer, Command, Counter, EndLoop, Input, JobEnd, Options, PATIENCE, Refusal, Reply, View,
};
use note::{Cause, Note, VetoReason};
use pause::Pause;
use request::Request;

use crate::{
    measure::{
        Ktime,
        sample::Sample,
        unit::{ActiveState, Unit, Units},
    },
    policy::Verdict,
    runs::{Look, Released, RunEvent, Runs},
};

/// How long PID 1 may take to see that a backend without lease is unneeded: it checks this later
/// than it reports the job's end (the "stop when unneeded" queue, src/core/manager.c). Also
/// how long a manual stop of the lease is not reverted.
pub const SETTLE: Duration = Duration::from_secs(1);
/// How often to look even if an event is expected, in case it was lost.
pub const RECHECK: Duration = Duration::from_secs(60);
/// How long a dry run does not log a service again, unless a client connects.
pub const DRY_RUN_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a proxy may be up without its backend: while it waits for its listener, it handles
/// this itself.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// The pause after a failed measurement.
pub const RETRY: Duration = Duration::from_secs(10);

/// The step of a service in the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// No step is in progress.
    Rest,
    /// The veto program is running.
    Asking,
    /// The gate is closed and a snapshot is being taken.
    Looking {
        /// The counters that the decision rests on.
        first: Sample,
        /// When the idle clock started.
        since: Ktime,
    },
    /// The lease is being released.
    Releasing(Stop),
    /// The lease is released, the backend still up.
    Settling {
        /// When to take the lease again.
        until: Ktime,
        /// The stop; `None` if this agent did not release the lease (an earlier agent did, for example).
        stop: Option<Stop>,
    },
    /// The lease is being taken.
    Retaking,
    /// The same, which starts the backend for a client that is held.
    Waking,
}

/// A stop in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stop {
    /// When the lease was released.
    pub at: Ktime,
    /// How long the service had been unused.
    pub quiet: Duration,
    /// The start of the run that it stops.
    pub started: Option<Ktime>,
    /// Whether it was requested.
    pub asked: bool,
    /// Clients that are held meanwhile wait for their turn ([`Input::GiveWay`]).
    pub gives_way: bool,
    /// Open connections on which no byte went, which it closes.
    pub silent: u64,
}

/// The state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lifecycle {
    options: Options,
    step: Step,
    /// A stop that was in progress when systemd stopped answering: what becomes of its run is not seen.
    interrupted: Option<Stop>,
    /// `None`: unknown, as an earlier agent left it.
    gate: Option<bool>,
    /// Whether clients that may not start it are served. `None`: unknown, like the gate.
    admits: Option<bool>,
    /// Whether clients are held while the gate is closed. The agent begins with no.
    catches: bool,
    /// The run of which one connection may pass, or has passed, the closed gate.
    passed: Option<Option<Ktime>>,
    /// Whether that permission may be left.
    pass: bool,
    /// Whether datagrams pass to the application. `None`: unknown, as an earlier agent left it.
    passes: Option<bool>,
    /// Until when no datagram has it started, because it failed.
    no_start_until: Option<Ktime>,
    /// Whether the present start is for a client that was held.
    woken: bool,
    /// Whether the last such run had no connection.
    in_vain: bool,
    /// The backend's last start, and when it was seen.
    start_seen: Option<(Option<Ktime>, Ktime)>,
    pause: Pause,
    /// Consecutive failed attempts to take the lease.
    retakes: u32,
    runs: Runs,
    /// A requested stop.
    request: Option<Request>,
    /// Since when the proxy has been up without its backend.
    orphaned: Option<Ktime>,
    /// The start of the idle time when a proxy with silent connections was signalled to exit.
    dismissed: Option<Ktime>,
    /// systemd's own restarts of the backend.
    restarts: Restarts,
    /// The backend's starts that count towards its limit.
    starts: Starts,
    /// Failures of the proxy.
    proxy_failures: ProxyFailures,
}

impl Lifecycle {
    /// The state of a service before its first view. What happens to its backend from its first view
    /// on is counted.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            step: Step::Rest,
            interrupted: None,
            gate: options.leaves_out(Protection::GateUnknown).then_some(false),
            admits: None,
            catches: false,
            passed: None,
            pass: false,
            passes: None,
            no_start_until: None,
            woken: false,
            in_vain: false,
            start_seen: None,
            pause: Pause::default(),
            retakes: 0,
            runs: Runs::default(),
            request: None,
            orphaned: None,
            dismissed: None,
            restarts: Restarts::default(),
            starts: Starts::default(),
            proxy_failures: ProxyFailures::default(),
        }
    }

    /// The same, with counts from this moment on, which is before its first view.
    pub fn since(mut self, watched: Ktime) -> Self {
        self.runs = Runs::since(watched);
        self
    }

    /// The runs of the backend, for the kernel's reports.
    pub fn runs(&mut self) -> &mut Runs {
        &mut self.runs
    }

    /// Follows the runs of the backend of a service that is not managed, without a step.
    pub fn follow(&mut self, now: Ktime, backend: &Unit, sample: Option<&Sample>) -> Vec<RunEvent> {
        let of_this_run = |stop: &Stop| stop.started == self.runs.started().flatten();
        let stop = self.stop().or(self.interrupted.filter(of_this_run));
        let released = stop.map(|stop| Released {
            quiet: stop.quiet,
            asked: stop.asked,
            silent: stop.silent,
        });
        let look = Look {
            now,
            backend,
            sample,
            announced: self.options.tcp_backend,
        };
        let events = self.runs.follow(&look, released);
        let is_end = |event: &RunEvent| matches!(event, RunEvent::Ended { .. });
        if events.iter().any(is_end) {
            self.interrupted = None;
        }
        self.judge_run(&events);
        events
    }

    /// The stop whose lease is released, or being released.
    fn stop(&self) -> Option<Stop> {
        match self.step {
            Step::Releasing(stop)
            | Step::Settling {
                stop: Some(stop), ..
            } => Some(stop),
            _ => None,
        }
    }

    /// The present step.
    pub fn current(&self) -> &Step {
        &self.step
    }

    /// Whether connections are steered while the backend is up.
    pub fn has_gate(&self) -> bool {
        self.options.steer
    }

    /// Whether look-ups may have seen another gate than the present one, so that their end is waited for.
    pub fn has_lookups(&self) -> bool {
        self.options.steer || self.options.datagrams
    }

    /// Whether new connections are steered to the backend.
    pub fn steered(&self) -> bool {
        self.gate == Some(true)
    }

    /// Records that the gate was closed outside the protocol.
    pub fn gate_is_closed(&mut self) {
        self.gate = Some(false);
    }

    /// Until when no stop is attempted because of a veto, and which veto.
    pub fn paused(&self) -> Option<(Ktime, Option<VetoReason>)> {
        (self.pause.until > Ktime::default()).then_some((self.pause.until, self.pause.reason))
    }

    /// Sets the options of a changed configuration. They take effect with the next step.
    pub fn set_options(&mut self, options: Options) {
        if self.options.ask != options.ask && self.step == Step::Asking {
            self.step = Step::Rest;
        }
        self.options = options;
    }

    /// systemd no longer answers: the step in progress is abandoned, and judged by the units' states
    /// when they are known again.
    /// A requested stop is dropped without an answer.
    pub fn interrupt(&mut self) {
        self.interrupted = self.stop().or(self.interrupted);
        self.step = Step::Rest;
        self.request = None;
    }

    /// One step.
    pub fn step(&mut self, view: &View, input: Input) -> Vec<Command> {
        let events = self.follow(view.now, &view.units.backend, view.sample.as_ref());
        let is_start = |event: &RunEvent| matches!(event, RunEvent::Began { .. });
        let starts = events.iter().any(is_start);
        if view.units.held() {
            // It was not released, or is taken again.
            self.interrupted = None;
        }
        let mut commands: Vec<_> = events.into_iter().map(Command::Run).collect();
        self.pause.end_with_clients(view);
        if view.units.backend.is_settled_down() {
            self.pause = Pause::default();
        }
        self.end_loops(view, starts, &mut commands);
        let asked_now = matches!(input, Input::Stop | Input::MakeRoom | Input::GiveWay);
        if asked_now {
            self.take_request(view, &input, &mut commands);
        } else {
            self.advance(view, input, &mut commands);
            self.judge_request(view, &mut commands);
        }
        self.end_orphan(view, &mut commands);
        self.set_admission(view, &mut commands);
        self.pass_one(view, &mut commands);
        self.set_gate(view, &mut commands);
        self.pass_datagrams(view, &mut commands);
        self.set_catch(view, &mut commands);
        let wake = match self.request {
            // The verdict of this view still waits for a timeout.
            Some(_) if asked_now => Some(view.now),
            _ => self.wake_at(view),
        };
        if let Some(at) = wake {
            commands.push(Command::WaitUntil(at));
        }
        commands
    }

    fn advance(&mut self, view: &View, input: Input, commands: &mut Vec<Command>) {
        match (self.step.clone(), input) {
            (Step::Asking, _) if !view.units.held() => self.step = Step::Rest,
            (Step::Asking, Input::Veto(Answer::Keep(why))) => {
                self.keep(view, Cause::Program(why), commands);
            }
            // A client may have connected while the program ran.
            (Step::Asking, Input::Veto(Answer::Allow)) => match idle_since(view) {
                Some(since) => self.look(view, since, commands),
                None => self.not_idle(view, commands),
            },
            (Step::Looking { first, since }, Input::Snapshot(sockets)) => {
                self.looked(view, &first, since, sockets, commands);
            }
            (Step::Releasing(_), Input::Job(JobEnd::Failed(why))) => {
                self.keep(view, Cause::Refused(why), commands);
            }
            (Step::Releasing(_), Input::Job(JobEnd::Canceled))
                if self.leaves_out(Protection::Canceled) => {}
            (Step::Releasing(_), Input::Job(_)) if self.leaves_out(Protection::Settling) => {
                self.step = Step::Rest;
            }
            (Step::Releasing(stop), Input::Job(JobEnd::Done | JobEnd::Canceled)) => {
                self.settle(view, view.now + SETTLE, Some(stop), commands);
            }
            (Step::Settling { until, stop }, _) => self.settle(view, until, stop, commands),
            (Step::Waking, Input::Job(JobEnd::Failed(why))) => {
                self.step = Step::Rest;
                self.start_failed(view.now);
                commands.push(Command::Say(Note::LeaseRefused(why)));
                commands.push(Command::HandOver);
                // They are still in this view.
                return;
            }
            (Step::Retaking | Step::Waking, Input::Job(end)) => {
                self.step = Step::Rest;
                if let JobEnd::Failed(why) = end {
                    commands.push(Command::Say(Note::LeaseRefused(why)));
                }
            }
            _ => {}
        }
        if self.step == Step::Rest {
            self.rest(view, commands);
        }
    }

    /// No step is in progress: starts one if it can.
    fn rest(&mut self, view: &View, commands: &mut Vec<Command>) {
        let units = &view.units;
        if units.lease.state.is_up() {
            self.retakes = 0;
        }
        if units.held() {
            let Some(since) = idle_since(view) else {
                return;
            };
            let proxy_is_down =
                units.proxy.is_settled_down() || self.leaves_out(Protection::ProxyDown);
            // Its silent connections keep the proxy. It leaves only if no byte has gone on any of them.
            let is_silent = view.silent > 0 && units.proxy.is_settled_up() && !self.options.ask;
            if is_silent && !self.options.dry_run && self.dismissed != Some(since) {
                self.dismissed = Some(since);
                commands.push(Command::DismissProxy);
            }
            if !proxy_is_down || view.now < self.pause.until || view.waiting() > 0 {
                return;
            }
            if self.options.ask {
                self.step = Step::Asking;
                commands.push(Command::AskVeto {
                    quiet: since_or_zero(view.now, since),
                });
            } else {
                self.look(view, since, commands);
            }
        } else if self.must_wake(view) {
            self.step = Step::Waking;
            // A scan has no connection; that a datagram comes is all that there is to see.
            self.woken = view.caught > 0 && view.datagrams == 0;
            commands.push(Command::TakeLease);
        } else if units.backend.is_settled_up()
            && units.lease.is_settled_down()
            && !self.leaves_out(Protection::Unleased)
        {
            // It was released by hand, or by an earlier agent. PID 1 may be about to stop the backend.
            let wait = SETTLE * 2_u32.pow(self.retakes.min(5));
            self.step = Step::Settling {
                until: view.now + wait,
                stop: None,
            };
        }
    }

    /// A proxy that outlives its crashed backend has no one to carry connections to, and keeps PID 1
    /// from starting the backend for the next client. This is the only case in which the agent stops
    /// a proxy.
    fn end_orphan(&mut self, view: &View, commands: &mut Vec<Command>) {
        let units = &view.units;
        let is_orphan = units.backend.is_settled_down()
            && units.proxy.is_settled_up()
            && !self.leaves_out(Protection::Orphan);
        if !is_orphan {
            self.orphaned = None;
            return;
        }
        let since = *self.orphaned.get_or_insert(view.now);
        if view.now >= since + ORPHAN_GRACE {
            self.orphaned = Some(view.now);
            commands.push(Command::Say(Note::OrphanedProxy));
            commands.push(Command::StopProxy);
        }
    }

    /// Clients that may not start the service are served while it is up and no stop is in progress:
    /// then none of them is at the front socket when it has stopped.
    fn set_admission(&mut self, view: &View, commands: &mut Vec<Command>) {
        let admits = view.units.held() && matches!(self.step, Step::Rest | Step::Asking);
        if self.options.wake_list && self.admits != Some(admits) {
            self.admits = Some(admits);
            let place = if admits { commands.len() } else { 0 };
            commands.insert(place, Command::Admit(admits));
        }
    }

    /// Step 5. The gate closes before all other commands, and opens after them.
    fn set_gate(&mut self, view: &View, commands: &mut Vec<Command>) {
        let open = self.options.steer
            && self.may_open(view)
            && matches!(self.step, Step::Rest | Step::Asking)
            && self.pause.reason != Some(VetoReason::HalfOpen);
        // Without steering there is no gate, unless the configuration just took it away.
        let is_left = self.pass && !open && !self.may_be_passing();
        let is_same = self.gate == Some(open) || (!self.options.steer && self.gate.is_none());
        if is_same && (!is_left || self.leaves_out(Protection::Pass)) {
            return;
        }
        self.gate = Some(open);
        self.pass = false;
        if open {
            commands.push(Command::OpenGate);
        } else if self.leaves_out(Protection::GateFirst) {
            commands.push(Command::CloseGate);
        } else if !self.leaves_out(Protection::Gate) {
            commands.insert(0, Command::CloseGate);
        }
    }

    fn may_open(&self, view: &View) -> bool {
        let Units { backend, lease, .. } = &view.units;
        if self.options.native {
            // What arrives while it is down is in the queue of a listener that PID 1 watches.
            return match backend.state {
                ActiveState::Inactive | ActiveState::Failed | ActiveState::Activating => true,
                ActiveState::Active | ActiveState::Reloading => {
                    lease.state.is_up() || lease.job || self.leaves_out(Protection::LeaseHeld)
                }
                ActiveState::Deactivating | ActiveState::Unknown => false,
            };
        }
        let listens = backend.state == ActiveState::Activating;
        (backend.is_settled_up() || (listens && self.leaves_out(Protection::Active)))
            && (lease.is_settled_up() || self.leaves_out(Protection::LeaseHeld))
            && (has_accepted(view) || self.leaves_out(Protection::Accepted))
            && view.ready
    }

    fn wake_at(&self, view: &View) -> Option<Ktime> {
        let until = self.request.map(|request| request.until);
        let until = until.filter(|until| *until > view.now);
        let next = self.next_change(view).into_iter().chain(until);
        let heard = self.runs.due();
        let others = self.next_of_loops(view).into_iter();
        next.chain(others)
            .chain(self.next_of_caught(view))
            .chain(self.next_of_datagrams(view))
            .chain(heard)
            .min()
    }

    fn next_change(&self, view: &View) -> Option<Ktime> {
        match self.step {
            Step::Rest if self.orphaned.is_some() => {
                self.orphaned.map(|since| since + ORPHAN_GRACE)
            }
            Step::Settling { until, .. } => view.units.backend.is_settled_up().then_some(until),
            Step::Rest if view.units.held() => match view.verdict {
                Verdict::Quiet { idle_at, .. } => idle_at.map(|at| at.max(self.pause.until)),
                Verdict::Idle { .. } if view.now < self.pause.until => Some(self.pause.until),
                // A hold may expire while the host is suspended, which this clock does not count.
                Verdict::Held {
                    until: Some(at), ..
                } => Some(at.min(view.now + RECHECK)),
                // The end of the other service is an event.
                Verdict::Held { until: None, .. } | Verdict::Needed { .. } => None,
                // The end of the last connection or of the proxy is an event.
                Verdict::Busy { .. } | Verdict::Idle { .. } => Some(view.now + RECHECK),
                Verdict::Unknown(_) => Some(view.now + RETRY),
            },
            _ => None,
        }
    }
}

/// Whether a process was seen to accept a connection of the backend's listener in this run.
pub fn has_accepted(view: &View) -> bool {
    let served = view.sample.and_then(|sample| sample.served);
    let began = view.units.backend.inactive_exit;
    served
        .zip(began)
        .is_some_and(|(served, began)| served >= began)
}

fn idle_since(view: &View) -> Option<Ktime> {
    match view.verdict {
        Verdict::Idle { since } => Some(since),
        _ => None,
    }
}

fn since_or_zero(now: Ktime, earlier: Ktime) -> Duration {
    now.since(earlier).unwrap_or_default()
}
