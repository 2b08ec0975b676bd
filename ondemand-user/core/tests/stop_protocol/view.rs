//! The agent's measurements: counters, sockets and facts, judged by the product's own policy.

use std::time::Duration;

use ondemand_core::{
    lifecycle::{Step, View},
    measure::{
        Ktime,
        sample::{Leg, Sample, Sockets},
        unit::Units,
    },
    policy::{self, COOKIE_GRACE, Facts, Hold, Rules, Verdict},
};

use crate::{
    model::{Protocol, Without},
    state::{Agent, Backend, Client, Listener, State},
};

/// What is known at the moment of a step.
pub fn view(model: &Protocol, state: &State, agent: &Agent) -> View {
    let sample = sample(state);
    let rules = match agent.lifecycle.is_asked() {
        true => Rules::AT_ONCE,
        false => Rules {
            idle_timeout: model.idle_timeout,
            min_uptime: Duration::ZERO,
            silent_after: None,
            ignores_empty: false,
        },
    };
    let facts = facts(model, state, agent);
    let verdict = policy::decide(&rules, state.now, Some(&sample), &facts);
    // From here on a stamp only distinguishes two uses, and the start of the idle time is only for
    // the log.
    let last_use = Ktime::from_nanos(state.kernel.uses);
    View {
        now: state.now,
        sample: Some(Sample {
            last_activity: Some(last_use),
            last_lookup: None,
            ..sample
        }),
        verdict: match verdict {
            Verdict::Idle { .. } => Verdict::Idle { since: last_use },
            other => other,
        },
        units: agent.units,
        caught: state.caught() as u64,
        datagrams: 0,
        bound: false,
        listens: matches!(
            state.pid1.backend,
            Backend::Active | Backend::Activating { listening: true }
        ),
        ready: true,
        room: true,
        silent: 0,
    }
}

fn facts(model: &Protocol, state: &State, agent: &Agent) -> Facts {
    let units: &Units = &agent.units;
    // Like the agent: cookies matter only after a recent look-up of the front address.
    let recent = state
        .kernel
        .last_lookup
        .is_some_and(|at| state.age(at) < COOKIE_GRACE);
    // The kernel's counter shows it for longer. Here it shows it for the minimum time.
    let sent = state
        .clients
        .iter()
        .any(|client| matches!(client, Client::Cookie { .. }));
    // After the last attempt: nothing new is started, what is in progress continues.
    let under_way = matches!(
        agent.lifecycle.current(),
        Step::Asking | Step::Looking { .. } | Step::Releasing(_)
    );
    let used_up = state.left.attempts == 0 && !under_way;
    Facts {
        started: units.backend.active_enter,
        uncounted: 0,
        uncounted_until: None,
        syn_cookies: recent && sent && model.without != Some(Without::WaitForCookies),
        no_front: false,
        hold: (state.held || used_up).then_some(Hold { until: None }),
        work: None,
        silence: None,
        need: None,
    }
}

fn sample(state: &State) -> Sample {
    let kernel = &state.kernel;
    Sample {
        // Only compared with the present.
        at: Ktime::default(),
        front: kernel.front,
        steered: kernel.steered,
        back: kernel.back,
        ignored: Leg::default(),
        refused: 0,
        older: 0,
        last_activity: kernel.last_activity,
        last_open: None,
        lookups: 0,
        last_lookup: kernel.last_lookup,
        served: kernel.served,
        datagrams: 0,
        refused_datagrams: 0,
    }
}

/// The kernel's socket tables.
pub fn sockets(model: &Protocol, state: &State) -> Sockets {
    let mut sockets = Sockets {
        front_listeners: 1,
        back_listeners: 1,
        ..Sockets::default()
    };
    let any_age = model.without != Some(Without::AnyAge);
    for client in &state.clients {
        match *client {
            Client::Established {
                at: Listener::Front,
            } => sockets.front += 1,
            Client::Established {
                at: Listener::Backend,
            } => sockets.steered += 1,
            Client::Proxied => {
                sockets.front += 1;
                sockets.back += 1;
            }
            Client::HalfOpen {
                at: Listener::Backend,
                young,
            } if young || any_age => sockets.half_open += 1,
            _ => {}
        }
    }
    sockets
}
