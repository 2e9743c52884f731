//! A directory tree as a stream of bytes: how volumes leave a machine and come back.
//!
//! In and out: one line of JSON an entry, a file's line followed by exactly as many bytes as it says; a last line says that this is
//! all. The reader believes nothing: lines are short, paths are plain and lead nowhere else, and what ends early is an error.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read, Write};

/// The longest line, in bytes: a path and the target of a link, escaped.
const LONGEST_LINE: u64 = 64 * 1024;
/// The longest path within a tree, in bytes.
pub const LONGEST_PATH: usize = 3500;
/// The longest target of a link, in bytes: `PATH_MAX` of Linux, without its end.
pub const LONGEST_TARGET: usize = 4095;
/// Most entries of one tree.
const MOST_ENTRIES: u64 = 100_000_000;
/// Most bytes of files in one tree: 16 TiB.
const MOST_BYTES: u64 = 16 << 40;

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeEntry {
    /// Where: parts with slashes between; the tree's own directory, which comes first, has none.
    pub path: String,
    /// What.
    pub kind: TreeKind,
    /// Permissions, with set-id and sticky bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was last written to; seconds since the Unix epoch.
    pub mtime: i64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TreeKind {
    /// A directory.
    Directory,
    /// A file; so many bytes follow.
    File {
        /// How many.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Entry(TreeEntry),
    End,
}

/// Whether this can be the name of a volume: 1 to 128 letters, digits and `. _ -`, the first a letter, digit or `_`.
#[must_use]
pub fn is_volume(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with(['.', '-'])
}

/// Writes an entry. A file's bytes follow: [`write_content`].
pub fn write_entry(to: &mut impl Write, entry: &TreeEntry) -> io::Result<()> {
    write_line(to, &Line::Entry(entry.clone()))
}

/// Writes that this was all.
pub fn write_end(to: &mut impl Write) -> io::Result<()> {
    write_line(to, &Line::End)?;
    to.flush()
}

/// Exactly `size` bytes of a file that may change meanwhile: what is written behind them is left out, what is cut off is zero.
pub fn write_content(to: &mut impl Write, from: impl Read, size: u64) -> io::Result<()> {
    io::copy(&mut from.chain(io::repeat(0)).take(size), to).map(drop)
}

fn write_line(to: &mut impl Write, line: &Line) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    to.write_all(&bytes)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the tree is damaged: {what}"))
}

/// Reads a tree: entry after entry, each file's bytes by [`Read`].
#[derive(Debug)]
pub struct TreeReader<R> {
    input: R,
    /// Bytes of the present file that were not read yet.
    left: u64,
    entries: u64,
    bytes: u64,
    is_over: bool,
}

impl<R: BufRead> TreeReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self { input, left: 0, entries: 0, bytes: 0, is_over: false }
    }

    /// The next entry; `None` at the end. What was not read of the file before is passed over.
    pub fn next_entry(&mut self) -> io::Result<Option<TreeEntry>> {
        if self.is_over {
            return Ok(None);
        }
        io::copy(self, &mut io::sink())?;
        let mut line = Vec::new();
        self.input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(damaged("it ends early, or a line is too long"));
        }
        let entry = match serde_json::from_slice(&line).map_err(|error| damaged(&error.to_string()))? {
            Line::End if self.entries == 0 => return Err(damaged("it is empty")),
            Line::End => {
                self.is_over = true;
                return Ok(None);
            }
            Line::Entry(entry) => entry,
        };
        self.check(&entry)?;
        self.entries += 1;
        if let TreeKind::File { size } = entry.kind {
            self.left = size;
            self.bytes = self.bytes.saturating_add(size);
        }
        if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
            return Err(damaged("it is too large"));
        }
        Ok(Some(entry))
    }

    fn check(&self, entry: &TreeEntry) -> io::Result<()> {
        let path = &entry.path;
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        let is_right = match self.entries {
            0 => path.is_empty() && entry.kind == TreeKind::Directory,
            _ => path.len() <= LONGEST_PATH && !path.contains('\0') && path.split('/').all(plain),
        };
        if !is_right {
            let shown: String = path.chars().take(80).collect();
            return Err(damaged(&format!("{shown:?} is no path of a tree")));
        }
        match &entry.kind {
            TreeKind::Link { target } => {
                let fits = (1..=LONGEST_TARGET).contains(&target.len()) && !target.contains('\0');
                if fits { Ok(()) } else { Err(damaged("a link leads nowhere")) }
            }
            _ if entry.mode > 0o7777 => Err(damaged("a mode is none")),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for TreeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(damaged("a file ends early"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: TreeKind) -> TreeEntry {
        TreeEntry { path: path.into(), kind, mode: 0o644, uid: 1000, gid: 7, mtime: 5 }
    }

    fn tree() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_entry(&mut bytes, &entry("", TreeKind::Directory)).expect("written");
        write_entry(&mut bytes, &entry("a", TreeKind::File { size: 6 })).expect("written");
        write_content(&mut bytes, &b"four"[..], 6).expect("written");
        write_entry(&mut bytes, &entry("a b/ü", TreeKind::Link { target: "/x//../y".into() }))
            .expect("written");
        write_end(&mut bytes).expect("written");
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = tree();
        let mut reader = TreeReader::new(&bytes[..]);
        assert_eq!(reader.next_entry().expect("a root").expect("one").path, "");
        assert_eq!(reader.next_entry().expect("a file").expect("one").kind, TreeKind::File { size: 6 });
        let mut text = Vec::new();
        reader.read_to_end(&mut text).expect("its bytes");
        assert_eq!(text, b"four\0\0");
        assert_eq!(reader.next_entry().expect("a link").expect("one").path, "a b/ü");
        assert_eq!(reader.next_entry().expect("the end"), None);
        // Passing over a file is reading it.
        let mut reader = TreeReader::new(&bytes[..]);
        let paths: Vec<_> =
            std::iter::from_fn(|| reader.next_entry().expect("whole")).map(|one| one.path).collect();
        assert_eq!(paths, ["", "a", "a b/ü"]);
    }

    #[test]
    fn what_is_cut_off_or_leads_elsewhere_is_refused() {
        let bytes = tree();
        for length in 0..bytes.len() {
            let mut reader = TreeReader::new(&bytes[..length]);
            let end = loop {
                match reader.next_entry() {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert!(end.is_err(), "{length}");
        }
        for path in ["/etc", "..", "a/../b", "a//b", "a/", "./a", "a\0b", ""] {
            let mut bytes = Vec::new();
            write_entry(&mut bytes, &entry("", TreeKind::Directory)).expect("written");
            write_entry(&mut bytes, &entry(path, TreeKind::Directory)).expect("written");
            let mut reader = TreeReader::new(&bytes[..]);
            assert!(reader.next_entry().is_ok() && reader.next_entry().is_err(), "{path:?}");
        }
        let mut first = Vec::new();
        write_entry(&mut first, &entry("", TreeKind::Link { target: "/".into() })).expect("written");
        assert!(TreeReader::new(&first[..]).next_entry().is_err(), "a volume is a directory");
        let endless = io::BufReader::new(io::repeat(b'{').take(1 << 30));
        assert!(TreeReader::new(endless).next_entry().is_err());
        for bad in ["", ".x", "-x", "a/b", "..", "a b"] {
            assert!(!is_volume(bad), "{bad}");
        }
    }
}
