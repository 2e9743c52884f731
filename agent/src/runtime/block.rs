//! Disks: which block devices a container's files are on.
//!
//! In: directories. Out: `major:minor` of whole disks, as the io controllers of cgroups want them: they refuse partitions
//! (ENODEV), and file systems such as btrfs report a device number that is no disk's.

use super::RuntimeError;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The disks below `needed`, which must have one, and below `others`, which may be in memory (tmpfs) or on the network.
pub(super) fn disks(
    id: &str,
    needed: &Path,
    others: impl Iterator<Item = PathBuf>,
) -> Result<Vec<String>, RuntimeError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(RuntimeError::file("read", "/proc/self/mountinfo"))?;
    let mut found = BTreeSet::new();
    match disk_of(needed, &mounts) {
        Some(disk) => found.insert(disk),
        None => {
            return Err(RuntimeError::Invalid {
                id: id.to_owned(),
                what: format!(
                    "its disk traffic cannot be limited: the file system of {} is on no block device of this node; \
                     remove the limits with resource:limit --io-read none --io-write none --io-read-iops none \
                     --io-write-iops none",
                    needed.display()
                ),
            });
        }
    };
    found.extend(others.filter_map(|path| disk_of(&path, &mounts)));
    Ok(found.into_iter().collect())
}

fn disk_of(path: &Path, mounts: &str) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let (mut major, mut minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    if major == 0 {
        let source = source_of(mounts, &format!("{major}:{minor}"))?;
        let device = fs::metadata(source).ok()?.rdev();
        (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    }
    whole(Path::new("/sys/dev/block"), &format!("{major}:{minor}"))
}

/// The device file that a mounted file system with this number comes from.
fn source_of(mounts: &str, number: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let source = after.split(' ').nth(1)?;
        (before.split(' ').nth(2) == Some(number) && source.starts_with("/dev/")).then(|| source.into())
    })
}

/// The disk that `number` is, or is a partition of (sysfs: a partition's directory is below its disk's).
fn whole(sys: &Path, number: &str) -> Option<String> {
    let dir = sys.join(number).canonicalize().ok()?;
    let dir = if dir.join("partition").exists() { dir.parent()?.to_owned() } else { dir };
    Some(fs::read_to_string(dir.join("dev")).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_its_disk() {
        let sys = tempfile::tempdir().expect("a directory");
        let disk = sys.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).expect("made");
        fs::write(disk.join("dev"), "8:0\n").expect("written");
        fs::write(disk.join("sda1/dev"), "8:1\n").expect("written");
        fs::write(disk.join("sda1/partition"), "1\n").expect("written");
        let numbers = sys.path().join("numbers");
        fs::create_dir(&numbers).expect("made");
        std::os::unix::fs::symlink(&disk, numbers.join("8:0")).expect("linked");
        std::os::unix::fs::symlink(disk.join("sda1"), numbers.join("8:1")).expect("linked");
        assert_eq!(whole(&numbers, "8:0").as_deref(), Some("8:0"));
        assert_eq!(whole(&numbers, "8:1").as_deref(), Some("8:0"));
        assert_eq!(whole(&numbers, "9:9"), None);
    }

    #[test]
    fn file_systems_without_a_number_of_a_disk_are_looked_up() {
        let mounts = "30 1 0:40 / /data rw - btrfs /dev/sdb2 rw\n31 1 0:41 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(mounts, "0:40"), Some("/dev/sdb2".into()));
        assert_eq!(source_of(mounts, "0:41"), None);
    }
}
