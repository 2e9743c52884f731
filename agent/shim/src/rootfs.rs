//! The container's file tree: sources taken by the shim, put together by the container's first process.
//!
//! In: the spec. Out, in the shim: every source as a detached mount, before anything of the container exists. Out, in
//! the container: a root with /proc, /sys, /dev and the binds, and nothing of the node's tree left. What is in the
//! image or a volume is hostile: paths are resolved after the node's tree is gone, and below the new root.

use crate::failure::During;
use crate::{attach, sys};
use berth_shim::protocol::{Cgroup, Failure, Private, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Device nodes of the node that every program may expect.
pub(crate) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const DATA_ONLY: MountAttrFlags = HARMLESS.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Hidden from containers: what tells of the node or reaches its hardware.
const MASKED: &[&str] = &[
    "proc/acpi",
    "proc/asound",
    "proc/config.gz",
    "proc/interrupts",
    "proc/kallsyms",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/key-users",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/fs/bpf",
    "sys/kernel/debug",
    "sys/kernel/security",
    "sys/kernel/tracing",
];
/// Not writable, whoever asks.
const READ_ONLY: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Everything that is mounted, detached from any tree, in the order it crosses to the container.
pub(crate) struct Sources {
    pub(crate) root: OwnedFd,
    pub(crate) sysfs: OwnedFd,
    pub(crate) devices: Vec<OwnedFd>,
    pub(crate) binds: Vec<OwnedFd>,
}

impl Sources {
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let first = [&self.root, &self.sysfs];
        first.into_iter().chain(&self.devices).chain(&self.binds).map(AsFd::as_fd).collect()
    }

    pub(crate) fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let (root, sysfs) = (fds.next()?, fds.next()?);
        let devices: Vec<_> = fds.by_ref().take(DEVICES.len()).collect();
        (devices.len() == DEVICES.len()).then(|| Self { root, sysfs, devices, binds: fds.collect() })
    }
}

/// Takes every source. `userns` is the container's, made by now; we are in its network namespace, so that its sysfs
/// shows its own interfaces.
pub(crate) fn take(spec: &Spec, userns: Option<BorrowedFd<'_>>) -> Result<Sources, Failure> {
    let root = crate::overlay::mount(spec, userns)?;
    let read_only = DATA_ONLY | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let sysfs = attach::new_mount("sysfs", &[], read_only).during(|| "prepare /sys".into())?;
    let mut devices = Vec::new();
    for name in DEVICES {
        devices.push(
            attach::clone_tree(Path::new("/dev").join(name).as_path())
                .during(|| format!("take /dev/{name}"))?,
        );
    }
    let mut binds = Vec::new();
    for bind in &spec.binds {
        let stage = || format!("take {}", bind.source.display());
        let tree = attach::clone_tree(&bind.source).during(stage)?;
        let mut flags = u64::from(HARMLESS.bits());
        if bind.read_only {
            flags |= u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        }
        sys::set_mount(tree.as_fd(), flags, None, false).during(stage)?;
        if bind.shift
            && let Some(userns) = userns
        {
            // A file system that cannot shift shows the node's ids (as nobody): readable, which is all files need.
            let _ = sys::set_mount(tree.as_fd(), 0, Some(userns), false);
        }
        binds.push(tree);
    }
    Ok(Sources { root, sysfs, devices, binds })
}

/// What the shim keeps of a tree that has been put together.
pub(crate) struct Assembled {
    /// The container's devpts, for terminals to come.
    pub(crate) devpts: OwnedFd,
    /// Its root directory.
    pub(crate) root: OwnedFd,
}

/// Puts the tree together and leaves the node's. Runs in the container's first process, in its new namespaces.
pub(crate) fn assemble(spec: &Spec, sources: &Sources) -> Result<Assembled, Failure> {
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation).during(|| "detach from the node's mounts".into())?;
    // While the node's /proc is still in sight: the kernel gives a user namespace no more than it sees already.
    let proc = attach::new_mount("proc", &[], DATA_ONLY).during(|| "prepare /proc".into())?;
    let dev_options = [("mode", "755"), ("size", "65536k"), ("nr_inodes", "4096")];
    let dev_flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = attach::new_mount("tmpfs", &dev_options, dev_flags).during(|| "prepare /dev".into())?;
    let pts_options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts_flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let devpts = attach::new_mount("devpts", &pts_options, pts_flags).during(|| "prepare /dev/pts".into())?;
    let shm = attach::new_mount("tmpfs", &[("mode", "1777"), ("size", "65536k")], DATA_ONLY)
        .during(|| "prepare /dev/shm".into())?;
    let mqueue = attach::new_mount("mqueue", &[], DATA_ONLY).ok(); // not in every kernel
    let nothing = attach::new_mount(
        "tmpfs",
        &[("size", "0"), ("nr_inodes", "2")],
        DATA_ONLY | MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .during(|| "prepare masks".into())?;
    let cgroup = if matches!(spec.cgroup, Cgroup::V2 { .. }) {
        attach::new_mount("cgroup2", &[], DATA_ONLY | MountAttrFlags::MOUNT_ATTR_RDONLY).ok()
    } else {
        None
    };
    enter(sources.root.as_fd())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).during(|| "open the root".into())?;

    let own_dir = |name: &str| attach::own_directory(root.as_fd(), name);
    attach::put(&proc, own_dir("proc")?.as_fd()).during(|| "mount /proc".into())?;
    attach::put(&sources.sysfs, own_dir("sys")?.as_fd()).during(|| "mount /sys".into())?;
    if let Some(cgroup) = cgroup {
        attach::put(&cgroup, own_dir("sys/fs/cgroup")?.as_fd()).during(|| "mount /sys/fs/cgroup".into())?;
    }
    attach::put(&dev, own_dir("dev")?.as_fd()).during(|| "mount /dev".into())?;
    fill_dev(&dev, sources, &devpts, &shm, mqueue.as_ref()).during(|| "fill /dev".into())?;
    mask(root.as_fd(), sources, &nothing)?;
    for (bind, tree) in spec.binds.iter().zip(&sources.binds) {
        let stage = || format!("mount {}", bind.target.display());
        let stat = rustix::fs::fstat(tree).during(stage)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let target = attach::target(root.as_fd(), &bind.target, is_dir).during(stage)?;
        attach::put(tree, target.as_fd()).during(stage)?;
    }
    for private in &spec.private {
        let stage = || format!("mount {}", private.target.display());
        let user = crate::user::lookup(root.as_fd(), &spec.process.user).ok();
        let owner = user.map_or((0, 0), |user| (user.uid, user.gid));
        let tree = in_memory(private, owner).during(stage)?;
        let target = attach::target(root.as_fd(), &private.target, true).during(stage)?;
        attach::put(&tree, target.as_fd()).during(stage)?;
        let read_only = u64::from((DATA_ONLY | MountAttrFlags::MOUNT_ATTR_RDONLY).bits());
        sys::set_mount(tree.as_fd(), read_only, None, false).during(stage)?;
    }
    Ok(Assembled { devpts, root })
}

/// A file system in memory with the files of `private`, owned by `owner`.
fn in_memory(private: &Private, (uid, gid): (u32, u32)) -> std::io::Result<OwnedFd> {
    // Whole pages, and some for names: 4 MiB is beyond what the agent hands over.
    let tree =
        attach::new_mount("tmpfs", &[("mode", "755"), ("size", "4m"), ("nr_inodes", "4096")], DATA_ONLY)?;
    for (name, hex) in &private.files {
        let bytes = unhex(hex).ok_or(rustix::io::Errno::INVAL)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&tree, name.as_str(), flags, Mode::from_raw_mode(0o600))?;
        let mut file = std::fs::File::from(file);
        file.write_all(&bytes)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(private.mode))?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(tree)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    rest.is_empty().then(|| bytes.collect::<Option<Vec<u8>>>())?
}

/// Makes `root` the root and forgets everything above it.
fn enter(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let stage = || "enter the root".to_owned();
    rustix::mount::move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during(stage)?;
    rustix::process::fchdir(root).during(stage)?;
    sys::pivot_here().during(stage)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).during(stage)?;
    rustix::process::chdir("/").during(stage)
}

/// `/dev` by hand, on a file system of our own: nothing here is the image's (CVE-2026-41579).
fn fill_dev(
    dev: &OwnedFd,
    sources: &Sources,
    devpts: &OwnedFd,
    shm: &OwnedFd,
    mqueue: Option<&OwnedFd>,
) -> std::io::Result<()> {
    let open = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for (name, device) in DEVICES.iter().zip(&sources.devices) {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(rustix::fs::openat(dev, *name, flags, Mode::from_raw_mode(0o666))?);
        attach::put(device, rustix::fs::openat(dev, *name, open, Mode::empty())?.as_fd())?;
    }
    for (name, mount) in [("pts", Some(devpts)), ("shm", Some(shm)), ("mqueue", mqueue)] {
        let Some(mount) = mount else { continue };
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
        attach::put(mount, rustix::fs::openat(dev, name, open, Mode::empty())?.as_fd())?;
    }
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    Ok(())
}

/// Covers what must not be seen, with the node's own `/dev/null` (never the container's, CVE-2025-31133) and an empty
/// directory, and makes read-only what must not be written. `/proc` and `/sys` are ours, mounted a moment ago.
fn mask(root: BorrowedFd<'_>, sources: &Sources, nothing: &OwnedFd) -> Result<(), Failure> {
    let null = &sources.devices[0];
    let mut nothing_is_mounted = false;
    for path in MASKED {
        let stage = || format!("mask /{path}");
        let Some(target) = attach::existing(root, path).during(stage)? else { continue };
        let stat = rustix::fs::fstat(&target).during(stage)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            attach::put(&attach::clone_mounted(null).during(stage)?, target.as_fd()).during(stage)?;
        } else if nothing_is_mounted {
            attach::put(&attach::clone_mounted(nothing).during(stage)?, target.as_fd()).during(stage)?;
        } else {
            // The first takes the mount itself: only a mount in the tree can be cloned by kernels before 6.15.
            attach::put(nothing, target.as_fd()).during(stage)?;
            nothing_is_mounted = true;
        }
    }
    for path in READ_ONLY {
        let stage = || format!("protect /{path}");
        let Some(target) = attach::existing(root, path).during(stage)? else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(&target, "", flags).during(stage)?;
        sys::set_mount(tree.as_fd(), u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), None, true)
            .during(stage)?;
        attach::put(&tree, target.as_fd()).during(stage)?;
    }
    Ok(())
}
