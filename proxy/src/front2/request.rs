//! Requests of HTTP/2: from its fields to the head that is sent on.
//!
//! In: what `h2` read, which has refused what RFC 9113 §8 calls malformed in names, pseudo-fields and fields of a
//! connection. Out: the same as from `head`, with the same strictness. No I/O.

use crate::fields;
use crate::head::{self, Framing, Line, Method, Origin, Path, Refusal, Request, refuse};
use crate::settings::{MAX_FIELDS, MAX_TARGET};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONTENT_LENGTH, COOKIE};
use http::request::Parts;

/// Writes the head of a request to `out`, which is empty. `ended` says that it has no body; `key` is for the handshake of
/// a WebSocket. A refusal with 400 is to be answered with a reset.
pub(crate) fn compose(
    parts: &Parts,
    ended: bool,
    origin: &Origin<'_>,
    key: [u64; 2],
    out: &mut Vec<u8>,
) -> Result<Request, Refusal> {
    let method = parts.method.as_str();
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    let known = match (method, protocol.map(h2::ext::Protocol::as_str)) {
        ("CONNECT", Some("websocket")) => Method::Get, // RFC 8441 §5
        ("CONNECT", Some(_)) => return Err(refuse(501, "an extended CONNECT that is no WebSocket")),
        _ => Method::of(method).ok_or(refuse(405, "method not allowed"))?,
    };
    let websocket = protocol.is_some();
    if websocket && method != "CONNECT" {
        return Err(refuse(400, ":protocol without CONNECT"));
    }
    if !matches!(parts.uri.scheme_str(), Some("http" | "https")) {
        return Err(refuse(400, "a scheme that is neither http nor https"));
    }
    if parts.headers.len() > MAX_FIELDS {
        return Err(refuse(431, "more than 100 header fields"));
    }
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes();
    if path.len() > MAX_TARGET {
        return Err(refuse(414, "the request target is longer than 16 KiB"));
    }
    if path.first() != Some(&b'/') && !(path == b"*" && known == Method::Options) {
        return Err(refuse(400, "the request target is not a path"));
    }

    // A client may split its cookies; HTTP/1.1 knows one field of them (RFC 9113 §8.2.3).
    let mut joined = Vec::new();
    let mut cookies = parts.headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        joined.extend_from_slice(first.as_bytes());
        for cookie in std::iter::once(second).chain(cookies) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(cookie.as_bytes());
        }
    }
    let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS + 2];
    let mut count = 0;
    let mut add = |name, value| {
        storage[count] = httparse::Header { name, value }; // at most MAX_FIELDS of the client and two of ours
        count += 1;
    };
    let mut key_text = [0; 24];
    for (name, value) in &parts.headers {
        if (name == COOKIE && !joined.is_empty()) || (websocket && name == "sec-websocket-key") {
            continue;
        }
        add(name.as_str(), value.as_bytes());
    }
    if !joined.is_empty() {
        add("cookie", &joined);
    }
    if websocket {
        let bytes: [u8; 16] = std::array::from_fn(|at| key[at / 8].to_be_bytes()[at % 8]);
        if BASE64_STANDARD.encode_slice(bytes, &mut key_text).is_ok() {
            add("sec-websocket-key", &key_text);
        }
    }
    let headers = &storage[..count];
    let found = head::gather(headers, false)?;
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, found.host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(refuse(400, "Host and :authority differ"));
        }
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => return Err(refuse(400, "neither Host nor :authority")),
    };
    if !fields::is_host(host) {
        return Err(refuse(400, "malformed :authority"));
    }
    if parts.headers.contains_key(CONTENT_LENGTH) && websocket {
        return Err(refuse(400, "a WebSocket with a body"));
    }
    let framing = match found.length {
        _ if websocket => Framing::None,
        Some(length) => Framing::Length(length),
        // A method that means content says so when there is none (RFC 9110 §8.6).
        None if ended && matches!(method, "POST" | "PUT" | "PATCH") => Framing::Length(0),
        None if ended => Framing::None,
        None => Framing::Chunked,
    };
    let line = Line {
        method: if websocket { "GET" } else { method },
        known,
        path: Path::Whole(path),
        host,
        old: false,
        websocket,
        expects_continue: found.expects_continue && !ended,
        framing,
    };
    let request = head::compose(&line, &found, headers, origin, out);
    Ok(Request { streamed: true, keep_alive: true, ..request })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'static> = Origin {
        peer: "192.0.2.7",
        port: 443,
        scheme: "https",
        trusted: false,
        now_ms: 1_700_000_000_123,
        id: b"0123456789abcdef",
        trace: None,
        body_arrived: false,
    };

    fn rewrite(request: http::request::Builder, ended: bool) -> Result<(Request, String), Refusal> {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let mut out = Vec::new();
        let request = compose(&parts, ended, &ORIGIN, [1, 2], &mut out)?;
        Ok((request, String::from_utf8(out).expect("text in, text out")))
    }

    fn get(uri: &str) -> http::request::Builder {
        http::Request::get(uri)
    }

    #[test]
    fn a_request_is_written_as_http_1_1() {
        let (request, out) = rewrite(
            get("https://App.example/a?b")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("te", "trailers"),
            true,
        )
        .expect("valid");
        assert_eq!(
            out,
            "GET /a?b HTTP/1.1\r\nHost: App.example\r\ncookie: a=1; b=2\r\nX-Forwarded-For: 192.0.2.7\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: App.example\r\nX-Forwarded-Port: 443\r\n\
             X-Real-Ip: 192.0.2.7\r\nX-Request-Start: 1700000000123\r\nX-Request-Id: 0123456789abcdef\r\n\r\n"
        );
        assert!(request.streamed && request.framing == Framing::None);
    }

    #[test]
    fn a_body_has_exactly_one_framing() {
        let post = || http::Request::post("https://a/");
        let (request, out) = rewrite(post().header("content-length", "5"), false).expect("valid");
        assert!(request.framing == Framing::Length(5) && out.contains("Content-Length: 5\r\n\r\n"), "{out}");
        let (request, out) = rewrite(post(), false).expect("valid");
        assert!(
            request.framing == Framing::Chunked && out.ends_with("Transfer-Encoding: chunked\r\n\r\n"),
            "{out}"
        );
        let (_, out) = rewrite(post(), true).expect("valid");
        assert!(out.ends_with("Content-Length: 0\r\n\r\n"), "{out}");
    }

    #[test]
    fn what_two_could_read_differently_is_refused() {
        let status = |request| rewrite(request, true).expect_err("refused").status;
        assert_eq!(status(get("https://a/").header("host", "b")), 400);
        assert_eq!(status(get("https://a/").header("host", "a").header("host", "a")), 400);
        assert_eq!(
            status(get("https://a/").header("content-length", "1").header("content-length", "1")),
            400
        );
        assert_eq!(status(get("https://a/").header("content-length", "+1")), 400);
        assert_eq!(status(get("https://u@a/")), 400);
        assert_eq!(status(get("ftp://a/")), 400);
        assert_eq!(status(get("/")), 400);
        assert_eq!(status(http::Request::builder().method("CONNECT").uri("https://a/")), 405);
        assert_eq!(status(get(&format!("https://a/{}", "a".repeat(MAX_TARGET)))), 414);
        let many =
            (0..=MAX_FIELDS).fold(get("https://a/"), |request, n| request.header(format!("x-{n}"), "1"));
        assert_eq!(status(many), 431);
        let full =
            (0..MAX_FIELDS).fold(get("https://a/"), |request, n| request.header(format!("x-{n}"), "1"));
        assert!(rewrite(full, true).is_ok());
    }

    #[test]
    fn an_extended_connect_becomes_an_upgrade() {
        let connect = || http::Request::builder().method("CONNECT").uri("https://a/chat");
        let websocket = connect().extension(h2::ext::Protocol::from_static("websocket"));
        let (request, out) = rewrite(websocket.header("sec-websocket-version", "13"), false).expect("valid");
        assert!(out.starts_with("GET /chat HTTP/1.1\r\n"), "{out}");
        assert!(out.contains("sec-websocket-key: AAAAAAAAAAEAAAAAAAAAAg==\r\n"), "{out}");
        assert!(out.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{out}");
        assert!(request.websocket && request.framing == Framing::None);
        let other = connect().extension(h2::ext::Protocol::from_static("connect-udp"));
        assert_eq!(rewrite(other, false).expect_err("refused").status, 501);
    }
}
