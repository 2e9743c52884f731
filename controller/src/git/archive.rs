//! A source tree as a tar stream: the same tree gives the same bytes, in memory that does not grow with it.
//!
//! In: a [`GitTree`]. Out: tar (GNU long names), sorted, fixed times and owners. Blocks.

use super::repository;
use super::tree::GitTree;
use crate::archives::header;
use berth_buildpacks::{EntryKind, SourceTree};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::process::Stdio;

/// Larger files are streamed from `git cat-file`, which unpacks them piece by piece.
const IN_MEMORY: u64 = 16 << 20;

/// Writes all of the tree but its submodules.
pub fn write(tree: &GitTree, to: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let mut made = BTreeSet::new();
    for entry in tree.entries() {
        for (end, _) in entry.path.match_indices('/') {
            let dir = &entry.path[..end];
            if made.insert(dir.to_owned()) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                tar.append_data(&mut header, format!("{dir}/"), io::empty())?;
            }
        }
        match entry.kind {
            EntryKind::Submodule => {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                tar.append_data(&mut header, format!("{}/", entry.path), io::empty())?;
            }
            EntryKind::Symlink => {
                let target = tree.blob(&entry.id).map_err(io::Error::other)?;
                let target = String::from_utf8(target).map_err(io::Error::other)?;
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, &entry.path, target)?;
            }
            EntryKind::File | EntryKind::Executable => {
                let mode = if entry.kind == EntryKind::Executable { 0o755 } else { 0o644 };
                let mut header = header(tar::EntryType::Regular, mode, entry.size);
                if let Some(file) = tree.large(&entry.id)? {
                    tar.append_data(&mut header, &entry.path, file.take(entry.size))?;
                } else if entry.size <= IN_MEMORY {
                    let bytes = tree.blob(&entry.id).map_err(io::Error::other)?;
                    tar.append_data(&mut header, &entry.path, bytes.as_slice())?;
                } else {
                    stream(tree, &entry.id, |reader| {
                        tar.append_data(&mut header, &entry.path, reader.take(entry.size))
                    })?;
                }
            }
        }
    }
    tar.finish()
}

fn stream(
    tree: &GitTree,
    id: &str,
    take: impl FnOnce(&mut std::process::ChildStdout) -> io::Result<()>,
) -> io::Result<()> {
    let source = tree.source();
    let mut child = repository::plumbing(&source.repository, &source.objects)
        .args(["cat-file", "blob", id])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or_else(|| io::Error::other("git gave no output"))?;
    let taken = take(&mut stdout);
    drop(stdout);
    let status = child.wait()?;
    taken?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("git cat-file {id} ended with {status}")))
    }
}
