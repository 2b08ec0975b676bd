//! What a service has of its place: who is up, starts, is idle or leaves.

use std::{sync::atomic::Ordering, time::Duration};

use ondemand_core::{
    lifecycle::{Step, View},
    measure::{
        Ktime,
        unit::{ActiveState, Units},
    },
    policy::Verdict,
    room::{Place, Tally, Why, Worth},
};

use crate::agent::{memory::Footprint, watched::Watched};

/// How long a service that may start may take until systemd begins with it.
const GRANT: Duration = Duration::from_secs(2);
/// A service is not stopped before its first client, who may be on the way for so long.
const FRESH: Duration = Duration::from_secs(2);
/// What a cold start costs of a service of which none was seen.
const UNKNOWN_START: Duration = Duration::from_secs(1);

/// A service's place.
#[derive(Clone, Debug)]
pub struct Placed {
    pub(super) place: Place,
    /// Whether a client that is held is to have it started.
    pub(super) wants: bool,
    /// Since when it may start, and whether it has begun to.
    pub(super) granted: Option<(Ktime, bool)>,
    pub(super) worth: Worth,
    /// It is being stopped to make room.
    pub(super) goes: Option<Why>,
    /// What was logged of that.
    pub(super) logged: Option<Why>,
    /// What has become of it.
    pub(in crate::agent) tally: Tally,
    /// No attempt to stop it before this.
    pub(super) not_before: Option<Ktime>,
    /// What it takes of memory.
    pub(in crate::agent) footprint: Footprint,
    /// It stays up as long as memory fits.
    pub(super) is_kept: bool,
}

impl Default for Placed {
    /// Nothing is known of its units yet.
    fn default() -> Self {
        Self {
            place: Place::Taken,
            wants: false,
            granted: None,
            worth: Worth::default(),
            goes: None,
            logged: None,
            tally: Tally::default(),
            not_before: None,
            footprint: Footprint::default(),
            is_kept: false,
        }
    }
}

impl Placed {
    /// What it has.
    pub(in crate::agent) fn place(&self) -> Place {
        self.place
    }

    /// Whether it stays up as long as its memory fits, whatever its idle timeout is.
    pub(in crate::agent) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// When its place may become another one without an event.
    pub(super) fn changes_at(&self, now: Ktime, view: Option<&View>) -> Option<Ktime> {
        let grant = self.granted.map(|(at, _)| at + GRANT);
        let active = view.and_then(|view| view.units.backend.active_enter);
        let fresh = active.filter(|_| self.place == Place::Taken);
        let fresh = fresh.map(|at| at + FRESH);
        let all = [grant, fresh].into_iter().flatten();
        all.filter(|at| *at > now).min()
    }
}

impl Watched {
    pub(super) fn worth(&self) -> f64 {
        let cold_start = self.learner.usual_start().unwrap_or(UNKNOWN_START);
        let measured = self.memory.load(Ordering::Relaxed);
        let measured = Some(measured).filter(|bytes| *bytes > 0);
        let memory = self.placed.footprint.usual().or(measured);
        self.placed.worth.value(cold_start, memory)
    }

    /// What it has. `view`: `None` if it is not managed. `wanted`: it is held by more than a guess.
    pub(super) fn place(
        &mut self,
        units: &Units,
        view: Option<&View>,
        wanted: bool,
        now: Ktime,
    ) -> Place {
        let backend = &units.backend;
        if let Some((at, has_begun)) = &mut self.placed.granted {
            let is_over = match (backend.is_settled_up(), backend.is_settled_down()) {
                (true, _) => true,
                (_, true) => *has_begun || now.since(*at).is_none_or(|age| age >= GRANT),
                _ => false,
            };
            *has_begun |= !backend.state.is_down();
            if is_over {
                self.placed.granted = None;
            }
        }
        match backend.state {
            _ if self.placed.granted.is_some() => Place::Taken,
            ActiveState::Inactive | ActiveState::Failed => Place::None,
            ActiveState::Deactivating => Place::Leaving,
            ActiveState::Active | ActiveState::Reloading => match view {
                Some(view) => self.place_of_one_that_is_up(view, wanted),
                None => Place::Taken,
            },
            ActiveState::Activating | ActiveState::Unknown => Place::Taken,
        }
    }

    /// Until when a service that receives datagrams counts as used: nobody sees their clients leave. `None`: no longer, or it
    /// receives none.
    pub(super) fn flows_until(&self, view: &View) -> Option<Ktime> {
        let since = match view.verdict {
            Verdict::Quiet { since, .. }
            | Verdict::Idle { since }
            | Verdict::Held { since, .. } => since,
            Verdict::Busy { .. } | Verdict::Needed { .. } | Verdict::Unknown(_) => return None,
        };
        let timeout = self.idle_timeout();
        // A stop that is under way looks for itself.
        let until = timeout.map_or(Ktime::from_nanos(u64::MAX), |timeout| since + timeout);
        (self.service.has_datagrams() && until > view.now).then_some(until)
    }

    fn place_of_one_that_is_up(&self, view: &View, wanted: bool) -> Place {
        match self.lifecycle.current() {
            Step::Asking
            | Step::Looking { .. }
            | Step::Releasing(_)
            | Step::Settling { stop: Some(_), .. } => return Place::Leaving,
            Step::Rest if self.placed.goes.is_some() => return Place::Leaving,
            Step::Rest => {}
            Step::Settling { stop: None, .. } | Step::Retaking | Step::Waking => {
                return Place::Taken;
            }
        }
        let is_unused = match view.verdict {
            Verdict::Quiet { .. } => view.sample.is_some_and(|it| it.open() == Some(0)),
            Verdict::Idle { .. } => true,
            // A client that is only expected keeps no place from one that is there.
            Verdict::Held { .. } => !wanted,
            Verdict::Busy { .. } | Verdict::Needed { .. } | Verdict::Unknown(_) => false,
        };
        let units = &view.units;
        let proxy_comes = units.proxy.job || units.proxy.state == ActiveState::Activating;
        let active = units.backend.active_enter;
        let last = view.sample.and_then(|sample| sample.last_activity);
        // The one for whom it was started may not be there yet.
        let is_fresh = active.is_some_and(|active| {
            last < Some(active) && view.now.since(active).is_some_and(|age| age < FRESH)
        });
        match is_unused
            && units.held()
            && view.waiting() == 0
            && !proxy_comes
            && !is_fresh
            && self.flows_until(view).is_none()
            && !self.is_dry_run()
        {
            true => Place::Idle,
            false => Place::Taken,
        }
    }
}
