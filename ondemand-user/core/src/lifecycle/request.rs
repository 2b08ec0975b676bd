//! A requested stop: the same protocol as for an idle service, without waiting for a timeout. It
//! ends with one [`Command::Answer`].

use super::{
    Lifecycle, Step,
    ablation::Protection,
    idle_since,
    messages::{Command, Input, PATIENCE, Refusal, Reply, View},
    note::VetoReason,
    pause::Pause,
};
use crate::{
    measure::{Ktime, unit::ActiveState},
    policy::Verdict,
};

/// The request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    /// The latest answer, unless an attempt is in progress.
    pub(super) until: Ktime,
    /// The run of the backend that it is about.
    run: Option<Option<Ktime>>,
    /// The start of the idle time when the proxy was signalled to exit. A client that connects at that
    /// moment keeps the proxy, so it is signalled again after that client.
    dismissed: Option<Ktime>,
    /// Another service needs its room; no person has asked.
    pub(super) for_room: bool,
    /// See [`Input::GiveWay`].
    pub(super) gives_way: bool,
}

impl Lifecycle {
    /// Whether a stop was requested and not answered yet: the verdict must wait for no timeout
    /// ([`crate::policy::Rules::AT_ONCE`]).
    pub fn is_asked(&self) -> bool {
        self.request.is_some()
    }

    /// The same, if it is for the room of another service, and no person has asked.
    pub fn makes_room(&self) -> bool {
        self.request.is_some_and(|request| request.for_room)
    }

    /// Takes a request. It asks for the next step at once, whose view has the right verdict.
    pub(super) fn take_request(&mut self, view: &View, input: &Input, commands: &mut Vec<Command>) {
        let for_room = *input != Input::Stop;
        if for_room && self.request.is_some() {
            return;
        }
        if view.units.backend.is_settled_down() && !self.restarts.goes_on() {
            // An earlier request may have stopped it just now. All requests get the same answer.
            let reply = match self.request.take() {
                Some(_) => Reply::Stopped,
                None => Reply::NotRunning,
            };
            commands.push(Command::Answer(reply));
            return;
        }
        // A request does not wait for the pause after an earlier veto. To make room is tried again and again: what was
        // half open, or what the veto program said, is as it was.
        let by_clients = [None, Some(VetoReason::Activity), Some(VetoReason::Proxy)];
        if !for_room || by_clients.contains(&self.pause.reason) {
            self.pause = Pause::default();
        }
        self.request = Some(Request {
            until: view.now + PATIENCE,
            run: self.runs.started(),
            dismissed: None,
            for_room,
            gives_way: *input == Input::GiveWay,
        });
    }

    /// Answers a request that is complete, or that cannot be met.
    pub(super) fn judge_request(&mut self, view: &View, commands: &mut Vec<Command>) {
        let Some(request) = &mut self.request else {
            return;
        };
        // A request during a start is about the run that follows.
        request.run = request.run.or(self.runs.started());
        let restarted = self.restarts.goes_on();
        if restarted {
            // The next run is systemd's own.
            request.run = self.runs.started();
        }
        let request = *request;
        let down = view.units.backend.is_settled_down() && !restarted;
        let ended = self.runs.started() != request.run || down;
        if ended && !self.leaves_out(Protection::RunEnded) {
            // The next client may have started it again.
            self.answer(Reply::Stopped, commands);
            return;
        }
        let under_way = !matches!(
            self.step,
            Step::Rest | Step::Settling { stop: None, .. } | Step::Retaking | Step::Waking
        );
        if under_way {
            return;
        }
        let deactivating = view.units.backend.state == ActiveState::Deactivating;
        let refusal = self.refusal(view).or_else(|| {
            let late = view.now >= request.until && !deactivating;
            (late && !self.leaves_out(Protection::Patience)).then(|| self.late(view))
        });
        match refusal {
            Some(refusal) => self.answer(Reply::Kept(refusal), commands),
            None => self.dismiss_proxy(view, commands),
        }
    }

    /// The proxy of an unsteered service stays up for long without clients. A signal makes it exit
    /// sooner, and no client is lost: one that has connected meanwhile keeps the proxy, and the next
    /// one is at the front socket, where PID 1 starts the next proxy.
    fn dismiss_proxy(&mut self, view: &View, commands: &mut Vec<Command>) {
        let proxy = &view.units.proxy;
        let stays = view.units.held() && proxy.is_settled_up() && !self.options.dry_run;
        let stays = stays && !self.leaves_out(Protection::Dismissal);
        if let Some(request) = &mut self.request
            && stays
            && let Some(since) = idle_since(view)
            && request.dismissed != Some(since)
        {
            request.dismissed = Some(since);
            commands.push(Command::DismissProxy);
        }
    }

    /// What did not happen in time.
    fn late(&self, view: &View) -> Refusal {
        match view.units.proxy.is_settled_up() {
            true => Refusal::Proxy(self.options.proxy_stays),
            false => Refusal::Slow,
        }
    }

    /// Why no attempt is possible. `None`: it is possible, or the obstacle may pass.
    fn refusal(&self, view: &View) -> Option<Refusal> {
        let units = &view.units;
        match units.backend.state {
            // An attempt of systemd's own ends soon, or in a run.
            ActiveState::Activating if self.restarts.goes_on() => {}
            ActiveState::Activating => return Some(Refusal::Starting),
            ActiveState::Unknown => {
                return Some(Refusal::Unknown("its state is unknown".into()));
            }
            // It is being stopped by another program or a person.
            ActiveState::Deactivating | ActiveState::Inactive | ActiveState::Failed => return None,
            ActiveState::Active | ActiveState::Reloading => {}
        }
        match view.verdict {
            Verdict::Busy { open } => Some(Refusal::Open(open)),
            Verdict::Held { .. } => Some(Refusal::Held),
            Verdict::Needed { .. } => Some(Refusal::Needed),
            Verdict::Unknown(reason) => Some(Refusal::Unknown(reason.to_string())),
            // Between two attempts a proxy has nothing to carry.
            Verdict::Quiet { .. } | Verdict::Idle { .. } if units.backend.restarting => None,
            Verdict::Quiet { .. } | Verdict::Idle { .. } => {
                let stays = self.options.proxy_stays;
                let comes = units.proxy.state == ActiveState::Activating || units.proxy.job;
                // A dry run does not signal it.
                let waits = comes || (stays > PATIENCE && self.options.dry_run);
                (!units.proxy.is_settled_down() && waits).then_some(Refusal::Proxy(stays))
            }
        }
    }

    /// Answers the request, if there is one.
    pub(super) fn answer(&mut self, reply: Reply, commands: &mut Vec<Command>) {
        if self.request.take().is_some() {
            commands.push(Command::Answer(reply));
        }
    }
}
