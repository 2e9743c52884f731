//! HTTP/2 to clients (RFC 9113): by prior knowledge on a plain connection, or where TLS agreed on it.
//!
//! In: a socket and what was read from it already. Out: one task for each stream, which serves its request exactly as a
//! connection of HTTP/1.1 does: [`Stream`](stream::Stream) is its socket. `guard` counts what costs us more than the
//! client; `request` is as strict about fields as `head`.

mod guard;
mod request;
mod stream;

pub(crate) use stream::Stream;

use crate::access_log;
use crate::buffer::{Buf, Head};
use crate::connection::{Client, Front, Next};
use crate::io::{Socket, Timer};
use crate::settings::MAX_HEAD;
use crate::worker::Worker;
use guard::Guarded;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use tokio::time::{Instant, timeout};

/// What a client that knows HTTP/2 says first (RFC 9113 §3.4), as far as it looks like a head.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// Requests of one connection at once.
const MAX_STREAMS: u32 = 100;
/// Bytes of one request's body that may be on the way: what one buffer of the exchange holds twice.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes of all bodies that may be on the way.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams reset by the client before they were looked at (CVE-2023-44487).
const MAX_RESET_UNSEEN: usize = 20;
/// Streams we had to reset for the client's mistakes (CVE-2025-8671).
const MAX_OUR_RESETS: usize = 100;

/// Whether `head` is how HTTP/2 begins.
pub(crate) fn is_preface(head: &[u8]) -> bool {
    head == PREFACE
}

/// A client's connection.
pub(crate) struct Connection<S> {
    pub(crate) worker: Arc<Worker>,
    pub(crate) socket: Arc<S>,
    pub(crate) peer: Arc<str>,
    pub(crate) front: Arc<Front>,
}

impl<S> Clone for Connection<S> {
    fn clone(&self) -> Self {
        let Self { worker, socket, peer, front } = self;
        Self { worker: worker.clone(), socket: socket.clone(), peer: peer.clone(), front: front.clone() }
    }
}

impl<S> Connection<S> {
    pub(crate) fn new(worker: Arc<Worker>, socket: S, front: Front) -> Self {
        let peer = front.peer.ip().to_canonical().to_string().into();
        Self { worker, socket: Arc::new(socket), peer, front: Arc::new(front) }
    }
}

/// Counts a stream until dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends. `input` is what was read from it.
pub(crate) async fn serve<S: Socket + 'static>(of: Connection<S>, input: Option<Buf>) {
    let settings = &of.worker.shared.settings;
    let (socket, credit) = Guarded::new(of.socket.clone(), input);
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buffer_size(STREAM_WINDOW as usize)
        .max_concurrent_reset_streams(MAX_OUR_RESETS)
        .max_pending_accept_reset_streams(MAX_RESET_UNSEEN)
        .max_local_error_reset_streams(Some(MAX_OUR_RESETS))
        .enable_connect_protocol();
    let Ok(Ok(mut h2)) = timeout(settings.header_read, builder.handshake(socket)).await else { return };
    let open = Arc::new(AtomicUsize::new(0));
    let (idle, linger) = (of.worker.idle(), settings.linger);
    let mut due = Instant::now() + idle;
    let mut span = idle;
    let mut timer = Timer::new(due);
    let mut ending = false;
    let mut stopped = pin!(of.worker.stop.cancelled());
    poll_fn(|cx| {
        loop {
            let accepted = h2.poll_accept(cx);
            if credit.is_spent() {
                tracing::debug!(client = %of.peer, "an HTTP/2 client sends too many control frames");
                of.worker.meter().refused(0, "too many HTTP/2 control frames");
                h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                credit.forgive(); // the connection ends as soon as that is written
                due = Instant::now() + linger;
                (span, ending) = (linger, true);
                continue;
            }
            match accepted {
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(client = %of.peer, %error, "an HTTP/2 connection broke");
                    return Poll::Ready(());
                }
                Poll::Ready(Some(Ok((request, respond)))) => {
                    open.fetch_add(1, Ordering::Relaxed);
                    let counted = Open(open.clone());
                    tokio::spawn(turn(of.clone(), request, respond, counted));
                    continue;
                }
                Poll::Pending => {}
            }
            if !ending && stopped.as_mut().poll(cx).is_ready() {
                h2.graceful_shutdown(); // streams go on to their end
                (span, ending) = (linger, true);
                due = Instant::now() + linger;
                continue;
            }
            if open.load(Ordering::Relaxed) > 0 {
                due = Instant::now() + span;
            }
            if timer.poll(cx, due, span).is_pending() {
                return Poll::Pending;
            }
            if ending {
                return Poll::Ready(()); // it does not close, though told
            }
            h2.graceful_shutdown();
            (span, ending) = (linger, true);
            due = Instant::now() + linger;
        }
    })
    .await;
}

/// Serves one request.
async fn turn<S: Socket + 'static>(
    of: Connection<S>,
    request: Request<RecvStream>,
    respond: SendResponse<bytes::Bytes>,
    _counted: Open,
) {
    let started = Instant::now();
    let now = access_log::unix_time();
    let (parts, body) = request.into_parts();
    let ended = body.is_end_stream();
    let Connection { worker, socket, peer, front } = of;
    let mut head = Head::take();
    let key = [worker.random(), worker.random()];
    let parsed = front.introduce(&worker, &peer, now, false, |origin| {
        request::compose(&parts, ended, origin, key, &mut head.0)
    });
    drop(parts);
    let stream = Stream::new(socket, body, respond, parsed.as_ref().ok());
    let mut client = Client::of_stream(worker.clone(), stream, peer.clone(), front);
    let next = match parsed {
        Ok(parsed) => {
            let bytes = head.0.len();
            Box::pin(client.respond(parsed, head, bytes, started, now)).await
        }
        Err(refusal) if refusal.status == 400 => {
            // Malformed: a stream error (RFC 9113 §8.1.1).
            tracing::debug!(client = %peer, reason = refusal.reason, "reset a malformed request");
            worker.meter().refused(400, refusal.reason);
            return client.stream().reset(Reason::PROTOCOL_ERROR);
        }
        Err(refusal) => client.refuse(refusal).await,
    };
    match next {
        Next::Tunnel(tunnel) => Box::pin(client.tunnel(*tunnel)).await,
        Next::Again | Next::Linger | Next::Close | Next::Http2 => client.stream().finish(),
    }
}
