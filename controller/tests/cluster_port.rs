//! The cluster port over real TLS: who gets in, what for, and who does not.

mod common;

use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_controller::{cluster, nodes, registry};
use common::Controller;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt;

/// A controller whose cluster port is open.
struct Port {
    controller: Controller,
    address: SocketAddr,
}

/// What a node shows.
#[derive(Clone)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<KeyPair>,
}

/// Takes whoever answers, and remembers the certificates: what the client thinks is tested elsewhere.
#[derive(Debug)]
struct Anybody(Arc<Mutex<Vec<Vec<u8>>>>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.0.lock().expect("nobody panicked");
        seen.push(end_entity.to_vec());
        seen.extend(intermediates.iter().map(|one| one.to_vec()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

type Tls = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

impl Port {
    async fn open() -> Self {
        let controller = Controller::start().await;
        let platform = controller.platform.clone();
        let internal: Router =
            nodes::router(platform.clone()).merge(registry::router(platform.registry().clone()));
        tokio::spawn(cluster::run(platform, internal, controller.stop.clone()));
        let made = controller.call("POST", "/v1/node-tokens", None).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        let address = made.json()["address"].as_str().expect("an address").parse().expect("an address");
        Self { controller, address }
    }

    async fn token(&self, body: Value) -> Value {
        let made = self.controller.call("POST", "/v1/node-tokens", Some(body)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        made.json()
    }

    async fn secret(&self, body: Value) -> String {
        let token = self.token(body).await["token"].as_str().expect("a token").to_owned();
        token.split('-').nth(1).expect("three parts").to_owned()
    }

    async fn connect(
        &self,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        seen: Arc<Mutex<Vec<Vec<u8>>>>,
    ) -> std::io::Result<Tls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring speaks them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(seen)));
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
                // Unchecked: a thief's key does not go with the certificate.
                let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key of ring's");
                let shown = rustls::sign::CertifiedKey::new(identity.chain.clone(), key);
                config.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)))
            }
        };
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("controller.berth.internal").expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// One request on a connection of its own. An error is a connection that was refused or cut.
    async fn ask(
        &self,
        identity: Option<&Identity>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), String> {
        let stream = self.connect(identity, &[&rustls::version::TLS13], Arc::default()).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "berth");
        let request = match body {
            None => request.body(Body::empty()),
            Some(body) => {
                request.header("content-type", "application/json").body(Body::from(body.to_string()))
            }
        };
        let request = request.expect("a request");
        // With TLS 1.3 a refused client certificate shows at the first read (RFC 8446 §4.4.2.4).
        let answer = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    async fn join(
        &self,
        secret: &str,
        name: &str,
        key: &Arc<KeyPair>,
    ) -> Result<Identity, (StatusCode, String)> {
        let body = json!({ "secret": secret, "node": name, "request": request_for(key, name) });
        let (status, answer) = self.ask(None, "POST", "/join/v1", Some(body)).await.expect("it answers");
        if status != StatusCode::OK {
            return Err((status, answer["message"].as_str().expect("a reason").to_owned()));
        }
        let pem = answer["certificate"].as_str().expect("a certificate");
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        Ok(Identity { chain: vec![certificate], key: key.clone() })
    }

    async fn joined(&self, name: &str) -> Identity {
        let secret = self.secret(json!({})).await;
        self.join(&secret, name, &new_key()).await.expect("it joins")
    }

    /// Whether the node is let in.
    async fn is_in(&self, identity: &Identity, name: &str) -> bool {
        let path = format!("/node/v1/{name}/membership");
        matches!(self.ask(Some(identity), "GET", &path, None).await, Ok((StatusCode::OK, _)))
    }
}

fn new_key() -> Arc<KeyPair> {
    Arc::new(KeyPair::generate().expect("a key"))
}

fn request_for(key: &KeyPair, name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    STANDARD.encode(params.serialize_request(key).expect("a request").der())
}

#[tokio::test]
async fn the_port_is_closed_until_the_first_token_and_its_hash_is_the_ca_s() {
    let port = Port::open().await;
    let token = port.token(json!({})).await["token"].as_str().expect("a token").to_owned();
    let seen = Arc::new(Mutex::new(Vec::new()));
    port.connect(None, &[&rustls::version::TLS13], seen.clone()).await.expect("it answers");
    let hash = token.rsplit('-').next().expect("a hash");
    let hashes: Vec<String> =
        seen.lock().expect("ours").iter().map(|one| hex::encode(Sha256::digest(one))).collect();
    assert_eq!(hashes.len(), 2, "its own certificate and the CA's");
    assert_eq!(hashes[1], hash);
    assert!(port.connect(None, &[&rustls::version::TLS12], Arc::default()).await.is_err(), "TLS 1.3 alone");
    // Neither the secret nor the CA's key is in the database as it is.
    let secret = token.split('-').nth(1).expect("a secret").to_owned();
    for entry in std::fs::read_dir(port.controller.dir.path().join("controller")).expect("there").flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{entry:?}");
    }
}

#[tokio::test]
async fn without_a_certificate_one_may_only_join() {
    let port = Port::open().await;
    for path in
        ["/node/v1/a/assignment", "/node/v1/a/tunnel", "/proxy/v1/certificates", "/v2/", "/v1/apps", "/"]
    {
        let (status, answer) = port.ask(None, "GET", path, None).await.expect("it answers");
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(answer["message"].as_str().expect("a reason").contains("berth agent join"), "{path}");
    }
}

#[tokio::test]
async fn a_token_is_good_once_in_time_and_for_its_name() {
    let port = Port::open().await;
    let refused = |answer: Result<Identity, (StatusCode, String)>, status: StatusCode, says: &str| {
        let (found, text) = answer.err().expect("refused");
        assert_eq!(found, status, "{text}");
        assert!(text.contains(says), "{text}");
    };
    refused(port.join(&"0".repeat(64), "a", &new_key()).await, StatusCode::FORBIDDEN, "not known");
    let (secret, key) = (port.secret(json!({})).await, new_key());
    let first = port.join(&secret, "a", &key).await.expect("it joins");
    assert!(port.is_in(&first, "a").await);
    refused(port.join(&secret, "b", &new_key()).await, StatusCode::FORBIDDEN, "used already, by a");
    refused(port.join(&secret, "a", &new_key()).await, StatusCode::FORBIDDEN, "used already");
    let again = port.join(&secret, "a", &key).await.expect("the answer may have been lost");
    assert!(port.is_in(&again, "a").await);
    // A name is taken over only with a token for it, and then the old machine is out.
    let other = port.secret(json!({})).await;
    refused(port.join(&other, "a", &new_key()).await, StatusCode::CONFLICT, "berth node:token a");
    let bound = port.secret(json!({ "node": "a" })).await;
    refused(port.join(&bound, "c", &new_key()).await, StatusCode::FORBIDDEN, "for the node a alone");
    let second = port.join(&bound, "a", &new_key()).await.expect("it takes the place");
    assert!(port.is_in(&second, "a").await);
    assert!(!port.is_in(&first, "a").await);
    // Expired.
    let short = port.secret(json!({ "seconds": 1 })).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    refused(port.join(&short, "d", &new_key()).await, StatusCode::FORBIDDEN, "expired");
    // Never the controller's own machine.
    let own = json!({ "node": "own", "generation": 0, "containers": {}, "capacity": berth_model::node::Capacity::default() });
    let socket = nodes::router(port.controller.platform.clone());
    let reply = common::ask(&socket, common::request("POST", "/node/v1/own/observed", Some(own))).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
    refused(port.join(&other, "own", &new_key()).await, StatusCode::CONFLICT, "controller's own machine");
}

#[tokio::test]
async fn a_request_that_proves_no_key_gets_no_certificate() {
    let port = Port::open().await;
    let secret = port.secret(json!({})).await;
    let whole = request_for(&new_key(), "a");
    let mut der = STANDARD.decode(&whole).expect("base64");
    let last = der.len() - 1;
    der[last] ^= 1;
    for wrong in ["", "!", "AAAA", &STANDARD.encode(&der), &"A".repeat(10_000), &format!("{whole}AAAA")] {
        let body = json!({ "secret": secret, "node": "a", "request": wrong });
        let (status, _) = port.ask(None, "POST", "/join/v1", Some(body)).await.expect("it answers");
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert!(port.join(&secret, "a", &new_key()).await.is_ok(), "the token is still good");
}

#[tokio::test]
async fn a_node_gets_nothing_of_another() {
    let port = Port::open().await;
    let (a, _b) = (port.joined("a").await, port.joined("b").await);
    let observed = |node: &str| json!({ "node": node, "generation": 0, "containers": {}, "capacity": berth_model::node::Capacity::default() });
    let proxy = |name: &str| json!({ "proxy": name, "revision": 1, "draining": {} });
    let (status, answer) =
        port.ask(Some(&a), "POST", "/node/v1/a/observed", Some(observed("a"))).await.expect("it answers");
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    let (status, answer) =
        port.ask(Some(&a), "POST", "/proxy/v1/status", Some(proxy("a"))).await.expect("it answers");
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    for (method, path, body, wanted) in [
        ("GET", "/node/v1/b/assignment", None, StatusCode::FORBIDDEN),
        ("POST", "/node/v1/b/observed", Some(observed("b")), StatusCode::FORBIDDEN),
        ("POST", "/node/v1/a/observed", Some(observed("b")), StatusCode::BAD_REQUEST),
        ("POST", "/node/v1/b/certificate", Some(json!({ "request": "" })), StatusCode::FORBIDDEN),
        ("POST", "/proxy/v1/status", Some(proxy("b")), StatusCode::FORBIDDEN),
        ("POST", "/v2/stacks/debian-12-run/blobs/uploads/", None, StatusCode::FORBIDDEN),
        ("DELETE", "/v2/apps/x/manifests/latest", None, StatusCode::FORBIDDEN),
        ("GET", "/v1/apps", None, StatusCode::FORBIDDEN),
    ] {
        let (status, answer) = port.ask(Some(&a), method, path, body).await.expect("it answers");
        assert_eq!(status, wanted, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_node_gets_the_others_keys_and_takes_none_of_them() {
    let port = Port::open().await;
    let (a, b) = (port.joined("a").await, port.joined("b").await);
    let key = |byte: u8| STANDARD.encode([byte; 32]);
    let say = async |who: &Identity, node: &str, wireguard: Value| {
        let network = json!({ "subnet": "10.208.0.0/20", "wireguard": wireguard });
        let observed = json!({ "node": node, "generation": 0, "containers": {}, "network": network,
            "capacity": berth_model::node::Capacity::default() });
        let path = format!("/node/v1/{node}/observed");
        port.ask(Some(who), "POST", &path, Some(observed)).await.expect("it answers").0
    };
    // Its own key, and the other's, as soon as they are as wanted.
    let told = async |who: &Identity, node: &str, other: &str, wanted: [Option<String>; 2]| {
        let began = std::time::Instant::now();
        loop {
            let path = format!("/node/v1/{node}/network");
            let (_, table) = port.ask(Some(who), "GET", &path, None).await.expect("it answers");
            let peer = table["peers"].as_array().into_iter().flatten().find(|peer| peer["node"] == other);
            let peer = peer.and_then(|peer| peer["wireguard"]["key"].as_str()).map(str::to_owned);
            let now = [table["key"].as_str().map(str::to_owned), peer];
            if now == wanted {
                return;
            }
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "{now:?} instead of {wanted:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert_eq!(say(&a, "a", json!({ "key": key(1), "port": 51820 })).await, StatusCode::NO_CONTENT);
    told(&b, "b", "a", [None, Some(key(1))]).await;
    // b claims what everybody knows: it gets nothing by it, and a loses nothing.
    assert_eq!(say(&b, "b", json!({ "key": key(1), "port": 51820 })).await, StatusCode::NO_CONTENT);
    assert_eq!(say(&b, "a", json!({ "key": key(2), "port": 51820 })).await, StatusCode::FORBIDDEN);
    let short = say(&b, "b", json!({ "key": "AAAA", "port": 51820 })).await;
    assert!(short.is_client_error(), "{short}");
    told(&a, "a", "b", [Some(key(1)), None]).await;
    assert_eq!(say(&b, "b", json!({ "key": key(2), "port": 51820 })).await, StatusCode::NO_CONTENT);
    told(&a, "a", "b", [Some(key(1)), Some(key(2))]).await;
    told(&b, "b", "a", [Some(key(2)), Some(key(1))]).await;
}

#[tokio::test]
async fn certificates_of_others_open_nothing() {
    let port = Port::open().await;
    let real = port.joined("a").await;
    // Another CA with the same name.
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Berth cluster");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = new_key();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let forged = params.signed_by(&*key, &issuer).expect("signed");
    let forged = Identity { chain: vec![forged.der().clone()], key: key.clone() };
    assert!(port.ask(Some(&forged), "GET", "/node/v1/a/membership", None).await.is_err(), "another CA");
    // The node's certificate without its key.
    let stolen = Identity { chain: real.chain.clone(), key };
    assert!(port.ask(Some(&stolen), "GET", "/node/v1/a/membership", None).await.is_err(), "not its key");
    // A node's certificate signs nothing.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "b");
    let mut parent = CertificateParams::default();
    parent.distinguished_name = rcgen::DistinguishedName::new();
    parent.distinguished_name.push(DnType::CommonName, "a");
    let child_key = new_key();
    let child = params.signed_by(&*child_key, &rcgen::Issuer::new(parent, &*real.key)).expect("signed");
    let child = Identity { chain: vec![child.der().clone(), real.chain[0].clone()], key: child_key };
    assert!(port.ask(Some(&child), "GET", "/node/v1/b/membership", None).await.is_err(), "a node is no CA");
    assert!(port.is_in(&real, "a").await);
}

#[tokio::test]
async fn a_removed_node_is_out_at_once_whatever_it_has_open() {
    let port = Port::open().await;
    let (a, b) = (port.joined("a").await, port.joined("b").await);
    let mut idle = port.connect(Some(&a), &[&rustls::version::TLS13], Arc::default()).await.expect("in");
    let polling = port.ask(Some(&a), "GET", "/node/v1/a/assignment?after=18446744073709551615", None);
    let removing = async {
        assert!(port.is_in(&a, "a").await);
        let reply = port.controller.call("DELETE", "/v1/nodes/a", None).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
    };
    let (polled, ()) =
        tokio::time::timeout(std::time::Duration::from_secs(10), async { tokio::join!(polling, removing) })
            .await
            .expect("a poll is cut, not waited for");
    assert!(polled.is_err(), "{polled:?}");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), idle.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "an idle connection is cut as well");
    // One that knocks again in the same moment may still be cut with those it had open; then it is told.
    let told = async {
        loop {
            if let Ok(told) = port.ask(Some(&a), "GET", "/node/v1/a/membership", None).await {
                return told;
            }
        }
    };
    let (status, answer) =
        tokio::time::timeout(std::time::Duration::from_secs(5), told).await.expect("it answers");
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(answer["message"].as_str().expect("a reason").contains("was removed"), "{answer}");
    assert!(port.is_in(&b, "b").await, "nobody else is");
    assert_eq!(port.controller.call("DELETE", "/v1/nodes/a", None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_is_renewed_without_a_moment_in_which_none_is_good() {
    let port = Port::open().await;
    let old = port.joined("a").await;
    let renew = async || {
        let key = new_key();
        let body = json!({ "request": request_for(&key, "a") });
        let (status, answer) =
            port.ask(Some(&old), "POST", "/node/v1/a/certificate", Some(body)).await.expect("it answers");
        assert_eq!(status, StatusCode::OK, "{answer}");
        let pem = answer["certificate"].as_str().expect("a certificate");
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        Identity { chain: vec![certificate], key }
    };
    let lost = renew().await;
    assert!(port.is_in(&old, "a").await, "the answer may have been lost");
    let new = renew().await;
    assert!(!port.is_in(&lost, "a").await, "only the last one counts");
    assert!(port.is_in(&old, "a").await, "until the new one is shown");
    assert!(port.is_in(&new, "a").await);
    assert!(!port.is_in(&old, "a").await, "from then on it is the only one");
    assert!(port.is_in(&new, "a").await);
}

#[tokio::test]
async fn no_two_nodes_share_addresses_however_they_come() {
    let port = Port::open().await;
    let joining = (0..8).map(|n| {
        let port = &port;
        async move { port.joined(&format!("n{n}")).await }
    });
    futures_util::future::join_all(joining).await;
    let nodes = port.controller.platform.nodes().await.expect("read");
    let subnets: std::collections::BTreeSet<_> =
        nodes.iter().filter_map(|node| node.subnet.clone()).collect();
    assert_eq!((nodes.len(), subnets.len()), (8, 8), "{subnets:?}");
}
