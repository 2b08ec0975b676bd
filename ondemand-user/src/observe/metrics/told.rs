//! Counters that the agent keeps since its start, as sums that outlive it: what was told once never decreases.

use std::time::Duration;

use ondemand_core::{caught::Loss, learned::Kind};
use serde::{Deserialize, Serialize};

use super::observation::Observation;

/// Sums of one service. In whole numbers, which are read as they were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    held_to_application: u64,
    held_to_front: u64,
    held_gave_up: u64,
    held: Duration,
    datagrams_held: u64,
    datagrams_lost: [u64; Loss::ALL.len()],
    gap_reasons: [u64; Kind::ALL.len()],
    gap_cost_fixed: Duration,
    gap_cost_learned: Duration,
    #[serde(default)]
    prewarms: [u64; 2],
    #[serde(default)]
    freezes: u64,
    #[serde(default)]
    evictions: [u64; 2],
    #[serde(default)]
    room_waits: u64,
    #[serde(default)]
    room_waited: Duration,
}

impl Told {
    /// What the agent has counted since its start.
    pub fn of(observation: &Observation) -> Self {
        let (held, learned) = (&observation.held, &observation.learned.1);
        let datagrams = observation.datagrams.unwrap_or_default();
        let room = observation.room.unwrap_or_default();
        Self {
            datagrams_held: datagrams.sent,
            datagrams_lost: datagrams.lost,
            held_to_application: held.to_application,
            held_to_front: held.to_front,
            held_gave_up: held.gave_up,
            held: held.held,
            gap_reasons: learned.reasons,
            gap_cost_fixed: seconds(learned.fixed_cost),
            gap_cost_learned: seconds(learned.learned_cost),
            prewarms: observation.prewarms,
            freezes: observation.frozen.2,
            evictions: [room.for_group, room.for_memory],
            room_waits: room.waits,
            room_waited: room.waited,
        }
    }

    /// Adds what has been counted since `before`. A smaller number was counted from zero on. Returns whether it is more
    /// now.
    pub fn add(&mut self, counted: &Self, before: &Self) -> bool {
        let whole = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let part = |now: Duration, before: Duration| now.checked_sub(before).unwrap_or(now);
        let was = *self;
        self.held_to_application += whole(counted.held_to_application, before.held_to_application);
        self.held_to_front += whole(counted.held_to_front, before.held_to_front);
        self.held_gave_up += whole(counted.held_gave_up, before.held_gave_up);
        self.held += part(counted.held, before.held);
        self.datagrams_held += whole(counted.datagrams_held, before.datagrams_held);
        let losses = counted.datagrams_lost.iter().zip(&before.datagrams_lost);
        for (sum, (now, before)) in self.datagrams_lost.iter_mut().zip(losses) {
            *sum += whole(*now, *before);
        }
        let reasons = counted.gap_reasons.iter().zip(&before.gap_reasons);
        for (sum, (now, before)) in self.gap_reasons.iter_mut().zip(reasons) {
            *sum += whole(*now, *before);
        }
        let prewarms = counted.prewarms.iter().zip(&before.prewarms);
        for (sum, (now, before)) in self.prewarms.iter_mut().zip(prewarms) {
            *sum += whole(*now, *before);
        }
        let evictions = counted.evictions.iter().zip(&before.evictions);
        for (sum, (now, before)) in self.evictions.iter_mut().zip(evictions) {
            *sum += whole(*now, *before);
        }
        self.room_waits += whole(counted.room_waits, before.room_waits);
        self.room_waited += part(counted.room_waited, before.room_waited);
        self.freezes += whole(counted.freezes, before.freezes);
        self.gap_cost_fixed += part(counted.gap_cost_fixed, before.gap_cost_fixed);
        self.gap_cost_learned += part(counted.gap_cost_learned, before.gap_cost_learned);
        *self != was
    }

    /// Puts the sums in the place of what the agent has counted.
    pub fn show(&self, observation: &mut Observation) {
        observation.prewarms = self.prewarms;
        observation.frozen.2 = self.freezes;
        if let Some(room) = &mut observation.room {
            [room.for_group, room.for_memory] = self.evictions;
            (room.waits, room.waited) = (self.room_waits, self.room_waited);
        }
        let (held, learned) = (&mut observation.held, &mut observation.learned.1);
        held.to_application = self.held_to_application;
        held.to_front = self.held_to_front;
        held.gave_up = self.held_gave_up;
        held.held = self.held;
        if let Some(datagrams) = &mut observation.datagrams {
            datagrams.sent = self.datagrams_held;
            datagrams.lost = self.datagrams_lost;
        }
        learned.reasons = self.gap_reasons;
        learned.fixed_cost = self.gap_cost_fixed.as_secs_f64();
        learned.learned_cost = self.gap_cost_learned.as_secs_f64();
    }
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_outlive_who_counts() {
        let counted = |clients, cost| Told {
            held_to_application: clients,
            gap_reasons: [clients, 0, 0, 0],
            gap_cost_fixed: seconds(cost),
            ..Told::default()
        };
        let mut sum = Told::default();
        assert!(sum.add(&counted(3, 1.5), &Told::default()));
        assert!(!sum.add(&counted(3, 1.5), &counted(3, 1.5)));
        assert!(sum.add(&counted(5, 1.5), &counted(3, 1.5)));
        assert_eq!(sum, counted(5, 1.5));
        // The next agent counts from zero on.
        assert!(sum.add(&counted(1, 0.5), &counted(5, 1.5)));
        assert_eq!(sum, counted(6, 2.0));
    }
}
