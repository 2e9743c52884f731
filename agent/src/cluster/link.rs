//! The way to the controllers: several addresses, tried in turn.
//!
//! In: what the machine remembers. Out: connections of TLS 1.3 to whoever has a certificate of the cluster's CA for the controller's
//! name, with this node's certificate shown.

use super::{ca_file, membership, node_file, remember};
use anyhow::Context;
use berth_model::NodeName;
use berth_model::cluster::{CONTROLLER_NAME, Membership, Validity};
use berth_wire::{Client, Dial, Dialling, Endpoint, Stream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How long one address may take, the handshake included.
const PATIENCE: Duration = Duration::from_secs(4);
/// A controller that answers nothing for this long is gone.
const GONE: Duration = Duration::from_secs(15);

/// Reaches the controllers.
pub struct Link {
    data: PathBuf,
    state: Mutex<State>,
}

struct State {
    membership: Membership,
    config: Arc<rustls::ClientConfig>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the controller ({})", self.membership().controllers.join(", "))
    }
}

/// Who is trusted and who we are, from the files.
fn configuration(data: &Path) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let (ca, own) = (ca_file(data), node_file(data));
    let unusable = |path: &Path| format!("cannot use {}; join again with: berth agent join", path.display());
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(&ca).with_context(|| unusable(&ca))?;
    roots.add(authority).with_context(|| unusable(&ca))?;
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&own).with_context(|| unusable(&own))?.collect();
    let chain = chain.with_context(|| unusable(&own))?;
    let key = PrivateKeyDer::from_pem_file(&own).with_context(|| unusable(&own))?;
    let config = tls13()?.with_root_certificates(roots).with_client_auth_cert(chain, key);
    Ok(Arc::new(config.with_context(|| unusable(&own))?))
}

/// TLS 1.3 and nothing older.
pub(super) fn tls13()
-> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])
}

/// Connects to one address. Whoever answers must be a controller for `config`.
pub(super) async fn connect(
    address: &str,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        berth_wire::notice_death(&stream, GONE)?;
        let name = ServerName::try_from(CONTROLLER_NAME).map_err(io::Error::other)?;
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await
    };
    let late =
        |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, connecting).await.map_err(late)?
}

impl Link {
    /// Of a machine that joined; `None` if this one never did.
    pub(crate) fn open(data: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(membership) = membership(data)? else { return Ok(None) };
        let config = configuration(data)?;
        let state = Mutex::new(State { membership, config });
        Ok(Some(Arc::new(Self { data: data.to_owned(), state })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn membership(&self) -> Membership {
        self.state().membership.clone()
    }

    pub(super) fn node(&self) -> NodeName {
        self.state().membership.node.clone()
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Changes what is remembered, here and on the disk.
    pub(super) fn change(&self, change: impl FnOnce(Membership) -> Membership) -> io::Result<()> {
        let mut state = self.state();
        let new = change(state.membership.clone());
        if new != state.membership {
            remember(&self.data, &new)?;
            state.membership = new;
        }
        Ok(())
    }

    /// Takes the files of a new certificate over.
    pub(super) fn renewed(&self, validity: Validity) -> anyhow::Result<()> {
        let config = configuration(&self.data)?;
        self.state().config = config;
        Ok(self.change(|membership| Membership { validity, ..membership })?)
    }

    /// A client of the controller's internal API.
    pub(super) fn client(self: &Arc<Self>) -> Client {
        Client::new(Endpoint::Dialled(self.clone()))
    }

    /// Connects to the first controller that answers, the one that answered last first.
    pub(super) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let (addresses, config) = {
            let state = self.state();
            (state.membership.controllers.clone(), state.config.clone())
        };
        let mut failures = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            match connect(address, config.clone()).await {
                Ok(stream) => {
                    if index > 0 {
                        tracing::info!(address, "another controller answers");
                        self.prefer(address);
                    }
                    return Ok(stream);
                }
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        let text = format!("no controller can be reached ({})", failures.join("; "));
        Err(io::Error::new(io::ErrorKind::NotConnected, text))
    }

    fn prefer(&self, address: &str) {
        let changed = self.change(|mut membership| {
            membership.controllers.retain(|known| known != address);
            membership.controllers.insert(0, address.to_owned());
            membership
        });
        if let Err(error) = changed {
            tracing::warn!(%error, "cannot remember which controller answers");
        }
    }
}

impl Dial for Link {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async { Ok(Box::new(self.connect().await?) as Box<dyn Stream>) })
    }
}
