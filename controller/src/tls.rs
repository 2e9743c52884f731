//! The certificate of the public API: the user's own in `DIR/controller/tls/`, or a self-signed one made once.
//!
//! In: the directory. Out: a TLS configuration for TLS 1.2 and 1.3. Keys are files of mode 0600.

use crate::options::Options;
use berth_wire::write_private;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The certificate could not be used or made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// One of the two files is missing.
    #[error("{} is there, but {} is not: put both, or remove both to have them made", there.display(), missing.display())]
    Half {
        /// This one is there.
        there: PathBuf,
        /// This one is not.
        missing: PathBuf,
    },
    /// A file holds something else.
    #[error("{} is no PEM file with what is needed ({text})", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        text: String,
    },
    /// Certificate and key do not go together, or are of an unknown kind.
    #[error("the certificate {} and its key cannot be used", path.display())]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Making one failed.
    #[error("cannot make a certificate for the API")]
    Make(#[from] rcgen::Error),
}

/// Loads the certificate, or makes one for `localhost`, the machine's domain and the address the API listens on.
pub fn server_config(options: &Options) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let (certificate, key) = (options.tls_dir().join("cert.pem"), options.tls_dir().join("key.pem"));
    match (certificate.exists(), key.exists()) {
        (true, true) => {}
        (false, false) => make(options, &certificate, &key)?,
        (true, false) => return Err(TlsError::Half { there: certificate, missing: key }),
        // The key is written first: one without a certificate is from a start that broke off, unless it is the user's.
        (false, true) => return Err(TlsError::Half { there: key, missing: certificate }),
    }
    load(&certificate, &key)
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let pem = |path: &Path, error: rustls::pki_types::pem::Error| match error {
        rustls::pki_types::pem::Error::Io(source) => TlsError::File { path: path.to_owned(), source },
        other => TlsError::Pem { path: path.to_owned(), text: other.to_string() },
    };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| pem(certificate, error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| pem(certificate, error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
    let unusable = |source| TlsError::Pair { path: certificate.to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn make(options: &Options, certificate: &Path, key: &Path) -> Result<(), TlsError> {
    let mut names = vec!["localhost".to_owned(), options.domain.as_str().to_owned()];
    names.push("127.0.0.1".to_owned());
    names.push("::1".to_owned());
    names.extend(options.several.as_ref().map(|several| several.advertise.clone()));
    let address = options.api.ip();
    if !address.is_unspecified() && !address.is_loopback() {
        names.push(address.to_string());
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Berth API");
    let pair = KeyPair::generate()?;
    let signed = params.self_signed(&pair)?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    write_private(key, pair.serialize_pem().as_bytes()).map_err(file(key))?;
    write_private(certificate, signed.pem().as_bytes()).map_err(file(certificate))?;
    tracing::info!(certificate = %certificate.display(), "made a self-signed certificate for the API");
    Ok(())
}
