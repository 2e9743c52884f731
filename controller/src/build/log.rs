//! One file a build: what it said, one JSON object of progress a line, for reading it again later.

use crate::Platform;
use crate::errors::internal;
use berth_model::BuildId;
use berth_model::api::{ApiError, Progress};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Longest log, in bytes; the rest is only shown.
const LONGEST: usize = 16 << 20;
/// Of these, kept for how it ended.
const LAST: usize = 64 << 10;

/// The log of a build that is under way.
#[derive(Debug)]
pub(super) struct BuildLog {
    file: fs::File,
    room: usize,
}

impl BuildLog {
    /// Makes the log. Blocks, for a moment.
    pub(super) fn create(platform: &Platform, build: &BuildId) -> Result<Self, ApiError> {
        let path = platform.options().build_log_file(build);
        let file = fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| internal(&format!("cannot write {}", path.display()), &error))?;
        Ok(Self { file, room: LONGEST })
    }

    /// The log of a build that was broken off, for saying so.
    pub(super) fn reopen(platform: &Platform, build: &BuildId) -> std::io::Result<Self> {
        let mut file = fs::OpenOptions::new().append(true).open(platform.options().build_log_file(build))?;
        // Its last line may be a part of one.
        file.write_all(b"\n")?;
        Ok(Self { file, room: LAST })
    }

    /// Adds a line. A full disk must not fail a build whose output is shown anyway.
    pub(super) fn add(&mut self, line: &Progress) {
        let is_last = matches!(line, Progress::Done | Progress::Failed { .. });
        let mut bytes = serde_json::to_vec(line).expect("progress has no failing serializers");
        bytes.push(b'\n');
        if self.room < bytes.len() + if is_last { 0 } else { LAST } {
            return;
        }
        self.room -= bytes.len();
        if let Err(error) = self.file.write_all(&bytes) {
            tracing::warn!(%error, "cannot write a build's log");
            self.room = 0;
        }
    }
}

/// The builds that have a log.
pub(super) fn all(platform: &Platform) -> Vec<BuildId> {
    let dir = platform.options().builds_dir();
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = names.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.filter_map(|path| BuildId::parse(path.file_stem()?.to_str()?).ok()).collect()
}

/// Removes a log, if it is there.
pub(super) fn remove(platform: &Platform, build: &BuildId) {
    let path = platform.options().build_log_file(build);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "cannot remove a build's log");
        }
        _ => {}
    }
}
