//! Containers of several nodes on the real kernel, by VXLAN: each node is a network namespace on one wire. Needs root, `ip`, `bridge`, `nft`,
//! `nsenter` and `busybox`; every object is named after an instance of the test's own and removed at its end.

mod machines;

use berth_agent::network::{Attachment, Mode, Network};
use berth_model::NodeName;
use berth_model::network::Peer;
use machines::{Node, Wire, connect, enter, fetch, inside, on, output, run, table};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What comes back over UDP.
fn echo(at: &Attachment, to: Ipv4Addr) -> String {
    let code = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); \
         s.sendto(b'x', ('{to}', 5001)); print(s.recv(100).decode())"
    );
    output(&mut inside(at, &format!("python3 -c \"{code}\" 2>/dev/null"))).trim().to_owned()
}

/// The first address that the gateway gives for a name, or the code of its answer.
async fn resolve(at: &Attachment, name: &str, protocol: &str) -> String {
    let code = format!(
        "import socket, struct\n\
         q = b'\\0\\1\\1\\0\\0\\1' + bytes(6) + b''.join(bytes([len(l)]) + l.encode() for l in '{name}'.split('.')) + b'\\0\\0\\1\\0\\1'\n\
         s = socket.socket(socket.AF_INET, dict(udp=socket.SOCK_DGRAM, tcp=socket.SOCK_STREAM)['{protocol}'])\n\
         s.settimeout(5); s.connect(('{gateway}', 53)); t = '{protocol}' == 'tcp'\n\
         s.sendall((struct.pack('!H', len(q)) if t else b'') + q)\n\
         a = s.recv(2000)[2 * t:]\n\
         print(socket.inet_ntoa(a[-4:]) if a[7] else a[3] & 15)",
        gateway = at.gateway
    );
    let mut inside = Command::new("nsenter");
    inside.arg(format!("--net={}", at.netns.display())).args(["python3", "-c", &code]);
    // The node answers on the test's one thread.
    let answer = tokio::task::spawn_blocking(move || output(&mut inside)).await;
    answer.expect("it ends").trim().to_owned()
}

/// Servers inside a container: TCP that greets, UDP that answers.
struct Servers(Vec<std::process::Child>);

impl Servers {
    fn start(at: &Attachment, text: &str) -> Self {
        let udp = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5001))\n\
                   while True: d, a = s.recvfrom(100); s.sendto(b'udp ' + a[0].encode(), a)";
        let commands =
            [format!("exec busybox nc -ll -p 5000 -e echo {text}"), format!("exec python3 -c \"{udp}\"")];
        let children = commands.map(|c| inside(at, &c).stdout(Stdio::null()).spawn().expect("it starts"));
        let servers = Self(children.into());
        let began = Instant::now();
        while fetch(at, Ipv4Addr::LOCALHOST) != text || echo(at, Ipv4Addr::LOCALHOST).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "the servers do not answer");
        }
        servers
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn containers_of_two_nodes_reach_each_other_as_far_as_they_share_a_network() {
    let mut wire = Wire::new();
    let (a, b) = (
        Node::start(&wire.machine(1), 1, Mode::Vxlan).await,
        Node::start(&wire.machine(2), 2, Mode::Vxlan).await,
    );
    let stranger = wire.machine(9);
    let third = Peer {
        node: NodeName::parse("n3").expect("a name"),
        address: Ipv4Addr::new(192, 0, 2, 3).into(),
        subnet: "10.208.48.0/20".into(),
        port: 4789,
        wireguard: None,
    };
    let alone = |own: u8, peers| table(own, peers, &[], &[]);
    a.tell(&alone(1, vec![b.peer(), third.clone()])).await;
    b.tell(&alone(2, vec![a.peer(), third.clone()])).await;
    let (from, to) = (a.attach("shop.web.1.x").await, b.attach("cache.web.1.x").await);
    let other = b.attach("other.web.1.x").await;
    let servers = (Servers::start(&to, "cache"), Servers::start(&other, "other"));
    let mtu = output(&mut inside(&from, "cat /sys/class/net/eth0/mtu || ip -o link show eth0"));
    let link = output(&mut inside(&from, "ip -o link show eth0"));
    assert!(link.contains("mtu 1450"), "what fits through the overlay: {link} {mtu}");

    assert_eq!(on(&a.machine, &connect(to.address)), "cache", "another node's proxy reaches a container");
    let refusal = format!("busybox nc -w 9 {} 5000 </dev/null 2>&1", to.address);
    let refusal = output(&mut inside(&from, &refusal));
    assert!(refusal.contains("No route to host"), "it is refused, not ignored: {refusal}");
    assert_eq!(fetch(&from, [192, 0, 2, 2].into()), "");

    // One node that says otherwise opens nothing of the other.
    let both = [("shop.web.1.x", &from), ("cache.web.1.x", &to)];
    let apps = ["shop", "cache"];
    a.tell(&table(1, vec![b.peer(), third.clone()], &apps, &both)).await;
    assert_eq!(fetch(&from, to.address), "");
    b.tell(&table(2, vec![a.peer(), third.clone()], &apps, &both)).await;
    assert_eq!(fetch(&from, to.address), "cache");
    assert_eq!(echo(&from, to.address), format!("udp {}", from.address), "with its own address");
    assert_eq!(fetch(&from, other.address), "", "and nobody else");
    let big = format!("busybox ping -c 1 -W 2 -s 1422 {} >/dev/null && echo fits", to.address);
    assert_eq!(output(&mut inside(&from, &big)).trim(), "fits");
    // Names, at the gateway, over UDP and TCP.
    for (at, name, found) in [
        (&from, "cache.internal", to.address.to_string()),
        (&from, "1.web.cache.internal", to.address.to_string()),
        (&from, "cache.web", to.address.to_string()),
        (&from, "other.internal", "3".to_owned()),
        (&other, "cache.internal", "3".to_owned()),
    ] {
        for protocol in ["udp", "tcp"] {
            assert_eq!(resolve(at, name, protocol).await, found, "{name} over {protocol}");
        }
    }
    // The node itself is out of reach under all its addresses.
    let service = Command::new("ip")
        .args(["netns", "exec", &b.machine, "busybox", "nc", "-ll", "-p", "5000", "-e", "echo", "node"])
        .spawn();
    let service = Servers(vec![service.expect("it starts")]);
    let began = Instant::now();
    while on(&a.machine, &connect([192, 0, 2, 2].into())) != "node" {
        assert!(began.elapsed() < Duration::from_secs(20), "the service does not answer");
    }
    for address in [[192, 0, 2, 2].into(), to.gateway, a.network.subnet().gateway()] {
        assert_eq!(fetch(&from, address), "", "{address} is out of reach");
    }
    assert_eq!(on(&a.machine, &connect(to.gateway)), "", "not even for another node");

    // A stolen node speaks for its own containers only, and nobody but a node speaks at all.
    let as_third = |device: &str| {
        format!(
            "ip address add 10.208.48.1/32 dev {device} 2>/dev/null; busybox nc -s 10.208.48.1 -w 2 {} 5000 \
             </dev/null 2>/dev/null",
            to.address
        )
    };
    assert_eq!(on(&a.machine, &as_third(&format!("btx{}", a.instance))), "");
    let [.., x, y] = to.gateway.octets();
    let vxlan = format!(
        "ip link add fake address 02:bd:0a:d0:30:01 type vxlan id 48679 dstport 4789 local 192.0.2.9 nolearning; \
         ip link set fake up; ip address add 10.208.16.1/32 dev fake; ip address add 10.208.48.1/32 dev fake; \
         ip neigh add {gateway} lladdr 02:bd:0a:d0:{x:02x}:{y:02x} dev fake; \
         bridge fdb add 02:bd:0a:d0:{x:02x}:{y:02x} dev fake dst 192.0.2.2; \
         ip route add 10.208.32.0/20 via {gateway} dev fake onlink src 10.208.16.1; ",
        gateway = to.gateway
    );
    assert_eq!(
        on(&stranger, &(vxlan.clone() + &connect(to.address))),
        "",
        "a stranger's packets are dropped"
    );
    // The same from a machine that is a node gets through: it is the rules that refused.
    let allowed = Peer { address: Ipv4Addr::new(192, 0, 2, 9).into(), ..third.clone() };
    b.tell(&table(2, vec![a.peer(), allowed], &apps, &both)).await;
    let again = format!(
        "ip route change 10.208.32.0/20 via {} dev fake onlink src 10.208.48.1; {}",
        to.gateway,
        connect(to.address)
    );
    let answer = on(&stranger, &again);
    let seen = on(&b.machine, "nft list ruleset | grep -c 'tunnels accept'");
    assert_eq!((answer.as_str(), seen.as_str()), ("cache", "1"));

    // Off the network nothing is reached any more, and a node that is gone leaves nothing.
    a.tell(&table(1, vec![b.peer(), third], &[], &[])).await;
    assert_eq!(fetch(&from, to.address), "");
    a.tell(&alone(1, vec![])).await;
    let left = on(&a.machine, "ip route; bridge fdb; ip neigh; ip -o link");
    assert!(!left.contains("btx") && !left.contains("10.208.32"), "{left}");
    drop((servers, service));
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_kernel_follows_the_list_and_repairs_itself() {
    let mut wire = Wire::new();
    let machine = wire.machine(1);
    let (a, same) =
        (Node::start(&machine, 1, Mode::Vxlan).await, Node::start(&machine, 2, Mode::Vxlan).await);
    let peer = |n: u8| Peer {
        node: NodeName::parse(&format!("p{n}")).expect("a name"),
        address: Ipv4Addr::new(192, 0, 2, n).into(),
        subnet: format!("10.209.{}.0/20", u32::from(n - 10) * 16),
        port: 4789 + u16::from(n),
        wireguard: None,
    };
    let state = || {
        let device = format!("btx{}", a.instance);
        let all = on(
            &machine,
            &format!("ip route show dev {device}; bridge fdb show dev {device}; ip neigh show dev {device}"),
        );
        let mut lines: Vec<&str> = all.lines().map(str::trim).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    a.tell(&table(1, vec![peer(10), peer(11)], &[], &[])).await;
    let two = state();
    assert_eq!(two.lines().count(), 6, "{two}");
    a.tell(&table(1, vec![peer(11), peer(12), peer(13)], &[], &[])).await;
    let three = state();
    assert_eq!(three.lines().count(), 9, "{three}");
    assert!(!three.contains("192.0.2.10") && three.contains("192.0.2.13"), "{three}");
    run(&format!("ip -n {machine} link del btx{}", a.instance));
    enter(&machine);
    a.network.converge().await.expect("repaired");
    assert_eq!(state(), three);
    a.tell(&table(1, vec![peer(10), peer(11)], &[], &[])).await;
    assert_eq!(state(), two);

    // Two instances of one machine have a port each, and a new agent goes on with the device that is there.
    same.tell(&table(1, vec![peer(14)], &[], &[])).await;
    let ports = (a.network.report().port, same.network.report().port);
    assert_eq!(ports, (Some(4789), Some(4790)));
    let Node { instance, data, network, .. } = same;
    drop(network);
    let index = || {
        on(
            &machine,
            &format!("cat /sys/class/net/btx{instance}/ifindex; ip -o link show btx{instance} | cut -d: -f1"),
        )
    };
    let before = index();
    enter(&machine);
    let network = Network::open(&instance, data.path(), None, Mode::Vxlan).await.expect("it is set up");
    assert_eq!(network.report().port, Some(4790), "from the disk, without a controller");
    assert_eq!(index(), before);
    Node { machine: machine.clone(), instance, data, network, n: 2 }.close().await;
    a.close().await;
}
