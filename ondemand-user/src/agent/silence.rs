//! Connections on which no byte goes (`silent_after`). The kernel's own times of the last bytes are read when they could
//! make the service idle, and at the last look before a stop; never for nothing.

use std::time::Duration;

use ondemand_core::{
    lifecycle::RETRY,
    measure::{
        Ktime,
        sample::{Sample, Silence},
    },
    policy::{self, SILENCE_KNOWN},
};
use ondemand_ebpf::{LEG_BACK, LEG_FRONT, LEG_STEERED};

use super::{Agent, timing::timed, watched::Watched};
use crate::host::clock;

/// What is known of the silence of a service's connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listening {
    /// As of the last look at them.
    pub seen: Option<Silence>,
    /// When to look again.
    pub due: Option<Ktime>,
    /// Not before that, because the last look failed.
    retry: Option<Ktime>,
}

impl Watched {
    /// The open connections that are no use, if the verdict is in spite of them.
    pub(super) fn silent(&self, sample: Option<&Sample>, now: Ktime) -> u64 {
        let (Some(sample), Some(seen), Some(after)) =
            (sample, self.listening.seen, self.rules().silent_after)
        else {
            return 0;
        };
        let is_known = now.since(seen.at).is_some_and(|age| age < SILENCE_KNOWN)
            && seen.changes == sample.changes();
        let is_silent = seen.newest + after <= seen.at;
        if is_known && is_silent && sample.older == 0 && self.uncounted.open == 0 {
            sample.open().unwrap_or_default()
        } else {
            0
        }
    }
}

impl Agent {
    /// Looks whether the open connections are silent, if that could make the service idle now.
    pub(super) fn follow_silence(&mut self, name: &str) {
        let listens = |watched: &Watched| watched.rules().silent_after.is_some();
        if !self.services.get(name).is_some_and(listens) {
            return;
        }
        let now = clock::now();
        if self.silence_due(name, now).is_some_and(|due| due <= now)
            && !self.knows_silence(name, now)
        {
            self.look_for_silence(name);
        }
        let due = self.silence_due(name, now);
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let is_silent = watched.silent(self.sampler.sample(watched.slot).ok().as_ref(), now) > 0;
        let seen = watched
            .listening
            .seen
            .map(|seen| seen.at + SILENCE_KNOWN / 2);
        watched.listening.due = match due {
            Some(due) if due <= now && is_silent => None,
            // What was seen just now is not looked at again at once.
            Some(due) => Some(due).max(seen),
            None => None,
        };
    }

    fn knows_silence(&self, name: &str, now: Ktime) -> bool {
        let seen = self
            .services
            .get(name)
            .and_then(|watched| watched.listening.seen);
        let age = seen.and_then(|seen| now.since(seen.at));
        age.is_some_and(|age| age < SILENCE_KNOWN / 2)
    }

    /// When to look at the silence of its connections.
    fn silence_due(&self, name: &str, now: Ktime) -> Option<Ktime> {
        let watched = self.services.get(name)?;
        let units = self.units_of(watched).filter(|units| units.held())?;
        let sample = self.sampler.sample(watched.slot).ok()?;
        let facts = self.facts(watched, &units, now);
        let due = policy::silence_due(&watched.rules(), &sample, &facts)?;
        let pause = watched.lifecycle.paused().map(|(until, _)| until);
        [Some(due), watched.listening.retry, pause]
            .into_iter()
            .flatten()
            .max()
    }

    /// Looks at the times of the last bytes now.
    pub(super) fn look_for_silence(&mut self, name: &str) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        let slot = watched.slot;
        let before = self.sampler.sample(slot).ok();
        let at = clock::now();
        let (mut newest, mut is_unknown, mut legs) = (Ktime::default(), false, [0; 3]);
        let walked = timed("silence", || {
            self.sampler.each_client(slot, |connection| {
                match connection.leg {
                    LEG_FRONT => legs[0] += 1,
                    LEG_STEERED => legs[1] += 1,
                    LEG_BACK => legs[2] += 1,
                    _ => return,
                }
                match connection.silent {
                    Some(silent) => newest = newest.max(before_now(at, silent)),
                    None => is_unknown = true,
                }
            })
        });
        let after = self.sampler.sample(slot).ok();
        let seen = before.zip(after).and_then(|(before, after)| {
            let counted = [
                after.front.open()?,
                after.steered.open()?,
                after.back.open()?,
            ];
            let is_whole = before.changes() == after.changes() && counted == legs;
            (is_whole && !is_unknown).then_some(Silence {
                at,
                changes: after.changes(),
                newest,
            })
        });
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let failed = match &walked {
            Err(error) => Some(format!("{error:#}")),
            Ok(()) if is_unknown => Some("this kernel does not tell when bytes went".to_owned()),
            Ok(()) => None,
        };
        let listening = &mut watched.listening;
        listening.seen = seen.filter(|_| failed.is_none());
        listening.retry = listening.seen.is_none().then_some(at + RETRY);
        let looked = failed.map_or(Ok(()), Err);
        if let Some(why) = self.complaints.follow("silent connections", &looked) {
            log::warn!("{name}: kept while connections are open, silent or not: {why}");
        }
    }
}

fn before_now(now: Ktime, silent: Duration) -> Ktime {
    let silent = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
    Ktime::from_nanos(now.as_nanos().saturating_sub(silent))
}
