//! Certificates: what the proxies present. One table, swapped whole, beside the routes and never in them.

use crate::HostPattern;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Everything a proxy needs for TLS and for proving that names lead to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateTable {
    /// Grows with every change.
    pub revision: u64,
    /// Certificates. Where two have one name, the first in the table is presented.
    pub certificates: Vec<Certificate>,
    /// What `/.well-known/acme-challenge/TOKEN` answers on the plain port, whatever the host (RFC 8555 §8.3).
    #[serde(default)]
    pub http_challenges: Vec<HttpChallenge>,
    /// Certificates presented only to a client that asks for the protocol `acme-tls/1` (RFC 8737 §3).
    #[serde(default)]
    pub alpn_challenges: Vec<AlpnChallenge>,
    /// Names no certificate has are reported to the controller, which may get one.
    #[serde(default)]
    pub on_demand: bool,
}

/// One certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The names it is presented for; an exact one beats a wildcard.
    pub names: Vec<HostPattern>,
    /// The chain, the own certificate first: PEM.
    pub chain_pem: String,
    /// Its private key: PEM (PKCS#8, PKCS#1 or SEC1).
    pub key_pem: KeyPem,
}

/// An answer to an HTTP-01 challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpChallenge {
    /// The last part of the path.
    pub token: String,
    /// The body.
    pub key_authorization: String,
}

/// An answer to a TLS-ALPN-01 challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlpnChallenge {
    /// Server name it is presented for.
    pub name: String,
    /// The self-signed certificate with the `acmeIdentifier` extension: PEM.
    pub chain_pem: String,
    /// Its key: PEM.
    pub key_pem: KeyPem,
}

/// A proxy asks for a certificate: a client named a host that leads to an app and has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateWanted {
    /// The host.
    pub name: String,
}

/// A private key in PEM; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPem(pub String);

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(…)")
    }
}
