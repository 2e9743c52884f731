//! The gate before a route: what [`decide`](super::decide) says, done until it lets the request on or answers it.
//!
//! In: a [`View`], its route, and how one hears that the client went away. Out: [`Passed`]. A request that is held keeps
//! its place in a bounded number of them, is decided anew at every new table, and ends at its deadline.

use super::{Answer, Decision, View, decide};
use crate::table::{Route, Target};
use crate::worker::Worker;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a request that waits looks again though nothing was told.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a request at the gate.
#[derive(Debug)]
pub(crate) enum Passed {
    /// The route may have become another one.
    On,
    Answered(Box<Answer>),
    /// There is nobody to answer.
    Gone,
}

/// Decides about a request until it passes. `bytes` of it are in memory; `gone` resolves when its client is.
pub(crate) async fn pass(
    worker: &Worker,
    route: &mut Arc<Route>,
    view: &mut View<'_>,
    bytes: usize,
    gone: impl Future<Output = ()>,
) -> Passed {
    let shared = &worker.shared;
    let later =
        |route: &Route, seconds| Passed::Answered(Box::new(route.rules.dressed(Answer::later(503, seconds))));
    let mut gone = pin!(gone);
    let mut place = None;
    loop {
        // Before looking: a table that comes in between wakes us at once.
        let mut swapped = place.is_some().then(|| shared.swaps.subscribe());
        if place.is_some() {
            match shared.table.load().again(view.host, route) {
                Some(newer) => *route = newer.clone(),
                None => return later(route, 2),
            }
        }
        match decide(route, &shared.keep, view) {
            Decision::Forward => return Passed::On,
            Decision::Answer(answer) => return Passed::Answered(answer),
            Decision::Verify(credentials) => {
                view.first = false;
                if !shared.keep.verified.verify(credentials).await {
                    return later(route, 1);
                }
                view.now = Instant::now();
            }
            Decision::Hold { longest, wake } => {
                view.first = false;
                let now = Instant::now();
                let (_, due) = match &place {
                    Some(place) => place,
                    None => match shared.keep.hold(&route.state, bytes) {
                        None => return later(route, 1),
                        Some(held) => {
                            let due = now + longest;
                            place = Some((held, due));
                            continue; // once more, now that new tables are heard of
                        }
                    },
                };
                if now >= *due || shared.is_over() {
                    return later(route, 2);
                }
                if wake {
                    shared.keep.wake(&route.state);
                }
                let Some(swapped) = &mut swapped else { continue };
                let pause = LOOK.min(due.saturating_duration_since(now));
                tokio::select! {
                    () = &mut gone => return Passed::Gone,
                    _ = swapped.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                view.now = Instant::now();
            }
        }
    }
}

/// A wait for containers that can take a request which nobody has got yet.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    place: Option<(super::keep::Held, Instant)>,
    over: bool,
}

impl Patience {
    /// Waits until the route may have containers again, or for a moment if it has some that took no connection. False
    /// when the app's time for that is over.
    pub(crate) async fn wait(
        &mut self,
        worker: &Worker,
        route: &mut Arc<Route>,
        host: &[u8],
        bytes: usize,
        begins: impl FnOnce(Instant),
    ) -> bool {
        const RETRY: Duration = Duration::from_millis(100);
        let shared = &worker.shared;
        if self.over || route.rules.hold.is_zero() {
            return false;
        }
        if self.place.is_none() {
            let Some(held) = shared.keep.hold(&route.state, bytes) else { return false };
            let due = Instant::now() + route.rules.hold;
            begins(due);
            self.place = Some((held, due));
        }
        let Some((_, due)) = &self.place else { return false };
        let mut swapped = shared.swaps.subscribe();
        loop {
            let now = Instant::now();
            if now >= *due || shared.is_over() {
                self.over = true;
                return false;
            }
            let is_empty = match shared.table.load().again(host, route) {
                Some(newer) => {
                    *route = newer.clone();
                    matches!(&newer.target, Target::Backends(backends) if backends.is_empty())
                }
                None => return false,
            };
            let left = due.saturating_duration_since(now);
            let pause = if is_empty { LOOK } else { RETRY }.min(left);
            let waited = tokio::time::timeout(pause, swapped.changed()).await;
            if !is_empty || waited.is_ok() && self.has_some(worker, route, host) {
                return true;
            }
        }
    }

    fn has_some(&self, worker: &Worker, route: &mut Arc<Route>, host: &[u8]) -> bool {
        let table = worker.shared.table.load();
        let Some(newer) = table.again(host, route) else { return true };
        *route = newer.clone();
        !matches!(&newer.target, Target::Backends(backends) if backends.is_empty())
    }
}

/// A wait for room at a container whose number of requests in flight is limited.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    place: Option<(super::keep::Queued, Instant)>,
}

impl Queue {
    /// Waits until a container may have room. False when the queue is full, or the time in it is over.
    pub(crate) async fn wait(&mut self, route: &Arc<Route>, begins: impl FnOnce(Instant)) -> bool {
        /// Of several that are told at once, one may hear for two.
        const LOOK: Duration = Duration::from_millis(100);
        let limits = &route.rules.limits;
        let now = Instant::now();
        match &self.place {
            None => {
                let Some(place) = route.state.queue(limits.queue) else { return false };
                let due = now + limits.queue_time;
                begins(due);
                self.place = Some((place, due));
                true // once more: from now on we are told
            }
            Some((_, due)) if now >= *due => false,
            Some((_, due)) => {
                let pause = LOOK.min(due.saturating_duration_since(now));
                let _ = tokio::time::timeout(pause, route.state.room()).await;
                true
            }
        }
    }
}
