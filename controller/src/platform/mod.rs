//! The platform's state with types: apps, releases, config, domains, keys and tokens over the [`Store`].
//!
//! In: checked names and model values. Out: the same, or a [`PlatformError`] that users can read (it converts into
//! `ApiError`, so `?` does it). Decides nothing about containers; whoever does, watches and is woken by every change.
//!
//! Keys of the store: `apps/<app>`, `releases/<app>/<10 digits>`, `config/app/<app>/<NAME>` and `config/global/<NAME>`
//! (sealed), `registries/app/<app>/<server>` and `registries/global/<server>` (sealed), `domains/global`,
//! `domains/guard`, `drains/…` and `alerts/…` (sealed), `config-events/...` (who changed which names), `ssh-keys/<name>`, `tokens/<name>`, `token-uses/<name>`, `sessions/<SHA-256>`, `sign-in-codes/<SHA-256>`, `nodes/<name>`, `networks/<name>`. Other modules keep theirs under prefixes of
//! their own, such as `deploys/<app>`, `builds/<app>/<build>`, `certificates/` and `acme/`.

mod access;
mod apart;
mod apps;
mod config;
mod domains;
mod error;
pub(crate) mod lives;
mod nodes;
mod operations;
mod proxy;
mod registries;
mod releases;
mod rotation;
mod scoped;
mod sessions;
mod settings;
mod volumes;

pub(crate) use access::check_person;
pub use access::{SshKey, TokenOwner};
pub(crate) use apps::key as app_key;
pub use config::ConfigChange;
pub(crate) use config::kind_in;
pub use error::PlatformError;
pub(crate) use nodes::key as node_key;
pub use operations::Operation;
pub use proxy::{Common as ProxyCommon, Pages};
pub(crate) use sessions::Credential;

use crate::options::Options;
use crate::secrets::Keyring;
use crate::store::{Compare, Revision, Store, Watch, Write};
use berth_model::api::Progress;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;

/// Where an operation says how it goes. A slow reader slows the work; a gone reader must not stop it: ignore the error
/// of `send`, or use [`say`].
pub type ProgressSender = tokio::sync::mpsc::Sender<Progress>;

/// Says one line of progress; a reader that went away is no error.
pub async fn say(progress: &ProgressSender, line: Progress) {
    let _ = progress.send(line).await;
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// As long as it lives, no file that the store may name is removed, and no key replaced.
pub(crate) type Held<'a> = (tokio::sync::MutexGuard<'a, ()>, tokio::sync::RwLockWriteGuard<'a, ()>);

/// How long an answer about writing stands.
const WRITE_PROBE: std::time::Duration = std::time::Duration::from_secs(1);

/// Everything the controller's parts share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Platform(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    store: Store,
    etcd: Option<crate::store::Etcd>,
    keyring: Arc<Keyring>,
    rotation: tokio::sync::Mutex<()>,
    /// Held shared by whatever removes files, and alone by a backup while it takes its links.
    removals: tokio::sync::RwLock<()>,
    places_given: crate::placing::Given,
    kept: crate::nodes::kept::Kept,
    write_probe: tokio::sync::Mutex<Option<(std::time::Instant, Option<String>)>>,
    operations: operations::Operations,
    deploys: crate::deploy::Deploys,
    registry: Arc<crate::registry::Registry>,
    pushes: crate::git::Pushes,
    builds: crate::build::history::Builds,
    runs: crate::runs::Runs,
    traffic: crate::traffic::Histories,
    certs: crate::certs::Certs,
    events: crate::events::Events,
    metrics: crate::metrics::Metrics,
    cluster: crate::cluster::Cluster,
}

impl Platform {
    /// Opens the state under `options.data`, making what is missing. Blocks: call it before serving.
    pub fn open(options: Options) -> Result<Self, PlatformError> {
        make_private_dir(&options.controller_dir())?;
        let database_existed = options.store_file().exists();
        let store = Store::open(&options.store_file())?;
        let keyring = Arc::new(Keyring::open(&options.config_key_file(), database_existed)?);
        Self::over(options, store, keyring, None)
    }

    /// The state in this store; `etcd` if that is where it is. Makes what is missing under `options.data`. Blocks.
    pub(crate) fn over(
        options: Options,
        store: Store,
        keyring: Arc<Keyring>,
        etcd: Option<crate::store::Etcd>,
    ) -> Result<Self, PlatformError> {
        for dir in [
            options.data.clone(),
            options.run_dir(),
            options.controller_dir(),
            options.git_dir(),
            options.registry_dir(),
            options.builds_dir(),
            options.tls_dir(),
        ] {
            make_private_dir(&dir)?;
        }
        for dir in [options.controller_dir(), options.files_dir()] {
            crate::backup::sweep(&dir).map_err(|source| PlatformError::Io { path: dir, source })?;
        }
        let events = crate::events::Events::open(&options.events_file());
        let events = events.map_err(|source| PlatformError::Io { path: options.events_file(), source })?;
        let metrics = crate::metrics::Metrics::open(&options.metrics_file());
        let metrics = metrics.map_err(|source| PlatformError::Io { path: options.metrics_file(), source })?;
        let kept = crate::nodes::kept::Kept::load(&options.controller_dir());
        let kept = kept.map_err(|source| PlatformError::Io { path: options.controller_dir(), source })?;
        let registry = Arc::new(crate::registry::Registry::open(options.registry_dir()));
        let inner = Inner {
            registry,
            pushes: crate::git::Pushes::default(),
            builds: crate::build::history::Builds::default(),
            runs: crate::runs::Runs::default(),
            options,
            store,
            etcd,
            keyring,
            rotation: tokio::sync::Mutex::default(),
            removals: tokio::sync::RwLock::default(),
            places_given: crate::placing::Given::default(),
            kept,
            write_probe: tokio::sync::Mutex::default(),
            operations: operations::Operations::default(),
            deploys: crate::deploy::Deploys::default(),
            traffic: crate::traffic::Histories::default(),
            certs: crate::certs::Certs::default(),
            events,
            metrics,
            cluster: crate::cluster::Cluster::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// What the controller was started with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// What runs and is to run, and the nodes and proxies.
    #[must_use]
    pub fn deploys(&self) -> &crate::deploy::Deploys {
        &self.0.deploys
    }

    /// The pushes that are under way.
    #[must_use]
    pub fn pushes(&self) -> &crate::git::Pushes {
        &self.0.pushes
    }

    /// The builds that are under way.
    pub(crate) fn builds(&self) -> &crate::build::history::Builds {
        &self.0.builds
    }

    /// The one-off containers that have not ended.
    pub(crate) fn runs(&self) -> &crate::runs::Runs {
        &self.0.runs
    }

    /// What the proxies tell of the apps' traffic.
    #[must_use]
    pub fn traffic(&self) -> &crate::traffic::Histories {
        &self.0.traffic
    }

    /// What goes on with certificates.
    pub(crate) fn certs(&self) -> &crate::certs::Certs {
        &self.0.certs
    }

    /// What was changed by whom, and what happened by itself.
    #[must_use]
    pub fn events(&self) -> &crate::events::Events {
        &self.0.events
    }

    /// What apps use.
    #[must_use]
    pub fn metrics(&self) -> &crate::metrics::Metrics {
        &self.0.metrics
    }

    /// Nodes that are connected over the network.
    pub(crate) fn cluster(&self) -> &crate::cluster::Cluster {
        &self.0.cluster
    }

    /// The images.
    #[must_use]
    pub fn registry(&self) -> &Arc<crate::registry::Registry> {
        &self.0.registry
    }

    /// The store, for state of modules' own.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Places of containers that are in no plan yet.
    pub(crate) fn places_given(&self) -> &crate::placing::Given {
        &self.0.places_given
    }

    /// Volumes of a backup that wait for their nodes.
    pub(crate) fn kept(&self) -> &crate::nodes::kept::Kept {
        &self.0.kept
    }

    /// To be held by whoever removes files that the store may name: waits while a backup takes its links.
    pub(crate) async fn removing(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.0.removals.read().await
    }

    /// While this is held no such file is removed, and no key replaced.
    pub(crate) async fn hold_everything(&self) -> Held<'_> {
        (self.0.rotation.lock().await, self.0.removals.write().await)
    }

    /// Where several controllers meet, if there are several.
    pub(crate) fn etcd(&self) -> Option<&crate::store::Etcd> {
        self.0.etcd.as_ref()
    }

    /// Why nothing can be written just now, if so. Tries it, at most once a second: anybody may ask.
    pub async fn write_problem(&self) -> Option<String> {
        let mut last = self.0.write_probe.lock().await;
        if let Some((at, problem)) = &*last
            && at.elapsed() < WRITE_PROBE
        {
            return problem.clone();
        }
        let problem = self.store().check_writable().await.err().map(|error| error.to_string());
        *last = Some((std::time::Instant::now(), problem.clone()));
        problem
    }

    /// Wakes at every change of an app, a release, a domain or the proxy's settings: whatever placement and routes are made of. (Config
    /// reaches containers only by a release.)
    #[must_use]
    pub fn changed(&self) -> Changed {
        Changed(["apps/", "releases/", "domains/", "proxy/"].map(|prefix| self.store().watch(prefix)))
    }

    /// One JSON value of the store, with the revision to compare with when writing it back.
    pub async fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Revision)>, PlatformError> {
        match self.store().get(key).await? {
            None => Ok(None),
            Some(entry) => Ok(Some((parse(key, &entry.value)?, entry.revision))),
        }
    }

    /// Every JSON value whose key begins so, with its key, in the order of the keys.
    pub async fn load_all<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, PlatformError> {
        let entries = self.store().list(prefix).await?.into_iter();
        entries.map(|entry| Ok((entry.key.clone(), parse(&entry.key, &entry.value)?))).collect()
    }

    /// Sets one JSON value whatever it was.
    pub async fn save<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<Revision, PlatformError> {
        Ok(self.store().put(key, json(value)).await?)
    }

    /// Removes one value.
    pub async fn remove(&self, key: &str) -> Result<(), PlatformError> {
        Ok(self.store().delete(key).await?)
    }

    pub(crate) fn keyring(&self) -> &Arc<Keyring> {
        &self.0.keyring
    }

    pub(crate) async fn txn(
        &self,
        compare: Vec<Compare>,
        then: Vec<Write>,
    ) -> Result<Option<Revision>, PlatformError> {
        Ok(self.store().txn(compare, then).await?)
    }
}

/// Wakes when placement or routes may have to change.
#[derive(Debug)]
pub struct Changed([Watch; 4]);

impl Changed {
    /// Waits for the next change since the last call, or since this was made. Read afresh when it returns: several may
    /// come as one. Never returns once the store is closed. Cancel-safe.
    pub async fn wait(&mut self) {
        let [apps, releases, domains, proxy] = &mut self.0;
        let revision = tokio::select! {
            revision = apps.changed() => revision,
            revision = releases.changed() => revision,
            revision = domains.changed() => revision,
            revision = proxy.changed() => revision,
        };
        if revision.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, PlatformError> {
    serde_json::from_slice(value).map_err(|source| PlatformError::Unreadable { key: key.to_owned(), source })
}

pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("stored types have string keys and no failing serializers")
}

/// Makes a directory that only its owner may enter; one that is there keeps its mode.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), PlatformError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PlatformError::Io { path: path.to_owned(), source })
}
