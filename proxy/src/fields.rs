//! Header field names that mean something to a proxy, and the few value grammars it must read.
//!
//! In: names and values as received. Out: what to do with them. No I/O, no allocation.

/// What the forwarder does with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    ForwardedPort,
    RequestId,
    TraceParent,
    TraceState,
    /// Passed on like [`Self::Other`], and logged.
    Referer,
    UserAgent,
    /// Belongs to one hop, or is ours alone to set: never passed on.
    Dropped,
    /// Passed on unless `Connection` names it.
    Other,
}

/// `name` equals `lower` (lower case, hyphens), case ignored and `_` read as `-`.
fn alike(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len()
        && name.iter().zip(lower).all(|(a, b)| a.to_ascii_lowercase() == *b || (*a == b'_' && *b == b'-'))
}

/// Which kind the field `name` is. Applications that follow CGI read `X_Forwarded_For` as `X-Forwarded-For`; such an
/// imitation of a field that matters here is dropped.
pub(crate) fn classify(name: &[u8]) -> Kind {
    const FORWARDED: &[u8] = b"x-forwarded-";
    let kind = match name.len() {
        2 if alike(name, b"te") => Kind::Dropped,
        4 if alike(name, b"host") => Kind::Host,
        5 if alike(name, b"proxy") => Kind::Dropped, // becomes HTTP_PROXY in a CGI environment
        6 if alike(name, b"expect") => Kind::Expect,
        7 if alike(name, b"upgrade") => Kind::Upgrade,
        7 if alike(name, b"trailer") => Kind::Dropped,
        7 if alike(name, b"referer") => Kind::Referer,
        9 if alike(name, b"forwarded") || alike(name, b"x-real-ip") => Kind::Dropped,
        10 if alike(name, b"connection") => Kind::Connection,
        10 if alike(name, b"keep-alive") => Kind::Dropped,
        10 if alike(name, b"tracestate") => Kind::TraceState,
        10 if name.eq_ignore_ascii_case(b"user-agent") => Kind::UserAgent,
        11 if alike(name, b"traceparent") => Kind::TraceParent,
        12 if alike(name, b"x-request-id") => Kind::RequestId,
        14 if alike(name, b"content-length") => Kind::ContentLength,
        14 if alike(name, b"http2-settings") => Kind::Dropped,
        15 if alike(name, b"x-request-start") => Kind::Dropped,
        15 if alike(name, b"x-forwarded-for") => Kind::ForwardedFor,
        16 if alike(name, b"x-forwarded-host") => Kind::ForwardedHost,
        16 if alike(name, b"x-forwarded-port") => Kind::ForwardedPort,
        16 if alike(name, b"proxy-connection") => Kind::Dropped,
        17 if alike(name, b"x-forwarded-proto") => Kind::ForwardedProto,
        17 if alike(name, b"transfer-encoding") => Kind::TransferEncoding,
        18 if alike(name, b"proxy-authenticate") => Kind::Dropped,
        19 if alike(name, b"proxy-authorization") => Kind::Dropped,
        13.. if alike(&name[..FORWARDED.len()], FORWARDED) => Kind::Dropped,
        _ => Kind::Other,
    };
    if kind != Kind::Other && name.contains(&b'_') { Kind::Dropped } else { kind }
}

/// The value of the first field of this name (lower case) in a head that was written here: one line a field.
pub(crate) fn of<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|b| *b == b'\n').skip(1).find_map(|line| {
        let (found, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(value.trim_ascii())
    })
}

/// The tokens of a comma list, without their surrounding blanks; empty ones left out.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// A `Content-Length`: 1 to 18 digits and nothing else.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Whether this may stand in a `Host` field: a name or an address, with an optional port (RFC 3986 §3.2.2, narrower).
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (name, port) = match value.first() {
        Some(b'[') => match value.iter().position(|b| *b == b']') {
            Some(end) => (&value[..=end], &value[end + 1..]),
            None => return false,
        },
        _ => match value.iter().position(|b| *b == b':') {
            Some(colon) => value.split_at(colon),
            None => (value, &b""[..]),
        },
    };
    let name_fits = match name {
        [b'[', inner @ .., b']'] => {
            std::str::from_utf8(inner).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
        }
        _ => {
            !name.is_empty()
                && name.len() <= 254
                && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        }
    };
    let port_fits = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    name_fits && port_fits
}

/// A `Host` value without its port.
pub(crate) fn without_port(value: &[u8]) -> &[u8] {
    match value.first() {
        Some(b'[') => match value.iter().position(|b| *b == b']') {
            Some(end) => &value[..=end],
            None => value,
        },
        _ => value.split(|b| *b == b':').next().unwrap_or(value),
    }
}

/// The name of a `Host` value as routes know it: lower case, without port and final dot, in `into`.
pub(crate) fn route_host<'a>(value: &[u8], into: &'a mut [u8; 256]) -> Option<&'a str> {
    let name = without_port(value);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let target = into.get_mut(..name.len())?;
    target.copy_from_slice(name);
    target.make_ascii_lowercase();
    std::str::from_utf8(target).ok()
}

/// Where a head ends. Remembers what it has looked at, so that a head that comes byte by byte costs its length once.
#[derive(Debug, Default)]
pub(crate) struct HeadEnd {
    seen: usize,
}

/// A line feed without a carriage return before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BareLineFeed;

impl HeadEnd {
    /// The length of the head at the front of `data`, which only grew since the last call. `strict` refuses bare line
    /// feeds; otherwise they end lines too.
    pub(crate) fn find(&mut self, data: &[u8], strict: bool) -> Result<Option<usize>, BareLineFeed> {
        while let Some(found) = memchr::memchr(b'\n', &data[self.seen..]) {
            let at = self.seen + found;
            if strict && (at == 0 || data[at - 1] != b'\r') {
                return Err(BareLineFeed);
            }
            self.seen = at + 1;
            let before = &data[..at];
            let before = before.strip_suffix(b"\r").unwrap_or(before);
            if before.ends_with(b"\n") {
                return Ok(Some(at + 1));
            }
        }
        self.seen = data.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imitations_with_underscores_are_dropped() {
        for name in
            ["X_Forwarded_For", "content_length", "Transfer_Encoding", "x-forwarded_for", "X_Request_Id"]
        {
            assert_eq!(classify(name.as_bytes()), Kind::Dropped, "{name}");
        }
        assert_eq!(classify(b"my_header"), Kind::Other);
        assert_eq!(classify(b"Transfer-Encoding"), Kind::TransferEncoding);
        assert_eq!(classify(b"X-Forwarded-Prefix"), Kind::Dropped);
    }

    #[test]
    fn lengths_are_digits_only() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"999999999999999999"), Some(999_999_999_999_999_999));
        for bad in ["", "+5", "-5", "5, 5", "5 ", "0x5", "1e3", "18446744073709551619", "\u{0665}"] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in
            ["a.example", "a.example:8080", "A.EXAMPLE.", "127.0.0.1:80", "[::1]", "[::1]:80", "a_b", "a:"]
        {
            assert!(is_host(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "", ":80", "a b", "a,b", "a/b", "a@b", "a:b", "a:123456", "[::1", "[x]", "[::1]x", "a:8:8",
            "a\u{e9}",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad:?}");
        }
        let mut space = [0; 256];
        assert_eq!(route_host(b"WWW.Example.COM.:80", &mut space), Some("www.example.com"));
    }

    #[test]
    fn a_head_end_is_found_wherever_reads_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut end = HeadEnd::default();
        for length in 0..head.len() {
            let found = end.find(&head[..length], true).expect("no bare line feed");
            assert_eq!(found, (length >= 27).then_some(27), "at {length}");
            if found.is_some() {
                break;
            }
        }
        assert_eq!(HeadEnd::default().find(b"GET / HTTP/1.1\nHost: a\n\n", true), Err(BareLineFeed));
        assert_eq!(HeadEnd::default().find(b"HTTP/1.1 200\nA: b\n\nx", false), Ok(Some(19)));
    }
}
