//! What comes of each step.

use crate::state::{
    Agent, AgentStep, Backend, Client, ClientStep, Counters, Listener, Pid1Step, Protocol, State,
    Without,
};

impl Protocol {
    pub(super) fn step_client(&self, state: &mut State, index: usize, step: ClientStep) {
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

    pub(super) fn step_pid1(&self, state: &mut State, step: Pid1Step) {
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

    pub(super) fn step_agent(&self, state: &mut State, step: AgentStep) {
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
