//! Memory for the data of connections: taken when there is something to read, returned as soon as
//! it is written. A connection without data in transit has none.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use bytes::BytesMut;

/// The size of a connection's buffer at first, in bytes, and its size while the others hold [`BUDGET`].
pub const SMALLEST: usize = 8 * 1024;
/// The size that the buffer of a busy connection grows to. A download ran at 586 MB/s with 32 KiB, 702
/// with 128 and 770 with 256 (medians of 4).
pub const LARGEST: usize = 128 * 1024;
/// Maximum memory of all buffers before each gets the smallest size only: clients that do not read
/// their responses take this, and [`SMALLEST`] for each of them.
const BUDGET: usize = 32 * 1024 * 1024;
/// Number of largest buffers that are kept for the next reader, so that a download does not request
/// fresh pages from the kernel with each read.
const SPARE: usize = 8;

static HELD: AtomicUsize = AtomicUsize::new(0);
static SPARES: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// A buffer of a fixed capacity.
pub struct Buffer {
    /// The bytes that were read and are not written yet.
    pub bytes: BytesMut,
    size: usize,
}

impl Buffer {
    /// An empty buffer for `size` bytes or, if the others hold too much, for fewer.
    pub fn take(size: usize) -> Self {
        let held = HELD.load(Ordering::Relaxed);
        let size = if held + size > BUDGET { SMALLEST } else { size };
        HELD.fetch_add(size, Ordering::Relaxed);
        let spare = (size == LARGEST)
            .then(|| SPARES.lock().unwrap_or_else(PoisonError::into_inner).pop())
            .flatten();
        Self {
            bytes: spare.unwrap_or_else(|| BytesMut::with_capacity(size)),
            size,
        }
    }

    /// Its capacity when it is empty.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        HELD.fetch_sub(self.size, Ordering::Relaxed);
        if self.size == LARGEST {
            let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
            if spares.len() < SPARE {
                let mut bytes = std::mem::take(&mut self.bytes);
                bytes.clear();
                // Its capacity shrank by what was taken from its front.
                if bytes.try_reclaim(LARGEST) {
                    spares.push(bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_given_back() {
        let before = HELD.load(Ordering::Relaxed);
        let many: Vec<Buffer> = (0..BUDGET / LARGEST + 100)
            .map(|_| Buffer::take(LARGEST))
            .collect();
        assert_eq!(many[0].size(), LARGEST);
        assert_eq!(many.last().unwrap().size(), SMALLEST);
        drop(many);
        // Other tests carry connections meanwhile.
        assert!(HELD.load(Ordering::Relaxed) <= before + 16 * LARGEST);
        assert!(SPARES.lock().unwrap().len() <= SPARE);
        let spare = Buffer::take(LARGEST);
        assert!(spare.bytes.is_empty() && spare.bytes.capacity() >= LARGEST);
    }
}
