//! Releases: numbered per app, kept, never changed but for how they went.

use super::{Platform, PlatformError, apps, json, parse};
use crate::events::Event;
use crate::store::{Compare, Write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::release::{App, Outcome, Release};
use berth_model::secrets::{SecretFiles, Secrets};
use berth_model::{AppName, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A release as it is stored: its config is sealed, for it holds the same secrets as the app's.
#[derive(Serialize, Deserialize)]
struct Stored {
    release: Release,
    sealed_config: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed_files: Option<String>,
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

    /// The newest releases of an app, the newest first, `count` at most. Only those are opened.
    pub async fn newest_releases(&self, app: &AppName, count: usize) -> Result<Vec<Release>, PlatformError> {
        let entries = self.store().list(prefix(app)).await?;
        entries.iter().rev().take(count).map(|entry| self.open_release(&entry.key, &entry.value)).collect()
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
                self.record_release(&release);
                return Ok(app);
            }
        }
    }

    fn record_release(&self, release: &Release) {
        let (version, what) = (release.version, &release.description);
        let event = |kind: &str, text: String| Event {
            by: release.by.clone(),
            ..Event::by_itself(Some(&release.app), kind, text)
        };
        match &release.outcome {
            Outcome::Live => {
                self.events().record(event("release.live", format!("release {version} serves: {what}")));
            }
            Outcome::Failed { reason } => {
                let event = event("release.failed", format!("release {version} does not serve: {what}"));
                self.events().record_failed(event, reason);
            }
            Outcome::Withdrawn { reason } => {
                let event = event("release.withdrawn", format!("release {version} was taken back: {what}"));
                self.events().record_failed(event, reason);
            }
            Outcome::Pending => {}
        }
    }

    pub(super) fn release_write(&self, release: &Release) -> Result<Write, PlatformError> {
        let key = key(&release.app, release.version);
        let seal =
            |plain: Vec<u8>| Ok::<_, PlatformError>(STANDARD.encode(self.keyring().seal(&key, &plain)?));
        let sealed_config = seal(json(&release.config))?;
        let files = &release.secrets.files;
        let sealed_files = if files.is_empty() { None } else { Some(seal(json(files))?) };
        let secrets = Secrets { files: SecretFiles::new(), ..release.secrets.clone() };
        let bare = Release { config: BTreeMap::new(), secrets, ..release.clone() };
        let stored = Stored { release: bare, sealed_config, sealed_files };
        Ok(Write::Put(key, json(&stored)))
    }

    fn open_release(&self, key: &str, value: &[u8]) -> Result<Release, PlatformError> {
        let Stored { mut release, sealed_config, sealed_files } = parse(key, value)?;
        // Text that is no base64 opens as little as bytes that are no seal: the same refusal.
        let open = |text: String| self.keyring().open_sealed(key, &STANDARD.decode(text).unwrap_or_default());
        release.config = parse(key, &open(sealed_config)?)?;
        if let Some(files) = sealed_files {
            release.secrets.files = parse(key, &open(files)?)?;
        }
        Ok(release)
    }
}
