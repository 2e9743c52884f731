//! Logins of other registries, of the platform and of apps, sealed at rest like config values.

use super::{Platform, PlatformError, apps, json};
use crate::secrets::SecretError;
use crate::store::{Compare, Entry, Write};
use berth_model::{AppName, RegistryLogin, RegistryServer};
use std::collections::BTreeMap;

const GLOBAL: &str = "registries/global/";
/// Longest user name and password, in bytes: registries give out tokens of a few KiB.
const MAX_USER: usize = 255;
const MAX_PASSWORD: usize = 16 * 1024;

pub(super) fn app_prefix(app: &AppName) -> String {
    format!("registries/app/{app}/")
}

fn prefix(app: Option<&AppName>) -> String {
    app.map_or(GLOBAL.to_owned(), app_prefix)
}

impl Platform {
    /// What is used for an app's images: the platform's logins, the app's own over them.
    pub(crate) async fn registry_logins(&self, app: &AppName) -> Result<Vec<RegistryLogin>, PlatformError> {
        let mut logins = BTreeMap::new();
        for scope in [None, Some(app)] {
            for login in self.registry_logins_of(scope).await? {
                logins.insert(login.server.clone(), login);
            }
        }
        Ok(logins.into_values().collect())
    }

    /// The logins of an app alone, or of the platform.
    pub(crate) async fn registry_logins_of(
        &self,
        app: Option<&AppName>,
    ) -> Result<Vec<RegistryLogin>, PlatformError> {
        let entries = self.store().list(&prefix(app)).await?;
        entries.iter().map(|entry| self.open_login(entry)).collect()
    }

    /// Keeps a login in place of the one there is for its server.
    pub(crate) async fn put_registry_login(
        &self,
        app: Option<&AppName>,
        login: &RegistryLogin,
    ) -> Result<(), PlatformError> {
        let odd = |text: &str| text.chars().any(char::is_control);
        if login.user.len() > MAX_USER || odd(&login.user) || login.user.contains(':') {
            return Err(PlatformError::Invalid(
                "a user name has at most 255 bytes, no ':' and no line break".to_owned(),
            ));
        }
        if login.password.len() > MAX_PASSWORD || odd(&login.password) {
            return Err(PlatformError::Invalid(
                "a password has at most 16 KiB and no line break; was a whole file sent?".to_owned(),
            ));
        }
        if login.user.is_empty() != login.password.is_empty() {
            return Err(PlatformError::Invalid("a user and a password go together".to_owned()));
        }
        let compare = match app {
            None => Vec::new(),
            Some(app) => vec![Compare::Present(apps::key(app))],
        };
        let write = self.login_write(&prefix(app), login)?;
        match (self.txn(compare, vec![write]).await?, app) {
            (None, Some(app)) => Err(PlatformError::NoSuchApp(app.clone())),
            _ => Ok(()),
        }
    }

    /// Forgets a login.
    pub(crate) async fn remove_registry_login(
        &self,
        app: Option<&AppName>,
        server: &RegistryServer,
    ) -> Result<(), PlatformError> {
        let key = format!("{}{server}", prefix(app));
        let removed = self.txn(vec![Compare::Present(key.clone())], vec![Write::Delete(key)]).await?;
        removed.map(drop).ok_or_else(|| {
            let whose = app.map_or("the platform".to_owned(), |app| format!("app {app}"));
            PlatformError::NotFound(format!("{whose} has no login for {server}; see: berth registry:report"))
        })
    }

    /// An app's logins under its new name.
    pub(super) async fn moved_logins(
        &self,
        from: &AppName,
        to: &AppName,
    ) -> Result<Vec<Write>, PlatformError> {
        let mut writes = vec![Write::DeletePrefix(app_prefix(from))];
        for login in self.registry_logins_of(Some(from)).await? {
            writes.push(self.login_write(&app_prefix(to), &login)?);
        }
        Ok(writes)
    }

    fn login_write(&self, prefix: &str, login: &RegistryLogin) -> Result<Write, PlatformError> {
        let key = format!("{prefix}{}", login.server);
        let sealed = self.keyring().seal(&key, &json(login))?;
        Ok(Write::Put(key, sealed))
    }

    fn open_login(&self, entry: &Entry) -> Result<RegistryLogin, PlatformError> {
        let plain = self.keyring().open_sealed(&entry.key, &entry.value)?;
        let parsed = serde_json::from_slice(&plain);
        parsed.map_err(|_| PlatformError::Secret(SecretError::Sealed { path: entry.key.clone() }))
    }
}
