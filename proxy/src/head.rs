//! Request heads: from bytes to a typed request and to the head that is sent on.
//!
//! In: a whole head as received, who sent it and when. Out: [`Request`] and the rewritten head, or a [`Refusal`].
//! No I/O. The strictest reading of RFC 9112: whatever two parsers could understand differently is refused, and what
//! is sent on is written anew, field by field, with exactly one framing.

use crate::fields::{self, Kind};
use crate::settings::{MAX_FIELDS, MAX_TARGET};
use crate::trace_context;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The methods that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Options,
    Put,
    Delete,
    Other,
}

impl Method {
    /// `None` for CONNECT and TRACE, which nobody may send through.
    pub(crate) fn of(text: &str) -> Option<Self> {
        Some(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" | "TRACE" => return None,
            _ => Self::Other,
        })
    }

    /// Changes nothing (RFC 9110 §9.2.1).
    pub(crate) fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// May be sent twice (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(self) -> bool {
        !matches!(self, Self::Other)
    }
}

/// How the request's body is framed, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// What the forwarder must know of a request. Ranges lie in the rewritten head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) method_text: Range<usize>,
    pub(crate) target: Range<usize>,
    pub(crate) host: Range<usize>,
    pub(crate) id: Range<usize>,
    /// The trace's id; empty for none.
    pub(crate) trace: Range<usize>,
    /// Empty for none.
    pub(crate) referer: Range<usize>,
    /// Empty for none.
    pub(crate) agent: Range<usize>,
    pub(crate) framing: Framing,
    /// The client's version is HTTP/1.0.
    pub(crate) old: bool,
    /// The client is willing to send another request.
    pub(crate) keep_alive: bool,
    /// Asks to become a WebSocket.
    pub(crate) websocket: bool,
    /// Waits for `100 Continue` before it sends its body.
    pub(crate) expects_continue: bool,
    /// The client's side is an HTTP/2 stream: bodies end with it and are not coded.
    pub(crate) streamed: bool,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Request {
    /// One without a body or anything else, kept alive, for tests of what comes after its head.
    pub(crate) fn bare(method: Method) -> Self {
        Self {
            method,
            method_text: 0..0,
            target: 0..0,
            host: 0..0,
            id: 0..0,
            trace: 0..0,
            referer: 0..0,
            agent: 0..0,
            framing: Framing::None,
            old: false,
            keep_alive: true,
            websocket: false,
            expects_continue: false,
            streamed: false,
        }
    }
}

/// A request that is not answered by an app: the status, and what is wrong in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
}

/// What the rewritten head says about how the request came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The client's address, as text.
    pub(crate) peer: &'a str,
    /// The port it connected to.
    pub(crate) port: u16,
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    /// Believe `X-Forwarded-*` of the request.
    pub(crate) trusted: bool,
    /// Milliseconds since the Unix epoch.
    pub(crate) now_ms: u64,
    /// The request's id if it brings none.
    pub(crate) id: &'a [u8],
    /// The `traceparent` of a request that brings no valid one.
    pub(crate) trace: Option<&'a [u8]>,
    /// Bytes came behind the head already.
    pub(crate) body_arrived: bool,
}

pub(crate) const fn refuse(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// Fields that only one of may come, while they are gathered.
#[derive(Default)]
pub(crate) struct Found<'b> {
    pub(crate) host: Option<&'b [u8]>,
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) connection: bool,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade_listed: bool,
    pub(crate) websocket: bool,
    pub(crate) expects_continue: bool,
    pub(crate) id: Option<&'b [u8]>,
    /// A valid `traceparent`, if there is just one.
    pub(crate) trace: Option<&'b [u8]>,
    pub(crate) traces: u32,
    pub(crate) forwarded_for: Option<&'b [u8]>,
    pub(crate) forwarded_proto: Option<&'b [u8]>,
    pub(crate) forwarded_host: Option<&'b [u8]>,
    pub(crate) forwarded_port: Option<&'b [u8]>,
}

/// Parses the whole head `head` and writes the one to send on to `out`, which is empty.
pub(crate) fn parse(head: &[u8], origin: &Origin<'_>, out: &mut Vec<u8>) -> Result<Request, Refusal> {
    // One empty line before a request is ignored (RFC 9112 §2.2).
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut storage) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(refuse(400, "the head does not end where it seems to")),
        Err(httparse::Error::TooManyHeaders) => return Err(refuse(431, "more than 100 header fields")),
        Err(httparse::Error::Version) => return Err(refuse(400, "not HTTP/1.0 or HTTP/1.1")),
        Err(_) => return Err(refuse(400, "malformed request line or header field")),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(refuse(400, "incomplete request line"));
    };
    let old = version == 0;
    let found = gather(parsed.headers, old)?;
    let host = found.host.ok_or(refuse(400, "no Host field"))?;
    let known = Method::of(method).ok_or(refuse(405, "method not allowed"))?;
    let path = origin_form(target, host, known)?;
    let framing = match (found.chunked, found.length) {
        (true, Some(_)) => return Err(refuse(400, "both Transfer-Encoding and Content-Length")),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    };
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    let websocket = found.websocket && found.upgrade_listed && !old && known == Method::Get;
    if websocket && has_body {
        return Err(refuse(400, "an upgrade request with a body"));
    }
    let expects_continue = found.expects_continue && has_body && !old && !origin.body_arrived;

    let line = Line { method, known, path, host, old, websocket, expects_continue, framing };
    Ok(compose(&line, &found, parsed.headers, origin, out))
}

/// A request that was understood, about to be written anew.
pub(crate) struct Line<'b> {
    pub(crate) method: &'b str,
    pub(crate) known: Method,
    pub(crate) path: Path<'b>,
    pub(crate) host: &'b [u8],
    pub(crate) old: bool,
    pub(crate) websocket: bool,
    pub(crate) expects_continue: bool,
    pub(crate) framing: Framing,
}

/// Writes the head that is sent on.
pub(crate) fn compose(
    line: &Line<'_>,
    found: &Found<'_>,
    headers: &[httparse::Header<'_>],
    origin: &Origin<'_>,
    out: &mut Vec<u8>,
) -> Request {
    let Line { method, known, ref path, host, old, websocket, expects_continue, framing } = *line;
    let method_text = push(out, method.as_bytes());
    out.push(b' ');
    let target = path.start(out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    let host_range = push(out, host);
    out.extend_from_slice(b"\r\n");
    let (referer, agent) = pass_on(headers, found, out);
    let id = forwarding(found, origin, host, out);
    let trace = match found.trace.or(origin.trace) {
        None => 0..0,
        Some(value) => {
            out.extend_from_slice(b"traceparent: ");
            let start = out.len();
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
            start + trace_context::TRACE_ID.start..start + trace_context::TRACE_ID.end
        }
    };
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    if expects_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Request {
        method: known,
        method_text,
        target,
        host: host_range,
        id,
        trace,
        referer,
        agent,
        framing,
        old,
        keep_alive: !found.close && (!old || found.keep_alive),
        websocket,
        expects_continue,
        streamed: false,
    }
}

/// Takes the first `length` bytes, which are the path `prefix`, off the target of a rewritten head, and says so in a
/// field. What is left is a path again, and begins with one slash: two would be a host to some (RFC 3986 §4.2).
pub(crate) fn strip(request: &mut Request, length: usize, prefix: &str, out: &mut Vec<u8>) {
    let Range { start, end } = request.target.clone();
    let target = &out[start..end];
    let rest = target.get(length..).unwrap_or_default();
    let slashes = rest.iter().take_while(|b| **b == b'/').count();
    let gone = length + slashes.saturating_sub(1);
    let missing = slashes == 0;
    if gone > target.len() {
        return; // the prefix was found in this very target
    }
    out.splice(start..start + gone, missing.then_some(b'/'));
    let moved = |at: usize| at - gone + usize::from(missing);
    request.target = start..moved(end);
    request.host = moved(request.host.start)..moved(request.host.end);
    request.id = moved(request.id.start)..moved(request.id.end);
    out.truncate(out.len() - 2);
    out.extend_from_slice(b"X-Forwarded-Prefix: ");
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(bytes);
    start..out.len()
}

/// Reads every field that decides framing, connection or forwarding.
pub(crate) fn gather<'b>(headers: &[httparse::Header<'b>], old: bool) -> Result<Found<'b>, Refusal> {
    let mut found = Found::default();
    for field in headers {
        let value = field.value.trim_ascii();
        match fields::classify(field.name.as_bytes()) {
            Kind::Other | Kind::Dropped | Kind::Referer | Kind::UserAgent | Kind::TraceState => {}
            Kind::TraceParent => {
                // Two are as good as none: nobody could say which one counts.
                found.traces += 1;
                found.trace =
                    Some(value).filter(|value| found.traces == 1 && trace_context::trace_id(value).is_some());
            }
            Kind::Host => {
                if found.host.replace(value).is_some() {
                    return Err(refuse(400, "more than one Host field"));
                }
                if !fields::is_host(value) {
                    return Err(refuse(400, "malformed Host field"));
                }
            }
            Kind::ContentLength => {
                let length = fields::content_length(value).ok_or(refuse(400, "malformed Content-Length"))?;
                if found.length.replace(length).is_some() {
                    return Err(refuse(400, "more than one Content-Length field"));
                }
            }
            Kind::TransferEncoding => {
                if old || found.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(refuse(400, "Transfer-Encoding is not exactly one \"chunked\" in HTTP/1.1"));
                }
                found.chunked = true;
            }
            Kind::Connection => {
                found.connection = true;
                for token in fields::tokens(value) {
                    found.close |= token.eq_ignore_ascii_case(b"close");
                    found.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    found.upgrade_listed |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            Kind::Upgrade => found.websocket = value.eq_ignore_ascii_case(b"websocket"),
            Kind::Expect if old => {}
            Kind::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(refuse(417, "an expectation that is not 100-continue"));
                }
                found.expects_continue = true;
            }
            Kind::RequestId => found.id = found.id.or(Some(value).filter(|value| is_request_id(value))),
            Kind::ForwardedFor => found.forwarded_for = Some(value),
            Kind::ForwardedProto => found.forwarded_proto = Some(value),
            Kind::ForwardedHost => found.forwarded_host = Some(value),
            Kind::ForwardedPort => found.forwarded_port = Some(value),
        }
    }
    Ok(found)
}

/// A request id of a client that is safe to log and pass on.
fn is_request_id(value: &[u8]) -> bool {
    (1..=200).contains(&value.len())
        && value.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(b))
}

/// A request target as it is sent on: always the origin form, or `*`.
#[derive(Clone, Copy)]
pub(crate) enum Path<'b> {
    Whole(&'b [u8]),
    /// Of an absolute form without a path: `/` goes first.
    Rest(&'b [u8]),
}

impl Path<'_> {
    fn start(&self, out: &mut Vec<u8>) -> Range<usize> {
        let start = out.len();
        match self {
            Self::Whole(path) => out.extend_from_slice(path),
            Self::Rest(rest) => {
                out.push(b'/');
                out.extend_from_slice(rest);
            }
        }
        start..out.len()
    }
}

fn origin_form<'b>(target: &'b str, host: &[u8], method: Method) -> Result<Path<'b>, Refusal> {
    let bytes = target.as_bytes();
    if bytes.len() > MAX_TARGET {
        return Err(refuse(414, "the request target is longer than 16 KiB"));
    }
    if bytes.contains(&b'#') {
        return Err(refuse(400, "the request target holds a fragment"));
    }
    if bytes.first() == Some(&b'/') || (bytes == b"*" && method == Method::Options) {
        return Ok(Path::Whole(bytes));
    }
    let has_scheme = bytes.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http://"));
    let rest = match has_scheme {
        true => &bytes[7..],
        false => return Err(refuse(400, "the request target is not a path")),
    };
    let end = rest.iter().position(|b| *b == b'/' || *b == b'?').unwrap_or(rest.len());
    if !rest[..end].eq_ignore_ascii_case(host) {
        return Err(refuse(400, "the request target names another host than Host"));
    }
    match rest.get(end) {
        Some(b'/') => Ok(Path::Whole(&rest[end..])),
        _ => Ok(Path::Rest(&rest[end..])),
    }
}

/// Writes the fields that are passed on as they are. Returns where `Referer` and `User-Agent` are.
fn pass_on(
    headers: &[httparse::Header<'_>],
    found: &Found<'_>,
    out: &mut Vec<u8>,
) -> (Range<usize>, Range<usize>) {
    let (mut referer, mut agent) = (0..0, 0..0);
    for field in headers {
        let name = field.name.as_bytes();
        let kind = fields::classify(name);
        let passed = match kind {
            Kind::Other | Kind::Referer | Kind::UserAgent => true,
            Kind::TraceState => found.trace.is_some(),
            _ => false,
        };
        if !passed || (found.connection && nominated(headers, name)) {
            continue;
        }
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        let value = push(out, field.value.trim_ascii());
        out.extend_from_slice(b"\r\n");
        match kind {
            Kind::Referer => referer = value,
            Kind::UserAgent => agent = value,
            _ => {}
        }
    }
    (referer, agent)
}

/// Whether a `Connection` field names `name`: then it belongs to this hop only (RFC 9110 §7.6.1).
pub(crate) fn nominated(headers: &[httparse::Header<'_>], name: &[u8]) -> bool {
    headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .any(|field| fields::tokens(field.value).any(|token| token.eq_ignore_ascii_case(name)))
}

/// Writes the forwarding fields, after all that came with the request is gone. Returns where the request's id is.
fn forwarding(found: &Found<'_>, origin: &Origin<'_>, host: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    let from = |value: Option<&'_ [u8]>| value.filter(|_| origin.trusted).map(<[u8]>::to_vec);
    out.extend_from_slice(b"X-Forwarded-For: ");
    if let Some(earlier) = from(found.forwarded_for).filter(|value| !value.is_empty()) {
        out.extend_from_slice(&earlier);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(origin.peer.as_bytes());
    out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
    match from(found.forwarded_proto) {
        Some(value) => out.extend_from_slice(&value),
        None => out.extend_from_slice(origin.scheme.as_bytes()),
    }
    out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
    match from(found.forwarded_host) {
        Some(value) => out.extend_from_slice(&value),
        None => out.extend_from_slice(host),
    }
    out.extend_from_slice(b"\r\nX-Forwarded-Port: ");
    match from(found.forwarded_port) {
        Some(value) => out.extend_from_slice(&value),
        None => out.extend_from_slice(itoa::Buffer::new().format(origin.port).as_bytes()),
    }
    out.extend_from_slice(b"\r\nX-Real-Ip: ");
    out.extend_from_slice(origin.peer.as_bytes());
    out.extend_from_slice(b"\r\nX-Request-Start: ");
    out.extend_from_slice(itoa::Buffer::new().format(origin.now_ms).as_bytes());
    out.extend_from_slice(b"\r\nX-Request-Id: ");
    let id = push(out, found.id.unwrap_or(origin.id));
    out.extend_from_slice(b"\r\n");
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin<'static> = Origin {
        peer: "192.0.2.7",
        port: 80,
        scheme: "http",
        trusted: false,
        now_ms: 1_700_000_000_123,
        id: b"0123456789abcdef",
        trace: None,
        body_arrived: false,
    };

    fn rewrite(head: &str) -> Result<(Request, String), Refusal> {
        let mut out = Vec::new();
        let request = parse(head.as_bytes(), &ORIGIN, &mut out)?;
        Ok((request, String::from_utf8(out).expect("text in, text out")))
    }

    #[test]
    fn a_head_is_written_anew() {
        let (request, out) = rewrite(
            "POST /a?b=c HTTP/1.1\r\nUser-Agent: x\r\nHost: App.Example:8080\r\nX-Forwarded-For: 6.6.6.6\r\n\
             Connection: keep-alive, X-Secret, Content-Length, X-Forwarded-Proto\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
             Content-Length: 3\r\nCookie:  a=b \r\nX_Real_Ip: 6.6.6.6\r\nTE: trailers\r\n\r\n",
        )
        .expect("valid");
        assert_eq!(
            out,
            "POST /a?b=c HTTP/1.1\r\nHost: App.Example:8080\r\nUser-Agent: x\r\nCookie: a=b\r\n\
             X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: App.Example:8080\r\n\
             X-Forwarded-Port: 80\r\nX-Real-Ip: 192.0.2.7\r\nX-Request-Start: 1700000000123\r\n\
             X-Request-Id: 0123456789abcdef\r\nContent-Length: 3\r\n\r\n"
        );
        assert_eq!(&out[request.target.clone()], "/a?b=c");
        assert_eq!(&out[request.host.clone()], "App.Example:8080");
        assert_eq!(request.framing, Framing::Length(3));
        assert!(request.keep_alive && !request.websocket);
    }

    #[test]
    fn forwarded_fields_are_kept_only_from_those_trusted() {
        let head =
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\n";
        let mut out = Vec::new();
        parse(head, &Origin { trusted: true, ..ORIGIN }, &mut out).expect("valid");
        let out = String::from_utf8(out).expect("text");
        assert!(out.contains("X-Forwarded-For: 1.2.3.4, 192.0.2.7\r\n"), "{out}");
        assert!(out.contains("X-Forwarded-Proto: https\r\n"), "{out}");
    }

    #[test]
    fn a_prefix_is_taken_off() {
        for (target, length, want) in [
            ("/api/x?y=/api", 4, "/x?y=/api"),
            ("/api", 4, "/"),
            ("/api?x", 4, "/?x"),
            ("/api//evil.example", 4, "/evil.example"),
            ("/%61pi/x", 6, "/x"),
        ] {
            let mut out = Vec::new();
            let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nX-Request-Id: 7\r\n\r\n");
            let mut request = parse(head.as_bytes(), &ORIGIN, &mut out).expect("valid");
            strip(&mut request, length, "/api", &mut out);
            let text = String::from_utf8(out).expect("text");
            assert!(text.starts_with(&format!("GET {want} HTTP/1.1\r\nHost: a.example\r\n")), "{text}");
            assert!(text.ends_with("\r\nX-Forwarded-Prefix: /api\r\n\r\n"), "{text}");
            assert_eq!(&text[request.target.clone()], want);
            assert_eq!(&text[request.host.clone()], "a.example");
            assert_eq!(&text[request.id.clone()], "7");
        }
    }

    #[test]
    fn a_valid_trace_goes_on_as_it_is_and_another_goes_nowhere() {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let head =
            |fields: &str| rewrite(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).expect("valid");
        // W3C Trace Context §3.4: tracestate is not touched when traceparent is not.
        let (request, out) = head(&format!(
            "TraceParent: {TRACE}\r\ntracestate: a=1\r\nReferer: http://r\r\ntracestate: b=2\r\n"
        ));
        assert!(out.contains("tracestate: a=1\r\n") && out.contains("tracestate: b=2\r\n"), "{out}");
        assert!(out.contains(&format!("traceparent: {TRACE}\r\n")) && !out.contains("TraceParent"), "{out}");
        assert_eq!(&out[request.trace], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(&out[request.referer], "http://r");
        // §4.3: what cannot be parsed is not passed on, nor its tracestate.
        for bad in [
            "traceparent: 00-0-0-01\r\ntracestate: a=1\r\n".to_owned(),
            format!("traceparent: {TRACE}\r\ntraceparent: {TRACE}\r\ntracestate: a=1\r\n"),
            "tracestate: a=1\r\n".to_owned(),
        ] {
            let (request, out) = head(&bad);
            assert!(!out.contains("trace") && request.trace.is_empty(), "{out}");
            // And one that this proxy begins takes its place.
            let (mut new, origin) = (Vec::new(), Origin { trace: Some(TRACE.as_bytes()), ..ORIGIN });
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{bad}\r\n");
            parse(head.as_bytes(), &origin, &mut new).expect("valid");
            let new = String::from_utf8(new).expect("text");
            assert_eq!(new.matches(&format!("traceparent: {TRACE}\r\n")).count(), 1, "{new}");
            assert!(!new.contains("tracestate"), "{new}");
        }
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let upgrade = |value: &str| {
            let head = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {value}\r\nHTTP2-Settings: x\r\n\r\n"
            );
            rewrite(&head).expect("valid")
        };
        let (request, out) = upgrade("WebSocket");
        assert!(request.websocket && out.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "{out}");
        for other in ["h2c", "websocket, h2c", "TLS/1.0", "foo"] {
            let (request, out) = upgrade(other);
            assert!(!request.websocket && !out.contains("Upgrade") && !out.contains("HTTP2"), "{out}");
        }
    }

    #[test]
    fn absolute_targets_become_paths_if_they_name_the_same_host() {
        for (target, path) in [("http://a/x?y", "/x?y"), ("HTTP://A", "/"), ("http://a?q", "/?q")] {
            let (request, out) =
                rewrite(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).expect("valid");
            assert_eq!(&out[request.target], path);
        }
        for bad in ["http://b/", "http://a@b/", "ftp://a/", "a", "*", "http://", "/x#y", "https://a/"] {
            let refused = rewrite(&format!("GET {bad} HTTP/1.1\r\nHost: a\r\n\r\n")).expect_err(bad);
            assert_eq!(refused.status, 400, "{bad}");
        }
    }

    #[test]
    fn limits_have_their_own_statuses() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(MAX_TARGET));
        assert_eq!(rewrite(&long).expect_err("too long").status, 414);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS));
        assert_eq!(rewrite(&many).expect_err("too many").status, 431);
        let full = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS - 1));
        assert!(rewrite(&full).is_ok());
    }

    #[test]
    fn http_1_0_closes_unless_it_asks() {
        assert!(!rewrite("GET / HTTP/1.0\r\nHost: a\r\n\r\n").expect("valid").0.keep_alive);
        let asks = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
        assert!(rewrite(asks).expect("valid").0.keep_alive);
        assert!(
            !rewrite("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("valid").0.keep_alive
        );
    }

    proptest! {
        /// Whatever is accepted is sent on as one head that reads the same when parsed again, with one framing.
        #[test]
        fn what_is_accepted_is_unambiguous(fields in prop::collection::vec((
            prop_oneof![
                Just("Host".to_owned()), Just("Content-Length".to_owned()), Just("Transfer-Encoding".to_owned()),
                Just("Connection".to_owned()), Just("Upgrade".to_owned()), Just("content_length".to_owned()),
                "[A-Za-z-]{1,8}",
            ],
            prop_oneof![
                Just("a".to_owned()), Just("5".to_owned()), Just("chunked".to_owned()), Just("Content-Length, Host".to_owned()),
                Just("upgrade".to_owned()), Just("websocket".to_owned()), "[ -~\\t]{0,12}", "[\\x00-\\xff]{0,4}",
            ]), 0..7))
        {
            let mut head = "GET / HTTP/1.1\r\nHost: a\r\n".to_owned();
            for (name, value) in &fields {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            let end = fields::HeadEnd::default().find(head.as_bytes(), true);
            let Ok(Some(end)) = end else { return Ok(()) };
            let mut out = Vec::new();
            let Ok(first) = parse(&head.as_bytes()[..end], &ORIGIN, &mut out) else { return Ok(()) };
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut again = httparse::Request::new(&mut headers);
            prop_assert_eq!(again.parse(&out), Ok(httparse::Status::Complete(out.len())));
            let count = |name: &str| again.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
            prop_assert_eq!(count("host"), 1);
            let framings = count("content-length") + count("transfer-encoding");
            prop_assert_eq!(framings, usize::from(first.framing != Framing::None));
            prop_assert_eq!(count("x-forwarded-for"), 1);
            prop_assert!(count("upgrade") == usize::from(first.websocket));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &ORIGIN, &mut Vec::new());
        }
    }
}
