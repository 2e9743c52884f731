//! Certificates in the store, sealed at rest like config values: their keys are in them.
//!
//! In: checked certificates and whose they are. Out: the same. Keys: `certificates/app/<app>` (given by hand),
//! `certificates/global/<id>`, `certificates/acme/<app>/main/<nn>` and `certificates/acme/<app>/on-demand/<name>`.

use super::check::Certificate;
use crate::platform::{Platform, PlatformError};
use crate::secrets::SecretError;
use crate::store::{Compare, Entry, Revision, Write};
use berth_model::AppName;
use berth_model::certs::{CertificateInfo, CertificateSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) const ALL: &str = "certificates/";
const GLOBAL: &str = "certificates/global/";
/// Most certificates of the platform's own.
const MAX_GLOBAL: usize = 200;

/// Which of an app's certificates that ACME keeps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    /// For the app's domains; a hundred names each.
    Main(u16),
    /// For one name that somebody asked for.
    OnDemand(String),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main(number) => write!(f, "main/{number:02}"),
            Self::OnDemand(name) => write!(f, "on-demand/{name}"),
        }
    }
}

impl Slot {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('/')? {
            ("main", number) => number.parse().ok().map(Self::Main),
            ("on-demand", name) => Some(Self::OnDemand(name.to_owned())),
            _ => None,
        }
    }
}

/// Whose a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Given by hand for an app.
    App(AppName),
    /// Got by ACME for an app.
    Acme(AppName, Slot),
    /// The platform's.
    Global(String),
}

impl Place {
    pub(super) fn key(&self) -> String {
        match self {
            Self::App(app) => format!("certificates/app/{app}"),
            Self::Acme(app, slot) => format!("certificates/acme/{app}/{slot}"),
            Self::Global(id) => format!("{GLOBAL}{id}"),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let (kind, rest) = key.strip_prefix(ALL)?.split_once('/')?;
        match kind {
            "app" => Some(Self::App(AppName::parse(rest).ok()?)),
            "global" => Some(Self::Global(rest.to_owned())),
            "acme" => {
                let (app, slot) = rest.split_once('/')?;
                Some(Self::Acme(AppName::parse(app).ok()?, Slot::parse(slot)?))
            }
            _ => None,
        }
    }

    pub(super) fn app(&self) -> Option<&AppName> {
        match self {
            Self::App(app) | Self::Acme(app, _) => Some(app),
            Self::Global(_) => None,
        }
    }
}

/// A certificate and how it came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    /// It.
    pub(super) certificate: Certificate,
    /// Whether Berth signed it itself.
    #[serde(default)]
    pub(super) generated: bool,
    /// Which ACME server it is from.
    #[serde(default)]
    pub(super) server: Option<String>,
}

/// All of them, opened, by place.
pub(super) type Kept = BTreeMap<Place, Arc<Stored>>;

/// What was opened already, by key.
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<BTreeMap<String, (Revision, Arc<Stored>)>>);

pub(super) fn source(place: &Place, stored: &Stored) -> CertificateSource {
    match place {
        Place::Acme(_, Slot::OnDemand(_)) => CertificateSource::OnDemand,
        Place::Acme(_, Slot::Main(_)) => CertificateSource::Acme,
        _ if stored.generated => CertificateSource::Generated,
        _ => CertificateSource::Own,
    }
}

pub(super) fn info(place: &Place, stored: &Stored, verified: String) -> CertificateInfo {
    let certificate = &stored.certificate;
    CertificateInfo {
        id: certificate.id.clone(),
        app: place.app().cloned(),
        source: source(place, stored),
        hostnames: certificate.names.clone(),
        issuer: certificate.issuer.clone(),
        subject: certificate.subject.clone(),
        starts_ms: certificate.starts_ms,
        expires_ms: certificate.expires_ms,
        verified,
    }
}

/// Seals a JSON value that is kept under `key`.
pub(super) fn seal<T: Serialize>(
    platform: &Platform,
    key: &str,
    value: &T,
) -> Result<Vec<u8>, PlatformError> {
    let plain = serde_json::to_vec(value).expect("stored types have string keys and no failing serializers");
    Ok(platform.keyring().seal(key, &plain)?)
}

/// Opens what [`seal`] made.
pub(super) fn open<T: serde::de::DeserializeOwned>(
    platform: &Platform,
    entry: &Entry,
) -> Result<T, PlatformError> {
    let plain = platform.keyring().open_sealed(&entry.key, &entry.value)?;
    let sealed = |_| PlatformError::Secret(SecretError::Sealed { path: entry.key.clone() });
    serde_json::from_slice(&plain).map_err(sealed)
}

/// Every certificate there is. One that does not open is passed over and said in the log: the others serve on.
pub(super) async fn all(platform: &Platform, opened: &Opened) -> Result<Kept, PlatformError> {
    let entries = platform.store().list(ALL).await?;
    let mut known = opened.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut now = BTreeMap::new();
    let mut kept = Kept::new();
    for entry in entries {
        let Some(place) = Place::parse(&entry.key) else { continue };
        let stored = match known.get(&entry.key) {
            Some((revision, stored)) if *revision == entry.revision => stored.clone(),
            _ => match open::<Stored>(platform, &entry) {
                Ok(stored) => Arc::new(stored),
                Err(error) => {
                    tracing::error!(key = entry.key, %error, "a certificate is passed over");
                    continue;
                }
            },
        };
        now.insert(entry.key, (entry.revision, stored.clone()));
        kept.insert(place, stored);
    }
    *known = now;
    Ok(kept)
}

/// Keeps a certificate in place of the one there is.
pub(super) async fn put(platform: &Platform, place: &Place, stored: &Stored) -> Result<(), PlatformError> {
    let key = place.key();
    let value = seal(platform, &key, stored)?;
    if let Place::Global(id) = place {
        let others = platform.store().list(GLOBAL).await?;
        if others.len() >= MAX_GLOBAL && !others.iter().any(|entry| entry.key == key) {
            return Err(PlatformError::Invalid(format!(
                "the platform has {MAX_GLOBAL} certificates already ({id} would be one more); remove one first"
            )));
        }
    }
    let compare = place.app().map(|app| Compare::Present(format!("apps/{app}"))).into_iter().collect();
    match (platform.store().txn(compare, vec![Write::Put(key, value)]).await?, place.app()) {
        (None, Some(app)) => Err(PlatformError::NoSuchApp(app.clone())),
        _ => Ok(()),
    }
}

/// Forgets a certificate; whether there was one.
pub(super) async fn remove(platform: &Platform, place: &Place) -> Result<bool, PlatformError> {
    let key = place.key();
    let removed = platform.store().txn(vec![Compare::Present(key.clone())], vec![Write::Delete(key)]).await?;
    Ok(removed.is_some())
}

/// Everything about an app's certificates that goes with it.
pub(crate) fn forgotten(app: &AppName) -> Vec<Write> {
    vec![
        Write::Delete(Place::App(app.clone()).key()),
        Write::DeletePrefix(format!("certificates/acme/{app}/")),
        Write::Delete(super::settings::app_key(app)),
        Write::DeletePrefix(format!("acme/state/{app}/")),
        Write::DeletePrefix(format!("acme/pending/{app}/")),
        Write::DeletePrefix(format!("acme/on-demand/{app}/")),
    ]
}

/// The same under the app's new name. An order that is under way begins anew.
pub(crate) async fn moved(
    platform: &Platform,
    from: &AppName,
    to: &AppName,
) -> Result<Vec<Write>, PlatformError> {
    let mut writes = forgotten(from);
    for entry in platform.store().list(ALL).await? {
        let to_place = match Place::parse(&entry.key) {
            Some(Place::App(app)) if app == *from => Place::App(to.clone()),
            Some(Place::Acme(app, slot)) if app == *from => Place::Acme(to.clone(), slot),
            _ => continue,
        };
        let (stored, key): (Stored, _) = (open(platform, &entry)?, to_place.key());
        writes.push(Write::Put(key.clone(), seal(platform, &key, &stored)?));
    }
    let settings = super::settings::of_app(platform, from).await?;
    let key = super::settings::app_key(to);
    writes.push(Write::Put(key.clone(), seal(platform, &key, &settings)?));
    for kind in ["acme/state/", "acme/on-demand/"] {
        let old = format!("{kind}{from}/");
        for entry in platform.store().list(old.as_str()).await? {
            let rest = entry.key.strip_prefix(&old).unwrap_or_default().to_owned();
            writes.push(Write::Put(format!("{kind}{to}/{rest}"), entry.value));
        }
    }
    Ok(writes)
}
