//! Answer heads: from an app's bytes to a typed reply and to the head the client gets.
//!
//! In: a whole head, and what the request allows. Out: [`Reply`] and the rewritten head, or why the app's answer makes
//! no sense. No I/O. An app can only spoil its own connection: it is dropped at the first doubt.

use crate::chunk::Body;
use crate::fields::{self, Kind};
use crate::head::{Method, Request, nominated};
use crate::settings::MAX_FIELDS;
use std::mem::MaybeUninit;

/// What the forwarder must know of an answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Of the app's answer.
    pub(crate) body: Body,
    /// The client gets the body in chunks.
    pub(crate) chunked: bool,
    /// The app's connection may be used again after the body.
    pub(crate) reusable: bool,
    /// The client was told that its connection ends with this answer.
    pub(crate) closes: bool,
}

impl Reply {
    /// 1xx: another answer follows.
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// The app's answer is not HTTP, or not one that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadReply(pub(crate) &'static str);

/// Parses the whole head `head` and writes the one for the client to `out`, behind what is there.
/// `close` says that the client's connection cannot outlive this answer.
pub(crate) fn parse(
    head: &[u8],
    request: &Request,
    close: bool,
    out: &mut Vec<u8>,
) -> Result<Reply, BadReply> {
    let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut storage) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err(BadReply("malformed answer")),
    }
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Err(BadReply("malformed status line"));
    };
    if !(100..1000).contains(&status) {
        return Err(BadReply("malformed status code"));
    }
    let found = gather(parsed.headers)?;
    if status == 101 && !(request.websocket && found.websocket) {
        return Err(BadReply("switched protocols though nobody asked for that"));
    }
    let interim = (100..200).contains(&status);
    let bodyless = interim || status == 204 || status == 304 || request.method == Method::Head;
    let body = match (found.chunked, found.length) {
        _ if bodyless => Body::none(),
        (true, _) => Body::chunked(),
        (false, Some(length)) => Body::Length(length),
        (false, None) => Body::UntilClose,
    };
    let until_close = matches!(body, Body::UntilClose);
    let unsized_body = !bodyless && (found.chunked || until_close);
    let chunked = unsized_body && !request.old && !request.streamed;
    let closes = !interim && (close || !request.keep_alive || (unsized_body && request.old));
    let reusable = !until_close
        && !found.close
        && version == 1
        && status != 101
        && !(found.chunked && found.length.is_some());

    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(parsed.reason.unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    for field in parsed.headers.iter() {
        let name = field.name.as_bytes();
        let kept = match fields::classify(name) {
            Kind::Other | Kind::Referer | Kind::UserAgent | Kind::TraceParent | Kind::TraceState => {
                !(found.connection && nominated(parsed.headers, name))
            }
            // Of a request only; an app that sends one back means it for its client.
            Kind::RequestId | Kind::Host | Kind::Expect => true,
            _ => false,
        };
        if kept {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value.trim_ascii());
            out.extend_from_slice(b"\r\n");
        }
    }
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    } else if let Some(length) = found.length.filter(|_| !interim && status != 204 && !found.chunked) {
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if status == 101 {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if closes {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if request.old && !interim {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(Reply { status, body, chunked, reusable, closes })
}

#[derive(Default)]
struct Found {
    length: Option<u64>,
    chunked: bool,
    connection: bool,
    close: bool,
    websocket: bool,
}

fn gather(headers: &[httparse::Header<'_>]) -> Result<Found, BadReply> {
    let mut found = Found::default();
    for field in headers {
        let value = field.value.trim_ascii();
        match fields::classify(field.name.as_bytes()) {
            Kind::ContentLength => {
                let length = fields::content_length(value).ok_or(BadReply("malformed Content-Length"))?;
                if found.length.replace(length).is_some_and(|earlier| earlier != length) {
                    return Err(BadReply("two different Content-Length fields"));
                }
            }
            Kind::TransferEncoding => {
                if found.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadReply("Transfer-Encoding is not exactly one \"chunked\""));
                }
                found.chunked = true;
            }
            Kind::Connection => {
                found.connection = true;
                found.close |= fields::tokens(value).any(|token| token.eq_ignore_ascii_case(b"close"));
            }
            Kind::Upgrade => found.websocket |= value.eq_ignore_ascii_case(b"websocket"),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, old: bool, websocket: bool) -> Request {
        Request { old, keep_alive: !old, websocket, ..Request::bare(method) }
    }

    fn rewrite(head: &str, request: &Request) -> Result<(Reply, String), BadReply> {
        let mut out = Vec::new();
        let reply = parse(head.as_bytes(), request, false, &mut out)?;
        Ok((reply, String::from_utf8(out).expect("text")))
    }

    #[test]
    fn framing_is_ours() {
        let get = request(Method::Get, false, false);
        let (reply, out) = rewrite(
            "HTTP/1.1 200 Fine\r\nconnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 3\r\ncontent-length: 3\r\nA:b\r\n\r\n",
            &get,
        )
        .expect("valid");
        assert_eq!(out, "HTTP/1.1 200 Fine\r\nA: b\r\nContent-Length: 3\r\n\r\n");
        assert!(reply.reusable && !reply.closes && matches!(reply.body, Body::Length(3)));

        let (reply, out) =
            rewrite("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", &get)
                .expect("valid");
        assert_eq!(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(!reply.reusable);

        let (reply, out) = rewrite("HTTP/1.0 200 OK\r\n\r\n", &get).expect("valid");
        assert_eq!(out, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(!reply.reusable && reply.chunked);
    }

    #[test]
    fn some_answers_have_no_body() {
        let get = request(Method::Get, false, false);
        let head = request(Method::Head, false, false);
        let (reply, out) = rewrite("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n", &head).expect("valid");
        assert!(reply.body.is_done() && out.contains("Content-Length: 30"), "{out}");
        let (reply, out) =
            rewrite("HTTP/1.1 304 Not Modified\r\nContent-Length: 30\r\n\r\n", &get).expect("valid");
        assert!(reply.body.is_done() && out.contains("Content-Length: 30"), "{out}");
        let (reply, out) =
            rewrite("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", &get).expect("valid");
        assert!(reply.body.is_done() && !out.contains("Content-Length"), "{out}");
    }

    #[test]
    fn an_old_client_gets_no_chunks() {
        let old = request(Method::Get, true, false);
        let (reply, out) =
            rewrite("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &old).expect("valid");
        assert!(!reply.chunked && reply.closes);
        assert_eq!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn nonsense_is_refused() {
        let get = request(Method::Get, false, false);
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: \u{0}\r\n\r\n",
        ] {
            assert!(rewrite(bad, &get).is_err(), "{bad:?}");
        }
        let asked = request(Method::Get, false, true);
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        let (_, out) = rewrite(switched, &asked).expect("valid");
        assert!(out.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
        assert!(rewrite("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", &asked).is_err());
    }
}
