//! The clients, and the kernel between them and the service.

use ondemand_core::policy::COOKIE_GRACE;

use crate::{
    model::Protocol,
    state::{Backend, Client, Listener, State},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The look-up starts, and leaves its stamp.
    Syn,
    /// The same, of a SYN that nobody has answered.
    SynAgain,
    ReadGate,
    /// The look-up ends: a request socket, or a cookie.
    Request {
        cookie: bool,
    },
    /// However late.
    FinalAck,
    TakenByProxy,
    Serve,
}

pub fn steps(model: &Protocol, state: &State, client: &Client) -> Vec<Step> {
    let active = state.pid1.backend == Backend::Active;
    match client {
        Client::Away => vec![Step::Syn],
        Client::Unheard => vec![Step::SynAgain],
        Client::LookingUp { gate: None, .. } => vec![Step::ReadGate],
        Client::LookingUp {
            gate: gate @ Some(_),
            since,
            known,
            ..
        } => {
            let mut steps = vec![Step::Request { cookie: false }];
            let is_caught = state.kernel.catch && !known;
            let is_late = *gate == Some(false) && (state.kernel.gate_open || is_caught);
            if model.cookies && state.age(*since) < COOKIE_GRACE && !is_late {
                steps.push(Step::Request { cookie: true });
            }
            steps
        }
        Client::HalfOpen { .. } | Client::Cookie { .. } => vec![Step::FinalAck],
        Client::Established {
            at: Listener::Front,
        } if state.pid1.proxy && active => vec![Step::TakenByProxy],
        Client::Established {
            at: Listener::Backend,
        } if active && !model.deaf => vec![Step::Serve],
        Client::Proxied if active => vec![Step::Serve],
        _ => vec![],
    }
}

pub fn step(model: &Protocol, state: &mut State, index: usize, step: Step) {
    let now = state.now;
    let client = state.clients[index];
    let listens = !matches!(
        state.pid1.backend,
        Backend::Inactive | Backend::Activating { listening: false }
    );
    let has_agent = state.agent.is_some();
    let kernel = &mut state.kernel;
    if step == Step::Serve && !model.deaf {
        kernel.served = Some(state.pid1.run);
    }
    state.clients[index] = match (step, client) {
        (Step::Syn | Step::SynAgain, _) => {
            kernel.last_lookup = Some(now);
            Client::LookingUp {
                gate: None,
                since: now,
                awaited: false,
                known: false,
            }
        }
        (
            Step::ReadGate,
            Client::LookingUp {
                since,
                awaited,
                known,
                ..
            },
        ) => {
            let passes = !kernel.gate_open && kernel.catch && std::mem::take(&mut kernel.pass);
            let gate = Some(kernel.gate_open || passes);
            if gate == Some(false) && kernel.catch && has_agent {
                Client::Caught { young: true }
            } else {
                Client::LookingUp {
                    gate,
                    since,
                    awaited,
                    known,
                }
            }
        }
        (
            Step::Request { cookie },
            Client::LookingUp {
                gate, since, known, ..
            },
        ) => {
            let at = if gate == Some(true) && listens {
                Listener::Backend
            } else {
                Listener::Front
            };
            if cookie {
                // The program notes whom it finds no listener for.
                let known = known || gate == Some(true);
                Client::Cookie { at, since, known }
            } else {
                Client::HalfOpen { at, young: true }
            }
        }
        // It finds the listener anew, which did not send the cookie and resets the connection. (In the other
        // direction a cookie's look-up keeps the service up.)
        (
            Step::FinalAck,
            Client::Cookie {
                at: Listener::Front,
                ..
            },
        ) if kernel.gate_open && listens => Client::Lost,
        // The socket that holds clients has sent none either.
        (
            Step::FinalAck,
            Client::Cookie {
                at: Listener::Front,
                known: false,
                ..
            },
        ) if !kernel.gate_open && kernel.catch && has_agent => Client::Lost,
        (Step::FinalAck, Client::HalfOpen { at, .. } | Client::Cookie { at, .. }) => {
            match at {
                Listener::Front => kernel.front.accepted += 1,
                Listener::Backend => kernel.steered.accepted += 1,
            }
            kernel.use_now(now);
            Client::Established { at }
        }
        (Step::TakenByProxy, _) => {
            kernel.back.accepted += 1;
            kernel.use_now(now);
            Client::Proxied
        }
        (Step::Serve, Client::Proxied) => {
            kernel.front.closed += 1;
            kernel.back.closed += 1;
            kernel.use_now(now);
            Client::Served
        }
        (Step::Serve, _) => {
            kernel.steered.closed += 1;
            kernel.use_now(now);
            Client::Served
        }
        (_, other) => other,
    };
}

/// Time has passed: SYNs are young no more, and a cookie that was not answered is void.
pub fn grow_old(state: &mut State) {
    for index in 0..state.clients.len() {
        state.clients[index] = match state.clients[index] {
            Client::HalfOpen { at, .. } => Client::HalfOpen { at, young: false },
            Client::Caught { .. } => Client::Caught { young: false },
            Client::Cookie { since, .. } if state.age(since) >= COOKIE_GRACE => Client::Served,
            other => other,
        };
    }
}
