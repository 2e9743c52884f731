//! Another parser's word: whatever this proxy sends on, hyper's server reads as the same single request.

use crate::framing::{Clean, vectors};
use crate::origin::Origin;
use crate::proxy::{Running, one};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    method: String,
    target: String,
    hosts: Vec<String>,
    body: Vec<u8>,
}

/// The requests hyper finds in `bytes`, and what it does not like about them.
async fn by_hyper(bytes: Vec<u8>) -> (Vec<Read>, Result<(), String>) {
    let found: Arc<Mutex<Vec<Read>>> = Arc::default();
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let seen = found.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or("?").to_owned();
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            let hosts = request.headers().get_all("host").iter().map(text).collect();
            let body = request.into_body().collect().await.map(|body| body.to_bytes().to_vec());
            let whole = body.is_ok();
            seen.lock().unwrap().push(Read { method, target, hosts, body: body.unwrap_or_default() });
            assert!(whole, "hyper does not find the end of the body");
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(theirs), service);
    let talking = async {
        ours.write_all(&bytes).await.unwrap();
        ours.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut answers).await;
    };
    let (served, ()) = tokio::join!(serving, talking);
    let found = found.lock().unwrap().clone();
    (found, served.map_err(|error| error.to_string()))
}

/// Sends `request` through the proxy and gives what the origin got.
fn through(proxy: &Running, origin: &Origin, request: &[u8]) -> Option<Vec<u8>> {
    origin.received.lock().unwrap().clear();
    let mut client = proxy.client();
    client.send(request);
    let answered = client.reply("GET").status == 200;
    let bytes = std::mem::take(&mut *origin.received.lock().unwrap());
    answered.then_some(bytes)
}

fn echo() -> Origin {
    Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(&body);
        }
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn hyper_reads_every_vector_that_is_sent_on_as_one_request() {
    let origin = echo();
    let proxy = Running::start(&one("app.test", origin.address));
    let runtime = runtime();
    let mut seen = 0;
    for (name, rule, request, fate) in vectors() {
        let Some(mut bytes) = through(&proxy, &origin, request.as_bytes()) else { continue };
        assert!(matches!(fate, Clean(_)), "{name} ({rule})");
        // What an earlier vector left half said may come late, on another connection, into the same record.
        for _ in 0..5 {
            if bytes.windows(11).filter(|window| window == b" HTTP/1.1\r\n").count() == 1 {
                break;
            }
            bytes = through(&proxy, &origin, request.as_bytes()).unwrap();
        }
        let (found, content) = runtime.block_on(by_hyper(bytes));
        assert!(content.is_ok() && found.len() == 1, "{name} ({rule}): hyper reads {found:?}, {content:?}");
        assert_eq!(found[0].hosts.len(), 1, "{name} ({rule})");
        seen += 1;
    }
    assert!(seen > 30, "{seen} vectors are sent on");
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

#[test]
fn hyper_agrees_about_thousands_of_strange_requests() {
    let origin = echo();
    let proxy = Running::start(&one("app.test", origin.address));
    let runtime = runtime();
    let seed = std::env::var("BERTH_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9 + 1);
    let mut random = Random(seed);
    let mut agreed = 0;
    for number in 0..3000 {
        let method = random.of(&["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "get", "OPTIONS"]);
        let target =
            random.of(&["/", "/a?b=c", "/%2f..//", "http://app.test/x", "/;a=b", "/\u{e4}", "*", "//x"]);
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\nX-Run: {number}\r\n");
        for _ in 0..random.below(5) {
            request.push_str(random.of(&[
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Content-Length: 0\r\n",
                "Connection: close\r\n",
                "Connection: Content-Length, X-A\r\n",
                "X-A: 1\r\n",
                "content_length: 9\r\n",
                "Expect: 100-continue\r\n",
                "TE: trailers\r\n",
                "Upgrade: websocket\r\n",
                "Upgrade: h2c\r\n",
                "Connection: upgrade\r\n",
                "Cookie:a=b \r\n",
                "X-Forwarded-For: 6.6.6.6\r\n",
                "A:\r\n",
                "A:\t\t\r\n",
                "Trailer: X\r\n",
                "Transfer-Encoding: gzip\r\n",
            ]));
        }
        request.push_str("\r\n");
        request.push_str(random.of(&[
            "",
            "hello",
            "5\r\nhello\r\n0\r\n\r\n",
            "0\r\n\r\n",
            "2;x\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        ]));
        let mut client = proxy.client();
        origin.received.lock().unwrap().clear();
        client.send(&request);
        // Whether it waits for more or not: this is all there is.
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let status = client.head().map_or(0, |(status, _)| status);
        if status != 200 {
            continue;
        }
        let bytes = std::mem::take(&mut *origin.received.lock().unwrap());
        // An earlier one that was given up may have come late: another connection, but the same record.
        let text = String::from_utf8_lossy(&bytes);
        if text.matches("X-Run: ").count() != 1 || !text.contains(&format!("X-Run: {number}\r\n")) {
            continue;
        }
        let (found, content) = runtime.block_on(by_hyper(bytes.clone()));
        let what = || {
            format!(
                "run {number} of BERTH_FUZZ_SEED={seed}: {request:?} became {:?}",
                bytes.escape_ascii().to_string()
            )
        };
        assert!(content.is_ok() && found.len() == 1, "{}: hyper reads {found:?}, {content:?}", what());
        assert_eq!(found[0].method, method, "{}", what());
        let body = if request.contains("Transfer-Encoding: chunked") || request.contains("Length: 5") {
            &b"hello"[..]
        } else {
            b""
        };
        assert!(
            found[0].body == body || found[0].body.is_empty() || found[0].body.len() == 5,
            "{}: {found:?}",
            what()
        );
        agreed += 1;
    }
    assert!(agreed > 300, "{agreed} of 3000 were sent on");
}
