//! Whom one speaks to over a network.
//!
//! In: a host of an address; the machine's files. Out: whether the host is this machine, and whom its system trusts.

use std::path::Path;

/// Certificates of the system, where Debian, Fedora and Alpine keep them.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The PEM file of the certificates that this system trusts, if it has one.
#[must_use]
pub fn system_certificates() -> Option<&'static Path> {
    SYSTEM.iter().map(Path::new).find(|file| file.exists())
}

/// Whether the host of an address is this machine: `localhost`, `127.0.0.1`, `[::1]`.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A host and a port as they are dialled: an IPv6 address stands in brackets (RFC 3986 §3.2.2).
#[must_use]
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
