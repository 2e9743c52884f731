//! Berth on the hosts of a bed.
//!
//! In: a bed and the `berth` binary under test. Out: `berth up` on any host, its CLI run there as root, and working
//! copies that are pushed to it by a client at the switch.

use super::server::{Server, stacks};
use super::several::Several;
use super::{Bed, BedOptions, Swarm};
use crate::http::{Reply, Request};
use crate::platform::{Output, binary, run, until};
use crate::repo::Repo;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where each host's proxy serves apps.
pub const HTTP: u16 = 80;
/// Where a controller takes pushes and commands.
pub const SSH: u16 = 2222;
/// How large each disk is; a host with less than 1 GiB free takes no work. What is not used takes no memory.
const DISK_MIB: u64 = 4096;
/// Apps answer at `APP.test.localhost`.
pub const DOMAIN: &str = "test.localhost";
/// What `berth up` says when it is ready, on a controller's machine and on one that joined.
const READY: [&str; 2] = ["=====> Berth is ready", "=====> Node "];

fn with_data(data: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let head = [binary()?.display().to_string(), "--data".to_owned(), data.display().to_string()];
    Ok(head.into_iter().chain(arguments.iter().map(|word| (*word).to_owned())).collect())
}

/// One container of an app, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Its id.
    pub id: String,
    /// Where it is placed.
    pub node: String,
    /// It runs and is ready, by the last report of its node.
    pub serves: bool,
}

/// Hosts with Berth on them.
pub struct Cluster {
    /// The hosts.
    pub bed: Bed,
    /// The app they run.
    pub server: Server,
    key: PathBuf,
    pub(super) stacks: PathBuf,
    /// Of several controllers.
    pub(super) several: Option<Several>,
}

impl Cluster {
    /// Makes the hosts, each with a disk of its own; nothing runs on them yet.
    pub fn new(hosts: usize) -> Result<Self> {
        let disks = (0..hosts).map(|index| (index, DISK_MIB)).collect();
        let bed = Bed::new(&BedOptions { hosts, disks })?;
        let key = bed.directory().join("key");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        run(keygen, None)?.success()?;
        let server = Server::compile(bed.directory())?;
        let stacks = stacks(&bed.shared())?;
        Ok(Self { bed, server, key, stacks, several: None })
    }

    /// Starts `berth up` on a host, now and whenever it is switched on, and waits until it is ready. Gives the number of
    /// the service.
    pub fn up(&mut self, index: usize, more: &[&str]) -> Result<usize> {
        let stacks = self.stacks.display().to_string();
        let ssh = format!("0.0.0.0:{SSH}");
        let own = ["--domain", DOMAIN, "--ssh", &ssh, "--stack-dir", &stacks];
        self.start(index, &[&own, more].concat())
    }

    fn start(&mut self, index: usize, more: &[&str]) -> Result<usize> {
        let http = format!("0.0.0.0:{HTTP}");
        let words = [&["up", "--http", &http, "--https", "0.0.0.0:443"], more].concat();
        let line = self.line(index, &words)?;
        let said = self.times_ready(index);
        let service = self.bed.host_mut(index).start(line)?;
        self.until_ready(index, said)?;
        Ok(service)
    }

    /// Lets a host join the cluster of the controller on `at`, with the one command that its operator is given, and keeps
    /// its roles running there from now on.
    pub fn join(&mut self, index: usize, at: usize) -> Result<usize> {
        self.join_as(index, at, None)
    }

    /// The same, in place of a node.
    pub fn join_as(&mut self, index: usize, at: usize, node: Option<&str>) -> Result<usize> {
        let words: Vec<&str> = ["node:token"].into_iter().chain(node).collect();
        let said = self.ok(at, &words)?.stdout;
        let line = said.lines().find(|line| line.contains("berth agent join "));
        let line = line.with_context(|| format!("no line to copy in {said}"))?;
        let words: Vec<&str> = line.split_whitespace().skip_while(|word| *word != "agent").collect();
        let own = self.line(index, &words)?;
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        self.bed.host(index).ok(&own)?;
        self.start(index, &[])
    }

    /// Waits until a controller counts so many nodes that are alive.
    pub fn until_nodes(&self, at: usize, alive: usize) -> Result<()> {
        until(Duration::from_secs(60), &format!("{alive} nodes to be alive"), || {
            let nodes = self.json(at, &["node:list"])?;
            let list = nodes.as_array().context("no list")?;
            let now = list.iter().filter(|node| node["alive"] == true).count();
            ensure!(now == alive, "{now} of {}", list.len());
            Ok(())
        })
    }

    /// Three hosts: a controller, and two that joined it.
    pub fn of_three() -> Result<Self> {
        let mut cluster = Self::new(3)?;
        cluster.up(0, &[])?;
        cluster.admit(0)?;
        for index in [1, 2] {
            cluster.join(index, 0)?;
        }
        cluster.until_nodes(0, 3)?;
        Ok(cluster)
    }

    /// Waits until `berth up` has said so more than `said` times.
    pub fn until_ready(&self, index: usize, said: usize) -> Result<()> {
        let host = self.bed.host(index);
        let ready =
            until(Duration::from_secs(60), &format!("berth up on {} to be ready", host.name()), || {
                let ready = self.times_ready(index) > said;
                ensure!(ready || !host.serves(), "not yet");
                Ok(ready)
            });
        let ready = ready.with_context(|| host.log_tail())?;
        ensure!(ready, "berth up on {} has ended; {}", host.name(), host.log_tail());
        Ok(())
    }

    /// How often `berth up` on a host said that it was ready.
    #[must_use]
    pub fn times_ready(&self, index: usize) -> usize {
        let log = self.bed.host(index).log();
        READY.iter().map(|words| log.matches(words).count()).sum()
    }

    /// Sends SIGKILL to a role of a host's `berth up`: `controller`, `agent` or `proxy`.
    pub fn kill_role(&self, index: usize, role: &str) -> Result<()> {
        let up = self.bed.host(index).pid(0)?;
        let children = std::fs::read_to_string(format!("/proc/{up}/task/{up}/children"))?;
        let is = |child: &&str| {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes())
        };
        let child = children.split_whitespace().find(is);
        let child = child.with_context(|| format!("no {role} on host {index}"))?.parse()?;
        Ok(kill(Pid::from_raw(child), Signal::SIGKILL)?)
    }

    /// Lets the tester's key in at a controller.
    pub fn admit(&self, index: usize) -> Result<()> {
        let public = std::fs::read(self.key.with_extension("pub"))?;
        let line = self.local_line(index, &["ssh-keys:add", "tester"])?;
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        self.bed.host(index).run_with_input(&words, &public)?.success().map(drop)
    }

    fn line(&self, index: usize, arguments: &[&str]) -> Result<Vec<String>> {
        with_data(self.bed.host(index).directory(), arguments)
    }

    /// For the host's own controller: one of several has a directory of its own, beside the node's.
    pub(super) fn local_line(&self, index: usize, arguments: &[&str]) -> Result<Vec<String>> {
        match &self.several {
            Some(_) => with_data(&self.controller_data(index), arguments),
            None => self.line(index, arguments),
        }
    }

    /// Runs the CLI on a host, as its root; if there are several controllers, over SSH at that host's.
    pub fn berth(&self, index: usize, arguments: &[&str]) -> Result<Output> {
        if self.several.is_some() {
            return self.client(index).run(arguments);
        }
        let line = self.line(index, arguments)?;
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        self.bed.host(index).run(&words)
    }

    /// What the controller of a host itself says, as JSON.
    pub(super) fn local_json(&self, index: usize, arguments: &[&str]) -> Result<serde_json::Value> {
        let line = self.local_line(index, &[arguments, &["--format", "json"]].concat())?;
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        Ok(serde_json::from_str(&self.bed.host(index).ok(&words)?.stdout)?)
    }

    /// The same; it must work.
    pub fn ok(&self, index: usize, arguments: &[&str]) -> Result<Output> {
        let said = self.berth(index, arguments)?.success();
        said.with_context(|| format!("berth {} on {}", arguments.join(" "), self.bed.host(index).name()))
    }

    /// The same, with what it prints as JSON.
    pub fn json(&self, index: usize, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut line = arguments.to_vec();
        line.extend(["--format", "json"]);
        Ok(serde_json::from_str(&self.ok(index, &line)?.stdout)?)
    }

    /// `ssh` of a client at the switch.
    pub(super) fn ssh(&self) -> String {
        format!(
            "nsenter --target {} --net ssh -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes -o ConnectTimeout=10 \
             -o ServerAliveInterval=5",
            self.bed.switch().pid(),
            self.key.display()
        )
    }

    /// Where an app is pushed to at a host.
    #[must_use]
    pub fn remote(&self, index: usize, app: &str) -> String {
        format!("ssh://paas@{}:{SSH}/{app}", self.bed.host(index).address())
    }

    /// A client's working copy with `version` of the app committed, whose remote is `app` on a host.
    pub fn repo(&self, index: usize, app: &str, version: &str) -> Result<Repo> {
        let repo = Repo::empty(&self.ssh(), &self.remote(index, app))?;
        self.server.write(&repo, version)?;
        repo.commit(version)?;
        Ok(repo)
    }

    /// Pushes a new version.
    pub fn push(&self, repo: &Repo, version: &str) -> Result<Output> {
        self.server.write(repo, version)?;
        repo.commit(version)?;
        repo.push()
    }

    /// Where a host's proxy listens.
    #[must_use]
    pub fn proxy(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.bed.host(index).address(), HTTP))
    }

    /// `GET /path` of an app, from the proxy of a host.
    pub fn get(&self, index: usize, app: &str, path: &str) -> Result<Reply> {
        self.bed.send(self.proxy(index), &Request::get(&format!("{app}.{DOMAIN}"), path))
    }

    /// Waits until `/` of an app, from the proxy of a host, begins with `text`.
    pub fn until_says(&self, index: usize, app: &str, text: &str) -> Result<Reply> {
        until(Duration::from_secs(30), &format!("{app} on host {index} to say {text:?}"), || {
            let reply = self.get(index, app, "/")?;
            ensure!(
                reply.status == 200 && reply.text().starts_with(text),
                "{} {}",
                reply.status,
                reply.text()
            );
            Ok(reply)
        })
    }

    /// Two users at each of those hosts' proxies, asking 25 times a second each.
    #[must_use]
    pub fn swarm(&self, hosts: &[usize], app: &str) -> Swarm {
        let proxies: Vec<_> = hosts.iter().map(|index| self.proxy(*index)).collect();
        Swarm::start(self.bed.switch(), &proxies, &format!("{app}.{DOMAIN}"), 2, Duration::from_millis(40))
    }

    /// What `ps:report` says of an app's containers.
    pub fn containers(&self, index: usize, app: &str) -> Result<Vec<serde_json::Value>> {
        let report = self.json(index, &["ps:report", app])?;
        report["containers"].as_array().cloned().context("no `containers` in the report")
    }

    /// The app's containers of processes that serve.
    pub fn replicas(&self, at: usize, app: &str) -> Result<Vec<Replica>> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let replica = |container: &serde_json::Value| Replica {
            id: text(&container["id"]),
            node: text(&container["node"]),
            serves: container["status"]["state"]["ready"] == true,
        };
        let mut all: Vec<_> = self.containers(at, app)?.iter().map(replica).collect();
        all.sort();
        Ok(all)
    }

    /// Waits until an app has exactly so many containers, all serve, and all are on those hosts, on each of them one.
    pub fn until_spread(
        &self,
        at: usize,
        app: &str,
        count: usize,
        over: &[usize],
        limit: Duration,
    ) -> Result<Vec<Replica>> {
        let names: Vec<_> = over.iter().map(|index| self.bed.host(*index).name().to_owned()).collect();
        until(limit, &format!("{count} replicas of {app} on {names:?}"), || {
            let replicas = self.replicas(at, app)?;
            let there = replicas.len() == count && replicas.iter().all(|replica| replica.serves);
            ensure!(there && replicas.iter().all(|replica| names.contains(&replica.node)), "{replicas:?}");
            let each = names.iter().all(|name| replicas.iter().any(|replica| replica.node == *name));
            ensure!(each, "not on each: {replicas:?}");
            Ok(replicas)
        })
    }
}
