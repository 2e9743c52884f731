//! Uploads that are under way. Their bytes are on disk, so one can go on after a restart of the controller; the
//! running hash is in memory and is made again from the file when it is not.

use super::error::{Code, RegistryError};
use super::name::{Algorithm, BlobDigest, Name};
use bytes::Bytes;
use sha2::{Digest as _, Sha256, Sha512};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::OwnedMutexGuard;

/// Largest blob in bytes.
pub(super) const MAX_BLOB: u64 = 8 << 30;
/// What an upload leaves free on its disk, in bytes.
const RESERVE: u64 = 512 << 20;

/// One upload; whoever holds its lock may write.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) id: String,
    dir: PathBuf,
    file: File,
    size: u64,
    sha256: Sha256,
}

impl Upload {
    /// Bytes so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn append(&mut self, chunks: &[Bytes]) -> Result<(), RegistryError> {
        let more: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        check_room(&self.file, more)?;
        for chunk in chunks {
            if self.size + chunk.len() as u64 > MAX_BLOB {
                return Err(RegistryError::new(
                    Code::BlobTooLarge,
                    format!("a blob may have at most {} GiB", MAX_BLOB >> 30),
                ));
            }
            if let Err(error) = self.file.write_all(chunk) {
                // What was half-written must not be counted, nor be in the way of the next chunk.
                let _ = self.file.set_len(self.size);
                let _ = self.file.seek(SeekFrom::Start(self.size));
                return Err(RegistryError::disk(format!("writing upload {}", self.id), error));
            }
            self.sha256.update(chunk);
            self.size += chunk.len() as u64;
        }
        Ok(())
    }

    /// What the bytes so far are called.
    pub(super) fn digest(&self) -> BlobDigest {
        let hex = hex::encode(self.sha256.clone().finalize());
        BlobDigest::from_hex(Algorithm::Sha256, &hex).expect("a SHA-256 has 64 digits")
    }

    /// Syncs the file, checks it against `digest`, and gives its path.
    pub(super) fn finish(&mut self, digest: &BlobDigest) -> Result<PathBuf, RegistryError> {
        let disk = |error| RegistryError::disk(format!("finishing upload {}", self.id), error);
        let hex = match digest.algorithm() {
            Algorithm::Sha256 => hex::encode(self.sha256.clone().finalize()),
            Algorithm::Sha512 => {
                let mut hash = Sha512::new();
                self.file.seek(SeekFrom::Start(0)).map_err(disk)?;
                hash_file(&mut self.file, |bytes| hash.update(bytes)).map_err(disk)?;
                hex::encode(hash.finalize())
            }
        };
        if hex != digest.hex() {
            let found = format!("{}:{hex}", digest.algorithm().as_str());
            return Err(RegistryError::new(
                Code::DigestInvalid,
                format!("the {} uploaded bytes have the digest {found}, not {digest}", self.size),
            ));
        }
        self.file.sync_all().map_err(disk)?;
        Ok(self.dir.join("data"))
    }
}

/// Refuses what would leave the platform's own state without room: images share its disk.
fn check_room(file: &File, more: u64) -> Result<(), RegistryError> {
    let disk = |error: rustix::io::Errno| RegistryError::disk("looking for free space", error.into());
    let found = rustix::fs::fstatvfs(file).map_err(disk)?;
    if found.f_bavail.saturating_mul(found.f_frsize) < RESERVE + more {
        let text = format!("less than {} MiB of disk are free", RESERVE >> 20);
        return Err(RegistryError::new(Code::StorageFull, text));
    }
    Ok(())
}

fn hash_file(file: &mut File, mut update: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(size);
        }
        update(&buffer[..read]);
        size += read as u64;
    }
}

/// The uploads of one registry.
#[derive(Debug)]
pub(super) struct Uploads {
    dir: PathBuf,
    open: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
}

impl Uploads {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, open: Mutex::new(HashMap::new()) }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<Upload>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A path for a small file that is renamed at once.
    pub(super) fn temporary(&self) -> PathBuf {
        let _ = super::durable::create_dir(&self.dir);
        self.dir.join(format!("tmp-{}", new_id()))
    }

    /// Begins an upload into `name`.
    pub(super) fn begin(&self, name: &Name) -> Result<OwnedMutexGuard<Upload>, RegistryError> {
        let id = new_id();
        let dir = self.dir.join(&id);
        let made = (|| {
            super::durable::create_dir(&dir)?;
            fs::write(dir.join("repository"), name.as_str())?;
            OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("data"))
        })();
        let file = made.map_err(|error| RegistryError::disk("beginning an upload", error))?;
        let upload = Upload { id: id.clone(), dir, file, size: 0, sha256: Sha256::new() };
        let shared = Arc::new(tokio::sync::Mutex::new(upload));
        let guard = shared.clone().try_lock_owned().expect("nobody else knows a lock that was just made");
        self.table().insert(id, shared);
        Ok(guard)
    }

    /// The upload `id` of `name`, opened again if the registry was restarted meanwhile. Blocks while it reads the file.
    pub(super) fn find(
        &self,
        name: &Name,
        id: &str,
    ) -> Result<Arc<tokio::sync::Mutex<Upload>>, RegistryError> {
        let unknown = || {
            RegistryError::new(
                Code::UploadUnknown,
                format!("repository {name} has no such upload: begin again"),
            )
        };
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let dir = self.dir.join(id);
        match fs::read_to_string(dir.join("repository")) {
            Ok(owner) if owner == name.as_str() => {}
            _ => return Err(unknown()),
        }
        if let Some(upload) = self.table().get(id) {
            return Ok(upload.clone());
        }
        let disk = |error| RegistryError::disk(format!("opening upload {id} again"), error);
        let mut file = OpenOptions::new().read(true).write(true).open(dir.join("data")).map_err(disk)?;
        let mut sha256 = Sha256::new();
        let size = hash_file(&mut file, |bytes| sha256.update(bytes)).map_err(disk)?;
        let upload = Upload { id: id.to_owned(), dir, file, size, sha256 };
        let shared = Arc::new(tokio::sync::Mutex::new(upload));
        // Another request may have been faster: all use the same one.
        Ok(self.table().entry(id.to_owned()).or_insert(shared).clone())
    }

    /// Ends an upload, whether its bytes were adopted or not.
    pub(super) fn end(&self, id: &str) {
        self.table().remove(id);
        let dir = self.dir.join(id);
        if let Err(error) = fs::remove_dir_all(&dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %dir.display(), "cannot remove a finished upload");
        }
    }

    /// Removes uploads and temporary files that nobody has written to for `grace`.
    pub(super) fn sweep(&self, grace: Duration, now: SystemTime) -> io::Result<()> {
        for name in super::store::list(&self.dir)? {
            let path = self.dir.join(&name);
            let data = if name.starts_with("tmp-") { path.clone() } else { path.join("data") };
            if is_younger(&data, grace, now) && path.exists() {
                continue;
            }
            let busy = self.table().get(&name).is_some_and(|upload| upload.try_lock().is_err());
            if busy {
                continue;
            }
            match name.starts_with("tmp-") {
                true => drop(super::durable::remove(&path)),
                false => self.end(&name),
            }
        }
        Ok(())
    }
}

/// Whether `path` was written within `grace` before `now`. What is not there is not young.
pub(super) fn is_younger(path: &Path, grace: Duration, now: SystemTime) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|at| now.duration_since(at).map_or(true, |age| age < grace))
}

fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random numbers do not fail after boot");
    hex::encode(bytes)
}
