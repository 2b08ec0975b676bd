//! Who takes part in the stop protocol, and in what state each may be.

/// What a mutant leaves out, or does too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// The protocol as it is.
    Nothing,
    /// Connections are steered all the time.
    Gate,
    /// The counters are not read again behind the closed gate.
    Recheck,
    /// Half-open handshakes at the backend do not veto.
    HalfOpenCheck,
    /// Only half-open handshakes whose SYN is young veto.
    OldHalfOpenCheck,
    /// Idle at once after a SYN that was answered with a cookie.
    CookieAge,
    /// The snapshot does not wait for the look-ups that read the gate when it was open.
    WaitForLookups,
    /// The gate opens when the backend listens, not when it is active.
    WaitForActive,
    /// The gate opens when the lease's stop job ends, not when the backend has stopped.
    WaitForStopped,
}

/// Whose listening socket a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    Front,
    Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// Has not sent its SYN.
    Away,
    /// Its SYN runs through the sk_lookup program.
    LookingUp {
        gate: Option<bool>,
    },
    /// A request socket at the listener; `young` until the SYN is some seconds old.
    HalfOpen {
        at: Listener,
        young: bool,
    },
    /// Answered with a SYN cookie: no trace in the kernel.
    Cookie {
        at: Listener,
    },
    /// Established, counted, perhaps not accepted yet.
    Established {
        at: Listener,
    },
    /// Carried by the proxy to the backend.
    Proxied,
    Served,
    Lost,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agent {
    Dead,
    Watching,
    /// Found idle at these counters.
    Idle {
        seen: Counters,
    },
    GateClosed {
        seen: Counters,
    },
    /// Those that read the gate when it was open are over.
    LookupsOver {
        seen: Counters,
    },
    /// The snapshot was quiet.
    Snapshot {
        seen: Counters,
    },
    /// The counters have not changed over the snapshot either.
    Confirmed,
    /// The lease is released.
    Settling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    pub accepted: u8,
    pub closed: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub clients: Vec<Client>,
    pub counters: Counters,
    pub gate_open: bool,
    pub backend: Backend,
    /// A start job waits for the backend's stop to end.
    pub start_queued: bool,
    /// The proxy is active or being started: it needs the backend.
    pub proxy: bool,
    pub lease: bool,
    /// PID 1 will look whether the backend is still needed.
    pub unneeded_check: bool,
    pub agent: Agent,
    // Budgets keep the state space finite.
    pub attempts_left: u8,
    pub deaths_left: u8,
    pub failures_left: u8,
    pub stops: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Client(usize, ClientStep),
    Pid1(Pid1Step),
    Agent(AgentStep),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientStep {
    Syn,
    ReadGate,
    /// The look-up ends: a request socket, or a cookie.
    Request {
        cookie: bool,
    },
    Age,
    FinalAck,
    /// A cookie that nobody answers is void.
    Expire,
    TakenByProxy,
    Serve,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pid1Step {
    TriggerProxy,
    ProxyExits,
    CheckUnneeded,
    BackendStopped,
    BackendListens,
    BackendActive,
    BackendFails,
    BackendTakesLease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentStep {
    FindIdle,
    CloseGate,
    AwaitLookups,
    TakeSnapshot,
    ReadAgain,
    ReleaseLease,
    SeeStopped,
    TakeLease,
    OpenGate,
    ShutGate,
    Die,
    Start,
}

pub struct Protocol {
    pub clients: usize,
    pub without: Without,
}

impl State {
    pub(super) fn proxy_needed(&self) -> bool {
        self.clients.contains(&Client::Established {
            at: Listener::Front,
        })
    }

    pub(super) fn safe_to_open(&self, without: Without) -> bool {
        match without {
            Without::WaitForActive => {
                matches!(
                    self.backend,
                    Backend::Active | Backend::Activating { listening: true }
                )
            }
            Without::WaitForStopped => self.backend == Backend::Active,
            _ => self.backend == Backend::Active && self.lease,
        }
    }

    /// What was at the backend's listener, or in its hands, is gone with it.
    pub(super) fn backend_gone(&mut self) {
        for client in &mut self.clients {
            match client {
                Client::HalfOpen {
                    at: Listener::Backend,
                    ..
                }
                | Client::Cookie {
                    at: Listener::Backend,
                }
                | Client::Established {
                    at: Listener::Backend,
                }
                | Client::Proxied => *client = Client::Lost,
                _ => {}
            }
        }
    }

    pub(super) fn start_backend(&mut self) {
        match self.backend {
            Backend::Inactive => self.backend = Backend::Activating { listening: false },
            Backend::Deactivating => self.start_queued = true,
            Backend::Activating { .. } | Backend::Active => {}
        }
    }
}
