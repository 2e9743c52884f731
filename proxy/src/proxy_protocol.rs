//! The PROXY protocol, versions 1 and 2: who the client behind a load balancer is, said in front of a connection.
//!
//! In: the first bytes of a connection from a trusted peer, or two addresses. Out: the client's address, or the header for
//! an app. Strict, bounded, and never guessed: whoever is trusted must send a header, and nobody else's is read as one
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use crate::worker::Worker;
use berth_model::ports::ProxyProtocol;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, its end included.
const MAX_V1: usize = 107;
/// Longest header of version 2 taken: addresses and what else a balancer may add.
const MAX_V2: usize = 2048;

/// A network whose hosts speak for their clients: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address or ADDRESS/LENGTH, such as 10.0.0.0/8 or fd00::/8")]
pub struct NoNetwork(String);

impl Network {
    /// Whether `address` is in it. An IPv4 address in IPv6's clothes counts as what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |ours: u128, theirs: u128, width: u8| {
            let shift = u32::from(width - self.length.min(width));
            shift == 128 || ours >> shift == theirs >> shift
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                same(u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => same(ours.to_bits(), theirs.to_bits(), 128),
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> std::result::Result<Self, NoNetwork> {
        let wrong = || NoNetwork(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None => width,
        };
        if length > width {
            return Err(wrong());
        }
        Ok(Self { address, length })
    }
}

/// What the beginning of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// Not all of it is there.
    More,
    /// A header of `used` bytes; without a source the connection speaks for itself.
    Header {
        used: usize,
        source: Option<SocketAddr>,
    },
    Malformed,
}

/// A header is the same wherever it is split, and ends within its bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(input: &[u8]) {
    let whole = parse(input);
    if let Parsed::Header { used, .. } = whole {
        assert_eq!(parse(&input[..used]), whole, "what follows a header changes nothing");
    }
    for end in [input.len() / 3, input.len() / 2, input.len().saturating_sub(1)] {
        let part = parse(&input[..end]);
        assert!(
            part == Parsed::More || part == whole || whole == Parsed::Malformed,
            "{part:?}, then {whole:?}"
        );
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::More,
        Some(b'P') => parse_v1(bytes),
        Some(_) => parse_v2(bytes),
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let known = bytes.len().min(6);
    if bytes[..known] != b"PROXY "[..known] {
        return Parsed::Malformed;
    }
    let within = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        let whole = within.len() < MAX_V1 && !within.contains(&b'\n');
        return if whole { Parsed::More } else { Parsed::Malformed };
    };
    if within[..end].contains(&b'\n') {
        return Parsed::Malformed; // the same, however it is split
    }
    let used = end + 2;
    let Ok(line) = std::str::from_utf8(&within[6.min(end)..end]) else { return Parsed::Malformed };
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Parsed::Header { used, source: None }; // whatever follows is ignored
    }
    let rest: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = rest[..] else { return Parsed::Malformed };
    let address = |text: &str| match family {
        Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| {
        let plain = text == "0" || !text.starts_with('0');
        text.parse::<u16>().ok().filter(|_| plain && text.bytes().all(|b| b.is_ascii_digit()))
    };
    match (address(source), address(destination), port(source_port), port(destination_port)) {
        (Some(source), Some(_), Some(port), Some(_)) => {
            Parsed::Header { used, source: Some(SocketAddr::new(source, port)) }
        }
        _ => Parsed::Malformed,
    }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Parsed::Malformed;
    }
    let Some(&[command, family, high, low]) = bytes.get(12..16) else { return Parsed::More };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let used = 16 + length;
    if !matches!(command, 0x20 | 0x21) || used > MAX_V2 {
        return Parsed::Malformed;
    }
    let Some(rest) = bytes.get(16..used) else { return Parsed::More };
    if command == 0x20 {
        return Parsed::Header { used, source: None }; // the balancer's own: a health check
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let source = match family {
        0x11 if length >= 12 => {
            let address: [u8; 4] = std::array::from_fn(|at| rest[at]);
            Some(SocketAddr::new(IpAddr::V4(address.into()), port(8)))
        }
        0x21 if length >= 36 => {
            let address: [u8; 16] = std::array::from_fn(|at| rest[at]);
            Some(SocketAddr::new(IpAddr::V6(address.into()), port(32)))
        }
        0x11 | 0x21 => return Parsed::Malformed,
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Parsed::Malformed,
    };
    Parsed::Header { used, source }
}

/// The client of a connection that was accepted from `peer`. `None`: a trusted peer sent no proper header in time.
pub(crate) async fn client(worker: &Worker, stream: &TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
    let settings = &worker.shared.settings;
    if !settings.speaks_for_others(peer.ip()) {
        return Some(peer);
    }
    match timeout(settings.header_read, read(stream)).await {
        Ok(Ok(source)) => Some(source.unwrap_or(peer)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no PROXY header from a peer that must send one");
            None
        }
        Err(_) => None,
    }
}

/// Reads a header and not a byte more.
async fn read(stream: &TcpStream) -> Result<Option<SocketAddr>> {
    let mut have = Vec::new();
    let mut space = [0; MAX_V2];
    loop {
        let count = stream.peek(&mut space).await?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let before = have.len();
        have.extend_from_slice(&space[..count]);
        let (take, done) = match parse(&have) {
            Parsed::Malformed => return Err(Error::new(ErrorKind::InvalidData, "malformed PROXY header")),
            Parsed::More => (count, None),
            Parsed::Header { used, source } => (used - before, Some(source)),
        };
        let mut rest = &mut space[..take];
        while !rest.is_empty() {
            let read = crate::io::read(stream, rest).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            rest = &mut rest[read..];
        }
        if let Some(source) = done {
            return Ok(source);
        }
    }
}

/// The header that says that `source` connected to `destination`.
pub(crate) fn header(version: ProxyProtocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let ports = (source.port(), destination.port());
    match version {
        ProxyProtocol::V1 => {
            let family = match (from, to) {
                (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
                (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
                _ => return b"PROXY UNKNOWN\r\n".to_vec(),
            };
            format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut out = SIGNATURE.to_vec();
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    out.extend_from_slice(&[0x21, 0x11, 0, 12]);
                    out.extend_from_slice(&from.octets());
                    out.extend_from_slice(&to.octets());
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    out.extend_from_slice(&[0x21, 0x21, 0, 36]);
                    out.extend_from_slice(&from.octets());
                    out.extend_from_slice(&to.octets());
                }
                _ => {
                    out.extend_from_slice(&[0x21, 0x00, 0, 0]);
                    return out;
                }
            }
            out.extend_from_slice(&ports.0.to_be_bytes());
            out.extend_from_slice(&ports.1.to_be_bytes());
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_written_is_read_wherever_it_is_cut() {
        for (from, to) in [("192.0.2.1:4000", "198.51.100.2:443"), ("[2001:db8::1]:1", "[2001:db8::2]:65535")]
        {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let mut bytes = header(version, at(from), at(to));
                let length = bytes.len();
                for cut in 0..length {
                    assert_eq!(parse(&bytes[..cut]), Parsed::More, "{version:?} at {cut}");
                }
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                assert_eq!(parse(&bytes), Parsed::Header { used: length, source: Some(at(from)) });
            }
        }
        let mixed = header(ProxyProtocol::V2, at("192.0.2.1:1"), at("[2001:db8::2]:2"));
        assert_eq!(parse(&mixed), Parsed::Header { used: 16, source: None });
    }

    #[test]
    fn only_exact_headers_are_read() {
        let header = |text: &str| matches!(parse(text.as_bytes()), Parsed::Header { .. });
        assert!(header("PROXY UNKNOWN\r\n") && header("PROXY UNKNOWN ffff::1 x 1 2\r\n"));
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n",
            "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n\r\n",
            "PROXYTCP4",
            "\r\n\r\nX",
        ] {
            assert_eq!(parse(bad.as_bytes()), Parsed::Malformed, "{bad:?}");
        }
        assert_eq!(parse(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat()), Parsed::Malformed);
        let v2 = |rest: &[u8]| parse(&[&SIGNATURE[..], rest].concat());
        assert_eq!(v2(&[0x20, 0, 0, 0]), Parsed::Header { used: 16, source: None });
        for bad in [
            &[0x11, 0x11, 0, 12][..],
            &[0x22, 0x11, 0, 12],
            &[0x21, 0x11, 0xff, 0xff],
            &[0x21, 0x11, 0, 4, 1, 2, 3, 4],
        ] {
            assert_eq!(v2(bad), Parsed::Malformed, "{bad:?}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let network = |text: &str| text.parse::<Network>().expect(text);
        let holds = |text: &str, address: &str| network(text).contains(address.parse().expect("an address"));
        assert!(holds("10.0.0.0/8", "10.9.9.9") && holds("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1") && !holds("10.0.0.0/8", "::1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && holds("::/0", "::1") && holds("fd00::/8", "fdff::1"));
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/", "10.0.0.0/+8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(start in 0_usize..3, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let front: &[u8] = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][start];
            let all = [front, &bytes].concat();
            if let Parsed::Header { used, .. } = parse(&all) {
                prop_assert!(used <= all.len());
            }
        }
    }
}
