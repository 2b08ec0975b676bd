//! When to return memory to the kernel: not with each connection that ends, since that costs milliseconds, but
//! whenever half of what there was is gone.

#[cfg(target_env = "gnu")]
use nix::libc;
use tokio::time::Instant;

use super::seldom::OnceASecond;

/// Fewer connections leave too little behind.
const WORTH_IT: usize = 64;
/// The memory of connections that have ended.
#[derive(Default)]
pub struct Memory {
    /// The most connections since the last return.
    most: usize,
    returns: OnceASecond,
    /// When to return it.
    due: Option<Instant>,
}

impl Memory {
    /// There are this many connections now.
    pub fn follow(&mut self, connections: usize, now: Instant) {
        self.most = self.most.max(connections);
        if self.most >= WORTH_IT && connections <= self.most / 2 {
            self.most = connections;
            self.due.get_or_insert(self.returns.earliest(now));
        }
    }

    /// When it is to be returned. `None`: there is nothing to return.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns it. The allocator itself returns the end of its heap only, and not what lies between two parts
    /// in use.
    pub fn give_back(&mut self, now: Instant) {
        #[cfg(target_env = "gnu")]
        // SAFETY: it may be called at any time (malloc_trim(3)).
        unsafe {
            libc::malloc_trim(0);
        }
        self.due = None;
        self.returns.done(now);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::seldom::APART as PAUSE, *};

    #[test]
    fn it_is_returned_when_half_of_the_connections_are_gone() {
        let start = Instant::now();
        let mut memory = Memory::default();
        for connections in (1..=1000).chain((501..1000).rev()) {
            memory.follow(connections, start);
            assert_eq!(memory.due(), None, "{connections}");
        }
        memory.follow(500, start);
        assert_eq!(memory.due(), Some(start));
        memory.give_back(start);
        assert_eq!(memory.due(), None);
        // Not more than once a second.
        memory.follow(250, start + PAUSE / 4);
        assert_eq!(memory.due(), Some(start + PAUSE));
        memory.follow(0, start + PAUSE / 2);
        assert_eq!(memory.due(), Some(start + PAUSE));
        memory.give_back(start + PAUSE);
        memory.follow(WORTH_IT / 2, start + PAUSE);
        memory.follow(0, start + PAUSE);
        assert_eq!(memory.due(), None, "too few");
    }
}
