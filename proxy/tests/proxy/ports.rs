//! Further ports: HTTP, TLS led by server name, UDP; and the PROXY protocol on both sides.

use crate::origin::{Origin, field};
use crate::proxy::{Client, Running, backend, one, quick, route, tcp_route, until};
use crate::tls::{Certified, connect};
use berth_model::ports::{HttpPort, PortRoutes, ProxyProtocol, TlsRoute, UdpRoute};
use berth_model::route::{Backend, RouteTable, Target};
use berth_model::{AppName, HostPattern};
use berth_proxy::Settings;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn a_further_http_port_leads_to_another_port_of_the_app() {
    let (web, admin, port) = (Origin::fixed("web"), Origin::fixed("admin"), free_port());
    let routes =
        vec![route("a.test", Target::Backends { backends: vec![backend("app.web.1.a", 1, admin.address)] })];
    let mut table = one("a.test", web.address);
    table.ports.http = vec![HttpPort { port, secure: false, routes }];
    let mut proxy = Running::start_with(&table, quick());
    until("the port is open", || TcpStream::connect(at(port)).is_ok());
    let ask = |address| {
        let mut client = Client::connect(address);
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.reply("GET").text()
    };
    assert_eq!((ask(proxy.address), ask(at(port))), ("web".to_owned(), "admin".to_owned()));
    let mut unknown = Client::connect(at(port));
    unknown.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n");
    assert!(unknown.is_closed());
    proxy.handle.apply(&RouteTable { revision: 2, ..one("a.test", web.address) });
    until("the port is closed", || TcpStream::connect(at(port)).is_err());
    assert_eq!(ask(proxy.address), "web");
    proxy.stop();
}

/// An app that ends TLS itself and answers with its name.
fn tls_app(name: &'static str) -> (Origin, Certified) {
    let certified = Certified::of(&[name]);
    let entry = certified.entry.clone();
    let origin = Origin::start(move |peer| {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = vec![CertificateDer::from_pem_slice(entry.chain_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(entry.key_pem.0.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(tls, &mut peer.stream);
        let mut word = [0; 4];
        if stream.read_exact(&mut word).is_ok() {
            stream.write_all(&[name.as_bytes(), b" ", &word].concat()).unwrap();
        }
    });
    (origin, certified)
}

#[test]
fn two_apps_share_a_port_by_server_name() {
    let ((first, one_cert), (second, other_cert)) = (tls_app("one.test"), tls_app("other.test"));
    let port = free_port();
    let named = |name: &str, id: &str, origin: &Origin| TlsRoute {
        port,
        name: HostPattern::parse(name).unwrap(),
        app: AppName::parse("app").unwrap(),
        backends: vec![backend(id, 1, origin.address)],
    };
    let tls = vec![named("one.test", "app.web.1.a", &first), named("other.test", "app.web.1.b", &second)];
    let table =
        RouteTable { revision: 1, ports: PortRoutes { tls, ..Default::default() }, ..Default::default() };
    let mut proxy = Running::start_with(&table, quick());
    until("the port is open", || TcpStream::connect(at(port)).is_ok());
    for (name, certified) in [("one.test", &one_cert), ("other.test", &other_cert)] {
        let mut client = connect(at(port), name, &certified.client(&[])).unwrap();
        client.send("ping");
        assert_eq!(client.take(name.len() + 5), format!("{name} ping").into_bytes());
    }
    let refused = connect(at(port), "third.test", &one_cert.client(&[])).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    // Who does not speak TLS, or dawdles, is cut.
    let mut plain = Client::connect(at(port));
    plain.send("GET / HTTP/1.1\r\n\r\n");
    assert!(plain.is_closed());
    let mut silent = Client::connect(at(port));
    silent.send([22, 3, 1]);
    assert!(silent.is_closed());
    proxy.stop();
}

#[test]
fn an_app_is_told_who_its_client_is() {
    let heard = Origin::start(|peer| {
        while peer.fill() {
            let bytes = std::mem::take(&mut peer.pending);
            peer.say(bytes);
        }
    });
    let port = free_port();
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let told = Backend { proxy_protocol: Some(version), ..backend("app.web.1.a", 1, heard.address) };
        let routes = RouteTable { revision: 1, tcp: vec![tcp_route(port, vec![told])], ..Default::default() };
        let mut proxy = Running::start_with(&routes, quick());
        until("the port is open", || TcpStream::connect(at(port)).is_ok());
        let mut client = Client::connect(at(port));
        let own = client.stream.local_addr().unwrap();
        client.send("hello");
        let expected = match version {
            ProxyProtocol::V1 => {
                format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\nhello", own.port()).into_bytes()
            }
            ProxyProtocol::V2 => {
                let addresses = [127, 0, 0, 1, 127, 0, 0, 1];
                let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
                let ports = [own.port().to_be_bytes(), port.to_be_bytes()].concat();
                [&head[..], &addresses, &ports, b"hello"].concat()
            }
        };
        assert_eq!(client.take(expected.len()), expected);
        drop(client);
        proxy.stop();
    }
}

#[test]
fn a_trusted_peer_says_who_the_client_is_and_must() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let of = field(&head, "x-forwarded-for").unwrap();
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{of}", of.len()));
        }
    });
    let trusting = Settings { proxy_protocol_from: vec!["127.0.0.0/8".parse().unwrap()], ..quick() };
    let mut proxy = Running::start_with(&one("a.test", origin.address), trusting);
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 9, 127, 0, 0, 1, 1, 2, 3, 4]].concat();
    for header in [b"PROXY TCP4 192.0.2.9 127.0.0.1 4000 80\r\n".to_vec(), v2] {
        // At once, and byte by byte.
        let mut client = Client::connect(proxy.address);
        client.send([&header[..], request].concat());
        assert_eq!(client.reply("GET").text(), "192.0.2.9");
        let mut slow = Client::connect(proxy.address);
        for byte in [&header[..], request].concat() {
            slow.send([byte]);
        }
        assert_eq!(slow.reply("GET").text(), "192.0.2.9");
        slow.send(request);
        assert_eq!(slow.reply("GET").text(), "192.0.2.9");
    }
    for bad in [&request[..], b"PROXY NONSENSE\r\n", b"PROXY TCP4 1.2"] {
        let mut client = Client::connect(proxy.address);
        client.send(bad);
        assert!(client.is_closed());
    }
    proxy.stop();
    // Nobody else's header is one.
    let mut proxy = Running::start_with(&one("a.test", origin.address), quick());
    let mut client = Client::connect(proxy.address);
    client.send([&b"PROXY TCP4 192.0.2.9 127.0.0.1 4000 80\r\n"[..], request].concat());
    assert_eq!(client.reply("GET").status, 400);
    proxy.stop();
}

/// An app that answers each datagram with its name and what it got.
fn udp_app(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut space = vec![0; 65536];
        while let Ok((count, from)) = socket.recv_from(&mut space) {
            let _ = socket.send_to(&[name.as_bytes(), b" ", &space[..count]].concat(), from);
        }
    });
    address
}

fn udp(port: u16, revision: u64, backends: Vec<Backend>) -> RouteTable {
    let udp = vec![UdpRoute { port, app: AppName::parse("app").unwrap(), backends }];
    RouteTable { revision, ports: PortRoutes { udp, ..Default::default() }, ..Default::default() }
}

struct Caller(UdpSocket);

impl Caller {
    fn new(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(at(port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Self(socket)
    }

    /// Sends until there is an answer to this very message.
    fn ask(&self, message: &str) -> String {
        let mut space = vec![0; 65536];
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let _ = self.0.send(message.as_bytes());
            while let Ok(count) = self.0.recv(&mut space) {
                let text = String::from_utf8_lossy(&space[..count]).into_owned();
                if text.ends_with(message) {
                    return text;
                }
            }
        }
        panic!("no answer to {message}");
    }
}

#[test]
fn datagrams_of_one_client_go_to_one_container() {
    let (first, second, port) = (udp_app("one"), udp_app("two"), free_port());
    let (a, b) = (backend("app.web.1.a", 1, first), backend("app.web.2.b", 1, second));
    let settings = Settings { udp_idle: Duration::from_secs(5), drain: Duration::from_secs(1), ..quick() };
    let mut proxy = Running::start_with(&udp(port, 1, vec![a.clone(), b.clone()]), settings);
    Caller::new(port).ask("the port is open");
    let callers: Vec<Caller> = (0..20).map(|_| Caller::new(port)).collect();
    let names: Vec<String> = callers.iter().map(|caller| caller.ask("hello")).collect();
    assert!(
        names.iter().any(|name| name == "one hello") && names.iter().any(|name| name == "two hello"),
        "{names:?}"
    );
    for (caller, name) in callers.iter().zip(&names) {
        assert_eq!(caller.ask("again")[..3], name[..3]);
    }
    let large = "x".repeat(40_000);
    assert_eq!(callers[0].ask(&large).len(), large.len() + 4);
    // A flow stays with its container while that drains; a new one goes where routes lead.
    proxy.handle.apply(&udp(port, 2, vec![b]));
    let stays = names.iter().position(|name| name.starts_with("one")).unwrap();
    assert_eq!(callers[stays].ask("draining"), "one draining");
    assert!(proxy.handle.status().draining.contains_key(&a.container));
    assert_eq!(Caller::new(port).ask("new"), "two new");
    until("it has drained", || proxy.handle.status().draining.is_empty());
    assert_eq!(callers[stays].ask("later"), "two later");
    proxy.stop();
}

#[test]
fn a_container_that_refuses_datagrams_is_passed_over() {
    let port = free_port();
    let refuses = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let routes =
        udp(port, 1, vec![backend("app.web.1.a", 1, refuses), backend("app.web.2.b", 1, udp_app("well"))]);
    let mut proxy = Running::start_with(&routes, quick());
    for n in 0..10 {
        assert_eq!(Caller::new(port).ask(&format!("m{n}")), format!("well m{n}"));
    }
    proxy.stop();
}
