//! Releases: numbered per app, kept, never changed but for how they went.

use super::{Platform, PlatformError, apps, json, parse};
use crate::store::{Compare, Write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::release::{App, Outcome, Release};
use berth_model::{AppName, EnvName, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A release as it is stored: its config is sealed, for it holds the same secrets as the app's.
#[derive(Serialize, Deserialize)]
struct Stored {
    release: Release,
    sealed_config: String,
}

pub(super) fn prefix(app: &AppName) -> String {
    format!("releases/{app}/")
}

fn key(app: &AppName, version: ReleaseVersion) -> String {
    // Ten digits, so that the order of the keys is the order of the numbers.
    format!("releases/{app}/{:010}", version.0)
}

impl Platform {
    /// One release, or `None` if there is no such.
    pub async fn release(
        &self,
        app: &AppName,
        version: ReleaseVersion,
    ) -> Result<Option<Release>, PlatformError> {
        let key = key(app, version);
        let entry = self.store().get(&*key).await?;
        entry.map(|entry| self.open_release(&key, &entry.value)).transpose()
    }

    /// One release, or [`PlatformError::NoSuchRelease`].
    pub async fn existing_release(
        &self,
        app: &AppName,
        version: ReleaseVersion,
    ) -> Result<Release, PlatformError> {
        let found = self.release(app, version).await?;
        found.ok_or_else(|| PlatformError::NoSuchRelease { app: app.clone(), version })
    }

    /// The release that serves, if any does.
    pub async fn current_release(&self, app: &App) -> Result<Option<Release>, PlatformError> {
        match app.current {
            None => Ok(None),
            Some(version) => self.existing_release(&app.name, version).await.map(Some),
        }
    }

    /// Every release of an app, oldest first.
    pub async fn releases(&self, app: &AppName) -> Result<Vec<Release>, PlatformError> {
        let entries = self.store().list(prefix(app)).await?;
        entries.iter().map(|entry| self.open_release(&entry.key, &entry.value)).collect()
    }

    /// Makes the next release: `make` is given its number. Number and release are taken in one transaction.
    pub async fn add_release(
        &self,
        name: &AppName,
        mut make: impl FnMut(&App, ReleaseVersion) -> Release + Send,
    ) -> Result<Release, PlatformError> {
        loop {
            let found = self.load::<App>(&apps::key(name)).await?;
            let (mut app, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let version = ReleaseVersion(app.next_version);
            let release = make(&app, version);
            app.next_version += 1;
            let compare =
                vec![Compare::Revision(apps::key(name), revision), Compare::Absent(key(name, version))];
            let then = vec![Write::Put(apps::key(name), json(&app)), self.release_write(&release)?];
            if self.txn(compare, then).await?.is_some() {
                return Ok(release);
            }
        }
    }

    /// Writes a release as it is given. Its app must exist.
    pub async fn put_release(&self, release: &Release) -> Result<(), PlatformError> {
        let then = vec![self.release_write(release)?];
        match self.txn(vec![Compare::Present(apps::key(&release.app))], then).await? {
            None => Err(PlatformError::NoSuchApp(release.app.clone())),
            Some(_) => Ok(()),
        }
    }

    /// Says how a release went, and with [`Outcome::Live`] makes it the one that serves, in one transaction.
    pub async fn conclude_release(
        &self,
        name: &AppName,
        version: ReleaseVersion,
        outcome: &Outcome,
    ) -> Result<App, PlatformError> {
        loop {
            let found = self.load::<App>(&apps::key(name)).await?;
            let (mut app, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let mut release = self.existing_release(name, version).await?;
            release.outcome = outcome.clone();
            if *outcome == Outcome::Live {
                app.current = Some(version);
            }
            let compare = vec![Compare::Revision(apps::key(name), revision)];
            let then = vec![Write::Put(apps::key(name), json(&app)), self.release_write(&release)?];
            if self.txn(compare, then).await?.is_some() {
                return Ok(app);
            }
        }
    }

    pub(super) fn release_write(&self, release: &Release) -> Result<Write, PlatformError> {
        let key = key(&release.app, release.version);
        let sealed = self.keyring().seal(&key, &json(&release.config))?;
        let bare = Release { config: BTreeMap::new(), ..release.clone() };
        let stored = Stored { release: bare, sealed_config: STANDARD.encode(sealed) };
        Ok(Write::Put(key, json(&stored)))
    }

    fn open_release(&self, key: &str, value: &[u8]) -> Result<Release, PlatformError> {
        let Stored { release, sealed_config } = parse(key, value)?;
        // Text that is no base64 opens as little as bytes that are no seal: the same refusal.
        let sealed = STANDARD.decode(sealed_config).unwrap_or_default();
        let plain = self.keyring().open_sealed(key, &sealed)?;
        let config: BTreeMap<EnvName, String> = parse(key, &plain)?;
        Ok(Release { config, ..release })
    }
}
