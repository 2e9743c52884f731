//! The certificates as handshakes read them: immutable, looked up by name, swapped whole.
//!
//! In: [`CertificateTable`] and the one before it. Out: [`Certificates`], which keeps the parsed keys that both have.
//! Memory only. An entry that cannot be used is left out and said; the others are presented.

use crate::hosts::Hosts;
use anyhow::{Context, ensure};
use berth_model::Digest;
use berth_model::tls::{self, CertificateTable};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys};
use std::collections::HashMap;
use std::sync::Arc;

/// What can be presented and proved.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) revision: u64,
    /// Names without a certificate may be asked for.
    pub(crate) on_demand: bool,
    names: Hosts<Arc<CertifiedKey>>,
    tokens: HashMap<Box<str>, Box<str>>,
    challenges: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Parsed keys by the digest of what they were parsed from.
    parsed: HashMap<Digest, Arc<CertifiedKey>>,
}

impl Certificates {
    /// The certificates of `table`; what `before` has parsed is not parsed again.
    pub(crate) fn build(table: &CertificateTable, before: &Self, provider: &CryptoProvider) -> Self {
        let mut made = Self { revision: table.revision, on_demand: table.on_demand, ..Self::default() };
        for entry in &table.certificates {
            let Some(key) = made.key_of(&entry.chain_pem, &entry.key_pem, before, provider, || {
                entry.names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }) else {
                continue;
            };
            for name in &entry.names {
                made.names.insert_new(name.as_str(), key.clone());
            }
        }
        for entry in &table.alpn_challenges {
            let key = made.key_of(&entry.chain_pem, &entry.key_pem, before, provider, || entry.name.clone());
            if let Some(key) = key {
                made.challenges.insert(entry.name.to_ascii_lowercase().into(), key);
            }
        }
        let tokens = table.http_challenges.iter();
        made.tokens =
            tokens.map(|one| (one.token.as_str().into(), one.key_authorization.as_str().into())).collect();
        made
    }

    fn key_of(
        &mut self,
        chain: &str,
        key: &tls::KeyPem,
        before: &Self,
        provider: &CryptoProvider,
        names: impl Fn() -> String,
    ) -> Option<Arc<CertifiedKey>> {
        let digest = Digest::of([chain.as_bytes(), key.0.as_bytes()].join(&0).as_slice());
        if let Some(known) = self.parsed.get(&digest).or_else(|| before.parsed.get(&digest)).cloned() {
            self.parsed.insert(digest, known.clone());
            return Some(known);
        }
        match parse(chain, key, provider) {
            Ok(parsed) => {
                let parsed = Arc::new(parsed);
                self.parsed.insert(digest, parsed.clone());
                Some(parsed)
            }
            Err(error) => {
                tracing::error!(names = names(), "a certificate cannot be presented: {error:#}");
                None
            }
        }
    }

    /// The certificate for a name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.names.find(name.as_bytes())
    }

    /// Whether both names are presented the same certificate: a connection made for one may carry requests for the
    /// other (RFC 9110 §7.4).
    pub(crate) fn alike(&self, one: &str, other: &[u8]) -> bool {
        let other = std::str::from_utf8(other).ok().and_then(|other| self.find(other));
        match (self.find(one), other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The certificate that answers a TLS-ALPN-01 challenge of this name.
    pub(crate) fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.get(name.to_ascii_lowercase().as_str()).cloned()
    }

    /// What answers an HTTP-01 challenge with this token.
    pub(crate) fn token(&self, token: &str) -> Option<&str> {
        self.tokens.get(token).map(AsRef::as_ref)
    }
}

fn parse(chain: &str, key: &tls::KeyPem, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.context("the chain is not PEM")?;
    ensure!(!chain.is_empty(), "the chain holds no certificate");
    let key = PrivateKeyDer::from_pem_slice(key.0.as_bytes()).context("the key is not PEM")?;
    let key = provider.key_provider.load_private_key(key).context("the key cannot be used")?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // One that proves a name has a critical extension that is no part of chains (RFC 8737 §3).
        Err(Error::InvalidCertificate(CertificateError::Other(_))) => Ok(certified),
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error).context("chain and key do not go together"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::HostPattern;
    use berth_model::tls::{Certificate, HttpChallenge, KeyPem};

    fn certificate(names: &[&str]) -> Certificate {
        let own: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(own).expect("a certificate");
        Certificate {
            names: names.iter().map(|name| HostPattern::parse(name).expect("valid")).collect(),
            chain_pem: made.cert.pem(),
            key_pem: KeyPem(made.signing_key.serialize_pem()),
        }
    }

    fn build(certificates: Vec<Certificate>, before: &Certificates) -> Certificates {
        let http = HttpChallenge { token: "t".into(), key_authorization: "t.k".into() };
        let table =
            CertificateTable { revision: 1, certificates, http_challenges: vec![http], ..Default::default() };
        Certificates::build(&table, before, &rustls::crypto::ring::default_provider())
    }

    #[test]
    fn a_certificate_that_proves_a_name_is_taken_with_its_critical_extension() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&[7; 32])];
        let proof = berth_model::tls::AlpnChallenge {
            name: "A.test".to_owned(),
            chain_pem: params.self_signed(&key).expect("signed").pem(),
            key_pem: KeyPem(key.serialize_pem()),
        };
        let table = CertificateTable { alpn_challenges: vec![proof], ..Default::default() };
        let made =
            Certificates::build(&table, &Certificates::default(), &rustls::crypto::ring::default_provider());
        assert!(made.challenge("a.test").is_some());
        assert!(made.find("a.test").is_none(), "it is for nothing else");
    }

    #[test]
    fn an_exact_name_beats_a_wildcard_and_no_name_gets_anothers() {
        let (wild, exact) = (certificate(&["*.b.test"]), certificate(&["a.b.test", "b.test"]));
        let made = build(vec![wild, exact], &Certificates::default());
        assert!(made.alike("A.b.test", b"b.test:8443"));
        assert!(made.alike("x.b.test", b"y.b.test"));
        assert!(!made.alike("a.b.test", b"x.b.test"));
        for none in ["c.test", "x.y.b.test", ".b.test", ""] {
            assert!(made.find(none).is_none(), "{none}");
        }
        assert_eq!(made.token("t"), Some("t.k"));
        assert_eq!(made.token("u"), None);
    }

    #[test]
    fn a_useless_entry_spoils_no_other_and_known_keys_are_kept() {
        let good = certificate(&["good.test"]);
        let mut torn = certificate(&["torn.test"]);
        torn.chain_pem.truncate(100);
        let mut swapped = certificate(&["swapped.test"]);
        swapped.key_pem = good.key_pem.clone();
        let first = build(vec![torn, swapped, good.clone()], &Certificates::default());
        assert!(first.find("torn.test").is_none() && first.find("swapped.test").is_none());
        let next = build(vec![certificate(&["new.test"]), good], &first);
        let same = |table: &Certificates| table.find("good.test").cloned().expect("it is good");
        assert!(Arc::ptr_eq(&same(&first), &same(&next)));
        assert!(next.find("new.test").is_some());
    }
}
