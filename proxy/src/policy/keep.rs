//! What outlives route tables: counts and memories of all apps, and of each.
//!
//! In: requests that wait, apps that sleep. Out: places to wait in, bounded in number and bytes, and one call to wake an
//! app however many ask for it.

use super::auth::Verified;
use super::rate::Limiter;
use crate::io;
use berth_model::AppName;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, mpsc};

/// Requests held at once, of one app and in all.
const HELD_OF_APP: usize = 1000;
const HELD: usize = 8192;
/// Bytes of them that are in memory.
const HELD_BYTES: usize = 64 << 20;

/// Apps to be woken, as they come.
pub(crate) type Wakes = mpsc::UnboundedReceiver<Arc<AppState>>;

/// Of all apps.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) limiter: Limiter,
    pub(crate) verified: Verified,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    numbers: AtomicU32,
    /// Apps to be woken; each is in here once at most.
    wakes: mpsc::UnboundedSender<Arc<AppState>>,
    woken: Mutex<Option<Wakes>>,
    epoch: Instant,
}

/// Of one app.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) app: AppName,
    /// Short for its name.
    pub(crate) number: u32,
    held: AtomicUsize,
    /// The controller is being told.
    waking: AtomicBool,
    /// Requests that wait for a container to have room.
    queued: AtomicUsize,
    room: Notify,
}

impl Keep {
    pub(crate) fn new() -> Self {
        let (wakes, woken) = mpsc::unbounded_channel();
        Self {
            limiter: Limiter::default(),
            verified: Verified::default(),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            numbers: AtomicU32::new(0),
            wakes,
            woken: Mutex::new(Some(woken)),
            epoch: Instant::now(),
        }
    }

    /// For the one who tells the controller.
    pub(crate) fn take_wakes(&self) -> Option<Wakes> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn app(&self, app: &AppName) -> AppState {
        AppState {
            app: app.clone(),
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            held: AtomicUsize::new(0),
            waking: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// A time as [`Limiter`] counts it.
    pub(crate) fn micros(&self, now: Instant) -> u64 {
        io::micros(now.saturating_duration_since(self.epoch))
    }

    /// Asks for the app to be woken, unless that was done and is not answered yet.
    pub(crate) fn wake(&self, state: &Arc<AppState>) {
        if !state.waking.swap(true, Ordering::AcqRel) && self.wakes.send(state.clone()).is_err() {
            state.woken(); // the proxy is stopping
        }
    }

    /// A place to wait in with `bytes`; `None` if there is none.
    pub(crate) fn hold(self: &Arc<Self>, state: &Arc<AppState>, bytes: usize) -> Option<Held> {
        let held = Held { keep: self.clone(), state: state.clone(), bytes };
        let of_app = state.held.fetch_add(1, Ordering::Relaxed);
        let all = self.held.fetch_add(1, Ordering::Relaxed);
        let in_memory = self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = of_app < HELD_OF_APP && all < HELD && in_memory + bytes <= HELD_BYTES;
        fits.then_some(held) // dropped, it counts down again
    }
}

/// A place of a request that waits.
#[derive(Debug)]
pub(crate) struct Held {
    keep: Arc<Keep>,
    state: Arc<AppState>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.held.fetch_sub(1, Ordering::Relaxed);
        self.keep.held.fetch_sub(1, Ordering::Relaxed);
        self.keep.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A place in the queue for room.
#[derive(Debug)]
pub(crate) struct Queued(Arc<AppState>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::SeqCst);
    }
}

impl AppState {
    /// The controller has answered, or will not.
    pub(crate) fn woken(&self) {
        self.waking.store(false, Ordering::Release);
    }

    /// A place in the queue, which has `length` of them.
    pub(crate) fn queue(self: &Arc<Self>, length: usize) -> Option<Queued> {
        let place = Queued(self.clone());
        let before = self.queued.fetch_add(1, Ordering::SeqCst);
        (before < length).then_some(place)
    }

    /// Resolves when a container may have got room.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    /// A container has got room for one more.
    pub(crate) fn freed(&self) {
        if self.queued.load(Ordering::SeqCst) > 0 {
            self.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let keep = Arc::new(Keep::new());
        let mut woken = keep.take_wakes().expect("not taken yet");
        let state = Arc::new(keep.app(&AppName::parse("a").expect("valid")));
        let places: Vec<_> = (0..HELD_OF_APP).filter_map(|_| keep.hold(&state, 100)).collect();
        assert_eq!(places.len(), HELD_OF_APP);
        assert!(keep.hold(&state, 1).is_none());
        drop(places);
        assert_eq!(state.held.load(Ordering::Relaxed), 0);
        assert!(keep.hold(&state, HELD_BYTES + 1).is_none());
        assert!(keep.hold(&state, HELD_BYTES).is_some());
        for _ in 0..3 {
            keep.wake(&state);
        }
        assert!(woken.recv().await.is_some());
        assert!(woken.try_recv().is_err(), "one call for all");
        state.woken();
        keep.wake(&state);
        assert!(woken.recv().await.is_some());
        let queued = state.queue(1);
        assert!(queued.is_some() && state.queue(1).is_none());
    }
}
