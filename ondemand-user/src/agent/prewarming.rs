//! Pre-warming: services that are started before a client that is expected (`prewarm`).
//!
//! When that is, [`Rhythm`] tells by the wall clock, which may be set, and goes on in a suspend: so it is looked at in
//! each minute. Until its window is over the service is held; if nobody has come then, it is stopped as soon as may be.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use ondemand_core::{
    lifecycle::{Input, JobEnd},
    measure::{Ktime, sample::Sample},
    policy::Hold,
    rhythm::{Expected, Moment, Rhythm, Terms},
};

use super::{Agent, watched::Watched};
use crate::{bus::report::Prewarm, host::clock};

/// How often the wall clock is looked at.
const MINUTE: Duration = Duration::from_secs(60);
/// The wall clock has not just drifted. Milliseconds.
const JUMP: u64 = 30_000;
/// How soon to look again at a service of whose units nothing is known yet.
const SOON: Duration = Duration::from_secs(1);
/// What a start takes of which nothing is known.
const UNKNOWN_START: Duration = Duration::from_secs(1);

/// What is known of when a service's clients come, and what came of it.
#[derive(Default)]
pub struct Prewarming {
    rhythm: Rhythm,
    /// Until when it is up for a client that is expected.
    until: Option<Ktime>,
    /// Whether it was started for that client.
    started: bool,
    /// Whether somebody wants it to be down in this time.
    left: bool,
    /// Whether it is up for one that did not come.
    in_vain: bool,
    /// Starts ahead of a client that came, since the agent began to watch the service.
    used: u64,
    /// The same, of one that did not come.
    wasted: u64,
}

impl Prewarming {
    /// For the file that outlives the agent.
    pub fn rhythm(&self) -> &Rhythm {
        &self.rhythm
    }

    /// Takes what an earlier agent knew, or what the history tells, if that is more. Nobody judges what was expected
    /// meanwhile.
    pub fn restore(&mut self, rhythm: Option<Rhythm>, terms: &Terms) {
        if let Some(mut rhythm) = rhythm.filter(|it| it.returns() >= self.rhythm.returns()) {
            rhythm.pass(present(), None, terms);
            self.rhythm = rhythm;
        }
    }

    /// Starts ahead of a client that came, and of one that did not.
    pub fn counts(&self) -> [u64; 2] {
        [self.used, self.wasted]
    }

    /// For `status`.
    pub fn report(&self) -> Prewarm {
        let expected = self.rhythm.expected(present());
        Prewarm {
            used: self.used,
            wasted: self.wasted,
            expected_after_seconds: expected.map(|it| it.opens_in.as_secs_f64()),
            expected_before_seconds: expected.map(|it| it.closes_in.as_secs_f64()),
            pattern: expected.map(|it| it.kind.as_str().to_owned()),
        }
    }

    /// Whether nobody came for whom it was started, so that nothing speaks for waiting any longer.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain
    }

    /// The application is down.
    pub fn is_down(&mut self) {
        self.in_vain = false;
    }

    /// Somebody wants it to be down until then, or needs its place.
    pub fn leave(&mut self) {
        self.left = true;
    }

    /// The hold of a service that is up for a client who is expected.
    pub fn hold(&self, now: Ktime) -> Option<Hold> {
        let until = self.until.filter(|until| *until > now && !self.left)?;
        Some(Hold { until: Some(until) })
    }

    /// What is expected: a sentence.
    pub fn detail(&self, now: Ktime) -> Option<String> {
        if let Some(Hold { until: Some(until) }) = self.hold(now)
            && let Some(left) = until.since(now)
        {
            return Some(format!(
                "up for a client that is expected until {}",
                time_in(left)
            ));
        }
        let expected = self.rhythm.expected(present())?;
        Some(format!(
            "a client is expected {} to {}, {}",
            time_in(expected.opens_in),
            time_in(expected.closes_in),
            expected.kind.text()
        ))
    }
}

/// The time of the day after this span.
fn time_in(span: Duration) -> String {
    let at = Timestamp::from_millisecond(clock::wall()).unwrap_or_default();
    let at = at.checked_add(span).unwrap_or(at);
    let at = at.to_zoned(TimeZone::system());
    let is_near = span < Duration::from_secs(20 * 3600);
    at.strftime(if is_near { "%H:%M" } else { "%a %H:%M" })
        .to_string()
}

/// A date on both clocks of a rhythm. Milliseconds since 1970.
pub(super) fn moment(wall: i64) -> Moment {
    let at = Timestamp::from_millisecond(wall).unwrap_or_default();
    let offset = TimeZone::system().to_offset(at).seconds();
    let utc = wall.div_euclid(1000);
    Moment::new(utc, utc.saturating_add(offset.into()))
}

fn present() -> Moment {
    moment(clock::wall())
}

/// What a window of a service costs. `usual`: how long its start takes; `idle_timeout`: `None` if it is never stopped.
pub(super) fn terms(
    cold_start: Duration,
    usual: Option<Duration>,
    idle_timeout: Option<Duration>,
) -> Terms {
    Terms {
        cold_start,
        start: usual.unwrap_or(UNKNOWN_START),
        idle_timeout: idle_timeout.unwrap_or(Duration::MAX),
    }
}

pub(super) fn terms_of(watched: &Watched) -> Terms {
    let (starts, _) = watched.learner.stored();
    let cost = watched.learner.cold_start_cost();
    terms(cost, starts.usual(), watched.idle_timeout())
}

/// For how long it was not used. `None`: it is, or that is unknown.
fn quiet(sample: Option<&Sample>, now: Ktime) -> Option<Duration> {
    let sample = sample.filter(|sample| sample.open() == Some(0))?;
    match sample.last_activity {
        Some(last) => now.since(last),
        None => Some(Duration::MAX),
    }
}

/// When rhythms are looked at.
#[derive(Default)]
pub(super) struct Rhythms {
    /// When next.
    pub due: Option<Ktime>,
    /// The last look at the wall clock, and what it showed, in milliseconds since 1970.
    seen: Option<(Ktime, i64)>,
}

impl Agent {
    /// A service was used after this gap. `None`: it was not used since the host's boot, or that is unknown.
    pub(super) fn returned(&mut self, name: &str, gap: Option<Duration>) {
        if !self.services.get(name).is_some_and(|it| it.service.prewarm) {
            return;
        }
        let at = self.wall_clock();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let terms = terms_of(watched);
        let gap = gap.unwrap_or(terms.idle_timeout.saturating_add(SOON));
        let prewarming = &mut watched.prewarming;
        prewarming.rhythm.returned(at, gap, &terms);
        if prewarming.until.take().is_some() && prewarming.started {
            prewarming.used += 1;
            log::info!("{name}: its client came, for whom it was started");
        }
        (prewarming.started, prewarming.left, prewarming.in_vain) = (false, false, false);
        self.rhythms.due = Some(clock::now());
    }

    /// Starts services whose next client is expected now, and stops those whose client did not come.
    pub(super) fn pass_rhythms(&mut self, now: Ktime) {
        if self.rhythms.due.is_none_or(|at| at > now) {
            return;
        }
        let at = self.wall_clock();
        let mut due: Option<Duration> = None;
        let (mut begun, mut over) = (Vec::new(), Vec::new());
        for name in self.prewarmed() {
            let Some(watched) = self.services.get_mut(&name) else {
                continue;
            };
            let is_known = self.systemd.known(&watched.service.unit).is_some();
            let sample = self.sampler.sample(watched.slot).ok();
            let (terms, quiet) = (terms_of(watched), quiet(sample.as_ref(), now));
            let prewarming = &mut watched.prewarming;
            prewarming.rhythm.pass(at, quiet, &terms);
            let expected = prewarming.rhythm.expected(at);
            let present = expected.filter(|it| it.opens_in.is_zero());
            match (prewarming.until, present) {
                (None, Some(expected)) if quiet.is_some() && is_known => {
                    begun.push((name, expected));
                }
                (Some(_), Some(expected)) => prewarming.until = Some(now + expected.closes_in),
                (Some(_), None) => over.push(name),
                (None, _) => {}
            }
            if let Some(expected) = expected {
                let next = match present {
                    Some(_) if !is_known => SOON,
                    Some(expected) => expected.closes_in,
                    None => expected.opens_in,
                };
                due = Some(due.map_or(next, |due| due.min(next)));
            }
        }
        // A little later, since a second has begun then.
        let soon = due.map(|due| due.min(MINUTE) + Duration::from_millis(5));
        self.rhythms.due = soon.map(|soon| now + soon);
        for (name, expected) in begun {
            self.begin_window(&name, now, &expected);
        }
        for name in over {
            self.end_window(&name);
        }
    }

    /// The configuration has changed, or what is known of rhythms.
    pub(super) fn renew_rhythms(&mut self) {
        for name in self.prewarmed() {
            let returns = self
                .services
                .get(&name)
                .map(|it| it.prewarming.rhythm.returns());
            if returns == Some(0) {
                self.lessons.learn_anew(&name);
            }
        }
        self.rhythms.due = Some(clock::now());
    }

    /// The present. What is between this and the last look at the clock, if it was set or the host suspended, was no
    /// time in which anything could be up, and is judged by nobody.
    fn wall_clock(&mut self) -> Moment {
        let (now, wall) = (clock::now(), clock::wall());
        let at = moment(wall);
        if let Some((seen, shown)) = self.rhythms.seen.replace((now, wall)) {
            let passed = now.since(seen).unwrap_or_default().as_millis();
            let moved = wall.saturating_sub(shown);
            if moved.abs_diff(i64::try_from(passed).unwrap_or(i64::MAX)) > JUMP {
                self.skip_windows(at);
            }
        }
        at
    }

    fn skip_windows(&mut self, at: Moment) {
        for name in self.prewarmed() {
            if let Some(watched) = self.services.get_mut(&name) {
                let terms = terms_of(watched);
                watched.prewarming.rhythm.pass(at, None, &terms);
            }
        }
    }

    fn prewarmed(&self) -> Vec<String> {
        let all = self.services.iter().filter(|(_, it)| it.service.prewarm);
        all.map(|(name, _)| name.clone()).collect()
    }

    fn begin_window(&mut self, name: &str, now: Ktime, expected: &Expected) {
        let has_room = self.fits(name, now);
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let (until, by) = (time_in(expected.closes_in), expected.kind.text());
        let known = self.systemd.known(&watched.service.unit);
        let state = known.map(|known| known.unit.state);
        // An application that was given up, or whose state is not known, is not started by a guess.
        let may_start = state.is_some_and(|state| state.is_down())
            && watched.problem.is_none()
            && !watched.gave_up
            && !watched.lifecycle.is_asked();
        let is_up = state.is_some_and(|state| state.is_up());
        if may_start && !has_room {
            log::info!(
                "{name}: a client is expected until {until} ({by}), but there is no room to start it ahead"
            );
        }
        let may_start = may_start && has_room;
        watched.prewarming.until = Some(now + expected.closes_in);
        watched.prewarming.left = false;
        watched.prewarming.started = may_start && !self.dry_run;
        let unit = watched.service.unit.clone();
        match self.systemd.caller().filter(|_| may_start) {
            Some(_) if self.dry_run => {
                log::info!("{name}: would be started, a client is expected until {until} ({by})");
            }
            Some(systemd) => {
                log::info!("{name}: starting, a client is expected until {until} ({by})");
                let name = name.to_owned();
                tokio::spawn(async move {
                    if let JobEnd::Failed(why) = systemd.start_as_asked(&unit).await {
                        log::warn!("{name}: not started ahead, its clients start it: {why}");
                    }
                });
            }
            None if is_up => self.look(name, Input::Changed),
            None => log::debug!("{name}: a client is expected until {until}, it is not started"),
        }
    }

    fn end_window(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let prewarming = &mut watched.prewarming;
        prewarming.until = None;
        let was_left = std::mem::take(&mut prewarming.left);
        if std::mem::take(&mut prewarming.started) && !was_left {
            prewarming.wasted += 1;
            prewarming.in_vain = true;
            log::info!("{name}: nobody came, for whom it was started");
        }
        self.look(name, Input::Changed);
    }
}
