//! What a killed test left: empty cgroups and a directory, both named after its process.

use super::cgroups;
use anyhow::{Context, Result};
use std::path::Path;
use tempfile::TempDir;

const PREFIX: &str = "berthbed-";

/// A directory for a bed of this process: a short path, since it has sockets in it (unix(7): 107 bytes).
pub(super) fn directory() -> Result<TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().context("making a directory for the hosts")
}

/// What the cgroups of that bed are called.
pub(super) fn cgroup_name(directory: &Path) -> Result<String> {
    let name = directory.file_name().context("a directory without a name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Whether it is named after a process that is no more.
fn is_left_over(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes what tests that are over have left.
pub(super) fn leftovers() {
    let stale = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let stale = entries.filter(|entry| is_left_over(&entry.file_name().to_string_lossy()));
        stale.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    for mount in cgroups::mounts() {
        for dir in stale(&mount) {
            cgroups::remove(&dir);
        }
    }
    for dir in stale(&std::env::temp_dir()) {
        let _ = std::fs::remove_dir_all(dir); // the next sweep tries again
    }
}
