//! The agent: the product's own `Lifecycle` and policy, and the execution of its commands. Each
//! command takes effect in a step of its own, so that anything may happen between two of them.

use std::collections::VecDeque;

use ondemand_core::{
    lifecycle::{Answer, Command, Input, JobEnd, Lifecycle, Options, Reply, Step as Place},
    measure::unit::Units,
};

use crate::{
    model::{Protocol, Without},
    pid1,
    state::{Agent, Awaits, Client, Deed, LeaseJob, Listener, State, Told},
    view,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// It looks, as it does whenever something may have changed.
    Look,
    /// systemd's signals arrive.
    Hear,
    /// The next command.
    CarryOut,
    /// The gate is open: a client that was held is sent on.
    SendOn,
    /// A client was held for a second: it is sent to the front socket.
    GiveUp,
    /// No look-up that may have read the open gate is in progress any more.
    Snapshot,
    /// The snapshot is judged.
    Judge,
    VetoAllows,
    VetoKeeps,
    JobEnded,
    Start,
    Die,
    /// A stop is requested.
    Ask,
    /// The connection to systemd is lost, and restored.
    Interrupt,
    Hold,
    Release,
}

impl Step {
    /// Whether the step may happen, but need not.
    pub fn is_optional(self) -> bool {
        matches!(
            self,
            Self::Die | Self::Ask | Self::Interrupt | Self::Hold | Self::Release
        )
    }
}

impl Agent {
    pub fn new(options: Options, state: &State) -> Self {
        Self {
            lifecycle: Lifecycle::new(options),
            units: pid1::units(state),
            todo: VecDeque::new(),
            awaits: Awaits::Nothing,
        }
    }
}

pub fn steps(model: &Protocol, state: &State) -> Vec<Step> {
    let left = &state.left;
    let mut steps = vec![];
    if state.held {
        steps.push(Step::Release);
    } else if left.holds > 0 {
        steps.push(Step::Hold);
    }
    let Some(agent) = &state.agent else {
        steps.push(Step::Start);
        return steps;
    };
    if left.deaths > 0 {
        steps.push(Step::Die);
    }
    if !agent.todo.is_empty() {
        steps.push(Step::CarryOut);
        return steps;
    }
    let is_caught = |client: &Client| matches!(client, Client::Caught { .. });
    if state.kernel.gate_open && state.clients.iter().any(is_caught) {
        steps.push(Step::SendOn);
    }
    if state.clients.contains(&Client::Caught { young: false }) {
        steps.push(Step::GiveUp);
    }
    if left.stops > 0 {
        steps.push(Step::Ask);
    }
    if left.interrupts > 0 {
        steps.push(Step::Interrupt);
    }
    if agent.units != pid1::units(state) {
        steps.push(Step::Hear);
    }
    if would_change(model, state, agent) {
        steps.push(Step::Look);
    }
    match &agent.awaits {
        Awaits::Nothing | Awaits::Job(_) => {}
        Awaits::Veto => steps.extend([Step::VetoAllows, Step::VetoKeeps]),
        Awaits::Lookups => {
            let is_awaited =
                |client: &Client| matches!(client, Client::LookingUp { awaited: true, .. });
            if !state.clients.iter().any(is_awaited) {
                steps.push(Step::Snapshot);
            }
        }
        Awaits::Snapshot(_) => steps.push(Step::Judge),
        Awaits::Ended(_) => steps.push(Step::JobEnded),
    }
    steps
}

/// A look that changes nothing is no step.
fn would_change(model: &Protocol, state: &State, agent: &Agent) -> bool {
    let mut after = agent.lifecycle.clone();
    let commands = after.step(&view::view(model, state, agent), Input::Changed);
    after != agent.lifecycle || commands.iter().any(|command| deed(command).is_some())
}

pub fn step(model: &Protocol, state: &mut State, step: Step) {
    match step {
        Step::Start => {
            (state.kernel.catch, state.kernel.pass) = (false, false);
            state.agent = Some(Agent::new(model.options, state));
        }
        Step::Die => {
            state.left.deaths -= 1;
            state.agent = None;
            // What it holds dies with it.
            for client in &mut state.clients {
                if let Client::Caught { .. } = client {
                    *client = Client::Unheard;
                }
            }
            // The callers see that the bus name is gone.
            state.asked.clear();
        }
        Step::Hold => {
            state.left.holds -= 1;
            state.held = true;
        }
        Step::Release => state.held = false,
        _ => {
            let Some(mut agent) = state.agent.take() else {
                return;
            };
            agent.step(model, state, step);
            state.agent = Some(agent);
        }
    }
}

impl Agent {
    fn step(&mut self, model: &Protocol, state: &mut State, step: Step) {
        match step {
            Step::CarryOut => self.carry_out(model, state),
            Step::Hear => self.units = pid1::units(state),
            Step::Look => self.look(model, state, Input::Changed),
            Step::SendOn => release(state, false, |client| {
                matches!(client, Client::Caught { .. })
            }),
            Step::GiveUp => release(state, true, |client| {
                *client == Client::Caught { young: false }
            }),
            Step::Snapshot => self.awaits = Awaits::Snapshot(view::sockets(model, state)),
            Step::Judge | Step::JobEnded | Step::VetoAllows | Step::VetoKeeps => {
                self.take_answer(model, state, step);
            }
            Step::Ask => {
                state.left.stops -= 1;
                state.asked.push(state.pid1.run);
                let input = match model.gives_way {
                    true => Input::GiveWay,
                    false => Input::Stop,
                };
                self.look(model, state, input);
            }
            Step::Interrupt => {
                state.left.interrupts -= 1;
                state.asked.clear();
                self.lifecycle.interrupt();
                self.awaits = Awaits::Nothing;
                self.units = pid1::units(state);
            }
            Step::Start | Step::Die | Step::Hold | Step::Release => {}
        }
    }

    fn take_answer(&mut self, model: &Protocol, state: &mut State, step: Step) {
        let input = match std::mem::replace(&mut self.awaits, Awaits::Nothing) {
            Awaits::Snapshot(sockets) => Input::Snapshot(Some(sockets)),
            Awaits::Ended(end) => {
                // They are read after the job's end.
                self.units = pid1::units(state);
                Input::Job(end)
            }
            Awaits::Veto if step == Step::VetoAllows => Input::Veto(Answer::Allow),
            _ => Input::Veto(Answer::Keep(String::new())),
        };
        self.look(model, state, input);
    }

    /// One step of the real protocol.
    fn look(&mut self, model: &Protocol, state: &mut State, input: Input) {
        let asked = *self.lifecycle.current() == Place::Asking;
        let view = view::view(model, state, self);
        let commands = self.lifecycle.step(&view, input);
        self.todo = commands.iter().filter_map(deed).collect();
        for deed in &self.todo {
            match deed {
                Deed::AskVeto | Deed::TakeSnapshot if !asked => {
                    state.left.attempts = state.left.attempts.saturating_sub(1);
                }
                Deed::Answer(told) => state.wrong_answer |= is_wrong(state, &view.units, *told),
                _ => {}
            }
        }
    }

    fn carry_out(&mut self, model: &Protocol, state: &mut State) {
        match self.todo.pop_front() {
            Some(Deed::CloseGate) => (state.kernel.gate_open, state.kernel.pass) = (false, false),
            Some(Deed::Catch(true)) if must_wait(model, state) => self.lifecycle.nobody_is_caught(),
            Some(Deed::Catch(catch)) => state.kernel.catch = catch,
            Some(Deed::PassOne) => {
                state.kernel.pass = true;
                release(state, false, |client| {
                    matches!(client, Client::Caught { .. })
                });
            }
            Some(Deed::HandOver) => {
                while state.caught() > 0 {
                    release(state, true, |client| {
                        matches!(client, Client::Caught { .. })
                    });
                }
            }
            // The kernel's count of cookies is read just before.
            Some(Deed::OpenGate) if must_wait(model, state) => self.lifecycle.gate_is_closed(),
            Some(Deed::OpenGate) => (state.kernel.gate_open, state.kernel.pass) = (true, false),
            Some(Deed::AskVeto) => self.awaits = Awaits::Veto,
            Some(Deed::TakeSnapshot) => {
                await_lookups(model, state);
                self.awaits = Awaits::Lookups;
            }
            Some(Deed::Lease(job)) => {
                match job {
                    // Requires= the backend: it is started, or kept.
                    LeaseJob::Start => state.start_backend(),
                    LeaseJob::Stop => state.pid1.lease_job = None,
                }
                if job == LeaseJob::Start && state.pid1.lease_job.is_none() {
                    self.awaits = Awaits::Ended(JobEnd::Done);
                } else {
                    state.pid1.lease_job = Some(job);
                    self.awaits = Awaits::Job(job);
                }
            }
            Some(Deed::StopProxy | Deed::DismissProxy) => pid1::tell_proxy_to_leave(state),
            Some(Deed::Answer(_)) => state.asked.clear(),
            None => {}
        }
    }
}

/// A client that was held is looked up again: its SYN is sent again. The agent can have it given to the front socket.
fn release(state: &mut State, to_front: bool, which: impl Fn(&Client) -> bool) {
    let now = state.now;
    let Some(client) = state.clients.iter_mut().find(|client| which(client)) else {
        return;
    };
    state.kernel.last_lookup = Some(now);
    *client = Client::LookingUp {
        gate: to_front.then_some(false),
        since: now,
        awaited: false,
        known: to_front,
    };
}

/// Whether the front socket's cookies may be outstanding while the gate is closed.
fn must_wait(model: &Protocol, state: &State) -> bool {
    let is_cookie = |client: &Client| {
        matches!(
            client,
            Client::Cookie {
                at: Listener::Front,
                ..
            }
        )
    };
    !state.kernel.gate_open
        && model.without != Some(Without::WaitForFrontCookies)
        && state.clients.iter().any(is_cookie)
}

/// An RCU grace period waits for the look-ups that have begun; of these only those matter that
/// have read the gate when it was open.
fn await_lookups(model: &Protocol, state: &mut State) {
    for client in &mut state.clients {
        if let Client::LookingUp { gate, awaited, .. } = client {
            *awaited = *gate == Some(true) && model.without != Some(Without::WaitForLookups);
        }
    }
}

/// Whether an answer is untrue, or was not requested. A request while another waits joins it.
fn is_wrong(state: &State, units: &Units, told: Told) -> bool {
    let down = units.backend.is_settled_down();
    let untrue = match told {
        Told::Stopped => state.asked.first() == Some(&state.pid1.run) && !down,
        Told::NotRunning => !down,
        Told::Kept => down,
    };
    untrue || state.asked.is_empty()
}

/// The effect of a command outside of the agent.
fn deed(command: &Command) -> Option<Deed> {
    Some(match command {
        Command::CloseGate => Deed::CloseGate,
        Command::OpenGate => Deed::OpenGate,
        Command::Catch(catch) => Deed::Catch(*catch),
        Command::PassOne => Deed::PassOne,
        Command::HandOver => Deed::HandOver,
        Command::AskVeto { .. } => Deed::AskVeto,
        Command::TakeSnapshot => Deed::TakeSnapshot,
        Command::ReleaseLease => Deed::Lease(LeaseJob::Stop),
        Command::TakeLease => Deed::Lease(LeaseJob::Start),
        Command::StopProxy => Deed::StopProxy,
        Command::DismissProxy => Deed::DismissProxy,
        Command::Answer(Reply::Stopped) => Deed::Answer(Told::Stopped),
        Command::Answer(Reply::NotRunning) => Deed::Answer(Told::NotRunning),
        Command::Answer(Reply::Kept(_)) => Deed::Answer(Told::Kept),
        // Looks may happen at any time here. No client of the model is on the lists of those that may start it.
        Command::WaitUntil(_) | Command::Admit(_) => return None,
        // The model has no unit that systemd starts again by itself.
        Command::EndLoop(_) | Command::ForgetStarts => return None,
        // Nor datagrams.
        Command::PassDatagrams(_) => return None,
        // For observers.
        Command::Run(_) | Command::Count(_) | Command::Say(_) => return None,
    })
}
