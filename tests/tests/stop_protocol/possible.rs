//! What each of them may do next.

use crate::state::{
    Agent, AgentStep, Backend, Client, ClientStep, Listener, Pid1Step, Protocol, State, Without,
};

impl Protocol {
    pub(super) fn client_steps(&self, state: &State, client: Client) -> Vec<ClientStep> {
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
            } if state.proxy && state.backend == Backend::Active => {
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

    pub(super) fn pid1_steps(&self, state: &State) -> Vec<Pid1Step> {
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

    pub(super) fn agent_steps(&self, state: &State) -> Vec<AgentStep> {
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
    pub(super) fn may_send_cookie_ack(&self, state: &State) -> bool {
        let is_cookie = |client: &Client| matches!(client, Client::Cookie { .. });
        self.without != Without::CookieAge && state.clients.iter().any(is_cookie)
    }
}
