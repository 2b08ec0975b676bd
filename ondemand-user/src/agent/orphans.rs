//! Connections that a run has left: no process has them any more, and the kernel may try for a quarter of an hour to
//! deliver their last bytes. They are no use of the next run.

use std::time::Duration;

use ondemand_core::{
    measure::{
        Ktime,
        sample::{Leg, Sample},
        unit::{ActiveState, Unit},
    },
    policy::STAMP_SLACK,
};

use super::{Agent, timing::timed};

/// An open connection of the front socket is not looked for before it is so old.
const SETTLED: Duration = STAMP_SLACK.saturating_mul(5);

/// What is known of one service's ended runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orphans {
    /// The connections accepted and closed when they were last looked for.
    looked: Option<(u64, u64)>,
    /// The proxy's last run of which nothing was left at the front socket, by its start.
    clean: Option<Option<Ktime>>,
}

impl Orphans {
    /// Whether the proxy may have left connections. An open one of the front socket is a client that waits for the
    /// next proxy, if the proxy has not run since there was none. (To walk over all sockets for each of a thousand
    /// such clients takes longer than to start their applications.)
    fn of_proxy(&mut self, proxy: &Unit, sample: &Sample) -> bool {
        if !proxy.is_settled_down() {
            return false;
        }
        let run = proxy.inactive_exit;
        if !is_open(&sample.front) {
            self.clean = Some(run);
            return false;
        }
        let age = sample.last_activity.and_then(|at| sample.at.since(at));
        run.is_some() && self.clean != Some(run) && age.is_some_and(|age| age > SETTLED)
    }
}

fn is_open(leg: &Leg) -> bool {
    leg.open().is_some_and(|open| open > 0)
}

impl Agent {
    /// Has the kernel count connections as closed that the application or the proxy has left.
    pub(super) fn forget_the_ended_run(&mut self, name: &str) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let (Some(units), Ok(sample)) = (self.units_of(watched), self.sampler.sample(watched.slot))
        else {
            return;
        };
        let (slot, mut orphans) = (watched.slot, watched.orphans);
        let state = units.backend.state;
        let of_application = [sample.steered, sample.back, sample.ignored];
        let of_proxy = orphans.of_proxy(&units.proxy, &sample);
        let has_ended = state.is_down() || state == ActiveState::Activating;
        let may_be_left = has_ended && (of_proxy || of_application.iter().any(is_open));
        // What a process still has is no orphan, and is looked for again when something has changed.
        let legs = of_application.iter().chain([&sample.front]);
        let sums = legs.fold((0, 0), |(accepted, closed), leg| {
            (accepted + leg.accepted, closed + leg.closed)
        });
        let looks = may_be_left && orphans.looked.replace(sums) != Some(sums);
        if let Some(watched) = self.services.get_mut(name) {
            watched.orphans = orphans;
        }
        if looks && let Err(error) = timed("orphans", || self.sampler.end_run(slot)) {
            log::warn!("{name}: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_waits_is_no_rest_of_a_run() {
        let at = |millis: u64| Ktime::from_nanos(millis * 1_000_000);
        let proxy = |began: Option<u64>| Unit {
            state: ActiveState::Inactive,
            inactive_exit: began.map(at),
            ..Unit::default()
        };
        let sample = |accepted, closed, age: u64| Sample {
            at: at(9000),
            last_activity: Some(at(9000 - age)),
            front: Leg {
                accepted,
                closed,
                ..Leg::default()
            },
            steered: Leg::default(),
            back: Leg::default(),
            ignored: Leg::default(),
            refused: 0,
            older: 0,
            last_open: None,
            lookups: 0,
            last_lookup: None,
            served: None,
            datagrams: 0,
            refused_datagrams: 0,
        };
        let (waits, none) = (sample(3, 2, 400), sample(3, 3, 400));
        // No proxy has run since the boot.
        let mut orphans = Orphans::default();
        assert!(!orphans.of_proxy(&proxy(None), &waits));
        // One has, before this agent did: unknown.
        assert!(orphans.of_proxy(&proxy(Some(5000)), &waits));
        assert!(!orphans.of_proxy(&proxy(Some(5000)), &sample(3, 2, 20)));
        // Its run has left nothing, so this is a new client.
        assert!(!orphans.of_proxy(&proxy(Some(5000)), &none));
        assert!(!orphans.of_proxy(&proxy(Some(5000)), &waits));
        // The next one may have.
        let up = Unit {
            state: ActiveState::Active,
            ..proxy(Some(8000))
        };
        assert!(!orphans.of_proxy(&up, &waits));
        assert!(orphans.of_proxy(&proxy(Some(8000)), &waits));
    }
}
