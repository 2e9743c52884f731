//! A line of the access log: one JSON object, or `combined` as Apache and nginx write it with more fields at its end.
//!
//! In: what a finished request was; every text in it is a client's or an app's. Out: one line, whatever they sent. Queries
//! are left out of paths and of `Referer`: they may hold secrets. Long texts are cut.

/// Bytes of a method, path, `Referer` and `User-Agent` that are logged.
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 4096;
const MAX_REFERER: usize = 512;
const MAX_AGENT: usize = 256;

/// One finished request. `method`, `path`, `referer` and `agent` may hold anything; the others are names, numbers and
/// words that were checked when they were parsed (`host` by [`is_host`](crate::fields::is_host), `id` and `trace` too).
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry<'a> {
    pub(crate) app: &'a str,
    pub(crate) release: Option<u64>,
    pub(crate) container: Option<&'a str>,
    pub(crate) client: &'a str,
    pub(crate) method: &'a [u8],
    pub(crate) host: &'a [u8],
    /// With its query, which is left out.
    pub(crate) path: &'a [u8],
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub(crate) protocol: &'static str,
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    /// `TLSv1.3`, say; nothing without TLS.
    pub(crate) tls: Option<&'static str>,
    /// What the client got; 0 for nothing.
    pub(crate) status: u16,
    pub(crate) received: u64,
    /// With its head.
    pub(crate) sent: u64,
    /// The head's part of `sent`.
    pub(crate) head_sent: u64,
    pub(crate) total_us: u64,
    /// From the request's head to the answer's first byte.
    pub(crate) first_byte_us: Option<u64>,
    /// What connecting to the app took, if that was needed.
    pub(crate) connect_us: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) id: &'a [u8],
    /// Of `traceparent`; empty for none.
    pub(crate) trace: &'a [u8],
    pub(crate) referer: &'a [u8],
    pub(crate) agent: &'a [u8],
    /// The answer was cut short.
    pub(crate) aborted: bool,
}

fn cut(text: &[u8], most: usize) -> &[u8] {
    text.get(..most).unwrap_or(text)
}

fn without_query(text: &[u8]) -> &[u8] {
    memchr::memchr(b'?', text).map_or(text, |at| &text[..at])
}

/// Writes `entry` as JSON; `second` is the time as text up to the point before the milliseconds.
pub(super) fn json(entry: &Entry<'_>, second: &str, millis: u32, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let mut number = |out: &mut Vec<u8>, key: &str, value: u64| {
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(digits.format(value).as_bytes());
    };
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(second.as_bytes());
    number(
        out,
        if millis < 10 {
            ".00"
        } else if millis < 100 {
            ".0"
        } else {
            "."
        },
        u64::from(millis),
    );
    out.extend_from_slice(b"Z\",\"app\":\"");
    out.extend_from_slice(entry.app.as_bytes());
    out.push(b'"');
    if let Some(release) = entry.release {
        number(out, ",\"release\":", release);
    }
    let text = |out: &mut Vec<u8>, key: &str, value: &[u8]| {
        out.extend_from_slice(key.as_bytes());
        escape(value, out);
        out.push(b'"');
    };
    // Words that were checked when they were parsed: nothing in them needs escaping.
    let word = |out: &mut Vec<u8>, key: &str, value: &[u8]| {
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value);
        out.push(b'"');
    };
    if let Some(container) = entry.container {
        word(out, ",\"container\":\"", container.as_bytes());
    }
    word(out, ",\"client\":\"", entry.client.as_bytes());
    text(out, ",\"method\":\"", cut(entry.method, MAX_METHOD));
    word(out, ",\"scheme\":\"", entry.scheme.as_bytes());
    word(out, ",\"host\":\"", entry.host);
    text(out, ",\"path\":\"", cut(without_query(entry.path), MAX_PATH));
    word(out, ",\"protocol\":\"", entry.protocol.as_bytes());
    if let Some(tls) = entry.tls {
        word(out, ",\"tls\":\"", tls.as_bytes());
    }
    word(out, ",\"id\":\"", entry.id);
    if !entry.trace.is_empty() {
        word(out, ",\"trace\":\"", entry.trace);
    }
    number(out, ",\"status\":", u64::from(entry.status));
    number(out, ",\"received\":", entry.received);
    number(out, ",\"sent\":", entry.sent);
    number(out, ",\"total_us\":", entry.total_us);
    if let Some(first) = entry.first_byte_us {
        number(out, ",\"first_byte_us\":", first);
    }
    if let Some(connect) = entry.connect_us {
        number(out, ",\"connect_us\":", connect);
    }
    if entry.attempts > 1 {
        number(out, ",\"attempts\":", u64::from(entry.attempts));
    }
    if !entry.referer.is_empty() {
        text(out, ",\"referer\":\"", cut(without_query(entry.referer), MAX_REFERER));
    }
    if !entry.agent.is_empty() {
        text(out, ",\"agent\":\"", cut(entry.agent, MAX_AGENT));
    }
    if entry.aborted {
        out.extend_from_slice(b",\"aborted\":true");
    }
    out.extend_from_slice(b"}\n");
}

/// Writes `entry` as `combined` does: `CLIENT - - [TIME] "REQUEST" STATUS BYTES "REFERER" "AGENT"`, then `key=value`
/// fields. `second` is the time between the brackets.
pub(super) fn combined(entry: &Entry<'_>, second: &str, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let mut number = |out: &mut Vec<u8>, key: &[u8], value: u64| {
        out.extend_from_slice(key);
        out.extend_from_slice(digits.format(value).as_bytes());
    };
    out.extend_from_slice(entry.client.as_bytes());
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(second.as_bytes());
    out.extend_from_slice(b"] \"");
    escape_hex(cut(entry.method, MAX_METHOD), out);
    out.push(b' ');
    escape_hex(cut(without_query(entry.path), MAX_PATH), out);
    out.push(b' ');
    out.extend_from_slice(entry.protocol.as_bytes());
    number(out, b"\" ", u64::from(entry.status));
    number(out, b" ", entry.sent.saturating_sub(entry.head_sent));
    for text in [cut(without_query(entry.referer), MAX_REFERER), cut(entry.agent, MAX_AGENT)] {
        out.extend_from_slice(b" \"");
        escape_hex(if text.is_empty() { b"-" } else { text }, out);
        out.push(b'"');
    }
    out.extend_from_slice(b" host=\"");
    out.extend_from_slice(entry.host); // checked when it was parsed, as all that follows
    out.extend_from_slice(b"\" app=");
    out.extend_from_slice(entry.app.as_bytes());
    if let Some(release) = entry.release {
        number(out, b" release=", release);
    }
    let word = |out: &mut Vec<u8>, key: &[u8], value: &[u8]| {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    };
    if let Some(container) = entry.container {
        word(out, b" container=", container.as_bytes());
    }
    word(out, b" scheme=", entry.scheme.as_bytes());
    if let Some(tls) = entry.tls {
        word(out, b" tls=", tls.as_bytes());
    }
    word(out, b" id=", entry.id);
    if !entry.trace.is_empty() {
        word(out, b" trace=", entry.trace);
    }
    number(out, b" received=", entry.received);
    number(out, b" total_us=", entry.total_us);
    if let Some(first) = entry.first_byte_us {
        number(out, b" first_byte_us=", first);
    }
    if let Some(connect) = entry.connect_us {
        number(out, b" connect_us=", connect);
    }
    if entry.attempts > 1 {
        number(out, b" attempts=", u64::from(entry.attempts));
    }
    if entry.aborted {
        out.extend_from_slice(b" aborted");
    }
    out.push(b'\n');
}

/// Bytes that stand for themselves in both formats.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

fn is_plain(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[usize::from(digit & 15)]
}

/// Writes the inside of a JSON string. Bytes that are not ASCII become `\u00xx`: what a client sends need not be UTF-8.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().all(|b| is_plain(*b)) {
        out.extend_from_slice(text);
        return;
    }
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(*byte)]),
        }
    }
}

/// Writes `text` as nginx's `escape=default` does: quotes, backslashes and whatever is not printable become `\xXX`.
fn escape_hex(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().all(|b| is_plain(*b)) {
        out.extend_from_slice(text);
        return;
    }
    for byte in text {
        match is_plain(*byte) {
            true => out.push(*byte),
            false => {
                let digit = |digit| hex(digit).to_ascii_uppercase();
                out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(*byte)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            app: "hello",
            release: Some(12),
            container: Some("hello.web.1.k7"),
            client: "192.0.2.7",
            method: b"GET",
            host: b"hello.example",
            path: b"/a\"\\\xff\x01?token=secret",
            protocol: "HTTP/1.1",
            scheme: "http",
            tls: None,
            status: 200,
            received: 1,
            sent: 102,
            head_sent: 100,
            total_us: 3,
            first_byte_us: Some(2),
            connect_us: Some(1),
            attempts: 2,
            id: b"abc",
            trace: b"0af7651916cd43dd8448eb211c80319c",
            referer: b"https://a.example/?session=secret",
            agent: b"curl/8\r\nX: \"y\"",
            aborted: true,
        }
    }

    #[test]
    fn a_line_is_json_whatever_the_client_sent() {
        let mut out = Vec::new();
        json(&entry(), "2023-11-14T22:13:20", 7, &mut out);
        let line: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(line["time"], "2023-11-14T22:13:20.007Z");
        assert_eq!(line["path"], "/a\"\\\u{ff}\u{1}");
        assert_eq!((&line["release"], &line["status"]), (&12.into(), &200.into()));
        assert_eq!(line["agent"], "curl/8\r\nX: \"y\"");
        assert_eq!(line["referer"], "https://a.example/");
        assert_eq!(line["connect_us"], 1);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(!String::from_utf8_lossy(&out).contains("secret"));
    }

    #[test]
    fn combined_is_what_log_readers_know() {
        let mut out = Vec::new();
        combined(&entry(), "14/Nov/2023:22:13:20 +0000", &mut out);
        assert_eq!(
            String::from_utf8(out).expect("ASCII"),
            "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"GET /a\\x22\\x5C\\xFF\\x01 HTTP/1.1\" 200 2 \
             \"https://a.example/\" \"curl/8\\x0D\\x0AX: \\x22y\\x22\" host=\"hello.example\" app=hello release=12 \
             container=hello.web.1.k7 scheme=http id=abc trace=0af7651916cd43dd8448eb211c80319c received=1 total_us=3 \
             first_byte_us=2 connect_us=1 attempts=2 aborted\n"
        );
        let mut short = Vec::new();
        let plain = Entry {
            app: "a",
            client: "::1",
            method: b"GET",
            host: b"a",
            path: b"/",
            protocol: "HTTP/2",
            scheme: "https",
            tls: Some("TLSv1.3"),
            id: b"i",
            ..Entry::default()
        };
        combined(&plain, "14/Nov/2023:22:13:20 +0000", &mut short);
        assert_eq!(
            String::from_utf8(short).expect("ASCII"),
            "::1 - - [14/Nov/2023:22:13:20 +0000] \"GET / HTTP/2\" 0 0 \"-\" \"-\" host=\"a\" app=a scheme=https \
             tls=TLSv1.3 id=i received=0 total_us=0\n"
        );
    }

    #[test]
    fn long_texts_are_cut() {
        let long = vec![b'a'; 100_000];
        let entry = Entry { method: &long, path: &long, referer: &long, agent: &long, ..entry() };
        let (mut one, mut other) = (Vec::new(), Vec::new());
        json(&entry, "2023-11-14T22:13:20", 7, &mut one);
        combined(&entry, "14/Nov/2023:22:13:20 +0000", &mut other);
        assert!(one.len() < 6000 && other.len() < 6000);
    }
}
