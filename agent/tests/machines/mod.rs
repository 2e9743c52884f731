//! Machines as network namespaces on one wire, and nodes on them. Every object is named after an instance of the test's own and
//! removed at its end.

#![allow(dead_code, reason = "each test file uses a part of it")]

use berth_agent::network::{self, Attachment, Mode, Network};
use berth_model::names::NetworkName;
use berth_model::network::{Named, NetworkTable, Peer};
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().expect("the program runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn run(command: &str) {
    let done = Command::new("sh").args(["-ec", command]).status().expect("sh runs");
    assert!(done.success(), "{command}");
}

pub(crate) fn random() -> String {
    let mut bytes = [0_u8; 3];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    hex::encode(bytes)
}

/// A bridge in a namespace of its own, and machines on it. Goes with everything on it.
pub(crate) struct Wire {
    pub(crate) name: String,
    machines: Vec<String>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let name = format!("bw{}", random());
        run(&format!(
            "ip netns add {name}; ip -n {name} link add wire type bridge; ip -n {name} link set wire up"
        ));
        Self { name, machines: Vec::new() }
    }

    /// A machine with the address 192.0.2.N.
    pub(crate) fn machine(&mut self, n: u8) -> String {
        let (wire, name) = (&self.name, format!("{}{n}", self.name));
        run(&format!(
            "ip netns add {name}; ip -n {name} link set lo up; \
             ip -n {wire} link add p{n} type veth peer name eth0 netns {name}; \
             ip -n {wire} link set p{n} master wire up; \
             ip -n {name} address add 192.0.2.{n}/24 dev eth0; ip -n {name} link set eth0 up; \
             ip -n {name} route add default via 192.0.2.254"
        ));
        self.machines.push(name.clone());
        name
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in self.machines.iter().chain([&self.name]) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// An instance on a machine.
pub(crate) struct Node {
    pub(crate) machine: String,
    pub(crate) instance: String,
    pub(crate) data: tempfile::TempDir,
    pub(crate) network: Network,
    pub(crate) n: u8,
}

pub(crate) fn enter(machine: &str) {
    let file = File::open(format!("/run/netns/{machine}")).expect("the namespace is there");
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
}

impl Node {
    /// The test has one thread: what it does from here on it does on this machine.
    pub(crate) async fn start(machine: &str, n: u8, mode: Mode) -> Self {
        let (instance, data) = (random(), tempfile::tempdir().expect("a directory"));
        std::fs::create_dir(data.path().join("agent")).expect("made");
        enter(machine);
        let subnet = format!("10.208.{}.0/20", u32::from(n) * 16);
        let network = Network::open(&instance, data.path(), Some(&subnet), mode).await.expect("it is set up");
        Self { machine: machine.to_owned(), instance, data, network, n }
    }

    pub(crate) async fn attach(&self, id: &str) -> Attachment {
        enter(&self.machine);
        let app = id.split('.').next().expect("an app");
        let (id, app) = (ContainerId::parse(id).expect("an id"), AppName::parse(app).expect("a name"));
        self.network.attach(&id, &app, &[]).await.expect("attached")
    }

    pub(crate) async fn tell(&self, table: &NetworkTable) {
        enter(&self.machine);
        self.network.set_table(table.clone()).await.expect("taken over");
        assert_eq!(self.network.report().error, None);
    }

    pub(crate) fn peer(&self) -> Peer {
        let report = self.network.report();
        Peer {
            node: NodeName::parse(&format!("n{}", self.n)).expect("a name"),
            address: Ipv4Addr::new(192, 0, 2, self.n).into(),
            subnet: report.subnet,
            port: report.port.unwrap_or(4789),
            wireguard: report.wireguard,
        }
    }

    pub(crate) async fn close(self) {
        enter(&self.machine);
        drop(self.network);
        network::remove_all(&self.instance).await.expect("everything can be removed");
        let left =
            output(Command::new("sh").args(["-c", "ip -o link; nft list tables; cat /proc/self/mounts"]));
        assert!(!left.contains(&self.instance), "nothing is left: {left}");
        drop(self.data);
    }
}

/// A command on a machine.
pub(crate) fn on(machine: &str, command: &str) -> String {
    output(Command::new("ip").args(["netns", "exec", machine, "sh", "-c", command])).trim().to_owned()
}

/// A command in a container.
pub(crate) fn inside(at: &Attachment, command: &str) -> Command {
    let mut inside = Command::new("nsenter");
    inside.arg(format!("--net={}", at.netns.display())).args(["sh", "-c", command]);
    inside
}

pub(crate) fn connect(to: Ipv4Addr) -> String {
    format!("busybox nc -w 2 {to} 5000 </dev/null 2>/dev/null")
}

pub(crate) fn fetch(at: &Attachment, to: Ipv4Addr) -> String {
    output(&mut inside(at, &connect(to))).trim().to_owned()
}

pub(crate) fn table(
    own: u8,
    peers: Vec<Peer>,
    apps: &[&str],
    members: &[(&str, &Attachment)],
) -> NetworkTable {
    let network = BTreeSet::from([NetworkName::parse("back").expect("a name")]);
    let apps = apps.iter().map(|app| (AppName::parse(app).expect("a name"), network.clone()));
    let app = |id: &str| AppName::parse(id.split('.').next().expect("an app")).expect("a name");
    let named = |(id, at): &(&str, &Attachment)| {
        let named = Named { app: app(id), process: ProcessType::web(), ordinal: 1, address: at.address };
        (ContainerId::parse(id).expect("an id"), named)
    };
    NetworkTable {
        revision: 1,
        address: Some(Ipv4Addr::new(192, 0, 2, own).into()),
        key: None,
        peers,
        apps: apps.collect(),
        addresses: members.iter().map(|(id, at)| (at.address, app(id))).collect(),
        named: members.iter().map(named).collect(),
    }
}
