//! One container's life in the kernel, through a shim that outlives the agent.
//!
//! In: a `Bundle` (layers, namespaces, limits, what to run). Out: a `Handle` on the running container, its exit, its
//! log segments. All state is in the container's directory and in the kernel: a new agent finds everything again by
//! `attach`. Each container has a shim (`berth-shim`, embedded here) that holds its pipes, reaps it and writes
//! `exit.json`; the agent talks to it over `ctl.sock` and may die at any time.

mod block;
mod bundle;
mod cgroup;
mod control;
mod error;
mod handle;
mod launch;
pub mod logs;
mod prepare;
mod seccomp;
mod session;
mod sys;
mod syscalls;
mod watch;

pub use bundle::{Bind, Bundle, ExecSpec, IdMap, Private, Stats, Stdio};
pub use error::RuntimeError;
pub use handle::Handle;
pub use session::{Session, SessionControl, Stream};

use crate::seal::Seal;
use berth_model::container::Exit;
use berth_shim::protocol::{EXIT, LOCK};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The runtime of one agent.
pub struct Runtime {
    cgroups: cgroup::Cgroups,
    shim: Arc<launch::ShimImage>,
    seccomp: Vec<Vec<u64>>,
    seal: Seal,
}

/// What a container directory of an earlier agent turned out to be.
#[derive(Debug)]
pub enum Attached {
    /// It runs.
    Alive(Handle),
    /// It ended while no agent looked.
    Exited(Exit),
    /// It never came to run, or its shim died: there is nothing to learn. Remove it.
    Lost,
}

impl Runtime {
    /// Finds out how this machine limits containers and makes what all shims share. `instance` names the cgroups;
    /// `data` is the data directory.
    pub fn open(instance: &str, data: &Path) -> Result<Self, RuntimeError> {
        let containers = data.join("agent/containers");
        std::fs::create_dir_all(&containers).map_err(RuntimeError::file("make", &containers))?;
        let key = data.join("agent/state.key");
        Ok(Self {
            cgroups: cgroup::Cgroups::open(instance)?,
            shim: Arc::new(launch::ShimImage::new()?),
            seccomp: seccomp::programs()?,
            seal: Seal::open(&key).map_err(RuntimeError::file("use", &key))?,
        })
    }

    /// Sets the container up: on return its first process waits before `execve`, and its network may be wired.
    /// It is taken down again when `Handle::start` does not follow within a minute.
    pub async fn create(&self, bundle: &Bundle) -> Result<Handle, RuntimeError> {
        // A container that was restarted in its place: its last shim may be about to end, its counters begin anew.
        prepare::no_shim_left(&bundle.dir.join(LOCK)).await?;
        self.cgroups.group(bundle.id.as_str()).kill_and_remove();
        let disks = match bundle.limits.io.is_none() {
            true => Vec::new(),
            false => {
                let binds = bundle.binds.iter().map(|bind| bind.source.clone());
                let containers = bundle.dir.parent().unwrap_or(&bundle.dir); // its own is yet to be made
                block::disks(bundle.id.as_str(), containers, binds)?
            }
        };
        let group = self.cgroups.create(bundle.id.as_str(), &bundle.limits, &disks)?;
        let made = async {
            let spec = prepare::spec(bundle, &group, &self.seccomp, &self.seal)?;
            let (boot, pid, fds) = self.shim.launch(&spec).await?;
            let watched = self.watched(bundle.id.as_str(), &bundle.dir);
            Handle::created(bundle, watched, boot, pid, fds).await
        };
        let made = made.await;
        if made.is_err() {
            group.kill_and_remove();
        }
        made
    }

    /// Finds a container of an earlier agent again. `dir` is its directory, named by its id.
    pub async fn attach(&self, dir: &Path) -> Result<Attached, RuntimeError> {
        if !lock_is_held(&dir.join(LOCK))? {
            return Ok(read_exit(dir).map_or(Attached::Lost, Attached::Exited));
        }
        let id = id_of(dir)?;
        if let Err(error) = prepare::seal_old_spec(dir, &self.seal) {
            tracing::warn!(container = id, %error, "cannot seal what an older agent wrote");
        }
        match Handle::attached(self.watched(&id, dir)).await {
            Ok(Some(handle)) => Ok(Attached::Alive(handle)),
            // Between our look at the lock and the connection it ended, or it was never started.
            Ok(None) | Err(RuntimeError::Gone { .. }) => {
                Ok(read_exit(dir).map_or(Attached::Lost, Attached::Exited))
            }
            Err(error) => Err(error),
        }
    }

    /// Kills what still runs of the container and removes its cgroup and directory. Does nothing when it is gone.
    /// Blocks for as long as the kernel takes to end its processes, at most some seconds.
    pub fn remove(&self, dir: &Path) -> Result<(), RuntimeError> {
        let id = id_of(dir)?;
        self.cgroups.group(&id).kill_and_remove();
        prepare::wait_for_shim(&dir.join(LOCK))?;
        self.cgroups.group(&id).kill_and_remove(); // a shim killed while creating may have let one more in
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RuntimeError::file("remove", dir)(error))
            }
            _ => Ok(()),
        }
    }

    fn watched(&self, id: &str, dir: &Path) -> watch::Watched {
        let (id, group, shim) = (id.to_owned(), self.cgroups.group(id), Arc::clone(&self.shim));
        watch::Watched { id, dir: dir.to_owned(), group, shim, seal: self.seal.clone() }
    }

    /// What seals the node's own files.
    #[must_use]
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Which cgroup interface limits containers here: `v1` or `v2`.
    #[must_use]
    pub fn cgroup_kind(&self) -> &'static str {
        self.cgroups.kind()
    }

    /// Ids of containers that still have a cgroup: with the directories, all that may be left over from before.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        self.cgroups.ids()
    }

    /// Removes the runtime's own cgroups once no container is left. For uninstalling and tests.
    pub fn close(&self) {
        self.cgroups.remove_root();
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("cgroups", &self.cgroup_kind()).finish_non_exhaustive()
    }
}

fn id_of(dir: &Path) -> Result<String, RuntimeError> {
    let name = dir.file_name().and_then(|name| name.to_str());
    match name.map(berth_model::ContainerId::parse) {
        Some(Ok(id)) => Ok(id.into()),
        _ => Err(RuntimeError::Invalid {
            id: dir.display().to_string(),
            what: "its directory is not named by a container id".into(),
        }),
    }
}

fn lock_is_held(path: &PathBuf) -> Result<bool, RuntimeError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(RuntimeError::file("open", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(error)) => Err(RuntimeError::file("lock", path)(error)),
    }
}

fn read_exit(dir: &Path) -> Option<Exit> {
    let text = std::fs::read(dir.join(EXIT)).ok()?;
    serde_json::from_slice::<berth_shim::protocol::Exit>(&text).ok().as_ref().map(watch::exit_of)
}
