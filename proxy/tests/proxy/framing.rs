//! Ambiguous requests, sent raw through a real proxy to an origin that records: each is refused, or reaches the origin as
//! one request that can be read in one way only.

use crate::origin::{Origin, field};
use crate::proxy::{Running, one};

/// What must become of a vector.
enum Fate {
    /// Refused with this status, and nothing reaches the origin.
    Refused(u16),
    /// Closed without an answer, and nothing reaches the origin.
    Closed,
    /// Forwarded clean: exactly one request, with one framing, holding none of these texts.
    Clean(&'static [&'static str]),
}
use Fate::{Clean, Closed, Refused};

/// Each is sent with `Host: app.test` in front of `fields` unless it brings its own request line.
fn vectors() -> Vec<(&'static str, String, Fate)> {
    let post = |fields: &str, body: &str| format!("POST /v HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n{body}");
    let get = |fields: &str| format!("GET /v HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    let raw = str::to_owned;
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        // Content-Length
        ("CL and TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", CHUNKS), Refused(400)),
        ("TE and CL", post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", CHUNKS), Refused(400)),
        ("two equal CL", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Refused(400)),
        ("two different CL", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), Refused(400)),
        ("CL list of equals", post("Content-Length: 5, 5\r\n", "hello"), Refused(400)),
        ("CL with plus", post("Content-Length: +5\r\n", "hello"), Refused(400)),
        ("CL negative", post("Content-Length: -5\r\n", "hello"), Refused(400)),
        ("CL hexadecimal", post("Content-Length: 0x5\r\n", "hello"), Refused(400)),
        ("CL with inner space", post("Content-Length: 5 5\r\n", "hello"), Refused(400)),
        ("CL empty", post("Content-Length: \r\n", ""), Refused(400)),
        ("CL 2^64+3", post("Content-Length: 18446744073709551619\r\n", "hello"), Refused(400)),
        ("CL with a letter", post("Content-Length: 5a\r\n", "hello"), Refused(400)),
        ("CL decimal point", post("Content-Length: 5.0\r\n", "hello"), Refused(400)),
        ("CL with space before colon", post("Content-Length : 5\r\n", "hello"), Refused(400)),
        (
            "CL with underscore",
            post("Content-Length: 5\r\nContent_Length: 50\r\n", "hello"),
            Clean(&["Content_Length"]),
        ),
        ("CL padded with blanks", post("Content-Length: \t 5 \t\r\n", "hello"), Clean(&[])),
        // Transfer-Encoding
        ("TE gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", CHUNKS), Refused(400)),
        ("TE chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n", CHUNKS), Refused(400)),
        (
            "TE twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Refused(400),
        ),
        ("TE identity", post("Transfer-Encoding: identity\r\n", ""), Refused(400)),
        ("TE chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", CHUNKS), Refused(400)),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", CHUNKS), Refused(400)),
        ("TE quoted", post("Transfer-Encoding: \"chunked\"\r\n", CHUNKS), Refused(400)),
        ("TE with parameter", post("Transfer-Encoding: chunked;a=b\r\n", CHUNKS), Refused(400)),
        ("TE with vertical tab", post("Transfer-Encoding: \u{b}chunked\r\n", CHUNKS), Refused(400)),
        ("TE with space before colon", post("Transfer-Encoding : chunked\r\n", CHUNKS), Refused(400)),
        ("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", CHUNKS), Refused(400)),
        ("TE empty", post("Transfer-Encoding: \r\n", ""), Refused(400)),
        (
            "TE with underscore",
            post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "hello"),
            Clean(&["Transfer_"]),
        ),
        ("TE upper case", post("TRANSFER-ENCODING: CHUNKED\r\n", CHUNKS), Clean(&["CHUNKED"])),
        (
            "TE in 1.0",
            raw(
                "POST /v HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
            Refused(400),
        ),
        // Chunks
        (
            "chunk extension",
            post("Transfer-Encoding: chunked\r\n", "5;x=y\r\nhello\r\n0;z\r\n\r\n"),
            Clean(&[";x", ";z"]),
        ),
        (
            "huge chunk extension",
            post("Transfer-Encoding: chunked\r\n", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(5000))),
            Refused(400),
        ),
        ("chunk with bare LF", post("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n"), Refused(400)),
        (
            "chunk size with 0x",
            post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size negative",
            post("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size with space",
            post("Transfer-Encoding: chunked\r\n", "5 \r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size overflow",
            post("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        ("chunk without CRLF", post("Transfer-Encoding: chunked\r\n", "5\r\nhello0\r\n\r\n"), Refused(400)),
        (
            "chunk extension with LF",
            post("Transfer-Encoding: chunked\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "trailer Content-Length",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nContent-Length: 3\r\nX-T: 1\r\n\r\n"),
            Clean(&["Content-Length", "X-T"]),
        ),
        (
            "trailer with NUL",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nA: \0\r\n\r\n"),
            Refused(400),
        ),
        // Lines
        ("bare LF everywhere", raw("GET /v HTTP/1.1\nHost: app.test\n\n"), Refused(400)),
        ("bare LF in one field", get("A: b\nC: d\r\n"), Refused(400)),
        ("bare CR in a value", get("A: b\rC: d\r\n"), Refused(400)),
        ("obs-fold", get("A: b\r\n c\r\n"), Refused(400)),
        ("obs-fold with tab", get("A: b\r\n\tc\r\n"), Refused(400)),
        (
            "fold before the first field",
            raw("GET /v HTTP/1.1\r\n X: y\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("NUL in a value", get("A: b\0c\r\n"), Refused(400)),
        ("NUL in a name", get("A\0: b\r\n"), Refused(400)),
        ("DEL in a value", get("A: b\x7fc\r\n"), Refused(400)),
        ("space in a name", get("A b: c\r\n"), Refused(400)),
        ("no colon", get("Abc\r\n"), Refused(400)),
        ("empty name", get(": b\r\n"), Refused(400)),
        ("one empty line first", format!("\r\n{}", get("")), Clean(&[])),
        ("two empty lines first", format!("\r\n\r\n{}", get("")), Refused(400)),
        // Request line
        ("HTTP/0.9", raw("GET /v\r\n\r\n"), Refused(400)),
        ("HTTP/2.0", raw("GET /v HTTP/2.0\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("HTTP/1.2", raw("GET /v HTTP/1.2\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("lower-case version", raw("GET /v http/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("h2 preface", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Refused(400)),
        ("space in target", raw("GET /v w HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("two spaces", raw("GET  /v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("tab as separator", raw("GET\t/v\tHTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("NUL in target", raw("GET /v\0 HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("fragment in target", raw("GET /v#x HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("relative target", raw("GET v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        (
            "absolute form, same host",
            raw("GET http://app.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Clean(&["http://"]),
        ),
        (
            "absolute form, other host",
            raw("GET http://other.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "absolute form, user info",
            raw("GET http://app.test@other.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("CONNECT", raw("CONNECT app.test:80 HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(405)),
        ("TRACE", raw("TRACE /v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(405)),
        ("method with a slash", raw("GE/T /v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        // Host
        ("no Host", raw("GET /v HTTP/1.1\r\n\r\n"), Refused(400)),
        ("two Hosts", get("Host: app.test\r\n"), Refused(400)),
        ("Host list", raw("GET /v HTTP/1.1\r\nHost: app.test, other.test\r\n\r\n"), Refused(400)),
        ("Host with path", raw("GET /v HTTP/1.1\r\nHost: app.test/x\r\n\r\n"), Refused(400)),
        ("Host with user info", raw("GET /v HTTP/1.1\r\nHost: x@app.test\r\n\r\n"), Refused(400)),
        ("Host empty", raw("GET /v HTTP/1.1\r\nHost:\r\n\r\n"), Refused(400)),
        ("Host with bad port", raw("GET /v HTTP/1.1\r\nHost: app.test:x\r\n\r\n"), Refused(400)),
        ("Host unknown", raw("GET /v HTTP/1.1\r\nHost: nobody.test\r\n\r\n"), Closed),
        // Hop by hop
        (
            "Connection names framing",
            post("Connection: Content-Length, Host, X-A\r\nX-A: 1\r\nContent-Length: 5\r\n", "hello"),
            Clean(&["X-A", "Connection"]),
        ),
        (
            "Connection names TE",
            post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Clean(&["Connection"]),
        ),
        (
            "Connection names X-Forwarded-For",
            get("Connection: X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\n"),
            Clean(&["6.6.6.6", "Connection"]),
        ),
        (
            "Upgrade h2c",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            Clean(&["h2c", "HTTP2-Settings", "Upgrade"]),
        ),
        (
            "Upgrade list",
            get("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
            Clean(&["h2c", "Upgrade"]),
        ),
        ("Upgrade without Connection", get("Upgrade: websocket\r\n"), Clean(&["Upgrade"])),
        (
            "Upgrade with a body",
            post("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "hello"),
            Clean(&["Upgrade"]),
        ),
        (
            "Upgrade GET with a body",
            get("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n") + "hello",
            Refused(400),
        ),
        (
            "Proxy and TE fields",
            get("Proxy: http://evil\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\n"),
            Clean(&["evil", "TE:", "Keep-Alive"]),
        ),
        (
            "forged forwarding",
            get(
                "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Ssl: on\r\n",
            ),
            Clean(&["6.6.6.6", "Ssl"]),
        ),
        ("Expect something else", post("Expect: 200-maybe\r\nContent-Length: 5\r\n", "hello"), Refused(417)),
        // Limits
        (
            "URI of 17 KiB",
            raw(&format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "a".repeat(17 * 1024))),
            Refused(414),
        ),
        ("field of 65 KiB", get(&format!("A: {}\r\n", "a".repeat(66 * 1024))), Refused(431)),
        ("101 fields", get(&"A: b\r\n".repeat(100)), Refused(431)),
    ]
}

#[test]
fn every_vector_is_refused_or_forwarded_clean() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(&body);
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut failures = Vec::new();
    let all = vectors();
    let number = all.len();
    for (name, request, fate) in all {
        origin.received.lock().unwrap().clear();
        // What a smuggler hopes to get through as a request of its own.
        let mut client = proxy.client();
        client.send(&request);
        let reply = client.reply("GET");
        let seen = origin.text();
        let verdict = match fate {
            Refused(status) if reply.status == status => {
                // A malformed body is found while its head is on the way; the request must not be completed.
                let done = seen.contains("\r\n\r\n") && field(&seen, "transfer-encoding").is_none();
                (done || seen.contains("0\r\n\r\n")).then(|| "the origin got a whole request".to_owned())
            }
            Closed if reply.status == 0 => (!seen.is_empty()).then(|| "the origin got something".to_owned()),
            Clean(absent) if reply.status == 200 => judge(&seen, absent),
            _ => Some(format!("answered {}", reply.status)),
        };
        if let Some(verdict) = verdict {
            failures.push(format!("{name}: {verdict}; the origin saw {seen:?}"));
        }
    }
    assert!(failures.is_empty(), "{} of {number} vectors failed:\n{}", failures.len(), failures.join("\n"));
}

fn judge(seen: &str, absent: &[&str]) -> Option<String> {
    let count = |name: &str| {
        let head = seen.split("\r\n\r\n").next().unwrap_or("");
        let has = |line: &&str| line.split(':').next().is_some_and(|key| key.eq_ignore_ascii_case(name));
        head.lines().skip(1).filter(has).count()
    };
    if seen.matches(" HTTP/1.1\r\n").count() != 1 {
        return Some("not exactly one request".to_owned());
    }
    if count("host") != 1 || count("x-forwarded-for") != 1 {
        return Some("not exactly one Host and X-Forwarded-For".to_owned());
    }
    if count("content-length") + count("transfer-encoding") > 1 {
        return Some("more than one framing".to_owned());
    }
    if seen.contains("\r\n ")
        || seen.contains("\r\n\t")
        || seen.replace("\r\n", "").contains(['\r', '\n', '\0'])
    {
        return Some("folds or control bytes".to_owned());
    }
    absent.iter().find(|text| seen.contains(**text)).map(|text| format!("{text:?} got through"))
}

#[test]
fn a_second_request_behind_an_ambiguous_first_never_arrives() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";
    for first in [
        "POST /v HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "POST /v HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n",
        "GET /v HTTP/1.1\nHost: app.test\n\n",
        "GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(format!("{first}{smuggled}"));
        let reply = client.reply("POST");
        assert!(matches!(reply.status, 0 | 400), "{first:?} was answered {}", reply.status);
        assert!(client.is_closed(), "{first:?} must end the connection");
    }
    assert_eq!(origin.text(), "");
}

#[test]
fn a_request_is_the_same_wherever_it_is_split() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(&body);
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let request = b"POST /split HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nT: x\r\n\r\n";
    for at in 1..request.len() {
        let mut client = proxy.client();
        client.send(&request[..at]);
        std::thread::sleep(std::time::Duration::from_millis(1)); // two segments: there is no condition to wait for
        client.send(&request[at..]);
        let reply = client.reply("POST");
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello world"), "split at {at}");
    }
}
