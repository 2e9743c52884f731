//! How far a drain has read in each container's log.
//!
//! In: log directories. Out: batches of lines in the order of their times, and the places after them.

use crate::files::{self, Durability};
use crate::logs_api::{self, Owner};
use crate::remarks;
use crate::runtime::logs::{self, Position};
use berth_model::AppName;
use berth_model::container::LogLine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of one batch, about.
pub(super) const MOST: usize = 512 * 1024;
/// Bytes of one container in a batch, about.
const MOST_OF_ONE: usize = 128 * 1024;
/// A drain that fails leaves out what is more than this behind, in each container's log; bytes.
const BEHIND: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    log: Position,
    /// Bytes of Berth's own lines.
    remarks: u64,
}

/// A place in every log, by `APP/CONTAINER`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursors(BTreeMap<String, Place>);

/// Lines to send.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<LogLine>,
    /// Lines that were left out before them, at least.
    pub(super) dropped: u64,
    /// There is more to read at once.
    pub(super) more: bool,
    /// Where lines were left out, the place to go on from.
    skipped: BTreeMap<String, Place>,
}

/// Log directories, with their names in cursors.
fn directories(logs: &Path, app: Option<&AppName>) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let names = |dir: &Path| -> io::Result<Vec<String>> {
        match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(entries) => {
                Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
            }
        }
    };
    let apps = match app {
        Some(app) => vec![app.to_string()],
        None => names(logs)?,
    };
    for app in apps {
        let dir = logs.join(&app);
        found.extend(names(&dir)?.into_iter().map(|id| (format!("{app}/{id}"), dir.join(&id))));
    }
    found.sort();
    Ok(found)
}

impl Cursors {
    /// Those of an earlier agent; for a new drain the ends of all logs: what was before it is not sent.
    pub(super) fn open(file: &Path, logs: &Path, app: Option<&AppName>) -> Self {
        match files::load(file) {
            Ok(Some(cursors)) => return cursors,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "how far a drain had got is unreadable; it begins now"),
        }
        let mut places = BTreeMap::new();
        for (name, dir) in directories(logs, app).unwrap_or_default() {
            let log = logs::tail(&dir, 0).map(|(_, end)| end).unwrap_or_default();
            let (_, remarks) = remarks::read(&dir, 0);
            places.insert(name, Place { log, remarks });
        }
        let cursors = Self(places);
        if let Err(error) = cursors.save(file) {
            tracing::warn!(%error, "cannot write down how far a drain has got");
        }
        cursors
    }

    pub(super) fn save(&self, file: &Path) -> io::Result<()> {
        files::store(file, self, Durability::Rename)
    }

    /// The next lines, going on to the places after them. With `may_skip`, what is too far behind is left out.
    pub(super) fn collect(
        &mut self,
        logs: &Path,
        app: Option<&AppName>,
        may_skip: bool,
    ) -> io::Result<Batch> {
        let mut batch = Batch::default();
        let all = directories(logs, app)?;
        let mut next = BTreeMap::new();
        let mut read = 0;
        for (name, dir) in all {
            let mut place = self.0.get(&name).copied().unwrap_or_default();
            if read >= MOST {
                batch.more = true;
                next.insert(name, place);
                continue;
            }
            let Ok(Some(owner)) = files::load::<Owner>(&dir.join(logs_api::FILE)) else { continue };
            if app.is_some_and(|app| *app != owner.app) {
                continue;
            }
            if may_skip {
                let left_out = skip(&dir, &mut place)?;
                if left_out > 0 {
                    batch.dropped += left_out;
                    batch.skipped.insert(name.clone(), place);
                }
            }
            let (entries, log, lost) = logs::read_on(&dir, place.log, MOST_OF_ONE)?;
            if lost {
                // How many they were nobody can say any more.
                batch.dropped += 1;
            }
            let (own, remarks) = remarks::read(&dir, place.remarks);
            for entry in entries {
                read += entry.text.len() + 64;
                batch.lines.push(owner.line(entry.at_us, entry.stream, entry.text));
            }
            let before = batch.lines.len();
            batch.lines.extend(owner.remarks(own));
            read += (batch.lines.len() - before) * 128;
            batch.more |= log != place.log && logs::behind(&dir, log)? > 0;
            next.insert(name, Place { log, remarks });
        }
        batch.lines.sort_by_key(|line| line.at_us);
        // Logs that are gone are forgotten with this.
        self.0 = next;
        Ok(batch)
    }

    /// These, but for what `batch` left out, which is not looked at again.
    pub(super) fn skipped(&self, _next: &Self, batch: &Batch) -> Self {
        let mut places = self.0.clone();
        places.extend(batch.skipped.iter().map(|(name, place)| (name.clone(), *place)));
        Self(places)
    }
}

/// Goes on until no more than half of [`BEHIND`] is left; gives the lines that were left out.
fn skip(dir: &Path, place: &mut Place) -> io::Result<u64> {
    if logs::behind(dir, place.log)? <= BEHIND {
        return Ok(0);
    }
    let mut left_out = 0;
    while logs::behind(dir, place.log)? > BEHIND / 2 {
        let (entries, next, _) = logs::read_on(dir, place.log, 1 << 20)?;
        if next == place.log {
            break;
        }
        left_out += entries.iter().filter(|entry| !entry.continues).count() as u64;
        place.log = next;
    }
    Ok(left_out)
}
