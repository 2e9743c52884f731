//! Images in files: what `docker save`, `podman save` and `skopeo copy` write, and what they read.
//!
//! In: a tar of anybody's making, or an image of ours. Out: an image in a repository, every byte of it verified; or a tar
//! that `docker load`, `podman load` and `skopeo` take. Everything here blocks, and bytes stream through files.
//!
//! A tar holds an OCI image layout (image-spec, "OCI Image Layout Specification"), or what Docker wrote before
//! (`manifest.json`, Docker Image Specification v1.2), or both at once, as newer Dockers write and [`export`] does.

mod entries;
mod export;
mod load;
#[cfg(test)]
mod tests;

pub(crate) use export::export;
pub(crate) use load::load;

use super::error::RegistryError;
use std::io;

/// Largest archive, packed, in bytes.
pub(crate) const MAX_ARCHIVE: u64 = 8 << 30;
/// Largest archive, unpacked, in bytes: as much as one layer may hold when it is unpacked.
const MAX_PLAIN: u64 = 12 << 30;
/// Most files in it.
const MAX_ENTRIES: usize = 20_000;
/// Largest manifest, index or config in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers, as overlayfs takes them.
const MAX_LAYERS: usize = 500;

/// Why an archive became no image, or an image no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It is damaged, or no archive of images.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// It is hostile, or of somebody else's idea of the format.
    #[error("the archive is refused: {0}")]
    Refused(String),
    /// The image that is asked for is not in it, or it is not clear which.
    #[error("{0}")]
    Choice(String),
    /// Berth's own registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Writing an archive out; the reader may be gone.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

fn unreadable(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Unreadable(error.to_string())
}
