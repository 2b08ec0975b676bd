//! Step 4: the lease is released; checks whether the backend stops.

use super::{
    Lifecycle, Step, Stop,
    ablation::Protection,
    messages::{Command, View},
    note::{Cause, Note},
    since_or_zero,
};
use crate::measure::{Ktime, unit::ActiveState};

impl Lifecycle {
    /// Step 4, after the lease's release.
    pub(super) fn settle(
        &mut self,
        view: &View,
        until: Ktime,
        stop: Option<Stop>,
        commands: &mut Vec<Command>,
    ) {
        let units = &view.units;
        let same_run = |stop: &Stop| self.runs.started() == Some(stop.started);
        let deactivating = units.backend.state == ActiveState::Deactivating;
        if stop.as_ref().is_some_and(|stop| !same_run(stop))
            || !(units.backend.state.is_up() || deactivating)
        {
            // It stopped, which `Runs` has reported, and may have started again.
            self.step = Step::Rest;
            return;
        }
        self.step = Step::Settling { until, stop };
        if deactivating || units.backend.job {
            return; // Its end is an event.
        }
        let proxy_came = !units.proxy.state.is_down() || units.proxy.job;
        let gives_way = stop.as_ref().is_some_and(|stop| stop.gives_way);
        let somebody_came = proxy_came || (view.waiting() > 0 && !gives_way);
        if !units.lease.is_settled_down() {
            if units.lease.job || !units.lease.state.is_up() {
                return; // The lease's end is an event too.
            }
            // The lease was taken by a unit that needed the backend.
            self.step = Step::Rest;
            if let Some(stop) = stop {
                let cause = needed(view, &stop, proxy_came);
                self.keep(view, cause, commands);
            }
            return;
        }
        match stop {
            Some(stop) if somebody_came || view.now >= until => {
                let cause = needed(view, &stop, proxy_came);
                self.keep(view, cause, commands);
                self.take_lease(commands);
            }
            None if view.now >= until => {
                commands.push(Command::Say(Note::TakingLease));
                self.take_lease(commands);
            }
            _ => {}
        }
    }

    pub(super) fn take_lease(&mut self, commands: &mut Vec<Command>) {
        if self.leaves_out(Protection::Retaking) {
            self.step = Step::Rest;
            return;
        }
        self.retakes += 1;
        self.step = Step::Retaking;
        commands.push(Command::TakeLease);
    }
}

fn needed(view: &View, stop: &Stop, proxy_came: bool) -> Cause {
    if proxy_came {
        Cause::Proxy
    } else if view.waiting() > 0 {
        Cause::Activity(view.waiting())
    } else {
        Cause::Needed(since_or_zero(view.now, stop.at))
    }
}
