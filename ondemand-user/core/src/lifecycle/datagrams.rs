//! Datagrams: when they pass to the application, and when they have it started. They have no handshake, so there is nothing to
//! wait for but a bound socket, and nobody else to take them.

use std::time::Duration;

use super::{Command, Lifecycle, Step, View};
use crate::{
    measure::{Ktime, unit::ActiveState},
    runs::{RunEvent, StopReason},
};

/// How long no datagram has an application started that has failed: it takes one datagram to cause a start, and they may
/// come by the thousand.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// The same for one that ended by itself, or that a person stopped.
const AFTER_END: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Whether datagrams pass to the application.
    pub fn passes_datagrams(&self) -> bool {
        self.passes == Some(true)
    }

    /// Records that nothing is done with them any more, outside the protocol.
    pub fn datagrams_are_ordinary(&mut self) {
        self.passes = None;
    }

    /// Sets whether datagrams can be held. It takes effect with the next step.
    pub fn set_datagrams(&mut self, are_held: bool) {
        self.options.datagrams = are_held;
    }

    /// Whether a datagram that is held has the service started now.
    pub(super) fn must_start_for_datagrams(&self, view: &View) -> bool {
        let state = view.units.backend.state;
        self.options.datagrams
            && view.datagrams > 0
            && matches!(state, ActiveState::Inactive | ActiveState::Failed)
            && self.no_start_until.is_none_or(|until| until <= view.now)
    }

    /// The gate of datagrams. It closes before all other commands, and opens after them.
    pub(super) fn pass_datagrams(&mut self, view: &View, commands: &mut Vec<Command>) {
        if !self.options.datagrams {
            return;
        }
        let pass = view.units.backend.is_settled_up()
            && view.units.lease.is_settled_up()
            && view.ready
            && view.bound
            && matches!(self.step, Step::Rest | Step::Asking);
        if self.passes == Some(pass) {
            return;
        }
        self.passes = Some(pass);
        let place = if pass { commands.len() } else { 0 };
        commands.insert(place, Command::PassDatagrams(pass));
    }

    pub(super) fn start_failed(&mut self, at: Ktime) {
        self.no_start_until = Some(at + AFTER_FAILURE);
    }

    /// An application that ends by itself would be started for each datagram.
    pub(super) fn see_failure(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StartFailed { at, .. } => self.start_failed(*at),
            RunEvent::Ended { at, reason, .. } => {
                self.no_start_until = match reason {
                    StopReason::Failed => Some(*at + AFTER_FAILURE),
                    StopReason::External | StopReason::Unseen => Some(*at + AFTER_END),
                    StopReason::Idle | StopReason::Requested => None,
                }
            }
            _ => {}
        }
    }

    /// When an application may be started again.
    pub(super) fn next_of_datagrams(&self, view: &View) -> Option<Ktime> {
        let until = self.no_start_until.filter(|until| *until > view.now)?;
        (view.datagrams > 0 && view.units.backend.state.is_down()).then_some(until)
    }
}
