//! Archives that ADD unpacks.
//!
//! In: a file of the pushed tree. Out: its contents in a directory of the build, if it is a tar archive (plain, gzip,
//! zstd, xz or bzip2); a compressed file that is no archive stays a file, as with Docker.

use super::super::error::BuildError;
use super::super::view::{Node, View};
use super::find::Found;
use crate::images::ImageError;
use crate::images::decode::decode;
use crate::images::unpack::{Rules, UnpackError, unpack};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where tar keeps its mark, and how much of a stream must be looked at for it.
const MARK: std::ops::Range<usize> = 257..262;
const HEAD: usize = 512;

/// The program that takes off the compression of a file that is read in a container only.
pub(super) fn program(source: &Found) -> Result<Option<&'static str>, BuildError> {
    let Node::Other(path, found) = &source.node else { return Ok(None) };
    if !found.is_file() {
        return Ok(None);
    }
    let mut start = Vec::new();
    let read = open(path).and_then(|file| file.take(6).read_to_end(&mut start));
    read.map_err(BuildError::disk("read", &source.path))?;
    Ok(match start.as_slice() {
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
        _ => None,
    })
}

/// The contents of `source` unpacked to the new directory `into`; `None` if it is no archive.
pub(super) fn unpacked(source: &Found, into: &Path) -> Result<Option<Found>, BuildError> {
    let Node::Other(path, found) = &source.node else { return Ok(None) };
    let failed = |error| BuildError::disk("read", &source.path)(error);
    if !found.is_file() || !is_archive(path, &source.path)? {
        return Ok(None);
    }
    fs::create_dir(into).map_err(BuildError::disk("make", into))?;
    let wrong = |error: UnpackError| {
        let layer = source.path.display().to_string();
        BuildError::Image(ImageError::Unpack { layer, source: error })
    };
    let file = open(path).map_err(failed)?;
    decode(file, found.len(), |tar| unpack(tar, into, &Rules::RootFs).map(drop)).map_err(wrong)?;
    let root = View::new(vec![into.to_owned()]).root().map_err(failed)?;
    Ok(root.map(|node| Found { path: PathBuf::new(), kept: PathBuf::new(), node }))
}

fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn is_archive(path: &Path, name: &Path) -> Result<bool, BuildError> {
    let failed = |error| BuildError::disk("read", name)(error);
    let mut start = Vec::new();
    open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut start)).map_err(failed)?;
    let mut head = Vec::new();
    // What cannot be decompressed is no archive; it is copied as it is.
    let read = match start.as_slice() {
        [0x1f, 0x8b, ..] => {
            MultiGzDecoder::new(open(path).map_err(failed)?).take(HEAD as u64).read_to_end(&mut head)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::new(open(path).map_err(failed)?)
            .and_then(|decoder| decoder.take(HEAD as u64).read_to_end(&mut head)),
        _ => {
            head = start;
            Ok(head.len())
        }
    };
    Ok(read.is_ok() && head.get(MARK) == Some(b"ustar"))
}
