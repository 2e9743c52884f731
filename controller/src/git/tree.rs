//! The tree of a pushed commit, read from git's objects; those of a push that is not accepted yet included.
//!
//! In: a repository, the push's quarantine, a commit. Out: a listing, file contents. Everything here blocks.

use super::lfs::{MAX_POINTER, Objects, Pointer};
use berth_buildpacks::{Entry, EntryKind, READ_LIMIT, SourceTree, TreeError};
use git2::{ObjectType, Odb, Oid, Repository};
use std::path::{Path, PathBuf};

/// Most files of a tree. A tree that names itself many times grows without bound from a few objects.
pub(super) const MAX_ENTRIES: usize = 500_000;
/// Deepest directory.
pub(super) const MAX_DEPTH: usize = 256;
/// Longest path in bytes, as Linux has it.
pub(super) const MAX_PATH: usize = 4096;
/// Most bytes of all files together.
pub(super) const MAX_BYTES: u64 = 8 << 30;

/// Length of the ids of large files; git's own (SHA-1) have 40.
const LFS_ID: usize = 64;

/// Where a commit is.
#[derive(Clone, Debug)]
pub struct Source {
    /// The bare repository.
    pub repository: PathBuf,
    /// Object directories besides the repository's own: the quarantine of a push.
    pub objects: Vec<PathBuf>,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The directory of its tree that is the app; `None` is all of it.
    pub directory: Option<String>,
}

/// Why a commit's tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Git's objects.
    #[error("cannot read commit {commit}: {source}")]
    Git {
        /// Which.
        commit: String,
        /// What libgit2 says.
        source: git2::Error,
    },
    /// A name that no app needs and that could lead out of the app's directory.
    #[error("the commit has a path that cannot be checked out safely: {path:?} ({reason})")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An annotated tag, say. Git keeps only commits in branches, and would say so after all the work.
    #[error("{0} is a {1}, not a commit; push the commit it names: git push paas NAME^{{commit}}:BRANCH")]
    NoCommit(String, &'static str),
    /// There is no such directory.
    #[error(
        "the commit has no directory {0:?}, which build-dir names; commit it, or: berth builder:set APP build-dir DIR"
    )]
    NoDirectory(String),
    /// It is too big.
    #[error("the commit is too big: {0}")]
    TooBig(String),
}

/// A commit's tree.
pub struct GitTree {
    repository: Repository,
    entries: Vec<Entry>,
    /// Object id of the tree: equal ids, equal trees.
    pub id: String,
    source: Source,
    /// Paths of pointers to large files that are not here.
    missing: Vec<String>,
}

impl Source {
    fn open(&self) -> Result<Repository, git2::Error> {
        let repository = Repository::open_bare(&self.repository)?;
        let odb = repository.odb()?;
        for dir in &self.objects {
            odb.add_disk_alternate(&dir.to_string_lossy())?;
        }
        drop(odb);
        Ok(repository)
    }

    fn tree_id(&self, repository: &Repository) -> Result<Oid, git2::Error> {
        let object = repository.find_object(Oid::from_str(&self.commit)?, None)?;
        Ok(object.peel_to_tree()?.id())
    }

    /// The text of `name`, if the commit has this file and nothing else. Reads no more than that.
    pub fn only_file(&self, name: &str) -> Result<Option<String>, SourceError> {
        let git = |source| SourceError::Git { commit: self.commit.clone(), source };
        let repository = self.open().map_err(git)?;
        let tree = repository.find_tree(self.tree_id(&repository).map_err(git)?).map_err(git)?;
        let Some(entry) = tree.get_name(name).filter(|_| tree.len() == 1) else { return Ok(None) };
        let odb = repository.odb().map_err(git)?;
        if !size_of(&odb, entry.id()).is_ok_and(|size| size <= READ_LIMIT) {
            return Ok(None);
        }
        let Ok(blob) = repository.find_blob(entry.id()) else { return Ok(None) };
        Ok(std::str::from_utf8(blob.content()).ok().map(str::to_owned))
    }

    /// Whether a branch may hold the object.
    pub fn check_commit(&self) -> Result<(), SourceError> {
        let git = |source| SourceError::Git { commit: self.commit.clone(), source };
        let repository = self.open().map_err(git)?;
        let kind = Oid::from_str(&self.commit).and_then(|id| repository.find_object(id, None));
        match kind.map_err(git)?.kind() {
            Some(ObjectType::Commit) => Ok(()),
            Some(ObjectType::Tag) => Err(SourceError::NoCommit(self.commit.clone(), "tag object")),
            _ => Err(SourceError::NoCommit(self.commit.clone(), "tree or file")),
        }
    }

    /// Reads the listing of the commit's tree.
    pub fn tree(&self) -> Result<GitTree, SourceError> {
        let git = |source| SourceError::Git { commit: self.commit.clone(), source };
        let repository = self.open().map_err(git)?;
        let mut id = self.tree_id(&repository).map_err(git)?;
        if let Some(directory) = &self.directory {
            let top = repository.find_tree(id).map_err(git)?;
            let entry = top.get_path(Path::new(directory)).ok();
            let entry = entry.filter(|entry| entry.kind() == Some(ObjectType::Tree));
            id = entry.ok_or_else(|| SourceError::NoDirectory(directory.clone()))?.id();
        }
        let mut entries = Vec::new();
        {
            let odb = repository.odb().map_err(git)?;
            let mut bytes = 0;
            let mut waiting = vec![(String::new(), id, 1)];
            while let Some((prefix, id, depth)) = waiting.pop() {
                if depth > MAX_DEPTH {
                    return Err(SourceError::TooBig(format!(
                        "directories are nested deeper than {MAX_DEPTH}"
                    )));
                }
                let tree = repository.find_tree(id).map_err(git)?;
                for entry in &tree {
                    let path = path_of(&prefix, entry.name_bytes())?;
                    let kind = match entry.filemode() {
                        0o040_000 => {
                            waiting.push((format!("{path}/"), entry.id(), depth + 1));
                            // Empty directories count too, or a tree of nothing but them would never end.
                            if waiting.len() + entries.len() > MAX_ENTRIES {
                                return Err(too_many());
                            }
                            continue;
                        }
                        0o100_755 => EntryKind::Executable,
                        0o120_000 => EntryKind::Symlink,
                        0o160_000 => EntryKind::Submodule,
                        _ => EntryKind::File,
                    };
                    let size = match kind {
                        EntryKind::Submodule => 0,
                        _ => size_of(&odb, entry.id()).map_err(git)?,
                    };
                    bytes += size;
                    entries.push(Entry { path, kind, size, id: entry.id().to_string() });
                    if entries.len() > MAX_ENTRIES {
                        return Err(too_many());
                    }
                    if bytes > MAX_BYTES {
                        return Err(SourceError::TooBig(format!(
                            "its files have more than {} GiB",
                            MAX_BYTES >> 30
                        )));
                    }
                }
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut tree =
            GitTree { repository, entries, id: id.to_string(), source: self.clone(), missing: Vec::new() };
        tree.resolve_lfs();
        Ok(tree)
    }
}

fn too_many() -> SourceError {
    SourceError::TooBig(format!("it has more than {MAX_ENTRIES} files and directories"))
}

fn size_of(odb: &Odb<'_>, id: Oid) -> Result<u64, git2::Error> {
    match odb.read_header(id)? {
        (size, ObjectType::Blob) => Ok(size as u64),
        (_, other) => Err(git2::Error::from_str(&format!("{id} should be a file but is a {other}"))),
    }
}

fn path_of(prefix: &str, name: &[u8]) -> Result<String, SourceError> {
    let shown = || format!("{prefix}{}", String::from_utf8_lossy(name));
    let refuse = |reason| Err(SourceError::Path { path: shown().chars().take(200).collect(), reason });
    let Ok(name) = std::str::from_utf8(name) else { return refuse("it is not UTF-8") };
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return refuse("it is no plain name");
    }
    if name.eq_ignore_ascii_case(".git") {
        return refuse("it would be a repository's own directory");
    }
    if prefix.len() + name.len() > MAX_PATH {
        return refuse("it is longer than 4096 bytes");
    }
    Ok(format!("{prefix}{name}"))
}

impl GitTree {
    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// A whole blob.
    pub(super) fn blob(&self, id: &str) -> Result<Vec<u8>, git2::Error> {
        Ok(self.repository.find_blob(Oid::from_str(id)?)?.content().to_vec())
    }

    /// A file at the top of the commit's tree, wherever the app is in it.
    pub(super) fn top_file(&self, name: &str) -> Result<Option<Vec<u8>>, git2::Error> {
        let tree = self.repository.find_tree(self.source.tree_id(&self.repository)?)?;
        let Some(entry) = tree.get_name(name) else { return Ok(None) };
        let blob = self.repository.find_blob(entry.id())?;
        if blob.size() as u64 > READ_LIMIT {
            return Err(git2::Error::from_str(&format!("{name} is larger than {} MiB", READ_LIMIT >> 20)));
        }
        Ok(Some(blob.content().to_vec()))
    }

    /// Whether any file of the tree may stand for a large one (gitattributes(5)).
    fn uses_lfs(&self) -> bool {
        let says_so = |bytes: &[u8]| bytes.windows(10).any(|word| word == b"filter=lfs");
        let own = self.entries.iter().filter(|entry| {
            (entry.path == ".gitattributes" || entry.path.ends_with("/.gitattributes"))
                && entry.size < READ_LIMIT
        });
        own.map(|entry| self.blob(&entry.id)).any(|bytes| bytes.is_ok_and(|bytes| says_so(&bytes)))
            || self.source.directory.is_some()
                && self
                    .top_file(".gitattributes")
                    .is_ok_and(|bytes| bytes.is_some_and(|bytes| says_so(&bytes)))
    }

    /// Puts large files that are here in the place of their pointers: such an entry has the id and the size of the contents.
    fn resolve_lfs(&mut self) {
        if !self.uses_lfs() {
            return;
        }
        let objects = Objects::of(&self.source.repository);
        let mut found = 0;
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            if !matches!(entry.kind, EntryKind::File | EntryKind::Executable) || entry.size > MAX_POINTER {
                continue;
            }
            let Some(pointer) = self.blob(&entry.id).ok().and_then(|bytes| Pointer::parse(&bytes)) else {
                continue;
            };
            match objects.size(&pointer.oid) {
                Ok(Some(size)) if size == pointer.size => {
                    found += 1;
                    let entry = &mut self.entries[at];
                    (entry.id, entry.size) = (pointer.oid, size);
                }
                _ => self.missing.push(entry.path.clone()),
            }
        }
        // The same tree with more of its files here is another one.
        self.id = format!("{}+{found}", self.id);
    }

    /// What an entry's id stands for, if that is a large file.
    pub(super) fn large(&self, id: &str) -> std::io::Result<Option<std::fs::File>> {
        if id.len() != LFS_ID {
            return Ok(None);
        }
        let found = Objects::of(&self.source.repository).open(id).map_err(std::io::Error::other)?;
        let gone = || std::io::Error::other(format!("the large file {id} is gone"));
        found.map(|(file, _)| Some(file)).ok_or_else(gone)
    }

    /// What its author should know before the build: contents that are not here.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if self.missing.is_empty() {
            return Vec::new();
        }
        let shown: Vec<_> = self.missing.iter().take(5).map(String::as_str).collect();
        let more = match self.missing.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        vec![format!(
            "{}{more} stored by Git LFS: only pointers came, not the contents; send them with `git lfs push --all paas`, then \
             push again or `berth ps:rebuild`",
            shown.join(", ")
        )]
    }
}

impl SourceTree for GitTree {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        let found = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        let Ok(at) = found else { return Ok(None) };
        let entry = &self.entries[at];
        let refuse = |reason: String| TreeError { path: path.to_owned(), reason };
        if entry.kind == EntryKind::Submodule {
            return Ok(None);
        }
        if entry.size > READ_LIMIT {
            return Err(refuse(format!("it is larger than {} MiB", READ_LIMIT >> 20)));
        }
        if let Some(mut file) = self.large(&entry.id).map_err(|error| refuse(error.to_string()))? {
            let mut bytes = Vec::new();
            let read = std::io::Read::read_to_end(&mut file, &mut bytes);
            return read.map(|_| Some(bytes)).map_err(|error| refuse(error.to_string()));
        }
        self.blob(&entry.id).map(Some).map_err(|error| refuse(error.message().to_owned()))
    }
}
