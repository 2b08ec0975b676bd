//! Memory for the data of connections, which all of them share: what is read is in one of these buffers, and is
//! written before the next connection reads. The buffer goes with a connection only if its receiver does not take
//! all of it, and only a few do so at a time.

use std::{cell::RefCell, mem, ops::Range};

#[cfg(target_env = "gnu")]
use nix::libc;

/// The size of a buffer, in bytes. A download ran at 586 MB/s with 32 KiB, 702 with 128 and 770 with 256
/// (medians of 4).
pub const LARGEST: usize = 256 * 1024;
/// How many connections may keep one: a receiver that is a little slower than the sender keeps and returns it all
/// the time. The data of more of them stays in the kernel ([`super::one_way`]).
const MOST_KEPT: usize = 16;
/// How many are held ready.
const SPARE: usize = 4;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

#[derive(Default)]
struct Pool {
    spare: Vec<Vec<u8>>,
    /// The number of those that connections keep.
    kept: usize,
}

/// Lets the allocator ask the kernel for each buffer alone, and return it alone. glibc would raise the limit
/// when the first one is returned (mallopt(3), `M_MMAP_THRESHOLD`), and their memory would stay with the process.
pub fn begin() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes a number of the allocator's. A refusal costs memory only.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Whether a connection may keep a buffer now.
pub fn may_be_kept() -> bool {
    POOL.with_borrow(|pool| pool.kept < MOST_KEPT)
}

/// A buffer of [`LARGEST`] bytes. Pages that nothing was read into take no memory.
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// One for a read.
    pub fn take() -> Self {
        let spare = POOL.with_borrow_mut(|pool| pool.spare.pop());
        Self(spare.unwrap_or_else(|| vec![0; LARGEST]))
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Keeps it, for a part of its bytes.
    pub fn keep(self, part: Range<usize>) -> Kept {
        POOL.with_borrow_mut(|pool| pool.kept += 1);
        Kept { buffer: self, part }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = mem::take(&mut self.0);
        POOL.with_borrow_mut(|pool| {
            if pool.spare.len() < SPARE {
                pool.spare.push(bytes);
            }
        });
    }
}

/// A buffer that a connection keeps.
pub struct Kept {
    buffer: Buffer,
    part: Range<usize>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.0[self.part.clone()]
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        POOL.with_borrow_mut(|pool| pool.kept -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_and_fewer_are_held_ready() {
        let mut kept = Vec::new();
        while may_be_kept() {
            kept.push(Buffer::take().keep(10..30));
        }
        assert_eq!(kept.len(), MOST_KEPT);
        assert_eq!(kept[0].as_ref().len(), 20);
        drop(kept.pop());
        assert!(may_be_kept());
        drop(kept);
        POOL.with_borrow(|pool| assert_eq!((pool.kept, pool.spare.len()), (0, SPARE)));
        assert_eq!(Buffer::take().bytes().len(), LARGEST);
    }
}
