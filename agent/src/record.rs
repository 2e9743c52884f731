//! What the agent remembers of each container over its own death: one small file a container.
//!
//! In: a life's turning points. Out: [`Record`]s at the next start. The kernel's part (processes, network) is read from the
//! kernel.

use crate::files::{self, Durability};
use crate::seal::Seal;
use berth_model::ContainerId;
use berth_model::container::{ContainerSpec, ContainerState, Stop};
use berth_model::site::SiteRules;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// One container's turning points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it was asked to be.
    pub spec: ContainerSpec,
    /// Starts so far.
    pub incarnation: u32,
    /// Starts since it last ran well.
    pub restarts: u32,
    /// When its process last started; milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Startup checks of this incarnation have passed.
    pub passed: bool,
    /// Its readiness checks passed when they were last looked at.
    pub ready: bool,
    /// For a static site: the directory that is served.
    pub static_root: Option<String>,
    /// For a static site: its headers and redirects.
    #[serde(default, skip_serializing_if = "SiteRules::is_empty")]
    pub static_rules: SiteRules,
    /// The signal that its image wants to be stopped with (`STOPSIGNAL`), if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
    /// The boot of the machine in which it was started.
    pub boot: String,
    /// `BackingOff`, `Exited` or `Failed`, when it does not run.
    pub settled: Option<ContainerState>,
}

impl Record {
    /// A container that was never started.
    #[must_use]
    pub fn new(spec: ContainerSpec) -> Self {
        Self {
            spec,
            incarnation: 0,
            restarts: 0,
            started_ms: 0,
            passed: false,
            ready: false,
            static_root: None,
            static_rules: SiteRules::default(),
            stop_signal: None,
            boot: String::new(),
            settled: None,
        }
    }

    /// How to stop it: the image's own signal, unless another than the default was asked for.
    #[must_use]
    pub fn stop(&self) -> Stop {
        let asked = &self.spec.stop;
        let default = Stop::default().signal;
        let own = self.stop_signal.filter(|_| asked.signal == default);
        Stop { signal: own.unwrap_or(asked.signal), grace_secs: asked.grace_secs }
    }

    fn path(directory: &Path, id: &ContainerId) -> PathBuf {
        directory.join(format!("{id}.json"))
    }

    /// Writes it. It need not survive a loss of power, then everything starts afresh anyway; but for what runs once.
    pub fn save(&self, directory: &Path, seal: &Seal) -> io::Result<()> {
        let durability = if self.spec.once.is_some() { Durability::Sync } else { Durability::Rename };
        files::store_sealed(&Self::path(directory, &self.spec.id), self, durability, seal)
    }

    /// Forgets `id`.
    pub fn forget(directory: &Path, id: &ContainerId) -> io::Result<()> {
        match std::fs::remove_file(Self::path(directory, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Everything that is remembered. A file that cannot be read is removed and reported: its container counts as
    /// unknown, and is started afresh if it is wanted.
    pub fn load_all(directory: &Path, seal: &Seal) -> io::Result<Vec<Self>> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            match files::load_sealed::<Self>(&path, seal) {
                Ok(Some(record)) if path == Self::path(directory, &record.spec.id) => records.push(record),
                Ok(_) => std::fs::remove_file(&path)?,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a container's record is unreadable and dropped");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        Ok(records)
    }
}
