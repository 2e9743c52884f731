//! Certificates that users bring, or have made: for an app, or for the whole platform.
//!
//! In: PEM. Out: what was kept, and what is odd about it; what there is.

use super::check::{self, Checked, covers};
use super::kept::{self, Place, Stored};
use super::table::rank;
use super::{fetch, settings};
use crate::errors::{invalid, not_found};
use crate::platform::{Platform, now_ms};
use berth_model::api::ApiError;
use berth_model::certs::{
    CertificateInfo, CertificatePem, GenerateCertificate, KeptCertificate, PutCertificate,
};
use berth_model::{AppName, HostPattern};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::Duration;

/// How long a certificate is good for that Berth signs itself.
const GENERATED_DAYS: i64 = 365;

/// Keeps an app's own certificate in place of the one there is.
pub(crate) async fn add(
    platform: &Platform,
    app: &AppName,
    given: &PutCertificate,
) -> Result<KeptCertificate, ApiError> {
    let app = platform.existing_app(app).await?;
    let checked = read(given)?;
    let mut warnings = checked.warnings;
    warnings.extend(uncovered(&checked.certificate.names, &platform.effective_domains(&app).await?));
    let stored = Stored { certificate: checked.certificate, generated: false, server: None };
    keep(platform, Place::App(app.name), stored, warnings).await
}

/// Keeps a certificate of the platform's, for every app whose names it covers.
pub(crate) async fn add_global(
    platform: &Platform,
    given: &PutCertificate,
) -> Result<KeptCertificate, ApiError> {
    let Checked { certificate, warnings } = read(given)?;
    let place = Place::Global(certificate.id.clone());
    keep(platform, place, Stored { certificate, generated: false, server: None }, warnings).await
}

/// Makes a certificate that signs itself, for trying things out: no client trusts it.
pub(crate) async fn generate(
    platform: &Platform,
    app: &AppName,
    wanted: &GenerateCertificate,
) -> Result<KeptCertificate, ApiError> {
    let app = platform.existing_app(app).await?;
    let domains = platform.effective_domains(&app).await?;
    let names = if wanted.domains.is_empty() { domains.clone() } else { wanted.domains.clone() };
    if names.is_empty() {
        return Err(invalid(format!(
            "{} has no domain; name one that the certificate is to be for",
            app.name
        )));
    }
    let made = || {
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names[0].as_str());
        let ((y, m, d), (year, month, of_month)) = (day(-1), day(GENERATED_DAYS));
        params.not_before = rcgen::date_time_ymd(y, m, d);
        params.not_after = rcgen::date_time_ymd(year, month, of_month);
        Ok::<_, rcgen::Error>((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let (chain_pem, key_pem) =
        made().map_err(|error| crate::errors::internal("cannot make a certificate", &error))?;
    let checked = read(&PutCertificate { chain_pem, key_pem: berth_model::tls::KeyPem(key_pem) })?;
    let mut warnings = vec![
        "it is signed by itself: clients warn of it. A trusted one costs nothing: berth letsencrypt:enable"
            .to_owned(),
    ];
    warnings.extend(uncovered(&checked.certificate.names, &domains));
    let stored = Stored { certificate: checked.certificate, generated: true, server: None };
    keep(platform, Place::App(app.name), stored, warnings).await
}

/// The day so many days from now (UTC): year, month, day.
fn day(from_now: i64) -> (i32, u8, u8) {
    let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + from_now * 86_400);
    let date = at.unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
    (date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
}

/// Forgets an app's own certificate.
pub(crate) async fn remove(platform: &Platform, app: &AppName) -> Result<(), ApiError> {
    let app = platform.existing_app(app).await?.name;
    if !kept::remove(platform, &Place::App(app.clone())).await? {
        return Err(not_found(format!(
            "{app} has no certificate of its own; one that was got by ACME goes with: berth letsencrypt:disable {app}"
        )));
    }
    super::publish(platform).await?;
    tracing::info!(%app, "certificate removed");
    Ok(())
}

/// Forgets a certificate of the platform's.
pub(crate) async fn remove_global(platform: &Platform, id: &str) -> Result<(), ApiError> {
    if !kept::remove(platform, &Place::Global(id.to_owned())).await? {
        return Err(not_found(format!(
            "the platform has no certificate {id}; see them with: berth certs:report --global"
        )));
    }
    super::publish(platform).await?;
    tracing::info!(id, "certificate of the platform removed");
    Ok(())
}

/// The certificate of an app that is presented first, with its key.
pub(crate) async fn show(platform: &Platform, app: &AppName) -> Result<CertificatePem, ApiError> {
    let app = platform.existing_app(app).await?.name;
    let kept = kept::all(platform, &platform.certs().opened).await?;
    let mut mine: Vec<_> = kept.iter().filter(|(place, _)| place.app() == Some(&app)).collect();
    mine.sort_by_key(|(place, stored)| rank(place, stored, now_ms()));
    let (_, stored) = mine.first().ok_or_else(|| not_found(format!("{app} has no certificate")))?;
    let certificate = &stored.certificate;
    Ok(CertificatePem { chain_pem: certificate.chain_pem.clone(), key_pem: certificate.key_pem.clone() })
}

/// What there is of an app, or of the platform; the one that is presented first comes first.
pub(crate) async fn listed(
    platform: &Platform,
    app: Option<&AppName>,
) -> Result<Vec<CertificateInfo>, ApiError> {
    let global = settings::of_platform(platform).await?;
    let own = match app {
        Some(app) => settings::of_app(platform, app).await?,
        None => settings::Settings::default(),
    };
    let trusted = fetch::roots(settings::effective(&global, &own).ca_bundle.as_deref());
    let trusted = Arc::new(trusted.unwrap_or_else(|_| rustls::RootCertStore::empty()));
    let kept = kept::all(platform, &platform.certs().opened).await?;
    let mut mine: Vec<_> = kept.iter().filter(|(place, _)| place.app() == app).collect();
    mine.sort_by_key(|(place, stored)| rank(place, stored, now_ms()));
    let info = |(place, stored): &(&Place, &Arc<Stored>)| {
        kept::info(place, stored, verified(&stored.certificate, &trusted))
    };
    Ok(mine.iter().map(info).collect())
}

fn read(given: &PutCertificate) -> Result<Checked, ApiError> {
    check::check(&given.chain_pem, &given.key_pem.0, now_ms()).map_err(|error| invalid(error.to_string()))
}

async fn keep(
    platform: &Platform,
    place: Place,
    stored: Stored,
    warnings: Vec<String>,
) -> Result<KeptCertificate, ApiError> {
    kept::put(platform, &place, &stored).await?;
    super::publish(platform).await?;
    let app = place.app().map_or("", AppName::as_str);
    tracing::info!(app, id = stored.certificate.id, "certificate added");
    let of = listed(platform, place.app()).await?;
    let certificate = of.into_iter().find(|one| one.id == stored.certificate.id);
    let certificate = certificate.unwrap_or_else(|| kept::info(&place, &stored, String::new()));
    Ok(KeptCertificate { certificate, warnings })
}

/// Says which domains of an app a certificate is not for.
fn uncovered(names: &[HostPattern], domains: &[HostPattern]) -> Option<String> {
    let missing: Vec<&str> = domains
        .iter()
        .filter(|domain| !names.iter().any(|name| covers(name, domain)))
        .map(AsRef::as_ref)
        .collect();
    (!missing.is_empty()).then(|| format!("it is not for these domains of the app: {}", missing.join(" ")))
}

/// In Dokku's words, or why it is neither.
fn verified(certificate: &check::Certificate, trusted: &Arc<rustls::RootCertStore>) -> String {
    if certificate.self_signed {
        return "self signed".to_owned();
    }
    match chain_error(certificate, trusted) {
        None => "verified by a certificate authority".to_owned(),
        Some(why) => why,
    }
}

fn chain_error(certificate: &check::Certificate, trusted: &Arc<rustls::RootCertStore>) -> Option<String> {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    let chain: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes()).filter_map(Result::ok).collect();
    let (leaf, intermediates) = chain.split_first()?;
    let plain = certificate.names.first()?.as_str().replace("*.", "any.");
    let name = ServerName::try_from(plain).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(trusted.clone(), provider).build() else {
        return Some("unknown: this machine has no list of certificate authorities".to_owned());
    };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now_ms()).unwrap_or(0)));
    match verifier.verify_server_cert(leaf, intermediates, &name, &[], now) {
        Ok(_) => None,
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            Some("signed by an authority that this machine does not know".to_owned())
        }
        Err(error) => Some(format!("not verified: {error}")),
    }
}
