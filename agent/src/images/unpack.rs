//! Unpacking a stranger's tar into a directory: nothing is created, changed or linked outside of it.
//!
//! In: a tar stream, an empty directory. Out: files, or a refusal that names the entry and the rule.
//!
//! Every object is made by name in a directory that is held open, and that directory was reached from the root by
//! `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` (openat2(2), Linux 5.6): no path is ever followed through a
//! symbolic link, whatever the archive made before. Whiteouts become what overlayfs wants in a lower layer
//! (kernel `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories").

use super::tar_read::{Entry, Kind, TarError, TarReader, shown};
use super::tar_write::MTIME;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most entries of one archive.
const MAX_ENTRIES: u64 = 1_000_000;
/// Most bytes of file content in one archive.
const MAX_BYTES: u64 = 10 << 30;
/// Deepest directory.
const MAX_DEPTH: usize = 512;
/// Ids in images are 0 to 65535: that many are mapped into a container.
const MAX_ID: u64 = 65_535;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry breaks a rule.
    #[error("entry {entry:?} is refused: {rule}")]
    Refused {
        /// Its path, cut.
        entry: String,
        /// The rule.
        rule: &'static str,
    },
    /// The whole breaks a limit.
    #[error("the archive is refused: {0}")]
    Limit(&'static str),
    /// The stream is no archive, or broke off.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The disk did not do what was asked.
    #[error("entry {entry:?} could not be written")]
    Disk {
        /// Its path, cut.
        entry: String,
        /// Why.
        source: io::Error,
    },
}

/// The stream is no archive that can be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ArchiveError(#[from] TarError);

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> Self {
        Self::Archive(ArchiveError(error))
    }
}

impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        TarError::Io(error).into()
    }
}

/// What kind of archive it is.
#[derive(Clone, Debug)]
pub(crate) enum Rules {
    /// A layer of an image: owners as they are, `.wh.` files are whiteouts.
    Layer,
    /// A root file system: owners as they are, everything below `/dev` is left out, no whiteouts.
    RootFs,
    /// A pushed source tree: everything belongs to `owner`, times and permissions are made uniform, `exclude`d paths
    /// are left out.
    Source { owner: u32, exclude: Vec<Vec<u8>> },
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, without those left out.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Unpacks `input` into the existing directory `into`. The caller removes what was made when this fails.
pub(crate) fn unpack<R: Read>(input: R, into: &Path, rules: &Rules) -> Result<(Unpacked, R), UnpackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(into, flags, Mode::empty())
        .map_err(|errno| UnpackError::Disk { entry: into.display().to_string(), source: errno.into() })?;
    let mut reader = TarReader::new(input);
    let mut unpacker = Unpacker {
        root,
        rules,
        parent: None,
        directories: Vec::new(),
        done: Unpacked::default(),
        buffer: vec![0; 256 << 10],
    };
    while let Some(entry) = reader.next_entry()? {
        unpacker.done.entries += 1;
        if unpacker.done.entries > MAX_ENTRIES {
            return Err(UnpackError::Limit("it has more than 1,000,000 entries"));
        }
        unpacker.done.bytes = unpacker.done.bytes.saturating_add(entry.size);
        if unpacker.done.bytes > MAX_BYTES {
            return Err(UnpackError::Limit("its files have more than 10 GiB"));
        }
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.finish_directories()?;
    Ok((unpacker.done, reader.into_inner()))
}

struct Unpacker<'a> {
    root: OwnedFd,
    rules: &'a Rules,
    /// The directory that was used last, and its path.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Their times are set last, for making files in them changes these.
    directories: Vec<(Vec<u8>, i64)>,
    done: Unpacked,
    buffer: Vec<u8>,
}

/// One entry's failure, before it has a name.
enum Fault {
    Rule(&'static str),
    Disk(io::Error),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::LOOP | Errno::XDEV => Self::Rule("its path leads through a symbolic link"),
            Errno::NOTDIR => Self::Rule("its path leads through something that is not a directory"),
            Errno::NAMETOOLONG => Self::Rule("its name is too long"),
            errno => Self::Disk(errno.into()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), UnpackError> {
        self.place(entry, content).map_err(|fault| match fault {
            Fault::Rule(rule) => UnpackError::Refused { entry: shown(&entry.path), rule },
            Fault::Disk(source) => UnpackError::Disk { entry: shown(&entry.path), source },
        })
    }

    fn place(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), Fault> {
        let parts = parts_of(&entry.path)?;
        if self.is_left_out(&parts) {
            return Ok(());
        }
        if entry.uid > MAX_ID || entry.gid > MAX_ID {
            return Err(Fault::Rule("its owner is not among the ids 0 to 65535"));
        }
        let Some((name, above)) = parts.split_last() else {
            return match entry.kind {
                Kind::Directory => self.dress_root(entry),
                _ => Err(Fault::Rule("it would replace the root")),
            };
        };
        if name.starts_with(b".wh.") {
            match self.rules {
                Rules::Layer => return self.whiteout(above, name),
                Rules::RootFs | Rules::Source { .. } => {
                    return Err(Fault::Rule("names that begin with .wh. cannot be stored in an image"));
                }
            }
        }
        self.enter(above)?;
        match &entry.kind {
            Kind::Directory => self.directory(entry, name, parts.join(&b'/')),
            Kind::File => self.file(entry, name, content),
            Kind::Symlink(target) => self.symlink(entry, name, target),
            Kind::HardLink(target) => self.hard_link(name, above, target),
            Kind::Fifo => self.fifo(entry, name),
            Kind::Device if parts[0] == b"dev" => Ok(()),
            Kind::Device => {
                Err(Fault::Rule("device nodes are allowed only below /dev, where they are left out"))
            }
        }
    }

    fn is_left_out(&self, parts: &[&[u8]]) -> bool {
        match self.rules {
            Rules::Layer => false,
            Rules::RootFs => parts.len() > 1 && parts[0] == b"dev",
            Rules::Source { exclude, .. } => {
                (1..=parts.len()).any(|length| exclude.contains(&parts[..length].join(&b'/')))
            }
        }
    }

    /// Opens the directory `above` into `self.parent`, making what is missing of it.
    fn enter(&mut self, above: &[&[u8]]) -> Result<(), Fault> {
        let path = above.join(&b'/');
        if self.parent.as_ref().is_some_and(|(open, _)| *open == path) {
            return Ok(());
        }
        let fd = match self.open_directory(self.root.as_fd(), &path) {
            Err(Errno::NOENT) => self.make_path(above)?,
            result => result?,
        };
        self.parent = Some((path, fd));
        Ok(())
    }

    fn open_directory(&self, at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(at, OsStr::from_bytes(path), flags, Mode::empty(), resolve)
    }

    fn make_path(&mut self, above: &[&[u8]]) -> Result<OwnedFd, Fault> {
        let mut fd = self.open_directory(self.root.as_fd(), b"")?;
        for (depth, part) in above.iter().enumerate() {
            match rustix::fs::mkdirat(&fd, OsStr::from_bytes(part), Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => fd = self.open_directory(&fd, part)?,
                result => {
                    result?;
                    fd = self.open_directory(&fd, part)?;
                    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
                    let owner = self.owner(0, 0);
                    rustix::fs::fchown(&fd, Some(owner.0), Some(owner.1))?;
                    self.directories.push((above[..=depth].join(&b'/'), MTIME));
                }
            }
        }
        Ok(fd)
    }

    fn parent(&self) -> Result<&OwnedFd, Fault> {
        self.parent.as_ref().map(|(_, fd)| fd).ok_or(Fault::Rule("its directory is not open"))
    }

    fn owner(&self, uid: u64, gid: u64) -> (Uid, Gid) {
        let (uid, gid) = match self.rules {
            Rules::Source { owner, .. } => (*owner, *owner),
            // Checked against MAX_ID by the caller.
            _ => (u32::try_from(uid).unwrap_or(0), u32::try_from(gid).unwrap_or(0)),
        };
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let raw = match (self.rules, &entry.kind) {
            (Rules::Source { .. }, Kind::Directory) => 0o755,
            (Rules::Source { .. }, _) if entry.mode & 0o111 != 0 => 0o755,
            (Rules::Source { .. }, _) => 0o644,
            _ => entry.mode & 0o7777,
        };
        Mode::from_raw_mode(raw)
    }

    fn mtime(&self, entry: &Entry) -> i64 {
        match self.rules {
            Rules::Source { .. } => MTIME,
            _ => entry.mtime,
        }
    }

    fn dress_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        let fd = self.open_directory(self.root.as_fd(), b"")?;
        self.dress(&fd, entry)?;
        self.directories.push((Vec::new(), self.mtime(entry)));
        Ok(())
    }

    /// Owner, then mode (a change of owner clears set-id bits), then attributes.
    fn dress(&self, fd: &OwnedFd, entry: &Entry) -> Result<(), Fault> {
        let (uid, gid) = self.owner(entry.uid, entry.gid);
        let mode = self.mode(entry);
        // Looking is cheap; each change is one more entry in the file system's journal.
        let made = rustix::fs::fstat(fd)?;
        let chown = (made.st_uid, made.st_gid) != (uid.as_raw(), gid.as_raw());
        if chown {
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        if chown || made.st_mode & 0o7777 != mode.as_raw_mode() {
            rustix::fs::fchmod(fd, mode)?;
        }
        for (name, value) in &entry.xattrs {
            if !is_kept_attribute(name) || matches!(self.rules, Rules::Source { .. }) {
                continue;
            }
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::RANGE | Errno::TOOBIG | Errno::NOSPC) => {
                    return Err(Fault::Rule("one of its extended attributes is malformed or too long"));
                }
                Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn found(&self, name: &[u8]) -> Result<Option<rustix::fs::Stat>, Fault> {
        match rustix::fs::statat(self.parent()?, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes what an earlier entry made under this name. A directory with something in it stays, as a refusal.
    fn clear(&mut self, name: &[u8]) -> Result<(), Fault> {
        let Some(stat) = self.found(name)? else { return Ok(()) };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(self.parent()?, OsStr::from_bytes(name), flags) {
            Err(Errno::NOTEMPTY) => Err(Fault::Rule("it would replace a directory that is not empty")),
            result => Ok(result?),
        }
    }

    fn directory(&mut self, entry: &Entry, name: &[u8], path: Vec<u8>) -> Result<(), Fault> {
        let (mut make, mut opaque) = (true, false);
        if let Some(stat) = self.found(name)? {
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => make = false,
                kind => {
                    // A whiteout before a directory: what is below in other layers stays hidden.
                    opaque = kind == FileType::CharacterDevice;
                    self.clear(name)?;
                }
            }
        }
        if make {
            rustix::fs::mkdirat(self.parent()?, OsStr::from_bytes(name), Mode::from_raw_mode(0o700))?;
        }
        let fd = self.open_directory(self.parent()?, name)?;
        self.dress(&fd, entry)?;
        if opaque {
            make_opaque(&fd)?;
        }
        self.directories.push((path, self.mtime(entry)));
        Ok(())
    }

    fn file(&mut self, entry: &Entry, name: &[u8], content: &mut impl Read) -> Result<(), Fault> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(name);
        let mode = Mode::from_raw_mode(self.mode(entry).as_raw_mode() & 0o777);
        let make = |parent: &OwnedFd| rustix::fs::openat(parent, name, flags, mode);
        let fd = match make(self.parent()?) {
            Err(Errno::EXIST) => {
                self.clear(name.as_bytes())?;
                make(self.parent()?)?
            }
            result => result?,
        };
        let mut file = std::fs::File::from(fd);
        loop {
            let read = content.read(&mut self.buffer)?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read])?;
        }
        let fd = OwnedFd::from(file);
        self.dress(&fd, entry)?;
        rustix::fs::futimens(&fd, &times(self.mtime(entry)))?;
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, name: &[u8], target: &[u8]) -> Result<(), Fault> {
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            return Err(Fault::Rule("the target of the symbolic link must have 1 to 4095 bytes and no NUL"));
        }
        self.clear(name)?;
        let (parent, name) = (self.parent()?, OsStr::from_bytes(name));
        rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name)?;
        let owner = self.owner(entry.uid, entry.gid);
        rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(parent, name, &times(self.mtime(entry)), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn hard_link(&mut self, name: &[u8], above: &[&[u8]], target: &[u8]) -> Result<(), Fault> {
        if matches!(self.rules, Rules::Source { .. }) {
            return Err(Fault::Rule("a source tree has no hard links"));
        }
        let parts = parts_of(target)
            .map_err(|_| Fault::Rule("the target of the hard link leads out of the archive"))?;
        let Some((target_name, target_above)) = parts.split_last() else {
            return Err(Fault::Rule("the target of the hard link is the root"));
        };
        if target_above == above && *target_name == name {
            return Err(Fault::Rule("the hard link's target is itself"));
        }
        let from =
            self.open_directory(self.root.as_fd(), &target_above.join(&b'/')).map_err(
                |errno| match errno {
                    Errno::NOENT => Fault::Rule("the target of the hard link is not in this archive"),
                    errno => errno.into(),
                },
            )?;
        self.clear(name)?;
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link is a second name of that, whatever it points to.
        let linked = rustix::fs::linkat(
            &from,
            OsStr::from_bytes(target_name),
            self.parent()?,
            OsStr::from_bytes(name),
            AtFlags::empty(),
        );
        match linked {
            Err(Errno::NOENT) => Err(Fault::Rule("the target of the hard link is not in this archive")),
            Err(Errno::PERM) => Err(Fault::Rule("the target of the hard link is a directory")),
            result => Ok(result?),
        }
    }

    fn fifo(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Fault> {
        if matches!(self.rules, Rules::Source { .. }) {
            return Err(Fault::Rule("a source tree has only files, directories and symbolic links"));
        }
        self.clear(name)?;
        let (parent, name) = (self.parent()?, OsStr::from_bytes(name));
        rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(entry.mode & 0o777), 0)?;
        let owner = self.owner(entry.uid, entry.gid);
        rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// `.wh.<name>` hides `<name>` of the layers below; `.wh..wh..opq` hides everything below its directory.
    fn whiteout(&mut self, above: &[&[u8]], marker: &[u8]) -> Result<(), Fault> {
        if marker == b".wh..wh..opq" {
            self.enter(above)?;
            return make_opaque(self.parent()?);
        }
        let hidden = &marker[b".wh.".len()..];
        match hidden {
            // Bookkeeping of AUFS (image-spec, "Whiteouts", note on `.wh..wh.`).
            _ if hidden.starts_with(b".wh.") => return Ok(()),
            b"" | b"." | b".." => return Err(Fault::Rule("the whiteout names no file")),
            _ => self.enter(above)?,
        }
        match self.found(hidden)?.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            None => {
                let (parent, hidden) = (self.parent()?, OsStr::from_bytes(hidden));
                Ok(rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?)
            }
            // This layer has its own: a whiteout only concerns the layers below.
            Some(FileType::Directory) => {
                let fd = self.open_directory(self.parent()?, hidden)?;
                make_opaque(&fd)
            }
            Some(_) => Ok(()),
        }
    }

    fn finish_directories(&mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            let set = self.open_directory(self.root.as_fd(), &path);
            match set.and_then(|fd| rustix::fs::futimens(&fd, &times(mtime))) {
                // A later entry took its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(UnpackError::Disk { entry: shown(&path), source: errno.into() }),
            }
        }
        Ok(())
    }
}

fn make_opaque(fd: &OwnedFd) -> Result<(), Fault> {
    Ok(rustix::fs::fsetxattr(fd, "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
}

/// The parts of a path: without `.` and empty ones. Absolute paths, `..` and NUL are refused, never repaired.
fn parts_of(path: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    if path.first() == Some(&b'/') {
        return Err(Fault::Rule("its path is absolute"));
    }
    if path.is_empty() || path.len() > 4095 || path.contains(&0) {
        return Err(Fault::Rule("its path must have 1 to 4095 bytes and no NUL"));
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(Fault::Rule("its path has .. in it"));
    }
    if parts.len() > MAX_DEPTH {
        return Err(Fault::Rule("it is more than 512 directories deep"));
    }
    Ok(parts)
}

/// `trusted.*` would speak to overlayfs in our name; labels and ACLs belong to the host.
pub(crate) fn is_kept_attribute(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn times(mtime: i64) -> Timestamps {
    let at = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}
