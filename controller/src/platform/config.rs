//! Config vars of apps and of the platform, sealed at rest, each under a key of its own.
//!
//! In: patches. Out: what a release runs with, what may be shown of it, and who changed which names when. A value in the
//! store is its text; one that is never shown, or a file, begins with a NUL byte and a letter, which no text does.

use super::{Platform, PlatformError, apps, json, now_ms};
use crate::secrets::SecretError;
use crate::store::{Compare, Write};
use berth_model::api::PatchConfig;
use berth_model::config_api::{Change, ConfigEvent, NameChange, Variable, VariableKind};
use berth_model::secrets::{SecretBytes, Secrets};
use berth_model::{AppName, EnvName, ReleaseVersion};
use std::collections::{BTreeMap, BTreeSet};

const GLOBAL: &str = "config/global/";

/// Longest value, in bytes (Linux takes 128 KiB for one environment string, its name and `=` included).
const MAX_VALUE: usize = 120 * 1024;
/// Longest file, in bytes: certificates and service accounts, not data.
const MAX_FILE: usize = 512 * 1024;
/// Most bytes of all names and values of one scope: an `execve` takes about 2 MiB with arguments.
const MAX_TOTAL: usize = 1024 * 1024;
/// Changes that are remembered for each app.
const MAX_EVENTS: usize = 200;

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

/// Where an app's history of changes is.
pub(super) fn events_prefix(app: Option<&AppName>) -> String {
    app.map_or("config-events/global/".to_owned(), |app| format!("config-events/app/{app}/"))
}

/// One config var as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Setting {
    /// In the environment.
    Plain(String),
    /// In the environment, never shown.
    Secret(String),
    /// A file, never shown.
    File(Vec<u8>),
}

/// All config vars of one scope, or of an app with the platform's below.
pub(super) type Settings = BTreeMap<EnvName, Setting>;

impl Setting {
    fn kind(&self) -> VariableKind {
        match self {
            Self::Plain(_) => VariableKind::Plain,
            Self::Secret(_) => VariableKind::Secret,
            Self::File(_) => VariableKind::File,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Plain(text) | Self::Secret(text) => text.len(),
            Self::File(bytes) => bytes.len(),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) | Self::Secret(text) => Some(text),
            Self::File(_) => None,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Plain(text) => text.as_bytes().to_vec(),
            Self::Secret(text) => [b"\0s", text.as_bytes()].concat(),
            Self::File(bytes) => [b"\0f", bytes.as_slice()].concat(),
        }
    }

    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        match bytes.strip_prefix(b"\0") {
            None => String::from_utf8(bytes).ok().map(Self::Plain),
            Some([b's', text @ ..]) => String::from_utf8(text.to_vec()).ok().map(Self::Secret),
            Some([b'f', bytes @ ..]) => Some(Self::File(bytes.to_vec())),
            Some(_) => None,
        }
    }
}

/// What a patch changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// Whether anything is different from before.
    pub changed: bool,
}

impl Platform {
    /// What an app's next release runs with: global values, the app's over them.
    pub async fn config_of(&self, app: &AppName) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        Ok(environment(&self.effective(app).await?))
    }

    /// The same with what is no text in the environment, or is never shown.
    pub async fn config_and_secrets_of(
        &self,
        app: &AppName,
    ) -> Result<(BTreeMap<EnvName, String>, Secrets), PlatformError> {
        let settings = self.effective(app).await?;
        Ok((environment(&settings), secrets(&settings)))
    }

    /// An app's own values, those that are never shown as well: not for showing.
    pub async fn app_config(&self, app: &AppName) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        Ok(environment(&self.settings_under(&app_prefix(app)).await?))
    }

    /// The platform's values, those that are never shown as well: not for showing.
    pub async fn global_config(&self) -> Result<BTreeMap<EnvName, String>, PlatformError> {
        Ok(environment(&self.settings_under(GLOBAL).await?))
    }

    /// What may be shown of an app's own config vars, or the platform's; with `merged` of what the app's next release gets.
    pub async fn variables(
        &self,
        app: Option<&AppName>,
        merged: bool,
    ) -> Result<Vec<Variable>, PlatformError> {
        let (own, global) = match app {
            None => (Settings::new(), self.settings_under(GLOBAL).await?),
            Some(app) if merged => {
                (self.settings_under(&app_prefix(app)).await?, self.settings_under(GLOBAL).await?)
            }
            Some(app) => (self.settings_under(&app_prefix(app)).await?, Settings::new()),
        };
        let mut all: BTreeMap<EnvName, (bool, Setting)> =
            global.into_iter().map(|(name, setting)| (name, (true, setting))).collect();
        all.extend(own.into_iter().map(|(name, setting)| (name, (false, setting))));
        let variable = |(name, (global, setting)): (EnvName, (bool, Setting))| Variable {
            name,
            kind: setting.kind(),
            bytes: setting.len() as u64,
            global,
            value: match setting {
                Setting::Plain(text) => Some(text),
                Setting::Secret(_) | Setting::File(_) => None,
            },
        };
        Ok(all.into_iter().map(variable).collect())
    }

    /// Who changed config vars of an app, or of the platform, newest first.
    pub async fn config_events(&self, app: Option<&AppName>) -> Result<Vec<ConfigEvent>, PlatformError> {
        let mut events: Vec<ConfigEvent> =
            self.load_all(&events_prefix(app)).await?.into_iter().map(|(_, event)| event).collect();
        events.reverse();
        Ok(events)
    }

    /// Changes the values of an app (or of the platform) in one transaction, on behalf of `by`.
    pub async fn patch_config(
        &self,
        app: Option<&AppName>,
        patch: &PatchConfig,
        by: &str,
    ) -> Result<ConfigChange, PlatformError> {
        self.patch_config_of(app, patch, by, None).await
    }

    /// The same; `release` is the one whose values come back.
    pub(crate) async fn patch_config_of(
        &self,
        app: Option<&AppName>,
        patch: &PatchConfig,
        by: &str,
        release: Option<ReleaseVersion>,
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
            let before = self.settings_under(&prefix).await?;
            let after = patched(&before, patch)?;
            let changes = changes(&before, &after);
            if changes.is_empty() {
                return Ok(ConfigChange { changed: false });
            }
            let mut then = Vec::new();
            for change in &changes {
                let key = format!("{prefix}{}", change.name);
                then.push(match after.get(&change.name) {
                    None => Write::Delete(key),
                    Some(setting) => self.setting_write(key, setting)?,
                });
            }
            let stored_only = patch.no_restart;
            let event = ConfigEvent { at_ms: now_ms(), by: by.to_owned(), changes, stored_only, release };
            then.extend(self.event_writes(&events_prefix(app), &event).await?);
            let compare =
                found.iter().map(|found| Compare::Revision(found.key.clone(), found.revision)).collect();
            then.extend(found.map(|found| Write::Put(found.key, found.value)));
            if self.txn(compare, then).await?.is_some() {
                return Ok(ConfigChange { changed: true });
            }
        }
    }

    /// An app's own config vars under another name, as they are.
    pub(super) async fn copied_config(
        &self,
        from: &AppName,
        to: &AppName,
    ) -> Result<Vec<Write>, PlatformError> {
        let settings = self.settings_under(&app_prefix(from)).await?;
        let prefix = app_prefix(to);
        settings
            .iter()
            .map(|(name, setting)| self.setting_write(format!("{prefix}{name}"), setting))
            .collect()
    }

    /// An app's history under another name.
    pub(super) async fn moved_events(
        &self,
        from: &AppName,
        to: &AppName,
    ) -> Result<Vec<Write>, PlatformError> {
        let (old, new) = (events_prefix(Some(from)), events_prefix(Some(to)));
        let entries = self.store().list(&*old).await?;
        let moved = entries.into_iter().map(|entry| {
            Write::Put(format!("{new}{}", entry.key.strip_prefix(&old).unwrap_or_default()), entry.value)
        });
        Ok(std::iter::once(Write::DeletePrefix(old.clone())).chain(moved).collect())
    }

    /// The platform's settings with the app's over them.
    async fn effective(&self, app: &AppName) -> Result<Settings, PlatformError> {
        let mut settings = self.settings_under(GLOBAL).await?;
        settings.extend(self.settings_under(&app_prefix(app)).await?);
        Ok(settings)
    }

    fn setting_write(&self, key: String, setting: &Setting) -> Result<Write, PlatformError> {
        let sealed = self.keyring().seal(&key, &setting.to_bytes())?;
        Ok(Write::Put(key, sealed))
    }

    /// Remembers a change, and forgets the oldest beyond [`MAX_EVENTS`].
    async fn event_writes(&self, prefix: &str, event: &ConfigEvent) -> Result<Vec<Write>, PlatformError> {
        let known = self.store().list(prefix).await?;
        let too_many = (known.len() + 1).saturating_sub(MAX_EVENTS);
        let mut writes: Vec<_> =
            known.iter().take(too_many).map(|entry| Write::Delete(entry.key.clone())).collect();
        // Two changes of one millisecond are kept apart by the number of those before them.
        let at = u64::try_from(event.at_ms).unwrap_or(0);
        let last = known.last().and_then(|entry| entry.key[prefix.len()..].parse::<u64>().ok()).unwrap_or(0);
        writes.push(Write::Put(format!("{prefix}{:020}", at.max(last + 1)), json(event)));
        Ok(writes)
    }

    async fn settings_under(&self, prefix: &str) -> Result<Settings, PlatformError> {
        let entries = self.store().list(prefix).await?;
        let open = |entry: &crate::store::Entry| {
            let plain = self.keyring().open_sealed(&entry.key, &entry.value)?;
            let refused = || SecretError::Sealed { path: entry.key.clone() };
            let name = EnvName::parse(&entry.key[prefix.len()..]).map_err(|_| refused())?;
            Ok((name, Setting::from_bytes(plain).ok_or_else(refused)?))
        };
        entries.iter().map(open).collect()
    }
}

fn environment(settings: &Settings) -> BTreeMap<EnvName, String> {
    let texts =
        settings.iter().filter_map(|(name, setting)| Some((name.clone(), setting.text()?.to_owned())));
    texts.collect()
}

fn secrets(settings: &Settings) -> Secrets {
    let mut secrets = Secrets::default();
    for (name, setting) in settings {
        match setting {
            Setting::Plain(_) => {}
            Setting::Secret(_) => drop(secrets.write_only.insert(name.clone())),
            Setting::File(bytes) => drop(secrets.files.insert(name.clone(), SecretBytes(bytes.clone()))),
        }
    }
    secrets
}

/// What a release's config was made of, for a comparison.
pub(crate) fn kind_in(secrets: &Secrets, name: &EnvName) -> VariableKind {
    match (secrets.files.contains_key(name), secrets.write_only.contains(name)) {
        (true, _) => VariableKind::File,
        (false, true) => VariableKind::Secret,
        (false, false) => VariableKind::Plain,
    }
}

fn patched(before: &Settings, patch: &PatchConfig) -> Result<Settings, PlatformError> {
    let mut settings = if patch.replace { Settings::new() } else { before.clone() };
    for name in &patch.unset {
        settings.remove(name);
    }
    for (name, value) in &patch.set {
        // A new password in the usual words must not become readable by that.
        let stays = matches!(before.get(name), Some(Setting::Secret(_) | Setting::File(_)));
        let value = value.clone();
        let setting = if patch.secret || stays { Setting::Secret(value) } else { Setting::Plain(value) };
        settings.insert(name.clone(), setting);
    }
    for (name, bytes) in &patch.files {
        settings.insert(name.clone(), Setting::File(bytes.0.clone()));
    }
    let total: usize = settings.iter().map(|(name, setting)| name.as_str().len() + setting.len() + 2).sum();
    if total > MAX_TOTAL {
        return Err(PlatformError::Invalid(format!(
            "config vars would take {total} bytes together; {MAX_TOTAL} is the most: put big values in a volume or a \
             service"
        )));
    }
    Ok(settings)
}

fn changes(before: &Settings, after: &Settings) -> Vec<NameChange> {
    let names: BTreeSet<&EnvName> = before.keys().chain(after.keys()).collect();
    let change = |name: &EnvName| {
        let (change, kind) = match (before.get(name), after.get(name)) {
            (None, Some(new)) => (Change::Added, new.kind()),
            (Some(old), None) => (Change::Removed, old.kind()),
            (Some(old), Some(new)) if old != new => (Change::Changed, new.kind()),
            _ => return None,
        };
        Some(NameChange { name: name.clone(), change, kind })
    };
    names.into_iter().filter_map(change).collect()
}

fn check(patch: &PatchConfig) -> Result<(), PlatformError> {
    let invalid = |text: String| Err(PlatformError::Invalid(text));
    for name in patch.set.keys().chain(patch.files.keys()) {
        if let Some((_, why)) = OWN.iter().find(|(own, _)| *own == name.as_str()) {
            return invalid(format!("{name} cannot be set: {why}"));
        }
        if patch.unset.contains(name) {
            return invalid(format!("{name} is to be set and unset at once; say one of them"));
        }
        if patch.set.contains_key(name) && patch.files.contains_key(name) {
            return invalid(format!("{name} is to be a variable and a file at once; say one of them"));
        }
    }
    for (name, value) in &patch.set {
        if value.contains('\0') {
            return invalid(format!(
                "the value of {name} has a NUL byte, which no environment can hold; make it a file \
                 (berth config:set APP --file {name}=PATH), or let the app decode it from base64"
            ));
        }
        if value.len() > MAX_VALUE {
            return invalid(format!(
                "the value of {name} has {} bytes; {MAX_VALUE} is the most: make it a file (berth config:set APP --file \
                 {name}=PATH)",
                value.len()
            ));
        }
    }
    for (name, bytes) in &patch.files {
        if bytes.0.len() > MAX_FILE {
            return invalid(format!(
                "the file {name} has {} bytes; {MAX_FILE} is the most: put it in a volume (berth storage:mount)",
                bytes.0.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_setting_comes_back_from_its_bytes(text in "[^\0]{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for setting in [Setting::Plain(text.clone()), Setting::Secret(text.clone()), Setting::File(bytes.clone())] {
                prop_assert!(Setting::from_bytes(setting.to_bytes()) == Some(setting));
            }
        }
    }

    #[test]
    fn what_is_secret_stays_secret_when_it_is_set_again() {
        let name = EnvName::parse("TOKEN").expect("valid");
        let set = |value: &str, secret| PatchConfig {
            set: BTreeMap::from([(name.clone(), value.to_owned())]),
            secret,
            ..PatchConfig::default()
        };
        let one = patched(&Settings::new(), &set("1", true)).expect("fits");
        let two = patched(&one, &set("2", false)).expect("fits");
        assert!(two.get(&name) == Some(&Setting::Secret("2".to_owned())));
        let gone = patched(&two, &PatchConfig { unset: vec![name.clone()], ..PatchConfig::default() });
        let three = patched(&gone.expect("fits"), &set("3", false)).expect("fits");
        assert!(three.get(&name) == Some(&Setting::Plain("3".to_owned())));
    }
}
