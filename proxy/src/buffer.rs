//! Buffers of one size from a pool of the thread: a connection holds one only while it has bytes to hold.
//!
//! In: bytes read from a socket. Out: the part not yet consumed. A buffer goes back to the pool when dropped.

use std::cell::RefCell;

/// Bytes in a pooled buffer.
pub(crate) const SIZE: usize = 32 * 1024;
/// Buffers a thread keeps for later.
const KEEP: usize = 128;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static HEADS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A fixed array with a filled, unconsumed part.
#[derive(Debug)]
pub(crate) struct Buf {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buf {
    /// An empty one.
    pub(crate) fn take() -> Self {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        let bytes = pooled.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
        Self { bytes, start: 0, end: 0 }
    }

    /// What was read and not consumed.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room for the next read; rewinds first when nothing is held.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes of [`Self::space`] were filled.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// `count` bytes of [`Self::data`] are done with.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Makes room by moving the data to the front, and when that gives none, by growing to at most `limit` bytes.
    pub(crate) fn make_room(&mut self, limit: usize) {
        if self.end < self.bytes.len() {
            return;
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else if self.bytes.len() < limit {
            let mut larger = vec![0; limit].into_boxed_slice();
            larger[..self.end].copy_from_slice(&self.bytes);
            self.bytes = larger;
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() == SIZE {
            // A thread that is ending has no pool any more: the memory is simply freed.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEEP {
                    pool.push(bytes);
                }
            });
        }
    }
}

/// A growable head under construction, from the thread's pool.
#[derive(Debug, Default)]
pub(crate) struct Head(pub(crate) Vec<u8>);

impl Head {
    pub(crate) fn take() -> Self {
        let pooled = HEADS.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        Self(pooled.unwrap_or_else(|| Vec::with_capacity(4096)))
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() > 0 && bytes.capacity() <= SIZE {
            bytes.clear();
            let _ = HEADS.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEEP {
                    pool.push(bytes);
                }
            });
        }
    }
}
