//! Numbers of which only the distance from the present matters. That makes the state space finite
//! although a clock runs in it, and small although counters only grow: two states that differ by no
//! more than when they are, and by what was counted long before, are one.

use std::hash::Hasher;

use ondemand_core::measure::Ktime;

use crate::state::State;

// Where each kind of number begins. The kinds are told apart by their size.
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
/// When the model begins.
pub const BEGIN: Ktime = Ktime::from_nanos(2 * TIME);

/// A millisecond, in nanoseconds.
const MS: u32 = 1_000_000;
/// From this age on a point of time is as old as any: all ages that policy and protocol compare
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

    /// The part of a second in a `Duration`: less than a millisecond of it is no time. Or a count.
    fn write_u32(&mut self, number: u32) {
        let rounded = if number < MS { number } else { number / MS };
        self.hasher.write_u32(rounded);
    }

    fn write_u64(&mut self, number: u64) {
        let distance = if number >= TIME {
            // What is to come has the largest distances.
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

/// Finds out whether there is any point of time that is not past and old.
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

/// It is fed as a hasher because that is how it gets to see every number of a state.
impl Hasher for Times {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.can_age |= number >= TIME && number + OLD > self.now;
    }
}
