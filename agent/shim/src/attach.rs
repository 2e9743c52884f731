//! Detached mounts and the places they are put.
//!
//! In: kinds of file systems, paths. Out: descriptors. Paths in the container are resolved below its root by the
//! kernel (`openat2`), so that no link in an image or a volume leads elsewhere.

use crate::failure::During;
use berth_shim::protocol::Failure;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// A new file system, not mounted anywhere. Options without a value are flags.
pub(crate) fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    attr: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr)
}

/// A detached copy of the mount that shows `path` of the node (not of mounts below it).
pub(crate) fn clone_tree(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}

/// A detached copy of a mount that is in the tree.
pub(crate) fn clone_mounted(mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(mount, "", flags)
}

/// Mounts a detached mount on `target`.
pub(crate) fn put(mount: &OwnedFd, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// The directory `name` below `root` for a mount of ours; made when missing, refused when a link leads to it.
pub(crate) fn own_directory(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
    };
    match open() {
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)).during(|| format!("make /{name}"))?;
            open().during(|| format!("open /{name}"))
        }
        Err(Errno::LOOP | Errno::NOTDIR) => Err(Failure {
            stage: format!("open /{name}"),
            text: format!("/{name} of the image is not a directory; links there are refused"),
        }),
        result => result.during(|| format!("open /{name}")),
    }
}

/// What is at `path` of ours below `root`, if anything.
pub(crate) fn existing(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The place `path` below `root` for a bind; made, with its parents, when missing. Links are followed inside `root`.
pub(crate) fn target(root: BorrowedFd<'_>, path: &Path, is_dir: bool) -> rustix::io::Result<OwnedFd> {
    match find(root, path, is_dir) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let parent = directory(root, parent)?;
    // A link that leads nowhere: replaced, in the container's own writable layer.
    if rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
    }
    if is_dir {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?);
    }
    find(root, path, is_dir)
}

/// The directory `path` below `root`, made when missing.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut so_far = PathBuf::new();
    let mut dir = find(root, Path::new("."), true)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        so_far.push(name);
        dir = match find(root, &so_far, true) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(dir.as_fd(), name, Mode::from_raw_mode(0o755))?;
                find(root, &so_far, true)?
            }
            result => result?,
        };
    }
    Ok(dir)
}

fn find(root: BorrowedFd<'_>, path: &Path, is_dir: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::DIRECTORY, is_dir);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}
