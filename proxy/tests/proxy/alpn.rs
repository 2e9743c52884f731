//! HTTP/2 over TLS: chosen by ALPN, bound to its certificate, and judged by the same policies as HTTP/1.1.

use crate::http2::Client;
use crate::origin::Origin;
use crate::proxy::{Running, backend, quick, table};
use crate::tls::Certified;
use berth_model::AppName;
use berth_model::policy::{Hsts, PasswordHash, Policy};
use berth_model::tls::CertificateTable;
use http::Request;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A connection over which the proxy chose HTTP/2.
async fn connect(proxy: &Running, name: &'static str, own: &Certified) -> Client {
    let config = own.client(&[b"h2", b"http/1.1"]);
    let connector = tokio_rustls::TlsConnector::from(config);
    let tcp = TcpStream::connect(proxy.https).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let stream =
        connector.connect(rustls::pki_types::ServerName::try_from(name).unwrap(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Client::on(stream).await
}

fn present(proxy: &Running, certified: &[&Certified]) {
    let certificates = certified.iter().map(|one| one.entry.clone()).collect();
    proxy.handle.present(&CertificateTable { revision: 1, certificates, ..Default::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_serves_only_names_of_its_certificate_and_large_bodies() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(body);
        }
    });
    let backends = [backend("app.web.1.a", 1, origin.address)];
    let proxy = Running::start(&table(1, &["a.test", "b.test", "c.test"].map(|host| (host, &backends[..]))));
    let (both, third) = (Certified::of(&["a.test", "b.test"]), Certified::of(&["c.test"]));
    present(&proxy, &[&both, &third]);
    let mut client = connect(&proxy, "a.test", &both).await;
    assert_eq!(client.get("https://a.test/").await.unwrap().status, 200);
    assert_eq!(client.get("https://b.test/").await.unwrap().status, 200, "coalesced (RFC 9113 §9.1.1)");
    assert_eq!(client.get("https://c.test/").await.unwrap().status, 421);
    assert_eq!(client.get("https://unknown.test/").await.unwrap().status, 421);
    let body = vec![b'x'; 2_000_000];
    let request = Request::post("https://a.test/").body(()).unwrap();
    let whole = client.ask(request, &body).await.unwrap();
    assert_eq!((whole.status, whole.body.len()), (200, body.len()));
    assert!(origin.text().contains("X-Forwarded-Proto: https\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn policies_hold_over_http_2_too() {
    let origin = Origin::fixed("in");
    let hash = PasswordHash(bcrypt::hash("sesame", 4).unwrap());
    let policy = Policy {
        users: BTreeMap::from([("ali".to_owned(), hash)]),
        hsts: Some(Hsts { max_age: 7, include_subdomains: false, preload: false }),
        ..Policy::default()
    };
    let mut routes = table(1, &[("app.test", &[backend("app.web.1.a", 1, origin.address)])]);
    routes.rules.policies = BTreeMap::from([(AppName::parse("app").unwrap(), policy)]);
    let proxy = Running::start_with(&routes, quick());
    let own = Certified::of(&["app.test"]);
    present(&proxy, &[&own]);
    let mut over_tls = connect(&proxy, "app.test", &own).await;
    let ask = |authorization: Option<&'static str>, scheme: &str| {
        let mut request = Request::get(format!("{scheme}://app.test/x?y"));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        request.body(()).unwrap()
    };
    for (authorization, status) in
        [(None, 401), (Some("Basic YWxpOndyb25n"), 401), (Some("Basic YWxpOnNlc2FtZQ=="), 200), (None, 401)]
    {
        let whole = over_tls.ask(ask(authorization, "https"), b"").await.unwrap();
        assert_eq!(whole.status, status, "{authorization:?}");
        assert_eq!(whole.fields.get("strict-transport-security").unwrap(), "max-age=7");
        assert_eq!(whole.fields.contains_key("www-authenticate"), status == 401);
    }
    // By prior knowledge, without TLS: to where there is TLS.
    let mut plain = Client::connect(proxy.address).await;
    let whole = plain.ask(ask(Some("Basic YWxpOnNlc2FtZQ=="), "http"), b"").await.unwrap();
    let port = proxy.https.port();
    assert_eq!(whole.status, 301);
    assert_eq!(whole.fields.get("location").unwrap(), &format!("https://app.test:{port}/x?y"));
    assert!(!whole.fields.contains_key("strict-transport-security"), "never over plain HTTP (RFC 6797 §7.2)");
    drop(Arc::new(over_tls));
    assert_eq!(origin.text().matches("GET /x?y").count(), 1, "only who may has reached the app");
}
