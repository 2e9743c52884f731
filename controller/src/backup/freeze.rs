//! Holding the platform's state still without stopping anything.
//!
//! In: a controller that runs. Out: a [`Frozen`] directory of hard links beside its files. Taking it takes as long as listing
//! the files: meanwhile nothing is removed and no key is replaced, and pushes go on. Files that are linked are never written to
//! again: the registry's and git's are made elsewhere and renamed; build logs only grow.

use crate::Platform;
use crate::errors::internal;
use crate::platform::now_ms;
use crate::store::Entry;
use berth_model::api::ApiError;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How directories of links are called.
const PREFIX: &str = "backup-";
/// What the controller's directory has that is no state: locks, sockets, and databases, which are copied by themselves.
const LEFT_OUT: &[&str] = &["lock", "hooks", "state.db", "events.db", "metrics.db", "registry/uploads"];

/// The platform as of one moment.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Links to the controller's files; removed with this.
    pub(super) controller: TempDir,
    /// Links to repositories, images and build logs, where those are elsewhere.
    pub(super) files: Option<TempDir>,
    pub(super) entries: Vec<Entry>,
    pub(super) node: Option<String>,
    pub(super) volumes: Option<PathBuf>,
    pub(super) made_ms: i64,
}

/// Takes the store, then links every file.
pub(crate) async fn freeze(platform: &Platform, volumes: bool) -> Result<Frozen, ApiError> {
    let failed = |error: io::Error| internal("cannot hold the state still for a backup", &error);
    let _kept = platform.hold_everything().await;
    let entries = platform.store().list("").await.map_err(crate::platform::PlatformError::from)?;
    let (from, files) = (platform.options().controller_dir(), platform.options().files_dir());
    let beside = |dir: &Path| tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir).map_err(failed);
    let controller = beside(&from)?;
    let elsewhere = if files == from { None } else { Some(beside(&files)?) };
    let events = platform.events().copy(&controller.path().join("events.db")).await;
    events.map_err(|error| internal("cannot copy the events", &error))?;
    let registry = platform.registry().clone();
    let linked = tokio::task::spawn_blocking(move || {
        let _kept = registry.adding();
        link(&from, controller.path(), Path::new(""))?;
        if let Some(elsewhere) = &elsewhere {
            link(&files, elsewhere.path(), Path::new(""))?;
        }
        Ok((controller, elsewhere))
    });
    let linked: io::Result<_> =
        linked.await.map_err(|error| internal("linking the state broke off", &error))?;
    let data = &platform.options().data;
    let volumes = volumes.then(|| data.join("agent/volumes")).filter(|volumes| volumes.is_dir());
    let (controller, files) = linked.map_err(failed)?;
    Ok(Frozen {
        controller,
        files,
        entries,
        node: fs::read_to_string(data.join("node")).ok(),
        volumes,
        made_ms: now_ms(),
    })
}

/// Removes what a controller left that was killed during a backup.
pub(crate) fn sweep(controller: &Path) -> io::Result<()> {
    for entry in fs::read_dir(controller)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a file below the controller's directory is no state.
fn is_left_out(path: &Path) -> bool {
    let top = path.components().next().map(|top| top.as_os_str().to_string_lossy().into_owned());
    let is = |left: &str| {
        // A database has its log beside it.
        let database = left.ends_with(".db") && top.as_deref().is_some_and(|top| top.starts_with(left));
        path == Path::new(left) || database
    };
    LEFT_OUT.iter().any(|left| is(left)) || top.is_some_and(|top| top.starts_with(PREFIX))
}

/// Links all of `from/below` into `to/below`. Names come before what they name: references before objects, manifests before
/// blobs. What is gone when its turn comes was no state either, for nothing of that is removed now.
fn link(from: &Path, to: &Path, below: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(from.join(below))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    let comes_last = |name: &std::ffi::OsString| matches!(name.to_str(), Some("objects" | "blobs" | "lfs"));
    names.sort_by_key(|name| (comes_last(name), name.clone()));
    for name in names {
        let below = below.join(name);
        if is_left_out(&below) {
            continue;
        }
        let (source, target) = (from.join(&below), to.join(&below));
        let done = fs::symlink_metadata(&source).and_then(|found| {
            if found.is_dir() {
                fs::DirBuilder::new().mode(0o700).create(&target)?;
                link(from, to, &below)
            } else if found.is_file() {
                fs::hard_link(&source, &target).or_else(|error| match error.kind() {
                    // Another file system, or too many links.
                    io::ErrorKind::CrossesDevices | io::ErrorKind::TooManyLinks => {
                        fs::copy(&source, &target).map(drop)
                    }
                    _ => Err(error),
                })
            } else {
                Ok(())
            }
        });
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_hold_what_is_removed_afterwards() {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, text) in [
            ("git/a.git/HEAD", "ref"),
            ("git/a.git/objects/12/34", "object"),
            ("registry/blobs/sha256/ab/abcd", "blob"),
            ("registry/uploads/x/data", "half"),
            ("config.key", "key"),
            ("state.db", "sql"),
            ("state.db-wal", "sql"),
            ("lock", ""),
            ("backup-old/config.key", "old"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        }
        let to = tempfile::tempdir().expect("a directory");
        link(dir.path(), to.path(), Path::new("")).expect("linked");
        fs::remove_dir_all(dir.path().join("git")).expect("ours");
        let text = fs::read_to_string(to.path().join("git/a.git/objects/12/34")).expect("held");
        assert_eq!(text, "object");
        for gone in ["registry/uploads", "state.db", "state.db-wal", "lock", "backup-old"] {
            assert!(!to.path().join(gone).exists(), "{gone}");
        }
        sweep(dir.path()).expect("swept");
        assert!(!dir.path().join("backup-old").exists() && dir.path().join("config.key").exists());
    }
}
