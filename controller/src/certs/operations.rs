//! ACME for users: switching it on and off, settings, renewing, revoking, and how it goes.
//!
//! In: apps and patches. Out: progress, reports. Orders themselves are the worker's: whoever asks for one follows it.

use super::kept::{self, Place, Slot};
use super::plan::{Subject, plan};
use super::{account, advice, fetch, is_covered, own, settings, subjects, worker};
use crate::errors::{failed, invalid, not_found};
use crate::platform::{Platform, ProgressSender, now_ms, say};
use berth_model::AppName;
use berth_model::api::{ApiError, Progress};
use berth_model::certs::{
    AcmeApp, AcmeInfo, AcmeOrder, AcmeSettingsInfo, CertificateReport, PatchAcme, SkippedDomain,
};
use instant_acme::RevocationRequest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::Duration;

/// How long somebody who asked for certificates is kept waiting; the order goes on.
const FOLLOW: Duration = Duration::from_secs(1200);

/// Has certificates got for an app's domains, now and whenever they change; follows the first ones.
pub(crate) async fn enable(
    platform: &Platform,
    app: &AppName,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    let mut subject = subjects::one(platform, app, now_ms()).await?;
    if subject.settings.email.is_none() {
        return Err(invalid(
            "set an email address first, which the ACME server writes to when something is wrong: berth letsencrypt:set \
             --global email you@example.com (this agrees to the server's terms of service)",
        ));
    }
    subject.enabled = true;
    let planned = plan(&subject, now_ms());
    if planned.wanted.keys().all(|slot| matches!(slot, Slot::OnDemand(_))) {
        let reasons: Vec<String> =
            planned.skipped.iter().map(|(domain, why)| format!("{domain}: {why}")).collect();
        let none = format!("{app} has no domain that a certificate can be got for; add one with domains:add");
        return Err(invalid([vec![none], reasons].concat().join("\n")));
    }
    settings::update(platform, Some(app), |own| {
        own.enabled = true;
        Ok(())
    })
    .await?;
    let text = format!("Getting a certificate for {app} from {}", subject.settings.server);
    say(lines, Progress::Step { text }).await;
    for (domain, why) in &planned.skipped {
        say(lines, Progress::Warning { text: format!("{domain} is left out: {why}") }).await;
    }
    try_now(platform, app, false).await?;
    follow(platform, app, lines).await
}

/// Ends that, and takes the certificates away.
pub(crate) async fn disable(platform: &Platform, app: &AppName) -> Result<(), ApiError> {
    settings::update(platform, Some(app), |own| {
        own.enabled = false;
        Ok(())
    })
    .await?;
    let subject = subjects::one(platform, app, now_ms()).await?;
    for slot in subject.has.keys().chain(subject.states.keys()).filter(|slot| matches!(slot, Slot::Main(_))) {
        worker::forget(platform, app, slot).await?;
    }
    super::publish(platform).await?;
    Ok(())
}

/// Tries again what failed, and renews what is due; all of it with `force`.
pub(crate) async fn renew(
    platform: &Platform,
    app: &AppName,
    force: bool,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    let subject = subjects::one(platform, app, now_ms()).await?;
    if !subject.enabled {
        return Err(invalid(format!(
            "{app} gets no certificates; switch that on: berth letsencrypt:enable {app}"
        )));
    }
    if !try_now(platform, app, force).await? {
        say(lines, Progress::Step { text: format!("The certificate of {app} is not due for renewal yet") })
            .await;
        return Ok(());
    }
    say(lines, Progress::Step { text: format!("Renewing the certificate of {app}") }).await;
    follow(platform, app, lines).await
}

/// Makes what is missing, failed or due be ordered now, or with `force` all; whether there is any. What the server limits
/// waits all the same.
async fn try_now(platform: &Platform, app: &AppName, force: bool) -> Result<bool, ApiError> {
    let now = now_ms();
    let subject = subjects::one(platform, app, now).await?;
    let mut any = false;
    for (slot, (_, at)) in plan(&subject, now).wanted.iter().filter(|(slot, _)| matches!(slot, Slot::Main(_)))
    {
        let state = subject.states.get(slot).cloned().unwrap_or_default();
        let missing = !subject.has.contains_key(slot) || state.failures > 0;
        if !(force || missing || *at <= now) {
            continue;
        }
        if state.limited_until_ms > now {
            return Err(failed(format!(
                "{}\nThe server wants to be left alone until {}; Berth tries again by itself then",
                state.error.unwrap_or_default(),
                super::check::date(state.limited_until_ms)
            )));
        }
        any = true;
        subjects::update_state(platform, app, slot, |state| state.force = true).await?;
    }
    Ok(any)
}

/// Shows how an app's orders go until none is due or under way.
async fn follow(platform: &Platform, app: &AppName, lines: &ProgressSender) -> Result<(), ApiError> {
    let certs = platform.certs();
    let (mut ticks, mut said) = (certs.ticks.subscribe(), certs.lines.subscribe());
    let mut stored = platform.store().watch(format!("acme/state/{app}/"));
    let limit = tokio::time::sleep(FOLLOW);
    tokio::pin!(limit);
    loop {
        ticks.mark_unchanged();
        let now = now_ms();
        let subject = subjects::one(platform, app, now).await?;
        let main = |slot: &Slot| matches!(slot, Slot::Main(_));
        let busy = |slot: &Slot| certs.is_busy(app, slot);
        let planned = plan(&subject, now);
        if !planned.due.iter().any(|due| main(&due.slot))
            && !planned.wanted.keys().any(|slot| main(slot) && busy(slot))
        {
            while let Ok((whose, text)) = said.try_recv() {
                if whose == *app {
                    say(lines, Progress::Detail { text }).await;
                }
            }
            return conclude(&subject, lines).await;
        }
        tokio::select! {
            _ = ticks.changed() => {}
            _ = stored.changed() => {}
            line = said.recv() => if let Ok((whose, text)) = line && whose == *app {
                say(lines, Progress::Detail { text }).await;
            },
            () = &mut limit => {
                return Err(failed(format!("the order takes long and goes on; see how with: berth letsencrypt:list {app}")));
            }
        }
    }
}

async fn conclude(subject: &Subject, lines: &ProgressSender) -> Result<(), ApiError> {
    let info = info(subject, |_| false);
    let mut errors = Vec::new();
    for order in info.orders.iter().filter(|order| !order.on_demand) {
        match (&order.error, order.expires_ms) {
            (Some(error), _) => {
                let next =
                    order.next_ms.map(|at| format!("\nIt is tried again at {}", super::check::date(at)));
                errors.push(format!("{error}{}", next.unwrap_or_default()));
            }
            (None, Some(expires)) => {
                let names = order.names.join(" ");
                let text = format!("Certificate for {names}, until {}", super::check::date(expires));
                say(lines, Progress::Step { text }).await;
            }
            (None, None) => {}
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let app = &subject.app;
    errors.insert(0, format!("no certificate for {app}:"));
    errors.push(format!(
        "Try again now: berth letsencrypt:enable {app}; stop it: berth letsencrypt:disable {app}"
    ));
    Err(failed(errors.join("\n")))
}

/// Has the CA declare an app's certificates void (RFC 8555 §7.6), takes them away and gets no new ones.
pub(crate) async fn revoke(
    platform: &Platform,
    app: &AppName,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    let subject = subjects::one(platform, app, now_ms()).await?;
    let kept = kept::all(platform, &platform.certs().opened).await?;
    let mine: Vec<_> = kept
        .iter()
        .filter(|(place, _)| matches!(place, Place::Acme(owner, Slot::Main(_)) if owner == app))
        .collect();
    if mine.is_empty() {
        return Err(not_found(format!("{app} has no certificate that was got by ACME")));
    }
    let bundle = subject.settings.ca_bundle.as_deref();
    let fetch = fetch::Fetch::new(bundle).map_err(|error| failed(error.to_string()))?;
    for (_, stored) in mine {
        let mut settings = subject.settings.clone();
        settings.server = stored.server.clone().unwrap_or(settings.server);
        let account = account::account(platform, &settings, &fetch).await;
        let account = account.map_err(|failure| failed(failure.text))?;
        let chain = CertificateDer::from_pem_slice(stored.certificate.chain_pem.as_bytes());
        let certificate = chain.map_err(|error| failed(error.to_string()))?;
        let request = RevocationRequest { certificate: &certificate, reason: None };
        let revoked = account.revoke(&request).await;
        revoked.map_err(|error| failed(advice::failure(&error, None).text))?;
        say(lines, Progress::Detail { text: format!("Revoked {}", stored.certificate.id) }).await;
    }
    disable(platform, app).await?;
    let text = format!("Switched off for {app}; new ones: berth letsencrypt:enable {app}");
    say(lines, Progress::Step { text }).await;
    Ok(())
}

fn info(subject: &Subject, busy: impl Fn(&Slot) -> bool) -> AcmeInfo {
    let planned = plan(subject, now_ms());
    let order = |(slot, (names, at)): (&Slot, &(Vec<berth_model::HostPattern>, i64))| {
        let state = subject.states.get(slot).cloned().unwrap_or_default();
        AcmeOrder {
            names: names.iter().map(|name| name.as_str().to_owned()).collect(),
            on_demand: matches!(slot, Slot::OnDemand(_)),
            expires_ms: subject.has.get(slot).map(|has| has.expires_ms),
            next_ms: (*at < i64::MAX).then_some(*at),
            failures: state.failures,
            error: state.error,
            under_way: busy(slot),
        }
    };
    AcmeInfo {
        enabled: subject.enabled,
        server: subject.settings.server.clone(),
        orders: planned.wanted.iter().map(order).collect(),
        skipped: planned
            .skipped
            .into_iter()
            .map(|(domain, reason)| SkippedDomain { domain, reason })
            .collect(),
    }
}

/// Everything about one app's certificates.
pub(crate) async fn report(platform: &Platform, app: &AppName) -> Result<CertificateReport, ApiError> {
    let subject = subjects::one(platform, app, now_ms()).await?;
    let (covered, uncovered) = subject.hosts.iter().cloned().partition(|host| is_covered(platform, host));
    Ok(CertificateReport {
        certificates: own::listed(platform, Some(app)).await?,
        covered,
        uncovered,
        acme: info(&subject, |slot| platform.certs().is_busy(app, slot)),
        app: subject.app,
    })
}

/// Every app for which ACME is on, or that has certificates on demand.
pub(crate) async fn list(platform: &Platform) -> Result<Vec<AcmeApp>, ApiError> {
    let subjects = subjects::all(platform, now_ms()).await?;
    let on = subjects.into_iter().filter(|subject| subject.enabled || !subject.on_demand.is_empty());
    let app = |subject: Subject| AcmeApp {
        acme: info(&subject, |slot| platform.certs().is_busy(&subject.app, slot)),
        app: subject.app,
    };
    Ok(on.map(app).collect())
}

/// The platform's settings.
pub(crate) async fn global_settings(platform: &Platform) -> Result<AcmeSettingsInfo, ApiError> {
    let global = settings::of_platform(platform).await?;
    let effective = settings::effective(&global, &settings::Settings::default());
    Ok(AcmeSettingsInfo { own: global.view(), effective: effective.view() })
}

/// An app's settings.
pub(crate) async fn app_settings(platform: &Platform, app: &AppName) -> Result<AcmeSettingsInfo, ApiError> {
    platform.existing_app(app).await?;
    let (global, own) = (settings::of_platform(platform).await?, settings::of_app(platform, app).await?);
    Ok(AcmeSettingsInfo { own: own.view(), effective: settings::effective(&global, &own).view() })
}

/// Changes the platform's settings; `by_root` as in [`settings::Settings::patch`].
pub(crate) async fn patch_global_settings(
    platform: &Platform,
    patch: &PatchAcme,
    by_root: bool,
) -> Result<AcmeSettingsInfo, ApiError> {
    settings::update(platform, None, |settings| settings.patch(patch, by_root)).await?;
    global_settings(platform).await
}

/// Changes an app's settings.
pub(crate) async fn patch_app_settings(
    platform: &Platform,
    app: &AppName,
    patch: &PatchAcme,
    by_root: bool,
) -> Result<AcmeSettingsInfo, ApiError> {
    settings::update(platform, Some(app), |settings| settings.patch(patch, by_root)).await?;
    app_settings(platform, app).await
}
