//! The search for a backend that takes a request: which ones were tried, what is waited for, when to give up.
//!
//! In: a route, which may be replaced by a newer one meanwhile. Out: leases, one after the other, or the page that says
//! that there is none.

use crate::balance;
use crate::exchange::Trace;
use crate::fields;
use crate::head::Request;
use crate::io::Progress;
use crate::pages::Page;
use crate::policy::gate::{Patience, Queue};
use crate::table::{Route, Target};
use crate::upstream::{Backend, Choice, Lease};
use crate::worker::Worker;
use std::borrow::Cow;
use std::sync::Arc;

/// Tables that may change under one request.
const MAX_STALE: u32 = 8;

/// One request's search.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    host: &'a [u8],
    /// What its cookie says, on a route whose clients stick to a backend.
    wanted: Option<&'a [u8]>,
    /// Bytes in memory while it waits.
    held: usize,
    tried: Vec<Arc<Backend>>,
    stale: u32,
    /// Attempts left.
    left: u32,
    /// No container has got a byte of it.
    unsent: bool,
    patience: Patience,
    queue: Queue,
}

impl<'a> Search<'a> {
    /// A search for the request with this rewritten head, of which `held` bytes are in memory.
    pub(crate) fn new(route: &Route, request: &Request, head: &'a [u8], held: usize) -> Self {
        let sticks = !route.tokens.is_empty();
        let cookie = if sticks { fields::of(head, "cookie") } else { None };
        Self {
            host: &head[request.host.clone()],
            wanted: cookie.and_then(balance::cookie),
            held,
            tried: Vec::new(),
            stale: 0,
            left: route.rules.balance.attempts,
            unsent: true,
            patience: Patience::default(),
            queue: Queue::default(),
        }
    }

    /// The next backend to try.
    pub(crate) async fn lease(
        &mut self,
        worker: &Worker,
        route: &mut Arc<Route>,
        progress: &Progress,
        trace: &mut Trace,
    ) -> Result<Lease, Page> {
        while self.stale < MAX_STALE {
            let Target::Backends(backends) = &route.target else { return Err(Page::BAD_GATEWAY) };
            if backends.is_empty() {
                if !self.unsent {
                    return Err(Page::BAD_GATEWAY); // the only ones there were went away with it
                }
                if !self.wait(worker, route, progress).await {
                    return Err(Page::UNAVAILABLE);
                }
                continue;
            }
            let choice = match self.left {
                0 => Choice::Exhausted,
                _ => balance::choose(route, backends, &self.tried, self.wanted, worker.random()),
            };
            match choice {
                Choice::Leased(lease) => {
                    trace.attempts += 1;
                    self.left -= 1;
                    trace.backend = Some(lease.backend.clone());
                    return Ok(lease);
                }
                Choice::Full => {
                    if !self.queue.wait(route, |due| progress.hold(due.into())).await {
                        return Err(Page::UNAVAILABLE);
                    }
                    progress.resume();
                }
                Choice::Exhausted => {
                    // Nobody took a connection: the containers may just be starting again.
                    if !self.unsent || !self.wait(worker, route, progress).await {
                        return Err(Page::BAD_GATEWAY);
                    }
                    self.tried.clear();
                    self.left = route.rules.balance.attempts;
                }
                Choice::Stale => {
                    self.stale += 1;
                    match worker.shared.table.load().again(self.host, route) {
                        Some(newer) => *route = newer.clone(),
                        None => return Err(Page::UNAVAILABLE),
                    }
                }
            }
        }
        Err(Page::BAD_GATEWAY)
    }

    /// Waits for a container, where the app's settings say so.
    async fn wait(&mut self, worker: &Worker, route: &mut Arc<Route>, progress: &Progress) -> bool {
        let begins = |due: std::time::Instant| progress.hold(due.into());
        let waited = self.patience.wait(worker, route, self.host, self.held, begins).await;
        if waited {
            progress.resume();
        }
        waited
    }

    /// A container may have got some of it: it cannot wait for others.
    pub(crate) fn sent(&mut self) {
        self.unsent = false;
    }

    /// The backend did not take it: others are preferred, for this request and for a while.
    pub(crate) fn failed(&mut self, lease: &Lease, route: &Route, trace: &Trace) {
        lease.backend.failed();
        trace.judge(route, false);
        self.tried.push(lease.backend.clone());
    }

    /// Whether there are backends that were not tried yet.
    pub(crate) fn has_others(&self, route: &Route) -> bool {
        let Target::Backends(backends) = &route.target else { return false };
        backends.iter().any(|backend| !self.tried.iter().any(|tried| Arc::ptr_eq(tried, backend)))
    }

    /// It could not be connected to.
    pub(crate) fn unreachable(
        &mut self,
        lease: &Lease,
        route: &Route,
        trace: &Trace,
        error: &std::io::Error,
    ) {
        let container = &lease.backend.name.container;
        tracing::debug!(app = %route.app, %container, %error, "cannot connect");
        self.failed(lease, route, trace);
    }

    /// Lines that go into the head of every answer of this route; none for most.
    pub(crate) fn extra_fields<'r>(&self, route: &'r Route, lease: &Lease, secure: bool) -> Cow<'r, str> {
        let lines = route.rules.fields(secure);
        let mut extra = Cow::Borrowed(lines);
        let token = balance::token_of(route, &lease.backend);
        if let Some(token) = token.filter(|token| self.wanted != Some(&token[..])) {
            let extra = extra.to_mut();
            extra.push_str("Set-Cookie: ");
            extra.push_str(balance::COOKIE);
            extra.push('=');
            extra.push_str(std::str::from_utf8(token).unwrap_or_default());
            extra.push_str("; Path=");
            extra.push_str(route.prefix.as_deref().unwrap_or("/"));
            extra.push_str(if secure {
                "; HttpOnly; SameSite=Lax; Secure\r\n"
            } else {
                "; HttpOnly; SameSite=Lax\r\n"
            });
        }
        extra
    }
}
