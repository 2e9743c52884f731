//! Hosts that are not there: several machines, simulated on this one, that can be cut off, paused and switched off.
//!
//! A [`Bed`] is a switch (a network namespace with a bridge) and hosts plugged into it. A [`Host`] has its own network,
//! mounts (`/proc`, `/sys`, `/run`), host name, process ids and cgroups, and a directory that outlives its being
//! switched off. Nothing of the machine's own network is used, and there is no way out.
//!
//! In: `unshare(1)`, `nsenter(1)`, `ip(8)`, `nft(8)`; cgroup v1 or v2; root. Out: hosts at 192.0.2.1 and on, and clients
//! on the switch itself, which no partition between hosts reaches.
//! Everything is held by processes that end when the test does, whatever way it ends, and the kernel takes the rest away
//! with them. What stays of a killed test (empty cgroups, a directory in `/tmp`) the next [`Bed`] sweeps away.

mod cgroups;
mod cluster;
mod host;
mod server;
mod several;
mod swarm;
mod sweep;
mod switch;

pub use cluster::{Cluster, DOMAIN, HTTP, Replica, SSH};
pub use host::Host;
pub use server::Server;
pub use several::Client;
pub use swarm::{Answer, Swarm, SwarmReport};
pub use switch::{Cut, Switch};

use crate::http::{self, Reply, Request};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// More would not fit the test machines.
pub const MOST_HOSTS: usize = 12;

/// A directory of the bed that all hosts see; of the rest each sees its own.
const SHARED: &str = "shared";

/// What hosts are made with.
#[derive(Clone, Debug, Default)]
pub struct BedOptions {
    /// How many.
    pub hosts: usize,
    /// Hosts (from 0) that have a disk of their own, of so many MiB: only those can be full.
    pub disks: Vec<(usize, u64)>,
}

/// A switch and the hosts at it, all switched on. Gone when dropped.
pub struct Bed {
    // In the order in which they are to go.
    hosts: Vec<Host>,
    switch: Arc<Switch>,
    _cgroups: cgroups::Area,
    directory: TempDir,
}

impl Bed {
    /// So many hosts whose disks are this machine's.
    pub fn of(hosts: usize) -> Result<Self> {
        Self::new(&BedOptions { hosts, ..BedOptions::default() })
    }

    /// Makes the hosts and switches them on.
    pub fn new(options: &BedOptions) -> Result<Self> {
        ensure!((1..=MOST_HOSTS).contains(&options.hosts), "1 to {MOST_HOSTS} hosts");
        sweep::leftovers();
        let directory = sweep::directory()?;
        std::fs::create_dir(directory.path().join(SHARED))?;
        let area = cgroups::Area::new(&sweep::cgroup_name(directory.path())?)?;
        let switch = Arc::new(Switch::new()?);
        let mut bed = Self { hosts: Vec::new(), switch, _cgroups: area, directory };
        for index in 0..options.hosts {
            let name = format!("h{}", index + 1);
            let place = bed.directory.path().join(&name);
            std::fs::create_dir(&place)?;
            if let Some((_, mib)) = options.disks.iter().find(|(of, _)| *of == index) {
                bed.switch.mount_disk(&place, *mib)?;
            }
            let address = Ipv4Addr::new(192, 0, 2, u8::try_from(index + 1)?);
            let group = bed._cgroups.group(&name);
            let mut host = Host::new(&name, address, &place, group, bed.switch.clone());
            host.power_on().with_context(|| format!("switching {name} on"))?;
            bed.hosts.push(host);
        }
        Ok(bed)
    }

    /// A host, from 0.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The same, to be switched off and on.
    pub fn host_mut(&mut self, index: usize) -> &mut Host {
        &mut self.hosts[index]
    }

    /// All of them.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What they are plugged into.
    #[must_use]
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// A directory for whatever belongs to the bed but to no host; no host sees it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A directory that all hosts see, by the same name.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.directory.path().join(SHARED)
    }

    /// One request of a client at the switch.
    pub fn send(&self, to: SocketAddr, request: &Request<'_>) -> Result<Reply> {
        self.switch.within(|| http::once(to, request))?
    }

    /// `GET path` of a host name, from the proxy of a host.
    pub fn get(&self, index: usize, host_name: &str, path: &str) -> Result<Reply> {
        let to = SocketAddr::from((self.host(index).address(), HTTP));
        self.send(to, &Request::get(host_name, path))
    }
}
