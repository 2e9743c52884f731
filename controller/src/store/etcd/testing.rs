//! A real etcd for tests: Debian's `etcd-server`, members on loopback ports, ended by their process ids.

use super::{Address, Controller, Etcd, EtcdOptions, Leadership, Member};
use crate::store::Store;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Members of one etcd.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
}

fn free_ports(count: usize) -> Vec<u16> {
    // All at once, so that they differ.
    let held: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    held.iter().map(|one| one.local_addr().expect("bound").port()).collect()
}

impl Cluster {
    /// Starts so many members and waits until they answer.
    pub(crate) async fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports = free_ports(2 * count).chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let mut cluster = Self { dir, ports, members: (0..count).map(|_| None).collect() };
        for index in 0..count {
            cluster.begin(index);
        }
        let etcd = cluster.etcd("ready", Duration::from_secs(5));
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        while etcd.get("x").await.is_err() {
            assert!(tokio::time::Instant::now() < until, "etcd does not begin to serve");
        }
        cluster
    }

    /// Starts one member.
    pub(crate) fn begin(&mut self, index: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all = self.ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}={}", url(*peer)));
        let all = all.collect::<Vec<_>>().join(",");
        let (client, peer) = self.ports[index];
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{index}.log")))
            .expect("a log");
        let child = Command::new("etcd")
            .args(["--name", &format!("m{index}"), "--initial-cluster", &all])
            .arg("--data-dir")
            .arg(self.dir.path().join(index.to_string()))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts: it is in Debian's package etcd-server");
        self.members[index] = Some(child);
    }

    /// Kills one member.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Settings for one platform in it.
    pub(crate) fn options(&self, name: &str, lease: Duration) -> EtcdOptions {
        let members: Vec<_> = self.ports.iter().map(|(client, _)| format!("127.0.0.1:{client}")).collect();
        let address = Address::parse(&format!("etcd://{}/{name}", members.join(","))).expect("an address");
        EtcdOptions { address, ca: None, certificate: None, user_file: None, lease }
    }

    /// One platform in it.
    pub(crate) fn etcd(&self, name: &str, lease: Duration) -> Etcd {
        Etcd::new(&self.options(name, lease)).expect("the settings are fine")
    }

    /// The store of a controller that leads a platform.
    pub(crate) async fn store(&self, name: &str) -> (Member, Leadership, Store) {
        let member = self.etcd(name, Duration::from_secs(5)).join(controller(1)).await.expect("it joins");
        let leadership = member.try_lead().await.expect("it answers").expect("nobody else leads");
        let store = Store::leading(&leadership);
        (member, leadership, store)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}

/// A controller that says so of itself.
pub(crate) fn controller(number: u16) -> Controller {
    Controller {
        host: format!("127.0.0.{number}"),
        api: 8080,
        ssh: 2222,
        cluster: None,
        version: String::new(),
        since_ms: 0,
    }
}
