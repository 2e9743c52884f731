//! Ambiguous requests, sent raw through a real proxy to an origin that records: each is refused, or reaches the origin as
//! one request that can be read in one way only.

use crate::origin::{Origin, field};
use crate::proxy::{Running, one};

/// What must become of a vector.
pub(crate) enum Fate {
    /// Refused with this status, and nothing reaches the origin.
    Refused(u16),
    /// Closed without an answer, and nothing reaches the origin.
    Closed,
    /// Forwarded clean: exactly one request, with one framing, holding none of these texts.
    Clean(&'static [&'static str]),
}
pub(crate) use Fate::{Clean, Closed, Refused};

/// A name, the rule, the request and what must become of it. Each is sent with `Host: app.test` in front of `fields`
/// unless it brings its own request line.
pub(crate) fn vectors() -> Vec<(&'static str, &'static str, String, Fate)> {
    let post = |fields: &str, body: &str| format!("POST /v HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n{body}");
    let get = |fields: &str| format!("GET /v HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    let raw = str::to_owned;
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        // Content-Length
        (
            "CL and TE",
            "RFC 9112 §6.1",
            post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE and CL",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "two equal CL",
            "RFC 9112 §6.3",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            Refused(400),
        ),
        (
            "two different CL",
            "RFC 9112 §6.3",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
            Refused(400),
        ),
        ("CL list of equals", "RFC 9112 §6.3", post("Content-Length: 5, 5\r\n", "hello"), Refused(400)),
        ("CL with plus", "RFC 9110 §8.6", post("Content-Length: +5\r\n", "hello"), Refused(400)),
        ("CL negative", "RFC 9110 §8.6", post("Content-Length: -5\r\n", "hello"), Refused(400)),
        ("CL hexadecimal", "RFC 9110 §8.6", post("Content-Length: 0x5\r\n", "hello"), Refused(400)),
        ("CL with inner space", "RFC 9110 §8.6", post("Content-Length: 5 5\r\n", "hello"), Refused(400)),
        ("CL empty", "RFC 9110 §8.6", post("Content-Length: \r\n", ""), Refused(400)),
        (
            "CL 2^64+3",
            "RFC 9110 §8.6",
            post("Content-Length: 18446744073709551619\r\n", "hello"),
            Refused(400),
        ),
        ("CL with a letter", "RFC 9110 §8.6", post("Content-Length: 5a\r\n", "hello"), Refused(400)),
        ("CL decimal point", "RFC 9110 §8.6", post("Content-Length: 5.0\r\n", "hello"), Refused(400)),
        (
            "CL with space before colon",
            "RFC 9112 §5.1",
            post("Content-Length : 5\r\n", "hello"),
            Refused(400),
        ),
        (
            "CL with underscore",
            "RFC 9110 §8.6",
            post("Content-Length: 5\r\nContent_Length: 50\r\n", "hello"),
            Clean(&["Content_Length"]),
        ),
        ("CL padded with blanks", "RFC 9112 §5", post("Content-Length: \t 5 \t\r\n", "hello"), Clean(&[])),
        // Transfer-Encoding
        (
            "TE gzip, chunked",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE chunked, chunked",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: chunked, chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE twice",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Refused(400),
        ),
        ("TE identity", "RFC 9112 §6.1", post("Transfer-Encoding: identity\r\n", ""), Refused(400)),
        (
            "TE chunked, identity",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: chunked, identity\r\n", CHUNKS),
            Refused(400),
        ),
        ("TE xchunked", "RFC 9112 §6.1", post("Transfer-Encoding: xchunked\r\n", CHUNKS), Refused(400)),
        ("TE quoted", "RFC 9112 §6.1", post("Transfer-Encoding: \"chunked\"\r\n", CHUNKS), Refused(400)),
        (
            "TE with parameter",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: chunked;a=b\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE with vertical tab",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: \u{b}chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE with space before colon",
            "RFC 9112 §5.1",
            post("Transfer-Encoding : chunked\r\n", CHUNKS),
            Refused(400),
        ),
        ("TE folded", "RFC 9112 §5.2", post("Transfer-Encoding:\r\n chunked\r\n", CHUNKS), Refused(400)),
        ("TE empty", "RFC 9112 §6.1", post("Transfer-Encoding: \r\n", ""), Refused(400)),
        (
            "TE with underscore",
            "RFC 9112 §6.1",
            post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "hello"),
            Clean(&["Transfer_"]),
        ),
        (
            "TE upper case",
            "RFC 9112 §6.1",
            post("TRANSFER-ENCODING: CHUNKED\r\n", CHUNKS),
            Clean(&["CHUNKED"]),
        ),
        (
            "TE in 1.0",
            "RFC 9112 §6.1",
            raw(
                "POST /v HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
            Refused(400),
        ),
        // Chunks
        (
            "chunk extension",
            "RFC 9112 §7.1.1",
            post("Transfer-Encoding: chunked\r\n", "5;x=y\r\nhello\r\n0;z\r\n\r\n"),
            Clean(&[";x", ";z"]),
        ),
        (
            "huge chunk extension",
            "RFC 9112 §7.1.1",
            post("Transfer-Encoding: chunked\r\n", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(5000))),
            Refused(400),
        ),
        (
            "chunk with bare LF",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n"),
            Refused(400),
        ),
        (
            "chunk size with 0x",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size negative",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size with space",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "5 \r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size overflow",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk without CRLF",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk extension with LF",
            "RFC 9112 §7.1.1",
            post("Transfer-Encoding: chunked\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "trailer Content-Length",
            "RFC 9110 §6.5.1",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nContent-Length: 3\r\nX-T: 1\r\n\r\n"),
            Clean(&["Content-Length", "X-T"]),
        ),
        (
            "trailer with NUL",
            "RFC 9110 §6.5.1",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nA: \0\r\n\r\n"),
            Refused(400),
        ),
        // Lines
        ("bare LF everywhere", "RFC 9112 §2.2", raw("GET /v HTTP/1.1\nHost: app.test\n\n"), Refused(400)),
        ("bare LF in one field", "RFC 9112 §2.2", get("A: b\nC: d\r\n"), Refused(400)),
        ("bare CR in a value", "RFC 9112 §2.2", get("A: b\rC: d\r\n"), Refused(400)),
        ("obs-fold", "RFC 9112 §5.2", get("A: b\r\n c\r\n"), Refused(400)),
        ("obs-fold with tab", "RFC 9112 §5.2", get("A: b\r\n\tc\r\n"), Refused(400)),
        (
            "fold before the first field",
            "RFC 9112 §2.2",
            raw("GET /v HTTP/1.1\r\n X: y\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("NUL in a value", "RFC 9110 §5.5", get("A: b\0c\r\n"), Refused(400)),
        ("NUL in a name", "RFC 9112 §5", get("A\0: b\r\n"), Refused(400)),
        ("DEL in a value", "RFC 9110 §5.5", get("A: b\x7fc\r\n"), Refused(400)),
        ("space in a name", "RFC 9112 §5", get("A b: c\r\n"), Refused(400)),
        ("no colon", "RFC 9112 §5", get("Abc\r\n"), Refused(400)),
        ("empty name", "RFC 9112 §5", get(": b\r\n"), Refused(400)),
        ("one empty line first", "RFC 9112 §2.2", format!("\r\n{}", get("")), Clean(&[])),
        ("two empty lines first", "RFC 9112 §2.2", format!("\r\n\r\n{}", get("")), Refused(400)),
        // Request line
        ("HTTP/0.9", "RFC 9112 §2.3", raw("GET /v\r\n\r\n"), Refused(400)),
        ("HTTP/2.0", "RFC 9112 §2.3", raw("GET /v HTTP/2.0\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("HTTP/1.2", "RFC 9112 §2.3", raw("GET /v HTTP/1.2\r\nHost: app.test\r\n\r\n"), Refused(400)),
        (
            "lower-case version",
            "RFC 9112 §2.3",
            raw("GET /v http/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "half an h2 preface",
            "RFC 9113 §3.4",
            raw("PRI * HTTP/2.0\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("space in target", "RFC 9112 §3", raw("GET /v w HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("two spaces", "RFC 9112 §3", raw("GET  /v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("tab as separator", "RFC 9112 §3", raw("GET\t/v\tHTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("NUL in target", "RFC 9112 §3.2", raw("GET /v\0 HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        (
            "fragment in target",
            "RFC 9112 §3.2",
            raw("GET /v#x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("relative target", "RFC 9112 §3.2", raw("GET v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        (
            "absolute form, same host",
            "RFC 9112 §3.2.2",
            raw("GET http://app.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Clean(&["http://"]),
        ),
        (
            "absolute form, other host",
            "RFC 9112 §3.2.2",
            raw("GET http://other.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "absolute form, user info",
            "RFC 9112 §3.2.2",
            raw("GET http://app.test@other.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "CONNECT",
            "RFC 9110 §9.3.6",
            raw("CONNECT app.test:80 HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(405),
        ),
        ("TRACE", "RFC 9110 §9.3.8", raw("TRACE /v HTTP/1.1\r\nHost: app.test\r\n\r\n"), Refused(405)),
        (
            "method with a slash",
            "RFC 9110 §9.1",
            raw("GE/T /v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        // Host
        ("no Host", "RFC 9112 §3.2", raw("GET /v HTTP/1.1\r\n\r\n"), Refused(400)),
        ("two Hosts", "RFC 9112 §3.2", get("Host: app.test\r\n"), Refused(400)),
        (
            "Host list",
            "RFC 9112 §3.2",
            raw("GET /v HTTP/1.1\r\nHost: app.test, other.test\r\n\r\n"),
            Refused(400),
        ),
        ("Host with path", "RFC 9112 §3.2", raw("GET /v HTTP/1.1\r\nHost: app.test/x\r\n\r\n"), Refused(400)),
        (
            "Host with user info",
            "RFC 9112 §3.2",
            raw("GET /v HTTP/1.1\r\nHost: x@app.test\r\n\r\n"),
            Refused(400),
        ),
        ("Host empty", "RFC 9112 §3.2", raw("GET /v HTTP/1.1\r\nHost:\r\n\r\n"), Refused(400)),
        (
            "Host with bad port",
            "RFC 9112 §3.2",
            raw("GET /v HTTP/1.1\r\nHost: app.test:x\r\n\r\n"),
            Refused(400),
        ),
        ("Host unknown", "RFC 9112 §3.2", raw("GET /v HTTP/1.1\r\nHost: nobody.test\r\n\r\n"), Closed),
        // Hop by hop
        (
            "Connection names framing",
            "RFC 9110 §7.6.1",
            post("Connection: Content-Length, Host, X-A\r\nX-A: 1\r\nContent-Length: 5\r\n", "hello"),
            Clean(&["X-A", "Connection"]),
        ),
        (
            "Connection names TE",
            "RFC 9110 §7.6.1",
            post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Clean(&["Connection"]),
        ),
        (
            "Connection names X-Forwarded-For",
            "RFC 9110 §7.6.1",
            get("Connection: X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\n"),
            Clean(&["6.6.6.6", "Connection"]),
        ),
        (
            "Upgrade h2c",
            "RFC 9110 §7.8",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            Clean(&["h2c", "HTTP2-Settings", "Upgrade"]),
        ),
        (
            "Upgrade list",
            "RFC 9110 §7.8",
            get("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
            Clean(&["h2c", "Upgrade"]),
        ),
        ("Upgrade without Connection", "RFC 9110 §7.8", get("Upgrade: websocket\r\n"), Clean(&["Upgrade"])),
        (
            "Upgrade with a body",
            "RFC 9110 §7.8",
            post("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "hello"),
            Clean(&["Upgrade"]),
        ),
        (
            "Upgrade GET with a body",
            "RFC 9110 §7.8",
            get("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n") + "hello",
            Refused(400),
        ),
        (
            "Proxy and TE fields",
            "RFC 9110 §7.6.1",
            get("Proxy: http://evil\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\n"),
            Clean(&["evil", "TE:", "Keep-Alive"]),
        ),
        (
            "forged forwarding",
            "RFC 7239 §8.1",
            get(
                "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Ssl: on\r\n",
            ),
            Clean(&["6.6.6.6", "Ssl"]),
        ),
        (
            "Expect something else",
            "RFC 9110 §10.1.1",
            post("Expect: 200-maybe\r\nContent-Length: 5\r\n", "hello"),
            Refused(417),
        ),
        // Limits
        (
            "URI of 17 KiB",
            "RFC 9112 §3",
            raw(&format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "a".repeat(17 * 1024))),
            Refused(414),
        ),
        ("field of 65 KiB", "RFC 9110 §5.4", get(&format!("A: {}\r\n", "a".repeat(66 * 1024))), Refused(431)),
        ("101 fields", "RFC 9110 §5.4", get(&"A: b\r\n".repeat(100)), Refused(431)),
        // More of the same, from the reports of the last years
        ("CL trailing comma", "RFC 9110 §8.6", post("Content-Length: 5,\r\n", "hello"), Refused(400)),
        ("CL leading comma", "RFC 9110 §8.6", post("Content-Length: ,5\r\n", "hello"), Refused(400)),
        ("CL leading zeros", "RFC 9110 §8.6", post("Content-Length: 005\r\n", "hello"), Clean(&[": 005"])),
        ("CL in Arabic digits", "RFC 9110 §8.6", post("Content-Length: \u{665}\r\n", "hello"), Refused(400)),
        (
            "CL with no-break space",
            "RFC 9110 §5.6.3",
            post("Content-Length: 5\u{a0}\r\n", "hello"),
            Refused(400),
        ),
        ("CL with form feed", "RFC 9110 §5.5", post("Content-Length: 5\u{c}\r\n", "hello"), Refused(400)),
        ("CL quoted", "RFC 9110 §8.6", post("Content-Length: \"5\"\r\n", "hello"), Refused(400)),
        ("CL name with NUL", "RFC 9110 §5.1", post("Content-Length\0: 5\r\n", "hello"), Refused(400)),
        (
            "CL name after a form feed",
            "RFC 9110 §5.1",
            post("\u{c}Content-Length: 5\r\n", "hello"),
            Refused(400),
        ),
        (
            "CL of 19 digits",
            "RFC 9110 §8.6",
            post("Content-Length: 1000000000000000000\r\n", "hello"),
            Refused(400),
        ),
        ("CL on GET", "RFC 9110 §9.3.1", get("Content-Length: 5\r\n") + "hello", Clean(&[])),
        (
            "CL and TE in 1.0",
            "RFC 9112 §6.1",
            raw(
                "POST /v HTTP/1.0\r\nHost: app.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            Refused(400),
        ),
        ("TE chunked on GET", "RFC 9112 §6.1", get("Transfer-Encoding: chunked\r\n") + CHUNKS, Clean(&[])),
        ("TE without blank", "RFC 9112 §5", post("Transfer-Encoding:chunked\r\n", CHUNKS), Clean(&[])),
        (
            "TE padded with blanks",
            "RFC 9112 §5",
            post("Transfer-Encoding: \t chunked \t\r\n", CHUNKS),
            Clean(&["\t"]),
        ),
        (
            "TE trailing comma",
            "RFC 9110 §5.6.1",
            post("Transfer-Encoding: chunked,\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE leading comma",
            "RFC 9110 §5.6.1",
            post("Transfer-Encoding: ,chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE chunked and identity apart",
            "RFC 9112 §6.1",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKS),
            Refused(400),
        ),
        ("TE gzip alone", "RFC 9112 §6.1", post("Transfer-Encoding: gzip\r\n", "hello"), Refused(400)),
        (
            "TE with no-break space",
            "RFC 9110 §5.6.3",
            post("Transfer-Encoding: chunked\u{a0}\r\n", CHUNKS),
            Refused(400),
        ),
        ("TE with NUL", "RFC 9110 §5.5", post("Transfer-Encoding: chunked\0\r\n", CHUNKS), Refused(400)),
        (
            "TE name in brackets",
            "RFC 9110 §5.1",
            post("[Transfer-Encoding]: chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE behind a bare CR",
            "RFC 9112 §2.2",
            post("X: y\rTransfer-Encoding: chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "TE behind a bare LF",
            "RFC 9112 §2.2",
            post("X: y\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Refused(400),
        ),
        (
            "chunk sizes in capitals and zeros",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "00A\r\n0123456789\r\n000\r\n\r\n"),
            Clean(&["00A"]),
        ),
        (
            "chunk size empty",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size of 16 digits",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "0000000000000005\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size with a plus",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size with an underscore",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "1_0\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk size behind a blank",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", " 5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk ended by bare CR",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "5\rhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk ended by CR CR LF",
            "RFC 9112 §2.2",
            post("Transfer-Encoding: chunked\r\n", "5\r\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk longer than its size",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "3\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk data with bare LF behind",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "last chunk ended by bare LF",
            "RFC 9112 §7.1",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\n"),
            Refused(400),
        ),
        (
            "chunk extension over two lines",
            "RFC 9112 §7.1.1",
            post("Transfer-Encoding: chunked\r\n", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk extension with a quoted end",
            "RFC 9112 §7.1.1",
            post("Transfer-Encoding: chunked\r\n", "5;a=\"x;y\"\r\nhello\r\n0\r\n\r\n"),
            Clean(&[";a"]),
        ),
        (
            "chunk extension with bare CR",
            "RFC 9112 §7.1.1",
            post("Transfer-Encoding: chunked\r\n", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        (
            "chunk extensions without end",
            "RFC 9112 §7.1.1",
            post(
                "Transfer-Encoding: chunked\r\n",
                &("1;".to_owned() + &"a".repeat(2000) + "\r\nx\r\n").repeat(40),
            ),
            Refused(400),
        ),
        (
            "trailers without end",
            "RFC 9112 §7.1.2",
            post(
                "Transfer-Encoding: chunked\r\n",
                &("5\r\nhello\r\n0\r\n".to_owned() + &"A: bbbbbbbbbbbbbbbb\r\n".repeat(2000)),
            ),
            Refused(400),
        ),
        (
            "trailer folded",
            "RFC 9112 §5.2",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"),
            Refused(400),
        ),
        (
            "trailer without colon",
            "RFC 9112 §7.1.2",
            post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nAbc\r\n\r\n"),
            Refused(400),
        ),
        (
            "trailers with Host and TE",
            "RFC 9110 §6.5.1",
            post(
                "Trailer: Host\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\nHost: evil.test\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            Clean(&["evil", "Trailer"]),
        ),
        ("name in brackets", "RFC 9110 §5.1", get("A(b): c\r\n"), Refused(400)),
        ("name not ASCII", "RFC 9110 §5.1", get("\u{e4}: c\r\n"), Refused(400)),
        ("vertical tab in a value", "RFC 9110 §5.5", get("A: b\u{b}c\r\n"), Refused(400)),
        ("escape in a value", "RFC 9110 §5.5", get("A: b\u{1b}c\r\n"), Refused(400)),
        ("CR at the end of a value", "RFC 9112 §2.2", get("A: b\r\r\n"), Refused(400)),
        ("LF CR for CR LF", "RFC 9112 §2.2", raw("GET /v HTTP/1.1\n\rHost: app.test\n\r\n\r"), Refused(400)),
        ("HTTP/1.10", "RFC 9112 §2.3", raw("GET /v HTTP/1.10\r\nHost: app.test\r\n\r\n"), Refused(400)),
        (
            "HTTP/1.1 and a blank",
            "RFC 9112 §3",
            raw("GET /v HTTP/1.1 \r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("HTTP/1,1", "RFC 9112 §2.3", raw("GET /v HTTP/1,1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        ("HTTPS/1.1", "RFC 9112 §2.3", raw("GET /v HTTPS/1.1\r\nHost: app.test\r\n\r\n"), Refused(400)),
        (
            "blank before the method",
            "RFC 9112 §3",
            raw(" GET /v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "method in small letters",
            "RFC 9110 §9.1",
            raw("get /v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Clean(&["GET"]),
        ),
        (
            "method with NUL",
            "RFC 9110 §9.1",
            raw("GET\0 /v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "CONNECT in disguise",
            "RFC 9112 §3.2.3",
            raw("GET app.test:80 HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "asterisk for GET",
            "RFC 9112 §3.2.4",
            raw("GET * HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "asterisk for OPTIONS",
            "RFC 9112 §3.2.4",
            raw("OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Clean(&[]),
        ),
        (
            "absolute form, other port",
            "RFC 9112 §3.2.2",
            raw("GET http://app.test:81/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "absolute form, other scheme",
            "RFC 9112 §3.2.2",
            raw("GET ftp://app.test/v HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "absolute form, no path",
            "RFC 9112 §3.2.2",
            raw("GET http://app.test?q HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            Clean(&["http://"]),
        ),
        (
            "Host folded",
            "RFC 9112 §5.2",
            raw("GET /v HTTP/1.1\r\nHost: app.test\r\n .evil\r\n\r\n"),
            Refused(400),
        ),
        (
            "Host with blank before colon",
            "RFC 9112 §5.1",
            raw("GET /v HTTP/1.1\r\nHost : app.test\r\n\r\n"),
            Refused(400),
        ),
        (
            "Host with NUL",
            "RFC 9110 §5.5",
            raw("GET /v HTTP/1.1\r\nHost: app.test\0.evil\r\n\r\n"),
            Refused(400),
        ),
        (
            "Host with two ports",
            "RFC 9110 §7.2",
            raw("GET /v HTTP/1.1\r\nHost: app.test:80:81\r\n\r\n"),
            Refused(400),
        ),
        (
            "Host percent-encoded",
            "RFC 9110 §7.2",
            raw("GET /v HTTP/1.1\r\nHost: app%2etest\r\n\r\n"),
            Refused(400),
        ),
        (
            "Host with a backslash",
            "RFC 9110 §7.2",
            raw("GET /v HTTP/1.1\r\nHost: app.test\\evil\r\n\r\n"),
            Refused(400),
        ),
        ("Host half an address", "RFC 9110 §7.2", raw("GET /v HTTP/1.1\r\nHost: [::1\r\n\r\n"), Refused(400)),
        (
            "Host with an underscore name beside",
            "RFC 3875 §4.1.18",
            get("Http_Host: evil\r\nHOST_: evil\r\n"),
            Clean(&[]),
        ),
        (
            "Host twice, once empty",
            "RFC 9112 §3.2",
            raw("GET /v HTTP/1.1\r\nHost:\r\nHost: app.test\r\n\r\n"),
            Refused(400),
        ),
        ("no Host in 1.0", "RFC 9112 §3.2", raw("GET /v HTTP/1.0\r\n\r\n"), Refused(400)),
        (
            "Connection names Cookie",
            "RFC 9110 §7.6.1",
            get("Connection: close, Cookie\r\nCookie: a=b\r\n"),
            Clean(&["a=b", "Connection"]),
        ),
        (
            "Connection with rubbish",
            "RFC 9110 §7.6.1",
            get("Connection: ,, ;,\u{e4}\r\n"),
            Clean(&["Connection"]),
        ),
        (
            "two Connections",
            "RFC 9110 §7.6.1",
            get("Connection: X-A\r\nConnection: X-B\r\nX-A: one\r\nX-B: two\r\n"),
            Clean(&["one", "two"]),
        ),
        (
            "Upgrade in 1.0",
            "RFC 9110 §7.8",
            raw("GET /v HTTP/1.0\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            Clean(&["Upgrade"]),
        ),
        (
            "Upgrade in two fields",
            "RFC 9110 §7.8",
            get("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
            Clean(&["h2c", "Upgrade"]),
        ),
        (
            "Proxy-Authorization",
            "RFC 9110 §11.7.1",
            get("Proxy-Authorization: Basic c2VjcmV0\r\n"),
            Clean(&["c2VjcmV0"]),
        ),
        (
            "forged request id",
            "RFC 9110 §5.5",
            get("X-Request-Id: a b\u{e4}<script>\r\n"),
            Clean(&["script"]),
        ),
        ("Expect without a body", "RFC 9110 §10.1.1", get("Expect: 100-continue\r\n"), Clean(&["Expect"])),
        (
            "fields of 64 KiB in sum",
            "RFC 6585 §5",
            get(&format!("A: {}\r\n", "a".repeat(1000)).repeat(70)),
            Refused(431),
        ),
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
    for (name, rule, request, fate) in all {
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
            failures.push(format!("{name} ({rule}): {verdict}; the origin saw {seen:?}"));
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
