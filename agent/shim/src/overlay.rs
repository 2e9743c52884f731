//! The root file system: read-only layers below one writable layer.
//!
//! In: layer directories. Out: one detached overlay mount. Layers hold plain ids; shifted by the container's user
//! namespace they look as if they belonged to it, without a copy. The writable layer holds shifted ids by itself.

use crate::attach;
use crate::failure::During;
use crate::sys;
use berth_shim::protocol::{Failure, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the fallback puts its layers, in a mount namespace of its own. Always there, and empty for us.
const STAGE: &str = "/proc";

/// Mounts the container's root.
pub(crate) fn mount(spec: &Spec, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    let mut lowers = Vec::new();
    for lower in &spec.lowers {
        let stage = || format!("take the layer {}", lower.display());
        let tree = attach::clone_tree(lower).during(stage)?;
        if let Some(userns) = userns {
            sys::set_mount(tree.as_fd(), 0, Some(userns), false).map_err(|error| Failure {
                stage: stage(),
                text: format!(
                    "{error}: its file system cannot shift ids; keep the data directory on ext4, xfs or btrfs, \
                     on Linux 5.19 or later"
                ),
            })?;
        }
        lowers.push(tree);
    }
    match by_descriptors(spec, &lowers) {
        // Before Linux 6.13 layers have no descriptors, and before 6.5 no option of an overlay has.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::BADF | rustix::io::Errno::OPNOTSUPP) => {
            by_paths(spec, &lowers)
        }
        result => result.during(|| "mount the overlay".into()),
    }
}

fn by_descriptors(spec: &Spec, lowers: &[OwnedFd]) -> rustix::io::Result<OwnedFd> {
    let open =
        |path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in lowers {
        rustix::mount::fsconfig_set_fd(&context, "lowerdir+", lower)?;
    }
    rustix::mount::fsconfig_set_fd(&context, "upperdir", open(&spec.upper)?)?;
    rustix::mount::fsconfig_set_fd(&context, "workdir", open(&spec.work)?)?;
    // What a container writes to its own layer ends with it; without this each end would sync the whole disk.
    rustix::mount::fsconfig_set_flag(&context, "volatile")?;
    rustix::mount::fsconfig_create(&context)?;
    let attr = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr)
}

/// For Linux 5.15 to 6.12: layers get short names in a mount namespace of the shim's own, so that they fit the one
/// page mount(2) reads, and nothing appears in the node's mount table.
fn by_paths(spec: &Spec, lowers: &[OwnedFd]) -> Result<OwnedFd, Failure> {
    let stage = || "mount the overlay by paths".to_owned();
    let (upper, work) = (attach::clone_tree(common_parent(spec)).during(stage)?, spec);
    sys::unshare(libc::CLONE_NEWNS).during(stage)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).during(stage)?;
    let names = attach::new_mount("tmpfs", &[("mode", "700")], MountAttrFlags::empty()).during(stage)?;
    rustix::mount::move_mount(&names, "", CWD, STAGE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .during(stage)?;
    let put = |mount: &OwnedFd, name: &str| -> rustix::io::Result<()> {
        rustix::fs::mkdirat(&names, name, Mode::from_raw_mode(0o700))?;
        rustix::mount::move_mount(mount, "", &names, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    let mut option = String::from("volatile,lowerdir=");
    for (index, lower) in lowers.iter().enumerate() {
        let name = format!("{index:x}");
        put(lower, &name).during(stage)?;
        option.push_str(&name);
        option.push(if index + 1 == lowers.len() { ',' } else { ':' });
    }
    put(&upper, "w").during(stage)?;
    let base = common_parent(work);
    let below = |path: &std::path::Path| {
        path.strip_prefix(base).map(|rest| format!("w/{}", rest.display())).map_err(|_| Failure {
            stage: stage(),
            text: format!("{} and {} have no common parent", work.upper.display(), work.work.display()),
        })
    };
    option.push_str(&format!("upperdir={},workdir={}", below(&work.upper)?, below(&work.work)?));
    rustix::process::fchdir(&names).during(stage)?;
    rustix::fs::mkdirat(&names, "root", Mode::from_raw_mode(0o700)).during(stage)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let option = std::ffi::CString::new(option).during_nul(stage)?;
    rustix::mount::mount("overlay", "root", "overlay", flags, option.as_c_str()).during(stage)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = rustix::mount::open_tree(CWD, "root", clone).during(stage)?;
    rustix::process::chdir("/").during(stage)?;
    rustix::mount::unmount(STAGE, UnmountFlags::DETACH).during(stage)?; // the node's /proc is below it
    Ok(root)
}

fn common_parent(spec: &Spec) -> &std::path::Path {
    spec.work.ancestors().find(|above| spec.upper.starts_with(above)).unwrap_or(&spec.dir)
}

trait DuringNul<T> {
    fn during_nul(self, stage: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> DuringNul<T> for Result<T, std::ffi::NulError> {
    fn during_nul(self, stage: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { stage: stage(), text: error.to_string() })
    }
}
