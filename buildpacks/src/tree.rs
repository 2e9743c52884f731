//! What a builder may look at: the names of a source tree and the contents of small files.
//!
//! In: a listing with content ids. Out: text of manifests. Nothing is written and nothing outside the tree is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Longest file that [`SourceTree::read`] gives, in bytes. Manifests and lock files are smaller; a longer one is an error.
pub const READ_LIMIT: u64 = 8 * 1024 * 1024;

/// One file of a tree. Directories are not listed: they exist because files are in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, `/`-separated, without `.` or `..`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes; 0 for a submodule.
    pub size: u64,
    /// Hexadecimal id of the contents: equal ids, equal contents (a git object id will do).
    pub id: String,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A file with its execute bits set.
    Executable,
    /// A symbolic link; its contents are the target.
    Symlink,
    /// A commit of another repository, whose files are not here.
    Submodule,
}

impl EntryKind {
    /// One letter for hashing.
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::File => "f",
            Self::Executable => "x",
            Self::Symlink => "l",
            Self::Submodule => "s",
        }
    }
}

/// A file of the tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path} of the source tree: {reason}")]
pub struct TreeError {
    /// Which file.
    pub path: String,
    /// What went wrong, as a clause.
    pub reason: String,
}

/// A source tree: a git tree, a directory or, in tests, memory.
pub trait SourceTree {
    /// Every file, sorted by path.
    fn entries(&self) -> &[Entry];

    /// The contents of a file (a link is not followed), or `None` if there is no such file. Fails for files larger
    /// than [`READ_LIMIT`].
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError>;
}

/// What builders ask a tree.
impl dyn SourceTree + '_ {
    /// The entry with exactly this path.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let entries = self.entries();
        entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok().map(|at| &entries[at])
    }

    /// Whether there is a file (or a link, which may lead to one) with exactly this path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.entry(path).is_some_and(|entry| entry.kind != EntryKind::Submodule)
    }

    /// Whether any file is below this directory.
    #[must_use]
    pub fn has_dir(&self, dir: &str) -> bool {
        let prefix = format!("{dir}/");
        self.entries().iter().any(|entry| entry.path.starts_with(&prefix))
    }

    /// Names of files at the top of the tree.
    pub fn top(&self) -> impl Iterator<Item = &str> {
        self.entries().iter().map(|entry| entry.path.as_str()).filter(|path| !path.contains('/'))
    }

    /// A file as text; `None` if there is none. A byte order mark is dropped; text that is not UTF-8 is an error.
    pub fn text(&self, path: &str) -> Result<Option<String>, TreeError> {
        if !self.has(path) {
            return Ok(None);
        }
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        let text = decode(bytes).map_err(|reason| TreeError { path: path.to_owned(), reason })?;
        Ok(Some(text))
    }

    /// A file as text for a look inside it; `None` too if it is too large or no text.
    #[must_use]
    pub fn glance(&self, path: &str) -> Option<String> {
        let entry = self.entry(path)?;
        if entry.size > READ_LIMIT {
            return None;
        }
        let bytes = self.read(path).ok()??;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// UTF-8, or UTF-16 with a byte order mark: PowerShell's `>` writes that into requirements.txt.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let utf16 = |to_u16: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..].chunks_exact(2).map(|pair| to_u16([pair[0], pair[1]])).collect();
        String::from_utf16(&units).map_err(|_| "it begins as UTF-16 but is not; save it as UTF-8".to_owned())
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        _ => String::from_utf8(bytes)
            .map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
            .map_err(|error| {
                let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count();
                format!("it is not UTF-8 (line {}); save it as UTF-8", line + 1)
            }),
    }
}

/// A tree in memory, for tests and trials.
#[derive(Clone, Debug, Default)]
pub struct MemoryTree {
    entries: Vec<Entry>,
    contents: BTreeMap<String, Vec<u8>>,
}

impl MemoryTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree with this file as well (in place of one with the same path).
    #[must_use]
    pub fn with(self, path: &str, contents: &str) -> Self {
        self.with_kind(path, EntryKind::File, contents.as_bytes())
    }

    /// The tree with this entry as well.
    #[must_use]
    pub fn with_kind(mut self, path: &str, kind: EntryKind, contents: &[u8]) -> Self {
        let entry =
            Entry { path: path.to_owned(), kind, size: contents.len() as u64, id: content_id(contents) };
        match self.entries.binary_search_by(|other| other.path.as_str().cmp(path)) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
        self.contents.insert(path.to_owned(), contents.to_vec());
        self
    }
}

impl SourceTree for MemoryTree {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        Ok(self.contents.get(path).cloned())
    }
}

/// A directory as a tree, read once when it is opened (`.git` left out). Contents are read again when asked for.
#[derive(Clone, Debug)]
pub struct DirectoryTree {
    root: std::path::PathBuf,
    entries: Vec<Entry>,
}

impl DirectoryTree {
    /// Lists and hashes every file below `root`. Links are listed, never followed.
    pub fn open(root: &Path) -> Result<Self, TreeError> {
        let mut entries = Vec::new();
        list(root, "", &mut entries)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { root: root.to_owned(), entries })
    }
}

impl SourceTree for DirectoryTree {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        let tree: &dyn SourceTree = self;
        // Only listed names are opened, so no path can lead out of the tree.
        let Some(entry) = tree.entry(path) else { return Ok(None) };
        let refuse = |reason: String| TreeError { path: path.to_owned(), reason };
        if entry.size > READ_LIMIT {
            return Err(refuse(format!("it has {} bytes; at most {READ_LIMIT} can be read", entry.size)));
        }
        contents(&self.root.join(path), entry.kind).map(Some).map_err(|error| refuse(error.to_string()))
    }
}

fn contents(path: &Path, kind: EntryKind) -> std::io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    match kind {
        EntryKind::Symlink => Ok(std::fs::read_link(path)?.into_os_string().into_vec()),
        EntryKind::Submodule => Ok(Vec::new()),
        EntryKind::File | EntryKind::Executable => std::fs::read(path),
    }
}

fn list(dir: &Path, prefix: &str, entries: &mut Vec<Entry>) -> Result<(), TreeError> {
    use std::os::unix::fs::PermissionsExt as _;
    let refuse = |path: &str, reason: String| TreeError { path: path.to_owned(), reason };
    for found in std::fs::read_dir(dir).map_err(|error| refuse(prefix, error.to_string()))? {
        let found = found.map_err(|error| refuse(prefix, error.to_string()))?;
        let name = found.file_name();
        let Some(name) = name.to_str() else {
            return Err(refuse(prefix, format!("the name {} in it is not UTF-8", name.to_string_lossy())));
        };
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let metadata = found.path().symlink_metadata().map_err(|error| refuse(&path, error.to_string()))?;
        let kind = if metadata.is_symlink() {
            EntryKind::Symlink
        } else if metadata.is_dir() {
            if path != ".git" {
                list(&found.path(), &path, entries)?;
            }
            continue;
        } else if !metadata.is_file() {
            continue; // sockets and devices are no source
        } else if metadata.permissions().mode() & 0o111 != 0 {
            EntryKind::Executable
        } else {
            EntryKind::File
        };
        let bytes = contents(&found.path(), kind).map_err(|error| refuse(&path, error.to_string()))?;
        entries.push(Entry { path, kind, size: bytes.len() as u64, id: content_id(&bytes) });
    }
    Ok(())
}

fn content_id(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_windows_is_understood() {
        let utf16: Vec<u8> =
            [0xff, 0xfe].into_iter().chain("flask\r\n".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let tree =
            MemoryTree::new().with_kind("requirements.txt", EntryKind::File, &utf16).with("b", "\u{feff}x");
        let tree: &dyn SourceTree = &tree;
        assert_eq!(tree.text("requirements.txt").expect("decodes").as_deref(), Some("flask\r\n"));
        assert_eq!(tree.text("b").expect("decodes").as_deref(), Some("x"));
        assert_eq!(tree.text("c").expect("no error").as_deref(), None);
    }

    #[test]
    fn text_that_is_none_is_refused_with_its_line() {
        let tree = MemoryTree::new().with_kind("Procfile", EntryKind::File, b"web: a\n\xff\n");
        let tree: &dyn SourceTree = &tree;
        let error = tree.text("Procfile").expect_err("no UTF-8");
        assert_eq!(
            error.to_string(),
            "cannot read Procfile of the source tree: it is not UTF-8 (line 2); save it as UTF-8"
        );
    }

    #[test]
    fn a_directory_lists_as_memory_does() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        std::fs::create_dir_all(dir.path().join(".git")).expect("made");
        std::fs::write(dir.path().join(".git/config"), "x").expect("written");
        std::fs::write(dir.path().join("a/b/c"), "hello").expect("written");
        std::os::unix::fs::symlink("../../etc/passwd", dir.path().join("link")).expect("linked");
        let tree = DirectoryTree::open(dir.path()).expect("lists");
        let memory = MemoryTree::new().with("a/b/c", "hello").with_kind(
            "link",
            EntryKind::Symlink,
            b"../../etc/passwd",
        );
        assert_eq!(tree.entries(), memory.entries());
        assert_eq!(tree.read("link").expect("reads").as_deref(), Some(&b"../../etc/passwd"[..]));
        assert_eq!(tree.read("../x").expect("no error"), None);
    }
}
