//! The proxy's own answers: small, neutral, and silent about what is behind it.
//!
//! In: a status. Out: the bytes of a whole answer.

use crate::fields;
use crate::head::Method;

/// A status of the proxy itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// Seconds for `Retry-After`.
    pub(crate) retry_after: Option<u8>,
}

impl Page {
    pub(crate) const fn of(status: u16) -> Self {
        Self { status, retry_after: None }
    }

    /// The app has no container ready.
    pub(crate) const UNAVAILABLE: Self = Self { status: 503, retry_after: Some(2) };
    /// No container could be reached, or none that answers HTTP; also a stopped app.
    pub(crate) const BAD_GATEWAY: Self = Self::of(502);
    /// The connection was made for another name's certificate (RFC 9110 §15.5.20).
    pub(crate) const MISDIRECTED: Self = Self::of(421);
    pub(crate) const TIMED_OUT: Self = Self::of(504);

    /// Writes the whole answer to `out`.
    pub(crate) fn write(self, method: Method, close: bool, html: bool, out: &mut Vec<u8>) {
        let (title, text) = words(self.status);
        let mut line = itoa::Buffer::new();
        let status = line.format(self.status);
        let body = match html {
            true => format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
                 content=\"width=device-width\"><title>{title}</title><style>body{{font:1rem/1.5 system-ui,\
                 sans-serif;max-width:32rem;margin:20vh auto 0;padding:0 1rem;color:#333;background:#fff}}\
                 h1{{font-size:1.25rem}}</style></head><body><h1>{title}</h1><p>{text}</p></body></html>\n"
            ),
            false => format!("{title}\n{text}\n"),
        };
        let mut push = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        let kind = if html { "text/html" } else { "text/plain" };
        push(&[
            "HTTP/1.1 ",
            status,
            " ",
            title,
            "\r\nContent-Type: ",
            kind,
            "; charset=utf-8\r\nContent-Length: ",
        ]);
        push(&[itoa::Buffer::new().format(body.len()), "\r\nCache-Control: no-store\r\n"]);
        if let Some(seconds) = self.retry_after {
            push(&["Retry-After: ", itoa::Buffer::new().format(seconds), "\r\n"]);
        }
        if self.status == 405 {
            push(&["Allow: GET, HEAD\r\n"]);
        }
        push(&[if close { "Connection: close\r\n\r\n" } else { "\r\n" }]);
        if method != Method::Head {
            push(&[&body]);
        }
    }
}

/// Writes an answer that is a plain text to `out`.
pub(crate) fn text(body: &str, method: Method, close: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
    out.extend_from_slice(if close { b"\r\nConnection: close\r\n\r\n" } else { b"\r\n\r\n" });
    if method != Method::Head {
        out.extend_from_slice(body.as_bytes());
    }
}

/// The status that sends a request elsewhere for good: a method that is not for looking only must be kept
/// (RFC 9110 §15.4.9).
pub(crate) fn moved(method: Method) -> u16 {
    if matches!(method, Method::Get | Method::Head) { 301 } else { 308 }
}

/// Writes the answer that sends a request to the same address by TLS.
pub(crate) fn secure(host: &[u8], port: u16, target: &[u8], method: Method, close: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(match moved(method) {
        301 => b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://",
        _ => b"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://",
    });
    out.extend_from_slice(fields::without_port(host));
    if port != 443 {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
    }
    out.extend_from_slice(if target == b"*" { b"/" } else { target });
    out.extend_from_slice(b"\r\nContent-Length: 0\r\n");
    out.extend_from_slice(if close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
}

fn words(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("Bad Request", "The request could not be understood."),
        404 => ("Not Found", "There is nothing at this address."),
        405 => ("Method Not Allowed", "This cannot be done here."),
        408 => ("Request Timeout", "The request took too long to arrive."),
        414 => ("URI Too Long", "The address is too long."),
        421 => ("Misdirected Request", "This connection was made for another host name."),
        417 => ("Expectation Failed", "The request expects something that is not offered."),
        431 => ("Request Header Fields Too Large", "The head of the request is too large."),
        500 => ("Internal Server Error", "Something went wrong. Please try again later."),
        501 => ("Not Implemented", "This is not offered here."),
        502 => ("Bad Gateway", "The application is not running or did not answer properly."),
        503 => ("Service Unavailable", "The application is not ready yet. Please try again in a moment."),
        504 => ("Gateway Timeout", "The application took too long to answer."),
        _ => ("Error", "The request could not be answered."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_whole_answer() {
        let mut out = Vec::new();
        Page::UNAVAILABLE.write(Method::Get, true, false, &mut out);
        let text = String::from_utf8(out).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains("Retry-After: 2\r\n") && head.ends_with("Connection: close"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        let mut none = Vec::new();
        Page::of(404).write(Method::Head, false, true, &mut none);
        assert!(none.ends_with(b"\r\n\r\n"));
    }
}
