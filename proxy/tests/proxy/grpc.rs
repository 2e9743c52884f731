//! Apps that speak HTTP/2 without TLS: what gRPC needs of a proxy.

use crate::http2::{Client, block_on, push, whole};
use crate::proxy::{Running, backend, table, until};
use berth_model::ports::AppProtocol;
use berth_model::route::{Backend, RouteTable};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An app that echoes what it gets as it comes and ends with trailers.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl App {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen): (Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (count, record) = (connections.clone(), seen.clone());
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let record = record.clone();
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(10);
                    let Ok(mut h2) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, respond))) = h2.accept().await {
                        tokio::spawn(serve(request, respond, record.clone()));
                    }
                });
            }
        });
        Self { address, connections, seen, _runtime: runtime }
    }

    pub(crate) fn backend(&self, id: &str) -> Backend {
        Backend { protocol: AppProtocol::H2c, ..backend(id, 1, self.address) }
    }

    pub(crate) fn routes(&self) -> RouteTable {
        table(1, &[("a.test", &[self.backend("app.web.1.a")])])
    }

    fn saw(&self, what: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|line| line.contains(what))
    }
}

async fn serve(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: Arc<Mutex<Vec<String>>>,
) {
    let (parts, mut body) = request.into_parts();
    record.lock().unwrap().push(format!("{} {} {:?}", parts.method, parts.uri, parts.headers));
    let head = Response::builder().header("content-type", "application/grpc").header("connection-id", "1");
    match parts.uri.path() {
        "/trailers-only" => {
            let head = head.header("grpc-status", "5").body(()).unwrap();
            respond.send_response(head, true).unwrap();
            return;
        }
        "/refuse" => return respond.send_reset(Reason::INADEQUATE_SECURITY),
        "/sized" => {
            let bodyless = parts.method == "HEAD";
            let head = head.header("content-length", "2").body(()).unwrap();
            let mut sending = respond.send_response(head, bodyless).unwrap();
            if !bodyless {
                sending.send_data("ok".into(), true).unwrap();
            }
            return;
        }
        _ => {}
    }
    let mut sending = respond.send_response(head.body(()).unwrap(), false).unwrap();
    let path = parts.uri.path().to_owned();
    while let Some(data) = body.data().await {
        let Ok(data) = data else {
            record.lock().unwrap().push(format!("{path} was cancelled"));
            return;
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        if push(&mut sending, &data, false).await.is_err() {
            return;
        }
    }
    let got = body.trailers().await.unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    if let Some(value) = got.as_ref().and_then(|fields| fields.get("x-end")) {
        trailers.insert("x-end", value.clone());
    }
    let _ = sending.send_trailers(trailers);
}

#[test]
fn streams_trailers_and_resets_go_both_ways() {
    let app = App::start();
    let mut proxy = Running::start(&app.routes());
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        let request =
            Request::post("http://a.test/echo").header("te", "trailers").header("grpc-timeout", "5S");
        let (response, mut sending) = client.send.send_request(request.body(()).unwrap(), false).unwrap();
        // The head comes before the request has ended, and each message by itself.
        let response = response.await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"application/grpc".parse().unwrap())
        );
        let mut body = response.into_body();
        for message in ["one", "two", "three"] {
            push(&mut sending, message.as_bytes(), false).await.unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), message);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "mine".parse().unwrap());
        sending.send_trailers(trailers).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-end"]),
            (&"0".parse().unwrap(), &"mine".parse().unwrap())
        );
        assert!(app.saw("\"te\": \"trailers\"") && app.saw("\"x-forwarded-for\": \"127.0.0.1\""));

        let only = client.get("http://a.test/trailers-only").await.unwrap();
        assert!(only.fields["grpc-status"] == "5" && only.trailers.is_none() && only.body.is_empty());
        let refused = client.get("http://a.test/refuse").await.unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::INADEQUATE_SECURITY));

        let large: Vec<u8> = (0..2_000_000_usize).map(|n| n.to_le_bytes()[0]).collect();
        let reply = client.ask(Request::post("http://a.test/large").body(()).unwrap(), &large).await.unwrap();
        assert!(reply.body == large && reply.trailers.unwrap()["grpc-status"] == "0");

        let request = Request::post("http://a.test/gone").body(()).unwrap();
        let (response, mut sending) = client.send.send_request(request, false).unwrap();
        response.await.unwrap();
        sending.send_reset(Reason::CANCEL);
    });
    until("the app hears of it", || app.saw("/gone was cancelled"));
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
    proxy.stop();
}

#[test]
fn an_apps_limit_of_streams_is_kept_by_more_connections() {
    let app = App::start();
    let mut proxy = Running::start(&app.routes());
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        client.get("http://a.test/sized").await.unwrap(); // the app's limit is known from here on
        let mut open = Vec::new();
        for n in 0..35 {
            let request = Request::post(format!("http://a.test/{n}")).body(()).unwrap();
            client.send = client.send.clone().ready().await.unwrap();
            let (response, sending) = client.send.send_request(request, false).unwrap();
            open.push((response.await.unwrap().into_body(), sending));
        }
        for (mut body, mut sending) in open {
            sending.send_data("x".into(), true).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), "x");
        }
    });
    let count = app.connections.load(Ordering::SeqCst);
    assert!((2..=16).contains(&count), "{count} connections");
    proxy.stop();
}

#[test]
fn clients_of_http_1_1_reach_such_an_app_too() {
    let app = App::start();
    let mut proxy = Running::start(&app.routes());
    let mut client = crate::proxy::Client::connect(proxy.address);
    client.send("POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    let reply = client.reply("POST");
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "hello", true));
    assert_eq!(reply.field("transfer-encoding").as_deref(), Some("chunked"));
    client.send("GET /sized HTTP/1.1\r\nHost: a.test\r\n\r\nHEAD /sized HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let reply = client.reply("GET");
    assert_eq!((reply.text().as_str(), reply.field("content-length").as_deref()), ("ok", Some("2")));
    assert_eq!(client.reply("HEAD").status, 200);
    client.send("GET /refuse HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.reply("GET").status, 502);
    client.send(
        "POST /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(client.reply("POST").status, 100);
    client.send("3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.reply("POST").text(), "abc");
    drop(client);
    proxy.stop();
}

#[test]
fn a_container_that_is_gone_or_speaks_something_else_is_passed_over() {
    let app = App::start();
    let origin = crate::origin::Origin::fixed("old");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let h2c = |id: &str, address| Backend { protocol: AppProtocol::H2c, ..backend(id, 1, address) };
    let routes = table(1, &[("a.test", &[h2c("app.web.1.x", closed), app.backend("app.web.2.y")])]);
    let mut proxy = Running::start(&routes);
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..20 {
            assert_eq!(client.get("http://a.test/sized").await.unwrap().body, b"ok");
        }
        proxy.handle.apply(&table(2, &[("a.test", &[h2c("app.web.3.z", origin.address)])]));
        assert_eq!(client.get("http://a.test/sized").await.unwrap().status, 502);
        // A stream that is open when its container leaves the routes goes on.
        proxy.handle.apply(&RouteTable { revision: 3, ..app.routes() });
        let request = Request::post("http://a.test/stays").body(()).unwrap();
        let (response, mut sending) = client.send.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        proxy.handle.apply(&table(4, &[("a.test", &[backend("app.web.4.o", 1, origin.address)])]));
        assert_eq!(client.get("http://a.test/").await.unwrap().body, b"old");
        assert_eq!(proxy.handle.status().draining.len(), 1);
        push(&mut sending, b"still", true).await.unwrap();
        assert_eq!(whole(response).await.unwrap().body, b"still");
        tokio::time::sleep(Duration::ZERO).await;
    });
    until("it has drained", || proxy.handle.status().draining.is_empty());
    proxy.stop();
}
