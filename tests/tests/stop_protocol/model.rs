//! The stop protocol with everything that runs beside it, as a state machine that a model
//! checker can walk: clients, the kernel's look-ups and queues, PID 1 and the agent.
//!
//! Time is left out but for one assumption: the final ACK of a SYN cookie comes within two
//! seconds of its look-up or never. Any other handshake may outlast every timeout, and a service
//! may be found idle while look-ups are under way, as in a port scan.

use stateright::{Model, Property};

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
    fn proxy_needed(&self) -> bool {
        self.clients.contains(&Client::Established {
            at: Listener::Front,
        })
    }

    fn safe_to_open(&self, without: Without) -> bool {
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
    fn backend_gone(&mut self) {
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

    fn start_backend(&mut self) {
        match self.backend {
            Backend::Inactive => self.backend = Backend::Activating { listening: false },
            Backend::Deactivating => self.start_queued = true,
            Backend::Activating { .. } | Backend::Active => {}
        }
    }
}

impl Protocol {
    fn client_steps(&self, state: &State, client: Client) -> Vec<ClientStep> {
        let backend_listens = !matches!(
            state.backend,
            Backend::Inactive | Backend::Activating { listening: false }
        );
        match client {
            Client::Away => vec![ClientStep::Syn],
            Client::LookingUp { gate: None } => vec![ClientStep::ReadGate],
            Client::LookingUp { gate: Some(_) } => vec![
                ClientStep::Request { cookie: false },
                ClientStep::Request { cookie: true },
            ],
            Client::HalfOpen { young: true, .. } => vec![ClientStep::Age, ClientStep::FinalAck],
            Client::HalfOpen { young: false, .. } => vec![ClientStep::FinalAck],
            Client::Cookie { .. } => vec![ClientStep::FinalAck, ClientStep::Expire],
            Client::Established {
                at: Listener::Front,
            } if state.proxy && state.backend == Backend::Active && backend_listens => {
                vec![ClientStep::TakenByProxy]
            }
            Client::Established {
                at: Listener::Backend,
            }
            | Client::Proxied
                if state.backend == Backend::Active =>
            {
                vec![ClientStep::Serve]
            }
            _ => vec![],
        }
    }

    fn pid1_steps(&self, state: &State) -> Vec<Pid1Step> {
        let mut steps = vec![];
        if !state.proxy && state.proxy_needed() {
            steps.push(Pid1Step::TriggerProxy);
        }
        if state.proxy && !state.proxy_needed() && !state.clients.contains(&Client::Proxied) {
            steps.push(Pid1Step::ProxyExits);
        }
        if state.unneeded_check {
            steps.push(Pid1Step::CheckUnneeded);
        }
        match state.backend {
            Backend::Deactivating => steps.push(Pid1Step::BackendStopped),
            Backend::Activating { listening } => {
                steps.push(if listening {
                    Pid1Step::BackendActive
                } else {
                    Pid1Step::BackendListens
                });
                if state.failures_left > 0 {
                    steps.push(Pid1Step::BackendFails);
                }
            }
            // The drop-in's Wants= starts the lease with the backend.
            Backend::Active if !state.lease && !state.unneeded_check && state.start_queued => {
                steps.push(Pid1Step::BackendTakesLease);
            }
            _ => {}
        }
        steps
    }

    fn agent_steps(&self, state: &State) -> Vec<AgentStep> {
        let mut steps = vec![];
        if state.agent != Agent::Dead && state.deaths_left > 0 {
            steps.push(AgentStep::Die);
        }
        match state.agent {
            Agent::Dead => steps.push(AgentStep::Start),
            Agent::Watching => self.watching_steps(state, &mut steps),
            Agent::Idle { .. } => steps.push(AgentStep::CloseGate),
            Agent::GateClosed { .. } => {
                let open = Client::LookingUp { gate: Some(true) };
                if !state.clients.contains(&open) || self.without == Without::WaitForLookups {
                    steps.push(AgentStep::AwaitLookups);
                }
            }
            Agent::LookupsOver { .. } => steps.push(AgentStep::TakeSnapshot),
            Agent::Snapshot { .. } => steps.push(AgentStep::ReadAgain),
            Agent::Confirmed => steps.push(AgentStep::ReleaseLease),
            Agent::Settling => {
                if state.backend == Backend::Inactive {
                    steps.push(AgentStep::SeeStopped);
                } else if state.proxy || state.backend == Backend::Active {
                    steps.push(AgentStep::TakeLease);
                }
            }
        }
        steps
    }

    fn watching_steps(&self, state: &State, steps: &mut Vec<AgentStep>) {
        let safe = state.safe_to_open(self.without);
        if !state.gate_open && safe {
            steps.push(AgentStep::OpenGate);
        }
        if state.gate_open && !safe && self.without != Without::Gate {
            steps.push(AgentStep::ShutGate);
        }
        if state.backend == Backend::Active && !state.lease && !state.unneeded_check {
            steps.push(AgentStep::TakeLease);
        }
        let open = state.counters.accepted != state.counters.closed;
        if state.attempts_left > 0
            && state.backend == Backend::Active
            && state.lease
            && !state.proxy
            && !open
            && !self.may_send_cookie_ack(state)
        {
            steps.push(AgentStep::FindIdle);
        }
    }

    /// What the policy says of a look-up that was answered with a cookie.
    fn may_send_cookie_ack(&self, state: &State) -> bool {
        let is_cookie = |client: &Client| matches!(client, Client::Cookie { .. });
        self.without != Without::CookieAge && state.clients.iter().any(is_cookie)
    }

    fn step_client(&self, state: &mut State, index: usize, step: ClientStep) {
        let client = state.clients[index];
        state.clients[index] = match (step, client) {
            (ClientStep::Syn, _) => Client::LookingUp { gate: None },
            (ClientStep::ReadGate, _) => Client::LookingUp {
                gate: Some(state.gate_open),
            },
            (ClientStep::Request { cookie }, Client::LookingUp { gate }) => {
                let listens = !matches!(
                    state.backend,
                    Backend::Inactive | Backend::Activating { listening: false }
                );
                let at = if gate == Some(true) && listens {
                    Listener::Backend
                } else {
                    Listener::Front
                };
                if cookie {
                    Client::Cookie { at }
                } else {
                    Client::HalfOpen { at, young: true }
                }
            }
            (ClientStep::Age, Client::HalfOpen { at, .. }) => Client::HalfOpen { at, young: false },
            (ClientStep::FinalAck, Client::HalfOpen { at, .. } | Client::Cookie { at }) => {
                state.counters.accepted += 1;
                Client::Established { at }
            }
            (ClientStep::Expire, _) => Client::Served,
            (ClientStep::TakenByProxy, _) => Client::Proxied,
            (ClientStep::Serve, _) => {
                state.counters.closed += 1;
                Client::Served
            }
            (_, other) => other,
        };
    }

    fn step_pid1(&self, state: &mut State, step: Pid1Step) {
        match step {
            Pid1Step::TriggerProxy => {
                state.proxy = true;
                state.start_backend();
            }
            Pid1Step::ProxyExits => {
                state.proxy = false;
                state.unneeded_check = true;
            }
            Pid1Step::CheckUnneeded => {
                state.unneeded_check = false;
                if state.backend == Backend::Active && !state.lease && !state.proxy {
                    state.backend = Backend::Deactivating;
                }
            }
            Pid1Step::BackendStopped => {
                state.backend_gone();
                state.stops += 1;
                state.backend = Backend::Inactive;
                if state.start_queued {
                    state.start_queued = false;
                    state.start_backend();
                }
            }
            Pid1Step::BackendListens => state.backend = Backend::Activating { listening: true },
            Pid1Step::BackendActive => {
                state.backend = Backend::Active;
                state.lease = true;
            }
            Pid1Step::BackendFails => {
                state.failures_left -= 1;
                state.backend_gone();
                state.backend = Backend::Inactive;
                // The proxy says why, and leaves; a client that waits still triggers the next.
                state.proxy = false;
            }
            Pid1Step::BackendTakesLease => state.lease = true,
        }
    }

    fn step_agent(&self, state: &mut State, step: AgentStep) {
        let now = state.counters;
        let steps_gate = self.without != Without::Gate;
        let changed = |seen: Counters| seen != now && self.without != Without::Recheck;
        state.agent = match (step, state.agent) {
            (AgentStep::FindIdle, _) => {
                state.attempts_left -= 1;
                Agent::Idle { seen: now }
            }
            (AgentStep::CloseGate, Agent::Idle { seen }) => {
                state.gate_open &= !steps_gate;
                Agent::GateClosed { seen }
            }
            (AgentStep::AwaitLookups, Agent::GateClosed { seen }) => Agent::LookupsOver { seen },
            (AgentStep::TakeSnapshot, Agent::LookupsOver { seen }) => {
                if self.snapshot_vetoes(state) {
                    Agent::Watching
                } else {
                    Agent::Snapshot { seen }
                }
            }
            (AgentStep::ReadAgain, Agent::Snapshot { seen }) => {
                if changed(seen) || self.may_send_cookie_ack(state) {
                    Agent::Watching
                } else {
                    Agent::Confirmed
                }
            }
            (AgentStep::ReleaseLease, _) => {
                state.lease = false;
                state.unneeded_check = true;
                if self.without == Without::WaitForStopped {
                    Agent::Watching
                } else {
                    Agent::Settling
                }
            }
            (AgentStep::SeeStopped, _) => Agent::Watching,
            (AgentStep::TakeLease, _) => {
                // Requires= of the lease: the backend is started, or kept.
                state.start_backend();
                if state.backend == Backend::Active {
                    state.lease = true;
                }
                Agent::Watching
            }
            (AgentStep::OpenGate, agent) => {
                state.gate_open = true;
                agent
            }
            (AgentStep::ShutGate, agent) => {
                state.gate_open = false;
                agent
            }
            (AgentStep::Die, _) => {
                state.deaths_left -= 1;
                Agent::Dead
            }
            (AgentStep::Start, _) => Agent::Watching,
            (_, other) => other,
        };
    }

    fn snapshot_vetoes(&self, state: &State) -> bool {
        state.clients.iter().any(|client| match *client {
            Client::HalfOpen {
                at: Listener::Backend,
                young,
            } => match self.without {
                Without::HalfOpenCheck | Without::Recheck => false,
                Without::OldHalfOpenCheck => young,
                _ => true,
            },
            Client::Established { .. } | Client::Proxied => self.without != Without::Recheck,
            _ => false,
        })
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clients: vec![Client::Away; self.clients],
            counters: Counters::default(),
            gate_open: true,
            backend: Backend::Active,
            start_queued: false,
            proxy: false,
            lease: true,
            unneeded_check: false,
            agent: Agent::Watching,
            attempts_left: 2,
            deaths_left: 1,
            failures_left: 1,
            stops: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, client) in state.clients.iter().enumerate() {
            let steps = self.client_steps(state, *client);
            actions.extend(steps.into_iter().map(|step| Action::Client(index, step)));
        }
        actions.extend(self.pid1_steps(state).into_iter().map(Action::Pid1));
        actions.extend(self.agent_steps(state).into_iter().map(Action::Agent));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Client(index, step) => self.step_client(&mut state, index, step),
            Action::Pid1(step) => self.step_pid1(&mut state, step),
            Action::Agent(step) => self.step_agent(&mut state, step),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no request is lost", |_, state: &State| {
                !state.clients.contains(&Client::Lost)
            }),
            Property::always("nobody waits for ever", |model: &Self, state: &State| {
                let mut actions = vec![];
                model.actions(state, &mut actions);
                !actions.is_empty() || state.clients.iter().all(|client| *client == Client::Served)
            }),
            Property::sometimes(
                "a service is stopped and all are served",
                |_, state: &State| {
                    state.stops > 0 && state.clients.iter().all(|client| *client == Client::Served)
                },
            ),
        ]
    }
}
