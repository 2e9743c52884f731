//! Which backend of a route gets a request, where more is asked than the less busy of two.
//!
//! In: the backends, what was tried, what the client's cookie says. Out: a [`Choice`]. Every rule prefers; none leaves
//! a request without a backend while there is one that was not tried (but for the number in flight, which is a limit).

use crate::policy::compiled::Balance;
#[cfg(test)]
use crate::policy::compiled::Compiled;
use crate::table::{Route, Target};
use crate::upstream::{self, Backend, Choice};
use berth_model::AppName;
use berth_model::policy::Share;
use ring::hmac;
use std::sync::Arc;

/// Names one container of one app, in hexadecimal, and tells nobody which.
pub(crate) type Token = [u8; 32];

/// The name of the cookie.
pub(crate) const COOKIE: &str = "berth_sticky";

/// The tokens of `backends`: the first half of an HMAC-SHA-256 of app and container. Without a key there are none.
/// Whoever sends one that is not among them has made it up, or its container is gone.
pub(crate) fn tokens(key: &[u8], app: &AppName, backends: &[Arc<Backend>]) -> Vec<Token> {
    if key.is_empty() {
        return Vec::new();
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let token = |backend: &Arc<Backend>| {
        let mut context = hmac::Context::with_key(&key);
        context.update(app.as_str().as_bytes());
        context.update(b"\0");
        context.update(backend.name.container.as_str().as_bytes());
        let tag = context.sign();
        let mut token = Token::default();
        // 16 of its 32 bytes: as many as the text has room for.
        let _ = hex::encode_to_slice(&tag.as_ref()[..16], &mut token);
        token
    };
    backends.iter().map(token).collect()
}

/// The token of one of a route's backends; `None` if its clients do not stick.
pub(crate) fn token_of<'a>(route: &'a Route, backend: &Arc<Backend>) -> Option<&'a Token> {
    let Target::Backends(backends) = &route.target else { return None };
    let at = backends.iter().position(|other| Arc::ptr_eq(other, backend))?;
    route.tokens.get(at)
}

/// The value of our cookie in a `Cookie` field (RFC 6265 §4.2.1).
pub(crate) fn cookie(value: &[u8]) -> Option<&[u8]> {
    value.split(|b| *b == b';').find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

/// Groups of backends with weights, which share a route's requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares {
    /// Weight and the backends of it; those that no share names come last, with what is left of 100.
    groups: Vec<(u32, Vec<Arc<Backend>>)>,
    total: u64,
}

impl Shares {
    pub(crate) fn new(shares: &[Share], backends: &[Arc<Backend>]) -> Self {
        if shares.is_empty() {
            return Self::default();
        }
        let mut groups: Vec<(u32, Vec<Arc<Backend>>)> = Vec::new();
        let named = |share: &Share, backend: &Backend| share.containers.contains(&backend.name.container);
        for share in shares {
            let own: Vec<_> = backends.iter().filter(|backend| named(share, backend)).cloned().collect();
            groups.push((share.weight, own));
        }
        let rest = backends.iter().filter(|backend| !shares.iter().any(|share| named(share, backend)));
        let left = 100_u32.saturating_sub(shares.iter().map(|share| share.weight).sum());
        groups.push((left, rest.cloned().collect()));
        groups.retain(|(weight, members)| *weight > 0 && !members.is_empty());
        let total = groups.iter().map(|(weight, _)| u64::from(*weight)).sum();
        Self { groups, total }
    }

    /// The group that gets the request with this random number.
    fn group(&self, random: u64) -> Option<&[Arc<Backend>]> {
        let mut at = random.rotate_left(23) % self.total.max(1);
        self.groups.iter().find_map(|(weight, members)| {
            let weight = u64::from(*weight);
            if at < weight {
                return Some(&members[..]);
            }
            at -= weight;
            None
        })
    }
}

/// Chooses one of `backends`, those of `route`, that is not in `tried`. `wanted` is what the client's cookie says.
pub(crate) fn choose(
    route: &Route,
    backends: &[Arc<Backend>],
    tried: &[Arc<Backend>],
    wanted: Option<&[u8]>,
    random: u64,
) -> Choice {
    let balance = &route.rules.balance;
    if balance.plain {
        return upstream::choose(backends, tried, random);
    }
    let untried = |backend: &Arc<Backend>| !tried.iter().any(|other| Arc::ptr_eq(other, backend));
    let most = route.rules.limits.in_flight.unwrap_or(u64::MAX);
    let has_room = |backend: &Arc<Backend>| backend.in_flight() < most;
    if let Some(at) = wanted.and_then(|wanted| route.tokens.iter().position(|token| token[..] == *wanted))
        && let Some(backend) = backends.get(at)
        && untried(backend)
        && !backend.is_passed_over()
        && has_room(backend)
    {
        return lease(route, backend);
    }
    let warm = |backend: &Arc<Backend>| is_warm(backend, balance, random);
    let group = route.shares.group(random).unwrap_or(backends);
    // What fits best first; each later one asks for less.
    let found =
        upstream::two_choices(group, |b| untried(b) && has_room(b) && !b.is_passed_over() && warm(b), random)
            .or_else(|| {
                upstream::two_choices(group, |b| untried(b) && has_room(b) && !b.is_passed_over(), random)
            })
            .or_else(|| {
                upstream::two_choices(backends, |b| untried(b) && has_room(b) && !b.is_passed_over(), random)
            })
            .or_else(|| upstream::two_choices(backends, |b| untried(b) && has_room(b), random));
    match found {
        Some(backend) => lease(route, backend),
        None if backends.iter().any(untried) => Choice::Full,
        None => Choice::Exhausted,
    }
}

fn lease(route: &Route, backend: &Arc<Backend>) -> Choice {
    let limit = route.rules.limits.in_flight.map(|most| (most, &route.state));
    upstream::lease(backend, limit, route.rules.balance.circuit.as_ref())
}

/// Whether a backend that is new takes this one of its requests: more and more of them, in proportion to its age.
fn is_warm(backend: &Backend, balance: &Balance, random: u64) -> bool {
    let full = balance.slow_start.as_millis();
    let age = backend.age().as_millis();
    age >= full || u128::from(random.rotate_left(41) % 1000) * full < age * 1000
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
