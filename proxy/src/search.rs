//! The search for a backend that takes a request: which ones were tried, and when to give up.
//!
//! In: a route, which may be replaced by a newer one meanwhile. Out: leases, one after the other, or the page that says
//! that there is none.

use crate::exchange::Trace;
use crate::pages::Page;
use crate::table::{Route, Target};
use crate::upstream::{self, Backend, Choice, Lease};
use crate::worker::Worker;
use std::sync::Arc;

/// Backends or connections tried for one request.
const MAX_ATTEMPTS: u32 = 4;

/// One request's search.
#[derive(Debug, Default)]
pub(crate) struct Search {
    tried: Vec<Arc<Backend>>,
    stale: u32,
}

impl Search {
    /// The next backend to try for a request to `host`.
    pub(crate) fn lease(
        &mut self,
        worker: &Worker,
        route: &mut Arc<Route>,
        host: &[u8],
        trace: &mut Trace,
    ) -> Result<Lease, Page> {
        while trace.attempts < MAX_ATTEMPTS && self.stale < MAX_ATTEMPTS {
            let Target::Backends(backends) = &route.target else { return Err(Page::BAD_GATEWAY) };
            if backends.is_empty() {
                return Err(Page::UNAVAILABLE);
            }
            match upstream::choose(backends, &self.tried, worker.random()) {
                Choice::Leased(lease) => {
                    trace.attempts += 1;
                    trace.backend = Some(lease.backend.clone());
                    return Ok(lease);
                }
                Choice::Exhausted => break,
                Choice::Stale => {
                    self.stale += 1;
                    match worker.shared.table.load().find_at(route.listener, host) {
                        Some(newer) => *route = newer.clone(),
                        None => return Err(Page::UNAVAILABLE),
                    }
                }
            }
        }
        Err(Page::BAD_GATEWAY)
    }

    /// The backend did not take it: others are preferred, for this request and for a while.
    pub(crate) fn failed(&mut self, lease: &Lease) {
        lease.backend.failed();
        self.tried.push(lease.backend.clone());
    }

    /// It could not be connected to.
    pub(crate) fn unreachable(&mut self, lease: &Lease, route: &Route, error: &std::io::Error) {
        let container = &lease.backend.name.container;
        tracing::debug!(app = %route.app, %container, %error, "cannot connect");
        self.failed(lease);
    }
}
