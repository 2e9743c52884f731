//! A step's writable directory: what must be there before its script runs, and what becomes the layer after it.
//!
//! In: the plan's outputs, the layers below. Out: a layer directory with plain ids, fixed times and nothing but outputs.
//!
//! On disk the ids in an upper directory are those of the container's user namespace (`base` + id); in layers they are
//! plain. Nothing of the step runs any more when its upper directory is read, so its paths stay what they are; symbolic
//! links in it are never followed.

use super::error::BuildError;
use super::source::{APP, BUILD, make_dir, set_time};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Component, Path, PathBuf};

/// Ids of one user namespace.
const COUNT: u32 = 65_536;
/// Deepest directory that a layer may have, as `unpack` allows it on other nodes.
const MAX_DEPTH: usize = 500;
/// What belongs to the platform in every container and never to a layer.
const PLATFORM: [&str; 10] = [
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "etc/resolv.conf",
    "etc/hosts",
    "etc/hostname",
    "home/build",
    "root",
];

/// The same where an image's own programs run.
const PLATFORM_OF_IMAGES: [&str; 7] =
    ["proc", "sys", "dev", "run/berth", "etc/resolv.conf", "etc/hosts", "etc/hostname"];

/// The parts of an absolute path of a plan.
pub(crate) fn absolute(path: &str) -> Result<PathBuf, BuildError> {
    let wrong = || BuildError::Plan(format!("{path:?} is not an absolute path without .."));
    let mut found = PathBuf::new();
    let mut parts = Path::new(path).components();
    if parts.next() != Some(Component::RootDir) {
        return Err(wrong());
    }
    for part in parts {
        match part {
            Component::Normal(part) => found.push(part),
            _ => return Err(wrong()),
        }
    }
    Ok(found)
}

/// What a path is in the layers below, topmost first.
fn below(lowers: &[PathBuf], path: &Path) -> Option<fs::Metadata> {
    for lower in lowers {
        // An entry of a higher layer that is no directory hides all of this path further down.
        let mut at = lower.clone();
        let mut hidden = false;
        for part in path {
            at.push(part);
            match fs::symlink_metadata(&at) {
                Ok(found) if at == lower.join(path) => {
                    let whiteout = found.file_type().is_char_device() && found.rdev() == 0;
                    return (!whiteout).then_some(found);
                }
                Ok(found) if found.is_dir() => {
                    hidden |=
                        xattr::get(&at, "trusted.overlay.opaque").ok().flatten().as_deref() == Some(b"y");
                }
                Ok(_) => return None,
                Err(_) => break,
            }
        }
        if hidden {
            return None;
        }
    }
    None
}

/// Makes `path` a directory of `upper` that is empty in the container and belongs to `owner` there.
pub(crate) fn prepare_output(
    upper: &Path,
    lowers: &[PathBuf],
    path: &Path,
    base: u32,
    owner: u32,
) -> Result<(), BuildError> {
    let parts: Vec<&OsStr> = path.iter().collect();
    let mut relative = PathBuf::new();
    for (index, part) in parts.iter().enumerate() {
        relative.push(part);
        let at = upper.join(&relative);
        if fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
            continue;
        }
        let found = below(lowers, &relative);
        if found.as_ref().is_some_and(|found| !found.is_dir()) {
            return Err(BuildError::Plan(format!(
                "/{} is not a directory in the build image",
                relative.display()
            )));
        }
        let is_last = index + 1 == parts.len();
        let (uid, gid, mode) = match &found {
            Some(found) if !is_last => (found.uid(), found.gid(), found.permissions().mode() & 0o7777),
            _ if is_last || relative.starts_with("app") => (owner, owner, 0o755),
            _ => (0, 0, 0o755),
        };
        let made = (|| {
            fs::create_dir(&at)?;
            chown(&at, Some(base + uid), Some(base + gid))?;
            fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
            if is_last && found.is_some() {
                xattr::set(&at, "trusted.overlay.opaque", b"y")?;
            }
            Ok(())
        })();
        made.map_err(BuildError::disk("make", &at))?;
    }
    Ok(())
}

/// Makes the directories `path` of `upper`, each of `owner`, unless they are there. What was put in the way of one is an
/// error.
pub(crate) fn prepare_parents(upper: &Path, path: &Path, base: u32, owner: u32) -> Result<(), BuildError> {
    let mut at = upper.to_owned();
    for part in path {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(BuildError::Plan(format!("/{} is no directory any more", path.display()))),
            Err(_) => make_dir(&at, base + owner).map_err(BuildError::disk("make", &at))?,
        }
    }
    Ok(())
}

/// Moves what the step left at `outputs` (relative; the empty path is everything) from `upper` to the new directory
/// `layer`. `mounts` are places that something of the node was mounted on.
pub(crate) fn capture(
    upper: &Path,
    layer: &Path,
    outputs: &[PathBuf],
    mounts: &[PathBuf],
    base: u32,
) -> Result<(), BuildError> {
    fs::create_dir(layer).map_err(BuildError::disk("make", layer))?;
    let everything = outputs.iter().any(|output| output.as_os_str().is_empty());
    if everything {
        take(upper, layer, PLATFORM.iter().map(PathBuf::from).chain(mounts.iter().cloned()))?;
    }
    let mut sorted: Vec<&PathBuf> = outputs.iter().filter(|output| !output.as_os_str().is_empty()).collect();
    sorted.sort();
    for output in sorted {
        // Below an output that was moved already, or removed by the script.
        let Some(from) = inside(upper, output) else { continue };
        let mut above = layer.to_owned();
        let parents = output.parent().into_iter().flat_map(Path::iter);
        for (index, part) in parents.enumerate() {
            above.push(part);
            let owner = if index == 0 && part != "app" {
                0
            } else if above.starts_with(layer.join("app")) {
                base + APP
            } else {
                0
            };
            make_dir(&above, owner).map_err(BuildError::disk("make", &above))?;
        }
        let to = layer.join(output);
        fs::rename(&from, &to).map_err(BuildError::disk("move", &from))?;
    }
    let app = layer.join("app");
    plain(layer, base, &|path, id, _| if id == BUILD && path.starts_with(&app) { APP } else { id })
        .map_err(BuildError::disk("take over", layer))
}

/// Moves everything that a RUN of a Dockerfile left in `upper` to the new directory `layer`; `/tmp`, `/run` and `/root`
/// are the image's own there. `mounts` are places that something of the node was mounted on.
pub(crate) fn capture_all(
    upper: &Path,
    layer: &Path,
    mounts: &[PathBuf],
    base: u32,
) -> Result<(), BuildError> {
    fs::create_dir(layer).map_err(BuildError::disk("make", layer))?;
    take(upper, layer, PLATFORM_OF_IMAGES.iter().map(PathBuf::from).chain(mounts.iter().cloned()))?;
    plain(layer, base, &|_, id, _| id).map_err(BuildError::disk("take over", layer))
}

/// Gives everything in a layer that was written with plain ids the fixed time.
pub(crate) fn finish(layer: &Path) -> Result<(), BuildError> {
    plain(layer, 0, &|_, id, _| id).map_err(BuildError::disk("finish", layer))
}

fn take(upper: &Path, layer: &Path, hidden: impl Iterator<Item = PathBuf>) -> Result<(), BuildError> {
    for path in hidden {
        if let Some(at) = inside(upper, &path) {
            crate::images::layers::remove_tree(&at).map_err(BuildError::disk("remove", at))?;
        }
    }
    let list = || fs::read_dir(upper)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    for name in list().map_err(BuildError::disk("list", upper))? {
        fs::rename(upper.join(&name), layer.join(&name))
            .map_err(BuildError::disk("move", upper.join(name)))?;
    }
    Ok(())
}

/// Where `path` is in `upper`, reached through directories only.
pub(crate) fn inside(upper: &Path, path: &Path) -> Option<PathBuf> {
    let mut at = upper.to_owned();
    for part in path {
        if !fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
            return None;
        }
        at.push(part);
    }
    fs::symlink_metadata(&at).is_ok().then_some(at)
}

/// Gives everything in a layer that a build container wrote plain ids and the fixed time; what the build user made
/// becomes that of `owner` (user, group).
pub(crate) fn take_ids(layer: &Path, base: u32, owner: (u32, u32)) -> Result<(), BuildError> {
    let of = |_: &Path, id: u32, is_group: bool| match (id, is_group) {
        (BUILD, false) => owner.0,
        (BUILD, true) => owner.1,
        (id, _) => id,
    };
    plain(layer, base, &of).map_err(BuildError::disk("take over", layer))
}

/// Gives everything below `dir`, which has plain ids, those of the build container whose first id is `base`.
pub(crate) fn give_ids(dir: &Path, base: u32) -> io::Result<()> {
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let found = fs::symlink_metadata(&path)?;
        lchown(&path, Some(base + found.uid()), Some(base + found.gid()))?;
        let mode = found.permissions().mode();
        if mode & 0o6000 != 0 && !found.is_symlink() {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        if found.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(())
}

/// Gives everything in `layer` plain ids, through `owner`, and the fixed time.
fn plain(layer: &Path, base: u32, owner: &dyn Fn(&Path, u32, bool) -> u32) -> io::Result<()> {
    let mut pending: Vec<(PathBuf, usize)> = vec![(layer.to_owned(), 0)];
    let mut directories = Vec::new();
    while let Some((path, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("its directories are nested more than 500 deep"));
        }
        let found = fs::symlink_metadata(&path)?;
        let id = |on_disk: u32, is_group| match on_disk.checked_sub(base) {
            Some(id) if id < COUNT => owner(&path, id, is_group),
            // Made by the runtime itself, as the node's root.
            _ => 0,
        };
        let (uid, gid) = (id(found.uid(), false), id(found.gid(), true));
        if (uid, gid) != (found.uid(), found.gid()) {
            lchown(&path, Some(uid), Some(gid))?;
            // The kernel drops set-id bits when the owner changes.
            let mode = found.permissions().mode();
            if mode & 0o6000 != 0 && !found.is_symlink() {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
            }
        }
        if found.is_dir() {
            for name in overlay_attributes(&path)? {
                xattr::remove(&path, name)?;
            }
            for entry in fs::read_dir(&path)? {
                pending.push((entry?.path(), depth + 1));
            }
            directories.push(path);
        } else {
            if found.is_file() {
                for name in overlay_attributes(&path)? {
                    xattr::remove(&path, name)?;
                }
            }
            let is_whiteout = found.file_type().is_char_device() && found.rdev() == 0;
            if !is_whiteout {
                set_time(&path)?;
            }
        }
    }
    for path in directories.iter().rev() {
        set_time(path)?;
    }
    Ok(())
}

/// Marks that overlayfs made for itself in this very stack of layers; only `opaque` means the same in another.
fn overlay_attributes(path: &Path) -> io::Result<Vec<OsString>> {
    let mut found = Vec::new();
    for name in xattr::list(path)? {
        let Some(mark) = name.to_str().and_then(|name| name.strip_prefix("trusted.overlay.")) else {
            continue;
        };
        match mark {
            "opaque" => {}
            "redirect" | "metacopy" => {
                return Err(io::Error::other(format!(
                    "overlayfs keeps part of it elsewhere ({mark}); mount build containers with redirect_dir=off,metacopy=off"
                )));
            }
            _ => found.push(name),
        }
    }
    Ok(found)
}
