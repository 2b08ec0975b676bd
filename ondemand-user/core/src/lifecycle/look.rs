//! The last look before a stop: checks behind the closed gate that the service is still idle.

use super::{
    Command, Counter, DRY_RUN_PAUSE, Lifecycle, Refusal, Reply, Step, Stop, View,
    ablation::Protection,
    idle_since,
    note::{Cause, Note},
    since_or_zero,
};
use crate::{
    measure::{
        Ktime,
        sample::{Sample, Sockets},
    },
    policy::Verdict,
};

impl Lifecycle {
    /// Steps 2 and 3: the gate follows from the step.
    pub(super) fn look(&mut self, view: &View, since: Ktime, commands: &mut Vec<Command>) {
        match view.sample {
            Some(first) => {
                self.step = Step::Looking { first, since };
                commands.push(Command::TakeSnapshot);
            }
            None => self.not_idle(view, commands),
        }
    }

    /// The end of step 3. It rests on two conditions: the counters did not move from before the gate was
    /// closed until after the snapshot, and the snapshot shows nothing that they do not count.
    pub(super) fn looked(
        &mut self,
        view: &View,
        first: &Sample,
        since: Ktime,
        sockets: Option<Sockets>,
        commands: &mut Vec<Command>,
    ) {
        let (Some(after), Some(sockets)) = (view.sample, sockets) else {
            let what = "its sockets could not be read".to_owned();
            return self.keep(view, Cause::Unknown(what), commands);
        };
        if self.options.tcp_front && sockets.front_listeners == 0 {
            let what =
                "the front socket is not among the sockets of the agent's network namespace, \
                            so its clients are not either"
                    .to_owned();
            return self.keep(view, Cause::Unknown(what), commands);
        }
        if moved(first, &after) && !self.leaves_out(Protection::Counters) {
            let came = after.accepted().saturating_sub(first.accepted());
            return self.keep(view, Cause::Activity(came), commands);
        }
        let gives_way = self.request.is_some_and(|request| request.gives_way);
        if view.waiting() > 0 && !gives_way {
            return self.keep(view, Cause::Activity(view.waiting()), commands);
        }
        if sockets.half_open > 0 && !self.leaves_out(Protection::HalfOpen) {
            return self.keep(view, Cause::HalfOpen(sockets.half_open), commands);
        }
        let open = sockets.front + sockets.steered + sockets.back + sockets.older;
        if open > 0 && view.silent == 0 && first.open().is_some_and(|open| open > 0) {
            // A byte has come on one that was silent.
            return self.keep(view, Cause::Activity(0), commands);
        }
        let open = open.saturating_sub(sockets.silent);
        if open > 0 && !self.leaves_out(Protection::Connections) {
            commands.push(Command::Count(Counter::Drift));
            return self.keep(view, Cause::Drift(sockets), commands);
        }
        if !view.units.held() {
            self.step = Step::Rest;
            return;
        }
        if !view.units.proxy.is_settled_down() && !self.leaves_out(Protection::ProxyDown) {
            return self.keep(view, Cause::Proxy, commands);
        }
        if idle_since(view).is_none() && !self.leaves_out(Protection::StillIdle) {
            return self.not_idle(view, commands);
        }
        let quiet = since_or_zero(view.now, since);
        if self.options.dry_run {
            commands.push(Command::Say(Note::WouldStop {
                quiet,
                run: self.runs.so_far(view.now, view.sample.as_ref()),
            }));
            self.pause.hold(view, DRY_RUN_PAUSE);
            self.step = Step::Rest;
            self.answer(Reply::Kept(Refusal::DryRun), commands);
            return;
        }
        let started = self.runs.started().flatten();
        self.step = Step::Releasing(Stop {
            at: view.now,
            quiet,
            started,
            asked: self.request.is_some_and(|request| !request.for_room),
            gives_way,
            silent: view.silent,
        });
        commands.push(Command::ReleaseLease);
    }

    /// The service is no longer idle.
    pub(super) fn not_idle(&mut self, view: &View, commands: &mut Vec<Command>) {
        let cause = match view.verdict {
            Verdict::Busy { open } => Cause::Activity(open),
            Verdict::Unknown(reason) => Cause::Unknown(reason.to_string()),
            Verdict::Quiet { .. } | Verdict::Idle { .. } => Cause::Activity(0),
            // No veto: the hold is intended.
            Verdict::Held { .. } => {
                self.step = Step::Rest;
                return self.answer(Reply::Kept(Refusal::Held), commands);
            }
            // Nor is this one: it goes on until the other service stops.
            Verdict::Needed { .. } => {
                self.step = Step::Rest;
                return self.answer(Reply::Kept(Refusal::Needed), commands);
            }
        };
        self.keep(view, cause, commands);
    }

    /// A veto: counted, logged, and followed by a pause.
    pub(super) fn keep(&mut self, view: &View, cause: Cause, commands: &mut Vec<Command>) {
        commands.push(Command::Count(Counter::Veto(cause.reason())));
        self.answer(Reply::Kept(Refusal::Vetoed(cause.clone())), commands);
        commands.push(Command::Say(self.pause.veto(view, cause)));
        self.step = Step::Rest;
    }
}

/// Whether a connection was used between two samples. Look-ups are excluded: the effect of those
/// that read the gate when it was open is in the snapshot, and the others are at the front.
fn moved(first: &Sample, after: &Sample) -> bool {
    let counts = |s: &Sample| (s.front, s.steered, s.back, s.last_activity, s.datagrams);
    counts(first) != counts(after)
}
