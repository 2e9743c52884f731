//! Volumes on their way out of this machine, and back into it.
//!
//! In: a volume's name. Out: its tree as a stream ([`berth_wire::TreeReader`]); or a volume made of one, whole or not there at all, and never
//! in place of one that is there. Apps may write meanwhile, and an archive may be a stranger's: every directory is reached from
//! the volume's own by `openat2` (openat2(2), Linux 5.6) beneath it and through no link.

use berth_wire::{LONGEST_PATH, TreeEntry, TreeKind, TreeReader, write_content, write_end, write_entry};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

/// Where a volume is made until it is whole: no name of one.
const ASIDE: &str = ".restoring";

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The volumes of this machine, by name.
pub(crate) fn list(volumes: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(volumes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && berth_wire::is_volume(&name)
            && entry.file_type()?.is_dir()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn beneath(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, if path.is_empty() { "." } else { path }, DIRECTORY, Mode::empty(), resolve)
}

/// Whether apps may have taken it away or put something else there.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO)
}

fn entry(path: String, kind: TreeKind, found: &Stat) -> TreeEntry {
    TreeEntry {
        path,
        kind,
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        mtime: found.st_mtime,
    }
}

/// Writes all of a volume. Blocks.
pub(crate) fn pack(volumes: &Path, name: &str, to: &mut impl Write) -> io::Result<()> {
    let root = rustix::fs::open(volumes.join(name), DIRECTORY, Mode::empty())?;
    write_entry(to, &entry(String::new(), TreeKind::Directory, &rustix::fs::fstat(&root)?))?;
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        let directory = match beneath(&root, &path) {
            Err(errno) if is_gone(errno) => continue,
            opened => opened?,
        };
        let mut names = Vec::new();
        for found in Dir::read_from(&directory)? {
            let found = found?;
            let name = found.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match std::str::from_utf8(name) {
                Ok(text) if path.len() + text.len() < LONGEST_PATH => names.push(text.to_owned()),
                Ok(_) => tracing::warn!(
                    volume = name_of(volumes, &path),
                    "left out of a backup: its path is too long"
                ),
                Err(_) => tracing::warn!(
                    volume = name_of(volumes, &path),
                    "left out of a backup: its name is no UTF-8"
                ),
            }
        }
        names.sort();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            match one(&directory, &name, &below, to) {
                Ok(true) => pending.push(below),
                Ok(false) => {}
                Err(Fault::Errno(errno)) if is_gone(errno) => {}
                Err(Fault::Errno(errno)) => return Err(errno.into()),
                Err(Fault::Io(error)) => return Err(error),
            }
        }
    }
    write_end(to)
}

fn name_of(volumes: &Path, path: &str) -> String {
    volumes.join(path).display().to_string().chars().take(200).collect()
}

enum Fault {
    Errno(Errno),
    Io(io::Error),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes what is called `name` in a directory. Gives whether it is one itself.
fn one(directory: &OwnedFd, name: &str, path: &str, to: &mut impl Write) -> Result<bool, Fault> {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => TreeKind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            match target.into_string() {
                Ok(target) => TreeKind::Link { target },
                Err(_) => return Ok(false), // no UTF-8: it could not be named either
            }
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            let found = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
                let size = u64::try_from(found.st_size).unwrap_or(0);
                write_entry(to, &entry(path.to_owned(), TreeKind::File { size }, &found))?;
                write_content(to, File::from(file), size)?;
            }
            return Ok(false);
        }
        _ => return Ok(false), // sockets and pipes are nothing without who made them
    };
    let is_directory = kind == TreeKind::Directory;
    write_entry(to, &entry(path.to_owned(), kind, &found))?;
    Ok(is_directory)
}

/// Makes the volume `name` of a tree. Errors: `AlreadyExists` if there is one, which is left as it is. Blocks.
pub(crate) fn unpack(volumes: &Path, name: &str, from: impl BufRead) -> io::Result<()> {
    /// One at a time: there is one place aside.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let there = || io::Error::new(io::ErrorKind::AlreadyExists, "there is a volume of that name already");
    if fs::symlink_metadata(volumes.join(name)).is_ok() {
        return Err(there());
    }
    fs::create_dir_all(volumes)?;
    let aside = volumes.join(ASIDE);
    // Of one that was killed.
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir(&aside)?,
    }
    let made = fill(&aside, from).and_then(|()| {
        let parent = rustix::fs::open(volumes, DIRECTORY, Mode::empty())?;
        match rustix::fs::renameat_with(&parent, ASIDE, &parent, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(there()),
            renamed => Ok(renamed.and_then(|()| rustix::fs::fsync(&parent))?),
        }
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&aside); // the next one does it otherwise
    }
    made
}

fn fill(aside: &Path, from: impl BufRead) -> io::Result<()> {
    let root = rustix::fs::open(aside, DIRECTORY, Mode::empty())?;
    let mut tree = TreeReader::new(from);
    let mut parent: Option<(String, OwnedFd)> = None;
    while let Some(entry) = tree.next_entry()? {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let mode = Mode::from_raw_mode(entry.mode);
        if entry.path.is_empty() {
            rustix::fs::fchown(&root, Some(uid), Some(gid))?;
            rustix::fs::fchmod(&root, mode)?;
            continue;
        }
        let (above, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        if parent.as_ref().is_none_or(|(open, _)| open != above) {
            parent = Some((above.to_owned(), beneath(&root, above)?));
        }
        let Some((_, directory)) = &parent else { continue };
        match &entry.kind {
            TreeKind::Link { target } => {
                rustix::fs::symlinkat(target.as_str(), directory, name)?;
                rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            TreeKind::Directory => {
                rustix::fs::mkdirat(directory, name, Mode::RWXU)?;
                let made = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
                dress(&made, uid, gid, mode)?;
            }
            TreeKind::File { .. } => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
                let mut file = File::from(made);
                io::copy(&mut tree, &mut file)?;
                dress(&file, uid, gid, mode)?;
                let at = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
                rustix::fs::futimens(&file, &Timestamps { last_access: at, last_modification: at })?;
            }
        }
    }
    Ok(rustix::fs::syncfs(&root)?)
}

/// The owner first: changing it takes set-id bits away (chown(2)).
fn dress(made: impl AsFd, uid: Uid, gid: Gid, mode: Mode) -> io::Result<()> {
    rustix::fs::fchown(&made, Some(uid), Some(gid))?;
    Ok(rustix::fs::fchmod(&made, mode)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn packed(volumes: &Path, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(volumes, name, &mut bytes).expect("packed");
        bytes
    }

    fn volume(volumes: &Path) {
        let data = volumes.join("data");
        fs::create_dir_all(data.join("sub/deep")).expect("made");
        fs::write(data.join("sub/deep/file"), "text").expect("written");
        fs::set_permissions(data.join("sub/deep/file"), fs::Permissions::from_mode(0o4751)).expect("ours");
        fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o1777)).expect("ours");
        symlink("../..//etc/./passwd", data.join("sub/link")).expect("linked");
        symlink("/etc", data.join("out")).expect("linked");
        fs::create_dir(volumes.join(".restoring")).expect("made");
        symlink("/etc", volumes.join("elsewhere")).expect("linked");
    }

    #[test]
    fn a_volume_comes_back_as_it_was() {
        let (from, to) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        volume(from.path());
        assert_eq!(list(from.path()).expect("listed"), ["data"]);
        let bytes = packed(from.path(), "data");
        unpack(to.path(), "data", &bytes[..]).expect("unpacked");
        let data = to.path().join("data");
        let file = fs::metadata(data.join("sub/deep/file")).expect("there");
        assert_eq!(file.mode() & 0o7777, 0o4751);
        assert_eq!(
            file.mtime(),
            fs::metadata(from.path().join("data/sub/deep/file")).expect("there").mtime()
        );
        assert_eq!(fs::read_to_string(data.join("sub/deep/file")).expect("text"), "text");
        assert_eq!(fs::metadata(data.join("sub")).expect("there").mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(data.join("sub/link")).expect("a link"), Path::new("../..//etc/./passwd"));
        assert_eq!(packed(to.path(), "data"), bytes);
        // What is there stays.
        fs::write(data.join("new"), "newer").expect("written");
        let refused = unpack(to.path(), "data", &bytes[..]).expect_err("it is there");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(data.join("new").exists() && !to.path().join(ASIDE).exists());
    }

    #[test]
    fn a_hostile_tree_leads_nowhere_and_half_of_one_is_none() {
        let outside = tempfile::tempdir().expect("a directory");
        let to = tempfile::tempdir().expect("a directory");
        let plain =
            |path: &str, kind| TreeEntry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime: 0 };
        let through = |link: &str| {
            let mut bytes = Vec::new();
            for entry in [
                plain("", TreeKind::Directory),
                plain("a", TreeKind::Link { target: link.into() }),
                plain("a/file", TreeKind::File { size: 0 }),
            ] {
                write_entry(&mut bytes, &entry).expect("written");
            }
            write_end(&mut bytes).expect("written");
            bytes
        };
        let away = outside.path().to_str().expect("text").to_owned();
        for link in [away.as_str(), "..", "."] {
            assert!(unpack(to.path(), "data", &through(link)[..]).is_err(), "{link}");
        }
        assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
        let twice = [
            plain("", TreeKind::Directory),
            plain("x", TreeKind::Directory),
            plain("x", TreeKind::Directory),
        ];
        let mut bytes = Vec::new();
        twice.iter().for_each(|entry| write_entry(&mut bytes, entry).expect("written"));
        assert!(unpack(to.path(), "data", &bytes[..]).is_err());
        let from = tempfile::tempdir().expect("a directory");
        volume(from.path());
        let whole = packed(from.path(), "data");
        assert!(unpack(to.path(), "data", &whole[..whole.len() - 1]).is_err());
        assert_eq!(fs::read_dir(to.path()).expect("listed").count(), 0, "nothing is left");
    }
}
