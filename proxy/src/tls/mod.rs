//! TLS to clients, by rustls.
//!
//! In: an accepted connection and the certificates. Out: a [`TlsStream`](stream::TlsStream) that the data path reads
//! and writes as if it were TCP, or an alert. A name no certificate has gets `unrecognized_name` (RFC 6066 §3) and
//! never another name's certificate. TLS 1.2 and 1.3 only, with forward secrecy, tickets for resumption, no early data.

pub(crate) mod accept;
pub(crate) mod certificates;
pub(crate) mod stream;
pub(crate) mod wanted;

use arc_swap::ArcSwap;
use certificates::Certificates;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};
use std::sync::Arc;

/// Protocols offered to clients, the preferred one first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What a certificate authority asks for to see that a name leads here (RFC 8737 §6.2).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// The two ways a handshake goes; made once, while certificates come and go below them.
#[derive(Debug)]
pub(crate) struct Configs {
    pub(crate) serve: Arc<ServerConfig>,
    pub(crate) challenge: Arc<ServerConfig>,
}

impl Configs {
    pub(crate) fn new(certificates: &Arc<ArcSwap<Certificates>>) -> Result<Self, rustls::Error> {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| rank(suite.suite()));
        let provider = Arc::new(provider);
        let make = |challenge: bool, protocols: &[&[u8]]| -> Result<ServerConfig, rustls::Error> {
            let presented = Presented { certificates: certificates.clone(), challenge };
            let builder = ServerConfig::builder_with_provider(provider.clone());
            let mut config = builder
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(presented));
            config.ignore_client_order = true;
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Ok(config)
        };
        let mut serve = make(false, &PROTOCOLS)?;
        // One secret for all threads, changed every six hours: a client may come back to any of them.
        serve.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self { serve: Arc::new(serve), challenge: Arc::new(make(true, &[ACME_TLS])?) })
    }
}

/// AES-128 before AES-256, and both before ChaCha20. All are beyond reach of any attack; with SHA-256, which processors
/// have instructions for, a handshake takes a third less work than with SHA-384.
fn rank(suite: CipherSuite) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
        _ => 2,
    }
}

/// Finds the certificate of the name a client asks for.
#[derive(Debug)]
struct Presented {
    certificates: Arc<ArcSwap<Certificates>>,
    challenge: bool,
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.load();
        let name = hello.server_name()?;
        match self.challenge {
            true => certificates.challenge(name),
            false => certificates.find(name).cloned(),
        }
    }
}
