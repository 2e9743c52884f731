//! The cluster's own certificate authority: one key, made once, sealed in the store.
//!
//! In: certificate signing requests that were checked against a token or a certificate. Out: certificates of nodes (30 days) and of
//! this controller (30 days, its key never leaves memory). Only ECDSA with P-256 is signed (RFC 5480).

use crate::Platform;
use crate::platform::{PlatformError, now_ms};
use crate::secrets::SecretError;
use crate::store::{Compare, Write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::NodeName;
use berth_model::cluster::{CONTROLLER_NAME, Validity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

/// Where it is in the store.
pub(crate) const KEY: &str = "cluster/ca";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the CA's own certificate is good.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
/// How long a node's or controller's certificate is good; it is renewed when a third has passed.
const LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Certificates begin this long ago: clocks differ.
const SLACK: Duration = DAY;
/// A point of P-256, uncompressed (SEC 1 §2.3.3).
const POINT: usize = 65;

#[derive(Serialize, Deserialize)]
struct Stored {
    /// DER, base64.
    certificate: String,
    /// PKCS #8, DER, sealed, base64.
    key: String,
    made_ms: i64,
}

/// Signs for the cluster.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A public key that somebody proved to have.
pub(super) struct Proven {
    point: Vec<u8>,
}

impl PublicKeyData for Proven {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Proven {
    /// Reads a certificate signing request (PKCS #10 DER in base64) and checks its signature: whoever made it has the key.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("the certificate signing request {what}");
        if text.len() > 4096 {
            return Err(wrong("is too long"));
        }
        let der = STANDARD.decode(text).map_err(|_| wrong("is not base64"))?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| wrong("is not PKCS #10 (RFC 2986)"))?;
        if !rest.is_empty() {
            return Err(wrong("has bytes behind its end"));
        }
        request.verify_signature().map_err(|_| wrong("is not signed with its own key"))?;
        let key = &request.certification_request_info.subject_pki;
        let point = key.subject_public_key.data.to_vec();
        let algorithm = key.algorithm.algorithm.to_id_string();
        if algorithm != "1.2.840.10045.2.1" || point.len() != POINT || point.first() != Some(&4) {
            return Err(wrong("is for another kind of key than ECDSA with P-256"));
        }
        Ok(Self { point })
    }

    /// What the node's record calls it.
    pub(super) fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.subject_public_key_info()))
    }
}

/// A certificate that was made.
pub(super) struct Signed {
    pub(super) pem: String,
    pub(super) validity: Validity,
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its common name.
    pub(super) name: NodeName,
    /// SHA-256 of its key.
    pub(super) key: String,
    /// Seconds since the Unix epoch.
    pub(super) not_after: i64,
}

impl Holder {
    /// Of a certificate whose signature was checked. `None` for one that is no node's.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        Some(Self {
            name: NodeName::parse(name).ok()?,
            key: hex::encode(Sha256::digest(certificate.public_key().raw)),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn at(now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms).unwrap_or(0))
}

fn params(name: &str, now_ms: i64, life: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + at(now_ms).saturating_sub(SLACK);
    params.not_after = epoch + at(now_ms) + life;
    params
}

fn ca_params(now_ms: i64) -> CertificateParams {
    let mut params = params("Berth cluster", now_ms, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

#[expect(clippy::needless_pass_by_value, reason = "errors come by value")]
fn rcgen_failed(error: rcgen::Error) -> PlatformError {
    PlatformError::Invalid(format!("a certificate of the cluster cannot be made: {error}"))
}

impl Authority {
    /// The cluster's, if it has one.
    pub(crate) async fn load(platform: &Platform) -> Result<Option<Self>, PlatformError> {
        let Some((stored, _)) = platform.load::<Stored>(KEY).await? else { return Ok(None) };
        let unreadable = || PlatformError::Secret(SecretError::Sealed { path: KEY.to_owned() });
        let certificate = STANDARD.decode(&stored.certificate).map_err(|_| unreadable())?;
        let key = platform.keyring().open_sealed(KEY, &STANDARD.decode(&stored.key).unwrap_or_default())?;
        let key = KeyPair::try_from(key.as_slice()).map_err(|_| unreadable())?;
        let issuer = Issuer::new(ca_params(stored.made_ms), key);
        Ok(Some(Self { certificate: certificate.into(), issuer }))
    }

    /// The cluster's; made now if there is none.
    pub(crate) async fn obtain(platform: &Platform) -> Result<Self, PlatformError> {
        loop {
            if let Some(known) = Self::load(platform).await? {
                return Ok(known);
            }
            let made_ms = now_ms();
            let key = KeyPair::generate().map_err(rcgen_failed)?;
            let certificate = ca_params(made_ms).self_signed(&key).map_err(rcgen_failed)?;
            let stored = Stored {
                certificate: STANDARD.encode(certificate.der()),
                key: STANDARD.encode(platform.keyring().seal(KEY, key.serialized_der())?),
                made_ms,
            };
            let put = Write::Put(KEY.to_owned(), crate::platform::json(&stored));
            if platform.store().txn(vec![Compare::Absent(KEY.to_owned())], vec![put]).await?.is_some() {
                tracing::info!("made the certificate authority of the cluster");
            }
        }
    }

    /// Its certificate.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its certificate, hexadecimal: what join tokens carry.
    pub(crate) fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.certificate))
    }

    /// A certificate for a node: good as a client, and for nothing else.
    pub(super) fn sign_node(
        &self,
        name: &NodeName,
        key: &Proven,
        now_ms: i64,
    ) -> Result<Signed, PlatformError> {
        let mut params = params(name.as_str(), now_ms, LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(key, &self.issuer).map_err(rcgen_failed)?;
        let life = i64::try_from(LIFE.as_millis()).unwrap_or(i64::MAX);
        let validity = Validity { issued_ms: now_ms, expires_ms: now_ms.saturating_add(life) };
        Ok(Signed { pem: signed.pem(), validity })
    }

    /// A certificate and key for this controller: good as the server of [`CONTROLLER_NAME`], and for nothing else.
    pub(super) fn controller_identity(
        &self,
        now_ms: i64,
    ) -> Result<Arc<rustls::sign::CertifiedKey>, PlatformError> {
        let mut params = params(CONTROLLER_NAME, now_ms, LIFE);
        let name = CONTROLLER_NAME.try_into().map_err(rcgen_failed)?;
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let pair = KeyPair::generate().map_err(rcgen_failed)?;
        let signed = params.signed_by(&pair, &self.issuer).map_err(rcgen_failed)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .expect("ring signs with the P-256 keys that it makes");
        let chain = vec![signed.der().clone(), self.certificate.clone()];
        Ok(Arc::new(rustls::sign::CertifiedKey::new(chain, key)))
    }

    /// How long a controller keeps one identity.
    pub(super) const RENEW_AFTER: Duration = Duration::from_secs(10 * 24 * 60 * 60);
}
