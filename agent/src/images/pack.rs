//! Packing a layer directory into a blob: the same files give the same bytes, on every machine and at any time.
//!
//! In: a directory that nothing writes to any more. Out: a zstd-compressed tar file, with its two digests made in the
//! same pass.

use super::tar_write::{Header, TarWriter};
use super::unpack::is_kept_attribute;
use berth_model::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// zstd level of layers: on the push path time counts more than the last tenth of the size.
const LEVEL: i32 = 1;
/// Longest path of a directory in a layer; what unpacks it allows 4095 bytes, and 512 directories.
const MAX_PATH: usize = 4000;

/// A packed layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) diff_id: Digest,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Hashes and counts what is written.
struct Hashing<W> {
    output: W,
    hash: Sha256,
    count: u64,
}

impl<W> Hashing<W> {
    fn new(output: W) -> Self {
        Self { output, hash: Sha256::new(), count: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Packs what is in `dir` into the new file `blob`. `stop` is asked now and then.
pub(crate) fn pack(dir: &Path, blob: &Path, stop: &dyn Fn() -> bool) -> io::Result<Packed> {
    let file = io::BufWriter::with_capacity(256 << 10, File::create_new(blob)?);
    let mut encoder = zstd::Encoder::new(Hashing::new(file), LEVEL)?;
    encoder.include_checksum(true)?;
    let output = io::BufWriter::with_capacity(256 << 10, Hashing::new(encoder));
    let mut packer = Packer { writer: TarWriter::new(output), links: HashMap::new(), stop };
    packer.children(dir, &mut Vec::new())?;
    let tar = packer.writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    let mut compressed = tar.output.finish()?;
    compressed.flush()?;
    Ok(Packed {
        diff_id: Digest::from_hash(tar.hash.finalize().into()),
        digest: Digest::from_hash(compressed.hash.finalize().into()),
        size: compressed.count,
    })
}

struct Packer<'a, W> {
    writer: TarWriter<W>,
    /// First path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    stop: &'a dyn Fn() -> bool,
}

impl<W: Write> Packer<'_, W> {
    /// `path` is that of `dir` in the archive: empty or ending with `/`.
    fn children(&mut self, dir: &Path, path: &mut Vec<u8>) -> io::Result<()> {
        if (self.stop)() {
            return Err(io::Error::other("cancelled"));
        }
        if path.len() > MAX_PATH {
            return Err(io::Error::other(
                "its directories are nested too deeply: a path in it has more than 4000 bytes",
            ));
        }
        let mut names =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            let before = path.len();
            let child = dir.join(&name);
            path.extend_from_slice(name.as_bytes());
            self.child(&child, path).map_err(|error| {
                io::Error::new(error.kind(), format!("packing {}: {error}", child.display()))
            })?;
            path.truncate(before);
        }
        Ok(())
    }

    fn child(&mut self, at: &Path, path: &mut Vec<u8>) -> io::Result<()> {
        let found = fs::symlink_metadata(at)?;
        let kind = found.file_type();
        if path.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.starts_with(b".wh.")) {
            return Err(io::Error::other("names that begin with .wh. cannot be stored in an image"));
        }
        if kind.is_char_device() && found.rdev() == 0 {
            return self.whiteout(path);
        }
        if kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            return Ok(());
        }
        let xattrs = if kind.is_symlink() { Vec::new() } else { attributes(at)? };
        if kind.is_dir() {
            path.push(b'/');
            self.writer.append(&header(path, b'5', &found, 0, b"", &xattrs.kept()))?;
            if xattrs.opaque() {
                let marker = [path.as_slice(), b".wh..wh..opq"].concat();
                self.writer.append(&marker_header(&marker))?;
            }
            return self.children(at, path);
        }
        if found.nlink() > 1 && !kind.is_symlink() {
            if let Some(first) = self.links.get(&(found.dev(), found.ino())) {
                let first = first.clone();
                return self.writer.append(&header(path, b'1', &found, 0, &first, &[]));
            }
            self.links.insert((found.dev(), found.ino()), path.clone());
        }
        if kind.is_symlink() {
            let target = fs::read_link(at)?.into_os_string().into_vec();
            return self.writer.append(&header(path, b'2', &found, 0, &target, &[]));
        }
        if kind.is_fifo() {
            return self.writer.append(&header(path, b'6', &found, 0, b"", &xattrs.kept()));
        }
        let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(at)?;
        self.writer.append(&header(path, b'0', &found, found.len(), b"", &xattrs.kept()))?;
        self.writer.content(&mut file, found.len())
    }

    fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        let split = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let marker = [&path[..split], b".wh.", &path[split..]].concat();
        self.writer.append(&marker_header(&marker))
    }
}

fn header<'a>(
    path: &'a [u8],
    kind: u8,
    found: &Metadata,
    size: u64,
    link: &'a [u8],
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
) -> Header<'a> {
    let mode = if kind == b'2' { 0o777 } else { found.permissions().mode() & 0o7777 };
    Header { path, kind, mode, uid: found.uid(), gid: found.gid(), size, link, xattrs }
}

fn marker_header(path: &[u8]) -> Header<'_> {
    Header { path, kind: b'0', mode: 0o644, uid: 0, gid: 0, size: 0, link: b"", xattrs: &[] }
}

trait Attributes {
    fn kept(&self) -> Vec<(Vec<u8>, Vec<u8>)>;
    fn opaque(&self) -> bool;
}

impl Attributes for Vec<(Vec<u8>, Vec<u8>)> {
    fn kept(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.iter().filter(|(name, _)| is_kept_attribute(name)).cloned().collect()
    }

    fn opaque(&self) -> bool {
        self.iter().any(|(name, value)| name == b"trusted.overlay.opaque" && value == b"y")
    }
}

/// Extended attributes, sorted by name.
fn attributes(at: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = match xattr::list(at) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names {
        if let Some(value) = xattr::get(at, &name)? {
            found.push((name.into_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// A file that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryFile(pub(crate) PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
