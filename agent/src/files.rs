//! Small state files as JSON: written beside, synced, renamed.
//!
//! In: values. Out: files that are whole, old or new, whatever happens in between.

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
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
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
