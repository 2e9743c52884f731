//! Where etcd is and how it is spoken to, as the command line says it.
//!
//! In: `etcd://HOST:PORT,HOST:PORT,…[/NAME]` and files. Out: checked settings. Reads the files; no network.

use super::super::StoreError;
use super::client::{Client, Member};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Members that can be named.
const MEMBERS: usize = 16;
/// Largest file that is read.
const FILE: u64 = 1 << 20;

/// An etcd, and what of it is one Berth's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    members: Vec<Member>,
    name: String,
}

impl Address {
    /// Reads `etcd://HOST:PORT,HOST:PORT,…[/NAME]`: the port is 2379 unless said, the name `berth`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let odd =
            |why: &str| format!("{text:?} is no address such as etcd://10.0.0.1:2379,10.0.0.2:2379 ({why})");
        let rest = text.strip_prefix("etcd://").ok_or_else(|| odd("it does not begin with etcd://"))?;
        let (hosts, name) = rest.split_once('/').unwrap_or((rest, "berth"));
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 63 || !name.bytes().all(fine) {
            return Err(odd("its name is not 1 to 63 letters, digits, '-', '_' or '.'"));
        }
        let members: Vec<_> = hosts.split(',').map(Member::parse).collect::<Option<_>>().ok_or_else(|| {
            odd("each member is HOST or HOST:PORT; an IPv6 address is in brackets; a password goes in --store-user-file")
        })?;
        if members.len() > MEMBERS {
            return Err(odd("it names more than 16 members"));
        }
        Ok(Self { members, name: name.to_owned() })
    }

    /// Under which name Berth's keys are.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: Vec<_> = self.members.iter().map(ToString::to_string).collect();
        write!(f, "etcd://{}", members.join(","))?;
        if self.name == "berth" { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

/// All that is said of the etcd to use.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Its members.
    pub address: Address,
    /// The CA of its certificates (PEM). Without it etcd is spoken to in the clear.
    pub ca: Option<PathBuf>,
    /// The certificate we show, and its key (PEM).
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// A file with `USER:PASSWORD`.
    pub user_file: Option<PathBuf>,
    /// How long a leader that is not heard of is still one.
    pub lease: std::time::Duration,
}

impl EtcdOptions {
    /// A client as these settings say. Reads the files that they name.
    pub(crate) fn client(&self) -> Result<Client, StoreError> {
        let tls = match (&self.ca, &self.certificate) {
            (None, None) => None,
            (None, Some(_)) => {
                let text = "--store-cert needs --store-ca, which says whom to show it to".to_owned();
                return Err(StoreError::Settings { text });
            }
            (Some(ca), pair) => Some(Arc::new(tls(ca, pair.as_ref())?)),
        };
        let local = self.address.members.iter().all(Member::is_loopback);
        if tls.is_none() && !local {
            tracing::warn!(
                store = %self.address,
                "etcd is spoken to in the clear: whoever can listen or reach it can change the platform; give it \
                 certificates and name their CA with --store-ca"
            );
        }
        let user = self.user_file.as_deref().map(user).transpose()?;
        Ok(Client::new(self.address.members.clone(), tls, user))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE), &mut bytes).map_err(io)?;
    Ok(bytes)
}

fn user(path: &Path) -> Result<(String, String), StoreError> {
    let bytes = read(path)?;
    let pair = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().split_once(':'));
    let pair = pair.filter(|(name, password)| !name.is_empty() && !password.is_empty());
    let odd = || StoreError::Settings { text: format!("{} does not hold USER:PASSWORD", path.display()) };
    pair.map(|(name, password)| (name.to_owned(), password.to_owned())).ok_or_else(odd)
}

fn tls(ca: &Path, pair: Option<&(PathBuf, PathBuf)>) -> Result<rustls::ClientConfig, StoreError> {
    let odd = |path: &Path, text: String| StoreError::Settings {
        text: format!("{} cannot be used for TLS: {text}", path.display()),
    };
    let certificates = |path: &Path| {
        let bytes = read(path)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| odd(path, error.to_string()))?;
        if found.is_empty() { Err(odd(path, "there is no certificate in it".to_owned())) } else { Ok(found) }
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| odd(ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| odd(ca, error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = pair else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let bytes = read(key)?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| odd(key, error.to_string()))?;
    config.with_client_auth_cert(chain, secret).map_err(|error| odd(certificate, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_the_same() {
        for (text, again) in [
            ("etcd://10.0.0.1:2379,h2:2380,[::1]:9", "etcd://10.0.0.1:2379,h2:2380,[::1]:9"),
            ("etcd://a,b/other-1", "etcd://a:2379,b:2379/other-1"),
            ("etcd://a/berth", "etcd://a:2379"),
        ] {
            assert_eq!(Address::parse(text).expect(text).to_string(), again);
        }
        for bad in [
            "a:1",
            "etcd://",
            "etcd://a,,b",
            "etcd://a:x",
            "etcd://u:p@a:1",
            "etcd://a/",
            "etcd://a/x/y",
            "etcd://::1",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
