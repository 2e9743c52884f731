//! Policies: what is answered instead of an app, held back, or changed on the way to it.
//!
//! In: a [`View`] of a request, whatever version of HTTP it came in, and its route. Out: a [`Decision`]. Nothing here
//! reads or writes a socket: both fronts call [`decide`] and do what it says. Policies are compiled when a table is
//! built; a route without any costs one branch a request.

pub(crate) mod auth;
pub(crate) mod compiled;
pub(crate) mod gate;
pub(crate) mod keep;
pub(crate) mod paths;
pub(crate) mod rate;

use crate::fields;
use crate::table::{Route, Target};
use auth::{Credentials, Entry};
use berth_model::policy::{Cidr, HttpsRedirect};
use compiled::Compiled;
use keep::Keep;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is to be known of a request.
pub(crate) struct View<'a> {
    /// As the client wrote it, with its port.
    pub(crate) host: &'a [u8],
    /// Path and query, as the client wrote them.
    pub(crate) target: &'a [u8],
    /// Who asks, behind every proxy that is trusted.
    pub(crate) client: IpAddr,
    /// `GET` or `HEAD`.
    pub(crate) only_looks: bool,
    /// It came over TLS, here or at a trusted proxy.
    pub(crate) secure: bool,
    /// The port where the same host is served over TLS.
    pub(crate) https: Option<u16>,
    /// Bytes of its head.
    pub(crate) head: usize,
    /// Bytes of its body, where they were announced.
    pub(crate) body: Option<u64>,
    /// Its first field of this name, in lower case.
    pub(crate) field: &'a (dyn Fn(&str) -> Option<&'a [u8]> + Sync),
    /// It was not looked at before: what is counted is counted once.
    pub(crate) first: bool,
    /// Microseconds of the clock of [`Keep`].
    pub(crate) now: Instant,
}

/// What is done with a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It goes on to the route's target.
    Forward,
    /// This is the answer.
    Answer(Box<Answer>),
    /// It waits, at most so long in all, until another table might lead it somewhere; then it is decided again.
    Hold {
        longest: Duration,
        /// The app sleeps: the controller is told.
        wake: bool,
    },
    /// Its password is to be verified; then it is decided again.
    Verify(Credentials),
}

/// An answer of the proxy itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Seconds.
    pub(crate) retry_after: Option<u32>,
    /// Whole lines.
    pub(crate) fields: String,
    /// HTML in place of the proxy's own page.
    pub(crate) page: Option<Arc<str>>,
}

impl Answer {
    pub(crate) fn of(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn later(status: u16, seconds: u32) -> Self {
        Self { status, retry_after: Some(seconds), ..Self::default() }
    }
}

/// What comes of a request on this route. Only for routes with a gate, and where TLS is there to be sent to.
pub(crate) fn decide(route: &Route, keep: &Keep, view: &View<'_>) -> Decision {
    let rules = &*route.rules;
    let answer = |answer: Answer| Decision::Answer(Box::new(rules.dressed(answer)));
    if rules.deny.iter().any(|network| network.covers(view.client))
        || (!rules.allow.is_empty() && !rules.allow.iter().any(|network| network.covers(view.client)))
    {
        return answer(Answer::of(403));
    }
    if let Some(rate) = rules.rate.as_ref().filter(|_| view.first)
        && let Err(seconds) = keep.limiter.take(rate, route.state.number, view.client, keep.micros(view.now))
    {
        return answer(Answer::later(429, seconds));
    }
    if let Some(location) = elsewhere(route, view) {
        let mut moved = Answer::of(location.0);
        let _ = write!(moved.fields, "Location: {}\r\n", location.1);
        return answer(moved);
    }
    if rules.limits.head.is_some_and(|most| view.head > most) {
        return answer(Answer::of(431));
    }
    if let (Some(most), Some(length)) = (rules.limits.body, view.body)
        && length > most
    {
        return answer(Answer::of(413));
    }
    if let Some((retry_after, page)) = &rules.maintenance {
        return answer(Answer { page: page.clone(), ..Answer::later(503, *retry_after) });
    }
    if !rules.users.is_empty() {
        match rules.users.judge(&keep.verified, (view.field)("authorization"), view.now) {
            Entry::Granted => {}
            Entry::Unverified(credentials) => return Decision::Verify(credentials),
            Entry::Refused => {
                // RFC 9110 §11.6.1, RFC 7617 §2.1.
                let fields =
                    format!("WWW-Authenticate: Basic realm=\"{}\", charset=\"UTF-8\"\r\n", route.app);
                return answer(Answer { fields, ..Answer::of(401) });
            }
        }
    }
    if let Some(longest) = rules.paused {
        return Decision::Hold { longest, wake: false };
    }
    if let (Target::NoWeb, Some(longest)) = (&route.target, rules.wakes_within) {
        return Decision::Hold { longest, wake: true };
    }
    Decision::Forward
}

/// Where the request is sent instead: status and address.
fn elsewhere(route: &Route, view: &View<'_>) -> Option<(u16, String)> {
    let rules = &*route.rules;
    let mut space = [0; 256];
    let asked = fields::route_host(view.host, &mut space)?;
    let code = rules.redirect_code(view.only_looks);
    let other = if route.prefix.is_some() { None } else { other_host(rules, asked, code) };
    let to_tls = !view.secure
        && match rules.https_redirect {
            HttpsRedirect::Off => false,
            HttpsRedirect::On => true,
            HttpsRedirect::Auto => view.https.is_some(),
        };
    if other.is_none() && !to_tls {
        return None;
    }
    let (status, host) = other.unwrap_or((code, asked));
    let mut location = String::with_capacity(64 + view.target.len());
    let scheme = if view.secure || to_tls { "https" } else { "http" };
    let _ = write!(location, "{scheme}://{host}");
    match (to_tls, view.https) {
        (true, Some(port)) if port != 443 => {
            let _ = write!(location, ":{port}");
        }
        (true, _) => {}
        // The port that was asked for is the right one for another name too.
        (false, _) => {
            let port = &view.host[fields::without_port(view.host).len()..];
            location.push_str(std::str::from_utf8(port).unwrap_or_default());
        }
    }
    if view.target.first() != Some(&b'/') {
        location.push('/'); // `OPTIONS *`
    } else {
        for byte in view.target {
            match byte {
                0x21..=0x7e => location.push(char::from(*byte)),
                byte => {
                    let _ = write!(location, "%{byte:02X}");
                }
            }
        }
    }
    Some((status, location))
}

fn other_host<'a>(rules: &'a Compiled, asked: &str, code: u16) -> Option<(u16, &'a str)> {
    let single = rules.redirects.iter().find(|redirect| redirect.from.covers(asked));
    if let Some(redirect) = single.filter(|redirect| redirect.to.as_str() != asked) {
        return Some((redirect.status, redirect.to.as_str()));
    }
    let canonical = rules.canonical_host.as_deref().filter(|host| *host != asked)?;
    Some((code, canonical))
}

/// Who asks, if `peer` says for whom it does: the last address in `X-Forwarded-For` that is not a trusted proxy's.
pub(crate) fn client(peer: IpAddr, trusted: &[Cidr], forwarded_for: Option<&[u8]>) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.covers(address));
    let mut client = peer;
    let entries = forwarded_for.unwrap_or_default().rsplit(|b| *b == b',');
    for entry in entries {
        if !is_trusted(client) {
            break;
        }
        let text = std::str::from_utf8(entry.trim_ascii()).unwrap_or("");
        match text.parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break, // what is before it is not worth more
        }
    }
    client
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
