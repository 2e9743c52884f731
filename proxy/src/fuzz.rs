//! What must hold for any bytes at all: one function a parser, for fuzzers and for the tests here.
//!
//! In: bytes. Out: nothing, or a panic that says what does not hold. `fuzz/` has a target of `cargo fuzz` for each; the
//! test below runs them all for a moment, on seeds that it changes at random.

use crate::chunk::{Body, Decoder, Wrapped};
use crate::fields::{self, HeadEnd};
use crate::head::{self, Framing, Method, Origin, Request};
use crate::site_path::SitePath;
use crate::sni::{self, Hello};
use crate::table::Table;
use crate::trace_context;
use crate::{reply, static_files};
use berth_model::route::RouteTable;
use std::sync::Arc;

/// Its name, the check, and the folder of `fuzz/seeds` it begins with.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("request_head", request_head),
    ("chunked", chunked),
    ("answer_head", answer_head),
    ("route_table", route_table),
    ("field_values", field_values),
    ("site_path", site_path),
    ("proxy_protocol", proxy_protocol),
    ("client_hello", client_hello),
];

/// The bytes after the first `count`, and those.
fn split(bytes: &[u8], count: usize) -> (&[u8], &[u8]) {
    bytes.split_at(count.min(bytes.len()))
}

fn flag(bytes: &[u8], bit: u8) -> bool {
    bytes.first().is_some_and(|byte| byte & (1 << bit) != 0)
}

fn count(headers: &[httparse::Header<'_>], name: &str) -> usize {
    headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
}

/// One head, whole, without folds or control bytes, and nothing behind it.
fn check_lines(out: &[u8]) {
    let text = out.strip_suffix(b"\r\n\r\n").expect("a head ends in an empty line");
    for line in text.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.is_empty(), "a head has no empty line before its end");
        assert!(!line.starts_with(b" ") && !line.starts_with(b"\t"), "no line is folded");
        assert!(line.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f)), "no control bytes");
    }
    assert_eq!(memchr::memchr_iter(b'\n', out).count(), memchr::memmem::find_iter(out, b"\r\n").count());
}

/// A request's head: refused, or written anew as one that reads the same again, with one framing and one host.
pub fn request_head(input: &[u8]) {
    let (flags, data) = split(input, 1);
    let fresh = trace_context::begin(b"0af7651916cd43dd8448eb211c80319c", 7, flag(flags, 2));
    let origin = Origin {
        peer: "192.0.2.7",
        port: 80,
        scheme: if flag(flags, 0) { "https" } else { "http" },
        trusted: flag(flags, 1),
        now_ms: 1_700_000_000_123,
        id: b"0123456789abcdef",
        trace: Some(&fresh[..]).filter(|_| flag(flags, 3)),
        body_arrived: flag(flags, 4),
    };
    let Ok(Some(length)) = HeadEnd::default().find(data, true) else { return };
    let mut out = Vec::new();
    let Ok(request) = head::parse(&data[..length], &origin, &mut out) else { return };
    check_lines(&out);
    let mut space = [httparse::EMPTY_HEADER; 128];
    let mut again = httparse::Request::new(&mut space);
    assert_eq!(again.parse(&out), Ok(httparse::Status::Complete(out.len())));
    assert_eq!(count(again.headers, "host"), 1, "one Host (RFC 9112 §3.2)");
    let framings = count(again.headers, "content-length") + count(again.headers, "transfer-encoding");
    assert_eq!(framings, usize::from(request.framing != Framing::None), "one framing (RFC 9112 §6.3)");
    assert_eq!(count(again.headers, "upgrade"), usize::from(request.websocket), "RFC 9110 §7.8");
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "x-request-id"] {
        assert_eq!(count(again.headers, name), 1, "{name}");
    }
    for name in ["te", "keep-alive", "proxy-connection", "proxy", "trailer", "http2-settings", "forwarded"] {
        assert_eq!(count(again.headers, name), 0, "{name}");
    }
    assert!(count(again.headers, "traceparent") <= 1);
    assert_eq!(count(again.headers, "traceparent") == 1, !request.trace.is_empty());
    assert_eq!(again.method.map(str::as_bytes), out.get(request.method_text.clone()));
    assert_eq!(again.path.map(str::as_bytes), out.get(request.target.clone()));
    // Read by ourselves, as by a proxy behind this one, it is the same request.
    let mut third = Vec::new();
    let second = head::parse(&out, &origin, &mut third).expect("what we write we accept");
    assert_eq!(
        (second.framing, second.method, second.websocket),
        (request.framing, request.method, request.websocket)
    );
    for (one, other) in [
        (request.target, second.target),
        (request.host, second.host),
        (request.agent, second.agent),
        (request.referer, second.referer),
    ] {
        assert_eq!(out.get(one), third.get(other));
    }
}

/// The chunked coding, read by the book (RFC 9112 §7.1) from bytes that are all there: body and what was used.
fn by_the_book(mut rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (whole, mut body) = (rest.len(), Vec::new());
    let line = |from: &mut &[u8]| -> Option<Vec<u8>> {
        let end = memchr::memmem::find(from, b"\r\n")?;
        let line = from[..end].to_vec();
        *from = &from[end + 2..];
        Some(line)
    };
    loop {
        let size = line(&mut rest)?;
        let (digits, extension) = match size.iter().position(|b| *b == b';') {
            Some(at) => size.split_at(at),
            None => (&size[..], &b""[..]),
        };
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.is_empty()
            || !digits.bytes().all(|b| b.is_ascii_hexdigit())
            || extension.iter().any(|b| is_control(*b))
        {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let trailer = line(&mut rest)?;
        if trailer.is_empty() {
            return Some((body, whole - rest.len()));
        }
        let colon = trailer.iter().position(|b| *b == b':')?;
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if colon == 0
            || !trailer[..colon].iter().all(token)
            || trailer[colon..].iter().any(|b| is_control(*b))
        {
            return None;
        }
    }
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// The chunked coding: cuts change nothing, it means what the book says, and what is written of it reads the same.
pub fn chunked(input: &[u8]) {
    let (cuts, data) = split(input, 2);
    let run = |pieces: &[&[u8]]| {
        let (mut decoder, mut body, mut used, mut written) = (Decoder::new(), Vec::new(), 0, Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let step = decoder.decode(&mut piece).ok()?;
            body.extend_from_slice(&piece[..step.data]);
            let wrapped = Wrapped::new(step.data, true, step.done);
            for part in [wrapped.prefix(), &piece[..step.data], wrapped.suffix()] {
                written.extend_from_slice(part);
            }
            used += step.used;
            if step.done {
                return Some((body, used, written, true));
            }
        }
        Some((body, used, written, false))
    };
    let at = |cut: Option<&u8>| cut.map_or(0, |cut| usize::from(*cut) % (data.len() + 1));
    let (first, second) = (at(cuts.first()), at(cuts.get(1)));
    let (low, high) = (first.min(second), first.max(second));
    let whole = run(&[data]);
    let parts = run(&[&data[..low], &data[low..high], &data[high..]]);
    let same = |run: &Option<(Vec<u8>, usize, Vec<u8>, bool)>| {
        run.as_ref().map(|(body, used, _, done)| (body.clone(), *used, *done))
    };
    assert_eq!(same(&whole), same(&parts), "cuts change nothing");
    for (body, used, written, _) in [whole, parts].into_iter().flatten().filter(|run| run.3) {
        assert_eq!(by_the_book(data), Some((body.clone(), used)), "RFC 9112 §7.1");
        assert_eq!(by_the_book(&written), Some((body, written.len())), "what is written reads the same");
    }
}

/// An answer's head: refused, or written anew with one framing that is the one the body is read by.
pub fn answer_head(input: &[u8]) {
    let (flags, data) = split(input, 1);
    let old = flag(flags, 0);
    let method = if flag(flags, 1) { Method::Head } else { Method::Get };
    let request = Request {
        old,
        keep_alive: !flag(flags, 2),
        websocket: flag(flags, 3) && !old && method == Method::Get,
        ..Request::bare(method)
    };
    let Ok(Some(length)) = HeadEnd::default().find(data, false) else { return };
    let mut out = Vec::new();
    let Ok(reply) = reply::parse(&data[..length], &request, flag(flags, 4), &mut out) else { return };
    check_lines(&out);
    let mut space = [httparse::EMPTY_HEADER; 128];
    let mut again = httparse::Response::new(&mut space);
    assert_eq!(again.parse(&out), Ok(httparse::Status::Complete(out.len())));
    assert_eq!(again.code, Some(reply.status));
    let (lengths, codings) =
        (count(again.headers, "content-length"), count(again.headers, "transfer-encoding"));
    assert!(lengths + codings <= 1, "one framing (RFC 9112 §6.3)");
    assert_eq!(codings == 1, reply.chunked);
    if (100..200).contains(&reply.status) || reply.status == 204 {
        assert_eq!(lengths + codings, 0, "RFC 9110 §8.6, RFC 9112 §6.1");
    }
    if let (Body::Length(length), true) = (&reply.body, *length_of(&reply.body) > 0) {
        let said = again.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        assert_eq!(said.map(|field| field.value), Some(length.to_string().as_bytes()));
    }
    if matches!(reply.body, Body::UntilClose) {
        assert!(
            !reply.reusable && (reply.chunked || reply.closes),
            "an end that is the connection's is told"
        );
    }
    assert!(reply.status != 101 || request.websocket, "no tunnel that nobody asked for");
    assert!(!(reply.chunked && old), "no chunks in HTTP/1.0 (RFC 9112 §6.1)");
    for name in ["keep-alive", "proxy-connection", "te", "trailer"] {
        assert_eq!(count(again.headers, name), 0, "{name}");
    }
}

fn length_of(body: &Body) -> &u64 {
    match body {
        Body::Length(length) => length,
        Body::Chunked(_) | Body::UntilClose => &0,
    }
}

/// A route table from disk or the controller: refused, or a table that can be looked into.
pub fn route_table(input: &[u8]) {
    let (host, json) = split(input, 16);
    let Ok(routes) = serde_json::from_slice::<RouteTable>(json) else { return };
    let keep = crate::policy::keep::Keep::new();
    let first = Table::build(&routes, &Table::default(), 2, &[], &Arc::default(), &keep);
    let second = Table::build(&routes, &first, 2, &[], &Arc::default(), &keep);
    assert_eq!(first.missing_in(&second).count(), 0, "the same routes have the same backends");
    let _ = second.find(host);
    for route in &routes.http {
        let name = route.host.as_str();
        let asked = name.strip_prefix('*').map_or_else(|| name.to_owned(), |parent| format!("any{parent}"));
        assert!(second.find(asked.as_bytes()).is_some(), "{asked} is found");
    }
    let text = serde_json::to_vec(&routes).expect("a table has no failing serializers");
    assert_eq!(serde_json::from_slice::<RouteTable>(&text).ok(), Some(routes), "what is kept is read again");
}

/// Values of fields: hosts, lengths, lists, traces.
pub fn field_values(input: &[u8]) {
    if fields::is_host(input) {
        assert!(input.iter().all(|b| b.is_ascii_graphic() && !b"/@,\\%?#".contains(b)), "a host is a host");
        let mut space = [0; 256];
        let name = fields::route_host(input, &mut space).expect("it has a name");
        assert!(!name.bytes().any(|b| b.is_ascii_uppercase()));
    }
    if let Some(length) = fields::content_length(input) {
        let text = std::str::from_utf8(input).expect("digits");
        assert_eq!(text.parse::<u64>().ok(), Some(length));
    }
    for token in fields::tokens(input) {
        assert!(!token.is_empty() && !token.contains(&b','));
    }
    let _ = fields::classify(input);
    if let Some(id) = trace_context::trace_id(input) {
        assert!(id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit), "W3C Trace Context §3.2.2.3");
    }
}

/// Paths of static sites: nothing leaves the site; and the fields that choose a part or a coding of a file.
pub fn site_path(input: &[u8]) {
    static_files::fuzz(input);
    let Some(path) = SitePath::parse(input) else { return };
    let file = path.file();
    assert!(!file.starts_with(b"/") && !file.contains(&0), "a relative name");
    let climbs = |segment: &[u8]| segment.is_empty() || segment == b".." || (segment == b"." && file != b".");
    assert!(!file.split(|b| *b == b'/').any(climbs), "every segment leads down");
    let canonical = path.canonical();
    let again = SitePath::parse(canonical.as_bytes()).expect("what we write we accept");
    assert_eq!(again.file(), file);
    let slashed = path.with_slash();
    assert!(slashed.starts_with(b"/") && !slashed.starts_with(b"//"), "it names no other host");
    assert!(!slashed[..slashed.len() - path.query().len()].iter().any(|b| is_control(*b)));
}

/// Headers of the PROXY protocol.
pub fn proxy_protocol(input: &[u8]) {
    crate::proxy_protocol::fuzz(input);
}

/// A TLS client's first message: the name in it is the one rustls reads, wherever it is split.
pub fn client_hello(input: &[u8]) {
    let whole = sni::read(input);
    for end in [input.len() / 3, input.len() / 2, input.len().saturating_sub(1)] {
        let part = sni::read(&input[..end]);
        assert!(
            part == Hello::More || part == whole || whole == Hello::Malformed,
            "{part:?}, then {whole:?}"
        );
    }
    let Hello::Name(name) = whole else { return };
    let (mut acceptor, mut rest) = (rustls::server::Acceptor::default(), input);
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok() {
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                assert_eq!(theirs, name.map(|name| name.to_ascii_lowercase()), "rustls reads another name");
                return;
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// xorshift64*: the same seed, the same run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, limit: usize) -> usize {
            usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
        }
    }

    const WORDS: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\r\n\r\n",
        b": ",
        b",",
        b";",
        b" ",
        b"\t",
        b"0",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b"Host: b\r\n",
        b"Expect: 100-continue\r\n",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"http://a/",
        b"ffffffffffffffff",
        b"%2e%2e",
        b"..",
        b"/",
        b"\x7f",
        b"\xff",
        b"chunked",
        b"X-Forwarded-For: 6\r\n",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        b"tracestate: a=1\r\n",
        b"*.",
        b"[::1]",
    ];

    fn change(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len() + 1);
            let end = (at + random.below(12)).min(bytes.len());
            match random.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
                2 => drop(bytes.drain(at..end)),
                3 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                5 => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => drop(bytes.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
            }
        }
        bytes.truncate(8192);
        bytes
    }

    /// `BERTH_FUZZ_SECONDS` for each target (2 unless said), `BERTH_FUZZ_SEED` to repeat a run, `BERTH_FUZZ_TARGET` for one.
    #[test]
    fn nothing_panics_and_everything_holds() {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let span = Duration::from_secs(number("BERTH_FUZZ_SECONDS").unwrap_or(2));
        let seed = number("BERTH_FUZZ_SEED").unwrap_or_else(|| getrandom::u64().expect("randomness")).max(1);
        let only = std::env::var("BERTH_FUZZ_TARGET").ok();
        for (name, check) in
            TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
        {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
            let mut files: Vec<_> =
                std::fs::read_dir(&folder).expect("a folder of seeds").flatten().collect();
            files.sort_by_key(std::fs::DirEntry::file_name);
            let seeds: Vec<_> =
                files.iter().map(|file| std::fs::read(file.path()).expect("a seed")).collect();
            seeds.iter().for_each(|seed| check(seed));
            let (mut random, end, mut runs) = (Random(seed), Instant::now() + span, 0_u64);
            while Instant::now() < end {
                for _ in 0..100 {
                    let input = change(&seeds, &mut random);
                    let held = std::panic::catch_unwind(|| check(&input));
                    runs += 1;
                    assert!(
                        held.is_ok(),
                        "{name}: run {runs} of BERTH_FUZZ_SEED={seed}: \"{}\"",
                        input.escape_ascii()
                    );
                }
            }
            println!("{name}: {runs} inputs");
        }
    }
}
