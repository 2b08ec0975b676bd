//! Units that systemd starts again and again: an application with `Restart=` that crashes, a proxy that cannot
//! run. What systemd starts by itself is no use of a service.
//!
//! systemd 252 reports a crash with `Restart=` as `failed`, then `activating` (`auto-restart`), then
//! `inactive` with a job, then `activating` or `active`.

use std::time::Duration;

use super::{
    Lifecycle,
    ablation::Protection,
    messages::{Command, Counter, EndLoop, View},
};
use crate::{
    measure::{Ktime, unit::Unit},
    policy::Verdict,
    readiness::DOWN_GRACE,
};

/// How many restarts of an application within [`WINDOW`] and without a new client are waited for: systemd's
/// own limit by default (`DefaultStartLimitBurst=`).
pub const MOST_RESTARTS: u32 = 5;
/// See [`MOST_RESTARTS`].
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many failures of a proxy in a row are waited for before its clients are let go.
pub const PROXY_TRIES: u32 = 3;
/// The first pause between two times at which the clients of a proxy that cannot run are let go. It doubles up
/// to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A proxy that has been up for this time can run; one that is down for this time has chosen its end.
const RUNS: Duration = Duration::from_secs(2);
/// How long PID 1 may take for what ends a loop.
const ENDING: Duration = Duration::from_secs(3);

/// The restarts of an application since somebody else than systemd started it. Nothing is kept of one that
/// systemd has not restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Restarts {
    /// The first start.
    first: Option<Ktime>,
    /// When the last restart became active.
    last: Option<Ktime>,
    /// It is about to be restarted.
    waits: bool,
    /// The present attempt to start it is systemd's own.
    again: bool,
    /// Since when it is down, and no restart was announced.
    down: Option<Ktime>,
    total: u32,
    /// Those in the window.
    recent: u32,
    window: Option<Ktime>,
    /// The clients accepted before the last restart.
    accepted: Option<u64>,
    /// There was a new client between the last two.
    client: bool,
    /// Until when its end is awaited.
    ending: Option<Ktime>,
}

/// What a look has found about restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// systemd is about to restart it once more.
    Restart,
    /// No restart follows: it is down.
    End,
}

impl Restarts {
    /// Takes a look. `started`: the last start before the first restart.
    fn follow(&mut self, view: &View, started: Option<Ktime>) -> Option<Found> {
        let (now, unit) = (view.now, &view.units.backend);
        if unit.restarting {
            let is_new = !self.waits;
            if is_new {
                self.count(view, started);
            }
            (self.waits, self.again, self.down) = (true, false, None);
            return is_new.then_some(Found::Restart);
        }
        if self.total == 0 {
            return None;
        }
        if unit.is_settled_down() {
            let since = *self.down.get_or_insert(now);
            if self.waits || now >= since + DOWN_GRACE {
                *self = Self::default();
                return Some(Found::End);
            }
            return None;
        }
        if unit.state.is_down() {
            return None; // The restart's job.
        }
        self.down = None;
        self.again |= std::mem::take(&mut self.waits);
        if unit.state.is_up() && unit.active_enter != self.last {
            if self.again {
                (self.last, self.again) = (unit.active_enter, false);
            } else {
                *self = Self::default();
            }
        }
        None
    }

    /// Whether systemd restarts it by itself.
    pub(super) fn goes_on(&self) -> bool {
        self.total > 0
    }

    fn count(&mut self, view: &View, started: Option<Ktime>) {
        let accepted = view.sample.map(|sample| sample.accepted());
        let is_old = |from: Ktime| view.now >= from + WINDOW;
        if self.total == 0 {
            self.first = started;
        }
        self.client = self.total > 0 && accepted != self.accepted;
        if self.window.is_none_or(is_old) || self.client {
            (self.window, self.recent) = (Some(view.now), 0);
        }
        self.accepted = accepted;
        self.total = self.total.saturating_add(1);
        self.recent += 1;
    }

    /// When the present use of the unit started.
    fn since(&self, unit: &Unit) -> Option<Ktime> {
        let is_own = self.waits || self.again || unit.active_enter == self.last;
        match self.total > 0 && is_own {
            true => self.first.or(unit.active_enter),
            false => unit.active_enter,
        }
    }
}

/// The starts of an application that systemd has not made by itself, and that count towards its start limit. They
/// are forgotten as soon as it is known that no restart follows: what comes later is not counted out by mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Starts {
    /// The last one that counts.
    since: Option<Ktime>,
    /// Since when it is down.
    down: Option<Ktime>,
    /// The end of a loop: what it started may come yet.
    not_before: Ktime,
}

impl Starts {
    /// A loop is over: the next client may try again.
    fn loop_is_over(&mut self, now: Ktime) {
        (self.since, self.not_before) = (Some(now), now + ENDING);
    }

    /// Takes a look. `starts`: it was started just now. Returns whether to forget the starts up to now.
    fn follow(&mut self, view: &View, starts: bool, restarts: &mut Restarts) -> bool {
        let (now, unit) = (view.now, &view.units.backend);
        if !unit.start_limited || unit.restarting {
            *self = Self::default();
            return false;
        }
        if restarts.goes_on() {
            // A restart after a new client is not one too many.
            return starts && std::mem::take(&mut restarts.client);
        }
        let mut forget = false;
        if starts {
            // No restart has followed the one before. That it was down may have been missed.
            forget = self.since.is_some() && now >= self.not_before;
            self.since = Some(now);
        }
        self.down = self.down.or(Some(now)).filter(|_| unit.is_settled_down());
        if self.next().is_some_and(|at| at <= now) {
            *self = Self::default();
            forget = true;
        }
        forget
    }

    /// When they can be forgotten.
    fn next(&self) -> Option<Ktime> {
        let down = self.down.map(|at| at + DOWN_GRACE);
        let up = self.since.map(|at| at + RUNS);
        self.since
            .and(down.or(up))
            .max(Some(self.not_before).filter(|_| self.since.is_some()))
    }
}

/// The failures of a proxy in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ProxyFailures {
    count: u32,
    /// It is about to be restarted.
    waits: bool,
    /// Since when it is down, by its own choice.
    down: Option<Ktime>,
    /// When its clients were last let go.
    let_go: Option<Ktime>,
    /// When it was down after that.
    ended: Option<Ktime>,
    pause: Duration,
}

impl ProxyFailures {
    /// Takes a look. Returns true if it has failed once more.
    fn follow(&mut self, now: Ktime, unit: &Unit) -> bool {
        if unit.restarting {
            let is_new = !self.waits;
            self.count = self.count.saturating_add(u32::from(is_new));
            (self.waits, self.down) = (true, None);
            return is_new;
        }
        if self.count == 0 {
            return false;
        }
        // What follows from the end of a loop says nothing.
        let end = self.ended.or(self.let_go.map(|at| at + ENDING));
        let is_own = unit
            .active_enter
            .is_some_and(|at| end.is_none_or(|end| at > end));
        if unit.is_settled_down() {
            if self.let_go.is_some() {
                let down = unit.inactive_enter.filter(|at| Some(*at) > self.let_go);
                self.ended = self.ended.or(Some(down.unwrap_or(now)));
            }
            let chosen = !std::mem::take(&mut self.waits) && is_own;
            self.down = self.down.or(Some(now)).filter(|_| chosen);
            if self.down.is_some_and(|since| now >= since + RUNS) {
                *self = Self::default();
            }
        } else if !unit.state.is_down() {
            (self.waits, self.down) = (false, None);
            let runs = unit.active_enter.is_some_and(|at| now >= at + RUNS);
            if unit.is_settled_up() && is_own && runs {
                *self = Self::default();
            }
        }
        false
    }

    /// When its clients may be let go.
    fn due(&self) -> Option<Ktime> {
        let due = self.waits && self.count >= PROXY_TRIES;
        due.then(|| self.let_go.map_or(Ktime::default(), |at| at + self.pause))
    }

    /// The next moment at which a look changes something.
    fn next(&self, now: Ktime, unit: &Unit) -> Option<Ktime> {
        let up = unit.active_enter.filter(|_| unit.is_settled_up());
        let runs = self.down.or(up.filter(|_| self.count > 0));
        let runs = runs.map(|at| at + RUNS);
        self.due()
            .into_iter()
            .chain(runs)
            .filter(|at| *at > now)
            .min()
    }
}

impl Lifecycle {
    /// How often systemd has restarted the application by itself, without a new client, in the last minute.
    pub fn restarts(&self, now: Ktime) -> u32 {
        let is_recent = |from: Ktime| now < from + WINDOW;
        match self.restarts.window.is_some_and(is_recent) {
            true => self.restarts.recent,
            false => 0,
        }
    }

    /// Whether systemd restarts the application by itself.
    pub fn is_restarted(&self) -> bool {
        self.restarts.goes_on()
    }

    /// How often the proxy has failed in a row.
    pub fn proxy_failures(&self) -> u32 {
        self.proxy_failures.count
    }

    /// When the idle clock of the application's present run starts, without a client: at its start, or at that of
    /// the first run if systemd has restarted it by itself.
    pub fn used_since(&self, backend: &Unit) -> Option<Ktime> {
        match self.leaves_out(Protection::Restarts) {
            true => backend.active_enter,
            false => self.restarts.since(backend),
        }
    }

    /// Ends what is started again and again. `starts`: the backend was started just now, by whomever.
    pub(super) fn end_loops(&mut self, view: &View, starts: bool, commands: &mut Vec<Command>) {
        let now = view.now;
        if self.proxy_failures.follow(now, &view.units.proxy) {
            commands.push(Command::Count(Counter::ProxyFailed));
        }
        match self.restarts.follow(view, self.runs.last_start()) {
            Some(Found::Restart) => commands.push(Command::Count(Counter::Restarted)),
            // The next client may try again.
            Some(Found::End) => self.starts.loop_is_over(now),
            None => {}
        }
        if self.starts.follow(view, starts, &mut self.restarts) {
            commands.push(Command::ForgetStarts);
        }
        if self.options.dry_run {
            return;
        }
        if self.proxy_failures.due().is_some_and(|at| at <= now) {
            let failures = &mut self.proxy_failures;
            failures.pause = (failures.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            (failures.let_go, failures.ended) = (Some(now), None);
            let times = failures.count;
            commands.push(Command::EndLoop(EndLoop::Proxy { times }));
        }
        let awaited = self.restarts.ending.is_some_and(|until| now < until);
        if !view.units.backend.restarting || awaited {
            return;
        }
        let often = self.restarts.recent >= MOST_RESTARTS;
        if often || matches!(view.verdict, Verdict::Idle { .. }) {
            self.restarts.ending = Some(now + ENDING);
            let end = EndLoop::Backend {
                times: self.restarts.total,
                often,
                waiting: often && matches!(view.verdict, Verdict::Busy { .. }),
            };
            commands.push(Command::EndLoop(end));
        }
    }

    /// The next moment at which a look changes something in a loop.
    pub(super) fn next_of_loops(&self, view: &View) -> Option<Ktime> {
        let down = self.restarts.down.map(|since| since + DOWN_GRACE);
        let ending = self
            .restarts
            .ending
            .filter(|_| view.units.backend.restarting);
        let proxy = self.proxy_failures.next(view.now, &view.units.proxy);
        let all = down
            .into_iter()
            .chain(ending)
            .chain(proxy)
            .chain(self.starts.next());
        all.filter(|at| *at > view.now).min()
    }
}
