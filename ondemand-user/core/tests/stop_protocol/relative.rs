//! Numbers whose distance from the present alone matters. This makes the state space finite
//! although a clock runs in it, and small although counters only increase: two states that differ only
//! in their moment, and in what was counted long before, are the same.

use std::hash::Hasher;

use ondemand_core::measure::Ktime;

use crate::state::State;

// The start of each kind of number. The kinds are distinguished by their size.
/// The starts of the backend.
pub const RUN: u64 = 1 << 40;
/// Connections at the front socket, and the proxy's own.
pub const FRONT: u64 = 1 << 41;
/// Connections that were steered.
pub const STEERED: u64 = 1 << 42;
/// The sum of the two.
const BOTH: u64 = FRONT + STEERED;
/// Beginnings and ends of connections.
pub const USES: u64 = 1 << 43;
/// How many there are of each kind but time.
const SPAN: u64 = 1 << 20;
/// Points of time, in nanoseconds.
const TIME: u64 = 1 << 49;
/// The start of the model.
pub const BEGIN: Ktime = Ktime::from_nanos(2 * TIME);

/// A millisecond, in nanoseconds.
const MS: u32 = 1_000_000;
/// From this age on, points of time are equally old: all ages that policy and protocol compare
/// with are shorter.
const OLD: u64 = 2_010_000_000;
/// A number of no kind is small, or the length of a quiet time in seconds, which is for the log.
const LONG: u64 = 100;

/// Hashes such numbers as their distance from the present, and all others as they are.
pub struct Relative<'a, H> {
    hasher: &'a mut H,
    now: u64,
    /// The present number of each other kind.
    present: [u64; 5],
}

impl<'a, H: Hasher> Relative<'a, H> {
    pub fn new(hasher: &'a mut H, state: &State) -> Self {
        let kernel = &state.kernel;
        let both = kernel.front.accepted + kernel.steered.accepted;
        Self {
            hasher,
            now: state.now.as_nanos(),
            present: [
                state.pid1.run.as_nanos(),
                kernel.front.accepted,
                kernel.steered.accepted,
                both,
                kernel.uses,
            ],
        }
    }
}

impl<H: Hasher> Hasher for Relative<'_, H> {
    fn finish(&self) -> u64 {
        self.hasher.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    /// The part of a second in a `Duration`: less than a millisecond counts as no time. Or a count.
    fn write_u32(&mut self, number: u32) {
        let rounded = if number < MS { number } else { number / MS };
        self.hasher.write_u32(rounded);
    }

    fn write_u64(&mut self, number: u64) {
        let distance = if number >= TIME {
            // Future moments have the largest distances.
            match self.now.checked_sub(number) {
                Some(age) => age.min(OLD),
                None => self.now.wrapping_sub(number),
            }
        } else {
            let is_of = |begin: u64| number.checked_sub(begin).is_some_and(|n| n < SPAN);
            let kinds = [RUN, FRONT, STEERED, BOTH, USES].into_iter();
            let mut kinds = kinds.zip(self.present);
            match kinds.find(|(begin, _)| is_of(*begin)) {
                Some((begin, present)) => begin + present - number,
                None => number.min(LONG),
            }
        };
        self.hasher.write_u64(distance);
    }
}

/// Determines whether there is any point of time that is not past and old.
pub struct Times {
    now: u64,
    can_age: bool,
}

impl Times {
    pub fn new(now: Ktime) -> Self {
        Self {
            now: now.as_nanos(),
            can_age: false,
        }
    }

    pub fn can_age(&self) -> bool {
        self.can_age
    }
}

/// It is a hasher because a hasher gets every number of a state.
impl Hasher for Times {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.can_age |= number >= TIME && number + OLD > self.now;
    }
}
