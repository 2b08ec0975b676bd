//! The stop protocol with everything that runs beside it, as a state machine that a model
//! checker can walk: clients, the kernel's look-ups and queues, PID 1 and the agent.
//!
//! Time is left out but for one assumption: the final ACK of a SYN cookie comes within two
//! seconds of its look-up or never. Any other handshake may outlast every timeout, and a service
//! may be found idle while look-ups are under way, as in a port scan.

use stateright::{Model, Property};

use crate::state::{Action, Agent, Backend, Client, Counters, Protocol, State};

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
