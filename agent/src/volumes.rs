//! Volumes: directories of the node that containers see.
//!
//! In: mounts of a spec, the image's layers. Out: directories that exist, on the node's side.
//!
//! A named volume is made on first use, owned as the image owns the directory it covers (so that the app may write where
//! it could without it), or by the user the container runs as. An absolute path must exist: an admin asked for it.

use berth_model::container::Mount;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a mount cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Not a name and not an absolute path.
    #[error("{0:?} is neither the name of a volume (letters, digits, '.', '_', '-') nor an absolute path")]
    Name(String),
    /// The path is missing.
    #[error("the directory {0:?} does not exist on this node; create it, or use the name of a volume")]
    Missing(String),
    /// The disk refused.
    #[error("cannot create the volume {name}")]
    Create {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The directory on the node behind `mount`, made if it is a named volume seen for the first time.
pub fn source(volumes: &Path, mount: &Mount, lowers: &[PathBuf], user: &str) -> Result<PathBuf, VolumeError> {
    if mount.source.starts_with('/') {
        let path = PathBuf::from(&mount.source);
        return if path.is_dir() { Ok(path) } else { Err(VolumeError::Missing(mount.source.clone())) };
    }
    if !berth_wire::is_volume(&mount.source) {
        return Err(VolumeError::Name(mount.source.clone()));
    }
    let path = volumes.join(&mount.source);
    let create = || -> io::Result<()> {
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        let (uid, gid, mode) = owner(lowers, &mount.target, user);
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
    };
    create().map_err(|source| VolumeError::Create { name: mount.source.clone(), source })?;
    Ok(path)
}

/// Who owns `target` in the image: plain ids, as layers hold them.
fn owner(lowers: &[PathBuf], target: &str, user: &str) -> (u32, u32, u32) {
    let relative = target.trim_start_matches('/');
    for lower in lowers {
        // No link is followed: it would lead out of the layer.
        if let Ok(found) = std::fs::symlink_metadata(lower.join(relative))
            && found.is_dir()
        {
            return (found.uid(), found.gid(), found.mode() & 0o7777);
        }
    }
    let (uid, gid) = ids(lowers, user);
    (uid, gid, 0o755)
}

/// The ids of a user as images name them: `uid`, `uid:gid`, `name`, `name:group`; root when unknown.
fn ids(lowers: &[PathBuf], user: &str) -> (u32, u32) {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let passwd = lowers.iter().find_map(|lower| {
        let path = lower.join("etc/passwd");
        let regular = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        regular.then(|| std::fs::read_to_string(path).ok()).flatten()
    });
    let entry = passwd.as_deref().unwrap_or_default().lines().find_map(|line| {
        let mut fields = line.split(':');
        let (login, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (login == name || uid == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?))).flatten()
    });
    let (uid, gid) = entry.unwrap_or_else(|| {
        let uid = name.parse().unwrap_or(0);
        (uid, uid)
    });
    (uid, group.parse().unwrap_or(gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str) -> Mount {
        Mount { source: source.into(), target: "/data".into(), read_only: false }
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let volumes = tempfile::tempdir().expect("a directory");
        for bad in ["..", "../x", "a/b", "", "-x", ".x", "a b"] {
            assert!(
                matches!(source(volumes.path(), &mount(bad), &[], ""), Err(VolumeError::Name(_))),
                "{bad:?}"
            );
        }
        assert!(matches!(source(volumes.path(), &mount("/no/such"), &[], ""), Err(VolumeError::Missing(_))));
    }

    #[test]
    fn users_are_looked_up_in_the_image() {
        let layer = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(layer.path().join("etc")).expect("made");
        std::fs::write(layer.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:1000:1001::/app:\n")
            .expect("written");
        let lowers = [layer.path().to_owned()];
        assert_eq!(ids(&lowers, "app"), (1000, 1001));
        assert_eq!(ids(&lowers, "1000"), (1000, 1001));
        assert_eq!(ids(&lowers, "33:34"), (33, 34));
        assert_eq!(ids(&lowers, ""), (0, 0));
    }
}
