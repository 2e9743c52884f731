//! Accounts at ACME servers (RFC 8555 §7.3): one for each server and address, made once and kept sealed.
//!
//! In: what holds for an app. Out: an account that can order. Keys: `acme/accounts/<16 digits>`.

use super::advice::{Failure, failure, safe};
use super::fetch::Fetch;
use super::kept::{open, seal};
use super::settings::{Effective, decoded};
use crate::platform::Platform;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Serialize, Deserialize)]
struct Kept {
    /// For people who look into a backup.
    server: String,
    credentials: AccountCredentials,
}

fn key(settings: &Effective) -> String {
    let eab = settings.eab.as_ref().map_or("", |(id, _)| id.as_str());
    let email = settings.email.as_deref().unwrap_or_default();
    let digest = Sha256::digest(format!("{}\n{email}\n{eab}", settings.server));
    format!("acme/accounts/{}", hex::encode(&digest[..8]))
}

/// The account, made if there is none yet. Setting an address agreed to the server's terms.
pub(super) async fn account(
    platform: &Platform,
    settings: &Effective,
    fetch: &Fetch,
) -> Result<Account, Failure> {
    let key = key(settings);
    // Two first orders at once must not make two accounts.
    let _one = platform.certs().accounts.lock().await;
    let said = |error: instant_acme::Error| failure(&error, fetch.retry_after());
    let stored = |error: crate::platform::PlatformError| Failure::new(error.to_string());
    let builder = Account::builder_with_http(Box::new(fetch.clone()));
    if let Some(entry) = platform.store().get(key.as_str()).await.map_err(|error| stored(error.into()))? {
        let kept: Kept = open(platform, &entry).map_err(stored)?;
        return builder.from_credentials(kept.credentials).await.map_err(said);
    }
    let Some(email) = &settings.email else {
        return Err(Failure::new(
            "no email address is set, which the ACME server writes to when something is wrong: berth letsencrypt:set \
             --global email you@example.com (this agrees to the server's terms of service)",
        ));
    };
    let contact = format!("mailto:{email}");
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let eab = match &settings.eab {
        None => None,
        Some((id, key)) => {
            let key = decoded(key).map_err(Failure::new)?;
            Some(ExternalAccountKey::new(id.clone(), &key))
        }
    };
    let made = builder.create(&new, settings.server.clone(), eab.as_ref()).await;
    let (account, credentials) = made.map_err(said)?;
    let kept = Kept { server: settings.server.clone(), credentials };
    let value = seal(platform, &key, &kept).map_err(stored)?;
    platform.store().put(key, value).await.map_err(|error| stored(error.into()))?;
    tracing::info!(server = settings.server, account = safe(account.id()), "made an ACME account");
    Ok(account)
}

/// Forgets an account that its server does not know any more.
pub(super) async fn forget(platform: &Platform, settings: &Effective) {
    if let Err(error) = platform.store().delete(key(settings)).await {
        tracing::warn!(%error, "cannot forget an ACME account");
    }
}
