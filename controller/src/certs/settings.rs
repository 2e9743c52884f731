//! Settings of ACME, of the platform and of apps, sealed at rest: some are secrets.
//!
//! In: patches from users. Out: what holds for an app: its own over the platform's over the defaults.
//! Keys: `acme/settings/global`, `acme/settings/app/<app>`.

use super::check::MAX_PEM;
use super::dns::Provider;
use super::kept::{open, seal};
use crate::platform::{Platform, PlatformError};
use crate::store::{Compare, Write};
use berth_model::AppName;
use berth_model::certs::{AcmeSettingsView, PatchAcme};
use instant_acme::LetsEncrypt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};

const GLOBAL: &str = "acme/settings/global";
const ALL: &str = "acme/settings/";
/// Longest text of one setting.
const MAX_TEXT: usize = 2048;
/// Longest wait for a record to be seen.
const MAX_WAIT_SECS: u32 = 3600;
/// How long a record is given to be seen, unless set.
const WAIT_SECS: u32 = 10;

/// How control of a name is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Method {
    /// DNS for wildcards, HTTP for the others, TLS where the server does not offer HTTP.
    #[default]
    Auto,
    /// RFC 8555 §8.3.
    Http01,
    /// RFC 8737.
    TlsAlpn01,
    /// RFC 8555 §8.4.
    Dns01,
}

impl Method {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "auto" => Self::Auto,
            "http-01" => Self::Http01,
            "tls-alpn-01" => Self::TlsAlpn01,
            "dns-01" => Self::Dns01,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
}

/// As somebody set them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    /// Of an app: whether certificates are got for it.
    pub(super) enabled: bool,
    pub(super) email: Option<String>,
    pub(super) server: Option<String>,
    pub(super) challenge: Option<Method>,
    pub(super) dns_provider: Option<Provider>,
    pub(super) dns_token: Option<String>,
    pub(super) dns_wait: Option<u32>,
    pub(super) ask_url: Option<String>,
    pub(super) ca_bundle: Option<String>,
    pub(super) eab_key_id: Option<String>,
    pub(super) eab_key: Option<String>,
}

/// What holds for one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effective {
    pub(super) email: Option<String>,
    pub(super) server: String,
    pub(super) challenge: Method,
    pub(super) dns_provider: Option<Provider>,
    pub(super) dns_token: Option<String>,
    pub(super) dns_wait: u32,
    pub(super) ask_url: Option<String>,
    pub(super) ca_bundle: Option<String>,
    pub(super) eab: Option<(String, String)>,
}

pub(super) fn app_key(app: &AppName) -> String {
    format!("acme/settings/app/{app}")
}

fn key(app: Option<&AppName>) -> String {
    app.map_or_else(|| GLOBAL.to_owned(), app_key)
}

/// As set for the platform.
pub(super) async fn of_platform(platform: &Platform) -> Result<Settings, PlatformError> {
    load(platform, None).await
}

/// As set for an app.
pub(super) async fn of_app(platform: &Platform, app: &AppName) -> Result<Settings, PlatformError> {
    load(platform, Some(app)).await
}

/// As set for the platform, and for each app that has some.
pub(super) async fn all(
    platform: &Platform,
) -> Result<(Settings, BTreeMap<AppName, Settings>), PlatformError> {
    let (mut global, mut apps) = (Settings::default(), BTreeMap::new());
    for entry in platform.store().list(ALL).await? {
        match entry.key.strip_prefix("acme/settings/app/").map(AppName::parse) {
            None => global = open(platform, &entry)?,
            Some(Ok(app)) => {
                apps.insert(app, open(platform, &entry)?);
            }
            Some(Err(_)) => {}
        }
    }
    Ok((global, apps))
}

async fn load(platform: &Platform, app: Option<&AppName>) -> Result<Settings, PlatformError> {
    let entry = platform.store().get(key(app)).await?;
    entry.map_or_else(|| Ok(Settings::default()), |entry| open(platform, &entry))
}

/// Changes settings: reads, applies `change`, writes, and does it again if somebody else was faster.
pub(super) async fn update(
    platform: &Platform,
    app: Option<&AppName>,
    change: impl Fn(&mut Settings) -> Result<(), PlatformError>,
) -> Result<Settings, PlatformError> {
    let key = key(app);
    loop {
        let entry = platform.store().get(key.as_str()).await?;
        let mut settings = match &entry {
            None => Settings::default(),
            Some(entry) => open(platform, entry)?,
        };
        change(&mut settings)?;
        let mut compare = vec![Compare::unchanged(key.as_str(), entry.map(|entry| entry.revision))];
        if let Some(app) = app {
            platform.existing_app(app).await?;
            compare.push(Compare::Present(format!("apps/{app}")));
        }
        let write = Write::Put(key.clone(), seal(platform, &key, &settings)?);
        if platform.store().txn(compare, vec![write]).await?.is_some() {
            return Ok(settings);
        }
    }
}

/// The app's own settings over the platform's over the defaults.
pub(super) fn effective(global: &Settings, own: &Settings) -> Effective {
    let pick = |own: &Option<String>, global: &Option<String>| own.clone().or_else(|| global.clone());
    let eab = match (pick(&own.eab_key_id, &global.eab_key_id), pick(&own.eab_key, &global.eab_key)) {
        (Some(id), Some(key)) => Some((id, key)),
        _ => None,
    };
    Effective {
        email: pick(&own.email, &global.email),
        server: pick(&own.server, &global.server).unwrap_or_else(|| LetsEncrypt::Production.url().to_owned()),
        challenge: own.challenge.or(global.challenge).unwrap_or_default(),
        // A token belongs to the provider beside which it was set: an app's own provider never gets the platform's.
        dns_token: match &own.dns_provider {
            Some(_) => own.dns_token.clone(),
            None => pick(&own.dns_token, &global.dns_token),
        },
        dns_provider: own.dns_provider.clone().or_else(|| global.dns_provider.clone()),
        dns_wait: own.dns_wait.or(global.dns_wait).unwrap_or(WAIT_SECS),
        ask_url: pick(&own.ask_url, &global.ask_url),
        ca_bundle: pick(&own.ca_bundle, &global.ca_bundle),
        eab,
    }
}

impl Settings {
    /// Applies a patch. `by_root` is whether it came from the machine's own administrator: only that one may name a
    /// program that then runs as the controller.
    pub(super) fn patch(&mut self, patch: &PatchAcme, by_root: bool) -> Result<(), PlatformError> {
        fn set<T>(
            field: &mut Option<T>,
            text: Option<&String>,
            parse: impl FnOnce(&str) -> Result<T, String>,
        ) -> Result<(), PlatformError> {
            match text.map(|text| text.trim()) {
                None => {}
                Some("") => *field = None,
                Some(text) => *field = Some(parse(text).map_err(PlatformError::Invalid)?),
            }
            Ok(())
        }
        set(&mut self.email, patch.email.as_ref(), email)?;
        set(&mut self.server, patch.server.as_ref(), server)?;
        set(&mut self.challenge, patch.challenge.as_ref(), |text| {
            Method::parse(text)
                .ok_or_else(|| format!("{text:?} is no challenge: use auto, http-01, tls-alpn-01 or dns-01"))
        })?;
        set(&mut self.dns_provider, patch.dns_provider.as_ref(), |text| Provider::parse(text, by_root))?;
        set(&mut self.dns_token, patch.dns_token.as_ref(), line)?;
        set(&mut self.dns_wait, patch.dns_wait.as_ref(), |text| {
            let parsed = text.parse().ok().filter(|secs| *secs <= MAX_WAIT_SECS);
            parsed.ok_or_else(|| format!("{text:?} is no number of seconds from 0 to {MAX_WAIT_SECS}"))
        })?;
        set(&mut self.ask_url, patch.ask_url.as_ref(), |text| super::fetch::url(text, true))?;
        set(&mut self.ca_bundle, patch.ca_bundle.as_ref(), |text| subjects(text).map(|_| text.to_owned()))?;
        set(&mut self.eab_key_id, patch.eab_key_id.as_ref(), line)?;
        set(&mut self.eab_key, patch.eab_key.as_ref(), |text| decoded(text).map(|_| text.to_owned()))
    }

    /// What is shown of them.
    pub(super) fn view(&self) -> AcmeSettingsView {
        AcmeSettingsView {
            email: self.email.clone(),
            server: self.server.clone(),
            challenge: self.challenge.map(|method| method.name().to_owned()),
            dns_provider: self.dns_provider.as_ref().map(ToString::to_string),
            dns_token: self.dns_token.is_some(),
            dns_wait: self.dns_wait,
            ask_url: self.ask_url.clone(),
            ca_bundle: self.ca_bundle.as_deref().map(bundle_view).unwrap_or_default(),
            eab_key_id: self.eab_key_id.clone(),
        }
    }
}

impl Effective {
    /// What is shown of them.
    pub(super) fn view(&self) -> AcmeSettingsView {
        AcmeSettingsView {
            email: self.email.clone(),
            server: Some(self.server.clone()),
            challenge: Some(self.challenge.name().to_owned()),
            dns_provider: self.dns_provider.as_ref().map(ToString::to_string),
            dns_token: self.dns_token.is_some(),
            dns_wait: Some(self.dns_wait),
            ask_url: self.ask_url.clone(),
            ca_bundle: self.ca_bundle.as_deref().map(bundle_view).unwrap_or_default(),
            eab_key_id: self.eab.as_ref().map(|(id, _)| id.clone()),
        }
    }

    /// Whether it is a CA of the public web, which signs public names only.
    pub(super) fn is_public(&self) -> bool {
        [LetsEncrypt::Production.url(), LetsEncrypt::Staging.url()].contains(&self.server.as_str())
    }
}

fn bundle_view(pem: &str) -> Vec<String> {
    subjects(pem).unwrap_or_default()
}

/// The subjects of the certificates in a PEM file.
fn subjects(pem: &str) -> Result<Vec<String>, String> {
    if pem.len() > MAX_PEM {
        return Err(
            "the CA bundle is longer than 256 KiB: give only the CAs that this server needs".to_owned()
        );
    }
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = der.map_err(|error| format!("the CA bundle cannot be read: {error}"))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| format!("a certificate of the CA bundle cannot be read: {error}"))?;
        found.push(parsed.subject().to_string());
    }
    if found.is_empty() {
        return Err("there is no certificate in the CA bundle: it must be a PEM file".to_owned());
    }
    Ok(found)
}

fn line(text: &str) -> Result<String, String> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(format!("it must be one line of at most {MAX_TEXT} bytes"));
    }
    Ok(text.to_owned())
}

fn email(text: &str) -> Result<String, String> {
    let text = line(text)?;
    let fits = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'));
    if !fits || text.contains([' ', ',', '?', ':', '<']) {
        return Err(format!("{text:?} is no email address such as you@example.com"));
    }
    Ok(text)
}

fn server(text: &str) -> Result<String, String> {
    match text {
        "production" | "default" => Ok(LetsEncrypt::Production.url().to_owned()),
        "staging" => Ok(LetsEncrypt::Staging.url().to_owned()),
        text => super::fetch::url(text, false),
    }
}

/// The bytes of an external account's key, as CAs give it out: base64url or base64, padded or not.
pub(super) fn decoded(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let plain = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let bytes = URL_SAFE_NO_PAD.decode(plain);
    bytes.map_err(|_| "the key of an external account is base64, as its CA shows it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(change: impl FnOnce(&mut PatchAcme)) -> PatchAcme {
        let mut patch = PatchAcme::default();
        change(&mut patch);
        patch
    }

    #[test]
    fn an_app_inherits_what_it_does_not_set() {
        let mut global = Settings::default();
        let some = |text: &str| Some(text.to_owned());
        let both = patch(|it| {
            it.email = some("ops@example.com");
            it.server = some("staging");
            it.dns_provider = some("https://dns.example.com/hook");
            it.dns_token = some("secret");
        });
        global.patch(&both, false).expect("good");
        let mut own = Settings::default();
        assert_eq!(effective(&global, &own).server, LetsEncrypt::Staging.url());
        assert_eq!(effective(&global, &own).dns_token.as_deref(), Some("secret"));
        let other = patch(|it| it.dns_provider = some("https://other.example.com/"));
        own.patch(&other, false).expect("good");
        assert_eq!(
            effective(&global, &own).dns_token,
            None,
            "the platform's token is not for the app's provider"
        );
        own.patch(&patch(|it| it.server = some("production")), false).expect("good");
        assert!(effective(&global, &own).is_public());
        own.patch(&patch(|it| it.server = some("")), false).expect("good");
        assert_eq!(own.server, None);
        let shown = serde_json::to_string(&effective(&global, &own).view()).expect("shown");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn only_the_machines_own_administrator_names_programs() {
        let program = patch(|it| it.dns_provider = Some("/bin/true".to_owned()));
        let refused = Settings::default().patch(&program, false).expect_err("refused").to_string();
        assert!(refused.contains("on the machine itself"), "{refused}");
        Settings::default().patch(&program, true).expect("root may");
    }

    #[test]
    fn odd_values_are_refused() {
        for bad in [
            patch(|it| it.email = Some("nobody".to_owned())),
            patch(|it| it.server = Some("http://plain.example.com/directory".to_owned())),
            patch(|it| it.server = Some("live".to_owned())),
            patch(|it| it.challenge = Some("dns".to_owned())),
            patch(|it| it.dns_provider = Some("route53".to_owned())),
            patch(|it| it.dns_token = Some("a\nb".to_owned())),
            patch(|it| it.dns_wait = Some("soon".to_owned())),
            patch(|it| it.ca_bundle = Some("no PEM".to_owned())),
            patch(|it| it.eab_key = Some("§".to_owned())),
        ] {
            assert!(Settings::default().patch(&bad, true).is_err(), "{bad:?}");
        }
    }
}
