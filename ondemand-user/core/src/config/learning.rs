//! `idle_timeout`, and what a learned one needs: a cold start's cost, and bounds.

use std::time::Duration;

use super::{
    error::Problem,
    parse::span,
    table::{Section, Value},
};
use crate::learned::{DEFAULT_COST, SHORTEST, Terms};

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Below this, the kernel's time stamps (one scheduler tick) and a cold start dominate.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// Without `idle_timeout_max`: the longest that is learned.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// What a cold start may cost. A service whose start costs less is not worth a stop's work; one that costs more is
/// not worth a stop.
const COSTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
/// How many times as long as a start takes. Thousandths.
const MOST_STARTS: u32 = 1_000_000_000;

const COST_EXAMPLE: &str = "\"5min\", or \"10x\" for ten times as long as its start takes";

/// When a service is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleTimeout {
    /// Quiet for this duration.
    After(Duration),
    /// Never.
    Never,
    /// Quiet for a duration that is learned from it.
    Learned,
}

impl IdleTimeout {
    /// The timeout, where `learned` is the learned one. `None`: never idle.
    pub fn or(self, learned: Duration) -> Option<Duration> {
        match self {
            Self::After(timeout) => Some(timeout),
            Self::Never => None,
            Self::Learned => Some(learned),
        }
    }
}

/// What a cold start costs: how long to be up and idle is as bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColdStartCost {
    /// This long.
    Span(Duration),
    /// So many times as long as a start takes, in thousandths.
    Starts(u32),
}

impl Default for ColdStartCost {
    fn default() -> Self {
        Self::Span(DEFAULT_COST)
    }
}

/// What the learned timeout rests on besides the gaps. It is learned even if another one is in force, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learning {
    /// What a cold start costs.
    pub cold_start_cost: ColdStartCost,
    /// The shortest timeout.
    pub shortest: Duration,
    /// The longest, not shorter than that.
    pub longest: Duration,
}

impl Default for Learning {
    fn default() -> Self {
        Self {
            cold_start_cost: ColdStartCost::default(),
            shortest: SHORTEST,
            longest: LONGEST,
        }
    }
}

impl Learning {
    /// For a service whose start usually takes so long; `None`: unknown, so a cold start costs what it costs without
    /// `cold_start_cost`.
    pub fn terms(&self, usual_start: Option<Duration>) -> Terms {
        let cost = match self.cold_start_cost {
            ColdStartCost::Span(cost) => cost,
            ColdStartCost::Starts(thousandths) => usual_start.map_or(DEFAULT_COST, |start| {
                let times = f64::from(thousandths) / 1e3;
                let cost = Duration::try_from_secs_f64(start.as_secs_f64() * times);
                cost.unwrap_or(*COSTS.end())
                    .clamp(*COSTS.start(), *COSTS.end())
            }),
        };
        Terms::new(cost, self.shortest, self.longest)
    }

    /// Reads the keys of a service; `cost` is that of `[agent]`.
    pub(super) fn read(
        section: &mut Section<'_>,
        cost: ColdStartCost,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let mut keep = |result: Result<Option<Duration>, Problem>| {
            result.map_err(|problem| problems.push(problem)).ok()
        };
        let bound = |value: &Value<'_>| {
            match span(value)? {
            Some(bound) if bound < SHORTEST => Err(value.place.problem(format!(
                "a learned idle timeout is never shorter than {} s; write that or more, or a fixed idle_timeout",
                SHORTEST.as_secs()
            ))),
            bound => Ok(bound),
        }
        };
        let (shortest, longest) = (
            section.take("idle_timeout_min"),
            section.take("idle_timeout_max"),
        );
        let shortest = match &shortest {
            None => Some(SHORTEST),
            Some(value) => keep(bound(value).and_then(|bound| {
                let infinite = "cannot be infinite; for a service that is never stopped write idle_timeout = \"infinity\"";
                bound.ok_or_else(|| value.place.problem(infinite)).map(Some)
            }))
            .flatten(),
        };
        let longest = match &longest {
            None => Some((LONGEST.max(shortest.unwrap_or(LONGEST)), None)),
            Some(value) => {
                let bound = keep(bound(value));
                bound.map(|bound| (bound.unwrap_or(Duration::MAX), Some(&value.place)))
            }
        };
        let cold_start_cost = read_cost(section.take("cold_start_cost").as_ref(), cost, problems);
        let (shortest, (longest, place)) = (shortest?, longest?);
        if let Some(place) = place.filter(|_| longest < shortest) {
            problems.push(place.problem(format!(
                "is less than idle_timeout_min, {}: no timeout is between them; raise this one or lower that",
                crate::words::Span(shortest)
            )));
            return None;
        }
        Some(Self {
            cold_start_cost: cold_start_cost?,
            shortest,
            longest,
        })
    }
}

/// Reads `idle_timeout`.
pub(super) fn idle_timeout(value: Option<&Value<'_>>) -> Result<IdleTimeout, Problem> {
    let Some(value) = value else {
        return Ok(IdleTimeout::After(DEFAULT_IDLE_TIMEOUT));
    };
    if matches!(
        value.string_or_integer("\"10min\", \"auto\" or 90 (seconds)"),
        Ok("auto")
    ) {
        return Ok(IdleTimeout::Learned);
    }
    match span(value)? {
        None => Ok(IdleTimeout::Never),
        Some(Duration::ZERO) => Err(value.place.problem(
            "0 would stop the service immediately after each start; write a time span such as \"10min\", or \"infinity\" to never stop it",
        )),
        Some(span) if span < MIN_IDLE_TIMEOUT => Err(value.place.problem(format!(
            "{span:?} is too short to tell idle from busy; the minimum is \"{}ms\"",
            MIN_IDLE_TIMEOUT.as_millis()
        ))),
        Some(span) => Ok(IdleTimeout::After(span)),
    }
}

/// Reads `prewarm`.
pub(super) fn prewarm(
    value: Option<&Value<'_>>,
    idle_timeout: Option<IdleTimeout>,
) -> Result<bool, Problem> {
    let Some(value) = value else {
        return Ok(false);
    };
    let prewarm = value.boolean()?;
    if prewarm && idle_timeout == Some(IdleTimeout::Never) {
        return Err(value.place.problem(
            "a service that is never stopped (idle_timeout = \"infinity\") is up before its clients; remove this key, or \
             write another idle_timeout",
        ));
    }
    Ok(prewarm)
}

/// Reads `cold_start_cost`, of a service or of `[agent]`.
pub(super) fn read_cost(
    value: Option<&Value<'_>>,
    default: ColdStartCost,
    problems: &mut Vec<Problem>,
) -> Option<ColdStartCost> {
    let Some(value) = value else {
        return Some(default);
    };
    let read = || {
        let text = value.string_or_integer(COST_EXAMPLE)?;
        if let Some(times) = text.trim().strip_suffix('x') {
            return match thousandths(times.trim_end()) {
                Some(times) => Ok(ColdStartCost::Starts(times)),
                None => Err(value.place.problem(format!(
                    "{text:?} is not a number of starts above 0; write it like {COST_EXAMPLE}"
                ))),
            };
        }
        match span(value)? {
            Some(cost) if COSTS.contains(&cost) => Ok(ColdStartCost::Span(cost)),
            Some(cost) if cost < *COSTS.start() => Err(value.place.problem(format!(
                "{text:?} is too little: at least \"1s\"; write it like {COST_EXAMPLE}"
            ))),
            _ => Err(value.place.problem(format!(
                "{text:?} is more than a year: for a service that is never stopped write idle_timeout = \"infinity\""
            ))),
        }
    };
    read().map_err(|problem| problems.push(problem)).ok()
}

/// Parses a decimal number above 0 to thousandths.
fn thousandths(text: &str) -> Option<u32> {
    let is_plain = |c: char| c.is_ascii_digit() || c == '.';
    if text.is_empty() || !text.chars().all(is_plain) {
        return None;
    }
    let thousandths = (text.parse::<f64>().ok()? * 1e3).round();
    (1.0..=f64::from(MOST_STARTS))
        .contains(&thousandths)
        .then_some(thousandths as u32)
}
