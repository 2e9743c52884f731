//! Containers of several nodes on the real kernel, encrypted: each node is a network namespace on one wire, and the wire is listened to.
//! On a kernel without WireGuard (or `tests/vm/run`, which has one) it is the way back to VXLAN that is looked at. Needs root, `ip`,
//! `nft`, `nsenter` and `busybox`; in the virtual machine there is little else.

mod machines;

use berth_agent::network::{Attachment, Mode, Network};
use berth_model::network::{NetworkTable, Peer, Ways};
use machines::{Node, Wire, connect, enter, fetch, inside, on, output, run, table};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What the container says, and nobody may read.
const TEXT: &str = "nobody-may-read-this";
const APPS: [&str; 2] = ["shop", "cache"];

/// Everything that goes over the wire (packet(7)).
struct Capture(OwnedFd);

impl Capture {
    fn start(wire: &Wire) -> Self {
        enter(&wire.name);
        let (family, flags) = (AddressFamily::Packet, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC);
        Self(socket(family, SockType::Raw, flags, SockProtocol::EthAll).expect("a socket"))
    }

    /// Ports that UDP went to since it began, and whether the text was to be read.
    fn seen(self) -> (Vec<u16>, bool) {
        let (mut ports, mut read, mut buffer) = (Vec::new(), false, vec![0; 1 << 16]);
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let frame = &buffer[..length];
            read |= frame.windows(TEXT.len()).any(|window| window == TEXT.as_bytes());
            // Ethernet, IPv4 without options (RFC 791), and then UDP; ARP, and the kernel's own IGMP (RFC 3376), are nobody's secret.
            if frame.len() > 38 && frame[12..14] == [8, 0] && frame[23] != 2 {
                assert_eq!(frame[23], 17, "nothing but UDP is between the machines");
                ports.push(u16::from_be_bytes([frame[36], frame[37]]));
            }
        }
        ports.sort_unstable();
        ports.dedup();
        (ports, read)
    }
}

struct Server(Child);

impl Server {
    fn start(at: &Attachment) -> Self {
        let command = format!("exec busybox nc -ll -p 5000 -e echo {TEXT}");
        let server = Self(inside(at, &command).stdout(Stdio::null()).spawn().expect("it starts"));
        let began = Instant::now();
        while fetch(at, std::net::Ipv4Addr::LOCALHOST) != TEXT {
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not answer");
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the controller says once it has taken over the keys.
fn keyed(of: &Node, table: NetworkTable) -> NetworkTable {
    NetworkTable { key: of.network.report().wireguard.map(|wireguard| wireguard.key), ..table }
}

fn unkeyed(of: &Node) -> Peer {
    Peer { wireguard: None, ..of.peer() }
}

fn links(of: &Node) -> (bool, bool) {
    let all = on(&of.machine, "ip -o link");
    (all.contains(&format!("btx{}", of.instance)), all.contains(&format!("btw{}", of.instance)))
}

#[tokio::test(flavor = "current_thread")]
async fn packets_between_nodes_are_encrypted_where_the_kernel_can() {
    let mut wire = Wire::new();
    let a = Node::start(&wire.machine(1), 1, Mode::Auto).await;
    let b = Node::start(&wire.machine(2), 2, Mode::Auto).await;
    let (from, to) = (a.attach("shop.web.1.x").await, b.attach("cache.web.1.x").await);
    let both = [("shop.web.1.x", &from), ("cache.web.1.x", &to)];
    let server = Server::start(&to);

    // Before the controller has told anybody of keys they speak in the clear, and whoever listens reads.
    let listening = Capture::start(&wire);
    a.tell(&table(1, vec![unkeyed(&b)], &APPS, &both)).await;
    b.tell(&table(2, vec![unkeyed(&a)], &APPS, &both)).await;
    assert_eq!(fetch(&from, to.address), TEXT);
    assert_eq!(listening.seen(), (vec![4789], true));
    let report = a.network.report();
    assert_eq!(report.ways, Ways { vxlan: 1, ..Ways::default() });

    let Some(first) = report.wireguard else {
        assert!(std::env::var_os("BERTH_TEST_WIREGUARD").is_none(), "this kernel has it: {report:?}");
        assert_eq!(report.unencrypted.as_deref(), Some("the kernel has no WireGuard (CONFIG_WIREGUARD)"));
        assert_eq!((report.error, links(&a)), (None, (true, false)));
        // Whoever is told to encrypt or be silent is silent, and says so.
        let strict = Node::start(&wire.machine(3), 3, Mode::WireGuard).await;
        enter(&strict.machine);
        strict.network.set_table(table(3, vec![unkeyed(&b)], &[], &[])).await.expect("taken over");
        let report = strict.network.report();
        assert!(report.error.is_some_and(|error| error.contains("no WireGuard")));
        assert_eq!((report.ways.refused, links(&strict)), (1, (false, false)));
        // Not by the machine's other ways either.
        on(&strict.machine, "ip neigh replace 192.0.2.254 lladdr 02:00:00:00:00:01 dev eth0");
        let out = strict.attach("shop.web.9.x").await;
        let listening = Capture::start(&wire);
        assert_eq!(on(&strict.machine, &connect(to.address)) + &fetch(&out, to.address), "");
        assert_eq!(listening.seen(), (vec![], false));
        drop(server);
        for node in [a, b, strict] {
            node.close().await;
        }
        return;
    };
    assert_eq!((report.unencrypted, links(&a)), (None, (true, true)), "its key is known, and not used yet");

    // With keys nothing else goes over the wire, and nothing else is taken.
    a.tell(&keyed(&a, table(1, vec![b.peer()], &APPS, &both))).await;
    b.tell(&keyed(&b, table(2, vec![a.peer()], &APPS, &both))).await;
    let listening = Capture::start(&wire);
    assert_eq!(fetch(&from, to.address), TEXT, "a container of another node");
    assert_eq!(on(&a.machine, &connect(to.address)), TEXT, "and its node's proxy");
    assert_eq!(listening.seen(), (vec![51820], false));
    for node in [&a, &b] {
        let report = node.network.report();
        assert_eq!((report.ways.wireguard, report.ways.vxlan, report.port, report.error), (1, 0, None, None));
        assert_eq!(links(node), (false, true));
    }
    let later = a.attach("shop.web.2.x").await;
    let link = output(&mut inside(&later, "ip -o link show eth0"));
    assert!(link.contains("mtu 1440"), "what fits: {link}");
    let big = format!("busybox ping -c 1 -W 5 -s 1412 {} >/dev/null && echo fits", to.address);
    let reached = [both[0], both[1], ("shop.web.2.x", &later)];
    a.tell(&keyed(&a, table(1, vec![b.peer()], &APPS, &reached))).await;
    b.tell(&keyed(&b, table(2, vec![a.peer()], &APPS, &reached))).await;
    assert_eq!(output(&mut inside(&later, &big)).trim(), "fits");

    // A third one has no WireGuard: it is spoken with beside, and says nothing in the others' names. One that takes only what is
    // encrypted has no way to it.
    let plain = Node::start(&wire.machine(3), 3, Mode::Vxlan).await;
    let strict = Node::start(&wire.machine(4), 4, Mode::WireGuard).await;
    plain.tell(&table(3, vec![unkeyed(&b)], &[], &[])).await;
    b.tell(&keyed(&b, table(2, vec![a.peer(), plain.peer()], &APPS, &reached))).await;
    assert_eq!(b.network.report().ways, Ways { wireguard: 1, vxlan: 1, refused: 0 });
    assert_eq!(on(&plain.machine, &connect(to.address)), TEXT);
    assert_eq!(fetch(&from, to.address), TEXT);
    let clear = on(&b.machine, &format!("nft list set inet berth_{} tunnels", b.instance));
    assert!(clear.contains("192.0.2.3") && !clear.contains("192.0.2.1"), "{clear}");
    for (machine, device) in [(&plain, "btx"), (&a, "btw")] {
        // Each with an address of another node: by VXLAN that of a, by WireGuard that of the third.
        let other = if device == "btx" { "10.208.16.1" } else { "10.208.48.1" };
        let forged = format!(
            "ip address add {other}/32 dev {device}{}; busybox nc -s {other} -w 2 {} 5000 </dev/null 2>/dev/null; \
             ip address del {other}/32 dev {device}{0}",
            machine.instance, to.address
        );
        assert_eq!(on(&machine.machine, &forged), "", "{device}");
    }
    enter(&strict.machine);
    strict.network.set_table(table(4, vec![plain.peer()], &[], &[])).await.expect("taken over");
    let table_of_strict = keyed(&strict, table(4, vec![b.peer(), plain.peer()], &[], &[]));
    strict.network.set_table(table_of_strict).await.expect("taken over");
    let report = strict.network.report();
    assert_eq!((report.ways, links(&strict)), (Ways { wireguard: 1, vxlan: 0, refused: 1 }, (false, true)));
    assert!(report.error.is_some_and(|error| error.contains("refused")));
    let route = on(&strict.machine, "ip route show 10.208.48.0/20");
    assert!(
        route.contains(&format!("btw{}", strict.instance)),
        "not out of the machine in the clear: {route}"
    );

    // The device is made again, with the same key; packets flow on without an agent, and the next one goes on with what is there.
    run(&format!("ip -n {} link del btw{}", a.machine, a.instance));
    enter(&a.machine);
    a.network.converge().await.expect("repaired");
    assert_eq!(a.network.report().wireguard, Some(first));
    assert_eq!(fetch(&from, to.address), TEXT);
    let Node { machine, instance, data, network, n } = a;
    drop(network);
    assert_eq!(fetch(&from, to.address), TEXT, "nobody is needed for it");
    let index = || on(&machine, &format!("ip -o link show btw{instance} | cut -d: -f1"));
    let before = index();
    enter(&machine);
    let network = Network::open(&instance, data.path(), None, Mode::Auto).await.expect("it is set up");
    assert_eq!((network.report().wireguard, index()), (Some(first), before.clone()));
    assert_eq!(fetch(&from, to.address), TEXT);
    let a = Node { machine, instance, data, network, n };

    // And back.
    a.tell(&table(1, vec![unkeyed(&b)], &APPS, &reached)).await;
    b.tell(&table(2, vec![unkeyed(&a)], &APPS, &reached)).await;
    let listening = Capture::start(&wire);
    assert_eq!(fetch(&from, to.address), TEXT);
    assert_eq!(listening.seen(), (vec![4789], true));
    a.tell(&table(1, vec![], &[], &[])).await;
    assert_eq!(links(&a), (false, false), "alone it has neither");
    drop(server);
    for node in [a, b, plain, strict] {
        node.close().await;
    }
}
