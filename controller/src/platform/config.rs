//! Config vars of apps and of the platform, sealed at rest, each under a key of its own.

use super::{Platform, PlatformError, apps};
use crate::store::{Compare, Write};
use berth_model::api::PatchConfig;
use berth_model::{AppName, EnvName};
use std::collections::BTreeMap;

const GLOBAL: &str = "config/global/";

/// Longest value, in bytes (Linux takes 128 KiB for one environment string, its name and `=` included).
const MAX_VALUE: usize = 120 * 1024;
/// Most bytes of all names and values of one scope: an `execve` takes about 2 MiB with arguments.
const MAX_TOTAL: usize = 1024 * 1024;

/// Variables Berth itself sets in every container.
const OWN: &[(&str, &str)] = &[
    (
        "PORT",
        "Berth chooses the port and tells the app by PORT; see `berth ports:report` for what is mapped where",
    ),
    ("DYNO", "Berth sets it to the container's name, such as web.1"),
];

pub(super) fn app_prefix(app: &AppName) -> String {
    format!("config/app/{app}/")
}

pub(super) fn app_key(app: &AppName, name: &EnvName) -> String {
    format!("config/app/{app}/{name}")
}

/// What a patch changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// Everything that is set now.
    pub config: BTreeMap<EnvName, String>,
    /// Whether that differs from before.
    pub changed: bool,
}

impl Platform {
    /// What an app's next release runs with: global values, the app's over them.
    pub async fn config_of(&self, app: &AppName) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        let mut config = self.global_config().await?;
        config.extend(self.app_config(app).await?);
        Ok(config)
    }

    /// An app's own values.
    pub async fn app_config(&self, app: &AppName) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        self.config_under(&app_prefix(app)).await
    }

    /// The platform's values.
    pub async fn global_config(&self) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        self.config_under(GLOBAL).await
    }

    /// Changes the values of an app (or of the platform) in one transaction.
    pub async fn patch_config(
        &self,
        app: Option<&AppName>,
        patch: &PatchConfig,
    ) -> Result<ConfigChange, PlatformError> {
        check(patch)?;
        loop {
            // The app is written back as it is: a rename that has read the config already is noticed, and notices this.
            let (prefix, found) = match app {
                None => (GLOBAL.to_owned(), None),
                Some(name) => {
                    let found = self.store().get(apps::key(name)).await?;
                    let found = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
                    (app_prefix(name), Some(found))
                }
            };
            let before = self.config_under(&prefix).await?;
            let config = patched(&before, patch)?;
            let mut then = Vec::new();
            if patch.replace {
                then.push(Write::DeletePrefix(prefix.clone()));
            }
            then.extend(patch.unset.iter().map(|name| Write::Delete(format!("{prefix}{name}"))));
            for (name, value) in &patch.set {
                then.push(self.config_write(&format!("{prefix}{name}"), value)?);
            }
            let compare =
                found.iter().map(|found| Compare::Revision(found.key.clone(), found.revision)).collect();
            then.extend(found.map(|found| Write::Put(found.key, found.value)));
            if self.txn(compare, then).await?.is_some() {
                return Ok(ConfigChange { changed: config != before, config });
            }
        }
    }

    pub(super) fn config_write(&self, key: &str, value: &str) -> Result<Write, PlatformError> {
        Ok(Write::Put(key.to_owned(), self.keyring().seal(key, value.as_bytes())?))
    }

    async fn config_under(&self, prefix: &str) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        let entries = self.store().list(prefix).await?;
        let open = |entry: &crate::store::Entry| {
            let plain = self.keyring().open_sealed(&entry.key, &entry.value)?;
            let refused = || crate::secrets::SecretError::Sealed { path: entry.key.clone() };
            let name = EnvName::parse(&entry.key[prefix.len()..]).map_err(|_| refused())?;
            Ok((name, String::from_utf8(plain).map_err(|_| refused())?))
        };
        entries.iter().map(open).collect()
    }
}

fn patched(
    before: &BTreeMap<EnvName, String>,
    patch: &PatchConfig,
) -> Result<BTreeMap<EnvName, String>, PlatformError> {
    let mut config = if patch.replace { BTreeMap::new() } else { before.clone() };
    for name in &patch.unset {
        config.remove(name);
    }
    config.extend(patch.set.clone());
    let total: usize = config.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
    if total > MAX_TOTAL {
        return Err(PlatformError::Invalid(format!(
            "config vars would take {total} bytes together; {MAX_TOTAL} is the most: put big values in a file or a \
             service"
        )));
    }
    Ok(config)
}

fn check(patch: &PatchConfig) -> Result<(), PlatformError> {
    for (name, value) in &patch.set {
        if let Some((_, why)) = OWN.iter().find(|(own, _)| *own == name.as_str()) {
            return Err(PlatformError::Invalid(format!("{name} cannot be set: {why}")));
        }
        if value.contains('\0') {
            return Err(PlatformError::Invalid(format!(
                "the value of {name} has a NUL byte, which no environment can hold; encode it, for example as base64"
            )));
        }
        if value.len() > MAX_VALUE {
            let length = value.len();
            return Err(PlatformError::Invalid(format!(
                "the value of {name} has {length} bytes; {MAX_VALUE} is the most: put it in a file or a service"
            )));
        }
        if patch.unset.contains(name) {
            return Err(PlatformError::Invalid(format!(
                "{name} is to be set and unset at once; say one of them"
            )));
        }
    }
    Ok(())
}
