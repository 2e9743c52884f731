//! What all controllers of a platform have in common besides the store: the config key, the directory of files, the SSH host key
//! and the API's certificate.
//!
//! In: the store, local files. Out: whether this controller may lead; when it leads, the same host key and certificate as its
//! predecessor. In the store: `controllers/probe` (sealed with the config key), `controllers/files` (the name of the directory of
//! files, which is in it too), `controllers/ssh-host-key` and `controllers/certificate` (sealed), `controllers/copying` while
//! somebody else's state is copied in.

use crate::options::{Options, Several};
use crate::secrets::{Keyring, SecretError, random};
use crate::store::{Compare, Etcd, Store, StoreError, Write};
use anyhow::Context;
use berth_wire::write_private;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const PROBE: &str = "controllers/probe";
const FILES: &str = "controllers/files";
const HOST_KEY: &str = "controllers/ssh-host-key";
const CERTIFICATE: &str = "controllers/certificate";
/// There while a copy is made: a half one is no platform.
pub(super) const COPYING: &str = "controllers/copying";
/// In the directory of files: which it is.
const MARK: &str = ".berth-files";

/// Why a controller may not lead.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its key cannot be used.
    #[error(transparent)]
    Key(SecretError),
    /// It has none, or another one.
    #[error(
        "the values in the store are sealed with another key than {}: copy that file from the controller that leads \
         (the same path under its data directory, mode 0600)", path.display()
    )]
    OtherKey {
        /// The key file.
        path: PathBuf,
    },
    /// It does not see the files.
    #[error(
        "{} is not the directory that the other controllers keep repositories and images in: mount the same one on \
         every controller, or name it with --files", path.display()
    )]
    OtherFiles {
        /// What was named.
        path: PathBuf,
    },
    /// Half a platform.
    #[error("a copy into this store was begun and not finished; run `berth store:copy` again")]
    Copying,
}

/// Whether this controller has what a leader needs.
pub(super) async fn fit(etcd: &Etcd, options: &Options, several: &Several) -> Result<(), Unfit> {
    if etcd.get(COPYING).await?.is_some() {
        return Err(Unfit::Copying);
    }
    if let Some(probe) = etcd.get(PROBE).await? {
        let path = options.config_key_file();
        let other = || Unfit::OtherKey { path: path.clone() };
        let keyring = Keyring::open(&path, true).map_err(|error| match error {
            SecretError::KeyMissing { .. } => other(),
            error => Unfit::Key(error),
        })?;
        keyring.open_sealed(PROBE, &probe.value).map_err(|_| other())?;
    }
    if let Some(wanted) = etcd.get(FILES).await? {
        let path = several.files.clone();
        if mark(&path).ok().flatten().map(String::into_bytes) != Some(wanted.value) {
            return Err(Unfit::OtherFiles { path });
        }
    }
    Ok(())
}

/// Makes this controller the one that users and nodes know. Only for who leads.
pub(super) async fn take_over(
    store: &Store,
    options: &Options,
    several: &Several,
) -> anyhow::Result<Arc<Keyring>> {
    let probe = store.get(PROBE).await?;
    let in_use = probe.is_some() || !store.list("config/").await?.is_empty();
    let keyring = Arc::new(Keyring::open(&options.config_key_file(), in_use)?);
    if probe.is_none() {
        let sealed = keyring.seal(PROBE, b"berth")?;
        store
            .txn(vec![Compare::Absent(PROBE.to_owned())], vec![Write::Put(PROBE.to_owned(), sealed)])
            .await?;
    }
    if store.get(FILES).await?.is_none() {
        let name = match mark(&several.files)? {
            Some(name) => name,
            None => {
                let name = hex::encode(random::<16>()?);
                let path = several.files.join(MARK);
                write_private(&path, name.as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
                name
            }
        };
        store.put(FILES, name.into_bytes()).await?;
    }
    let tls = options.tls_dir();
    std::fs::create_dir_all(&tls).with_context(|| format!("cannot make {}", tls.display()))?;
    share(store, &keyring, HOST_KEY, &[options.ssh_host_key_file()], false).await?;
    share(store, &keyring, CERTIFICATE, &[tls.join("cert.pem"), tls.join("key.pem")], true).await?;
    Ok(keyring)
}

/// Puts this controller's own host key and certificate into the store, once they were made.
pub(crate) async fn publish(store: &Store, keyring: &Keyring, options: &Options) -> anyhow::Result<()> {
    let tls = options.tls_dir();
    share(store, keyring, HOST_KEY, &[options.ssh_host_key_file()], false).await?;
    share(store, keyring, CERTIFICATE, &[tls.join("cert.pem"), tls.join("key.pem")], true).await
}

/// Files as they are in the store.
#[derive(Serialize, Deserialize)]
struct Shared {
    /// When the newest of them was written, in milliseconds of the Unix epoch.
    since_ms: u64,
    texts: Vec<String>,
}

/// Makes files and store the same: what is in the store is written to the files; what is not there yet, or newer here (if
/// `newer`: a certificate that its owner replaced), goes into the store.
async fn share(
    store: &Store,
    keyring: &Keyring,
    key: &str,
    paths: &[PathBuf],
    newer: bool,
) -> anyhow::Result<()> {
    let kept = store.get(key).await?;
    let kept: Option<Shared> = match &kept {
        Some(entry) => Some(
            serde_json::from_slice(&keyring.open_sealed(key, &entry.value)?)
                .with_context(|| format!("{key} in the store cannot be read"))?,
        ),
        None => None,
    };
    let here = read(paths)?;
    match (kept, here) {
        (Some(kept), Some(here)) if kept.texts == here.texts => Ok(()),
        (Some(kept), Some(here)) if !newer || here.since_ms <= kept.since_ms => write(paths, &kept),
        (Some(kept), None) => write(paths, &kept),
        (_, Some(here)) => {
            let json = serde_json::to_vec(&here)?;
            store.put(key, keyring.seal(key, &json)?).await?;
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// All of the files, or `None` if one is not there.
fn read(paths: &[PathBuf]) -> anyhow::Result<Option<Shared>> {
    let mut found = Shared { since_ms: 0, texts: Vec::new() };
    for path in paths {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let modified = std::fs::metadata(path).and_then(|file| file.modified()).ok();
        let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        found.since_ms = found.since_ms.max(u64::try_from(since.as_millis()).unwrap_or(0));
        found.texts.push(text);
    }
    Ok(Some(found))
}

/// The last one first: a certificate without its key is a start that broke off.
fn write(paths: &[PathBuf], kept: &Shared) -> anyhow::Result<()> {
    let time = UNIX_EPOCH + Duration::from_millis(kept.since_ms);
    for (path, text) in paths.iter().zip(&kept.texts).rev() {
        let written = write_private(path, text.as_bytes())
            .and_then(|()| std::fs::File::options().append(true).open(path)?.set_modified(time));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Which directory of files this is.
fn mark(files: &Path) -> anyhow::Result<Option<String>> {
    let path = files.join(MARK);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
