//! Files that survive a power loss: written elsewhere, synced, renamed, and the directory synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes `dir` and its missing parents, each durable.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => sync_parent(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = dir.parent().ok_or(error)?;
            create_dir(parent)?;
            create_dir(dir)
        }
        Err(error) => Err(error),
    }
}

/// Makes the entries of `path`'s directory durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Replaces `path` by `bytes`: readers see the old or the new whole. `temporary` is on the same file system.
pub(super) fn write(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    let written = (|| {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written?;
    sync_parent(path)
}

/// Makes the small file `path` durable with `bytes` unless it is there; then only its time is renewed.
pub(super) fn link(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    match touch(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(path, temporary, bytes),
        result => result,
    }
}

/// Sets the modification time to now, so that the collector's grace begins anew.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(std::time::SystemTime::now())
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
