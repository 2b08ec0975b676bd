//! What an idle service is worth: GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with
//! Greedy-Dual-Size-Frequency Caching Policy", HPL-98-69, 1998), as FaasCache has it for applications that are kept
//! warm (Fuerst and Sharma, ASPLOS 2021): `clock + uses * cost / memory`. The clock is the worth of what went last, so
//! what was worth much and is not used any more goes in the end.
//!
//! The cost is the time of a cold start and two seconds more. By the time alone what starts quickly goes ever again: that has the
//! least seconds of waiting, and where much fits more cold starts than LRU; by their number alone the slow ones go
//! (ondemand-user/tests/room_reference.rs).

use std::time::Duration;

/// A MiB: services without memory that is known are worth as if they had one.
const MIB: f64 = 1_048_576.0;
/// What a cold start costs however short it is. Seconds.
const EACH_START: f64 = 2.0;

/// The use of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worth {
    /// Its uses since it is up.
    pub uses: u32,
    /// The clock at the last of them.
    clock: f64,
}

impl Worth {
    /// By which services are compared: the lowest one goes first. `cold_start`: how long the next client would wait, if it
    /// were down; `memory`: what it takes, in bytes, if known.
    pub fn value(&self, cold_start: Duration, memory: Option<u64>) -> f64 {
        let size = memory.map_or(1.0, |bytes| (bytes as f64 / MIB).max(1.0));
        self.clock + f64::from(self.uses) * (cold_start.as_secs_f64() + EACH_START) / size
    }
}

/// The clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GreedyDual {
    clock: f64,
}

impl GreedyDual {
    /// A service is used.
    pub fn used(&self, worth: &mut Worth) {
        worth.uses = worth.uses.saturating_add(1);
        worth.clock = self.clock;
    }

    /// A service of this value went to make room: its use is forgotten, and what is worth less than it is old.
    pub fn evicted(&mut self, worth: &mut Worth, value: f64) {
        self.clock = self.clock.max(value);
        *worth = Worth::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn small_often_used_and_slow_ones_are_worth_more() {
        let clock = GreedyDual::default();
        let worth = |uses: u32, seconds: u32, mib: u64| {
            let mut worth = Worth::default();
            for _ in 0..uses {
                clock.used(&mut worth);
            }
            worth.value(SECOND * seconds, Some(mib << 20))
        };
        assert!(worth(1, 1, 100) > worth(1, 1, 200));
        assert!(worth(1, 2, 100) > worth(1, 1, 100));
        assert!(worth(2, 1, 100) > worth(1, 1, 100));
    }

    #[test]
    fn what_is_not_used_any_more_goes_in_the_end() {
        let mut clock = GreedyDual::default();
        let mut old = Worth::default();
        for _ in 0..10 {
            clock.used(&mut old);
        }
        for _ in 0..=10 {
            let mut other = Worth::default();
            clock.used(&mut other);
            let value = |worth: &Worth| worth.value(SECOND, Some(1 << 20));
            if value(&other) > value(&old) {
                return;
            }
            let least = value(&other);
            clock.evicted(&mut other, least);
            assert_eq!(other, Worth::default());
        }
        panic!("{clock:?} {old:?}");
    }
}
