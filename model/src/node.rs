//! What passes between the controller and a node's agent.

use crate::container::{ContainerSpec, ContainerStatus};
use crate::network::WireGuard;
use crate::{AppName, ContainerId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
    /// What it is short of.
    #[serde(default)]
    pub pressure: Pressure,
    /// What work on it waited for.
    #[serde(default)]
    pub stalls: Stalls,
    /// Its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<crate::network::NetworkReport>,
}

/// A machine of the platform, as the store keeps it. The controller's own machine has one too, without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name for life.
    pub name: NodeName,
    /// Milliseconds since the Unix epoch.
    pub joined_ms: i64,
    /// Where other nodes reach it; `None` as long as it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The addresses of its containers, such as `10.208.16.0/20`; no two nodes share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// How others speak with it over WireGuard; no two nodes share a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<WireGuard>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, hexadecimal): whoever shows a certificate with another one is not it.
    /// `None` for the controller's own machine, which speaks over sockets that only its root opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key it is about to take: good as well until it is first used, and the only one from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<String>,
    /// What apps choose nodes by. `zone` and `pool` mean something to placing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It gets no new containers.
    #[serde(default)]
    pub cordoned: bool,
    /// It is being emptied: what it has moves to others.
    #[serde(default)]
    pub draining: bool,
    /// What apps may reserve of it, where that is not all it has.
    #[serde(default)]
    pub offered: Offered,
}

impl NodeRecord {
    /// A machine of which nothing is known but that it is there.
    #[must_use]
    pub fn new(name: NodeName, joined_ms: i64) -> Self {
        Self {
            name,
            joined_ms,
            address: None,
            subnet: None,
            wireguard: None,
            key: None,
            next_key: None,
            labels: BTreeMap::new(),
            cordoned: false,
            draining: false,
            offered: Offered::default(),
        }
    }

    /// Whether it joined over the network; else it is the controller's own machine.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.key.is_some()
    }
}

/// What apps may reserve of a node. `None` is what the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offered {
    /// Thousandths of a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

/// What a machine is short of. It gets no new work as long as it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pressure {
    /// Its data directory is nearly full.
    #[serde(default)]
    pub disk: bool,
    /// Its memory is nearly used up.
    #[serde(default)]
    pub memory: bool,
}

/// What work on a machine waited for, as its kernel counts it (PSI, <https://docs.kernel.org/accounting/psi.html>). What it
/// does not count is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stalls {
    /// For a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Stall>,
    /// For memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Stall>,
    /// For disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Stall>,
}

/// For how much of the time work waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stall {
    /// At least one task did.
    pub some: Averages,
    /// All that had something to do did. For CPUs kernels say this since 5.13.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Averages>,
}

/// A share of the time, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Averages {
    /// Over 10 s.
    pub avg10: u16,
    /// Over 60 s.
    pub avg60: u16,
    /// Over 300 s.
    pub avg300: u16,
}

/// What the containers placed on a node may count on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reserved {
    /// Thousandths of a CPU that are reserved.
    pub cpu_millis: u64,
    /// MiB of memory that are reserved.
    pub memory_mib: u64,
    /// Their memory limits together, in MiB; a container without one counts as 4096.
    pub memory_limits_mib: u64,
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
    /// Size of the file system that holds it in MiB; 0 if it never said.
    #[serde(default)]
    pub disk_mib: u64,
    /// `v1` or `v2`.
    pub cgroup: String,
    /// Kernel release.
    pub kernel: String,
}
