//! An archive becomes a commit.
//!
//! In: a tar (plain or gzip) or zip file of anybody's making. Out: blobs, trees and a commit in a bare repository; nothing is
//! ever unpacked to the disk, so no path and no link of the archive can lead anywhere. Everything here blocks.

use super::tree::{MAX_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_PATH};
use crate::archives::read_start;
use flate2::read::MultiGzDecoder;
use git2::{FileMode, Oid, Repository, Signature};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Longest target of a symbolic link in bytes.
const MAX_LINK: u64 = 4096;

/// How an archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// POSIX tar.
    Tar,
    /// The same, through gzip.
    TarGz,
    /// Zip, stored or deflated.
    Zip,
}

impl Kind {
    /// `tar`, `tar.gz` (or `tgz`), `zip`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "tar" => Some(Self::Tar),
            "tar.gz" | "tgz" => Some(Self::TarGz),
            "zip" => Some(Self::Zip),
            _ => None,
        }
    }

    /// By its first bytes, if it is any.
    fn of(file: &mut File) -> io::Result<Option<Self>> {
        let mut start = [0; 262];
        let length = read_start(file, &mut start)?;
        Ok(match &start[..length] {
            [0x1f, 0x8b, ..] => Some(Self::TarGz),
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(Self::Zip),
            bytes if bytes.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            _ => None,
        })
    }
}

/// Why an archive makes no commit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// It is damaged, or not of the kind it should be.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// An entry no app needs.
    #[error("the archive has {path:?}, {reason}")]
    Entry {
        /// Its name in the archive.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is too big, or empty.
    #[error("the archive {0}")]
    Size(String),
    /// The repository.
    #[error("cannot write the commit: {0}")]
    Git(#[from] git2::Error),
}

/// What there is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    id: Oid,
    mode: FileMode,
}

/// The files seen so far.
struct Files<'r> {
    repository: &'r Repository,
    nodes: BTreeMap<String, Node>,
    bytes: u64,
}

impl Files<'_> {
    fn room_for(&mut self, bytes: u64) -> Result<(), CommitError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_BYTES {
            return Err(CommitError::Size(format!("holds more than {} GiB", MAX_BYTES >> 30)));
        }
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(CommitError::Size(format!("holds more than {MAX_ENTRIES} files")));
        }
        Ok(())
    }

    /// Adds a file of `size` bytes, which `content` must have.
    fn file(
        &mut self,
        path: String,
        size: u64,
        executable: bool,
        content: impl Read,
    ) -> Result<(), CommitError> {
        self.room_for(size)?;
        let unreadable = |error: io::Error| CommitError::Unreadable(error.to_string());
        let length = usize::try_from(size).map_err(|error| CommitError::Size(error.to_string()))?;
        let odb = self.repository.odb()?;
        let mut writer = odb.writer(length, git2::ObjectType::Blob)?;
        let written = io::copy(&mut content.take(size), &mut writer).map_err(unreadable)?;
        if written != size {
            return Err(CommitError::Unreadable(format!("{path} ends after {written} of {size} bytes")));
        }
        let mode = if executable { FileMode::BlobExecutable } else { FileMode::Blob };
        let node = Node { id: writer.finalize()?, mode };
        self.nodes.insert(path, node);
        Ok(())
    }

    fn link(&mut self, path: String, target: &[u8]) -> Result<(), CommitError> {
        self.room_for(target.len() as u64)?;
        let node = Node { id: self.repository.blob(target)?, mode: FileMode::Link };
        self.nodes.insert(path, node);
        Ok(())
    }

    /// A hard link: the same content once more.
    fn again(&mut self, path: String, target: &str) -> Result<(), CommitError> {
        self.room_for(0)?;
        let node = self.nodes.get(target).copied().ok_or(CommitError::Entry {
            path: path.clone(),
            reason: "a hard link to nothing that came before it",
        })?;
        self.nodes.insert(path, node);
        Ok(())
    }
}

/// A path of an archive, relative and without `.`; `None` for the top itself.
fn clean(raw: &[u8]) -> Result<Option<String>, CommitError> {
    let shown = String::from_utf8_lossy(raw);
    let refuse = |reason| {
        let path: String = shown.chars().filter(|c| !c.is_control()).take(200).collect();
        CommitError::Entry { path, reason }
    };
    let path = std::str::from_utf8(raw).map_err(|_| refuse("a name that is not UTF-8"))?;
    if path.starts_with('/') {
        return Err(refuse("an absolute path"));
    }
    if path.len() > MAX_PATH {
        return Err(refuse("a path of more than 4096 bytes"));
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(refuse("a path that leads out of it")),
            part if part.eq_ignore_ascii_case(".git") => {
                return Err(refuse("a repository inside; leave .git out"));
            }
            part if part.len() > 255 => return Err(refuse("a name of more than 255 bytes")),
            part if part.contains(['\0', '\n']) => return Err(refuse("a name with a line break or NUL")),
            part => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(refuse("directories nested deeper than 256"));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

fn read_tar(files: &mut Files<'_>, archive: impl Read) -> Result<(), CommitError> {
    let unreadable = |error: io::Error| CommitError::Unreadable(error.to_string());
    // Headers and padding count too, or an archive of nothing but them would never end.
    let mut archive = tar::Archive::new(archive.take(MAX_BYTES + (MAX_ENTRIES as u64) * 2048));
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let kind = entry.header().entry_type();
        let Some(path) = clean(&entry.path_bytes())? else { continue };
        let refuse = |path: String, reason| Err(CommitError::Entry { path, reason });
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        if kind.is_file() || kind.is_contiguous() {
            let executable = entry.header().mode().map_err(unreadable)? & 0o111 != 0;
            let size = entry.size();
            files.file(path, size, executable, &mut entry)?;
        } else if kind.is_symlink() {
            match target {
                Some(target) if target.len() as u64 <= MAX_LINK => files.link(path, &target)?,
                _ => return refuse(path, "a link that leads nowhere"),
            }
        } else if kind.is_hard_link() {
            match target.map(|target| clean(&target)).transpose()?.flatten() {
                Some(target) => files.again(path, &target)?,
                None => return refuse(path, "a hard link that leads nowhere"),
            }
        } else if kind.is_gnu_sparse() {
            return refuse(path, "a sparse file; make the archive without --sparse");
        } else if kind.is_block_special() || kind.is_character_special() || kind.is_fifo() {
            return refuse(path, "a device or pipe");
        }
        // Directories come with their files; what else there is (comments, volume labels) is no file.
    }
    Ok(())
}

fn read_zip(files: &mut Files<'_>, archive: File) -> Result<(), CommitError> {
    let unreadable = |error: zip::result::ZipError| CommitError::Unreadable(error.to_string());
    let mut archive = zip::ZipArchive::new(archive).map_err(unreadable)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(unreadable)?;
        let Some(path) = clean(entry.name_raw())? else { continue };
        if entry.is_dir() {
            continue;
        }
        let mode = entry.unix_mode().unwrap_or(0o100_644);
        let size = entry.size();
        if mode & 0o170_000 == 0o120_000 {
            if size > MAX_LINK {
                return Err(CommitError::Entry { path, reason: "a link that leads nowhere" });
            }
            let mut target = Vec::new();
            let read = entry.read_to_end(&mut target);
            read.map_err(|error| CommitError::Unreadable(error.to_string()))?;
            files.link(path, &target)?;
        } else {
            files.file(path, size, mode & 0o111 != 0, &mut entry)?;
        }
    }
    Ok(())
}

/// Archives of whole repositories have everything in one directory: that is left out.
fn top_of(nodes: &BTreeMap<String, Node>) -> Option<String> {
    let mut tops = nodes.keys().map(|path| path.split_once('/').map(|(top, _)| top));
    let first = tops.next()??;
    tops.all(|top| top == Some(first)).then(|| format!("{first}/"))
}

/// Makes trees of `nodes`, whose paths begin with `prefix` and are sorted.
fn write_tree(repository: &Repository, nodes: &[(&str, Node)], prefix: usize) -> Result<Oid, CommitError> {
    let mut builder = repository.treebuilder(None)?;
    let mut rest = nodes;
    while let Some((path, node)) = rest.first() {
        match path[prefix..].split_once('/') {
            None => {
                builder.insert(&path[prefix..], node.id, node.mode.into())?;
                rest = &rest[1..];
            }
            Some((name, _)) => {
                let end = prefix + name.len() + 1;
                let start = &path[..end];
                let count = rest.iter().take_while(|(path, _)| path.starts_with(start)).count();
                if builder.get(name)?.is_some() {
                    let path = path[..end - 1].to_owned();
                    return Err(CommitError::Entry { path, reason: "a file and a directory at once" });
                }
                let tree = write_tree(repository, &rest[..count], end)?;
                builder.insert(name, tree, FileMode::Tree.into())?;
                rest = &rest[count..];
            }
        }
    }
    Ok(builder.write()?)
}

/// Whose commit it is, and after which.
#[derive(Clone, Debug)]
pub(crate) struct Authorship {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) message: String,
    /// 40 hexadecimal digits.
    pub(crate) parent: Option<String>,
}

/// Commits the files of an archive, whose kind is found out by itself if it is not given. `None` if the parent has the
/// very same files. No branch is changed.
pub(crate) fn commit_archive(
    repository: &Path,
    mut archive: File,
    kind: Option<Kind>,
    by: &Authorship,
) -> Result<Option<String>, CommitError> {
    let repository = Repository::open_bare(repository)?;
    let unreadable = |error: io::Error| CommitError::Unreadable(error.to_string());
    archive.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let found = Kind::of(&mut archive).map_err(unreadable)?;
    let kind = kind.or(found).ok_or_else(|| {
        CommitError::Unreadable(
            "it is neither tar, tar.gz nor zip; name its kind with --archive-type".to_owned(),
        )
    })?;
    let mut files = Files { repository: &repository, nodes: BTreeMap::new(), bytes: 0 };
    match kind {
        Kind::Tar => read_tar(&mut files, io::BufReader::new(archive))?,
        Kind::TarGz => read_tar(&mut files, MultiGzDecoder::new(io::BufReader::new(archive)))?,
        Kind::Zip => read_zip(&mut files, archive)?,
    }
    let nodes = files.nodes;
    if nodes.is_empty() {
        return Err(CommitError::Size("holds no file".to_owned()));
    }
    let top = top_of(&nodes).map_or(0, |top| top.len());
    let mut list: Vec<(&str, Node)> = nodes.iter().map(|(path, node)| (&path[top..], *node)).collect();
    // As git sorts: what is below a directory comes right after it, whatever else begins with its name.
    list.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    let tree = write_tree(&repository, &list, 0)?;
    commit_tree(&repository, tree, by)
}

/// The same with one file whose text is known.
pub(crate) fn commit_file(
    repository: &Path,
    path: &str,
    text: &str,
    by: &Authorship,
) -> Result<Option<String>, CommitError> {
    let repository = Repository::open_bare(repository)?;
    let node = Node { id: repository.blob(text.as_bytes())?, mode: FileMode::Blob };
    let tree = write_tree(&repository, &[(path, node)], 0)?;
    commit_tree(&repository, tree, by)
}

fn commit_tree(repository: &Repository, tree: Oid, by: &Authorship) -> Result<Option<String>, CommitError> {
    let tree = repository.find_tree(tree)?;
    let parent = match &by.parent {
        None => None,
        Some(id) => Some(repository.find_commit(Oid::from_str(id)?)?),
    };
    if parent.as_ref().is_some_and(|parent| parent.tree_id() == tree.id()) {
        return Ok(None);
    }
    let who = Signature::now(&by.name, &by.email)?;
    let parents: Vec<_> = parent.iter().collect();
    let id = repository.commit(None, &who, &who, &by.message, &tree, &parents)?;
    Ok(Some(id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Bench {
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            Repository::init_bare(dir.path()).expect("a repository");
            Self { dir }
        }

        fn commit(&self, bytes: &[u8], parent: Option<String>) -> Result<Option<String>, CommitError> {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(bytes).expect("room");
            let by = Authorship { name: "a".into(), email: "a@b".into(), message: "m".into(), parent };
            commit_archive(self.dir.path(), file, None, &by)
        }

        fn listing(&self, commit: &str) -> Vec<String> {
            let repository = Repository::open_bare(self.dir.path()).expect("ours");
            let commit = repository.find_commit(Oid::from_str(commit).expect("an id")).expect("written");
            let mut seen = Vec::new();
            let walk = |top: &str, entry: &git2::TreeEntry<'_>| {
                if entry.kind() == Some(git2::ObjectType::Blob) {
                    seen.push(format!("{:o} {top}{}", entry.filemode(), entry.name().expect("a name")));
                }
                git2::TreeWalkResult::Ok
            };
            commit.tree().expect("a tree").walk(git2::TreeWalkMode::PreOrder, walk).expect("read");
            seen
        }
    }

    /// Kind, name, mode, link, content.
    type Raw<'a> = (u8, &'a str, u32, &'a str, &'a str);

    /// Raw, as no honest library writes it.
    fn tar_of(entries: &[Raw<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, mode, link, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(tar::EntryType::new(*kind));
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    #[test]
    fn a_tar_becomes_a_tree_and_the_same_again_no_commit() {
        let bench = Bench::new();
        let tar = tar_of(&[
            (b'5', "./", 0o755, "", ""),
            (b'0', "./run.sh", 0o755, "", "#!"),
            (b'0', "./a/b/c.txt", 0o644, "", "c"),
            (b'0', "./a-b", 0o600, "", "x"),
            (b'0', "./a/z", 0o644, "", "z"),
            (b'2', "./link", 0o777, "/etc/passwd", ""),
            (b'1', "./same", 0o644, "a/z", ""),
        ]);
        let commit = bench.commit(&tar, None).expect("a good archive").expect("something new");
        let expected =
            ["100644 a-b", "100644 a/b/c.txt", "100644 a/z", "120000 link", "100755 run.sh", "100644 same"];
        let mut listing = bench.listing(&commit);
        listing.sort_by_key(|line| line[7..].to_owned());
        assert_eq!(listing, expected);
        assert_eq!(bench.commit(&tar, Some(commit)).expect("good"), None);
    }

    #[test]
    fn one_directory_around_everything_is_left_out() {
        let bench = Bench::new();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let tar =
            tar_of(&[(b'0', "repo-1/Procfile", 0o644, "", "web: x"), (b'0', "repo-1/app/x", 0o644, "", "1")]);
        gzip.write_all(&tar).expect("room");
        let commit = bench.commit(&gzip.finish().expect("room"), None).expect("good").expect("new");
        assert_eq!(bench.listing(&commit), ["100644 Procfile", "100644 app/x"]);
    }

    #[test]
    fn a_zip_becomes_a_tree() {
        let bench = Bench::new();
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("bin/x", options.unix_permissions(0o755)).expect("room");
        zip.write_all(b"hello").expect("room");
        zip.start_file("y", options).expect("room");
        zip.add_symlink("l", "bin/x", options).expect("room");
        let bytes = zip.finish().expect("room").into_inner();
        let commit = bench.commit(&bytes, None).expect("good").expect("new");
        assert_eq!(bench.listing(&commit), ["100755 bin/x", "120000 l", "100644 y"]);
    }

    #[test]
    fn hostile_archives_are_refused_with_the_reason() {
        let bench = Bench::new();
        let cases: &[(&[Raw<'_>], &str)] = &[
            (&[(b'0', "../x", 0o644, "", "x")], "leads out"),
            (&[(b'0', "a/../../x", 0o644, "", "x")], "leads out"),
            (&[(b'0', "/etc/passwd", 0o644, "", "x")], "absolute"),
            (&[(b'0', "a/.GIT/hooks/pre-receive", 0o755, "", "x")], ".git"),
            (&[(b'3', "dev", 0o644, "", "")], "device"),
            (&[(b'6', "pipe", 0o644, "", "")], "device or pipe"),
            (&[(b'1', "hard", 0o644, "../../etc/shadow", "")], "leads out"),
            (&[(b'1', "hard", 0o644, "missing", "")], "nothing that came before"),
            (&[(b'0', "a", 0o644, "", "x"), (b'0', "a/b", 0o644, "", "x")], "at once"),
            (&[(b'5', "only", 0o755, "", "")], "no file"),
        ];
        for (entries, words) in cases {
            let error = bench.commit(&tar_of(entries), None).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
        // Trees are written by recursion: the archive must not say how deep.
        let mut deep = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        deep.append_data(&mut header, format!("{}x", "d/".repeat(2000)), io::empty()).expect("room");
        let error = bench.commit(&deep.into_inner().expect("room"), None).expect_err("deep").to_string();
        assert!(error.contains("nested deeper than 256"), "{error}");
        let mut cut = tar_of(&[(b'0', "a", 0o644, "", &"x".repeat(4000))]);
        cut.truncate(2000);
        assert!(bench.commit(&cut, None).is_err(), "cut off");
        assert!(bench.commit(b"hello", None).expect_err("no archive").to_string().contains("neither"));
        assert!(bench.commit(&[], None).is_err());
        let zip = b"PK\x03\x04 but nothing more";
        assert!(bench.commit(zip, None).is_err());
    }
}
