//! Reading a certificate that somebody gives: is it one, does its key belong to it, whom does it name.
//!
//! In: PEM texts, the time. Out: a [`Checked`] certificate in the order TLS wants it (RFC 8446 §4.4.2), with what is odd
//! about it; or why it cannot be used, and what to do. Pure.

use berth_model::HostPattern;
use berth_model::tls::KeyPem;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Longest PEM text, and most certificates in it.
pub(super) const MAX_PEM: usize = 256 * 1024;
const MAX_CHAIN: usize = 10;
/// Most names a certificate may have.
const MAX_NAMES: usize = 500;
/// What is said of one that ends so soon.
const SOON_MS: i64 = 7 * 24 * 3600 * 1000;

/// A certificate that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Certificate {
    /// The certificate, then each one's issuer: PEM.
    pub(super) chain_pem: String,
    /// Its key: PEM.
    pub(super) key_pem: KeyPem,
    /// The first 16 digits of the SHA-256 of the certificate.
    pub(super) id: String,
    /// Its names.
    pub(super) names: Vec<HostPattern>,
    /// Who signed it.
    pub(super) issuer: String,
    /// To whom it was given.
    pub(super) subject: String,
    /// Milliseconds since the Unix epoch.
    pub(super) starts_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub(super) expires_ms: i64,
    /// Whether it is its own issuer.
    pub(super) self_signed: bool,
}

/// A certificate, and what is odd about it.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// It.
    pub(super) certificate: Certificate,
    /// Sentences for people.
    pub(super) warnings: Vec<String>,
}

/// Why it is not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum CheckError {
    /// Too long.
    #[error("the {0} is longer than 256 KiB; was another file sent?")]
    TooLong(&'static str),
    /// No certificate in it.
    #[error(
        "there is no certificate in what was sent: it must hold PEM blocks that begin with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate,
    /// Too many.
    #[error(
        "there are more than {MAX_CHAIN} certificates: send the certificate and those between it and its root"
    )]
    LongChain,
    /// A PEM block that is none.
    #[error("the certificate cannot be read ({0}); is the file whole?")]
    BadCertificate(String),
    /// No key in it.
    #[error(
        "there is no private key in what was sent: it must hold a PEM block such as -----BEGIN PRIVATE KEY-----"
    )]
    NoKey,
    /// A key with a passphrase.
    #[error(
        "the key is encrypted with a passphrase, which nobody could type when the proxy starts; take it off with: \
         openssl pkey -in KEY -out server.key"
    )]
    EncryptedKey,
    /// A key that cannot be used.
    #[error("the key cannot be used ({0}); use RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519")]
    BadKey(String),
    /// Certificate and key do not go together.
    #[error(
        "the key does not belong to the certificate ({subject}): their public keys differ; send the key that its \
         request was made with"
    )]
    Mismatch {
        /// Of the first certificate.
        subject: String,
    },
    /// No names.
    #[error(
        "the certificate names no host (it has no subjectAltName with DNS names), so no client would take it for a \
         domain; have one made that does"
    )]
    NoNames,
}

/// Reads and checks a certificate with its key.
pub(super) fn check(chain_pem: &str, key_pem: &str, now_ms: i64) -> Result<Checked, CheckError> {
    if chain_pem.len() > MAX_PEM {
        return Err(CheckError::TooLong("certificate"));
    }
    if key_pem.len() > MAX_PEM {
        return Err(CheckError::TooLong("key"));
    }
    let found = certificates(chain_pem)?;
    let key = private_key(key_pem)?;
    let (chain, mut warnings) = ordered(&found, &key)?;
    let leaf = &chain[0];
    let parsed = parse(leaf)?;
    let (names, odd) = names(&parsed);
    warnings.extend(odd);
    if names.is_empty() {
        return Err(CheckError::NoNames);
    }
    let self_signed = parsed.subject() == parsed.issuer() && parsed.verify_signature(None).is_ok();
    let starts_ms = parsed.validity().not_before.timestamp().saturating_mul(1000);
    let expires_ms = parsed.validity().not_after.timestamp().saturating_mul(1000);
    warnings.extend(time_warning(starts_ms, expires_ms, now_ms));
    if chain.len() == 1 && !self_signed {
        warnings.push(format!(
            "only the certificate itself was sent: if it was signed by an intermediate CA ({}), send that one's \
             certificate after it, or clients may not trust it",
            parsed.issuer()
        ));
    }
    let certificate = Certificate {
        id: hex::encode(&Sha256::digest(leaf)[..8]),
        names,
        issuer: parsed.issuer().to_string(),
        subject: parsed.subject().to_string(),
        starts_ms,
        expires_ms,
        self_signed,
        chain_pem: chain.iter().map(|der| to_pem("CERTIFICATE", der)).collect(),
        key_pem: KeyPem(to_pem(label(&key), key.secret_der())),
    };
    Ok(Checked { certificate, warnings })
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CheckError> {
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = der.map_err(|error| CheckError::BadCertificate(error.to_string()))?;
        parse(&der)?;
        if found.len() == MAX_CHAIN {
            return Err(CheckError::LongChain);
        }
        found.push(der);
    }
    if found.is_empty() { Err(CheckError::NoCertificate) } else { Ok(found) }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CheckError> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(CheckError::BadCertificate("there is more behind its end".to_owned())),
        Err(error) => Err(CheckError::BadCertificate(error.to_string())),
    }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, CheckError> {
    if pem.contains("ENCRYPTED") {
        return Err(CheckError::EncryptedKey);
    }
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(CheckError::NoKey),
        Err(error) => Err(CheckError::BadKey(error.to_string())),
    }
}

/// The chain from the key's own certificate upwards, whatever order it came in.
fn ordered(
    found: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(Vec<CertificateDer<'static>>, Vec<String>), CheckError> {
    let signer = rustls::crypto::ring::sign::any_supported_type(key)
        .map_err(|error| CheckError::BadKey(error.to_string()))?;
    let public = signer.public_key();
    let belongs = |der: &CertificateDer<'static>| {
        parse(der)
            .is_ok_and(|parsed| public.as_ref().is_some_and(|key| key.as_ref() == parsed.public_key().raw))
    };
    let Some(first) = found.iter().position(belongs) else {
        return Err(CheckError::Mismatch { subject: parse(&found[0])?.subject().to_string() });
    };
    let mut order = vec![first];
    loop {
        let last = parse(&found[order[order.len() - 1]])?;
        if last.subject() == last.issuer() {
            break;
        }
        let mut next = None;
        for (index, der) in found.iter().enumerate() {
            let candidate = parse(der)?;
            if !order.contains(&index)
                && candidate.subject() == last.issuer()
                && last.verify_signature(Some(candidate.public_key())).is_ok()
            {
                next = Some(index);
                break;
            }
        }
        match next {
            Some(index) => order.push(index),
            None => break,
        }
    }
    let mut warnings = Vec::new();
    if !order.is_sorted() {
        warnings.push(
            "the certificates came in another order: they were put in the one that TLS wants".to_owned(),
        );
    }
    for (index, der) in found.iter().enumerate().filter(|(index, _)| !order.contains(index)) {
        let subject = parse(der)?.subject().to_string();
        warnings.push(format!(
            "certificate {} ({subject}) did not sign any of the others: it was left out",
            index + 1
        ));
    }
    Ok((order.into_iter().map(|index| found[index].clone()).collect(), warnings))
}

/// The DNS names of the subjectAltName (RFC 5280 §4.2.1.6); the common name counts for nothing (RFC 9525 §2).
fn names(parsed: &X509Certificate<'_>) -> (Vec<HostPattern>, Vec<String>) {
    let mut names: Vec<HostPattern> = Vec::new();
    let mut warnings = Vec::new();
    let extensions = parsed.extensions().iter().map(x509_parser::extensions::X509Extension::parsed_extension);
    let listed = extensions.filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(alternative) => Some(&alternative.general_names),
        _ => None,
    });
    for name in listed.flatten().take(MAX_NAMES) {
        let GeneralName::DNSName(text) = name else { continue };
        match HostPattern::parse(&text.to_ascii_lowercase()) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(error) => warnings.push(format!("one of its names is passed over: {error}")),
        }
    }
    (names, warnings)
}

fn time_warning(starts_ms: i64, expires_ms: i64, now_ms: i64) -> Option<String> {
    if now_ms >= expires_ms {
        return Some(format!("it expired at {}: clients refuse it", date(expires_ms)));
    }
    if now_ms < starts_ms {
        return Some(format!("it is valid from {} only: clients refuse it until then", date(starts_ms)));
    }
    (expires_ms - now_ms < SOON_MS).then(|| format!("it expires soon, at {}", date(expires_ms)))
}

/// `2026-03-04T05:06:07Z`.
pub(super) fn date(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms);
    time.map_or_else(|_| "an unknown time".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn label(key: &PrivateKeyDer<'_>) -> &'static str {
    match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    }
}

/// RFC 7468 §3.
fn to_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// Whether a certificate for `name` may be presented for `wanted` (RFC 9525 §6.3): the same, or a name below a wildcard.
pub(super) fn covers(name: &HostPattern, wanted: &HostPattern) -> bool {
    name == wanted || (!wanted.is_wildcard() && name.covers(wanted.as_str()))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
