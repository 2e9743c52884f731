//! Connections of HTTP/2 to apps that speak it without TLS: each carries many requests.
//!
//! In: a leased backend. Out: a [`Ticket`] for one stream. Like those of HTTP/1.1, connections belong to one life of one
//! container and to one thread.

use crate::settings::{MAX_HEAD, Settings};
use crate::upstream::{self, Lease};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::time::Instant;
use tokio::time::timeout;

/// How long an app may take nothing of what was sent. It carries requests of any length, so this is no less than an app may
/// be silent; a dead machine is noticed by it too.
const UNTAKEN: Duration = Duration::from_secs(60);
/// Streams at once on one connection, whatever the app allows.
const MAX_STREAMS: usize = 100;
/// Connections of one thread to one backend.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of one answer that may be on the way,
const STREAM_WINDOW: u32 = 128 * 1024;
/// and of all on one connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The connections to one backend, by thread.
#[derive(Debug)]
pub(crate) struct Pool {
    slots: Box<[Mutex<Vec<Open>>]>,
}

#[derive(Clone, Debug)]
struct Open {
    send: SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    used: Instant,
}

/// A connection with room for a stream, which is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) send: SendRequest<Bytes>,
    /// It carried a request before.
    pub(crate) reused: bool,
    streams: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Ticket {
    fn new(open: &Open, reused: bool) -> Self {
        open.streams.fetch_add(1, Ordering::Relaxed);
        let Open { send, streams, over, .. } = open.clone();
        Self { send, reused, streams, over }
    }

    /// Nothing new is to be sent on this connection.
    pub(crate) fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock(slot: &Mutex<Vec<Open>>) -> MutexGuard<'_, Vec<Open>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner) // a list of connections is right after any panic
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { slots: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// No further requests: each connection ends with its last stream.
    pub(crate) fn clear(&self) {
        self.slots.iter().for_each(|slot| lock(slot).clear());
    }

    /// Closes connections of `thread` that have been idle too long. True if some are left.
    pub(crate) fn sweep(&self, thread: usize, settings: &Settings) -> bool {
        let Some(slot) = self.slots.get(thread) else { return false };
        let mut slot = lock(slot);
        slot.retain(|open| {
            let busy = open.streams.load(Ordering::Relaxed) > 0;
            !open.over.load(Ordering::Relaxed) && (busy || open.used.elapsed() < settings.upstream_idle)
        });
        !slot.is_empty()
    }

    /// Room on a connection of `thread` that is there.
    pub(crate) fn reuse(&self, thread: usize) -> Option<Ticket> {
        let mut slot = lock(self.slots.get(thread)?);
        slot.retain(|open| !open.over.load(Ordering::Relaxed));
        let full = slot.len() >= MAX_CONNECTIONS;
        let has_room = |open: &&mut Open| {
            let most = open.send.current_max_send_streams().min(MAX_STREAMS);
            open.streams.load(Ordering::Relaxed) < most
        };
        let open = match slot.iter_mut().find(has_room) {
            Some(open) => open,
            // Its turn comes when a stream ends.
            None if full => slot.iter_mut().min_by_key(|open| open.streams.load(Ordering::Relaxed))?,
            None => return None,
        };
        open.used = Instant::now();
        Some(Ticket::new(open, true))
    }

    fn keep(&self, thread: usize, open: Open) {
        if let Some(slot) = self.slots.get(thread) {
            lock(slot).push(open);
        }
    }
}

/// A new connection of `thread` to the leased backend.
pub(crate) async fn connect(lease: &Lease, thread: usize, within: Duration) -> Result<Ticket> {
    let tcp = upstream::connect_within(lease, within).await?.stream;
    upstream::bound(&tcp, Some(UNTAKEN));
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buffer_size(STREAM_WINDOW as usize);
    let shaking = timeout(within, builder.handshake(tcp)).await;
    let (send, connection) = shaking.map_err(|_| Error::from(ErrorKind::TimedOut))?.map_err(Error::other)?;
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of HTTP/2 to an app broke");
        }
        ended.store(true, Ordering::Relaxed);
    });
    let open = Open { send, streams: Arc::default(), over, used: Instant::now() };
    let ticket = Ticket::new(&open, false);
    if !lease.backend.is_gone() {
        lease.backend.http2.keep(thread, open);
        if lease.backend.is_gone() {
            lease.backend.http2.clear(); // it left the table meanwhile
        }
    }
    Ok(ticket)
}
