//! HTTP/2 to clients (RFC 9113), by prior knowledge.

use crate::origin::Origin;
use crate::proxy::{Running, one, quick, site, until, write};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A connection of the `h2` crate's client.
pub(crate) struct Client {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream).await
    }

    /// On a connection that is made already.
    pub(crate) async fn on(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(1 << 20);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        Self { send, connection }
    }

    pub(crate) async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Whole, h2::Error> {
        self.send = self.send.clone().ready().await?;
        let (response, mut sending) = self.send.send_request(request, body.is_empty())?;
        let upload = async { if !body.is_empty() { push(&mut sending, body, true).await } else { Ok(()) } };
        let (_, whole) = tokio::join!(upload, async { whole(response.await?).await });
        whole
    }

    pub(crate) async fn get(&mut self, url: &str) -> Result<Whole, h2::Error> {
        self.ask(Request::get(url).body(()).unwrap(), b"").await
    }
}

/// Sends `body` as the windows allow.
pub(crate) async fn push(
    sending: &mut h2::SendStream<Bytes>,
    mut body: &[u8],
    end: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        sending.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
        let Some(room) = room.transpose()? else { return Ok(()) };
        let (now, later) = body.split_at(room.min(body.len()));
        body = later;
        sending.send_data(Bytes::copy_from_slice(now), end && body.is_empty())?;
    }
    Ok(())
}

pub(crate) async fn whole(response: Response<RecvStream>) -> Result<Whole, h2::Error> {
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Whole { status: parts.status.as_u16(), fields: parts.headers, body, trailers })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await.expect("it ends") })
}

/// Answers with the request's head and body as it got them.
fn mirror() -> Origin {
    Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            let all = [head.as_bytes(), &body].concat();
            peer.say(format!(
                "HTTP/1.1 200 OK\r\nX-Hop: 1\r\nConnection: x-hop\r\nContent-Length: {}\r\n\r\n",
                all.len()
            ));
            if !head.starts_with("HEAD") {
                peer.say(all);
            }
        }
    })
}

#[test]
fn requests_reach_an_app_of_http_1_1() {
    let origin = mirror();
    let mut proxy = Running::start(&one("a.test", origin.address));
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        let request = Request::post("http://a.test/x?y=1").header("cookie", "a=1").header("cookie", "b=2");
        let reply = client.ask(request.body(()).unwrap(), b"hello").await.unwrap();
        let text = String::from_utf8(reply.body).unwrap();
        assert_eq!(reply.status, 200);
        assert!(text.starts_with("POST /x?y=1 HTTP/1.1\r\nHost: a.test\r\n"), "{text}");
        assert!(
            text.contains("cookie: a=1; b=2\r\n") && text.contains("X-Forwarded-For: 127.0.0.1\r\n"),
            "{text}"
        );
        assert!(text.contains("Transfer-Encoding: chunked\r\n") && text.ends_with("\r\n\r\nhello"), "{text}");
        assert!(reply.fields.get("x-hop").is_none() && reply.fields.get("connection").is_none());
        for n in 0..50 {
            let reply = client.get(&format!("http://a.test/{n}")).await.unwrap();
            assert!(reply.body.starts_with(format!("GET /{n} HTTP/1.1\r\n").as_bytes()));
        }
        let head = Request::head("http://a.test/").body(()).unwrap();
        let reply = client.ask(head, b"").await.unwrap();
        assert!(reply.status == 200 && reply.body.is_empty() && reply.fields.contains_key("content-length"));
        // A name nothing is known of does not end the others.
        assert_eq!(client.get("http://b.test/").await.unwrap().status, 421);
        assert_eq!(client.get("http://a.test/").await.unwrap().status, 200);
    });
    assert_eq!(origin.count(), 1, "one connection is used again and again");
    proxy.stop();
    let log = std::fs::read_to_string(proxy.dir.path().join("proxy/access.log")).unwrap();
    assert_eq!(log.lines().count(), 53, "{log}");
    assert!(log.contains("\"path\":\"/49\"") && log.contains("\"container\":\"app.web.1.a\""), "{log}");
}

#[test]
fn bodies_of_any_size_go_both_ways_at_once() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            // Begins to answer before the request is complete, and echoes it.
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let body = peer.body(&head);
            for part in body.chunks(100_000) {
                peer.say(format!("{:x}\r\n", part.len()));
                peer.say(part);
                peer.say("\r\n");
            }
            peer.say("0\r\nx-trailer: 1\r\n\r\n");
        }
    });
    let mut proxy = Running::start(&one("a.test", origin.address));
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        for size in [1_usize, 70_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
            let request = Request::put("http://a.test/").body(()).unwrap();
            let reply = client.ask(request, &body).await.unwrap();
            assert!(reply.status == 200 && reply.body == body && reply.trailers.is_none());
            let sized = Request::put("http://a.test/").header("content-length", size).body(()).unwrap();
            let reply = client.ask(sized, &body).await.unwrap();
            assert!(reply.body == body);
        }
        // Many at once, on one connection.
        let asked = (0..80_u8).map(|n| {
            let mut client = client.send.clone();
            async move {
                let request = Request::put("http://a.test/").body(()).unwrap();
                client = client.ready().await.unwrap();
                let (response, mut sending) = client.send_request(request, false).unwrap();
                let body = vec![n; 20_000];
                push(&mut sending, &body, true).await.unwrap();
                assert!(whole(response.await.unwrap()).await.unwrap().body == body);
            }
        });
        futures_util::future::join_all(asked).await;
    });
    proxy.stop();
}

#[test]
fn answers_without_a_body_and_pages_end_the_stream() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            peer.say(match head.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n",
                "/early" => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "/close" => "HTTP/1.0 200 OK\r\n\r\nto the end",
                "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
                _ => "nonsense\r\n\r\n",
            });
            if head.starts_with("GET /c") {
                return;
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("index.html"), "<p>static</p>");
    let mut routes = one("a.test", origin.address);
    routes.http.extend(site(dir.path(), false).http);
    let mut proxy = Running::start(&routes);
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        for (path, status, body) in
            [("204", 204, ""), ("304", 304, ""), ("early", 200, ""), ("close", 200, "to the end")]
        {
            let reply = client.get(&format!("http://a.test/{path}")).await.unwrap();
            assert_eq!((reply.status, reply.body.as_slice()), (status, body.as_bytes()), "{path}");
        }
        assert!(
            client
                .get("http://a.test/cut")
                .await
                .is_err_and(|error| error.reason() == Some(Reason::INTERNAL_ERROR))
        );
        let page = client.get("http://a.test/bad").await.unwrap();
        assert!(page.status == 502 && page.body.starts_with(b"Bad Gateway"));
        let file = client.get("http://site.test/").await.unwrap();
        assert_eq!((file.status, file.body.as_slice()), (200, &b"<p>static</p>"[..]));
        let missing = Request::head("http://site.test/none").body(()).unwrap();
        let reply = client.ask(missing, b"").await.unwrap();
        assert!(reply.status == 404 && reply.body.is_empty());
        let method = Request::post("http://site.test/").body(()).unwrap();
        assert_eq!(client.ask(method, b"body").await.unwrap().status, 405);
        assert_eq!(client.get("http://site.test/").await.unwrap().status, 200);
    });
    proxy.stop();
}

#[test]
fn a_request_that_is_cancelled_ends_at_the_app() {
    let origin = Origin::start(|peer| {
        while peer.head().is_some() {}
        peer.say("gone");
    });
    let mut proxy = Running::start(&one("a.test", origin.address));
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        let (response, mut sending) =
            client.send.send_request(Request::get("http://a.test/").body(()).unwrap(), true).unwrap();
        let connections = origin.connections.clone();
        tokio::task::spawn_blocking(move || until("it arrives", || connections.load(Ordering::SeqCst) == 1))
            .await
            .unwrap();
        sending.send_reset(Reason::CANCEL);
        drop(response);
        client.ask(Request::get("http://nobody.test/").body(()).unwrap(), b"").await.unwrap();
    });
    until("the request is logged as cut", || {
        std::fs::read_to_string(proxy.dir.path().join("proxy/access.log"))
            .unwrap()
            .contains("\"aborted\":true")
    });
    proxy.stop();
}

#[test]
fn a_stop_lets_streams_finish_and_takes_no_new_ones() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.starts_with("GET /slow") {
                std::thread::sleep(Duration::from_millis(400));
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut proxy = Running::start_with(&one("a.test", origin.address), quick());
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("http://a.test/").await.unwrap().status, 200);
        let (response, _) =
            client.send.send_request(Request::get("http://a.test/slow").body(()).unwrap(), true).unwrap();
        let connections = origin.received.clone();
        tokio::task::spawn_blocking(move || {
            until("it arrives", || connections.lock().unwrap().windows(5).any(|text| text == b"/slow"));
        })
        .await
        .unwrap();
        proxy.begin_stop();
        assert_eq!(whole(response.await.unwrap()).await.unwrap().body, b"ok");
        client.connection.await.unwrap().unwrap();
    });
    assert!(proxy.stop() < Duration::from_secs(3));
}

#[test]
fn an_idle_connection_and_a_silent_one_are_closed() {
    let origin = Origin::fixed("x");
    let settings = berth_proxy::Settings { idle: Duration::from_millis(500), ..quick() };
    let mut proxy = Running::start_with(&one("a.test", origin.address), settings);
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("http://a.test/").await.unwrap().status, 200);
        client.connection.await.unwrap().unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut silent = TcpStream::connect(proxy.address).await.unwrap();
        silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").await.unwrap();
        let mut left = Vec::new();
        let _ = silent.read_to_end(&mut left).await;
    });
    proxy.stop();
}

#[test]
fn a_websocket_goes_through_an_extended_connect() {
    let origin = Origin::start(|peer| {
        let head = peer.head().unwrap();
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n") && head.contains("sec-websocket-key: "), "{head}");
        peer.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: p\r\n\r\nhello");
        loop {
            let bytes = std::mem::take(&mut peer.pending);
            peer.say(bytes);
            if !peer.fill() {
                return;
            }
        }
    });
    let mut proxy = Running::start(&one("a.test", origin.address));
    block_on(async {
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("http://nobody.test/").await.unwrap().status, 421);
        assert!(client.send.is_extended_connect_protocol_enabled());
        let mut request = Request::builder().method("CONNECT").uri("http://a.test/chat");
        request = request
            .extension(h2::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        let (response, mut sending) = client.send.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().get("sec-websocket-accept").is_none());
        assert_eq!(response.headers()["sec-websocket-protocol"], "p");
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        for message in ["one", "two"] {
            push(&mut sending, message.as_bytes(), false).await.unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), message);
        }
        sending.send_data(Bytes::new(), true).unwrap();
        while let Some(data) = body.data().await {
            assert_eq!(data.unwrap(), "", "nothing but the end");
        }
    });
    proxy.stop();
}
