//! One order (RFC 8555 §7.4): from names to a certificate.
//!
//! In: names, settings. Out: a certificate with its key, or why there is none. The order's address and key are in the store
//! before anything is proved, so that a controller that starts anew goes on with the same order.

use super::advice::{Failure, failure, words};
use super::check;
use super::dns::Action;
use super::fetch::Fetch;
use super::kept::{Slot, Stored, open, seal};
use super::plan::Due;
use super::settings::{Effective, Method};
use super::table::Challenges;
use super::{account, check::covers};
use crate::platform::{Platform, PlatformError, now_ms};
use berth_model::tls::{AlpnChallenge, HttpChallenge, KeyPem};
use berth_model::{AppName, HostPattern};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the proxies may take to show a challenge.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// How long the server may take to look at challenges, and to sign.
const DECIDED_WITHIN: Duration = Duration::from_secs(180);
/// Longest order from beginning to end, waiting for DNS besides.
const LIMIT: Duration = Duration::from_secs(900);

/// An order under way.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    names: Vec<HostPattern>,
    server: String,
    url: String,
    key_pem: KeyPem,
}

/// Where an order says how it goes.
pub(super) type Say<'a> = &'a (dyn Fn(String) + Send + Sync);

pub(super) fn pending_key(app: &AppName, slot: &Slot) -> String {
    format!("acme/pending/{app}/{slot}")
}

/// What is to be proved of one name.
struct Proof {
    name: String,
    wildcard: bool,
    kind: ChallengeType,
    token: String,
    key_authorization: String,
    dns_value: String,
    digest: Vec<u8>,
}

impl Proof {
    /// RFC 8555 §8.4.
    fn record(&self) -> String {
        format!("_acme-challenge.{}", self.name)
    }
}

/// Gets one certificate.
pub(super) async fn run(
    platform: &Platform,
    due: &Due,
    settings: &Effective,
    say: Say<'_>,
) -> Result<Stored, Failure> {
    let limit = LIMIT + Duration::from_secs(settings.dns_wait.into());
    let result = tokio::time::timeout(limit, get(platform, due, settings, say)).await;
    result.unwrap_or_else(|_| {
        Err(Failure::new("the order was not done within its time; it is tried again by itself".to_owned()))
    })
}

async fn get(platform: &Platform, due: &Due, settings: &Effective, say: Say<'_>) -> Result<Stored, Failure> {
    let fetch = Fetch::new(settings.ca_bundle.as_deref()).map_err(|error| Failure::new(error.to_string()))?;
    let said = |error: instant_acme::Error| failure(&error, fetch.retry_after());
    let account = account::account(platform, settings, &fetch).await?;
    let (mut order, key) = begin(platform, due, settings, &account, &fetch, say).await?;
    if order.state().status == OrderStatus::Pending {
        prove(platform, due, settings, &mut order, &fetch, say).await?;
    }
    if matches!(order.state().status, OrderStatus::Ready | OrderStatus::Pending) {
        say("Asking for the certificate".to_owned());
        order.finalize_csr(&request(&due.names, &key)?).await.map_err(said)?;
    }
    let chain = match order.state().status {
        OrderStatus::Valid => order.certificate().await.map(Option::unwrap_or_default),
        _ => order.poll_certificate(&patience()).await,
    };
    let checked = check::check(&chain.map_err(said)?, &key.serialize_pem(), now_ms());
    let checked =
        checked.map_err(|error| Failure::new(format!("the server's certificate is odd: {error}")))?;
    let missing =
        due.names.iter().find(|name| !checked.certificate.names.iter().any(|has| covers(has, name)));
    if let Some(name) = missing {
        return Err(Failure::new(format!("the server's certificate is not for {name}, which was asked for")));
    }
    Ok(Stored { certificate: checked.certificate, generated: false, server: Some(settings.server.clone()) })
}

fn patience() -> RetryPolicy {
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.4).timeout(DECIDED_WITHIN)
}

/// Goes on with the order there is, or makes one.
async fn begin(
    platform: &Platform,
    due: &Due,
    settings: &Effective,
    account: &Account,
    fetch: &Fetch,
    say: Say<'_>,
) -> Result<(Order, KeyPair), Failure> {
    let stored = |error: PlatformError| Failure::new(error.to_string());
    let key_of_store = pending_key(&due.app, &due.slot);
    if let Some(entry) =
        platform.store().get(key_of_store.as_str()).await.map_err(|error| stored(error.into()))?
        && let Ok(pending) = open::<Pending>(platform, &entry)
        && pending.names == due.names
        && pending.server == settings.server
        && let Ok(key) = KeyPair::from_pem(&pending.key_pem.0)
        && let Ok(mut order) = account.order(pending.url).await
        && order.state().status != OrderStatus::Invalid
    {
        say("Going on with the order that was under way".to_owned());
        return Ok((order, key));
    }
    let key = KeyPair::generate().map_err(|error| Failure::new(format!("cannot make a key: {error}")))?;
    let names: Vec<Identifier> =
        due.names.iter().map(|name| Identifier::Dns(name.as_str().to_owned())).collect();
    let order = account.new_order(&NewOrder::new(&names)).await;
    let order = order.map_err(|error| failure(&error, fetch.retry_after()))?;
    let pending = Pending {
        names: due.names.clone(),
        server: settings.server.clone(),
        url: order.url().to_owned(),
        key_pem: KeyPem(key.serialize_pem()),
    };
    let value = seal(platform, &key_of_store, &pending).map_err(stored)?;
    platform.store().put(key_of_store, value).await.map_err(|error| stored(error.into()))?;
    Ok((order, key))
}

/// The CSR (RFC 8555 §7.4): its names, and no subject.
fn request(names: &[HostPattern], key: &KeyPair) -> Result<Vec<u8>, Failure> {
    let made = || {
        let names: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        Ok::<_, rcgen::Error>(params.serialize_request(key)?.der().to_vec())
    };
    made().map_err(|error| Failure::new(format!("cannot make a certificate request: {error}")))
}

/// Shows that the names lead here, and waits until the server has seen it.
async fn prove(
    platform: &Platform,
    due: &Due,
    settings: &Effective,
    order: &mut Order,
    fetch: &Fetch,
    say: Say<'_>,
) -> Result<(), Failure> {
    let proofs = proofs(order, settings, fetch).await?;
    let _shown = show(platform, due, &proofs).await?;
    let mut records = Vec::new();
    let mut result = Ok(());
    for proof in proofs.iter().filter(|proof| proof.kind == ChallengeType::Dns01) {
        let (name, value) = (proof.record(), proof.dns_value.as_str());
        say(format!("Making the record {name}"));
        records.push((name.clone(), value));
        result = record(settings, fetch, Action::Present, &name, value).await;
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        if !records.is_empty() && settings.dns_wait > 0 {
            say(format!("Waiting {} s for the records to be seen", settings.dns_wait));
            tokio::time::sleep(Duration::from_secs(settings.dns_wait.into())).await;
        }
        result = decide(order, &proofs, fetch, say).await;
    }
    for (name, value) in records {
        if let Err(failure) = record(settings, fetch, Action::Cleanup, &name, value).await {
            tracing::warn!(app = %due.app, error = failure.text, "a DNS record is left over");
        }
    }
    result
}

async fn record(
    settings: &Effective,
    fetch: &Fetch,
    action: Action,
    name: &str,
    value: &str,
) -> Result<(), Failure> {
    let provider = settings.dns_provider.as_ref().ok_or_else(|| {
        Failure::new(
            "DNS-01 needs somebody who makes records: berth letsencrypt:set dns-provider PROGRAM-OR-URL",
        )
    })?;
    provider.call(fetch, settings.dns_token.as_deref(), action, name, value).await.map_err(Failure::new)
}

/// Which challenge of those that the server offers; RFC 8555 §8.3 and RFC 8737 §3 leave wildcards to DNS.
fn choose(method: Method, wildcard: bool, offered: &[ChallengeType]) -> Result<ChallengeType, String> {
    let wanted: &[ChallengeType] = match (method, wildcard) {
        (_, true) | (Method::Dns01, _) => &[ChallengeType::Dns01],
        (Method::Http01, _) => &[ChallengeType::Http01],
        (Method::TlsAlpn01, _) => &[ChallengeType::TlsAlpn01],
        (Method::Auto, _) => &[ChallengeType::Http01, ChallengeType::TlsAlpn01],
    };
    wanted.iter().find(|kind| offered.contains(kind)).cloned().ok_or_else(|| {
        let names = |kinds: &[ChallengeType]| kinds.iter().filter_map(name).collect::<Vec<_>>().join(" or ");
        format!(
            "the server does not offer {} (but {}); choose with: berth letsencrypt:set challenge",
            names(wanted),
            names(offered)
        )
    })
}

fn name(kind: &ChallengeType) -> Option<&'static str> {
    match kind {
        ChallengeType::Http01 => Some("http-01"),
        ChallengeType::Dns01 => Some("dns-01"),
        ChallengeType::TlsAlpn01 => Some("tls-alpn-01"),
        _ => None,
    }
}

async fn proofs(order: &mut Order, settings: &Effective, fetch: &Fetch) -> Result<Vec<Proof>, Failure> {
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| failure(&error, fetch.retry_after()))?;
        let Identifier::Dns(name) = authorization.identifier().identifier.clone() else { continue };
        match authorization.status {
            AuthorizationStatus::Valid => continue, // proved for an earlier order
            AuthorizationStatus::Pending => {}
            other => return Err(Failure::new(format!("{name}: its authorization is {other:?} already"))),
        }
        let wildcard = authorization.wildcard;
        let offered: Vec<_> = authorization.challenges.iter().map(|one| one.r#type.clone()).collect();
        let kind = choose(settings.challenge, wildcard, &offered)
            .map_err(|why| Failure::new(format!("{name}: {why}")))?;
        let Some(challenge) = authorization.challenge(kind.clone()) else { continue };
        let answer = challenge.key_authorization();
        proofs.push(Proof {
            token: challenge.token.clone(),
            key_authorization: answer.as_str().to_owned(),
            dns_value: answer.dns_value(),
            digest: answer.digest().as_ref().to_vec(),
            name,
            wildcard,
            kind,
        });
    }
    Ok(proofs)
}

/// Challenges that the proxies show until this is dropped.
struct Shown<'a>(&'a Platform, &'a Due);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.certs().set_challenges(&self.1.app, &self.1.slot, None);
    }
}

/// Has the proxies show what they can show, and waits until each of them does.
async fn show<'a>(platform: &'a Platform, due: &'a Due, proofs: &[Proof]) -> Result<Shown<'a>, Failure> {
    let mut challenges = Challenges::default();
    for proof in proofs {
        match proof.kind {
            ChallengeType::Http01 => challenges.http.push(HttpChallenge {
                token: proof.token.clone(),
                key_authorization: proof.key_authorization.clone(),
            }),
            ChallengeType::TlsAlpn01 => challenges.alpn.push(alpn(proof)?),
            _ => {}
        }
    }
    let shown = Shown(platform, due);
    if challenges == Challenges::default() {
        return Ok(shown);
    }
    platform.certs().set_challenges(&due.app, &due.slot, Some(challenges));
    let revision = super::publish(platform).await.map_err(|error| Failure::new(error.to_string()))?;
    let fleet = platform.deploys().fleet();
    let mut changes = fleet.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if fleet.certificates_served(revision) == Some(true) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    match tokio::time::timeout(SHOWN_WITHIN, wait).await {
        Ok(()) => Ok(shown),
        Err(_) => Err(Failure::new(
            "the proxy did not take the answer to the challenge over; is `berth proxy` running, and does it reach the \
             controller?",
        )),
    }
}

/// The certificate that proves a name (RFC 8737 §3).
fn alpn(proof: &Proof) -> Result<AlpnChallenge, Failure> {
    let made = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![proof.name.clone()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&proof.digest)];
        let certificate = params.self_signed(&key)?;
        Ok::<_, rcgen::Error>(AlpnChallenge {
            name: proof.name.clone(),
            chain_pem: certificate.pem(),
            key_pem: KeyPem(key.serialize_pem()),
        })
    };
    made().map_err(|error| Failure::new(format!("cannot make the certificate of a challenge: {error}")))
}

/// Tells the server to look, and waits for what it saw.
async fn decide(order: &mut Order, proofs: &[Proof], fetch: &Fetch, say: Say<'_>) -> Result<(), Failure> {
    let said = |error: instant_acme::Error| failure(&error, fetch.retry_after());
    {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(said)?;
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else { continue };
            let wildcard = authorization.wildcard;
            let proof = proofs.iter().find(|proof| proof.name == name && proof.wildcard == wildcard);
            let Some(proof) = proof else { continue };
            if let Some(mut challenge) = authorization.challenge(proof.kind.clone())
                && challenge.status == ChallengeStatus::Pending
            {
                say(format!("Proving {name} by {}", self::name(&proof.kind).unwrap_or("a challenge")));
                challenge.set_ready().await.map_err(said)?;
            }
        }
    }
    let status = order.poll_ready(&patience()).await;
    if matches!(status, Ok(OrderStatus::Ready)) {
        return Ok(());
    }
    let reasons = reasons(order).await;
    if !reasons.is_empty() {
        let (bad, texts): (Vec<_>, Vec<_>) = reasons.into_iter().unzip();
        return Err(Failure { bad, ..Failure::new(texts.join("\n")) });
    }
    Err(match status {
        Err(error) => said(error),
        Ok(_) => {
            Failure::new("the server refused the order and did not say why; it is tried again by itself")
        }
    })
}

/// What the server says of each name that it could not prove.
async fn reasons(order: &mut Order) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        found.extend(problems.map(|problem| (name.clone(), words(problem, Some(&name)))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_proved_by_dns_and_others_as_set() {
        use ChallengeType::{Dns01, Http01, TlsAlpn01};
        let all = [Dns01, TlsAlpn01, Http01];
        assert_eq!(choose(Method::Auto, false, &all), Ok(Http01));
        assert_eq!(choose(Method::Auto, false, &[Dns01, TlsAlpn01]), Ok(TlsAlpn01));
        assert_eq!(choose(Method::Http01, true, &all), Ok(Dns01));
        assert_eq!(choose(Method::TlsAlpn01, false, &all), Ok(TlsAlpn01));
        let refused = choose(Method::Http01, false, &[Dns01]).expect_err("not offered");
        assert!(refused.contains("http-01") && refused.contains("(but dns-01)"), "{refused}");
    }
}
