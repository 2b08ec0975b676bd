//! The windows that would have been worth most, by what is remembered.

use std::ops::Range;

use super::{Terms, Window};

/// Maximum number of windows in a period.
pub(super) const MOST: usize = 4;
/// Fewer returns in a window tell nothing.
const FEW: usize = 3;
/// What a cold start counts when a window is chosen, and not when it is judged: whoever wants a service to be up before
/// its clients has most of them in mind. Near the least cost the cost changes little.
const EAGER: f64 = 1.5;
/// Of more returns than this only some are tried as the first or the last one of a window.
const CHOICES: usize = 24;
/// A window is at least so much longer than what it was made for, at each end. Seconds.
const MARGIN: i64 = 15;

/// A period, by its returns. Seconds since its begin.
pub(super) struct Period {
    /// Ascending.
    pub returns: Vec<i64>,
    /// What was seen of it.
    pub known: Range<i64>,
}

/// Where periods are to begin, so that no window lies across: in the middle of the longest time without returns.
pub(super) fn origin(times: &[i64], period: i64) -> i64 {
    let mut phases: Vec<i64> = times.iter().map(|at| at.rem_euclid(period)).collect();
    phases.sort_unstable();
    let (Some(first), Some(last)) = (phases.first(), phases.last()) else {
        return 0;
    };
    let around = (first + period - last, *last);
    let inside = phases.windows(2).map(|pair| (pair[1] - pair[0], pair[0]));
    let (length, begin) = inside.chain([around]).max().unwrap_or(around);
    (begin + length / 2).rem_euclid(period)
}

/// The window after a return, by such intervals: at most one.
pub(super) fn intervals(intervals: &[i64], terms: &Terms) -> Vec<Window> {
    let mut sorted = intervals.to_vec();
    sorted.sort_unstable();
    let worth = |window: Window| {
        let mut sum = 0.0;
        for at in &sorted {
            // One that came before has ended the wait.
            if *at >= window.opens {
                sum += gain(window, Some(*at), terms);
            }
        }
        sum
    };
    best(&sorted, worth)
        .map(|(window, _)| window)
        .into_iter()
        .collect()
}

/// The windows of a period, by such periods.
pub(super) fn periods(mut periods: Vec<Period>, terms: &Terms) -> Vec<Window> {
    let mut chosen: Vec<Window> = Vec::new();
    while chosen.len() < MOST {
        let mut sorted: Vec<i64> = periods.iter().flat_map(|it| it.returns.clone()).collect();
        sorted.sort_unstable();
        let worth = |window: Window| {
            let overlaps =
                |other: &Window| other.opens < window.closes && window.opens < other.closes;
            if chosen.iter().any(overlaps) {
                return f64::NEG_INFINITY;
            }
            let mut sum = 0.0;
            for period in &periods {
                let mut inside = period.returns.iter().filter(|at| contains(window, **at));
                let first = inside.next().copied();
                let is_known =
                    period.known.start <= window.opens && window.closes <= period.known.end;
                if first.is_some() || is_known {
                    sum += gain(window, first, terms);
                }
            }
            sum
        };
        let Some((window, _)) = best(&sorted, worth) else {
            break;
        };
        for period in &mut periods {
            period.returns.retain(|at| !contains(window, *at));
        }
        chosen.push(window);
    }
    chosen.sort_unstable_by_key(|window| window.opens);
    chosen
}

/// The window around some neighbouring returns that is worth most, and what it is worth.
fn best(sorted: &[i64], worth: impl Fn(Window) -> f64) -> Option<(Window, f64)> {
    let mut best: Option<(Window, f64)> = None;
    let step = sorted.len().div_ceil(CHOICES).max(1);
    for (first, opens) in sorted.iter().enumerate().step_by(step) {
        let ends = sorted[first..].iter().enumerate().rev().step_by(step);
        for (number, closes) in ends.filter(|(number, _)| *number >= FEW - 1) {
            let margin = ((closes - opens) / number as i64).max(MARGIN);
            let window = Window {
                opens: (opens - margin).max(0),
                closes: closes + margin,
            };
            let gained = worth(window);
            if gained > best.map_or(0.0, |(_, gained)| gained) {
                best = Some((window, gained));
            }
        }
    }
    best
}

fn contains(window: Window, at: i64) -> bool {
    (window.opens..window.closes).contains(&at)
}

/// What a window saves, less what it costs, if a return is there.
fn gain(window: Window, at: Option<i64>, terms: &Terms) -> f64 {
    match at.filter(|at| contains(window, *at)) {
        Some(at) => EAGER * terms.cost() - terms.start() - (at - window.opens) as f64,
        None => -terms.start() - (window.closes - window.opens) as f64,
    }
}
