//! Pauses that are part of a test: the only place beside [`crate::wait`] where tests sleep.
//!
//! A test waits for an event with a deadline ([`crate::wait_for`]). A pause has one of these names,
//! which gives the reason why there is no event to wait for.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often [`observe_for`] looks.
const LOOK: Duration = Duration::from_millis(100);

/// The load's own pause between two things that it does: a client's think time, the pace of a scan.
pub fn think(span: Duration) {
    thread::sleep(span);
}

/// The load's own schedule: the next client arrives at this moment, at once if that is over.
pub fn arrive_at(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// Duration of a load from other threads.
pub fn load_for(span: Duration) {
    thread::sleep(span);
}

/// Time that the application under test takes by its options.
pub fn work_for(span: Duration) {
    thread::sleep(span);
}

/// A quiet period that the test is about: a gap between clients, a connection that is silent for
/// longer than the idle timeout, the span of a measurement.
pub fn idle_for(span: Duration) {
    thread::sleep(span);
}

/// Observes that something does not happen: `holds` panics as soon as it has. It is called at
/// once, all along, and once more when the span is over.
pub fn observe_for(span: Duration, mut holds: impl FnMut()) {
    let end = Instant::now() + span;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        holds();
        if left.is_zero() {
            return;
        }
        thread::sleep(LOOK.min(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_lasts_until_its_end() {
        let span = Duration::from_millis(250);
        let start = Instant::now();
        let mut looks = Vec::new();
        observe_for(span, || looks.push(start.elapsed()));
        assert!(looks.len() >= 3, "{looks:?}");
        assert!(looks.last() >= Some(&span), "{looks:?}");
    }

    #[test]
    #[should_panic(expected = "it happened")]
    fn what_happens_meanwhile_ends_it() {
        let mut looks = 0;
        observe_for(Duration::from_secs(3600), || {
            looks += 1;
            assert!(looks < 3, "it happened");
        });
    }
}
