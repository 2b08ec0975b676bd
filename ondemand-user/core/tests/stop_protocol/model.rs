//! The stop protocol with everything that runs beside it, as a state machine that a model checker
//! can walk: clients, the kernel's look-ups and queues, PID 1, and the agent with the product's own
//! `Lifecycle` and policy.
//!
//! Time passes in steps of one length. The steps of a moment may follow each other without time
//! between them, and time may pass between any two. There are two assumptions about time: the final
//! ACK of a SYN cookie comes within two seconds of its look-up or never, and look-ups take no time
//! that matters for this: no cookie is made by a look-up that read the gate before it opened. Any other handshake may outlast every timeout.

use std::time::Duration;

use ondemand_core::{
    lifecycle::Options,
    measure::{Ktime, sample::Leg},
};
use stateright::{Model, Property};

use crate::{
    agent, client, pid1,
    relative::{BEGIN, FRONT, RUN, STEERED, USES},
    state::{Agent, Backend, Budgets, Client, Kernel, Pid1, State},
};

/// The parameters of a check.
#[derive(Clone, Copy)]
pub struct Protocol {
    pub clients: usize,
    /// The length of a step of time.
    pub tick: Duration,
    /// Whether the kernel sends SYN cookies.
    pub cookies: bool,
    /// Nobody accepts at the listener: the proxy's connections are led elsewhere, as to a container.
    pub deaf: bool,
    pub options: Options,
    /// `None`: it is stopped only on request.
    pub idle_timeout: Option<Duration>,
    /// The proxy does not exit by itself.
    pub proxy_stays: bool,
    /// Who asks for a stop is another service, whose clients have waited longer than those that are held.
    pub gives_way: bool,
    /// systemd's signals come late.
    pub late_signals: bool,
    pub budgets: Budgets,
    pub without: Option<Without>,
}

/// What the agent, the sampler or the kernel leave out in a mutant. What the protocol leaves out is
/// in its own options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// A half-open handshake vetoes whatever its SYN's age is.
    AnyAge,
    /// A look-up keeps the service up while it may have been answered with a cookie.
    WaitForCookies,
    /// The gate opens when no cookie of the front socket can be outstanding.
    WaitForFrontCookies,
    /// The snapshot waits for the look-ups that read the gate when it was open.
    WaitForLookups,
    /// A proxy `Wants=` the backend, so that PID 1 does not stop it as unneeded.
    ProxyWants,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Client(usize, client::Step),
    Pid1(pid1::Step),
    Agent(agent::Step),
    /// Time passes.
    Tick,
}

pub const LOST: &str = "no request is lost";
pub const STUCK: &str = "no client waits for ever";
pub const ANSWERS: &str = "each requested stop gets one answer, which is true";
pub const STOPPED: &str = "a service is stopped and all are served";

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: BEGIN,
            clients: vec![Client::Away; self.clients],
            kernel: Kernel {
                gate_open: self.options.steer && !self.deaf,
                catch: false,
                pass: false,
                front: leg(FRONT),
                steered: leg(STEERED),
                back: leg(FRONT),
                uses: USES,
                last_activity: None,
                last_lookup: None,
                served: (!self.deaf).then_some(Ktime::from_nanos(RUN)),
            },
            pid1: Pid1 {
                backend: Backend::Active,
                run: Ktime::from_nanos(RUN),
                active_run: Ktime::from_nanos(RUN),
                start_queued: false,
                proxy: self.proxy_stays,
                lease: true,
                lease_job: None,
                unneeded_check: false,
            },
            agent: None,
            held: false,
            asked: vec![],
            wrong_answer: false,
            left: self.budgets,
        };
        state.agent = Some(Agent::new(self.options, &state));
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, client) in state.clients.iter().enumerate() {
            let steps = client::steps(self, state, client);
            actions.extend(steps.into_iter().map(|step| Action::Client(index, step)));
        }
        let steps = pid1::steps(self, state);
        actions.extend(steps.into_iter().map(Action::Pid1));
        let steps = agent::steps(self, state);
        actions.extend(steps.into_iter().map(Action::Agent));
        if state.can_age() {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Client(index, step) => client::step(self, &mut state, index, step),
            Action::Pid1(step) => pid1::step(self, &mut state, step),
            Action::Agent(step) => agent::step(self, &mut state, step),
            Action::Tick => {
                state.now = state.now + self.tick;
                client::grow_old(&mut state);
            }
        }
        if !self.late_signals {
            let units = pid1::units(&state);
            if let Some(agent) = &mut state.agent {
                agent.units = units;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LOST, |_, state: &State| {
                !state.clients.contains(&Client::Lost)
            }),
            Property::always(STUCK, |model: &Self, state: &State| {
                model.goes_on(state) || (nobody_waits(state) && state.asked.is_empty())
            }),
            Property::always(ANSWERS, |_, state: &State| !state.wrong_answer),
            Property::sometimes(STOPPED, |_, state: &State| {
                state.pid1.backend == Backend::Inactive
                    && state.clients.iter().all(|client| *client == Client::Served)
            }),
        ]
    }
}

impl Protocol {
    /// Whether anything can still happen without new clients and new faults.
    fn goes_on(&self, state: &State) -> bool {
        let client_goes_on = |client: &Client| {
            let mut steps = client::steps(self, state, client).into_iter();
            steps.any(|step| step != client::Step::Syn)
        };
        let mut pid1 = pid1::steps(self, state).into_iter();
        state.clients.iter().any(client_goes_on)
            || pid1.any(|step| !step.is_fault())
            || state.can_age()
            || agent::steps(self, state)
                .iter()
                .any(|step| !step.is_optional())
    }
}

/// What was counted before belongs to no client.
fn leg(before: u64) -> Leg {
    Leg {
        accepted: before,
        closed: before,
        ..Leg::default()
    }
}

/// Whether no client waits any more.
fn nobody_waits(state: &State) -> bool {
    let is_over = |client: &Client| match client {
        Client::Away | Client::Served | Client::CutOff | Client::Lost => true,
        Client::LookingUp { .. }
        | Client::Caught { .. }
        | Client::Unheard
        | Client::HalfOpen { .. }
        | Client::Cookie { .. }
        | Client::Established { .. }
        | Client::Proxied => false,
    };
    state.clients.iter().all(is_over)
}
