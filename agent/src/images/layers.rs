//! Layers on this node's disk: directories named by diffID, and what is remembered of how they were made.
//!
//! ```text
//! layers/sha256/<diffid>/      one layer's files, never changed once there
//! layers/tmp/<random>/         being made; gone after a restart of the agent
//! layers/pending/<diffid>      not synced yet; holds the boot id
//! layers/keys/[<app>/]<key>.json   which layer a build step with this key made
//! ```
//! A layer is renamed into place before its files are synced, for a sync costs more than many a build. Until it is, a
//! marker says so: after a crash of the machine such layers are dropped and pulled again from the registry, which has
//! synced them before it acknowledged anything.

use super::error::ImageError;
use super::oci::Layer;
use berth_model::{AppName, Digest};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long what a build step made is kept though no image needs it.
const KEY_LIFE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Layers younger than this are never collected: somebody may be about to need them.
const GRACE: Duration = Duration::from_secs(600);

/// The layers of one node.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    boot_id: String,
    syncing: Mutex<()>,
}

/// A directory that is removed when this is dropped, unless it was taken.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a temporary directory");
        }
    }
}

/// What a build step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) layer: Layer,
    /// Where its blob was pushed to; empty for layers that are in no image.
    pub(crate) repository: String,
}

/// Whose result a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Made of nothing that an app could have touched: any app may use it.
    Shared,
    /// Made by, or from, an app's own code or caches: only that app may use it.
    App(AppName),
}

impl Layers {
    /// Opens `dir`, dropping what a crash left half-made.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, ImageError> {
        let boot_id =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        for name in ["sha256", "pending", "keys"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(ImageError::disk("make", path))?;
        }
        let tmp = dir.join("tmp");
        if tmp.exists() {
            remove_tree(&tmp).map_err(ImageError::disk("empty", &tmp))?;
        }
        fs::create_dir(&tmp).map_err(ImageError::disk("make", &tmp))?;
        let layers = Self { dir, boot_id, syncing: Mutex::new(()) };
        for name in names(&layers.dir.join("pending"))? {
            let marker = layers.dir.join("pending").join(&name);
            if fs::read_to_string(&marker).is_ok_and(|boot| boot == layers.boot_id) {
                continue;
            }
            if let Ok(diff_id) = Digest::parse(&format!("sha256:{name}")) {
                tracing::info!(layer = %diff_id, "dropping a layer that was not synced before the machine went down");
                layers.remove(&diff_id)?;
            }
            fs::remove_file(&marker).map_err(ImageError::disk("remove", &marker))?;
        }
        Ok(layers)
    }

    pub(crate) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("sha256").join(diff_id.hex())
    }

    pub(crate) fn has(&self, diff_id: &Digest) -> bool {
        self.path(diff_id).is_dir()
    }

    /// A new empty directory on the layers' file system.
    pub(crate) fn temporary(&self) -> Result<Temporary, ImageError> {
        let path = self.dir.join("tmp").join(random());
        fs::create_dir(&path).map_err(ImageError::disk("make", &path))?;
        Ok(Temporary { path })
    }

    /// Makes `made` (a directory of ours) the layer `diff_id`. If that is there already, `made` stays where it is.
    pub(crate) fn adopt(&self, made: &Path, diff_id: &Digest) -> Result<(), ImageError> {
        let path = self.path(diff_id);
        if path.is_dir() {
            return Ok(());
        }
        let marker = self.dir.join("pending").join(diff_id.hex());
        fs::write(&marker, &self.boot_id).map_err(ImageError::disk("write", &marker))?;
        match fs::rename(made, &path) {
            Err(_) if path.is_dir() => Ok(()),
            result => result.map_err(ImageError::disk("make", &path)),
        }
    }

    /// Syncs what was adopted before `begun` is called. Blocks, for long on a busy disk; call it when nobody waits.
    pub(crate) fn settle(&self, begun: impl FnOnce()) {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        begun();
        let settled = (|| -> io::Result<()> {
            let pending = names(&self.dir.join("pending")).unwrap_or_default();
            if pending.is_empty() {
                return Ok(());
            }
            rustix::fs::syncfs(File::open(&self.dir)?)?;
            for name in pending {
                fs::remove_file(self.dir.join("pending").join(name))?;
            }
            Ok(())
        })();
        if let Err(error) = settled {
            tracing::warn!(%error, "layers could not be synced; they would be pulled again after a crash");
        }
    }

    fn key_path(&self, scope: &Scope, key: &str) -> PathBuf {
        let keys = self.dir.join("keys");
        let dir = match scope {
            Scope::Shared => keys,
            Scope::App(app) => keys.join(app.as_str()),
        };
        dir.join(format!("{key}.json"))
    }

    /// What was made under `key` (64 hexadecimal digits), if this node still knows. Its files may be gone.
    pub(crate) fn known(&self, scope: &Scope, key: &str) -> Option<Known> {
        let path = self.key_path(scope, key);
        let known = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        // Used again: its life begins anew.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(known)
    }

    pub(crate) fn remember(&self, scope: &Scope, key: &str, known: &Known) -> Result<(), ImageError> {
        let path = self.key_path(scope, key);
        let write = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let temporary = self.dir.join("tmp").join(random());
            fs::write(&temporary, serde_json::to_vec(known)?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(ImageError::disk("write", &path))
    }

    /// The directories of apps that something was made for.
    pub(crate) fn app_dirs(&self) -> Result<Vec<PathBuf>, ImageError> {
        let keys = self.dir.join("keys");
        let dirs = names(&keys)?.into_iter().map(|name| keys.join(name));
        Ok(dirs.filter(|path| path.is_dir()).collect())
    }

    /// Forgets what was made for an app.
    pub(crate) fn forget(&self, app: &AppName) -> Result<(), ImageError> {
        let path = self.dir.join("keys").join(app.as_str());
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(ImageError::disk("remove", path)),
        }
    }

    /// Removes layers that neither `keep` nor a recent build step needs. Gives how many.
    pub(crate) fn collect(&self, keep: &HashSet<Digest>) -> Result<u64, ImageError> {
        let mut keep = keep.clone();
        let now = SystemTime::now();
        let keys = self.dir.join("keys");
        let mut dirs = vec![keys.clone()];
        while let Some(dir) = dirs.pop() {
            for name in names(&dir)? {
                let path = dir.join(&name);
                if path.is_dir() {
                    dirs.push(path);
                } else if is_older(&path, KEY_LIFE, now) {
                    fs::remove_file(&path).map_err(ImageError::disk("remove", &path))?;
                } else if let Ok(known) =
                    serde_json::from_slice::<Known>(&fs::read(&path).unwrap_or_default())
                {
                    keep.insert(known.layer.diff_id);
                }
            }
        }
        let mut removed = 0;
        for name in names(&self.dir.join("sha256"))? {
            let Ok(diff_id) = Digest::parse(&format!("sha256:{name}")) else { continue };
            let marker = self.dir.join("pending").join(&name);
            let path = self.path(&diff_id);
            if keep.contains(&diff_id) || marker.exists() || !is_changed_before(&path, GRACE, now) {
                continue;
            }
            self.remove(&diff_id)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Renamed away first: nobody sees half of a layer.
    fn remove(&self, diff_id: &Digest) -> Result<(), ImageError> {
        let gone = self.dir.join("tmp").join(random());
        match fs::rename(self.path(diff_id), &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(ImageError::disk("remove", self.path(diff_id)))?,
        }
        drop(Temporary { path: gone });
        Ok(())
    }
}

fn is_older(path: &Path, age: Duration, now: SystemTime) -> bool {
    let modified = fs::metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|past| past > age))
}

/// By the time of its last change of place: the modification times of layers come from their archives.
fn is_changed_before(path: &Path, age: Duration, now: SystemTime) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(found.ctime()).unwrap_or(0));
    now.duration_since(changed).is_ok_and(|past| past > age)
}

fn names(dir: &Path) -> Result<Vec<String>, ImageError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(ImageError::disk("list", dir))? {
        let entry = entry.map_err(ImageError::disk("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// A name that nobody else has.
pub(crate) fn random() -> String {
    let mut bytes = [0_u8; 12];
    getrandom::fill(&mut bytes).expect("the kernel's random numbers do not fail after boot");
    hex::encode(bytes)
}

/// Removes a tree that a stranger made, however deep it is: what lies below is moved up first, so neither the stack nor
/// a path grows with the depth. Does nothing if it is not there.
pub(crate) fn remove_tree(root: &Path) -> io::Result<()> {
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(found) if !found.is_dir() => return fs::remove_file(root),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push(format!(".removing-{}", random()));
    let aside = root.with_file_name(name);
    fs::create_dir(&aside)?;
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                gone(fs::remove_file(&path))?;
            } else if fs::remove_dir(&path).is_err() {
                let up = aside.join(random());
                fs::rename(&path, &up)?;
                pending.push(up);
            }
        }
        gone(fs::remove_dir(&dir))?;
    }
    fs::remove_dir(&aside)
}

/// Somebody else may remove a file of their own meanwhile.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("room");
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let mut at = rustix::fs::open(&root, flags, rustix::fs::Mode::empty()).expect("it is there");
        for _ in 0..2500 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o755)).expect("room");
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).expect("it is there");
        }
        remove_tree(&root).expect("it can be removed");
        assert!(!root.exists());
        remove_tree(&root).expect("nothing is no error");
    }
}
