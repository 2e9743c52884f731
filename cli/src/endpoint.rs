//! Which Berth a command speaks to, and as whom.
//!
//! In: `--data`, `--host`, `BERTH_HOST`, `BERTH_TOKEN`, `BERTH_CA`; or, in an SSH session, only what the controller
//! said. Out: a [`Client`].

use crate::contexts::Cluster;
use crate::error::{CliError, Result};
use berth_wire::{Client, Endpoint};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where Berth keeps everything unless told otherwise.
pub(crate) const DEFAULT_DATA: &str = "/var/lib/berth";

/// What the user said about where to go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// `--data`.
    pub(crate) data: Option<PathBuf>,
    /// `--host` or `BERTH_HOST`.
    pub(crate) host: Option<String>,
    /// `BERTH_TOKEN`.
    pub(crate) token: Option<String>,
    /// `BERTH_CA`: a PEM file to trust instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// In an SSH session: the name of the key that was used.
    pub(crate) acts_as: Option<String>,
    /// In an SSH session: the address it comes from.
    pub(crate) comes_from: Option<String>,
}

impl Target {
    /// The API of a cluster that is remembered.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            host: Some(cluster.host.clone()),
            token: cluster.token.clone(),
            ca: cluster.ca.clone(),
            ..Self::default()
        }
    }

    /// The name of the machine that it is, if it is another one.
    pub(crate) fn machine(&self) -> Option<String> {
        let uri: http::Uri = self.host.as_deref().filter(|_| self.data.is_none())?.parse().ok()?;
        Some(uri.host()?.to_owned())
    }

    /// The client for it. `--data` wins over `BERTH_HOST`, for it is said here and now.
    pub(crate) fn client(&self) -> Result<Client> {
        let client = match (&self.data, &self.host) {
            (None, Some(host)) => return self.remote(host),
            (Some(data), _) => Client::new(Endpoint::Unix(data.join("run/api.sock"))),
            (None, None) => Client::new(Endpoint::Unix(Path::new(DEFAULT_DATA).join("run/api.sock"))),
        };
        match &self.acts_as {
            None => Ok(client),
            Some(name) => client
                .with_header(http::HeaderName::from_static("berth-as"), name)
                .and_then(|client| match &self.comes_from {
                    None => Ok(client),
                    Some(address) => client.with_header(http::HeaderName::from_static("berth-from"), address),
                })
                .map_err(|_| CliError::Failed("the name of the SSH key holds control characters".into())),
        }
    }

    fn remote(&self, host: &str) -> Result<Client> {
        let uri: http::Uri = host.parse().map_err(|_| not_an_address(host))?;
        let name = uri.host().ok_or_else(|| not_an_address(host))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(not_an_address(host));
        }
        let address = |default| format!("{name}:{}", uri.port_u16().unwrap_or(default));
        let endpoint = match uri.scheme_str() {
            Some("https") => Endpoint::Tls { address: address(443), config: Arc::new(self.tls()?) },
            Some("http") if berth_wire::is_loopback(name) => Endpoint::Tcp { address: address(80) },
            Some("http") => {
                return Err(CliError::Misuse(format!(
                    "{host} would send the token in the clear: use https:// (http:// is for this machine only)"
                )));
            }
            _ => return Err(not_an_address(host)),
        };
        let token = self.token.as_deref().filter(|token| !token.is_empty()).ok_or_else(|| {
            CliError::Misuse(format!(
                "{host} wants a token: set BERTH_TOKEN (make one there with `berth tokens:create NAME`)"
            ))
        })?;
        Client::new(endpoint)
            .with_header(http::header::AUTHORIZATION, &format!("Bearer {}", token.trim()))
            .map_err(|_| CliError::Misuse("BERTH_TOKEN holds control characters".into()))
    }

    fn tls(&self) -> Result<rustls::ClientConfig> {
        let file = match &self.ca {
            Some(file) => Some(file.as_path()),
            None => berth_wire::system_certificates(),
        };
        let mut roots = rustls::RootCertStore::empty();
        if let Some(file) = file {
            let certificates = CertificateDer::pem_file_iter(file)
                .map_err(|error| CliError::Failed(format!("cannot read {}: {error}", file.display())))?;
            roots.add_parsable_certificates(certificates.filter_map(std::result::Result::ok));
        }
        if roots.is_empty() {
            return Err(CliError::Failed(
                "no trusted certificates found: install ca-certificates, or set BERTH_CA to a PEM file"
                    .into(),
            ));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| CliError::Failed(format!("TLS cannot be set up: {error}")))?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }
}

fn not_an_address(host: &str) -> CliError {
    CliError::Misuse(format!("{host:?} is not an address of Berth: write https://host or https://host:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: &str, token: Option<&str>) -> Result<Client> {
        let token = token.map(str::to_owned);
        Target { host: Some(host.to_owned()), token, ..Target::default() }.client()
    }

    #[test]
    fn a_token_never_leaves_the_machine_in_the_clear() {
        assert!(matches!(client("http://example.com", Some("berth_x")), Err(CliError::Misuse(_))));
        assert!(client("http://127.0.0.1:8080", Some("berth_x")).is_ok());
        assert!(client("http://[::1]:8080", Some("berth_x")).is_ok());
    }

    #[test]
    fn addresses_and_tokens_are_checked_before_anything_is_sent() {
        for bad in ["example.com", "ftp://example.com", "https://example.com/path", "https://", ""] {
            assert!(matches!(client(bad, Some("t")), Err(CliError::Misuse(_))), "{bad}");
        }
        assert!(matches!(client("http://127.0.0.1", None), Err(CliError::Misuse(_))));
        assert!(matches!(client("http://127.0.0.1", Some("a\nb")), Err(CliError::Misuse(_))));
    }

    #[test]
    fn the_directory_said_on_the_command_line_wins() {
        let target = Target {
            data: Some("/x".into()),
            host: Some("https://example.com".into()),
            token: Some("t".into()),
            ..Target::default()
        };
        let client = target.client().expect("a socket needs nothing more");
        assert_eq!(client.endpoint().to_string(), "/x/run/api.sock");
    }
}
