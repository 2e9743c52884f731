//! Policies as the data path reads them.
//!
//! In: the model's [`Policy`]. Out: [`Compiled`], made once and shared by all routes of an app and by all tables in
//! which the policy is the same.

use super::Answer;
use super::auth::Users;
use berth_model::policy::{Cidr, Circuit, Health, HttpsRedirect, Policy, Rate, Redirect};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One app's policy.
#[derive(Debug)]
pub(crate) struct Compiled {
    source: Policy,
    /// Something is to be decided before a request is forwarded.
    pub(crate) gate: bool,
    pub(crate) https_redirect: HttpsRedirect,
    /// A whole line.
    hsts: Box<str>,
    pub(crate) canonical_host: Option<Box<str>>,
    redirect_code: Option<u16>,
    pub(crate) redirects: Vec<Redirect>,
    pub(crate) users: Users,
    pub(crate) allow: Vec<Cidr>,
    pub(crate) deny: Vec<Cidr>,
    pub(crate) rate: Option<Rate>,
    /// `Retry-After`, page.
    pub(crate) maintenance: Option<(u32, Option<Arc<str>>)>,
    pub(crate) paused: Option<Duration>,
    /// The app sleeps; how long a request waits for it.
    pub(crate) wakes_within: Option<Duration>,
    /// Somebody wants to know how long nobody asked.
    pub(crate) watched: bool,
    /// How long a request waits for a container to be ready.
    pub(crate) hold: Duration,
    pages: BTreeMap<u16, Arc<str>>,
    pub(crate) limits: Limits,
    pub(crate) balance: Balance,
}

/// Times and sizes; `None` is the proxy's own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) connect: Option<Duration>,
    pub(crate) response: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) total: Option<Duration>,
    pub(crate) body: Option<u64>,
    pub(crate) head: Option<usize>,
    pub(crate) in_flight: Option<u64>,
    pub(crate) queue: usize,
    pub(crate) queue_time: Duration,
}

/// Which container gets a request.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    pub(crate) sticky: bool,
    /// Containers or connections tried for one request.
    pub(crate) attempts: u32,
    pub(crate) slow_start: Duration,
    pub(crate) health: Option<Health>,
    pub(crate) circuit: Option<Circuit>,
    /// Answers are counted by container.
    pub(crate) counted: bool,
    /// None of the above but attempts and counts: power of two choices and nothing else.
    pub(crate) plain: bool,
}

/// Containers or connections tried for one request, unless set otherwise.
const ATTEMPTS: u32 = 4;

impl Compiled {
    pub(crate) fn new(policy: &Policy) -> Self {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        let hsts = policy.hsts.map_or(String::new(), |hsts| {
            let subdomains = if hsts.include_subdomains { "; includeSubDomains" } else { "" };
            let preload = if hsts.preload { "; preload" } else { "" };
            format!("Strict-Transport-Security: max-age={}{subdomains}{preload}\r\n", hsts.max_age)
        });
        let limits = Limits {
            connect: time(policy.limits.connect_ms),
            response: time(policy.limits.response_ms),
            idle: time(policy.limits.idle_ms),
            total: time(policy.limits.total_ms),
            body: policy.limits.body_bytes,
            head: policy.limits.head_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
            in_flight: policy.limits.in_flight.map(u64::from),
            queue: policy.limits.queue.and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
            queue_time: Duration::from_millis(policy.limits.queue_ms.unwrap_or(10_000)),
        };
        let balance = Balance {
            sticky: policy.balance.sticky,
            attempts: policy.balance.retries.map_or(ATTEMPTS, |retries| retries.saturating_add(1)),
            slow_start: Duration::from_millis(policy.balance.slow_start_ms),
            health: policy.balance.health.clone(),
            circuit: policy.balance.circuit,
            counted: policy.balance.counted,
            plain: !policy.balance.sticky
                && policy.balance.slow_start_ms == 0
                && policy.balance.health.is_none()
                && policy.balance.circuit.is_none()
                && policy.balance.shares.is_empty()
                && policy.limits.in_flight.is_none(),
        };
        let maintenance = policy.maintenance.as_ref();
        let sleep = policy.sleep;
        Self {
            gate: policy.https_redirect == HttpsRedirect::On
                || policy.canonical_host.is_some()
                || !policy.redirects.is_empty()
                || !policy.users.is_empty()
                || !policy.allow.is_empty()
                || !policy.deny.is_empty()
                || policy.rate.is_some()
                || policy.maintenance.is_some()
                || policy.paused_ms.is_some()
                || limits.body.is_some()
                || limits.head.is_some(),
            https_redirect: policy.https_redirect,
            hsts: hsts.into(),
            canonical_host: policy.canonical_host.as_deref().map(Into::into),
            redirect_code: policy.redirect_code,
            redirects: policy.redirects.clone(),
            users: Users::new(&policy.users),
            allow: policy.allow.clone(),
            deny: policy.deny.clone(),
            rate: policy.rate,
            maintenance: maintenance.map(|one| (one.retry_after, one.page.as_deref().map(Into::into))),
            paused: time(policy.paused_ms),
            wakes_within: sleep
                .filter(|sleep| sleep.asleep)
                .map(|sleep| Duration::from_millis(sleep.wake_ms)),
            watched: sleep.is_some(),
            hold: Duration::from_millis(policy.hold_ms),
            pages: policy.pages.iter().map(|(status, page)| (*status, page.as_str().into())).collect(),
            limits,
            balance,
            source: policy.clone(),
        }
    }

    pub(crate) fn is_of(&self, policy: &Policy) -> bool {
        self.source == *policy
    }

    pub(crate) fn shares(&self) -> &[berth_model::policy::Share] {
        &self.source.balance.shares
    }

    /// Lines for every answer that goes out over TLS (RFC 6797 §7.2: over nothing else).
    pub(crate) fn fields(&self, secure: bool) -> &str {
        if secure { &self.hsts } else { "" }
    }

    /// The app's own page for a status.
    pub(crate) fn page(&self, status: u16) -> Option<&Arc<str>> {
        self.pages.get(&status)
    }

    /// Status of a redirect to HTTPS or to the canonical host.
    pub(crate) fn redirect_code(&self, only_looks: bool) -> u16 {
        self.redirect_code.unwrap_or(if only_looks { 301 } else { 308 })
    }

    /// With the app's own page, if it has one for this.
    pub(crate) fn dressed(&self, mut answer: Answer) -> Answer {
        answer.page = answer.page.or_else(|| self.page(answer.status).cloned());
        answer
    }
}
