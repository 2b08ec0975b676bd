//! A pattern that returns may follow, and how well it foretold them.

use serde::{Deserialize, Serialize};

use super::{FADES, FARTHEST, Moment, OWED, SAVED_UP, TRUST, Terms, Window, fit};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// The last intervals that count.
const INTERVALS: usize = 32;
/// Each time that a pattern has lost trust it must have saved twice as much as before, up to this many times.
const MOST_FAILURES: u8 = 2;
/// Windows that are judged at once, after which there is nothing more to learn of a pattern.
const MOST_PASSED: usize = 200;

/// Which pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// So long after the last return.
    Interval,
    /// At the same minute of each hour.
    Hour,
    /// At the same time of each day.
    Day,
    /// The same, and another time on Saturdays and Sundays, or none.
    Workday,
    /// At the same time of the same day of the week.
    Week,
    /// As [`Kind::Day`], in UTC.
    DayUtc,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Interval,
        Self::Hour,
        Self::Day,
        Self::Workday,
        Self::Week,
        Self::DayUtc,
    ];

    /// Its clock, in seconds.
    pub(super) fn clock(self, at: Moment) -> i64 {
        match self {
            Self::Interval | Self::DayUtc => at.utc,
            Self::Hour | Self::Day | Self::Workday | Self::Week => at.local,
        }
    }

    /// The length of a period, and how many of them count.
    fn period(self) -> Option<(i64, usize)> {
        match self {
            Self::Interval => None,
            Self::Hour => Some((HOUR, 24)),
            Self::Day | Self::DayUtc => Some((DAY, 14)),
            Self::Workday => Some((DAY, 21)),
            Self::Week => Some((WEEK, 8)),
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Workday => "workday",
            Self::Week => "week",
            Self::DayUtc => "day-utc",
        }
    }

    /// How a person says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Interval => "by the time since the last client",
            Self::Hour => "at this time of each hour",
            Self::Day => "at this time of each day",
            Self::Workday => "at this time on such days of the week",
            Self::Week => "at this time of each week",
            Self::DayUtc => "at this time of each day (UTC)",
        }
    }
}

/// One pattern of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pattern {
    kind: Kind,
    /// What it would have saved, within bounds: what trust rests on. Cold starts.
    score: f64,
    /// What it would have saved in the last returns, to compare it with others. Cold starts.
    lately: f64,
    /// Whether it has earned to be acted on, and not lost that.
    trusted: bool,
    /// How often it has lost that: luck does not come three times.
    failures: u8,
    /// The phase at which a period begins: that of the longest time without returns.
    origin: i64,
    /// Windows, in seconds since the last return, or since the begin of a period: of each, and of workdays; of
    /// Saturdays and Sundays.
    windows: [Vec<Window>; 2],
    /// The next one.
    next: Option<Window>,
}

impl Pattern {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            score: 0.0,
            lately: 0.0,
            trusted: false,
            failures: 0,
            origin: 0,
            windows: Default::default(),
            next: None,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn lately(&self) -> f64 {
        self.lately
    }

    /// The next window, if it is to be acted on.
    pub(super) fn trusted_window(&self) -> Option<Window> {
        self.next.filter(|_| self.trusted)
    }

    pub(super) fn is_sound(&self) -> bool {
        (-OWED..=SAVED_UP).contains(&self.score)
            && self.lately.is_finite()
            && (0..=WEEK).contains(&self.origin)
            && self
                .windows
                .iter()
                .all(|windows| windows.len() <= fit::MOST)
            && (self.windows.iter().flatten().chain(&self.next)).all(|it| {
                -FARTHEST <= it.opens && it.opens <= it.closes && it.closes <= 2 * FARTHEST
            })
    }

    /// Judges windows that were over before `now`. `down`: since when the service would be down; `None`: it is in use.
    pub(super) fn pass(&mut self, now: Moment, down: Option<Moment>, terms: &Terms) {
        let (now, down) = (self.kind.clock(now), down.map(|down| self.kind.clock(down)));
        for _ in 0..MOST_PASSED {
            let Some(window) = self.next.filter(|window| window.closes <= now) else {
                return;
            };
            if let Some(down) = down.filter(|down| *down < window.closes) {
                self.add(-cost(window, down, window.closes, terms), terms);
            }
            self.next = self.after(window.closes);
        }
        self.next = self.after(now);
    }

    /// Judges the window in which a return was.
    pub(super) fn judge(&mut self, at: Moment, down: Moment, terms: &Terms) {
        self.lately *= FADES;
        let (at, down) = (self.kind.clock(at), self.kind.clock(down));
        let Some(window) = self.next.filter(|window| window.opens <= at) else {
            return;
        };
        let is_up = at >= window.opens + terms.start.as_secs() as i64;
        let saved = if is_up { terms.cost() } else { 0.0 };
        self.add(saved - cost(window, down, at, terms), terms);
    }

    fn add(&mut self, saved: f64, terms: &Terms) {
        let saved = saved / terms.cost();
        self.lately += saved;
        self.score = (self.score * FADES + saved).clamp(-OWED, SAVED_UP);
        let needed = TRUST * f64::from(1_u32 << self.failures.min(MOST_FAILURES));
        if self.score >= needed {
            self.trusted = true;
        } else if self.score <= 0.0 && self.trusted {
            self.trusted = false;
            self.failures = (self.failures + 1).min(MOST_FAILURES);
        }
    }

    /// Foretells by these returns, of which the service was watched since `since`.
    pub(super) fn fit(
        &mut self,
        returns: impl DoubleEndedIterator<Item = Moment>,
        since: Moment,
        terms: &Terms,
    ) {
        let clock = |at| self.kind.clock(at);
        let times: Vec<i64> = returns.map(clock).collect();
        let Some((period, most)) = self.kind.period() else {
            let intervals = times.windows(2).map(|pair| pair[1] - pair[0]);
            let intervals: Vec<i64> = intervals.rev().take(INTERVALS).collect();
            self.windows[0] = fit::intervals(&intervals, terms);
            return;
        };
        let (Some(now), since) = (times.last().copied(), clock(since)) else {
            return;
        };
        self.origin = fit::origin(&times, period);
        let last = (now - self.origin).div_euclid(period);
        let first = (since - self.origin).div_euclid(period);
        let first = first.max(last + 1 - most as i64);
        let mut periods: [Vec<fit::Period>; 2] = Default::default();
        for number in first..=last {
            let begin = self.origin + number * period;
            let own = times.iter().map(|at| at - begin);
            periods[self.class(begin)].push(fit::Period {
                returns: own.filter(|at| (0..period).contains(at)).collect(),
                known: (since - begin).max(0)..(now - begin).min(period),
            });
        }
        self.windows = periods.map(|periods| fit::periods(periods, terms));
    }

    /// Sets the next window after a return.
    pub(super) fn expect(&mut self, at: Moment) {
        let at = self.kind.clock(at);
        self.next = match self.kind.period() {
            None => self.windows[0].first().map(|window| shifted(window, at)),
            // It was the client of a window that is open.
            Some(_) => self.first(at, |window| window.opens > at),
        };
    }

    /// The next window that is not over.
    fn after(&self, at: i64) -> Option<Window> {
        self.first(at, |window| window.closes > at)
    }

    /// The first such window of the period of a moment or the next ones.
    fn first(&self, at: i64, is_such: impl Fn(&Window) -> bool) -> Option<Window> {
        let (period, _) = self.kind.period()?;
        let number = (at - self.origin).div_euclid(period);
        // A week has both kinds of days.
        (number..=number + 7).find_map(|number| {
            let begin = self.origin + number * period;
            let windows = self.windows[self.class(begin)].iter();
            let windows = windows.map(|window| shifted(window, begin));
            windows.filter(&is_such).min_by_key(|window| window.opens)
        })
    }

    /// Which windows a period has: by the day that its middle is in.
    fn class(&self, begin: i64) -> usize {
        // 1970-01-01 was a Thursday.
        let day = ((begin + DAY / 2).div_euclid(DAY) + 3).rem_euclid(7);
        usize::from(self.kind == Kind::Workday && day >= 5)
    }
}

fn shifted(window: &Window, by: i64) -> Window {
    Window {
        opens: window.opens + by,
        closes: window.closes + by,
    }
}

/// What it costs to be up in a window until a moment; the service would be down since `down`.
fn cost(window: Window, down: i64, until: i64, terms: &Terms) -> f64 {
    // It is still up when the window begins, and there is no start.
    let start = if down < window.opens {
        terms.start()
    } else {
        0.0
    };
    start + (until - window.opens.max(down)).max(0) as f64
}
