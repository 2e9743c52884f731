//! The node's network on the real kernel. Needs root, `nft`, `nsenter` and `busybox`; every object is named after an
//! instance of the test's own and removed at its end.

use berth_agent::network::{self, Attachment, Mode, Network};
use berth_model::container::{NetworkLimits, Protocol, PublishedPort};
use berth_model::{AppName, ContainerId};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Fixture {
    instance: String,
    data: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let mut bytes = [0_u8; 3];
        getrandom::fill(&mut bytes).expect("the kernel has random bytes");
        let data = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(data.path().join("agent")).expect("made");
        Self { instance: hex::encode(bytes), data }
    }

    async fn open(&self) -> Network {
        Network::open(&self.instance, self.data.path(), None, Mode::Auto)
            .await
            .expect("the network is set up")
    }

    /// Everything of the instance that the kernel has.
    fn census(&self) -> Vec<String> {
        let mut found = Vec::new();
        let links = output(Command::new("ip").args(["-o", "link"]));
        found.extend(links.lines().filter(|line| line.contains(&self.instance)).map(str::to_owned));
        let tables = output(Command::new("nft").args(["list", "tables"]));
        found.extend(tables.lines().filter(|line| line.contains(&self.instance)).map(str::to_owned));
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
        found.extend(mounts.lines().filter(|line| line.contains(&self.instance)).map(str::to_owned));
        found
    }

    async fn close(&self) {
        network::remove_all(&self.instance).await.expect("everything can be removed");
        assert_eq!(self.census(), Vec::<String>::new(), "nothing is left");
    }
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().expect("the program runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn id(name: &str) -> ContainerId {
    ContainerId::parse(name).expect("an id")
}

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

fn inside(at: &Attachment, command: &str) -> Command {
    let mut inside = Command::new("nsenter");
    inside.arg(format!("--net={}", at.netns.display())).args(["sh", "-c", command]);
    inside
}

/// Connects from inside and gives what the peer sends; "" when the connection is refused or nothing answers.
fn fetch(at: &Attachment, to: SocketAddr) -> String {
    let command = format!("busybox nc -w 2 {} {} </dev/null 2>/dev/null", to.ip(), to.port());
    output(&mut inside(at, &command))
}

/// A server inside that greets whoever connects.
struct Greeter(std::process::Child);

impl Greeter {
    fn start(at: &Attachment, port: u16, text: &str) -> Self {
        let command = format!("exec busybox nc -ll -p {port} -e echo {text}");
        let child = inside(at, &command).stdout(Stdio::null()).spawn().expect("the server starts");
        let greeter = Self(child);
        for _ in 0..200 {
            if TcpStream::connect((at.address, port)).is_ok() {
                return greeter;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not answer");
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn greeting(address: SocketAddr) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = stream.read_to_string(&mut text);
    }
    text.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_reach_neither_each_other_nor_the_node() {
    let fixture = Fixture::new();
    let network = fixture.open().await;
    let a = network.attach(&id("a.web.1.x"), &app("a"), &[]).await.expect("attached");
    let b = network.attach(&id("b.web.1.x"), &app("b"), &[]).await.expect("attached");
    assert_ne!(a.address, b.address);
    assert_eq!(network.attach(&id("a.web.1.x"), &app("a"), &[]).await.expect("again"), a);
    let greeter = Greeter::start(&b, 5000, "hello-from-b");
    assert_eq!(greeting((b.address, 5000).into()), "hello-from-b", "the node reaches its containers");
    assert_eq!(fetch(&b, (b.address, 5000).into()).trim(), "hello-from-b", "a container reaches itself");
    assert_eq!(fetch(&a, (b.address, 5000).into()), "", "no container reaches another");

    // A service of the node on every address.
    let service = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = service.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in service.incoming() {
            let _ = stream.map(|mut stream| stream.write_all(b"node"));
        }
    });
    assert_eq!(greeting(([127, 0, 0, 1], port).into()), "node");
    let own = output(Command::new("hostname").arg("-I"));
    let own = own.split_whitespace().filter_map(|text| text.parse::<Ipv4Addr>().ok());
    for address in own.chain([a.gateway, Ipv4Addr::LOCALHOST]) {
        assert_eq!(fetch(&a, (address, port).into()), "", "the node's service on {address} is out of reach");
    }
    let began = std::time::Instant::now();
    assert_eq!(fetch(&a, ([169, 254, 169, 254], 80).into()), "", "metadata is out of reach");
    assert!(began.elapsed() < Duration::from_secs(2), "it is refused, not ignored");

    // Another address than its own leads nowhere, not even with all rights over its namespace.
    let spoof = format!(
        "ip address add {0}/32 dev eth0; echo x | busybox nc -s {0} -w 1 {1} {2} 2>/dev/null; true",
        b.address, a.gateway, port
    );
    let neighbour = || output(Command::new("ip").args(["-o", "neigh", "show", &b.address.to_string()]));
    let before = neighbour();
    assert!(before.contains("lladdr"), "the node knows where b is: {before}");
    let lladdr = |line: &str| line.split(' ').skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned);
    output(&mut inside(&a, &spoof));
    output(&mut inside(&a, &format!("busybox arping -c 2 -U -I eth0 {} 2>/dev/null", b.address)));
    assert_eq!(lladdr(&neighbour()), lladdr(&before), "nobody takes over another's address");
    assert_eq!(greeting((b.address, 5000).into()), "hello-from-b");
    drop(greeter);
    for name in ["a.web.1.x", "b.web.1.x"] {
        network.detach(&id(name)).await.expect("detached");
        network.detach(&id(name)).await.expect("again");
    }
    let c = network.attach(&id("c.web.1.x"), &app("c"), &[]).await.expect("attached");
    assert!(c.address != a.address && c.address != b.address, "addresses rest before they are given again");
    drop(network);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_lead_into_the_container() {
    let fixture = Fixture::new();
    let network = fixture.open().await;
    let port = PublishedPort { protocol: Protocol::Tcp, container_port: 7000, node_port: None };
    let at = network.attach(&id("a.web.1.x"), &app("a"), &[port]).await.expect("attached");
    let node_port = at.published[0].node_port.expect("chosen");
    let greeter = Greeter::start(&at, 7000, "published");
    assert_eq!(greeting(([127, 0, 0, 1], node_port).into()), "published");
    // From another machine: a namespace of its own behind a pair of devices.
    let peer = format!("bt{}", fixture.instance);
    let run = |command: &str| {
        let done = Command::new("sh").args(["-ec", command]).status().expect("sh runs");
        assert!(done.success(), "{command}");
    };
    run(&format!(
        "ip netns add {peer}; ip link add {peer} type veth peer name eth9 netns {peer}; \
         ip address add 198.51.100.1/30 dev {peer}; ip link set {peer} up; \
         ip -n {peer} address add 198.51.100.2/30 dev eth9; ip -n {peer} link set eth9 up; \
         ip -n {peer} route add default via 198.51.100.1"
    ));
    let from_there = |to: SocketAddr| {
        let command = format!("busybox nc -w 2 {} {} </dev/null 2>/dev/null", to.ip(), to.port());
        output(Command::new("ip").args(["netns", "exec", &peer, "sh", "-c", &command])).trim().to_owned()
    };
    let published = from_there(([198, 51, 100, 1], node_port).into());
    let direct = from_there((at.address, 7000).into());
    // And out again: the container reaches that machine.
    let mut server = Command::new("ip");
    server.args(["netns", "exec", &peer, "busybox", "nc", "-ll", "-p", "9000", "-e", "echo", "world"]);
    let mut server = server.spawn().expect("the server starts");
    let mut out = String::new();
    for _ in 0..50 {
        out = fetch(&at, ([198, 51, 100, 2], 9000).into());
        if !out.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = server.kill();
    let _ = server.wait();
    run(&format!("ip link del {peer}; ip netns del {peer}"));
    assert_eq!(published, "published", "other machines reach a published port");
    assert_eq!(direct, "", "and nothing else of a container");
    assert_eq!(out.trim(), "world", "a container reaches other machines");
    drop(greeter);
    drop(network);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_goes_on_with_what_is_there_and_nothing_leaks() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let network = fixture.open().await;
    let kept = network.attach(&id("a.web.1.x"), &app("a"), &[]).await.expect("attached");
    let _lost = network.attach(&id("a.web.2.x"), &app("a"), &[]).await.expect("attached");
    drop(network);
    let network = fixture.open().await;
    let before = std::fs::metadata(&kept.netns).expect("there").ino();
    network.retain(&BTreeSet::from([id("a.web.1.x")])).await.expect("cleaned");
    assert_eq!(network.attach(&id("a.web.1.x"), &app("a"), &[]).await.expect("attached"), kept);
    assert_eq!(std::fs::metadata(&kept.netns).expect("there").ino(), before, "the namespace is the same");
    let steady = fixture.census();
    for cycle in 0..50 {
        let id = id(&format!("a.web.{cycle}.y"));
        network.attach(&id, &app("a"), &[]).await.expect("attached");
        network.detach(&id).await.expect("detached");
    }
    assert_eq!(fixture.census(), steady, "50 cycles leave nothing behind");
    drop(network);
    fixture.close().await;
}

/// Bytes a second that `count` grows by while a transfer is under way, once it is: over three seconds.
fn rate(mut count: impl FnMut() -> u64) -> f64 {
    let (mut begun, mut first) = (Instant::now(), count());
    let mut settled = false;
    loop {
        let (elapsed, now) = (begun.elapsed(), count());
        if !settled && elapsed > Duration::from_secs(1) {
            // What the first second let through at once is no rate.
            (begun, first, settled) = (Instant::now(), now, true);
        } else if elapsed > Duration::from_secs(3) {
            #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
            return (now - first) as f64 / begun.elapsed().as_secs_f64();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What came to the container, as its own device counts.
fn received(at: &Attachment) -> u64 {
    let text = output(&mut inside(at, "cat /proc/net/dev"));
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("eth0 is there");
    line.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_sends_and_gets_is_held_to_its_rate() {
    let fixture = Fixture::new();
    let network = fixture.open().await;
    let name = id("a.web.1.x");
    let at = network.attach(&name, &app("a"), &[]).await.expect("attached");
    let greeter = Greeter::start(&at, 5000, "here");
    let mut source = inside(&at, "exec busybox nc -ll -p 5001 -e busybox cat /dev/zero");
    let mut source = source.stdout(Stdio::null()).spawn().expect("it starts");
    let mut sink = inside(&at, "exec busybox nc -ll -p 5002 -e busybox tail -f");
    let mut sink = sink.stdout(Stdio::null()).spawn().expect("it starts");
    let connect = |port: u16| {
        let stream = (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            TcpStream::connect((at.address, port)).ok()
        });
        stream.expect("it listens")
    };
    let egress = || {
        let (mut stream, mut buffer, mut sum) = (connect(5001), vec![0; 256 * 1024], 0);
        rate(|| {
            sum += u64::try_from(stream.read(&mut buffer).expect("readable")).expect("small");
            sum
        })
    };
    let ingress = || {
        let mut stream = connect(5002);
        stream.set_nonblocking(true).expect("set");
        let bytes = vec![0; 256 * 1024];
        let mut last = (Instant::now(), received(&at));
        rate(|| {
            let _ = stream.write(&bytes); // as much as goes in
            if last.0.elapsed() > Duration::from_millis(100) {
                last = (Instant::now(), received(&at));
            }
            last.1
        })
    };
    let free = egress();
    assert!(free > 20e6, "without a limit it is far faster than with one: {free} bytes/s");
    for kbit in [2_000_u64, 40_000] {
        let limits = NetworkLimits { egress_kbit: Some(kbit), ingress_kbit: Some(kbit) };
        network.limit(&name, limits).await.expect("limited");
        #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
        let wanted = (kbit * 125) as f64;
        for (what, measure) in [("egress", &egress as &dyn Fn() -> f64), ("ingress", &ingress)] {
            // Whatever else runs on the machine may hold it back, and never pushes it on.
            let mut parts = Vec::new();
            while parts.len() < 3 && parts.last().is_none_or(|part| *part < 0.85) {
                parts.push(measure() / wanted);
            }
            let fits =
                parts.iter().all(|part| *part < 1.15) && parts.last().is_some_and(|part| *part >= 0.85);
            assert!(fits, "{what} of {kbit} kbit/s: {parts:.2?} of it");
        }
    }
    assert_eq!(greeting((at.address, 5000).into()), "here", "it still answers");
    // Its root has no say in it: the namespace belongs to the node's user namespace.
    network.limit(&name, NetworkLimits::default()).await.expect("taken away");
    network.limit(&name, NetworkLimits::default()).await.expect("nothing to take away");
    assert!(egress() > 20e6);
    for child in [&mut source, &mut sink] {
        let _ = child.kill();
        let _ = child.wait();
    }
    drop(greeter);
    drop(network);
    fixture.close().await;
}
