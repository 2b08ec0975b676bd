//! PID 1, the backend and the proxy.

use ondemand_core::{
    lifecycle::JobEnd,
    measure::unit::{ActiveState, Unit, Units},
};

use crate::model::{Protocol, Without};
use crate::state::{Backend, Client, LeaseJob, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A client waits at the front socket.
    TriggerProxy,
    /// It has had no client for some time.
    ProxyExits,
    RunLeaseJob,
    /// The "stop when unneeded" queue is processed later than a job's end is reported.
    CheckUnneeded,
    BackendStopped,
    BackendListens,
    BackendActive,
    BackendFails,
    BackendCrashes,
}

impl Step {
    /// Whether the step may happen, but need not.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::BackendFails | Self::BackendCrashes)
    }
}

pub fn steps(model: &Protocol, state: &State) -> Vec<Step> {
    let pid1 = &state.pid1;
    let needed = state.is_proxy_needed();
    let mut steps = vec![];
    if !pid1.proxy && needed {
        steps.push(Step::TriggerProxy);
    }
    if pid1.proxy && !needed && !state.clients.contains(&Client::Proxied) && !model.proxy_stays {
        steps.push(Step::ProxyExits);
    }
    match pid1.lease_job {
        Some(LeaseJob::Stop) => steps.push(Step::RunLeaseJob),
        // After= the backend.
        Some(LeaseJob::Start) if matches!(pid1.backend, Backend::Active | Backend::Inactive) => {
            steps.push(Step::RunLeaseJob);
        }
        _ => {}
    }
    if pid1.unneeded_check {
        steps.push(Step::CheckUnneeded);
    }
    match pid1.backend {
        Backend::Deactivating => steps.push(Step::BackendStopped),
        Backend::Activating { listening } => {
            steps.push(match listening {
                true => Step::BackendActive,
                false => Step::BackendListens,
            });
            if state.left.failures > 0 {
                steps.push(Step::BackendFails);
            }
        }
        Backend::Active if state.left.crashes > 0 => steps.push(Step::BackendCrashes),
        Backend::Active | Backend::Inactive => {}
    }
    steps
}

pub fn step(model: &Protocol, state: &mut State, step: Step) {
    match step {
        Step::TriggerProxy => {
            state.pid1.proxy = true;
            state.start_backend();
        }
        Step::ProxyExits => end_proxy(state),
        Step::RunLeaseJob => {
            let starts = state.pid1.lease_job == Some(LeaseJob::Start);
            state.pid1.unneeded_check |= state.pid1.lease && !starts;
            state.pid1.lease = starts;
            state.lease_job_ended(JobEnd::Done);
        }
        Step::CheckUnneeded => {
            let pid1 = &mut state.pid1;
            pid1.unneeded_check = false;
            // A unit that has a job counts as one that is up.
            let by_proxy = pid1.proxy && model.without != Some(Without::ProxyWants);
            let needed = pid1.lease || pid1.lease_job.is_some() || by_proxy;
            if pid1.backend == Backend::Active && !needed {
                pid1.backend = Backend::Deactivating;
            }
        }
        Step::BackendStopped => {
            state.backend_is_gone(false);
            if std::mem::take(&mut state.pid1.start_queued) {
                state.start_backend();
            }
        }
        Step::BackendListens => state.pid1.backend = Backend::Activating { listening: true },
        Step::BackendActive => {
            state.pid1.backend = Backend::Active;
            state.pid1.active_run = state.pid1.run;
        }
        Step::BackendFails => {
            state.left.failures -= 1;
            state.backend_is_gone(false);
            // The proxy logs the reason, and exits; a waiting client still triggers the next one.
            state.pid1.proxy = false;
            if state.pid1.lease_job == Some(LeaseJob::Start) {
                state.lease_job_ended(JobEnd::Failed("dependency".into()));
            }
        }
        Step::BackendCrashes => {
            state.left.crashes -= 1;
            // The lease stays, `Requires=` is for stops; the proxy does, too.
            state.backend_is_gone(true);
        }
    }
}

/// It exits only without clients. A client that waits at the front socket starts the next proxy.
pub fn tell_proxy_to_leave(state: &mut State) {
    if state.pid1.proxy && !state.clients.contains(&Client::Proxied) {
        end_proxy(state);
    }
}

/// The proxy is down: the unit that it needed may be unneeded now.
fn end_proxy(state: &mut State) {
    state.pid1.proxy = false;
    state.pid1.unneeded_check = true;
}

/// systemd's state of the units.
pub fn units(state: &State) -> Units {
    let pid1 = &state.pid1;
    let backend = match pid1.backend {
        Backend::Inactive => ActiveState::Inactive,
        Backend::Activating { .. } => ActiveState::Activating,
        Backend::Active => ActiveState::Active,
        Backend::Deactivating => ActiveState::Deactivating,
    };
    Units {
        backend: Unit {
            job: !matches!(pid1.backend, Backend::Active | Backend::Inactive),
            active_enter: Some(pid1.active_run),
            inactive_exit: Some(pid1.run),
            ..unit(backend)
        },
        proxy: unit(up(pid1.proxy)),
        lease: Unit {
            job: pid1.lease_job.is_some(),
            ..unit(up(pid1.lease))
        },
    }
}

fn up(is_up: bool) -> ActiveState {
    match is_up {
        true => ActiveState::Active,
        false => ActiveState::Inactive,
    }
}

fn unit(state: ActiveState) -> Unit {
    Unit {
        state,
        ..Unit::default()
    }
}
