//! Getting into the container's cgroup, by the cheapest way there is.
//!
//! In: the spec's cgroups. Out: v2: a directory to be born in (`CLONE_INTO_CGROUP`); v1: files a process writes itself
//! into. Moving another process, or whole processes by `cgroup.procs`, takes a lock that waits for all CPUs, some
//! 10 ms; a single thread that moves itself by `tasks` does not.

use crate::failure::During;
use berth_shim::protocol::{Cgroup, Failure};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The container's cgroup, opened while we are still who may.
pub(crate) enum Group {
    V1(Vec<OwnedFd>),
    V2(OwnedFd),
}

impl Group {
    pub(crate) fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::V1(_) => None,
            Self::V2(directory) => Some(directory.as_fd()),
        }
    }

    pub(crate) fn tasks(&self) -> &[OwnedFd] {
        match self {
            Self::V1(tasks) => tasks,
            Self::V2(_) => &[],
        }
    }
}

/// Opens what is needed to join.
pub(crate) fn open(cgroup: &Cgroup) -> Result<Group, Failure> {
    match cgroup {
        Cgroup::V1(dirs) => {
            let tasks = dirs.iter().map(|dir| {
                let path = dir.join("tasks");
                rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                    .during(|| format!("open {}", path.display()))
            });
            Ok(Group::V1(tasks.collect::<Result<_, _>>()?))
        }
        Cgroup::V2 { container, .. } => {
            Ok(Group::V2(directory(container).during(|| format!("open {}", container.display()))?))
        }
    }
}

/// Where the shim is to be born, if it has a place of its own.
pub(crate) fn for_shim(cgroup: &Cgroup) -> Option<OwnedFd> {
    match cgroup {
        Cgroup::V1(_) => None,
        Cgroup::V2 { shims, .. } => directory(shims).ok(),
    }
}

/// Joins: this process has one thread, which moves itself.
pub(crate) fn join(tasks: &[OwnedFd]) -> Result<(), Failure> {
    for file in tasks {
        rustix::io::write(file, b"0").during(|| "join the cgroup".into())?;
    }
    Ok(())
}

fn directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
