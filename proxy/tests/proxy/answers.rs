//! Hostile and broken apps: whatever one sends, a client gets one whole answer or a connection that is cut, and nothing
//! of it reaches another request.

use crate::origin::{Origin, Peer};
use crate::proxy::{Client, Reply, Running, one, quick, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the client gets.
enum Fate {
    /// The proxy's own page with this status.
    Page(u16),
    /// The app's answer: this body, whole, and none of these texts in the head.
    Whole(&'static str, &'static [&'static str]),
    /// A head, and then an end that can be told from a right one.
    Cut,
}
use Fate::{Cut, Page, Whole};

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// A name, the rule, what the app sends before it closes, and what must become of it.
fn vectors() -> Vec<(&'static str, &'static str, String, Fate)> {
    let ok = |rest: &str| format!("{OK}{rest}");
    let raw = str::to_owned;
    vec![
        // Framing
        (
            "CL and TE",
            "RFC 9112 §6.3",
            ok("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            Whole("ok", &["Content-Length"]),
        ),
        (
            "two equal CL",
            "RFC 9112 §6.3",
            ok("Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
            Whole("ok", &[]),
        ),
        (
            "two different CL",
            "RFC 9112 §6.3",
            ok("Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
            Page(502),
        ),
        ("CL list", "RFC 9112 §6.3", ok("Content-Length: 2, 2\r\n\r\nok"), Page(502)),
        ("CL negative", "RFC 9110 §8.6", ok("Content-Length: -2\r\n\r\nok"), Page(502)),
        ("CL with plus", "RFC 9110 §8.6", ok("Content-Length: +2\r\n\r\nok"), Page(502)),
        ("CL huge", "RFC 9110 §8.6", ok("Content-Length: 99999999999999999999\r\n\r\nok"), Page(502)),
        ("CL with space before colon", "RFC 9112 §5.1", ok("Content-Length : 2\r\n\r\nok"), Page(502)),
        (
            "TE gzip, chunked",
            "RFC 9112 §6.1",
            ok("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            Page(502),
        ),
        ("TE identity", "RFC 9112 §6.1", ok("Transfer-Encoding: identity\r\n\r\nok"), Page(502)),
        (
            "TE twice",
            "RFC 9112 §6.1",
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            Page(502),
        ),
        ("CL longer than the body", "RFC 9112 §8", ok("Content-Length: 5\r\n\r\nok"), Cut),
        (
            "CL shorter than the body",
            "RFC 9112 §6.3",
            ok("Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\npoison"),
            Whole("ok", &[]),
        ),
        ("no length", "RFC 9112 §6.3", ok("\r\nok"), Whole("ok", &[])),
        ("no length in 1.0", "RFC 9112 §6.3", raw("HTTP/1.0 200 OK\r\n\r\nok"), Whole("ok", &[])),
        // Chunks
        (
            "chunks with bare LF",
            "RFC 9112 §7.1",
            ok("Transfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n"),
            Page(502),
        ),
        (
            "chunk size rubbish",
            "RFC 9112 §7.1",
            ok("Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
            Page(502),
        ),
        (
            "chunk size overflow",
            "RFC 9112 §7.1",
            ok("Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n"),
            Page(502),
        ),
        ("chunks that end early", "RFC 9112 §8", ok("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), Cut),
        (
            "chunk extensions and trailers",
            "RFC 9112 §7.1.1",
            ok(
                "Trailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n",
            ),
            Whole("ok", &["Trailer", "X-T"]),
        ),
        // Fields
        (
            "CR in a value",
            "RFC 9112 §2.2",
            ok("A: b\rSet-Cookie: evil\r\nContent-Length: 2\r\n\r\nok"),
            Page(502),
        ),
        ("NUL in a value", "RFC 9110 §5.5", ok("A: b\0c\r\nContent-Length: 2\r\n\r\nok"), Page(502)),
        ("escape in a value", "RFC 9110 §5.5", ok("A: b\x1b[2J\r\nContent-Length: 2\r\n\r\nok"), Page(502)),
        ("folded field", "RFC 9112 §5.2", ok("A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"), Page(502)),
        ("space in a name", "RFC 9112 §5.1", ok("A b: c\r\nContent-Length: 2\r\n\r\nok"), Page(502)),
        ("no colon", "RFC 9112 §5", ok("Abc\r\nContent-Length: 2\r\n\r\nok"), Page(502)),
        (
            "101 fields",
            "RFC 9110 §5.4",
            ok(&("A: b\r\n".repeat(101) + "Content-Length: 2\r\n\r\nok")),
            Page(502),
        ),
        (
            "a head of 70 KiB",
            "RFC 9110 §5.4",
            ok(&format!("A: {}\r\n\r\nok", "a".repeat(70 * 1024))),
            Page(502),
        ),
        ("a head without end", "RFC 9112 §8", ok("A: b\r\n"), Page(502)),
        (
            "hop-by-hop fields",
            "RFC 9110 §7.6.1",
            ok(
                "Connection: X-Hop, Set-Cookie\r\nX-Hop: 1\r\nSet-Cookie: a=b\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nContent-Length: 2\r\n\r\nok",
            ),
            Whole("ok", &["X-Hop", "Set-Cookie", "Keep-Alive", "Proxy-Connection"]),
        ),
        // Status line
        ("another protocol", "RFC 9112 §4", raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"), Page(502)),
        ("HTTP/2", "RFC 9112 §2.3", raw("HTTP/2 200 OK\r\n\r\nok"), Page(502)),
        ("status of two digits", "RFC 9112 §4", raw("HTTP/1.1 20 OK\r\n\r\nok"), Page(502)),
        ("status 099", "RFC 9110 §15", raw("HTTP/1.1 099 X\r\n\r\nok"), Page(502)),
        ("status with a sign", "RFC 9112 §4", raw("HTTP/1.1 +20 X\r\n\r\nok"), Page(502)),
        ("no status", "RFC 9112 §4", raw("HTTP/1.1 \r\n\r\nok"), Page(502)),
        (
            "control byte in the reason",
            "RFC 9112 §4",
            raw("HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok"),
            Page(502),
        ),
        ("no reason", "RFC 9112 §4", raw("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"), Whole("ok", &[])),
        ("nothing at all", "RFC 9112 §8", raw(""), Page(502)),
        // Interim answers
        (
            "a body behind 100",
            "RFC 9110 §15.2",
            raw(
                "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ),
            Page(502),
        ),
        (
            "100 that nobody waits for",
            "RFC 9110 §10.1.1",
            raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Whole("ok", &[]),
        ),
        (
            "a flood of interim answers",
            "RFC 9110 §15.2",
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000),
            Page(502),
        ),
        (
            "101 that nobody asked for",
            "RFC 9110 §15.2.2",
            raw(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\npoison",
            ),
            Page(502),
        ),
        (
            "101 to h2c",
            "RFC 9110 §7.8",
            raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\npoison"),
            Page(502),
        ),
    ]
}

/// Reads over interim answers, which some vectors bring.
fn last(client: &mut Client) -> Reply {
    loop {
        let reply = client.reply("GET");
        if reply.status == 0 || reply.status >= 200 {
            return reply;
        }
    }
}

#[test]
fn every_answer_is_whole_refused_or_cut() {
    let answers: Arc<Vec<String>> = Arc::new(vectors().into_iter().map(|(_, _, answer, _)| answer).collect());
    let origin = Origin::start(move |peer| {
        // One answer a connection, then its end.
        let Some(head) = peer.head() else { return };
        let number: usize = head.split(' ').nth(1).unwrap().trim_start_matches('/').parse().unwrap();
        peer.say(&answers[number]);
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut failures = Vec::new();
    for (number, (name, rule, _, fate)) in vectors().into_iter().enumerate() {
        let mut client = proxy.client();
        // Not to be sent twice: a POST is not, whatever the app does.
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n"));
        let reply = last(&mut client);
        let verdict = match fate {
            Page(status) => (reply.status != status || reply.text().contains("poison"))
                .then(|| format!("not a {status} of our own")),
            Cut => (reply.status != 200 || reply.complete).then(|| "it seems whole".to_owned()),
            Whole(body, absent) => {
                let wrong = reply.status != 200 || !reply.complete || reply.text() != body;
                let leaked = absent.iter().find(|text| reply.head.contains(**text));
                let framings = [reply.field("content-length"), reply.field("transfer-encoding")];
                let both = framings.iter().flatten().count() > 1;
                (wrong || both || leaked.is_some()).then(|| format!("not the answer (leaked {leaked:?})"))
            }
        };
        if let Some(verdict) = verdict {
            failures.push(format!(
                "{name} ({rule}): {verdict}: {} {:?} {:?}",
                reply.status,
                reply.head,
                reply.text()
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn answers_without_content_never_bring_any() {
    // RFC 9110 §9.3.2, §15.3.5, §15.4.5: what an app sends behind such a head is no part of it, and poisons nothing.
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let status = head.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
            peer.say(format!("HTTP/1.1 {status} X\r\nContent-Length: 6\r\n\r\npoison"));
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let mut client = proxy.client();
        for _ in 0..3 {
            client.send(format!("{method} /{status} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
            assert_eq!(client.reply(method).status, status);
        }
        client.send("GET /200 HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(client.reply("GET").text(), "poison", "only where it is the content");
    }
}

#[test]
fn what_an_idle_connection_says_is_nobodys_answer() {
    let said = Arc::new(AtomicUsize::new(0));
    let counter = said.clone();
    let origin = Origin::start(move |peer: &mut Peer| {
        if peer.head().is_some() {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            std::thread::sleep(Duration::from_millis(50)); // the connection is idle by then
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            counter.fetch_add(1, Ordering::SeqCst);
            while peer.fill() {}
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    for number in 1..=5 {
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(client.reply("GET").text(), "ok");
        until("the app has said too much", || said.load(Ordering::SeqCst) >= number);
    }
    assert_eq!(origin.count(), 5, "no such connection is used again");
}

#[test]
fn an_app_that_drips_is_given_its_time_and_no_more_memory() {
    let origin = Origin::start(|peer| {
        if let Some(head) = peer.head() {
            if head.contains("/head") {
                peer.say("HTTP/1.1 200 OK\r\nA: b");
            } else {
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            }
            while peer.fill() {}
        }
    });
    let proxy = Running::start_with(&one("app.test", origin.address), quick());
    let began = Instant::now();
    assert_eq!(proxy.get("app.test", "/head").status, 504, "RFC 9110 §15.6.5");
    let half = proxy.get("app.test", "/body");
    assert!(half.status == 200 && !half.complete);
    assert!(began.elapsed() < quick().progress * 8);
}

#[test]
fn a_websocket_is_passed_on_byte_for_byte() {
    // RFC 6455 §5.2: frames of every kind, masked, fragmented, with reserved bits and broken ones: none of our business.
    let origin = Origin::start(|peer| {
        if peer.head().is_some() {
            peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            loop {
                let bytes = std::mem::take(&mut peer.pending);
                peer.say(bytes);
                if !peer.fill() {
                    return;
                }
            }
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    let ask = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Frames sent ahead of the 101 are held until it comes, and then passed on (§4.1 forbids them, but loses nothing).
    let first = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]; // §5.7: a masked "Hello"
    client.send([ask.as_bytes(), &first].concat());
    assert_eq!(client.head().unwrap().0, 101);
    assert_eq!(client.take(first.len()), first);
    let mut frames: Vec<Vec<u8>> = vec![
        vec![0x01, 0x03, 0x48, 0x65, 0x6c],             // §5.7: a fragment, unmasked
        vec![0x80, 0x02, 0x6c, 0x6f],                   // and its end
        vec![0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], // a ping
        vec![0xff, 0xff, 0xff, 0xff],                   // nonsense
        b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec(),
        b"0\r\n\r\n".to_vec(),
        (0..=255).collect(),
    ];
    frames.push([&[0x82, 0x7e, 0x01, 0x00][..], &[0; 256]].concat()); // §5.7: 256 bytes
    frames.push([&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 65536]].concat()); // §5.7: 64 KiB
    for frame in &frames {
        client.send(frame);
        assert_eq!(&client.take(frame.len()), frame);
    }
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.is_closed());
}
