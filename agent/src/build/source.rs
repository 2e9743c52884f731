//! The pushed source tree on disk: unpacked once for a build, copied where a step wants it.
//!
//! In: a tar stream (hostile), paths of a plan. Out: directories whose owners, times and permissions do not depend on
//! who pushed or when.

use super::error::BuildError;
use crate::images::layers::random;
use crate::images::tar_write::MTIME;
use crate::images::unpack::{Rules, unpack};
use crate::images::{ImageError, UnpackError};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};

/// The user that apps run as; owner of `/app` in images.
pub(crate) const APP: u32 = 1000;
/// The user that build steps run as.
pub(crate) const BUILD: u32 = 1001;

/// Unpacks a pushed tree into the new directory `into`/app, leaving out `exclude`, and reads the stream to its end.
pub(crate) fn receive(input: impl Read, into: &Path, exclude: &[String]) -> Result<(), BuildError> {
    receive_for(input, into, exclude, APP)
}

/// The same for another owner: what a Dockerfile copies is root's unless it says otherwise.
pub(crate) fn receive_for(
    input: impl Read,
    into: &Path,
    exclude: &[String],
    owner: u32,
) -> Result<(), BuildError> {
    let app = into.join("app");
    make_dir(&app, owner).map_err(BuildError::disk("make", &app))?;
    let exclude = exclude.iter().map(|path| path.trim_matches('/').as_bytes().to_vec()).collect();
    let failed = |source: UnpackError| {
        BuildError::Source(ImageError::Unpack { layer: "of the push".to_owned(), source })
    };
    let (_, mut rest) = unpack(input, &app, &Rules::Source { owner, exclude }).map_err(failed)?;
    io::copy(&mut rest, &mut io::sink()).map_err(|error| failed(error.into()))?;
    dress(&app, owner).map_err(BuildError::disk("set the owner of", &app))
}

/// Copies the `wanted` paths of the tree at `tree` (`.` is all of it) to the same places below `into`, for `owner`.
pub(crate) fn copy(tree: &Path, wanted: &[String], into: &Path, owner: u32) -> Result<(), BuildError> {
    for path in wanted {
        let parts = relative(path)?;
        let (mut from, mut to) = (tree.to_owned(), into.to_owned());
        for (index, part) in parts.iter().enumerate() {
            // Every directory on the way is looked at: a symbolic link in the tree leads nowhere.
            let found = fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir());
            if !found {
                return Err(BuildError::Plan(format!("the source tree has no {path}")));
            }
            if index > 0 {
                make_dir(&to, owner).map_err(BuildError::disk("make", &to))?;
            }
            from.push(part);
            to.push(part);
        }
        if fs::symlink_metadata(&from).is_err() {
            return Err(BuildError::Plan(format!("the source tree has no {path}")));
        }
        copy_tree(&from, &to, owner, &[]).map_err(BuildError::disk("copy", &from))?;
    }
    Ok(())
}

/// Copies a tree without following links, leaving out paths relative to it.
pub(crate) fn copy_tree(from: &Path, to: &Path, owner: u32, exclude: &[PathBuf]) -> io::Result<()> {
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        if exclude.contains(&path) {
            continue;
        }
        // `join("")` would end the path with a slash, which follows a link.
        let is_top = path.as_os_str().is_empty();
        let (source, target) =
            if is_top { (from.to_owned(), to.to_owned()) } else { (from.join(&path), to.join(&path)) };
        let found = fs::symlink_metadata(&source)?;
        if found.is_dir() {
            make_dir(&target, owner)?;
            for entry in fs::read_dir(&source)? {
                pending.push(path.join(entry?.file_name()));
            }
            continue;
        }
        match fs::symlink_metadata(&target) {
            Ok(_) => fs::remove_file(&target)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if found.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
        dress(&target, owner)?;
    }
    Ok(())
}

/// Removes paths of a tree, wherever they are.
pub(crate) fn prune(tree: &Path, exclude: &[String]) -> Result<(), BuildError> {
    for path in exclude {
        let mut at = tree.to_owned();
        let mut there = true;
        for part in relative(path)? {
            there &= fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir());
            at.push(part);
        }
        if there && at != tree {
            crate::images::layers::remove_tree(&at).map_err(BuildError::disk("remove", &at))?;
        }
    }
    Ok(())
}

/// The parts of a plan's path. Plans are ours, but they speak of a stranger's files.
pub(crate) fn relative(path: &str) -> Result<Vec<&std::ffi::OsStr>, BuildError> {
    let wrong = || BuildError::Plan(format!("the path {path:?} leads out of the source tree"));
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(wrong()),
        }
    }
    Ok(parts)
}

/// Makes a directory unless it is there.
pub(crate) fn make_dir(path: &Path, owner: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Ok(()) => chown(path, Some(owner), Some(owner)),
        Err(error) => Err(error),
    }
}

/// Owner and time as every layer has them.
pub(crate) fn dress(path: &Path, owner: u32) -> io::Result<()> {
    lchown(path, Some(owner), Some(owner))?;
    set_time(path)
}

pub(crate) fn set_time(path: &Path) -> io::Result<()> {
    let at = Timespec { tv_sec: MTIME, tv_nsec: 0 };
    let times = Timestamps { last_access: at, last_modification: at };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A name for a new directory of a build.
pub(crate) fn fresh(dir: &Path, kind: &str) -> PathBuf {
    dir.join(format!("{kind}-{}", random()))
}
