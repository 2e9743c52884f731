//! Small state files as JSON: written beside, synced, renamed; sealed where they hold config.
//!
//! In: values. Out: files that are whole, old or new, whatever happens in between.

use crate::seal::Seal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What a written file survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process.
    Rename,
    /// A loss of power.
    Sync,
}

/// Writes `value` to `path` in place of what is there.
pub fn store(path: &Path, value: &impl Serialize, durability: Durability) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    write(path, &bytes, durability)
}

/// The same, sealed.
pub fn store_sealed(
    path: &Path,
    value: &impl Serialize,
    durability: Durability,
    seal: &Seal,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    write(path, &seal.seal(&name_of(path), &bytes)?, durability)
}

/// What the seal of a file is bound to.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn write(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    if durability == Durability::Sync {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if durability == Durability::Sync
        && let Some(parent) = path.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// The 32 secret bytes of `path`, which root alone reads; made if they are not there. What cannot be used is replaced.
pub fn key(path: &Path) -> io::Result<[u8; 32]> {
    match fs::read(path).map(<[u8; 32]>::try_from) {
        Ok(Ok(key)) => Ok(key),
        Ok(Err(_)) => {
            tracing::error!(path = %path.display(), "this key is not 32 bytes long and is replaced");
            make_key(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(path),
        Err(error) => Err(error),
    }
}

fn make_key(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    berth_wire::write_private(path, &key)?;
    Ok(key)
}

/// Reads `path`; `None` when it is not there. A file that is no such value is `InvalidData`.
pub fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        }),
    }
}

/// Reads what [`store_sealed`] wrote, or an agent before there were seals: then it is sealed at once.
pub fn load_sealed<T: DeserializeOwned + Serialize>(path: &Path, seal: &Seal) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let (plain, sealed) = seal.open_sealed(&name_of(path), bytes)?;
    let value: T = serde_json::from_slice(&plain).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    })?;
    if !sealed {
        store_sealed(path, &value, Durability::Sync, seal)?;
    }
    Ok(Some(value))
}
