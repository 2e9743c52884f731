//! Who calls: the local admin on `api.sock`, or whoever shows a token over TCP.
//!
//! In: the peer's address, `Authorization`, `Berth-As`. Out: a [`Caller`] in the request's extensions, or a refusal. A right
//! token is never held up; wrong ones are counted for each address and slowed down.

use super::answer::Refusal;
use crate::errors::{forbidden, invalid};
use crate::platform::{Credential, Platform, check_person};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::api::{ApiError, ErrorCode};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who acts: the name of a token or SSH key, or `local`. An extension of every request that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub String);

/// From where, in words: `ssh ADDRESS`, `https ADDRESS`, `http ADDRESS`, or `socket` for the machine itself. An extension of
/// every request that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub String);

/// How a request over TCP came in; an extension set by the listener.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// Whether through TLS.
    pub encrypted: bool,
}

/// Wrong tokens an address may show in [`WINDOW`].
const ALLOWED_FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at most; beyond it the oldest failures are forgotten.
const REMEMBERED: usize = 10_000;

/// Counts wrong tokens by address.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, (u32, Instant)>>);

impl Failures {
    /// Counts one more failure; `Some(seconds)` when that is too many and how long to wait.
    fn count(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= REMEMBERED {
            failures.retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
            if failures.len() >= REMEMBERED {
                failures.clear();
            }
        }
        let (count, since) = failures.entry(network(address)).or_insert((0, now));
        if now.duration_since(*since) >= WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        (*count > ALLOWED_FAILURES).then(|| WINDOW.saturating_sub(now.duration_since(*since)).as_secs() + 1)
    }
}

/// An IPv6 customer has a /64: its addresses count as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

/// What the gate over TCP knows.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) platform: Platform,
    pub(super) failures: Arc<Failures>,
}

/// `api.sock`: file permissions let only the admin in. `Berth-As` says for whom it acts, `Berth-From` from which address that
/// one came over SSH.
pub(super) async fn local(mut request: Request, next: Next) -> Response {
    let name = match request.headers().get("berth-as").map(HeaderValue::to_str) {
        None => "local",
        Some(Ok(name)) if check_person(name).is_ok() => name,
        Some(_) => return Refusal::from(invalid("Berth-As is not the name of a key")).into_response(),
    };
    let caller = Caller(name.to_owned());
    let address = request.headers().get("berth-from").and_then(|value| value.to_str().ok());
    let origin = match address.and_then(|address| address.parse::<IpAddr>().ok()) {
        Some(address) => format!("ssh {}", address.to_canonical()),
        None => "socket".to_owned(),
    };
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(Origin(origin));
    next.run(request).await
}

/// TCP: TLS unless from this machine, and a token unless the path is open to all.
pub(super) async fn remote(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Refusal::from(forbidden("the connection's origin is unknown")).into_response();
    };
    if !peer.encrypted && !peer.address.ip().to_canonical().is_loopback() {
        let text = "a token must not travel in the clear: use https:// (the same port speaks TLS)";
        return Refusal::from(forbidden(text)).into_response();
    }
    if matches!(request.uri().path(), "/healthz" | "/openapi.json") {
        return next.run(request).await;
    }
    match identify(&gate, request.headers(), peer).await {
        Ok((_, Credential::Code(_))) if !is_sign_in(&request) => Refusal::from(forbidden(
            "this code begins a session (POST /v1/sessions) and is good for nothing else",
        ))
        .into_response(),
        Ok((caller, credential)) => {
            let over = if peer.encrypted { "https" } else { "http" };
            let origin = Origin(format!("{over} {}", peer.address.ip().to_canonical()));
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(origin);
            request.extensions_mut().insert(credential);
            next.run(request).await
        }
        Err(refusal) if request.uri().path().starts_with("/v2") => to_registry_client(refusal),
        Err(refusal) => refusal.into_response(),
    }
}

/// In the words of distribution-spec 1.1 ("Error Codes"), which its clients show.
fn to_registry_client(refusal: Refusal) -> Response {
    let message = refusal.message().to_owned();
    let mut response = refusal.into_response();
    let code = match response.status() {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
        _ => "DENIED",
    };
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] }).to_string();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    // Such a client takes `Bearer` for an address where tokens are given out: it has one already.
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(BASIC));
    }
    *response.body_mut() = body.into();
    response
}

/// A registry client may delete what nothing needs: an image that a release is made of stays, whoever asks.
pub(super) async fn guard_images(State(platform): State<Platform>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() != Method::DELETE || !path.starts_with("/v2/") {
        return next.run(request).await;
    }
    let keep = match crate::housekeeping::needed(&platform).await {
        Ok((keep, _)) => keep,
        Err(error) => return to_registry_client(error.into()),
    };
    let registry = platform.registry().clone();
    match tokio::task::spawn_blocking(move || registry.is_needed(&path, &keep)).await {
        Ok(None) => next.run(request).await,
        Ok(Some(image)) => to_registry_client(
            forbidden(format!(
                "a release needs {}@{}: it goes by itself when it can no longer be rolled back to (berth images)",
                image.repository, image.digest
            ))
            .into(),
        ),
        Err(error) => to_registry_client(crate::errors::internal("looking at releases broke off", &error).into()),
    }
}

/// What git and registry clients know.
const BASIC: &str = "Basic realm=\"berth\", charset=\"UTF-8\"";

fn is_sign_in(request: &Request) -> bool {
    request.method() == Method::POST && request.uri().path() == "/v1/sessions"
}

async fn identify(gate: &Gate, headers: &HeaderMap, peer: Peer) -> Result<(Caller, Credential), Refusal> {
    let Some(shown) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized(
            "this needs a token; make one with `berth tokens:create NAME` on the machine",
        ));
    };
    if let Some(token) = shown.to_str().ok().and_then(token_of)
        && let Some((owner, credential)) = gate.platform.recognize(&token).await?
    {
        return Ok((Caller(owner), credential));
    }
    tracing::warn!(from = %peer.address.ip(), "a wrong token was shown");
    match gate.failures.count(peer.address.ip(), Instant::now()) {
        None => Err(unauthorized("this token is not known here; it may have been removed")),
        Some(seconds) => {
            let message = format!("too many wrong tokens; try again in {seconds} s");
            let error = ApiError { code: ErrorCode::Unauthorized, message };
            let refusal = Refusal::with_status(StatusCode::TOO_MANY_REQUESTS, error);
            Err(refusal.header(header::RETRY_AFTER, HeaderValue::from(seconds)))
        }
    }
}

fn unauthorized(text: &str) -> Refusal {
    let refusal = Refusal::from(ApiError { code: ErrorCode::Unauthorized, message: text.to_owned() });
    // Basic first: it is the one git knows.
    refusal
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(BASIC))
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"berth\""))
}

/// The token in `Bearer TOKEN` or `Basic base64(anything:TOKEN)`.
fn token_of(shown: &str) -> Option<String> {
    let (scheme, rest) = shown.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let plain = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        return plain.split_once(':').map(|(_, token)| token.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_both_schemes() {
        assert_eq!(token_of("Bearer berth_x").as_deref(), Some("berth_x"));
        assert_eq!(token_of("bearer  berth_x ").as_deref(), Some("berth_x"));
        let basic = format!("Basic {}", STANDARD.encode("anyone:berth_x"));
        assert_eq!(token_of(&basic).as_deref(), Some("berth_x"));
        for bad in ["", "berth_x", "Basic", "Basic !!", "Basic eA==", "Digest x"] {
            assert_eq!(token_of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn failures_are_counted_by_address_and_forgotten_after_the_window() {
        let failures = Failures::default();
        let (start, one) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        for _ in 0..ALLOWED_FAILURES {
            assert_eq!(failures.count(one, start), None);
        }
        assert_eq!(failures.count(one, start), Some(61));
        assert_eq!(failures.count(IpAddr::from([192, 0, 2, 2]), start), None);
        assert_eq!(failures.count(one, start + WINDOW), None);
        let six: IpAddr = "2001:db8::1".parse().expect("an address");
        let same_customer: IpAddr = "2001:db8::2".parse().expect("an address");
        assert_eq!(network(six), network(same_customer));
    }
}
