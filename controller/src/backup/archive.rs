//! Writing an archive.
//!
//! In: a [`Frozen`] state. Out: bytes, as they come; nothing of it is held in memory but the store.

use super::{
    CONTROLLER, FORMAT, Frozen, HEAD, Head, Line, NODE, NODES, Others, STORE, Sums, TAIL, VOLUMES,
    WITHOUT_NODES,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_wire::{TreeKind, TreeReader};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Most of it is compressed already; what is not (repositories' loose objects, logs) gains little by more.
const LEVEL: i32 = 3;

/// Writes all of it, and what `others` have. Blocks, but not on a thread of the runtime.
pub(crate) fn write(frozen: &Frozen, others: &Others, out: impl Write) -> io::Result<()> {
    let mut zstd = zstd::Encoder::new(out, LEVEL)?;
    zstd.include_checksum(true)?;
    let mut archive = Archive { tar: Builder::new(zstd), sums: Sums::default(), made_ms: frozen.made_ms };
    let head = Head {
        format: if others.volumes.is_empty() { WITHOUT_NODES } else { FORMAT },
        berth: env!("CARGO_PKG_VERSION").to_owned(),
        made_ms: frozen.made_ms,
        volumes: frozen.volumes.is_some(),
        left_out: others.away.clone(),
    };
    archive.bytes(HEAD, &serde_json::to_vec(&head)?)?;
    if let Some(node) = &frozen.node {
        archive.bytes(NODE, node.as_bytes())?;
    }
    // Where the files are elsewhere, what the controller's directory has under the same name is not them.
    let mut written = BTreeSet::new();
    for dir in frozen.files.iter().chain([&frozen.controller]) {
        for entry in fs::read_dir(dir.path())? {
            let entry = entry?;
            if written.insert(entry.file_name()) {
                let name = format!("{CONTROLLER}/{}", entry.file_name().to_string_lossy());
                archive.tree(&entry.path(), &name, Owner::Berth)?;
            }
        }
    }
    if let Some(volumes) = &frozen.volumes {
        archive.tree(volumes, VOLUMES, Owner::Apps)?;
    }
    for (node, volume) in &others.volumes {
        let tree = others.read(node, volume);
        let copied = tree.and_then(|tree| archive.copied(tree, &format!("{NODES}/{node}/{volume}")));
        copied.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read volume {volume} of node {node}: {error}"))
        })?;
    }
    let mut lines = Vec::new();
    for entry in &frozen.entries {
        let line = Line { key: entry.key.clone(), value: STANDARD.encode(&entry.value) };
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
    }
    archive.bytes(STORE, &lines)?;
    let sums = std::mem::take(&mut archive.sums);
    archive.bytes(TAIL, &serde_json::to_vec(&sums.tail())?)?;
    archive.tar.into_inner()?.finish()?.flush()
}

/// Whose files a tree has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The controller's own: regular files, for root alone.
    Berth,
    /// Apps': owners, modes and links are kept, and files may change while they are read.
    Apps,
}

struct Archive<W: Write> {
    tar: Builder<W>,
    sums: Sums,
    made_ms: i64,
}

impl<W: Write> Archive<W> {
    fn header(&self, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind == EntryType::Directory { 0o700 } else { 0o600 });
        header.set_mtime(u64::try_from(self.made_ms / 1000).unwrap_or(0));
        header
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let header = self.header(EntryType::Regular, bytes.len() as u64);
        self.file(path, header, bytes, bytes.len() as u64)
    }

    /// Exactly `size` bytes of `content`: what is written behind them meanwhile is left out, what is cut off meanwhile is zero.
    fn file(&mut self, path: &str, mut header: Header, content: impl Read, size: u64) -> io::Result<()> {
        let mut reader = Hashing { inner: content.chain(io::repeat(0)).take(size), hash: Sha256::new() };
        self.tar.append_data(&mut header, path, &mut reader)?;
        self.sums.file(path, size, reader.hash);
        Ok(())
    }

    /// A link that says exactly `target`, as strange as that may be.
    fn link(&mut self, path: &str, mut header: Header, target: &[u8]) -> io::Result<()> {
        if header.set_link_name_literal(target).is_ok() {
            self.tar.append_data(&mut header, path, io::empty())?;
        } else {
            let target = Path::new(OsStr::from_bytes(target));
            self.tar.append_link(&mut header, path, target)?;
        }
        self.sums.file(path, 0, Sha256::new_with_prefix(target));
        Ok(())
    }

    /// A volume of another node, as `name/…`.
    fn copied(&mut self, tree: impl BufRead, name: &str) -> io::Result<()> {
        let mut tree = TreeReader::new(tree);
        while let Some(entry) = tree.next_entry()? {
            let path = if entry.path.is_empty() { name.to_owned() } else { format!("{name}/{}", entry.path) };
            let (kind, size) = match entry.kind {
                TreeKind::Directory => (EntryType::Directory, 0),
                TreeKind::File { size } => (EntryType::Regular, size),
                TreeKind::Link { .. } => (EntryType::Symlink, 0),
            };
            let mut header = self.header(kind, size);
            header.set_mode(entry.mode);
            header.set_uid(entry.uid.into());
            header.set_gid(entry.gid.into());
            header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0));
            match entry.kind {
                TreeKind::Directory => self.tar.append_data(&mut header, format!("{path}/"), io::empty())?,
                TreeKind::Link { target } => self.link(&path, header, target.as_bytes())?,
                TreeKind::File { size } => {
                    let mut reader = Hashing { inner: (&mut tree).take(size), hash: Sha256::new() };
                    self.tar.append_data(&mut header, &path, &mut reader)?;
                    self.sums.file(&path, size, reader.hash);
                }
            }
        }
        Ok(())
    }

    /// Everything below `root`, as `name/…`, in the order of names.
    fn tree(&mut self, root: &Path, name: &str, owner: Owner) -> io::Result<()> {
        let mut pending = vec![(root.to_owned(), name.to_owned())];
        while let Some((path, name)) = pending.pop() {
            let found = match fs::symlink_metadata(&path) {
                // Apps remove what they please.
                Err(error) if error.kind() == io::ErrorKind::NotFound && owner == Owner::Apps => continue,
                found => found?,
            };
            let kind = if found.is_dir() {
                EntryType::Directory
            } else if found.is_symlink() {
                EntryType::Symlink
            } else if found.is_file() {
                EntryType::Regular
            } else {
                continue; // sockets and pipes are nothing without who made them
            };
            let size = if kind == EntryType::Regular { found.len() } else { 0 };
            let mut header = self.header(kind, size);
            if owner == Owner::Apps {
                header.set_mode(found.mode() & 0o7777);
                header.set_uid(found.uid().into());
                header.set_gid(found.gid().into());
                header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
            }
            match kind {
                EntryType::Directory => {
                    self.tar.append_data(&mut header, format!("{name}/"), io::empty())?;
                    let mut below = Vec::new();
                    for entry in fs::read_dir(&path)? {
                        let entry = entry?;
                        let Ok(part) = entry.file_name().into_string() else {
                            let path = entry.path();
                            tracing::warn!(path = %path.display(), "left out of the backup: its name is no UTF-8");
                            continue;
                        };
                        below.push((entry.path(), format!("{name}/{part}")));
                    }
                    below.sort_by(|(_, one), (_, other)| other.cmp(one));
                    pending.append(&mut below);
                }
                EntryType::Symlink => {
                    let target = fs::read_link(&path)?;
                    self.link(&name, header, target.as_os_str().as_encoded_bytes())?;
                }
                _ => match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && owner == Owner::Apps => {}
                    opened => self.file(&name, header, opened?, size)?,
                },
            }
        }
        Ok(())
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
