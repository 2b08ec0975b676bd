//! A recorded trace, of any origin.

use ondemand_core::{config::Learning, replay::Timeouts};

use crate::commands::report::trace::replay;

/// A trace is replayed, and its figures are consistent; or a message names the line.
pub fn trace(data: &[u8]) {
    let timeouts = Timeouts::default();
    let trace = match replay(data, "trace", &timeouts, Learning::default().terms(None)) {
        Ok(trace) => trace,
        Err(error) => {
            let shown = format!("{error:#}");
            assert!(shown.starts_with("trace"), "{shown:?}");
            assert!(!shown.contains(char::is_control), "{shown:?}");
            return;
        }
    };
    assert!(trace.span.0 <= trace.span.1);
    assert!(!trace.services.is_empty());
    for service in &trace.services {
        let arrivals: u64 = service.week.iter().copied().map(u64::from).sum();
        assert_eq!(arrivals, service.replay.arrivals());
        let learned = service.trial.outcome();
        assert!(learned.cost >= learned.optimum);
        assert!(service.trial.learned().is_sound());
        let outcomes = service.replay.outcomes(&timeouts);
        for (shorter, longer) in outcomes.iter().zip(&outcomes[1..]) {
            assert!(shorter.cold_starts >= longer.cold_starts);
            assert!(shorter.warm_idle <= longer.warm_idle);
        }
    }
}
