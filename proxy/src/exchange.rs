//! One request and its answer between a client and one of an app's containers: both bodies streamed at once.
//!
//! In: a parsed request with its rewritten head, what came behind it, and its route. Out: an [`Outcome`], and a
//! [`Trace`] for the log. At most one buffer is held for each direction, none while there is nothing to hold.

use crate::buffer::{Buf, Head};
use crate::chunk::{Body, LAST_CHUNK, Wrapped};
use crate::fields::{self, HeadEnd};
use crate::head::{Framing, Request};
use crate::io::{self, Progress, Socket};
use crate::pages::Page;
use crate::reply::{self, Reply};
use crate::search::Search;
use crate::settings::MAX_HEAD;
use crate::table::Route;
use crate::upstream::{self, Backend, Connection, Lease};
use crate::worker::Worker;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Interim answers passed on for one request.
const MAX_INTERIM: u32 = 16;
/// Bodies up to this size are copied behind the head and written in one piece: cheaper than a vectored write.
const COPY: usize = 4096;

/// What the log says of a request.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) status: u16,
    /// Bytes of the request's body.
    pub(crate) received: u64,
    /// Bytes of the answer, its head included.
    pub(crate) sent: u64,
    /// Bytes of the answer's head.
    pub(crate) head_sent: u64,
    pub(crate) first_byte: Option<Instant>,
    /// What connecting to the app took, if that was needed.
    pub(crate) connect: Option<Duration>,
    pub(crate) attempts: u32,
    pub(crate) connect_failures: u32,
    pub(crate) backend: Option<Arc<Backend>>,
}

impl Trace {
    /// Tells the circuit breaker of the container, if it has one, how it did, and counts that where it is asked for.
    pub(crate) fn judge(&self, route: &Route, well: bool) {
        let balance = &route.rules.balance;
        let Some(backend) = &self.backend else { return };
        if let Some(circuit) = &balance.circuit {
            backend.judged(well, circuit);
        }
        if balance.counted {
            backend.count(well && self.status < 500);
        }
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer is complete; the client's connection can carry another request.
    Again,
    /// The answer is complete; the connection ends.
    Close,
    /// The answer was cut: the connection must be cut too.
    Abort,
    /// Nothing was answered: the caller does, with this.
    Fail(Page),
    /// A WebSocket: bytes go both ways from here on.
    Tunnel { lease: Lease, stream: TcpStream, early: Option<Buf> },
}

/// Everything one exchange needs.
pub(crate) struct Job<'a, S> {
    pub(crate) worker: &'a Worker,
    pub(crate) client: &'a S,
    /// What the client sent behind the head; afterwards, what it sent behind the request.
    pub(crate) input: &'a mut Option<Buf>,
    pub(crate) request: &'a Request,
    /// The rewritten head.
    pub(crate) head: &'a [u8],
    /// The client's connection is TLS.
    pub(crate) secure: bool,
    pub(crate) route: &'a mut Arc<Route>,
    pub(crate) progress: &'a Progress,
    pub(crate) trace: &'a mut Trace,
}

/// How the answer's side ended.
pub(crate) enum Fate {
    /// The app closed the connection without a byte.
    Silent,
    /// There was no byte, and its machine gives no sign of life.
    Gone,
    /// The app's answer makes no sense; the client has got nothing.
    Broken(&'static str),
    Aborted,
    Done {
        reusable: bool,
        close: bool,
    },
    Switched {
        early: Option<Buf>,
    },
}

/// How the request's side ended early.
pub(crate) enum Stopped {
    /// The client went away.
    Client,
    /// The client's chunks make no sense.
    Malformed,
    /// There is more of it than the app is to get.
    TooLarge,
    /// The app takes no more; it may still answer.
    App,
}

/// The body that follows a request's head.
pub(crate) fn body_of(request: &Request) -> Body {
    match request.framing {
        Framing::None => Body::none(),
        Framing::Length(length) => Body::Length(length),
        Framing::Chunked if request.streamed => Body::UntilClose,
        Framing::Chunked => Body::chunked(),
    }
}

/// Forwards one request.
pub(crate) async fn forward<S: Socket>(job: Job<'_, S>) -> Outcome {
    let Job { worker, client, input, request, head, secure, route, progress, trace } = job;
    let chunked = request.framing == Framing::Chunked;
    let mut body = body_of(request);
    // What came with the head already; it stays in the buffer until the app has begun to answer, to be sent again.
    let (mut used, mut first) = (0, 0);
    if let Some(buf) = input.as_mut().filter(|buf| !body.is_done() && !buf.is_empty()) {
        match body.advance(buf.data_mut()) {
            Ok(step) => (used, first) = (step.used, step.data),
            Err(_) => return Outcome::Fail(Page::of(400)),
        }
    }
    trace.received = first as u64;
    let most = route.rules.limits.body.unwrap_or(u64::MAX);
    if trace.received > most {
        return Outcome::Fail(Page::of(413));
    }
    let complete = body.is_done();
    let wrapped = Wrapped::new(first, chunked, complete);
    if used == 0 && input.as_ref().is_some_and(Buf::is_empty) {
        *input = None;
    }
    let idempotent = request.method.is_idempotent();
    let mut fresh = false;
    let long = match request.framing {
        Framing::None => false,
        Framing::Length(length) => length > upstream::CONFIRMED_UNREAD,
        Framing::Chunked => true,
    };
    let within = route.rules.limits.connect.unwrap_or(worker.shared.settings.connect);
    let mut search = Search::new(route, request, head, head.len() + used);
    loop {
        let lease = match search.lease(worker, route, progress, trace).await {
            Ok(lease) => lease,
            Err(page) => return Outcome::Fail(page),
        };
        let pooled = if fresh { None } else { upstream::reuse(&lease, worker.index, !idempotent) };
        let mut connection = match pooled {
            Some(connection) => connection,
            None => match connect(&lease, within, trace).await {
                Ok(connection) => connection,
                Err(error) => {
                    search.unreachable(&lease, route, trace, &error);
                    continue;
                }
            },
        };
        connection.send_long(long);
        let extra = search.extra_fields(route, &lease, secure);
        let data = input.as_ref().map_or(&b""[..], |buf| &buf.data()[..first]);
        let slices = [head, wrapped.prefix(), data, wrapped.suffix()].map(IoSlice::new);
        let count = if first == 0 && wrapped.suffix().is_empty() { 1 } else { slices.len() };
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = connection.stream.write_now(&slices[..count]);
        progress.touch();
        let fate = match written {
            Err(_) => None, // not a byte of it went out
            Ok(written) if written == total && complete => {
                progress.sent.store(true, Ordering::Relaxed);
                if !idempotent {
                    release(input, used);
                    (used, first) = (0, 0);
                }
                Some(answer(worker, client, &connection.stream, request, &extra, progress, trace).await)
            }
            Ok(written) => {
                let Trace { received, .. } = &mut *trace;
                let mut moved = 0;
                let up =
                    Upload { client, app: &connection.stream, chunked, progress, most: most - *received };
                let mut part = Part { head, wrapped: &wrapped, first, used, written };
                let ended = {
                    let mut own = Trace::default();
                    let fate = both(
                        up.run(&mut part, input, &mut body, &mut moved),
                        answer(worker, client, &connection.stream, request, &extra, progress, &mut own),
                        progress,
                    )
                    .await;
                    (fate, own)
                };
                *received += moved;
                let (fate, own) = ended;
                (trace.status, trace.sent, trace.first_byte) = (own.status, own.sent, own.first_byte);
                trace.head_sent = own.head_sent;
                match fate {
                    Ok(Fate::Silent | Fate::Gone) => {
                        trace.judge(route, false);
                        return Outcome::Fail(Page::BAD_GATEWAY);
                    }
                    Ok(fate) => Some(fate),
                    Err(failed) => return failed,
                }
            }
        };
        match fate {
            None | Some(Fate::Silent | Fate::Gone) => {
                // Unsent, or nothing came back: once more if that does no harm.
                let mut again = fate.is_none() || (idempotent && complete);
                progress.sent.store(false, Ordering::Relaxed);
                if fate.is_some() {
                    search.sent();
                }
                let gone = matches!(fate, Some(Fate::Gone));
                // The app may have closed a connection that idled; a new one is worth a try then.
                if connection.reused && !gone {
                    fresh = true;
                } else {
                    search.failed(&lease, route, trace);
                }
                // Who waited that long for a machine need not wait for it again.
                again &= !gone || search.has_others(route);
                if !again {
                    return Outcome::Fail(Page::BAD_GATEWAY);
                }
            }
            Some(Fate::Broken(reason)) => {
                trace.judge(route, false);
                tracing::debug!(app = %route.app, container = %lease.backend.name.container, reason, "bad answer");
                return Outcome::Fail(Page::BAD_GATEWAY);
            }
            Some(Fate::Aborted) => return Outcome::Abort,
            Some(Fate::Switched { early }) => {
                lease.backend.succeeded();
                return Outcome::Tunnel { lease, stream: connection.stream, early };
            }
            Some(Fate::Done { reusable, close }) => {
                release(input, used);
                lease.backend.succeeded();
                trace.judge(route, !matches!(trace.status, 502..=504));
                let sent = progress.sent.load(Ordering::Relaxed);
                if reusable && sent {
                    connection.reused = true;
                    worker.keep(&lease, connection);
                }
                return if close || !sent { Outcome::Close } else { Outcome::Again };
            }
        }
    }
}

/// A new connection to the leased backend.
async fn connect(lease: &Lease, within: Duration, trace: &mut Trace) -> std::io::Result<Connection> {
    let began = Instant::now();
    let connected = upstream::connect_within(lease, within).await;
    match &connected {
        Ok(_) => trace.connect = Some(began.elapsed()),
        Err(_) => trace.connect_failures += 1,
    }
    connected
}

/// Marks `used` bytes as done with, and gives the buffer back if nothing else is in it.
pub(crate) fn release(input: &mut Option<Buf>, used: usize) {
    if let Some(buf) = input {
        buf.consume(used);
        if buf.is_empty() {
            *input = None;
        }
    }
}

/// Runs both directions until the answer is complete. `Err` is what to do when the client spoiled it.
pub(crate) async fn both<T>(
    up: impl Future<Output = Result<(), Stopped>>,
    down: impl Future<Output = T>,
    progress: &Progress,
) -> Result<T, Outcome> {
    let mut up = pin!(up);
    let mut down = pin!(down);
    let mut uploading = true;
    poll_fn(|cx| {
        if uploading && let Poll::Ready(ended) = up.as_mut().poll(cx) {
            uploading = false;
            let answering = progress.answering.load(Ordering::Relaxed);
            match ended {
                Ok(()) => progress.sent.store(true, Ordering::Relaxed),
                Err(Stopped::App) => {}
                Err(Stopped::Malformed) if !answering => {
                    return Poll::Ready(Err(Outcome::Fail(Page::of(400))));
                }
                Err(Stopped::TooLarge) if !answering => {
                    return Poll::Ready(Err(Outcome::Fail(Page::of(413))));
                }
                Err(Stopped::Client | Stopped::Malformed | Stopped::TooLarge) => {
                    return Poll::Ready(Err(Outcome::Abort));
                }
            }
        }
        down.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// The first part of a request: its head and what came with it.
struct Part<'a> {
    head: &'a [u8],
    wrapped: &'a Wrapped,
    first: usize,
    used: usize,
    /// Bytes of it that are out already.
    written: usize,
}

struct Upload<'a, S> {
    client: &'a S,
    app: &'a TcpStream,
    chunked: bool,
    progress: &'a Progress,
    /// Bytes of the body that may follow.
    most: u64,
}

impl<S: Socket> Upload<'_, S> {
    /// Writes the rest of the first part, then reads and writes until the request is complete.
    async fn run(
        self,
        part: &mut Part<'_>,
        input: &mut Option<Buf>,
        body: &mut Body,
        received: &mut u64,
    ) -> Result<(), Stopped> {
        let Self { client, app, chunked, progress, most } = self;
        {
            let data = input.as_ref().map_or(&b""[..], |buf| &buf.data()[..part.first]);
            let mut slices =
                [part.head, part.wrapped.prefix(), data, part.wrapped.suffix()].map(IoSlice::new);
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, part.written);
            io::write_all(app, rest, |_| progress.touch()).await.map_err(|_| Stopped::App)?;
        }
        release(input, part.used);
        while !body.is_done() {
            io::readable(client).await.map_err(|_| Stopped::Client)?;
            let buf = input.get_or_insert_with(Buf::take);
            match io::read(client, buf.space()).await {
                Ok(0) if matches!(body, Body::UntilClose) => {
                    *body = Body::none();
                    *input = None;
                    let last = &mut [IoSlice::new(LAST_CHUNK)];
                    return io::write_all(app, last, |_| progress.touch()).await.map_err(|_| Stopped::App);
                }
                Ok(0) | Err(_) => return Err(Stopped::Client),
                Ok(count) => buf.filled(count),
            }
            progress.touch();
            let step = body.advance(buf.data_mut()).map_err(|_| Stopped::Malformed)?;
            *received += step.data as u64;
            if *received > most {
                return Err(Stopped::TooLarge);
            }
            let wrapped = Wrapped::new(step.data, chunked, step.done);
            let mut slices = [wrapped.prefix(), &buf.data()[..step.data], wrapped.suffix()].map(IoSlice::new);
            io::write_all(app, &mut slices, |_| progress.touch()).await.map_err(|_| Stopped::App)?;
            release(input, step.used);
        }
        Ok(())
    }
}

/// Reads the answer of an app and passes it on.
async fn answer(
    worker: &Worker,
    client: &impl Socket,
    app: &TcpStream,
    request: &Request,
    extra: &str,
    progress: &Progress,
    trace: &mut Trace,
) -> Fate {
    let mut out = Head::take();
    let mut input = None;
    let reply =
        match head_of_answer(worker, client, app, request, progress, trace, &mut out, &mut input).await {
            Ok(reply) => reply,
            Err(fate) => return fate,
        };
    add_fields(extra, &mut out.0);
    relay(client, app, reply, progress, trace, out, input).await
}

/// Puts the lines of `extra` behind the fields of the whole head `out`.
pub(crate) fn add_fields(extra: &str, out: &mut Vec<u8>) {
    if extra.is_empty() {
        return;
    }
    out.truncate(out.len() - 2); // the empty line
    for line in extra.split_inclusive("\r\n") {
        // What the app says itself about TLS goes before what the platform would.
        let hsts = line.starts_with("Strict-") && fields::of(out, "strict-transport-security").is_some();
        if !hsts {
            out.extend_from_slice(line.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads until the head of the final answer is complete, passing interim ones on.
#[expect(clippy::too_many_arguments, reason = "one call; the state of an exchange has that many parts")]
async fn head_of_answer(
    worker: &Worker,
    client: &impl Socket,
    app: &TcpStream,
    request: &Request,
    progress: &Progress,
    trace: &mut Trace,
    out: &mut Head,
    input: &mut Option<Buf>,
) -> Result<Reply, Fate> {
    let mut end = HeadEnd::default();
    let mut interims = 0;
    loop {
        if let Some(buf) = input.as_mut().filter(|buf| !buf.is_empty()) {
            let found = end.find(buf.data(), false).map_err(|_| Fate::Broken("malformed answer"))?;
            if let Some(length) = found.filter(|length| *length <= MAX_HEAD) {
                let close = worker.shared.is_stopping() || !progress.sent.load(Ordering::Relaxed);
                let reply = reply::parse(&buf.data()[..length], request, close, &mut out.0);
                let reply = reply.map_err(|bad| Fate::Broken(bad.0))?;
                buf.consume(length);
                end = HeadEnd::default();
                if !reply.is_interim() {
                    return Ok(reply);
                }
                interims += 1;
                if interims > MAX_INTERIM {
                    return Err(Fate::Broken("too many interim answers"));
                }
                if !request.old && (reply.status != 100 || request.expects_continue) {
                    let mut slices = [IoSlice::new(&out.0)];
                    let written = io::write_all(client, &mut slices, |_| progress.touch()).await;
                    written.map_err(|_| Fate::Aborted)?;
                }
                out.0.clear();
                continue;
            }
            if buf.data().len() >= MAX_HEAD {
                return Err(Fate::Broken("the head of the answer is too large"));
            }
        }
        let silent = trace.first_byte.is_none();
        let lost = |error: Option<std::io::Error>| match error.map(|error| error.kind()) {
            _ if !silent => Fate::Broken("the answer ended within its head"),
            Some(ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
                Fate::Gone
            }
            _ => Fate::Silent,
        };
        io::readable(app).await.map_err(|error| lost(Some(error)))?;
        let buf = input.get_or_insert_with(Buf::take);
        buf.make_room(MAX_HEAD + 1);
        match io::read(app, buf.space()).await {
            Ok(0) => return Err(lost(None)),
            Err(error) => return Err(lost(Some(error))),
            Ok(count) => buf.filled(count),
        }
        if silent {
            trace.first_byte = Some(Instant::now());
        }
        progress.touch();
    }
}

/// Writes the head in `out` and the body that follows it.
async fn relay(
    client: &impl Socket,
    app: &TcpStream,
    mut reply: Reply,
    progress: &Progress,
    trace: &mut Trace,
    mut out: Head,
    mut input: Option<Buf>,
) -> Fate {
    trace.status = reply.status;
    trace.head_sent = out.0.len() as u64;
    let mut first = true;
    loop {
        let (mut used, mut data) = (0, 0);
        if let Some(buf) = input.as_mut().filter(|buf| !reply.body.is_done() && !buf.is_empty()) {
            match reply.body.advance(buf.data_mut()) {
                Ok(step) => (used, data) = (step.used, step.data),
                Err(bad) if first => return Fate::Broken(bad.0),
                Err(_) => return Fate::Aborted,
            }
        }
        let done = reply.body.is_done() && reply.status != 101;
        let bytes = input.as_ref().map_or(&b""[..], |buf| &buf.data()[..data]);
        let wrapped = Wrapped::new(data, reply.chunked, done);
        progress.answering.store(true, Ordering::Relaxed);
        let moved = |count: usize| {
            trace.sent += count as u64;
            progress.touch();
        };
        let parts = [wrapped.prefix(), bytes, wrapped.suffix()];
        let written = if first && data <= COPY {
            parts.iter().for_each(|part| out.0.extend_from_slice(part));
            io::write_all(client, &mut [IoSlice::new(&out.0)], moved).await
        } else if first {
            let [prefix, bytes, suffix] = parts;
            io::write_all(client, &mut [&out.0, prefix, bytes, suffix].map(IoSlice::new), moved).await
        } else if reply.chunked {
            io::write_all(client, &mut parts.map(IoSlice::new), moved).await
        } else {
            io::write_all(client, &mut [IoSlice::new(bytes)], moved).await
        };
        if written.is_err() {
            return Fate::Aborted;
        }
        if std::mem::take(&mut first) {
            out = Head::default();
        }
        release(&mut input, used);
        if reply.status == 101 {
            return Fate::Switched { early: input };
        }
        if done {
            return Fate::Done { reusable: reply.reusable && input.is_none(), close: reply.closes };
        }
        if io::readable(app).await.is_err() {
            return Fate::Aborted;
        }
        let buf = input.get_or_insert_with(Buf::take);
        match io::read(app, buf.space()).await {
            Ok(0) if matches!(reply.body, Body::UntilClose) => {
                let last = if reply.chunked { LAST_CHUNK } else { b"" };
                let written = io::write_all(client, &mut [IoSlice::new(last)], |_| {}).await;
                return match written {
                    Ok(()) => Fate::Done { reusable: false, close: reply.closes },
                    Err(_) => Fate::Aborted,
                };
            }
            Ok(0) | Err(_) => return Fate::Aborted,
            Ok(count) => buf.filled(count),
        }
        progress.touch();
    }
}
