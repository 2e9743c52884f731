//! Hosts of which each has a member of an etcd, a controller over it, and a node of the cluster that they make.
//!
//! In: a [`Cluster`] with nothing on its hosts. Out: controllers whose files are in the directory that all hosts see, started again a
//! second after they end, as `Restart=always` does; every command of the test goes over SSH to the host it names, whoever leads.

use super::cluster::{Cluster, DOMAIN, SSH};
use crate::etcd::{self, EtcdMember, etcd_line, store_url};
use crate::platform::{Output, binary, run, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What each host starts, in this order.
const ETCD: usize = 0;
const CONTROLLER: usize = 1;
/// Where nodes dial.
const NODES: u16 = 7443;
/// Starts a controller again a second after it has ended, unless it was stopped for good.
const AGAIN: &str = "stopped=$1; shift; while [ ! -e $stopped ]; do \"$@\"; sleep 1; done";
const SOON: Duration = Duration::from_secs(60);

/// What a cluster of several controllers has besides.
pub(super) struct Several {
    members: Vec<EtcdMember>,
}

impl Cluster {
    /// Three hosts, each with all of it. The first one's controller leads.
    pub fn of_three_controllers() -> Result<Self> {
        let mut cluster = Self::new(3)?;
        let member = |index: usize| {
            let host = cluster.bed.host(index);
            let at = |port| SocketAddr::from((host.address(), port));
            EtcdMember { client: at(2379), peer: at(2380), data: host.directory().join("etcd") }
        };
        let members: Vec<_> = (0..3).map(member).collect();
        for index in 0..3 {
            cluster.bed.host_mut(index).start(etcd_line(&members, index, None))?;
        }
        cluster.several = Some(Several { members });
        std::fs::create_dir(cluster.bed.shared().join("files"))?;
        for index in 0..3 {
            if index > 0 {
                cluster.copy_key(index)?;
            }
            let line = cluster.controller_line(index)?;
            ensure!(cluster.bed.host_mut(index).start(line)? == CONTROLLER, "the second service");
            if index == 0 {
                until(SOON, "the first controller to lead", || cluster.admit(0))
                    .with_context(|| cluster.bed.host(0).log_tail())?;
            }
        }
        until(SOON, "three controllers", || {
            let list = cluster.json(0, &["controller:list"])?;
            ensure!(list.as_array().is_some_and(|list| list.len() == 3), "{list}");
            Ok(())
        })?;
        for index in 0..3 {
            cluster.join(index, index)?;
        }
        for stack in ["debian-12-run", "debian-12-build"] {
            let tar = cluster.stacks.join(format!("{stack}.tar")).display().to_string();
            let line = cluster.local_line(0, &["stack:import", stack, &tar])?;
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            cluster.bed.host(0).ok(&words)?;
        }
        cluster.until_nodes(0, 3)?;
        Ok(cluster)
    }

    /// Where a host's controller keeps what is its own.
    pub(super) fn controller_data(&self, index: usize) -> PathBuf {
        self.bed.host(index).directory().join("controller-data")
    }

    fn controller_line(&self, index: usize) -> Result<Vec<String>> {
        let members = &self.several.as_ref().context("one controller")?.members;
        let (host, data) = (self.bed.host(index), self.controller_data(index));
        let everywhere = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).to_string();
        let path = |path: PathBuf| path.display().to_string();
        let mut line: Vec<String> = ["bash", "-c", AGAIN, "bash"].map(str::to_owned).into();
        line.extend([path(data.join("stopped")), path(binary()?), "controller".to_owned()]);
        let options = [
            ("--data", path(data)),
            ("--domain", DOMAIN.to_owned()),
            ("--api", everywhere(8080)),
            ("--ssh", everywhere(SSH)),
            ("--cluster", everywhere(NODES)),
            ("--store", store_url(members, "hosts")),
            ("--advertise", host.address().to_string()),
            ("--files", path(self.bed.shared().join("files"))),
        ];
        line.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        Ok(line)
    }

    fn copy_key(&self, to: usize) -> Result<()> {
        let dir = |index: usize| self.bed.host(index).seen().join("controller-data/controller");
        std::fs::create_dir_all(dir(to))?;
        std::fs::copy(dir(0).join("config.key"), dir(to).join("config.key"))?;
        Ok(())
    }

    /// Which host's controller leads, as that of `at` says.
    pub fn leader(&self, at: usize) -> Result<usize> {
        let list = self.local_json(at, &["controller:list"])?;
        let leader = list.as_array().into_iter().flatten().find(|one| one["leads"] == true);
        let host = leader.context("no controller leads")?["host"].as_str().context("no host")?.to_owned();
        let found = self.bed.hosts().iter().position(|one| one.address().to_string() == host);
        found.with_context(|| format!("no host is {host}"))
    }

    /// Waits until a controller leads that is not `old`'s, by what `at` says.
    pub fn until_another_leads(&self, at: usize, old: usize) -> Result<usize> {
        until(SOON, "another controller to lead", || {
            let leader = self.leader(at)?;
            ensure!(leader != old, "it is the old one still");
            Ok(leader)
        })
    }

    /// Ends a host's controller for good.
    pub fn end_controller(&mut self, index: usize, signal: Signal) -> Result<()> {
        std::fs::write(self.stopped(index), "")?;
        let shell = self.bed.host(index).pid(CONTROLLER)?;
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let child = children.trim().parse().with_context(|| format!("no controller: {children:?}"))?;
        Ok(kill(Pid::from_raw(child), signal)?)
    }

    /// Starts it again.
    pub fn begin_controller(&mut self, index: usize) -> Result<()> {
        let host = self.bed.host_mut(index);
        host.until_ended(CONTROLLER)?;
        std::fs::remove_file(self.stopped(index))?;
        self.bed.host_mut(index).start_again(CONTROLLER)
    }

    fn stopped(&self, index: usize) -> PathBuf {
        self.bed.host(index).seen().join("controller-data/stopped")
    }

    /// Which host's member leads etcd.
    pub fn etcd_leader(&self) -> Result<usize> {
        let members = &self.several.as_ref().context("one controller")?.members;
        self.bed.switch().within(|| until(SOON, "etcd to have a leader", || etcd::etcd_leader(members)))?
    }

    /// Has the member of that host lead etcd.
    pub fn etcd_hand_over(&self, to: usize) -> Result<()> {
        let members = &self.several.as_ref().context("one controller")?.members;
        self.bed.switch().within(|| etcd::etcd_hand_over(members, to))?
    }

    /// `kill -9` of a host's member of etcd.
    pub fn kill_etcd(&mut self, index: usize) -> Result<()> {
        self.bed.host_mut(index).stop(ETCD, Signal::SIGKILL)
    }

    /// Starts it again.
    pub fn begin_etcd(&mut self, index: usize) -> Result<()> {
        self.bed.host_mut(index).start_again(ETCD)
    }

    /// Which controllers every node knows: how many addresses each remembers.
    pub fn addresses_known(&self, index: usize) -> Result<usize> {
        let text = std::fs::read_to_string(self.bed.host(index).seen().join("cluster.json"))?;
        let membership: serde_json::Value = serde_json::from_str(&text)?;
        Ok(membership["controllers"].as_array().map_or(0, Vec::len))
    }

    /// A client of a host's controller, for commands over SSH.
    #[must_use]
    pub fn client(&self, index: usize) -> Client {
        Client { ssh: self.ssh(), at: format!("paas@{}", self.bed.host(index).address()) }
    }
}

/// Somebody at the switch with a key.
#[derive(Clone, Debug)]
pub struct Client {
    ssh: String,
    at: String,
}

impl Client {
    /// Runs a command there.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{} -p {SSH} {} \"$@\"", self.ssh, self.at), "bash"]).args(words);
        run(command, None)
    }
}
