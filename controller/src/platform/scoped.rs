//! Sealed values that belong to an app or to the platform: drains and alerts. Their addresses may hold secrets.
//!
//! Keys of the store: `<kind>/app/<app>/<id>` and `<kind>/global/<id>`.

use super::{Platform, PlatformError, apps, json};
use crate::secrets::{self, SecretError};
use crate::store::{Compare, Write};
use berth_model::AppName;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is kept so.
const KINDS: [&str; 2] = ["drains", "alerts"];
/// Most of one kind.
const MOST: usize = 100;

fn prefix(kind: &str, app: Option<&AppName>) -> String {
    app.map_or_else(|| format!("{kind}/global/"), |app| format!("{kind}/app/{app}/"))
}

/// What goes with an app.
pub(super) fn forgotten(app: &AppName) -> impl Iterator<Item = Write> {
    KINDS.map(|kind| Write::DeletePrefix(prefix(kind, Some(app)))).into_iter()
}

impl Platform {
    /// All of a kind: whose, its id, the value.
    pub(crate) async fn scoped<T: DeserializeOwned>(
        &self,
        kind: &str,
    ) -> Result<Vec<(Option<AppName>, String, T)>, PlatformError> {
        let mut found = Vec::new();
        for entry in self.store().list(format!("{kind}/")).await? {
            let mut parts = entry.key.split('/').skip(1);
            let (app, id) = match (parts.next(), parts.next(), parts.next()) {
                (Some("global"), Some(id), None) => (None, id.to_owned()),
                (Some("app"), Some(app), Some(id)) => (AppName::parse(app).ok(), id.to_owned()),
                _ => continue,
            };
            let plain = self.keyring().open_sealed(&entry.key, &entry.value)?;
            let value = serde_json::from_slice(&plain)
                .map_err(|_| PlatformError::Secret(SecretError::Sealed { path: entry.key.clone() }))?;
            found.push((app, id, value));
        }
        Ok(found)
    }

    /// Keeps a new one; gives its id.
    pub(crate) async fn add_scoped<T: Serialize + Sync>(
        &self,
        kind: &str,
        app: Option<&AppName>,
        value: &T,
    ) -> Result<String, PlatformError> {
        if self.store().list(format!("{kind}/")).await?.len() >= MOST {
            return Err(PlatformError::Conflict(format!(
                "there are {MOST} {kind} already; remove one first"
            )));
        }
        let id = hex::encode(secrets::random::<4>()?);
        let key = format!("{}{id}", prefix(kind, app));
        let write = Write::Put(key.clone(), self.keyring().seal(&key, &json(value))?);
        let compare = app.map(|app| Compare::Present(apps::key(app))).into_iter().collect();
        match (self.txn(compare, vec![write]).await?, app) {
            (None, Some(app)) => Err(PlatformError::NoSuchApp(app.clone())),
            _ => Ok(id),
        }
    }

    /// Forgets one. Errors: there is none.
    pub(crate) async fn remove_scoped(&self, kind: &str, id: &str) -> Result<(), PlatformError> {
        let entries = self.store().list(format!("{kind}/")).await?;
        let found = entries.into_iter().find(|entry| entry.key.rsplit('/').next() == Some(id));
        let shown: String = id.chars().take(40).collect();
        let Some(entry) = found else {
            return Err(PlatformError::NotFound(format!("there is no {shown:?}; see: berth {kind}:list")));
        };
        self.remove(&entry.key).await
    }

    /// An app's under its new name.
    pub(super) async fn moved_scoped(
        &self,
        from: &AppName,
        to: &AppName,
    ) -> Result<Vec<Write>, PlatformError> {
        let mut writes: Vec<Write> = forgotten(from).collect();
        for kind in KINDS {
            let before = prefix(kind, Some(from));
            for entry in self.store().list(&*before).await? {
                let plain = self.keyring().open_sealed(&entry.key, &entry.value)?;
                let key = entry.key.replacen(&before, &prefix(kind, Some(to)), 1);
                let sealed = self.keyring().seal(&key, &plain)?;
                writes.push(Write::Put(key, sealed));
            }
        }
        Ok(writes)
    }

    /// What nodes are to know of logs.
    pub(crate) async fn node_logs(&self) -> Result<berth_model::logs::NodeLogs, PlatformError> {
        let set = self.apps().await?.into_iter().filter(|app| !app.logs.is_default());
        let apps = set.map(|app| (app.name, app.logs)).collect();
        let drains = self.scoped::<berth_model::logs::DrainUrl>("drains").await?;
        let drains = drains.into_iter().map(|(app, id, url)| berth_model::logs::Drain { id, app, url });
        Ok(berth_model::logs::NodeLogs { apps, drains: drains.collect() })
    }
}
