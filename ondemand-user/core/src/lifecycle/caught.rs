//! Clients that are held: when they are, who starts the backend for them, and who of them passes first.

use super::{Command, Lifecycle, Step, View, ablation::Protection, has_accepted, note::VetoReason};
use crate::{
    caught::PATIENCE,
    measure::{Ktime, unit::ActiveState},
    runs::RunEvent,
};

impl Lifecycle {
    /// Whether clients are held while the gate is closed.
    pub fn catches(&self) -> bool {
        self.catches
    }

    /// Sets whether clients may be held. It takes effect with the next step.
    pub fn set_catching(&mut self, catch: bool) {
        self.options.catch = catch;
    }

    /// Records that nobody is held any more, outside the protocol.
    pub fn nobody_is_caught(&mut self) {
        self.catches = false;
    }

    /// Whether a client that is held has the service started now.
    pub(super) fn must_wake(&self, view: &View) -> bool {
        view.room && self.is_wanted(view)
    }

    /// Whether a client that is held would have the service started, if there is room.
    pub fn is_wanted(&self, view: &View) -> bool {
        let units = &view.units;
        let is_client = self.options.catch
            // Those go to PID 1's listener as soon as the gate is open.
            && !self.options.native
            && view.caught > 0
            && units.backend.state == ActiveState::Inactive;
        (is_client || self.must_start_for_datagrams(view))
            && !units.backend.job
            && !units.backend.restarting
            && !units.lease.job
    }

    /// Whether a connection may be passing the closed gate at this step.
    pub(super) fn may_be_passing(&self) -> bool {
        matches!(self.step, Step::Rest | Step::Asking | Step::Waking)
    }

    /// Until a process was seen to accept in this run, one client alone is let to the listener: nobody may accept
    /// there.
    pub(super) fn pass_one(&mut self, view: &View, commands: &mut Vec<Command>) {
        self.see_start(view);
        let units = &view.units;
        let run = units.backend.inactive_exit;
        let is_active = units.backend.is_settled_up()
            || self.leaves_out(Protection::PassActive) && view.listens;
        // Our own job for the lease keeps the backend up as the lease does.
        let is_held = units.lease.is_settled_up() || self.step == Step::Waking;
        let may_pass = self.options.catch
            && !self.options.native
            && view.caught > 0
            && view.listens
            && view.ready
            && self.may_be_passing()
            && is_active
            && is_held
            && self.pause.reason != Some(VetoReason::HalfOpen)
            && !has_accepted(view);
        if may_pass && self.passed != Some(run) {
            self.passed = Some(run);
            self.pass = true;
            commands.push(Command::PassOne);
        }
    }

    /// Clients are held while the service is down or stops, and for a second of its start. One that takes longer,
    /// or at whose listener nobody accepts, has its clients at the front socket.
    pub(super) fn set_catch(&mut self, view: &View, commands: &mut Vec<Command>) {
        let catch = self.options.catch && self.may_catch(view);
        if self.catches != catch {
            self.catches = catch;
            // Before the gate closes: otherwise clients would come to the front socket in between.
            commands.insert(0, Command::Catch(catch));
        }
        if !catch && view.caught > 0 && self.gate != Some(true) {
            commands.push(Command::HandOver);
        }
    }

    fn may_catch(&self, view: &View) -> bool {
        let backend = &view.units.backend;
        // Nobody has connected since that veto, or since a second one: it may be a scan, which must be at the front
        // socket.
        let is_scan = match self.pause.reason {
            Some(VetoReason::HalfOpen) => true,
            Some(VetoReason::Activity) => self.pause.is_repeated(),
            _ => false,
        };
        if is_scan || self.in_vain || backend.restarting {
            return false;
        }
        let is_young = self.young_until().is_some_and(|until| view.now < until);
        match backend.state {
            ActiveState::Inactive | ActiveState::Deactivating => true,
            ActiveState::Activating => is_young,
            ActiveState::Active | ActiveState::Reloading => {
                !self.may_be_passing() || (has_accepted(view) && view.ready) || is_young
            }
            ActiveState::Failed | ActiveState::Unknown => false,
        }
    }

    fn see_start(&mut self, view: &View) {
        let backend = &view.units.backend;
        if backend.state.is_down() {
            self.start_seen = None;
            return;
        }
        let run = backend.inactive_exit;
        if self.start_seen.is_none_or(|(seen, _)| seen != run) {
            self.start_seen = Some((run, view.now));
        }
    }

    fn young_until(&self) -> Option<Ktime> {
        self.start_seen.map(|(_, at)| at + PATIENCE)
    }

    /// A run that began for a client that was held, and ended without a connection: what knocks is a scan, or a client
    /// that does not stay. The next start takes a handshake at the front socket.
    pub(super) fn judge_run(&mut self, events: &[RunEvent]) {
        for event in events {
            self.see_failure(event);
            if let RunEvent::Ended { run, .. } = event {
                let woken = std::mem::take(&mut self.woken);
                self.in_vain = run.connections == 0 && (woken || self.in_vain);
            }
        }
    }

    /// When a start has taken too long.
    pub(super) fn next_of_caught(&self, view: &View) -> Option<Ktime> {
        let until = self.young_until().filter(|until| *until > view.now)?;
        (self.catches && !(has_accepted(view) && view.ready)).then_some(until)
    }
}
