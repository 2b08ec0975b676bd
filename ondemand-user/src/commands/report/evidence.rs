//! What a recommendation rests on.

use std::fmt;

use ondemand_core::words::{Span, counted, span};
use serde::Serialize;

/// The gaps before which there is no recommendation: with fewer, one client more would change it.
const GAPS_NEEDED: u64 = 10;
/// The same of the time, in cold starts' cost: in a shorter time nothing that is compared differs by much more
/// than one cold start.
const COSTS_NEEDED: f64 = 10.0;

/// What there is to judge timeouts by, and how much of it a recommendation needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// Gaps between two uses.
    pub gaps: u64,
    /// See `gaps`.
    pub gaps_needed: u64,
    /// How long it was watched.
    pub seconds: f64,
    /// See `seconds`.
    pub seconds_needed: f64,
}

impl Evidence {
    /// Of these gaps and this number of seconds; `cost`: of a cold start, in seconds.
    pub fn new(gaps: u64, watched: f64, cost: f64) -> Self {
        Self {
            gaps,
            gaps_needed: GAPS_NEEDED,
            seconds: watched,
            seconds_needed: COSTS_NEEDED * cost,
        }
    }

    /// What is missing, in words. `None`: nothing.
    pub fn missing(&self) -> Option<String> {
        let gaps = self.gaps_needed.saturating_sub(self.gaps);
        let watched = self.seconds_needed - self.seconds;
        let gaps = (gaps > 0).then(|| {
            let seen = counted(self.gaps, "gap");
            format!("{seen} between clients, of {}", self.gaps_needed)
        });
        let watched = (watched > 0.0).then(|| {
            let [seen, needed] = [self.seconds, self.seconds_needed].map(|it| Span(span(it)));
            format!("{seen} watched, of {needed}")
        });
        let missing: Vec<String> = [gaps, watched].into_iter().flatten().collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }
}

/// `120 gaps between clients in 3 d 4 h`.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gaps = counted(self.gaps, "gap");
        write!(f, "{gaps} between clients in {}", Span(span(self.seconds)))
    }
}

#[cfg(test)]
mod tests {
    use ondemand_core::{
        learned::{Terms, Trial},
        replay::{Replay, Timeouts},
    };

    use super::super::model::Service;

    #[test]
    fn without_it_there_is_no_recommendation() {
        #[track_caller]
        fn check(gaps: u64, watched: f64, missing: Option<&str>) {
            let spans = [1, 60].map(std::time::Duration::from_secs);
            let timeouts = Timeouts::new(&spans).unwrap();
            let mut replay = Replay::new(&timeouts);
            let [cost, shortest, longest] = [600, 5, 3600].map(std::time::Duration::from_secs);
            let mut trial = Trial::new(Terms::new(cost, shortest, longest));
            replay.first();
            trial.first();
            for _ in 0..gaps {
                replay.gap(&timeouts, 30_000_000);
                trial.gap(30_000_000);
            }
            let cost = 600_000_000;
            let service = Service::new(
                "wiki",
                (&replay, &trial),
                &[0; 168],
                watched,
                &timeouts,
                cost,
            );
            assert_eq!(service.evidence.missing().as_deref(), missing);
            assert_eq!(service.recommended.is_some(), missing.is_none());
            let total = Service::total(&[service], cost);
            assert_eq!(total.recommended.is_some(), missing.is_none());
        }
        let all = "0 gaps between clients, of 10; 3 min watched, of 1 h 40 min";
        check(0, 180.0, Some(all));
        check(1, 1e6, Some("1 gap between clients, of 10"));
        check(10, 5_999.0, Some("1 h 39 min watched, of 1 h 40 min"));
        check(10, 6_000.0, None);
    }
}
