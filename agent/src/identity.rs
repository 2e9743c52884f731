//! Which user ids of the node an app's containers have.
//!
//! In: an app's name. Out: the first of 65,536 ids that no other app has, the same for all its containers and for ever.

use crate::files::{self, Durability};
use berth_model::AppName;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

/// Ids of one app.
pub const COUNT: u32 = 65_536;
/// Above what login tools, Docker's and systemd's own ranges use.
const FIRST: u32 = 0x7000_0000;
/// As many as fit below 2^32 - 2^28.
const SLOTS: u32 = 0x8000;

/// The book of user ids.
#[derive(Debug)]
pub struct Identities {
    path: PathBuf,
    slots: Mutex<BTreeMap<AppName, u32>>,
}

impl Identities {
    /// Reads the book at `path`.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let slots = files::load(&path)?.unwrap_or_default();
        Ok(Self { path, slots: Mutex::new(slots) })
    }

    /// The first id of `app`.
    pub fn base(&self, app: &AppName) -> io::Result<u32> {
        let mut slots = self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = slots.get(app) {
            return Ok(FIRST + slot * COUNT);
        }
        let slot = slots.values().max().map_or(0, |slot| slot + 1);
        if slot >= SLOTS {
            return Err(io::Error::other(format!("all {SLOTS} ranges of user ids of this node are in use")));
        }
        // Synced: files on disk carry these ids.
        let mut next = slots.clone();
        next.insert(app.clone(), slot);
        files::store(&self.path, &next, Durability::Sync)?;
        *slots = next;
        Ok(FIRST + slot * COUNT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_never_share_ids_and_keep_theirs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ids.json");
        let app = |name| AppName::parse(name).expect("a name");
        let book = Identities::open(path.clone()).expect("new");
        let (a, b) = (book.base(&app("a")).expect("free"), book.base(&app("b")).expect("free"));
        assert!(b >= a + COUNT);
        let again = Identities::open(path).expect("kept");
        assert_eq!((again.base(&app("b")).expect("kept"), again.base(&app("a")).expect("kept")), (b, a));
        assert_eq!(again.base(&app("c")).expect("free"), b + COUNT);
    }
}
