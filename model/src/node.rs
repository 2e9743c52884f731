//! What passes between the controller and a node's agent.

use crate::container::{ContainerSpec, ContainerStatus};
use crate::{AppName, ContainerId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// All that one node is to run. The whole of it each time: never a delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Grows with every change; a node refuses an older one.
    pub generation: u64,
    /// The containers it is to have. Any other is stopped and removed.
    pub containers: BTreeMap<ContainerId, ContainerSpec>,
    /// Images (repository and digest) to keep though nothing runs from them: releases that may come back.
    #[serde(default)]
    pub keep_images: Vec<crate::image::ImageRef>,
    /// Every app there is: what is kept for builds and logs of others may go. `None` if that is not known.
    #[serde(default)]
    pub apps: Option<BTreeSet<AppName>>,
}

/// All that one node has. The whole of it each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Who reports.
    pub node: NodeName,
    /// The newest generation it has taken over.
    pub generation: u64,
    /// Every container it has, wanted or not.
    pub containers: BTreeMap<ContainerId, ContainerStatus>,
    /// What the machine has.
    pub capacity: Capacity,
}

/// What a machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Online CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Free space of the agent's data directory in MiB.
    pub disk_free_mib: u64,
    /// `v1` or `v2`.
    pub cgroup: String,
    /// Kernel release.
    pub kernel: String,
}
