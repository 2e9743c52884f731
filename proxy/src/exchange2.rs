//! One request and its answer between a client and a container that speaks HTTP/2: streams, trailers and resets go both
//! ways, as gRPC wants them.
//!
//! In: a [`Job`] as for [`exchange`](crate::exchange), from a client of either version. Out: an [`Outcome`]. A client of
//! HTTP/1.1 gets no trailers.

use crate::buffer::{Buf, Head};
use crate::chunk::{Body, LAST_CHUNK, Wrapped};
use crate::exchange::{self, Fate, Job, Outcome, Stopped, Trace, body_of, both, release};
use crate::fields::{self, Kind};
use crate::head::{Method, Request};
use crate::io::{self, Progress, Socket};
use crate::pages::Page;
use crate::search::Search;
use crate::settings::MAX_FIELDS;
use crate::upstream2::{self, Ticket};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Uri, Version};
use std::future::poll_fn;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// Forwards one request.
pub(crate) async fn forward<S: Socket>(job: Job<'_, S>) -> Outcome {
    let Job { worker, client, input, request, head, secure, route, progress, trace } = job;
    if request.websocket {
        return Outcome::Fail(Page::of(501)); // no app was seen that takes one over HTTP/2
    }
    let Some(message) = message(head, request) else { return Outcome::Fail(Page::of(400)) };
    let mut body = body_of(request);
    let ended = body.is_done();
    let idempotent = request.method.is_idempotent();
    let most = route.rules.limits.body.unwrap_or(u64::MAX);
    let within = route.rules.limits.connect.unwrap_or(worker.shared.settings.connect);
    let held = head.len() + input.as_ref().map_or(0, |buf| buf.data().len());
    let mut search = Search::new(route, request, head, held);
    let mut fresh = false;
    loop {
        let lease = match search.lease(worker, route, progress, trace).await {
            Ok(lease) => lease,
            Err(page) => return Outcome::Fail(page),
        };
        let pooled = if fresh { None } else { lease.backend.http2.reuse(worker.index) };
        let connecting = match pooled {
            Some(ticket) => Ok(ticket),
            None => {
                let began = Instant::now();
                let made = upstream2::connect(&lease, worker.index, within).await;
                match &made {
                    Ok(_) => trace.connect = Some(began.elapsed()),
                    Err(_) => trace.connect_failures += 1,
                }
                worker.warm_up(&lease.backend);
                made
            }
        };
        let ticket = match connecting {
            Ok(ticket) => ticket,
            Err(error) => {
                search.unreachable(&lease, route, trace, &error);
                continue;
            }
        };
        let opened = open(&ticket, &message, ended).await;
        let (response, sending) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(app = %route.app, %error, "cannot open a stream");
                ticket.give_up();
                fresh = ticket.reused;
                if !ticket.reused {
                    search.failed(&lease, route, trace);
                }
                continue;
            }
        };
        let extra = search.extra_fields(route, &lease, secure);
        let mut own = Trace::default();
        let received = AtomicU64::new(0);
        let fate = {
            let down = answer(client, response, request, &extra, progress, &mut own);
            if ended {
                progress.sent.store(true, Ordering::Relaxed);
                Ok(down.await)
            } else {
                if request.expects_continue {
                    let line = &mut [IoSlice::new(b"HTTP/1.1 100 Continue\r\n\r\n")];
                    if io::write_all(client, line, |_| {}).await.is_err() {
                        return Outcome::Abort;
                    }
                }
                let up = upload(client, sending, input, &mut body, most, progress, &received);
                both(up, down, progress).await
            }
        };
        let received = received.into_inner();
        trace.received += received;
        (trace.status, trace.sent, trace.first_byte) = (own.status, own.sent, own.first_byte);
        let (fate, lost) = match fate {
            Ok(fate) => fate,
            Err(outcome) => return outcome,
        };
        match fate {
            Fate::Silent | Fate::Gone => {
                search.sent();
                let unprocessed = lost == Some(Reason::REFUSED_STREAM);
                if lost.is_none() {
                    ticket.give_up();
                }
                if !(ended && (unprocessed || (idempotent && lost.is_none()))) {
                    trace.judge(route, false);
                    return Outcome::Fail(Page::BAD_GATEWAY);
                }
                progress.sent.store(false, Ordering::Relaxed);
                fresh = ticket.reused;
                if !ticket.reused {
                    search.failed(&lease, route, trace);
                }
            }
            Fate::Broken(reason) => {
                trace.judge(route, false);
                tracing::debug!(app = %route.app, container = %lease.backend.name.container, reason, "bad answer");
                return Outcome::Fail(Page::BAD_GATEWAY);
            }
            Fate::Aborted | Fate::Switched { .. } => return Outcome::Abort,
            Fate::Done { close, .. } => {
                lease.backend.succeeded();
                trace.judge(route, !matches!(trace.status, 502..=504));
                let sent = progress.sent.load(Ordering::Relaxed);
                return if close || !sent { Outcome::Close } else { Outcome::Again };
            }
        }
    }
}

/// Waits for room and opens a stream.
async fn open(
    ticket: &Ticket,
    message: &Message,
    ended: bool,
) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
    let mut send = ticket.send.clone();
    poll_fn(|cx| send.poll_ready(cx)).await?;
    let mut request = http::Request::new(());
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = message.uri.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = message.fields.clone();
    send.send_request(request, ended)
}

/// A request as HTTP/2 sends it.
struct Message {
    method: http::Method,
    uri: Uri,
    fields: HeaderMap,
}

/// Reads the rewritten head. `None` for a host that may stand in `Host` and not in a URI.
fn message(head: &[u8], request: &Request) -> Option<Message> {
    let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS + 16];
    let mut parsed = httparse::Request::new(&mut []);
    parsed.parse_with_uninit_headers(head, &mut storage).ok()?;
    let shared = Bytes::copy_from_slice(head);
    let mut fields = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let kept = match fields::classify(field.name.as_bytes()) {
            Kind::Host | Kind::TransferEncoding | Kind::Connection | Kind::Upgrade | Kind::Expect => false,
            // Ours: nothing of the client's that is dropped is left in this head.
            _ => true,
        };
        if kept {
            let start = field.value.as_ptr().addr() - head.as_ptr().addr();
            let value =
                HeaderValue::from_maybe_shared(shared.slice(start..start + field.value.len())).ok()?;
            fields.append(HeaderName::from_bytes(field.name.as_bytes()).ok()?, value);
        }
    }
    fields.insert(TE, HeaderValue::from_static("trailers")); // gRPC asks for it (RFC 9110 §10.1.4)
    let uri = Uri::builder()
        .scheme("http")
        .authority(&head[request.host.clone()])
        .path_and_query(&head[request.target.clone()])
        .build()
        .ok()?;
    let method = http::Method::from_bytes(&head[request.method_text.clone()]).ok()?;
    Some(Message { method, uri, fields })
}

/// Sends what the client sends, then its trailers.
async fn upload<S: Socket>(
    client: &S,
    mut sending: SendStream<Bytes>,
    input: &mut Option<Buf>,
    body: &mut Body,
    most: u64,
    progress: &Progress,
    received: &AtomicU64,
) -> Result<(), Stopped> {
    while !body.is_done() {
        if input.as_ref().is_none_or(Buf::is_empty) {
            io::readable(client).await.map_err(|_| Stopped::Client)?;
            let buf = input.get_or_insert_with(Buf::take);
            match io::read(client, buf.space()).await {
                Ok(0) if matches!(body, Body::UntilClose) => {
                    *body = Body::none();
                    *input = None;
                    break;
                }
                Ok(0) | Err(_) => return Err(Stopped::Client),
                Ok(count) => buf.filled(count),
            }
            progress.touch();
        }
        let Some(buf) = input else { continue };
        let step = body.advance(buf.data_mut()).map_err(|_| Stopped::Malformed)?;
        if received.fetch_add(step.data as u64, Ordering::Relaxed) + step.data as u64 > most {
            return Err(Stopped::TooLarge);
        }
        let mut rest = &buf.data()[..step.data];
        while !rest.is_empty() {
            sending.reserve_capacity(rest.len());
            let room = match poll_fn(|cx| sending.poll_capacity(cx)).await {
                Some(Ok(room)) => room.min(rest.len()),
                _ => return Err(Stopped::App),
            };
            let (now, later) = rest.split_at(room);
            sending.send_data(Bytes::copy_from_slice(now), false).map_err(|_| Stopped::App)?;
            rest = later;
            progress.touch();
        }
        release(input, step.used);
    }
    let trailers = match client.http2() {
        Some(stream) => stream.trailers().await.map_err(|_| Stopped::Client)?,
        None => None,
    };
    match trailers {
        Some(trailers) => sending.send_trailers(trailers),
        None => sending.send_data(Bytes::new(), true),
    }
    .map_err(|_| Stopped::App)
}

/// Reads the answer of an app and passes it on. With [`Fate::Silent`] comes what the app gave as its reason.
async fn answer<S: Socket>(
    client: &S,
    response: ResponseFuture,
    request: &Request,
    extra: &str,
    progress: &Progress,
    trace: &mut Trace,
) -> (Fate, Option<Reason>) {
    let response = match response.await {
        Ok(response) => response,
        Err(error) => {
            let reason = error.reason().filter(|_| error.is_remote() && error.is_reset());
            let passed = reason.filter(|reason| *reason != Reason::REFUSED_STREAM);
            return match (passed, client.http2()) {
                (Some(reason), Some(stream)) => {
                    stream.fail_with(reason);
                    (Fate::Aborted, None)
                }
                _ => (Fate::Silent, reason),
            };
        }
    };
    trace.first_byte = Some(Instant::now());
    progress.touch();
    let (parts, body) = response.into_parts();
    let mut out = Head::take();
    let framed = head_of(&parts, &body, request, &mut out.0);
    exchange::add_fields(extra, &mut out.0);
    (relay(client, body, framed, out, parts.status.as_u16(), progress, trace).await, None)
}

/// How the client's answer is framed.
struct Framed {
    bodyless: bool,
    chunked: bool,
    closes: bool,
}

/// Writes the head for the client.
fn head_of(parts: &http::response::Parts, body: &RecvStream, request: &Request, out: &mut Vec<u8>) -> Framed {
    let status = parts.status.as_u16();
    let bodyless = status == 204 || status == 304 || request.method == Method::Head;
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| fields::content_length(value.as_bytes()));
    let length = length.or_else(|| (body.is_end_stream() && !request.streamed && !bodyless).then_some(0));
    let unsized_body = !bodyless && length.is_none();
    let chunked = unsized_body && !request.old && !request.streamed;
    let closes = !request.keep_alive || (unsized_body && request.old);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut line = |name: &[u8], value: &[u8]| {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    for (name, value) in &parts.headers {
        let name = name.as_str().as_bytes();
        if is_passed_on(name) || name == b"trailer" {
            line(name, value.as_bytes().trim_ascii());
        }
    }
    match length {
        Some(length) if status != 204 => {
            line(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
        _ if chunked => line(b"Transfer-Encoding", b"chunked"),
        _ => {}
    }
    if closes && !request.streamed {
        line(b"Connection", b"close");
    } else if request.old {
        line(b"Connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
    Framed { bodyless, chunked, closes }
}

/// As for answers of HTTP/1.1.
fn is_passed_on(name: &[u8]) -> bool {
    let kind = fields::classify(name);
    matches!(kind, Kind::Other | Kind::Referer | Kind::UserAgent | Kind::TraceParent | Kind::TraceState)
        || matches!(kind, Kind::RequestId | Kind::Expect)
}

/// Writes the head in `out` and the body and trailers that follow it.
async fn relay<S: Socket>(
    client: &S,
    mut body: RecvStream,
    framed: Framed,
    out: Head,
    status: u16,
    progress: &Progress,
    trace: &mut Trace,
) -> Fate {
    trace.status = status;
    progress.answering.store(true, Ordering::Relaxed);
    let mut moved = |count: usize| {
        trace.sent += count as u64;
        progress.touch();
    };
    if let Some(stream) = client.http2().filter(|_| body.is_end_stream()) {
        stream.end_with_head(); // an answer of gRPC that is all trailers must stay one
    }
    if io::write_all(client, &mut [IoSlice::new(&out.0)], &mut moved).await.is_err() {
        return Fate::Aborted;
    }
    drop(out);
    let done = Fate::Done { reusable: true, close: framed.closes };
    loop {
        match poll_fn(|cx| body.poll_data(cx)).await {
            Some(Ok(data)) if framed.bodyless => {
                let _ = body.flow_control().release_capacity(data.len()); // nobody asked for it
            }
            Some(Ok(data)) => {
                let wrapped = Wrapped::new(data.len(), framed.chunked, false);
                let mut parts = [wrapped.prefix(), &data[..], wrapped.suffix()].map(IoSlice::new);
                if !data.is_empty() && io::write_all(client, &mut parts, &mut moved).await.is_err() {
                    return Fate::Aborted;
                }
                if body.flow_control().release_capacity(data.len()).is_err() {
                    return Fate::Aborted;
                }
            }
            Some(Err(error)) => {
                let reason = error.reason().filter(|_| error.is_remote());
                if let (Some(reason), Some(stream)) = (reason, client.http2()) {
                    stream.fail_with(reason);
                }
                return Fate::Aborted;
            }
            None => break,
        }
    }
    let trailers = match body.trailers().await {
        Ok(trailers) => trailers,
        Err(_) => return Fate::Aborted,
    };
    match (client.http2(), trailers) {
        (Some(stream), Some(trailers)) => stream.send_trailers(trailers),
        (None, _) if framed.chunked => {
            let written = io::write_all(client, &mut [IoSlice::new(LAST_CHUNK)], &mut moved).await;
            return if written.is_ok() { done } else { Fate::Aborted };
        }
        _ => {}
    }
    done
}
