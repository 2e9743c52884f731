//! Certificates on demand: for names that nobody listed, if somebody who knows says so.
//!
//! In: names that proxies were asked for. Out: 202, 404 or 429 at once; later an order. The name must lead to an app by one
//! of its domains, and the ask URL must answer 200 to `GET URL?domain=NAME`: else anybody could have the CA's limits used
//! up. Refusals are remembered, and everything is bounded.

use super::advice::Failure;
use super::fetch::Fetch;
use super::settings::{self, Effective, Settings};
use super::subjects::on_demand_key;
use crate::platform::{Platform, PlatformError};
use crate::store::{Compare, Write};
use axum::http::StatusCode;
use berth_model::{AppName, HostPattern};
use bytes::Bytes;
use http::Request;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the ask URL may take.
const ASK: Duration = Duration::from_secs(5);
/// How long a "no" stands, and an ask URL that did not answer.
const NO: Duration = Duration::from_secs(600);
const NO_ANSWER: Duration = Duration::from_secs(60);
/// Names that are remembered, and asked about at once.
const REMEMBERED: usize = 10_000;
const AT_ONCE: usize = 32;
/// Names looked at a minute, and new certificates a minute.
const LOOKS: f64 = 120.0;
const ORDERS: f64 = 10.0;
/// Most such certificates of the platform.
const MAX_NAMES: usize = 1000;

/// What was asked lately.
#[derive(Debug)]
pub(super) struct Asked(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    refused: HashMap<String, Instant>,
    under_way: HashSet<String>,
    looks: Bucket,
    orders: Bucket,
}

impl Default for Asked {
    fn default() -> Self {
        let now = Instant::now();
        let (looks, orders) = (Bucket::new(LOOKS, now), Bucket::new(ORDERS, now));
        Self(Mutex::new(Inner { refused: HashMap::new(), under_way: HashSet::new(), looks, orders }))
    }
}

/// So many a minute, and at most as many at once.
#[derive(Debug)]
struct Bucket {
    size: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(size: f64, at: Instant) -> Self {
        Self { size, left: size, at }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.at).as_secs_f64() * self.size / 60.0;
        self.left = (self.left + gained).min(self.size);
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

impl Asked {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing that holds the lock can leave the state half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a name is worth looking at now; else the answer.
    fn admit(&self, name: &str, now: Instant) -> Result<(), StatusCode> {
        let mut inner = self.inner();
        if inner.refused.get(name).is_some_and(|until| *until > now) {
            return Err(StatusCode::NOT_FOUND);
        }
        if inner.under_way.contains(name) {
            return Err(StatusCode::ACCEPTED);
        }
        if inner.under_way.len() >= AT_ONCE || !inner.looks.take(now) {
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        inner.under_way.insert(name.to_owned());
        Ok(())
    }

    fn done(&self, name: &str, refused_until: Option<Instant>, now: Instant) {
        let mut inner = self.inner();
        inner.under_way.remove(name);
        let Some(until) = refused_until else { return };
        if inner.refused.len() >= REMEMBERED {
            inner.refused.retain(|_, until| *until > now);
        }
        if inner.refused.len() < REMEMBERED {
            inner.refused.insert(name.to_owned(), until);
        }
    }
}

/// Whether any app has names that certificates are got for on demand.
pub(super) async fn is_on(
    platform: &Platform,
    hosts: &BTreeMap<AppName, Vec<HostPattern>>,
) -> Result<bool, PlatformError> {
    let (global, own) = settings::all(platform).await?;
    let asks =
        |app| settings::effective(&global, own.get(app).unwrap_or(&Settings::default())).ask_url.is_some();
    Ok(hosts.keys().any(asks))
}

/// A client asked a proxy for this name.
pub(crate) async fn wanted(platform: &Platform, name: &str) -> StatusCode {
    let name = name.to_ascii_lowercase();
    let plain = HostPattern::parse(&name).ok().filter(|host| !host.is_wildcard());
    let Some(host) = plain.filter(|host| host.as_str().contains('.')) else { return StatusCode::NOT_FOUND };
    if super::is_covered(platform, &host) {
        return StatusCode::ACCEPTED;
    }
    let asked = &platform.certs().on_demand;
    if let Err(answer) = asked.admit(&name, Instant::now()) {
        return answer;
    }
    let (app, settings) = match leads_to(platform, &host).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            let now = Instant::now();
            asked.done(&name, Some(now + NO_ANSWER), now);
            return StatusCode::NOT_FOUND;
        }
        Err(error) => {
            tracing::error!(name, %error, "cannot look up a name that a certificate is wanted for");
            asked.done(&name, None, Instant::now());
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    };
    let platform = platform.clone();
    tokio::spawn(async move {
        let refused_for = decide(&platform, &app, &settings, &name).await;
        let now = Instant::now();
        platform.certs().on_demand.done(&name, refused_for.map(|pause| now + pause), now);
    });
    StatusCode::ACCEPTED
}

/// The app that a name leads to, if certificates are got for it on demand: an exact domain before a wildcard, as in routes.
async fn leads_to(
    platform: &Platform,
    host: &HostPattern,
) -> Result<Option<(AppName, Effective)>, PlatformError> {
    let global_domains = platform.global_domains().await?;
    let mut apps = platform.apps().await?;
    apps.sort_by_key(|app| app.created_ms);
    let mut found = None;
    for app in apps {
        let hosts = crate::routing::hosts(&app, &global_domains);
        if hosts.contains(host) {
            found = Some(app.name);
            break;
        }
        if found.is_none() && hosts.iter().any(|pattern| pattern.covers(host.as_str())) {
            found = Some(app.name);
        }
    }
    let Some(app) = found else { return Ok(None) };
    let global = settings::of_platform(platform).await?;
    let settings = settings::effective(&global, &settings::of_app(platform, &app).await?);
    Ok(settings.ask_url.is_some().then_some((app, settings)))
}

/// Asks, and has an order made after a yes. Gives for how long the name is not looked at again otherwise.
async fn decide(platform: &Platform, app: &AppName, settings: &Effective, name: &str) -> Option<Duration> {
    match ask(settings, name).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::info!(%app, name, "no certificate on demand: the ask URL says no");
            return Some(NO);
        }
        Err(why) => {
            tracing::warn!(%app, name, why, "no certificate on demand");
            return Some(NO_ANSWER);
        }
    }
    if !platform.certs().on_demand.inner().orders.take(Instant::now()) {
        tracing::warn!(%app, name, "no certificate on demand: {ORDERS} were ordered within a minute already");
        return Some(NO_ANSWER);
    }
    let noted = async {
        if platform.store().list("acme/on-demand/").await?.len() >= MAX_NAMES {
            tracing::warn!(%app, name, "no certificate on demand: there are {MAX_NAMES} already");
            return Ok(Some(NO));
        }
        let put = Write::Put(on_demand_key(app, name), b"{}".to_vec());
        platform.store().txn(vec![Compare::Present(format!("apps/{app}"))], vec![put]).await?;
        tracing::info!(%app, name, "a certificate is wanted on demand");
        Ok::<_, PlatformError>(None)
    };
    noted.await.unwrap_or_else(|error| {
        tracing::error!(%app, name, %error, "cannot note a certificate that is wanted on demand");
        Some(NO_ANSWER)
    })
}

/// Whether the ask URL lets a name have a certificate. Anything but 200 is no; no answer is an error.
pub(super) async fn ask(settings: &Effective, name: &str) -> Result<bool, String> {
    let Some(url) = &settings.ask_url else { return Err("no ask URL is set any more".to_owned()) };
    let separator = if url.contains('?') { '&' } else { '?' };
    // A checked host name needs no escaping.
    let request = Request::get(format!("{url}{separator}domain={name}")).body(Bytes::new());
    let request = request.map_err(|error| format!("the ask URL cannot be used: {error}"))?;
    let fetch = Fetch::new(settings.ca_bundle.as_deref()).map_err(|error| error.to_string())?;
    let answer = fetch.send(request, ASK).await;
    let answer = answer.map_err(|error| format!("the ask URL gave no answer about {name}: {error}"))?;
    Ok(answer.status() == StatusCode::OK)
}

/// The ask URL says no to a name that has a certificate: it goes.
pub(super) async fn no_more(platform: &Platform, app: &AppName, name: &str) -> Result<(), Failure> {
    let gone = platform.store().delete(on_demand_key(app, name)).await;
    tracing::info!(%app, name, "the ask URL says no: its certificate is not renewed");
    gone.map_err(|error| Failure::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_bounded_and_refusals_remembered() {
        let (asked, now) = (Asked::default(), Instant::now());
        for n in 0..AT_ONCE {
            assert_eq!(asked.admit(&format!("n{n}.test"), now), Ok(()));
        }
        assert_eq!(asked.admit("one-more.test", now), Err(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(asked.admit("n0.test", now), Err(StatusCode::ACCEPTED));
        asked.done("n0.test", Some(now + NO), now);
        assert_eq!(asked.admit("n0.test", now), Err(StatusCode::NOT_FOUND));
        asked.done("n1.test", None, now);
        assert_eq!(asked.admit("n0.test", now + NO), Ok(()));
        for n in 0..REMEMBERED + 10 {
            asked.done(&format!("x{n}.test"), Some(now + NO), now);
        }
        assert_eq!(asked.inner().refused.len(), REMEMBERED);
        asked.done("later.test", Some(now + NO * 3), now + NO * 2);
        assert_eq!(asked.inner().refused.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn a_bucket_fills_again() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, start);
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 10);
        let later = start + Duration::from_secs(6);
        assert!(bucket.take(later) && !bucket.take(later));
    }
}
