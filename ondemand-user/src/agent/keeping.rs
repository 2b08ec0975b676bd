//! Times of use: services that are kept up by the wall clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use ondemand_core::{
    config::Minute,
    lifecycle::{Input, JobEnd},
    measure::Ktime,
    policy::Hold,
};

use super::{Agent, watched::Watched};
use crate::host::clock;

/// Times of use begin and end at a minute. The wall clock may be set, and goes on in a suspend: so it is looked at in
/// each.
const MINUTE: Duration = Duration::from_secs(60);

/// Which services are in a time of use.
#[derive(Default)]
pub(super) struct Keeping {
    /// Of those that have any: whether it was one at the last look.
    present: BTreeMap<String, bool>,
    /// When to look again.
    due: Option<Ktime>,
}

impl Keeping {
    /// A service that an earlier agent watched: what began before was begun by that.
    pub fn resume(&mut self, watched: &Watched) {
        if !watched.service.keep_up.is_absent() {
            let name = watched.service.name.clone();
            self.present.insert(name, hold(watched).is_some());
        }
    }

    /// When to look again.
    pub fn due(&self) -> Option<Ktime> {
        self.due
    }
}

/// The present minute of the week, and how much of it is over.
fn minute() -> (Minute, Duration) {
    let at = Timestamp::from_millisecond(clock::wall()).unwrap_or_default();
    let at = at.to_zoned(TimeZone::system());
    let [hour, minute] = [at.hour(), at.minute()].map(|it| u32::try_from(it).unwrap_or(0));
    let day = u32::try_from(at.weekday().to_monday_zero_offset()).unwrap_or(0);
    let over = Duration::new(u64::try_from(at.second()).unwrap_or(0), 0)
        + Duration::from_millis(u64::try_from(at.millisecond()).unwrap_or(0));
    (Minute::new(day, hour, minute), over)
}

/// The hold of a service in a time of use, until the look that finds its end.
pub(super) fn hold(watched: &Watched) -> Option<Hold> {
    let is_kept =
        !watched.service.keep_up.is_absent() && watched.service.keep_up.contains(minute().0);
    is_kept.then_some(Hold { until: None })
}

/// `kept up until 18:00`, in a time of use.
pub(super) fn detail(watched: &Watched) -> Option<String> {
    hold(watched)?;
    let (minute, _) = minute();
    Some(match watched.service.keep_up.end(minute) {
        Some(end) => format!("kept up until {}", end.time()),
        None => "kept up".to_owned(),
    })
}

impl Agent {
    /// Looks at the services whose time of use has begun or ended, and starts those whose time has begun.
    pub(super) fn pass_times_of_use(&mut self, now: Ktime) {
        if self.keeping.due.is_some_and(|at| at > now) {
            return;
        }
        let (minute, over) = minute();
        let with_times = self
            .services
            .iter()
            .filter(|(_, watched)| !watched.service.keep_up.is_absent());
        let present: BTreeMap<String, bool> = with_times
            .map(|(name, watched)| (name.clone(), watched.service.keep_up.contains(minute)))
            .collect();
        // A little later than the minute begins.
        let left = MINUTE.saturating_sub(over) + Duration::from_millis(5);
        self.keeping.due = (!present.is_empty()).then(|| now + left);
        let before = std::mem::replace(&mut self.keeping.present, present);
        let mut changed = BTreeSet::new();
        for (name, is_kept) in &self.keeping.present {
            // Its times are new.
            let was_kept = before.get(name).copied().unwrap_or(false);
            if was_kept != *is_kept {
                changed.insert((name.clone(), *is_kept));
            }
        }
        for (name, is_kept) in changed {
            match is_kept {
                true => self.begin_time_of_use(&name),
                false => log::info!("{name}: its time of use is over"),
            }
            self.look(&name, Input::Changed);
        }
    }

    /// The configuration has changed.
    pub(super) fn renew_times_of_use(&mut self) {
        self.keeping.due = None;
        let services = &self.services;
        let has_times = |name: &String| {
            services
                .get(name)
                .is_some_and(|it| !it.service.keep_up.is_absent())
        };
        self.keeping.present.retain(|name, _| has_times(name));
    }

    fn begin_time_of_use(&self, name: &str) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        if self.dry_run || watched.problem.is_some() {
            return log::info!("{name}: its time of use begins, it would be started");
        }
        let unit = watched.service.unit.clone();
        if self
            .systemd
            .known(&unit)
            .is_some_and(|known| known.unit.state.is_up())
        {
            return log::info!("{name}: its time of use begins");
        }
        log::info!("{name}: starting, its time of use begins");
        let name = name.to_owned();
        tokio::spawn(async move {
            if let JobEnd::Failed(why) = systemd.start_as_asked(&unit).await {
                log::warn!("{name}: not started for its time of use, clients start it: {why}");
            }
        });
    }
}
