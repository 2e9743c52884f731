//! HTTP/2 frames no library would send: what RFC 9113 wants refused, and the floods of recent years.

use crate::origin::Origin;
use crate::proxy::{Running, one, quick};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

fn integer(mut value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        return out.push(u8::try_from(value).unwrap());
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push(u8::try_from(value % 128 + 128).unwrap());
        value /= 128;
    }
    out.push(u8::try_from(value).unwrap());
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<u8> {
    block(&[&GET[..], more].concat())
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block(&GET))
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[(":method", "POST")], &GET[1..], more].concat();
    frame(HEADERS, END_HEADERS, stream, block(&fields))
}

/// What the proxy said to one attempt.
#[derive(Clone, Debug, Default)]
struct Heard {
    goaway: Option<u32>,
    resets: Vec<(u32, u32)>,
    heads: Vec<u32>,
    acked_pings: usize,
    closed: bool,
}

struct Raw {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Raw {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut raw = Self { stream, pending: Vec::new() };
        raw.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        raw.say(frame(SETTINGS, 0, 0, b""));
        raw
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut space = [0; 65536];
        loop {
            if self.pending.len() >= 9 {
                let length =
                    u32::from_be_bytes([0, self.pending[0], self.pending[1], self.pending[2]]) as usize;
                if self.pending.len() >= 9 + length {
                    let frame: Vec<u8> = self.pending.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes(frame[5..9].try_into().unwrap());
                    return Some((frame[3], frame[4], stream, frame[9..].to_vec()));
                }
            }
            match self.stream.read(&mut space) {
                Ok(count) if count > 0 => self.pending.extend_from_slice(&space[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing came for 10 s")
                }
                _ => return None,
            }
        }
    }

    /// Listens until `enough`, or the end.
    fn listen(&mut self, enough: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = Heard::default();
        while !enough(&heard) {
            let Some((kind, flags, stream, payload)) = self.frame() else {
                heard.closed = true;
                break;
            };
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match kind {
                GOAWAY if heard.goaway.is_none_or(|code| code == 0) => heard.goaway = Some(code(4)),
                RST_STREAM => heard.resets.push((stream, code(0))),
                HEADERS => heard.heads.push(stream),
                PING if flags & 1 != 0 => heard.acked_pings += 1,
                _ => {}
            }
        }
        heard
    }
}

/// What must come of a case.
enum Must {
    /// The connection ends with one of these codes: PROTOCOL_ERROR stands for a more specific one (RFC 9113 §7), and an
    /// error of a stream may be taken for one of the connection (§5.4.1).
    End(&'static [u32]),
    /// Only the stream ends.
    Reset(u32),
    Answer,
}

fn plain() -> Origin {
    Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.contains("hunked") {
                peer.body(&head);
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
        }
    })
}

#[test]
fn mistakes_end_what_rfc_9113_says_they_end() {
    use Must::{Answer, End, Reset};
    let origin = plain();
    let mut proxy = Running::start_with(&one("a.test", origin.address), quick());
    let open = |stream| frame(HEADERS, END_HEADERS, stream, block(&GET));
    let bad = |fields: Vec<u8>| frame(HEADERS, END_STREAM | END_HEADERS, 1, fields);
    let settings =
        |id: u16, value: u32| frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    let three = |a: Vec<u8>, b: Vec<u8>, c: Vec<u8>| [a, b, c].concat();
    let none = Vec::new;
    let cases: Vec<(&str, Vec<u8>, Must)> = vec![
        ("a request", get(1), Answer),
        ("4.1: unknown frames are ignored", three(frame(0x16, 0xff, 0, b"12345678"), get(1), none()), Answer),
        (
            "4.2: a frame larger than was offered",
            frame(DATA, 0, 1, vec![0; 16_385]),
            End(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "4.3: a field block that does not decode",
            bad(vec![0xff; 20]),
            End(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        ("4.3: an index that is not there", bad(vec![0xc6]), End(&[COMPRESSION_ERROR, PROTOCOL_ERROR])),
        ("5.1: DATA on an idle stream", frame(DATA, 0, 1, b"x"), End(&[PROTOCOL_ERROR, STREAM_CLOSED])),
        ("5.1: RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, [0; 4]), End(&[PROTOCOL_ERROR])),
        (
            "5.1: WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1]),
            End(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1: CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, b""),
            End(&[PROTOCOL_ERROR]),
        ),
        ("5.1.1: an even stream", get(2), End(&[PROTOCOL_ERROR])),
        (
            "5.1.1: a stream below the last",
            three(get(5), get(3), none()),
            End(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        ("5.3.1: PRIORITY is ignored", three(frame(PRIORITY, 0, 3, [0, 0, 0, 0, 9]), get(1), none()), Answer),
        ("6.1: DATA on stream 0", frame(DATA, 0, 0, b"x"), End(&[PROTOCOL_ERROR])),
        (
            "6.1: padding longer than the frame",
            three(open(1), frame(DATA, PADDED, 1, [9, 1]), none()),
            End(&[PROTOCOL_ERROR]),
        ),
        ("6.2: HEADERS on stream 0", frame(HEADERS, END_HEADERS, 0, block(&GET)), End(&[PROTOCOL_ERROR])),
        (
            "6.2: padding longer than the block",
            frame(HEADERS, END_HEADERS | PADDED, 1, [9, 1]),
            End(&[PROTOCOL_ERROR]),
        ),
        ("6.3: PRIORITY on stream 0", frame(PRIORITY, 0, 0, [0; 5]), End(&[PROTOCOL_ERROR])),
        ("6.4: RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, [0; 4]), End(&[PROTOCOL_ERROR])),
        (
            "6.4: RST_STREAM of 3 bytes",
            three(open(1), frame(RST_STREAM, 0, 1, [0; 3]), none()),
            End(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        ("6.5: SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), End(&[PROTOCOL_ERROR])),
        ("6.5: SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, [0; 3]), End(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR])),
        (
            "6.5: an acknowledgement with a payload",
            frame(SETTINGS, 1, 0, [0; 6]),
            End(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        ("6.5.2: ENABLE_PUSH of 2", settings(2, 2), End(&[PROTOCOL_ERROR])),
        ("6.5.2: a window of 2^31", settings(4, 1 << 31), End(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR])),
        ("6.5.2: frames smaller than allowed", settings(5, 100), End(&[PROTOCOL_ERROR])),
        ("6.5.2: an unknown setting is ignored", three(settings(99, 1), get(1), none()), Answer),
        (
            "6.6: PUSH_PROMISE of a client",
            frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2]),
            End(&[PROTOCOL_ERROR]),
        ),
        ("6.7: PING on a stream", frame(PING, 0, 1, [0; 8]), End(&[PROTOCOL_ERROR])),
        ("6.7: PING of 6 bytes", frame(PING, 0, 0, [0; 6]), End(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR])),
        ("6.8: GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), End(&[PROTOCOL_ERROR])),
        ("6.9: a window that grows by 0", frame(WINDOW_UPDATE, 0, 0, [0; 4]), End(&[PROTOCOL_ERROR])),
        (
            "6.9: a stream's window that grows by 0",
            three(open(1), frame(WINDOW_UPDATE, 0, 1, [0; 4]), none()),
            End(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9: WINDOW_UPDATE of 3 bytes",
            frame(WINDOW_UPDATE, 0, 0, [0; 3]),
            End(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.9.1: a window beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0xff, 0xff]),
            End(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.9.1: a stream's window beyond 2^31",
            three(open(1), frame(WINDOW_UPDATE, 0, 1, [0x7f, 0xff, 0xff, 0xff]), none()),
            Reset(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10: another frame within a field block",
            three(frame(HEADERS, END_STREAM, 1, block(&GET)), frame(PING, 0, 0, [0; 8]), none()),
            End(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10: a field block in parts",
            three(
                frame(HEADERS, END_STREAM, 1, &block(&GET)[..9]),
                frame(CONTINUATION, END_HEADERS, 1, &block(&GET)[9..]),
                none(),
            ),
            Answer,
        ),
        ("8.1: a second HEADERS without the end", three(open(1), open(1), none()), Reset(PROTOCOL_ERROR)),
        (
            "8.1: trailers with a pseudo-field",
            three(post(1, &[]), frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&[(":x", "y")])), none()),
            End(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1.1: less than Content-Length",
            three(post(1, &[("content-length", "3")]), frame(DATA, END_STREAM, 1, b"x"), none()),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "8.1.1: more than Content-Length",
            three(post(1, &[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"xyz"), none()),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.1.1: a Content-Length and no body", bad(with(&[("content-length", "1")])), Reset(PROTOCOL_ERROR)),
        (
            "8.1.1: two Content-Length",
            post(1, &[("content-length", "1"), ("content-length", "2")]),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.2.1: upper case", bad(with(&[("X-A", "b")])), End(&[PROTOCOL_ERROR])),
        ("8.2.1: a blank in a name", bad(with(&[("x a", "b")])), End(&[PROTOCOL_ERROR])),
        ("8.2.1: a colon in a name", bad(with(&[("x:a", "b")])), End(&[PROTOCOL_ERROR])),
        ("8.2.1: CR LF in a value", bad(with(&[("x-a", "b\r\nx: y")])), End(&[PROTOCOL_ERROR])),
        ("8.2.1: NUL in a value", bad(with(&[("x-a", "b\0")])), End(&[PROTOCOL_ERROR])),
        ("8.2.2: connection", bad(with(&[("connection", "close")])), Reset(PROTOCOL_ERROR)),
        ("8.2.2: keep-alive", bad(with(&[("keep-alive", "1")])), Reset(PROTOCOL_ERROR)),
        ("8.2.2: proxy-connection", bad(with(&[("proxy-connection", "x")])), Reset(PROTOCOL_ERROR)),
        ("8.2.2: transfer-encoding", bad(with(&[("transfer-encoding", "chunked")])), Reset(PROTOCOL_ERROR)),
        ("8.2.2: upgrade", bad(with(&[("upgrade", "h2c")])), Reset(PROTOCOL_ERROR)),
        ("8.2.2: te other than trailers", bad(with(&[("te", "gzip")])), Reset(PROTOCOL_ERROR)),
        ("8.3: an unknown pseudo-field", bad(with(&[(":x", "y")])), End(&[PROTOCOL_ERROR])),
        ("8.3: a pseudo-field of answers", bad(with(&[(":status", "200")])), Reset(PROTOCOL_ERROR)),
        (
            "8.3: a pseudo-field after the others",
            bad(block(&[GET[0], GET[1], GET[2], ("x", "y"), GET[3]])),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.3.1: a pseudo-field twice", bad(with(&[GET[2]])), Reset(PROTOCOL_ERROR)),
        ("8.3.1: no method", bad(block(&GET[1..])), Reset(PROTOCOL_ERROR)),
        ("8.3.1: no scheme", bad(block(&[GET[0], GET[2], GET[3]])), Reset(PROTOCOL_ERROR)),
        ("8.3.1: no path", bad(block(&[GET[0], GET[1], GET[3]])), Reset(PROTOCOL_ERROR)),
        ("8.3.1: an empty path", bad(block(&[GET[0], GET[1], (":path", ""), GET[3]])), Reset(PROTOCOL_ERROR)),
        (
            "8.3.1: a blank in the path",
            bad(block(&[GET[0], GET[1], (":path", "/a b"), GET[3]])),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "8.3.1: a blank in the method",
            bad(block(&[(":method", "G ET"), GET[1], GET[2], GET[3]])),
            End(&[PROTOCOL_ERROR]),
        ),
        ("8.3.1: no authority", bad(block(&GET[..3])), Reset(PROTOCOL_ERROR)),
        (
            "8.3.1: an authority with a user",
            bad(block(&[GET[0], GET[1], GET[2], (":authority", "u@a.test")])),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.3.1: another Host", bad(with(&[("host", "b.test")])), Reset(PROTOCOL_ERROR)),
        ("8.3.1: two Host", bad(with(&[("host", "a.test"), ("host", "a.test")])), Reset(PROTOCOL_ERROR)),
        ("8.3.1: the same Host", bad(with(&[("host", "a.test")])), Answer),
        (
            "8.5: CONNECT with a path",
            bad(block(&[(":method", "CONNECT"), GET[1], GET[2], GET[3]])),
            Reset(PROTOCOL_ERROR),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, frames, must) in cases {
        let mut raw = Raw::connect(proxy.address);
        raw.say(frames);
        let heard = raw.listen(|heard| {
            let stream = !heard.resets.is_empty() || !heard.heads.is_empty();
            heard.goaway.is_some_and(|code| code != 0) || (stream && !matches!(must, End(_)))
        });
        let right = match must {
            End(codes) => heard.goaway.is_some_and(|code| codes.contains(&code)),
            Reset(code) => heard.resets == [(1, code)] && heard.goaway.is_none(),
            Answer => heard.heads == [1] && heard.resets.is_empty() && heard.goaway.is_none(),
        };
        if !right {
            wrong.push(format!("{name}: {heard:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let text = origin.text();
    assert!(!text.contains("x: y") && !text.contains("b.test"), "{text}");
    proxy.stop();
}

#[test]
fn a_ping_is_answered_and_a_bad_preface_is_not() {
    let mut proxy = Running::start_with(&one("a.test", plain().address), quick());
    let mut raw = Raw::connect(proxy.address);
    raw.say(frame(PING, 0, 0, b"12345678"));
    assert_eq!(raw.listen(|heard| heard.acked_pings > 0).acked_pings, 1);
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut left = Vec::new();
    let _ = stream.read_to_end(&mut left);
    assert!(!left.starts_with(b"HTTP"), "{left:?}");
    proxy.stop();
}

/// An origin that never answers and knows how many requests it has at once, at most and in all.
struct Slow {
    origin: Origin,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

fn slow() -> Slow {
    let now = Arc::new(Mutex::new(0_usize));
    let (most, all): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let (peak, total) = (most.clone(), all.clone());
    let origin = Origin::start(move |peer| {
        if peer.head().is_none() {
            return;
        }
        total.fetch_add(1, Ordering::SeqCst);
        {
            let mut now = now.lock().unwrap();
            *now += 1;
            peak.fetch_max(*now, Ordering::SeqCst);
        }
        while peer.fill() {}
        *now.lock().unwrap() -= 1;
    });
    Slow { origin, most, all }
}

/// Sends `attack` over and over, reading meanwhile; what was heard, and how often it was sent.
fn flood(address: SocketAddr, most: usize, attack: impl Fn(u32) -> Vec<u8>) -> (Heard, usize) {
    let mut raw = Raw::connect(address);
    let mut reading = Raw { stream: raw.stream.try_clone().unwrap(), pending: Vec::new() };
    let reader =
        std::thread::spawn(move || reading.listen(|heard| heard.goaway.is_some_and(|code| code != 0)));
    let mut sent = 0;
    for n in 0..most {
        if reader.is_finished() || !raw.say(attack(u32::try_from(n).unwrap() * 2 + 1)) {
            break;
        }
        sent += 1;
    }
    let heard = reader.join().unwrap();
    (heard, sent)
}

#[test]
fn resets_are_bounded_whoever_makes_them() {
    let slow = slow();
    let mut proxy = Running::start(&one("a.test", slow.origin.address));
    let rapid = |stream| [get(stream), frame(RST_STREAM, 0, stream, [0, 0, 0, 8])].concat();
    let (heard, _) = flood(proxy.address, 100_000, rapid);
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "rapid reset: {heard:?}");
    let made = |stream| [get(stream), frame(WINDOW_UPDATE, 0, stream, [0x7f, 0xff, 0xff, 0xff])].concat();
    let (heard, _) = flood(proxy.address, 100_000, made);
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "made you reset: {heard:?}");
    assert!(heard.resets.len() <= 200, "{}", heard.resets.len());
    let (most, all) = (slow.most.load(Ordering::SeqCst), slow.all.load(Ordering::SeqCst));
    assert!(most <= 200 && all <= 500, "{most} at once, {all} in all");
    proxy.stop();
}

#[test]
fn a_hundred_streams_are_served_at_once_and_no_more() {
    let slow = slow();
    let mut proxy = Running::start(&one("a.test", slow.origin.address));
    let mut raw = Raw::connect(proxy.address);
    let all: Vec<u8> = (0..150).flat_map(|n| get(2 * n + 1)).collect();
    raw.say(all);
    let heard = raw.listen(|heard| heard.resets.len() >= 50 || heard.goaway.is_some());
    assert!(heard.resets.iter().all(|(_, code)| *code == REFUSED_STREAM), "{heard:?}");
    crate::proxy::until("a hundred arrive", || slow.all.load(Ordering::SeqCst) >= 100);
    assert_eq!(slow.most.load(Ordering::SeqCst), 100);
    drop(raw);
    proxy.stop();
}

#[test]
fn floods_of_frames_end_the_connection() {
    let mut proxy = Running::start(&one("a.test", plain().address));
    type Attack = fn(u32) -> Vec<u8>;
    let attacks: [(&str, Attack); 5] = [
        ("PING", |_| frame(PING, 0, 0, [0; 8])),
        ("SETTINGS", |_| frame(SETTINGS, 0, 0, b"")),
        ("PRIORITY", |_| frame(PRIORITY, 0, 9, [0, 0, 0, 0, 1])),
        ("unknown", |_| frame(0x20, 0, 0, b"")),
        ("empty DATA", |n| match n {
            1 => frame(HEADERS, END_HEADERS, 1, block(&GET)),
            _ => frame(DATA, 0, 1, b""),
        }),
    ];
    for (name, attack) in attacks {
        let (heard, sent) = flood(proxy.address, 1_000_000, attack);
        assert!(heard.goaway == Some(ENHANCE_YOUR_CALM) || heard.closed, "{name}: {heard:?}");
        assert!(sent < 1_000_000, "{name}: never stopped");
    }
    proxy.stop();
}

#[test]
fn field_blocks_without_end_are_not_kept() {
    let mut proxy = Running::start(&one("a.test", plain().address));
    let (heard, sent) = flood(proxy.address, 10_000, |n| match n {
        1 => frame(HEADERS, END_STREAM, 1, block(&GET)),
        _ => frame(CONTINUATION, 0, 1, &with(&[("x-filler", &"a".repeat(16_000))])[40..]),
    });
    assert!(heard.closed || heard.goaway.is_some(), "{heard:?}");
    assert!(sent < 10_000);
    // One entry of the dynamic table, referred to 8000 times: 32 MB of fields in 8 KB.
    let mut bomb = block(&GET);
    bomb.push(0x40);
    for text in ["x-bomb", &"a".repeat(4000)] {
        integer(text.len(), &mut bomb);
        bomb.extend_from_slice(text.as_bytes());
    }
    bomb.extend([0xbe; 8000]);
    let mut raw = Raw::connect(proxy.address);
    raw.say(frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb));
    let heard =
        raw.listen(|heard| heard.goaway.is_some() || !heard.resets.is_empty() || !heard.heads.is_empty());
    assert!(heard.goaway.is_some() || !heard.resets.is_empty() || heard.heads == [1], "{heard:?}");
    proxy.stop();
}
