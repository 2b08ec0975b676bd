//! The participants of the stop protocol, and their states.

use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
    time::Duration,
};

use ondemand_core::{
    lifecycle::{JobEnd, Lifecycle},
    measure::{
        Ktime,
        sample::{Leg, Sockets},
        unit::Units,
    },
};

use crate::relative::{Relative, Times};

/// The whole world at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub now: Ktime,
    pub clients: Vec<Client>,
    pub kernel: Kernel,
    pub pid1: Pid1,
    /// `None`: it has died.
    pub agent: Option<Agent>,
    /// The service is held.
    pub held: bool,
    /// The runs of the backend with a requested stop that waits for its answer.
    pub asked: Vec<Ktime>,
    /// An answer came without a request, or is not true.
    pub wrong_answer: bool,
    pub left: Budgets,
}

/// States that differ only in their moment, or in which client is the first, are the same.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.feed(&mut Relative::new(hasher, self));
    }
}

impl State {
    fn feed(&self, hasher: &mut impl Hasher) {
        let mut clients = self.clients.clone();
        clients.sort_unstable();
        clients.hash(hasher);
        self.kernel.hash(hasher);
        self.pid1.hash(hasher);
        self.agent.hash(hasher);
        (self.held, &self.asked, self.wrong_answer).hash(hasher);
        self.left.hash(hasher);
    }

    /// Whether time would change anything.
    pub fn can_age(&self) -> bool {
        let is_young = |client: &Client| {
            matches!(
                client,
                Client::HalfOpen { young: true, .. } | Client::Caught { young: true }
            )
        };
        let mut times = Times::new(self.now);
        self.feed(&mut times);
        times.can_age() || self.clients.iter().any(is_young)
    }
}

/// How often the rare events may still happen: this keeps the state space finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budgets {
    /// Attempts to stop the service. After the last one it is held.
    pub attempts: u8,
    /// Deaths of the agent.
    pub deaths: u8,
    /// Starts of the backend that fail.
    pub failures: u8,
    /// Ends of a backend that is active.
    pub crashes: u8,
    /// Requested stops.
    pub stops: u8,
    /// Holds.
    pub holds: u8,
    /// Losses of the agent's connection to systemd.
    pub interrupts: u8,
}

/// Whose listening socket a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listener {
    Front,
    Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// Has not sent its SYN, and may never.
    Away,
    /// Its SYN runs through the sk_lookup program. `awaited`: the agent waits for its end.
    LookingUp {
        gate: Option<bool>,
        since: Ktime,
        awaited: bool,
        /// The kernel knows it as one that goes to the front socket while others are held.
        known: bool,
    },
    /// A request socket at the listener; `young` until some time has passed.
    HalfOpen {
        at: Listener,
        young: bool,
    },
    /// Held by the agent. `since`: until some time has passed.
    Caught {
        young: bool,
    },
    /// Its SYN is lost: it sends it again.
    Unheard,
    /// Answered with a SYN cookie: no trace in the kernel.
    Cookie {
        at: Listener,
        since: Ktime,
        known: bool,
    },
    /// Established, counted, perhaps not accepted yet.
    Established {
        at: Listener,
    },
    /// Carried by the proxy to the backend.
    Proxied,
    Served,
    /// The backend crashed under it: no protocol can prevent the loss.
    CutOff,
    Lost,
}

/// What the kernel keeps for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub gate_open: bool,
    /// Clients are held while the gate is closed, as long as there is an agent.
    pub catch: bool,
    /// One connection may pass the closed gate.
    pub pass: bool,
    pub front: Leg,
    pub steered: Leg,
    pub back: Leg,
    /// Beginnings and ends of connections: the last one's number, and its time.
    pub uses: u64,
    pub last_activity: Option<Ktime>,
    pub last_lookup: Option<Ktime>,
    /// The last run in which the backend accepted a connection.
    pub served: Option<Ktime>,
}

impl Kernel {
    /// A connection is opened or closed.
    pub fn use_now(&mut self, now: Ktime) {
        self.uses += 1;
        self.last_activity = Some(now);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    Inactive,
    Activating {
        listening: bool,
    },
    Active,
    /// Has got SIGTERM; may listen for long.
    Deactivating,
}

/// A job for the lease's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseJob {
    Start,
    Stop,
}

/// The units of the service, and what PID 1 still has to do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pid1 {
    pub backend: Backend,
    /// When it last began to start. Only a number: the time since then is only for the log.
    pub run: Ktime,
    /// The same of the last start that made it active.
    pub active_run: Ktime,
    /// A start job waits for the backend's stop to end.
    pub start_queued: bool,
    /// Active: it needs the backend.
    pub proxy: bool,
    pub lease: bool,
    pub lease_job: Option<LeaseJob>,
    /// PID 1 will check whether the backend is still needed.
    pub unneeded_check: bool,
}

/// The agent: the real protocol, and the pending commands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    pub lifecycle: Lifecycle,
    /// The units as reported by systemd.
    pub units: Units,
    /// The pending commands, in this order.
    pub todo: VecDeque<Deed>,
    pub awaits: Awaits,
}

/// A command of the protocol that has an effect outside of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    CloseGate,
    OpenGate,
    Catch(bool),
    PassOne,
    HandOver,
    AskVeto,
    TakeSnapshot,
    Lease(LeaseJob),
    StopProxy,
    DismissProxy,
    Answer(Told),
}

/// The answer to a requested stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Stopped,
    NotRunning,
    Kept,
}

/// The question whose answer the agent awaits. A later one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Awaits {
    Nothing,
    /// The veto program.
    Veto,
    /// The end of look-ups.
    Lookups,
    /// A snapshot that it is about to judge.
    Snapshot(Sockets),
    /// The end of a job.
    Job(LeaseJob),
    /// A job that has ended so.
    Ended(JobEnd),
}

impl State {
    /// Whether a client waits at the front socket.
    pub fn is_proxy_needed(&self) -> bool {
        let front = Client::Established {
            at: Listener::Front,
        };
        self.clients.contains(&front)
    }

    /// The number of clients that are held.
    pub fn caught(&self) -> usize {
        let caught = |client: &&Client| matches!(client, Client::Caught { .. });
        self.clients.iter().filter(caught).count()
    }

    /// The backend is down, and with it what was at its listener, or in progress.
    pub fn backend_is_gone(&mut self, crashed: bool) {
        self.pid1.backend = Backend::Inactive;
        for client in &mut self.clients {
            let leg = match client {
                Client::HalfOpen { at, .. } | Client::Cookie { at, .. } if *at == BACK => None,
                Client::Established { at } if *at == BACK => Some(&mut self.kernel.steered),
                Client::Proxied => {
                    self.kernel.back.closed += 1;
                    Some(&mut self.kernel.front)
                }
                _ => continue,
            };
            if let Some(leg) = leg {
                leg.closed += 1;
                self.kernel.use_now(self.now);
            }
            *client = match crashed {
                true => Client::CutOff,
                false => Client::Lost,
            };
        }
    }

    /// What wants the backend, and by the drop-in's `Wants=` its lease, is started: one transaction.
    pub fn start_backend(&mut self) {
        let stops = self.pid1.lease_job == Some(LeaseJob::Stop);
        if stops {
            self.lease_job_ended(JobEnd::Canceled);
        }
        if stops || !self.pid1.lease {
            self.pid1.lease_job = Some(LeaseJob::Start);
        }
        match self.pid1.backend {
            Backend::Inactive => {
                self.pid1.backend = Backend::Activating { listening: false };
                self.pid1.run = self.pid1.run + Duration::from_nanos(1);
            }
            Backend::Deactivating => self.pid1.start_queued = true,
            Backend::Activating { .. } | Backend::Active => {}
        }
    }

    /// The lease's job has ended, or was replaced. The agent is notified if it awaits it.
    pub fn lease_job_ended(&mut self, end: JobEnd) {
        let job = self.pid1.lease_job.take();
        if let Some(agent) = &mut self.agent
            && let Awaits::Job(awaited) = agent.awaits
            && Some(awaited) == job
        {
            agent.awaits = Awaits::Ended(end);
        }
    }

    /// How long ago it was.
    pub fn age(&self, at: Ktime) -> Duration {
        self.now.since(at).unwrap_or_default()
    }
}

const BACK: Listener = Listener::Backend;
