//! Joining: a token becomes a certificate.
//!
//! In: a controller's address and the token of `berth node:token`. Out: `DIR/cluster.json` and `DIR/agent/tls/`. The token names the
//! CA by its hash, so the secret is told to no one else; the machine's key never leaves it.

use super::link::{connect, tls13};
use super::{ca_file, node_file, remember, tls_dir, write_private};
use crate::network;
use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::NodeName;
use berth_model::cluster::{
    CLUSTER_PORT, JOIN_PATH, JoinAnswer, JoinRequest, JoinToken, Membership, membership_file,
};
use berth_wire::{Client, Dial, Dialling, Endpoint, Stream};
use http::Method;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Who joins what.
#[derive(Debug)]
pub struct Join {
    /// Berth's data directory.
    pub data: PathBuf,
    /// Where a controller is: `host:port`, or `host` for port 7443.
    pub controller: String,
    /// What `berth node:token` printed.
    pub token: JoinToken,
    /// What this machine is to be called.
    pub node: NodeName,
    /// The addresses its containers are to have, if that is not left to the controller.
    pub subnet: Option<String>,
    /// Where other nodes reach it, if not at the address it dials from.
    pub address: Option<IpAddr>,
}

/// The key and the request for a certificate of it (PKCS #10 DER, base64).
pub(super) fn request_for(node: &NodeName) -> anyhow::Result<(KeyPair, String)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let request = request_with(&key, node)?;
    Ok((key, request))
}

fn request_with(key: &KeyPair, node: &NodeName) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    let request = params.serialize_request(key).context("cannot ask for a certificate")?;
    Ok(STANDARD.encode(request.der()))
}

/// The key that a join which broke off had, so that the same token lets it in again.
fn joining_key(data: &Path) -> anyhow::Result<KeyPair> {
    let path = tls_dir(data).join("joining.pem");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(key) = KeyPair::from_pem(&text)
    {
        return Ok(key);
    }
    let key = KeyPair::generate().context("cannot make a key")?;
    let pem = key.serialize_pem();
    write_private(&path, pem.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(key)
}

/// Trusts whoever has the CA with this hash behind its certificate.
#[derive(Debug)]
struct Pinned {
    sha256: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
    /// The CA, once it was seen.
    authority: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned =
            |certificate: &&CertificateDer<'_>| hex::encode(Sha256::digest(certificate)) == self.sha256;
        let authority = intermediates.iter().find(is_pinned);
        let authority =
            authority.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let authority = authority.clone().into_owned();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        *self.authority.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Knocks at a controller, without a certificate.
#[derive(Debug)]
struct Knock {
    address: String,
    config: Arc<rustls::ClientConfig>,
}

impl fmt::Display for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the controller at {}", self.address)
    }
}

impl Dial for Knock {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let stream = connect(&self.address, self.config.clone()).await.map_err(explain)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// What a failed handshake means for somebody who joins.
fn explain(error: std::io::Error) -> std::io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "whoever answers there is not the controller that made this token: is the address right?"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. },
        )) => "its certificate is not good at this time: is the clock of this machine right?",
        _ => return error,
    };
    std::io::Error::new(error.kind(), text)
}

/// `host:port`.
fn with_port(address: &str) -> String {
    let has_port = match address.rsplit_once(':') {
        Some((host, port)) => port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')),
        None => false,
    };
    match (has_port, address.contains(':') && !address.ends_with(']')) {
        (true, _) => address.to_owned(),
        (false, true) => format!("[{address}]:{CLUSTER_PORT}"),
        (false, false) => format!("{address}:{CLUSTER_PORT}"),
    }
}

/// Joins. Nothing is left behind if it is refused.
pub async fn join(join: Join) -> anyhow::Result<Membership> {
    let data = &join.data;
    if data.join("controller/state.db").exists() {
        bail!(
            "{} is a controller's: it is a node of its own cluster already. Give the node a directory of its own with --data",
            data.display()
        );
    }
    if membership_file(data).exists() {
        let known = super::membership(data)?;
        let name = known.map(|known| known.node.to_string()).unwrap_or_default();
        bail!(
            "this machine joined already, as {name}; to join anew, stop Berth here and remove {}",
            membership_file(data).display()
        );
    }
    let key = joining_key(data)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = Arc::new(Mutex::new(None));
    let pinned = Pinned { sha256: join.token.ca_sha256.clone(), provider, authority: authority.clone() };
    let config =
        tls13()?.dangerous().with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth();
    let controller = with_port(&join.controller);
    let client = Client::new(Endpoint::Dialled(Arc::new(Knock {
        address: controller.clone(),
        config: Arc::new(config),
    })));
    let request = JoinRequest {
        secret: join.token.secret.clone(),
        node: join.node.clone(),
        request: request_with(&key, &join.node)?,
        subnet: join.subnet.clone().or(network::remembered_subnet(data)?),
        taken: network::known_networks(data).await?,
        address: join.address,
    };
    let answer = client.json(Method::POST, JOIN_PATH, Some(&request)).await;
    // Its text has the cause in it already.
    let answer: JoinAnswer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    let authority = authority.lock().unwrap_or_else(PoisonError::into_inner).take();
    let authority = authority.context("the controller's certificate was not checked")?;
    ensure!(
        hex::encode(Sha256::digest(&authority)) == join.token.ca_sha256,
        "the CA is another one than the token's"
    );
    let skew_s = (answer.validity.issued_ms - crate::node::now_ms()).abs() / 1000;
    if skew_s > 5 {
        tracing::warn!(
            "the clocks of this machine and of the controller differ by {skew_s} s; set them by NTP"
        );
    }
    let failed = |path: &Path| format!("cannot write {}", path.display());
    let files = [
        (ca_file(data), pem("CERTIFICATE", &authority)),
        (node_file(data), format!("{}{}", key.serialize_pem(), answer.certificate)),
    ];
    for (path, text) in files {
        write_private(&path, text.as_bytes()).with_context(|| failed(&path))?;
    }
    let membership = Membership {
        node: answer.node,
        subnet: answer.subnet,
        controllers: vec![controller],
        validity: answer.validity,
    };
    let membership = membership.with_controllers(&answer.controllers);
    // Last: with it the machine is a node.
    remember(data, &membership).with_context(|| failed(&membership_file(data)))?;
    let _ = std::fs::remove_file(tls_dir(data).join("joining.pem")); // it is in node.pem now
    Ok(membership)
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_or_gets_one() {
        for (given, wanted) in [
            ("10.0.0.1", "10.0.0.1:7443"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("berth.example.com", "berth.example.com:7443"),
            ("berth.example.com:99", "berth.example.com:99"),
            ("fd00::1", "[fd00::1]:7443"),
            ("[fd00::1]", "[fd00::1]:7443"),
            ("[fd00::1]:99", "[fd00::1]:99"),
        ] {
            assert_eq!(with_port(given), wanted, "{given}");
        }
    }
}
