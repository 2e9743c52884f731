//! What a container's writable layer takes, for file systems without project quotas.
//!
//! In: a directory. Out: bytes. Counted now and then, less often the longer it takes, so that the limit costs little.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Counted again after this at the earliest.
const MIN_PAUSE: Duration = Duration::from_secs(2);
/// Counted again after this at the latest while nothing changes.
const IDLE_PAUSE: Duration = Duration::from_secs(8);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Counting takes at most this part of one CPU.
const SHARE: u32 = 50;
/// What an entry takes besides its blocks (inode and name), so that empty files are not free.
const PER_ENTRY: u64 = 512;

/// Counts one layer.
pub(crate) struct Usage {
    pub(crate) next: Instant,
    pub(crate) bytes: u64,
    pause: Duration,
}

impl Usage {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now() + MIN_PAUSE, bytes: 0, pause: MIN_PAUSE }
    }

    /// Counts, and sets when to count next. Stops counting at `limit`: more does not matter.
    pub(crate) fn count(&mut self, layer: &Path, limit: u64) {
        let begun = Instant::now();
        let bytes = size(layer, limit);
        let rests = bytes == self.bytes;
        self.bytes = bytes;
        self.pause = if rests { (self.pause * 2).min(IDLE_PAUSE) } else { MIN_PAUSE };
        self.pause = self.pause.max(begun.elapsed() * SHARE).min(MAX_PAUSE);
        self.next = Instant::now() + self.pause;
    }
}

fn size(layer: &Path, limit: u64) -> u64 {
    let mut total = 0;
    let mut linked = HashSet::new();
    let mut left = vec![layer.to_owned()];
    while let Some(dir) = left.pop() {
        // The container is writing meanwhile: what vanishes is not counted.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            total += PER_ENTRY;
            if metadata.nlink() < 2 || metadata.is_dir() || linked.insert(metadata.ino()) {
                total += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                left.push(entry.path());
            }
            if total > limit {
                return total;
            }
        }
    }
    total
}
