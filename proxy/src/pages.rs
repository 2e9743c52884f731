//! The proxy's own answers: small, neutral, and silent about what is behind it.
//!
//! In: a status. Out: the bytes of a whole answer.

use crate::head::Method;
use crate::policy::Answer;

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
        whole(&self.into(), "", method, close, html, out);
    }
}

impl From<Page> for Answer {
    fn from(page: Page) -> Self {
        Self { retry_after: page.retry_after.map(u32::from), ..Self::of(page.status) }
    }
}

/// Writes a whole answer to `out`; `lines` go into its head.
pub(crate) fn whole(
    answer: &Answer,
    lines: &str,
    method: Method,
    close: bool,
    html: bool,
    out: &mut Vec<u8>,
) {
    let (title, text) = words(answer.status);
    let mut line = itoa::Buffer::new();
    let status = line.format(answer.status);
    let own = answer.page.as_deref();
    let html = html || own.is_some();
    let body = match html {
        _ if own.is_some() => own.unwrap_or_default().to_owned(),
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
    push(&[&answer.fields, lines]);
    if let Some(seconds) = answer.retry_after {
        push(&["Retry-After: ", itoa::Buffer::new().format(seconds), "\r\n"]);
    }
    if answer.status == 405 {
        push(&["Allow: GET, HEAD\r\n"]);
    }
    push(&[if close { "Connection: close\r\n\r\n" } else { "\r\n" }]);
    if method != Method::Head {
        push(&[&body]);
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

fn words(status: u16) -> (&'static str, &'static str) {
    match status {
        301 => ("Moved Permanently", "It is elsewhere."),
        302 => ("Found", "It is elsewhere for now."),
        307 => ("Temporary Redirect", "It is elsewhere for now."),
        308 => ("Permanent Redirect", "It is elsewhere."),
        400 => ("Bad Request", "The request could not be understood."),
        401 => ("Unauthorized", "A name and a password are needed here."),
        403 => ("Forbidden", "This is not open to you."),
        404 => ("Not Found", "There is nothing at this address."),
        405 => ("Method Not Allowed", "This cannot be done here."),
        408 => ("Request Timeout", "The request took too long to arrive."),
        413 => ("Content Too Large", "What was sent is too large."),
        414 => ("URI Too Long", "The address is too long."),
        421 => ("Misdirected Request", "This connection was made for another host name."),
        417 => ("Expectation Failed", "The request expects something that is not offered."),
        429 => ("Too Many Requests", "Please wait a little before you try again."),
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
