//! TLS: who is presented what, and that everything works over it as over TCP.

use crate::origin::Origin;
use crate::proxy::{Client, Running, backend, one, quick, table, until};
use berth_model::HostPattern;
use berth_model::tls::{AlpnChallenge, Certificate, CertificateTable, HttpChallenge, KeyPem};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) type TlsClient = Client<StreamOwned<ClientConnection, TcpStream>>;

/// A certificate of a test's own, as the table holds it.
pub(crate) struct Certified {
    pub(crate) entry: Certificate,
}

impl Certified {
    pub(crate) fn of(names: &[&str]) -> Self {
        let own: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(own).unwrap();
        let names = names.iter().map(|name| HostPattern::parse(name).unwrap()).collect();
        let key_pem = KeyPem(made.signing_key.serialize_pem());
        Self { entry: Certificate { names, chain_pem: made.cert.pem(), key_pem } }
    }

    /// What a client needs that trusts exactly this certificate.
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.entry.chain_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// Does the handshake.
pub(crate) fn connect(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsClient> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tls = ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(tls, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Client { stream, pending: Vec::new() })
}

impl TlsClient {
    pub(crate) fn get(&mut self, host: &str, path: &str) -> crate::proxy::Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.reply("GET")
    }
}

fn present(proxy: &Running, revision: u64, certified: &[&Certified]) {
    let certificates = certified.iter().map(|one| one.entry.clone()).collect();
    proxy.handle.present(&CertificateTable { revision, certificates, ..Default::default() });
}

#[test]
fn requests_go_over_tls_as_over_tcp() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            let answer = if head.starts_with("GET /large") { vec![b'x'; 3_000_000] } else { body };
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()));
            peer.say(answer);
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let own = Certified::of(&["app.test"]);
    present(&proxy, 1, &[&own]);
    let mut client = connect(proxy.https, "app.test", &own.client(&[b"h2c", b"http/1.1"])).unwrap();
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    for _ in 0..3 {
        assert_eq!(client.get("app.test", "/large").body.len(), 3_000_000);
    }
    let body = vec![b'y'; 1_000_000];
    client.send(format!("POST / HTTP/1.1\r\nHost: APP.test:8443\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    let reply = client.reply("POST");
    assert_eq!((reply.status, reply.body.len(), reply.complete), (200, 1_000_000, true));
    client
        .send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    client.send("3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.reply("POST").text(), "abc");
    assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0, "a proper end");
    let head = origin.text();
    let port = proxy.https.port();
    assert!(head.contains("X-Forwarded-Proto: https\r\n"), "{head:.500}");
    assert!(head.contains(&format!("X-Forwarded-Port: {port}\r\n")), "{head:.500}");
    assert_eq!(origin.count(), 1, "connections to the app are shared");
}

#[test]
fn a_name_without_a_certificate_is_refused_and_gets_no_other() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    let own = Certified::of(&["app.test"]);
    present(&proxy, 1, &[&own]);
    let error = connect(proxy.https, "other.test", &own.client(&[])).err().unwrap().to_string();
    assert!(error.contains("UnrecognisedName"), "{error}");
    // No name at all: a client that speaks to an address (RFC 6066 §3 forbids addresses as names).
    let error = connect(proxy.https, "127.0.0.1", &own.client(&[])).err().unwrap().to_string();
    assert!(error.contains("UnrecognisedName"), "{error}");
    let error = connect(proxy.https, "app.test", &own.client(&[b"spdy/3"])).err().unwrap().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    // Not TLS at all.
    let mut plain = Client::connect(proxy.https);
    plain.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut answer = Vec::new();
    let _ = plain.stream.read_to_end(&mut answer); // an alert, or a reset
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(connect(proxy.https, "app.test", &own.client(&[])).is_ok());
}

#[test]
fn a_connection_serves_only_names_of_its_certificate() {
    let origin = Origin::fixed("ok");
    let backends = [backend("app.web.1.a", 1, origin.address)];
    let hosts = ["a.test", "b.test", "c.test"];
    let proxy = Running::start(&table(1, &hosts.map(|host| (host, &backends[..]))));
    let (both, third) = (Certified::of(&["a.test", "b.test"]), Certified::of(&["c.test"]));
    present(&proxy, 1, &[&both, &third]);
    let mut client = connect(proxy.https, "a.test", &both.client(&[])).unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
    assert_eq!(client.get("b.test", "/").status, 200, "coalesced (RFC 9110 §7.4)");
    assert_eq!(client.get("c.test", "/").status, 421);
    assert_eq!(client.get("unknown.test", "/").status, 421);
    assert_eq!(client.get("a.test.evil.test", "/").status, 421);
    assert_eq!(client.get("a.test", "/").status, 200, "the connection goes on");
}

#[test]
fn a_swap_changes_new_connections_and_keeps_open_ones() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    let (old, new) = (Certified::of(&["app.test"]), Certified::of(&["app.test"]));
    present(&proxy, 1, &[&old]);
    let mut kept = connect(proxy.https, "app.test", &old.client(&[])).unwrap();
    assert_eq!(kept.get("app.test", "/").status, 200);
    present(&proxy, 2, &[&new]);
    assert_eq!(kept.get("app.test", "/").status, 200);
    assert!(connect(proxy.https, "app.test", &old.client(&[])).is_err());
    let mut fresh = connect(proxy.https, "app.test", &new.client(&[])).unwrap();
    assert_eq!(fresh.get("app.test", "/").status, 200);
}

#[test]
fn sessions_are_resumed_on_any_thread() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    let own = Certified::of(&["app.test"]);
    present(&proxy, 1, &[&own]);
    let config = own.client(&[]);
    for turn in 0..8 {
        let mut client = connect(proxy.https, "app.test", &config).unwrap();
        assert_eq!(client.get("app.test", "/").status, 200);
        let kind = client.stream.conn.handshake_kind();
        let expected = if turn == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
        assert_eq!(kind, Some(expected), "connection {turn}");
    }
}

#[test]
fn plain_requests_are_sent_to_tls_where_there_is_a_certificate() {
    let origin = Origin::fixed("ok");
    let backends = [backend("app.web.1.a", 1, origin.address)];
    let proxy = Running::start(&table(1, &[("app.test", &backends), ("plain.test", &backends)]));
    assert_eq!(proxy.get("app.test", "/").status, 200);
    let own = Certified::of(&["app.test"]);
    let certificates = vec![own.entry.clone()];
    let http_challenges =
        vec![HttpChallenge { token: "tok-1".into(), key_authorization: "tok-1.key".into() }];
    proxy.handle.present(&CertificateTable {
        revision: 1,
        certificates,
        http_challenges,
        ..Default::default()
    });
    let reply = proxy.get("app.test", "/a?b=%20c");
    let location = format!("https://app.test:{}/a?b=%20c", proxy.https.port());
    assert_eq!((reply.status, reply.field("location")), (301, Some(location)));
    let mut client = proxy.client();
    client.send("POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.reply("POST").status, 308);
    assert_eq!(proxy.get("plain.test", "/").status, 200);
    // A certificate authority's question goes before everything, whatever the host.
    for host in ["app.test", "plain.test", "unknown.test"] {
        let reply = proxy.get(host, "/.well-known/acme-challenge/tok-1");
        assert_eq!((reply.status, reply.text().as_str()), (200, "tok-1.key"), "{host}");
    }
    assert_eq!(proxy.get("plain.test", "/.well-known/acme-challenge/other").status, 200, "the app's own");
}

#[test]
fn a_tls_alpn_challenge_is_answered_by_its_own_certificate() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    let (own, proof) = (Certified::of(&["app.test"]), Certified::of(&["app.test"]));
    let Certificate { chain_pem, key_pem, .. } = proof.entry.clone();
    let alpn_challenges = vec![AlpnChallenge { name: "app.test".into(), chain_pem, key_pem }];
    let certificates = vec![own.entry.clone()];
    proxy.handle.present(&CertificateTable {
        revision: 1,
        certificates,
        alpn_challenges,
        ..Default::default()
    });
    let mut asked = connect(proxy.https, "app.test", &proof.client(&[b"acme-tls/1"])).unwrap();
    assert_eq!(asked.stream.conn.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(asked.stream.read(&mut [0; 1]).unwrap(), 0, "the handshake is all there is");
    assert!(connect(proxy.https, "other.test", &proof.client(&[b"acme-tls/1"])).is_err());
    let mut client = connect(proxy.https, "app.test", &own.client(&[b"http/1.1"])).unwrap();
    assert_eq!(client.get("app.test", "/").status, 200);
}

#[test]
fn a_websocket_goes_over_tls_and_ends_on_both_sides() {
    let origin = Origin::start(|peer| {
        let head = peer.head().unwrap();
        assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
        peer.say(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
        );
        while peer.fill() {
            let echo = std::mem::take(&mut peer.pending);
            peer.say(echo);
        }
        peer.say("bye");
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let own = Certified::of(&["app.test"]);
    present(&proxy, 1, &[&own]);
    let mut client = connect(proxy.https, "app.test", &own.client(&[])).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.head().unwrap().0, 101);
    assert_eq!(client.take(5), b"early");
    for _ in 0..10 {
        client.send("ping");
        assert_eq!(client.take(4), b"ping");
    }
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    assert_eq!(client.take(3), b"bye");
    assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_cut_answer_does_not_look_complete() {
    let origin = Origin::start(|peer| {
        peer.head();
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let own = Certified::of(&["app.test"]);
    present(&proxy, 1, &[&own]);
    let mut client = connect(proxy.https, "app.test", &own.client(&[])).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    client.head().unwrap();
    let mut rest = Vec::new();
    let error = client.stream.read_to_end(&mut rest).expect_err("no close_notify").kind();
    assert_eq!(error, std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn handshakes_and_readers_that_dawdle_are_cut_and_leave_others_alone() {
    let origin = Origin::start(|peer| {
        while peer.head().is_some() {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
            for _ in 0..50 {
                peer.say(vec![b'x'; 1_000_000]);
            }
        }
    });
    let proxy = Running::start_with(&one("app.test", origin.address), quick());
    let own = Certified::of(&["app.test"]);
    present(&proxy, 1, &[&own]);
    let began = Instant::now();
    let mut silent = Client::connect(proxy.https);
    let mut torn = Client::connect(proxy.https);
    torn.send([22, 3, 1, 0, 200, 1, 0]); // the beginning of a ClientHello
    let mut lazy = connect(proxy.https, "app.test", &own.client(&[])).unwrap();
    lazy.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(lazy.head().unwrap().0, 200);
    assert!(silent.is_closed() && torn.is_closed());
    assert!(began.elapsed() < Duration::from_secs(10));
    until("the lazy reader's request is over", || proxy.log().iter().any(|line| line["status"] == 200));
    let mut rest = Vec::new();
    assert!(lazy.stream.read_to_end(&mut rest).is_err(), "it was cut");
    assert!(rest.len() < 50_000_000);
}
