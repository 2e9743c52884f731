//! One file a build: what it said, for reading it again later.

use crate::Platform;
use crate::errors::internal;
use berth_model::BuildId;
use berth_model::api::ApiError;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// How many logs are kept.
const KEPT: usize = 1000;
/// Longest log, in bytes; the rest is only shown.
const LONGEST: usize = 16 << 20;

/// The log of a build that is under way.
#[derive(Debug)]
pub(super) struct BuildLog {
    file: fs::File,
    room: usize,
}

impl BuildLog {
    /// Makes the log, and removes the oldest ones if there are too many. Blocks, for a moment.
    pub(super) fn create(platform: &Platform, build: &BuildId) -> Result<Self, ApiError> {
        let dir = platform.options().builds_dir();
        prune(&dir);
        let path = platform.options().build_log_file(build);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| internal(&format!("cannot write {}", path.display()), &error))?;
        Ok(Self { file, room: LONGEST })
    }

    /// Adds a line. A full disk must not fail a build whose output is shown anyway.
    pub(super) fn line(&mut self, text: &str) {
        let line = format!("{text}\n");
        self.room = self.room.saturating_sub(line.len());
        if self.room > 0
            && let Err(error) = self.file.write_all(line.as_bytes())
        {
            tracing::warn!(%error, "cannot write a build's log");
            self.room = 0;
        }
    }
}

/// Ids begin with the time, so the order of names is the order of builds.
fn prune(dir: &std::path::Path) {
    let logs = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut logs: Vec<_> = logs.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    let surplus = (logs.len() + 1).saturating_sub(KEPT);
    for path in logs.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}
