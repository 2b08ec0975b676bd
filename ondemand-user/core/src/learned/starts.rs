//! How long a service usually takes to start.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many of the last starts are kept: an odd number, and few enough to follow a new version of the application.
const KEPT: usize = 9;

/// The last starts of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// Milliseconds; the oldest first.
    took: Vec<u32>,
}

impl Starts {
    /// Adds a start.
    pub fn add(&mut self, took: Duration) {
        if self.took.len() >= KEPT {
            self.took.drain(..=self.took.len() - KEPT);
        }
        self.took
            .push(u32::try_from(took.as_millis()).unwrap_or(u32::MAX));
    }

    /// The median. `None`: no start is known.
    pub fn usual(&self) -> Option<Duration> {
        let mut took = self.took.clone();
        took.sort_unstable();
        let median = took.get(took.len() / 2)?;
        Some(Duration::from_millis(u64::from(*median)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_start_is_not_the_usual_one() {
        let mut starts = Starts::default();
        assert_eq!(starts.usual(), None);
        let add = |starts: &mut Starts, took: &[u64]| {
            for took in took {
                starts.add(Duration::from_millis(*took));
            }
            starts.usual().unwrap().as_millis()
        };
        assert_eq!(add(&mut starts, &[200]), 200);
        assert_eq!(add(&mut starts, &[210, 90_000]), 210);
        assert_eq!(add(&mut starts, &[1000; 20]), 1000);
        assert_eq!(starts.took.len(), KEPT);
        assert_eq!(add(&mut starts, &[u64::MAX; 9]), u128::from(u32::MAX));
    }
}
