//! The name in a TLS client's first message, without ending its TLS.
//!
//! In: the first bytes of a connection. Out: the server name (RFC 6066 §3), once the `ClientHello` (RFC 8446 §4.1.2) is
//! whole, be it in one record or many. No I/O; bounded; whatever two parsers could read differently is malformed.

use crate::fields;

/// Bytes of a first message and its records, at most.
pub(crate) const MAX_HELLO: usize = 24 * 1024;
/// A fatal alert `unrecognized_name` (RFC 8446 §6.2, RFC 6066 §3), in a record of its own.
pub(crate) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// Not all of it is there.
    More,
    /// The name asked for, if any.
    Name(Option<Box<str>>),
    Malformed,
}

/// Reads a first message.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    if bytes.len() > MAX_HELLO {
        return Hello::Malformed;
    }
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // A record: handshake, TLS 1.x, 1 to 2^14 bytes (RFC 8446 §5.1).
        if rest.first().is_some_and(|kind| *kind != 22) || rest.get(1).is_some_and(|major| *major != 3) {
            return Hello::Malformed;
        }
        let Some(&[_, _, _, high, low]) = rest.get(..5) else { return Hello::More };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > 1 << 14 {
            return Hello::Malformed;
        }
        let body = &rest[5..];
        message.extend_from_slice(&body[..length.min(body.len())]);
        if let [kind, ..] = message[..]
            && kind != 1
        {
            return Hello::Malformed;
        }
        if let [_, high, middle, low, ref hello @ ..] = message[..] {
            let whole = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if whole > MAX_HELLO {
                return Hello::Malformed;
            }
            if hello.len() >= whole {
                return name(&hello[..whole]).map_or(Hello::Malformed, Hello::Name);
            }
        }
        match body.get(length..) {
            Some(next) => rest = next,
            None => return Hello::More,
        }
    }
}

/// A cursor over the fields of a message.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    /// What a length of so many bytes goes before.
    fn vector(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(bytes)?;
        self.take(length)
    }
}

/// The name in the body of a `ClientHello`. `None` if that is malformed.
fn name(hello: &[u8]) -> Option<Option<Box<str>>> {
    let mut hello = Cursor(hello);
    hello.take(2 + 32)?;
    (hello.vector(1)?.len() <= 32).then_some(())?;
    let ciphers = hello.vector(2)?;
    (!ciphers.is_empty() && ciphers.len() % 2 == 0).then_some(())?;
    (!hello.vector(1)?.is_empty()).then_some(())?;
    if hello.0.is_empty() {
        return Some(None); // TLS 1.2 without extensions
    }
    let mut extensions = Cursor(hello.vector(2)?);
    hello.0.is_empty().then_some(())?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind != 0 {
            continue;
        }
        // One list of one host name; older texts allowed more, and nobody ever sent them.
        let mut outer = Cursor(body);
        let mut list = Cursor(outer.vector(2)?);
        (outer.0.is_empty() && found.is_none() && list.number(1)? == 0).then_some(())?;
        let text = list.vector(2)?;
        let fits =
            list.0.is_empty() && fields::is_host(text) && !text.contains(&b':') && !text.starts_with(b"[");
        found = Some(std::str::from_utf8(text).ok().filter(|_| fits)?.to_ascii_lowercase().into());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use std::sync::Arc;

    /// The first bytes of a real client.
    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("writes");
        bytes
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let cut = |part: &[u8]| {
            let length = u16::try_from(part.len()).expect("short").to_be_bytes();
            [&[22, 3, 1][..], &length, part].concat()
        };
        message.chunks(size).flat_map(cut).collect()
    }

    #[test]
    fn the_name_is_found_wherever_it_is_cut() {
        let bytes = hello("App.example");
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Hello::More, "{cut}");
        }
        assert_eq!(read(&bytes), Hello::Name(Some("app.example".into())));
        assert_eq!(read(&[&bytes[..], b"more"].concat()), Hello::Name(Some("app.example".into())));
        for size in [1, 2, 3, 5, 50] {
            let parts = records(&bytes[5..], size);
            assert_eq!(read(&parts), Hello::Name(Some("app.example".into())), "records of {size}");
            assert_eq!(read(&parts[..parts.len() - 1]), Hello::More);
        }
        assert_eq!(read(&hello("192.0.2.1")), Hello::Name(None));
    }

    #[test]
    fn nonsense_is_malformed() {
        let bytes = hello("app.example");
        for (at, value) in [(0, 23), (1, 2), (5, 2), (6, 1)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert_eq!(read(&bad), Hello::Malformed, "byte {at}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Hello::Malformed);
        assert_eq!(read(&[22, 3, 1, 0, 0]), Hello::Malformed);
        assert_eq!(read(&[22, 3, 1, 0x40, 1]), Hello::Malformed);
        assert_eq!(read(&records(&[1, 0, 0xff, 0xff], 4)), Hello::Malformed);
        let at = bytes.windows(11).position(|part| part == b"app.example").expect("it is there");
        for bad in [b'/', 0, b':', 0xff, b' '] {
            let mut spoiled = bytes.clone();
            spoiled[at + 1] = bad;
            assert_eq!(read(&spoiled), Hello::Malformed, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0_usize..200, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut all = hello("app.example");
            let end = (at + bytes.len()).min(all.len());
            all.splice(at.min(end)..end, bytes);
            let _ = read(&all);
        }
    }
}
