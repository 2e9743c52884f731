//! A successor takes over: no connection is refused, no request fails, what is open may end in peace.

use crate::origin::Origin;
use crate::proxy::{Client, backend, one, quick, tcp_route, until, write};
use berth_model::ports::UdpRoute;
use berth_model::{AppName, NodeName};
use berth_proxy::{Options, Proxy, Settings};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

fn open(data: &Path, take_over: bool, settings: Settings) -> anyhow::Result<Proxy> {
    let local = "127.0.0.1:0".parse().unwrap();
    let node = NodeName::parse("node-1").unwrap();
    let options = Options {
        data: data.to_owned(),
        node,
        http: local,
        https: Some(local),
        take_over,
        threads: Some(2),
        metrics: None,
        access_log: Default::default(),
    };
    Proxy::open(options, settings)
}

fn start(data: &Path, take_over: bool, settings: Settings) -> Running {
    let proxy = open(data, take_over, settings).unwrap();
    let (address, stop) = (proxy.address(), CancellationToken::new());
    let token = stop.clone();
    let thread = std::thread::spawn(move || proxy.serve(&token).unwrap());
    Running { address, stop, thread }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

#[test]
fn ten_successors_lose_nothing() {
    let origin = Origin::fixed("ok");
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("proxy/table.json"), serde_json::to_vec(&one("app.test", origin.address)).unwrap());
    let mut running = start(dir.path(), false, Settings::default());
    let address = running.address;
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (done, served) = (done.clone(), served.clone());
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let mut client = Client::connect(address);
                    // Some come anew for each request; some stay while they are let.
                    for _ in 0..if number % 2 == 0 { 1 } else { 50 } {
                        client.send(GET);
                        let reply = client.reply("GET");
                        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
                        served.fetch_add(1, Ordering::Relaxed);
                        if reply.field("connection").is_some() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    let mut elders = Vec::new();
    for _ in 0..10 {
        let before = served.load(Ordering::Relaxed);
        until("requests are served", || served.load(Ordering::Relaxed) > before + 50);
        let next = start(dir.path(), true, Settings::default());
        assert_eq!(next.address, address);
        elders.push(std::mem::replace(&mut running, next));
    }
    for elder in elders {
        elder.thread.join().unwrap(); // each ends by itself
    }
    let before = served.load(Ordering::Relaxed);
    until("the last one serves", || served.load(Ordering::Relaxed) > before + 50);
    done.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    running.stop.cancel();
    running.thread.join().unwrap();
}

#[test]
fn tunnels_and_requests_of_an_elder_go_on() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.contains("Upgrade: websocket") {
                peer.say(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                );
                while peer.fill() {
                    let echo = std::mem::take(&mut peer.pending);
                    peer.say(echo);
                }
                return;
            }
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(body);
        }
    });
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("proxy/table.json"), serde_json::to_vec(&one("app.test", origin.address)).unwrap());
    let elder = start(dir.path(), false, Settings { handover_tunnels: Duration::from_secs(600), ..quick() });
    let mut socket = Client::connect(elder.address);
    socket.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(socket.head().unwrap().0, 101);
    let mut upload = Client::connect(elder.address);
    upload.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 6\r\n\r\nabc");
    until("the upload has begun", || origin.text().contains("abc"));
    let mut idle = Client::connect(elder.address);
    idle.send(GET);
    idle.reply("GET");
    let next = start(dir.path(), true, quick());
    idle.send(GET); // closing it under a request on its way would lose that one
    let reply = idle.reply("GET");
    assert_eq!((reply.status, reply.field("connection").as_deref()), (200, Some("close")));
    upload.send("def");
    assert_eq!(upload.reply("POST").text(), "abcdef");
    for _ in 0..3 {
        socket.send("ping");
        assert_eq!(socket.take(4), b"ping");
    }
    assert!(!elder.thread.is_finished());
    let mut fresh = Client::connect(next.address);
    fresh.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(fresh.reply("POST").text(), "hi");
    drop(socket);
    elder.thread.join().unwrap();
    next.stop.cancel();
    next.thread.join().unwrap();
}

#[test]
fn ports_of_routes_change_hands_too() {
    let origin = Origin::start(|peer| {
        peer.say("hello");
        while peer.fill() {
            let echo = std::mem::take(&mut peer.pending);
            peer.say(echo);
        }
    });
    let echo = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let echo_address = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut space = [0; 100];
        while let Ok((count, from)) = echo.recv_from(&mut space) {
            let _ = echo.send_to(&space[..count], from);
        }
    });
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, udp_port) = (free(), free());
    let mut routes = one("app.test", origin.address);
    routes.tcp = vec![tcp_route(port, vec![backend("app.web.1.a", 1, origin.address)])];
    routes.ports.udp = vec![UdpRoute {
        port: udp_port,
        app: AppName::parse("app").unwrap(),
        backends: vec![backend("app.web.1.b", 1, echo_address)],
    }];
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("proxy/table.json"), serde_json::to_vec(&routes).unwrap());
    let settings = || Settings { handover_tunnels: Duration::from_secs(600), ..quick() };
    let mut running = start(dir.path(), false, settings());
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    until("the port is open", || TcpStream::connect(to).is_ok());
    let mut open = Client::connect(to);
    assert_eq!(open.take(5), b"hello");
    let asks = |text: &[u8]| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut space = [0; 100];
        let mut ask = || {
            socket.send_to(text, ("127.0.0.1", udp_port)).unwrap();
            socket.recv(&mut space).is_ok_and(|count| &space[..count] == text)
        };
        assert!((0..50).any(|_| ask()), "no answer");
    };
    asks(b"one");
    let done = Arc::new(AtomicBool::new(false));
    let comers = std::thread::spawn({
        let done = done.clone();
        move || {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(Client::connect(to).take(5), b"hello", "connection {count}");
                count += 1;
            }
            count
        }
    });
    let mut elders = Vec::new();
    for _ in 0..3 {
        let next = start(dir.path(), true, settings());
        elders.push(std::mem::replace(&mut running, next));
        open.send("ping");
        assert_eq!(open.take(4), b"ping", "the first one's connection goes on");
        assert_eq!(Client::connect(to).take(5), b"hello");
    }
    drop(open);
    elders.into_iter().for_each(|elder| elder.thread.join().unwrap());
    done.store(true, Ordering::Relaxed);
    assert!(comers.join().unwrap() > 3);
    asks(b"two");
    running.stop.cancel();
    running.thread.join().unwrap();
}

#[test]
fn a_successor_that_cannot_serve_changes_nothing_and_nobody_takes_over_from_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path(), true, quick()).unwrap_err().to_string();
    assert!(error.contains("no proxy to take over from"), "{error}");
    let origin = Origin::fixed("ok");
    write(dir.path().join("proxy/table.json"), serde_json::to_vec(&one("app.test", origin.address)).unwrap());
    let running = start(dir.path(), false, quick());
    let error = open(dir.path(), false, quick()).unwrap_err().to_string();
    assert!(error.contains("another proxy runs on this data directory"), "{error}");
    // Asks for the sockets and goes without a word.
    let path = dir.path().join("proxy/handover.sock");
    let asking = std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(asking);
    let mut client = Client::connect(running.address);
    client.send(GET);
    assert_eq!(client.reply("GET").text(), "ok");
    drop(client);
    let next = start(dir.path(), true, quick());
    running.thread.join().unwrap();
    next.stop.cancel();
    next.thread.join().unwrap();
}
