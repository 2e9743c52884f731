//! One client's connection: requests one after the other until either side has enough.
//!
//! In: an accepted socket. Out: answers, and a line in the access log for each. While it waits for a request it holds no
//! buffer.

use crate::access_log::{self, Entry};
use crate::buffer::{Buf, Head};
use crate::exchange::{self, Job, Outcome, Trace};
use crate::exchange2;
use crate::fields::{self, HeadEnd};
use crate::front2::{self, Connection};
use crate::head::{self, Method, Origin, Refusal, Request};
use crate::io::{self, Heard, Progress, Socket, Timer};
use crate::pages::{self, Page};
use crate::policy::gate::{self, Passed};
use crate::policy::paths::Ambiguous;
use crate::policy::{self, Answer, View};
use crate::settings::MAX_HEAD;
use crate::static_files;
use crate::stats::{Account, Finished};
use crate::table::{Route, Target};
use crate::trace_context;
use crate::tunnel::{self, Moved};
use crate::upstream::Lease;
use crate::worker::Worker;
use berth_model::ports::AppProtocol;
use berth_model::route::AccessLogFormat;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Bytes read and thrown away from a client that is being sent away, at most.
const MAX_LINGER: usize = 1 << 20;

/// Where a certificate authority looks for an answer (RFC 8555 §8.3).
const ACME_CHALLENGE: &[u8] = b"/.well-known/acme-challenge/";

/// How a connection came.
#[derive(Debug)]
pub(crate) struct Front {
    /// The client.
    pub(crate) peer: SocketAddr,
    /// The port of ours it connected to.
    pub(crate) port: u16,
    /// That port, if it is none of the main ones.
    pub(crate) listener: Option<u16>,
    /// The name whose certificate it was presented; `None` without TLS.
    pub(crate) name: Option<Box<str>>,
    /// The version of TLS.
    pub(crate) tls: Option<&'static str>,
}

impl Front {
    pub(crate) fn scheme(&self) -> &'static str {
        if self.name.is_some() { "https" } else { "http" }
    }

    /// Hands a head's parser what the connection knows of where it came from.
    pub(crate) fn introduce<T>(
        &self,
        worker: &Worker,
        peer: &str,
        now: std::time::Duration,
        body_arrived: bool,
        parse: impl FnOnce(&Origin<'_>) -> T,
    ) -> T {
        let shared = &worker.shared;
        let id = worker.request_id();
        let trace = shared.new_traces().map(|sampled| trace_context::begin(&id, worker.random(), sampled));
        parse(&Origin {
            peer,
            port: self.port,
            scheme: self.scheme(),
            trusted: shared.settings.trust_forwarded || shared.trusts(self.peer.ip()),
            now_ms: io::micros(now) / 1000,
            id: &id,
            trace: trace.as_ref().map(<[u8; trace_context::LENGTH]>::as_slice),
            body_arrived,
        })
    }
}

/// A client: its connection, or one stream of it.
pub(crate) struct Client<S> {
    worker: Arc<Worker>,
    stream: S,
    peer: Arc<str>,
    front: Arc<Front>,
    input: Option<Buf>,
    timer: Timer,
    /// Ends an idle connection.
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// It has sent nothing yet.
    fresh: bool,
}

/// What comes after a request.
pub(crate) enum Next {
    Again,
    /// Close; the client may still be sending, and must get to read the answer.
    Linger,
    Close,
    Tunnel(Box<Tunnel>),
    /// The client began with the preface of HTTP/2 (RFC 9113 §3.4), which is still in the buffer.
    Http2,
}

/// An app's side of a WebSocket.
pub(crate) struct Tunnel {
    lease: Lease,
    app: TcpStream,
    early: Option<Buf>,
    account: Account,
}

/// What is answered whatever the routes say.
enum Ahead {
    Misdirected,
    /// A certificate authority gets its answer.
    Challenge(Box<str>),
}

/// What the gate must know beside the head.
struct Asked {
    /// Of the head as it came.
    bytes: usize,
    /// In memory.
    held: usize,
    https: Option<u16>,
}

/// What waiting for a request came to.
enum Arrival {
    /// A whole head of this length is in the buffer.
    Head(usize),
    Refused(Refusal),
    Closed,
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S: Socket + 'static>(worker: Arc<Worker>, stream: S, front: Front) {
    let due = Instant::now() + worker.shared.settings.idle;
    let stopped = Some(Box::pin(worker.stop.clone().cancelled_owned()));
    let peer = front.peer.ip().to_canonical().to_string().into();
    let timer = Timer::new(due);
    let front = Arc::new(front);
    let mut client = Client { worker, stream, peer, front, input: None, timer, stopped, fresh: true };
    loop {
        let next = match client.arrival().await {
            Arrival::Closed => Next::Close,
            Arrival::Refused(refusal) => Box::pin(client.refuse(refusal)).await,
            // Boxed, so that an idle connection does not pay for the states of a busy one.
            Arrival::Head(length) => Box::pin(client.turn(length)).await,
        };
        match next {
            Next::Again => {}
            Next::Close => return,
            Next::Linger => return Box::pin(client.linger()).await,
            Next::Tunnel(tunnel) => return Box::pin(client.tunnel(*tunnel)).await,
            Next::Http2 => {
                let Client { worker, stream, peer, front, input, .. } = client;
                let of = Connection { worker, socket: Arc::new(stream), peer, front };
                return Box::pin(front2::serve(of, input)).await;
            }
        }
    }
}

impl<S: Socket> Client<S> {
    /// One stream of a connection that carries many.
    pub(crate) fn of_stream(worker: Arc<Worker>, stream: S, peer: Arc<str>, front: Arc<Front>) -> Self {
        let timer = Timer::new(Instant::now() + worker.shared.settings.progress);
        Self { worker, stream, peer, front, input: None, timer, stopped: None, fresh: false }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    /// Waits for a request and reads its head.
    async fn arrival(&mut self) -> Arrival {
        let span = self.worker.shared.settings.header_read;
        let mut end = HeadEnd::default();
        let mut due = None;
        loop {
            match self.input.as_ref().map_or(&b""[..], Buf::data) {
                [] => {
                    self.input = None;
                    if !self.idle().await {
                        return Arrival::Closed;
                    }
                    // Read without waiting: the poller may have been wrong, and then the connection is still idle.
                    let mut buf = Buf::take();
                    let once = poll_fn(|cx| match self.stream.poll_read(cx, buf.space()) {
                        Poll::Pending => Poll::Ready(None),
                        Poll::Ready(result) => Poll::Ready(Some(result)),
                    });
                    match once.await {
                        None => {}
                        Some(Ok(count)) if count > 0 => {
                            buf.filled(count);
                            self.input = Some(buf);
                        }
                        Some(_) => return Arrival::Closed,
                    }
                    continue;
                }
                data => match end.find(data, true) {
                    Err(_) => return refused(400, "a line does not end in CR LF"),
                    Ok(Some(length)) if length <= MAX_HEAD => return Arrival::Head(length),
                    Ok(Some(_)) => return refused(431, "the head is larger than 64 KiB"),
                    Ok(None) if data.len() >= MAX_HEAD => {
                        let no_line = memchr::memchr(b'\n', data).is_none();
                        return refused(if no_line { 414 } else { 431 }, "the head is larger than 64 KiB");
                    }
                    Ok(None) => {}
                },
            }
            let due = *due.get_or_insert_with(|| Instant::now() + span);
            let buf = self.input.get_or_insert_with(Buf::take);
            buf.make_room(MAX_HEAD + 4096);
            let reading = io::read(&self.stream, buf.space());
            match self.timer.limit(due, span, reading).await {
                Some(Ok(count)) if count > 0 => buf.filled(count),
                Some(_) => return Arrival::Closed,
                None => return refused(408, "the head took too long"),
            }
        }
    }

    /// Waits until the client says something; false when there is no more to wait for.
    async fn idle(&mut self) -> bool {
        let span = self.worker.idle();
        let due = Instant::now() + span;
        let Self { worker, stream, timer, stopped, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(ready) = stream.poll_readable(cx) {
                return Poll::Ready(ready.is_ok());
            }
            // With a successor there is no hurry: the next request is answered as the last one, so that none is lost that
            // is on its way already.
            let told = stopped.as_mut().is_some_and(|stopped| stopped.as_mut().poll(cx).is_ready());
            if told && !worker.shared.gave_way() {
                return Poll::Ready(false);
            }
            timer.poll(cx, due, span).map(|()| false)
        })
        .await
    }

    /// Serves the request whose head is the first `length` bytes of the buffer.
    async fn turn(&mut self, length: usize) -> Next {
        let started = Instant::now();
        let now = access_log::unix_time();
        let Some(buf) = &mut self.input else { return Next::Close };
        let mut head = Head::take();
        let arrived = buf.data().len() > length;
        let parsed = self.front.introduce(&self.worker, &self.peer, now, arrived, |origin| {
            head::parse(&buf.data()[..length], origin, &mut head.0)
        });
        let request = match parsed {
            Ok(request) => request,
            Err(_) if self.fresh && front2::is_preface(&buf.data()[..length]) => return Next::Http2,
            Err(refusal) => return self.refuse(refusal).await,
        };
        buf.consume(length);
        self.fresh = false;
        self.respond(request, head, length, started, now).await
    }

    /// Serves a request whose head had `bytes` bytes, and the body of which is still to be read.
    pub(crate) async fn respond(
        &mut self,
        mut request: Request,
        mut head: Head,
        bytes: usize,
        started: Instant,
        now: std::time::Duration,
    ) -> Next {
        let settings = &self.worker.shared.settings;
        let (progress_span, linger) = (settings.progress, settings.linger);
        let https = match self.ahead_of_routes(&request, &head.0) {
            Ok(https) => https,
            Err(Ahead::Misdirected) => {
                return self.page(Page::MISDIRECTED, &request, &head.0).await;
            }
            Err(Ahead::Challenge(answer)) => {
                let close = self.closes_after(&request);
                head.0.clear();
                pages::text(&answer, request.method, close, &mut head.0);
                return self.answer_own(&head.0, close).await;
            }
        };
        let found = {
            let table = self.worker.shared.table.load();
            match table.find_at(self.front.listener, &head.0[request.host.clone()]) {
                None if table.known => {
                    self.worker.meter().unknown_hosts.add(1);
                    if request.streamed {
                        // Its neighbours on the connection go on.
                        return self.page(Page::MISDIRECTED, &request, &head.0).await;
                    }
                    return Next::Close; // no answer at all: nothing here is called that
                }
                found => found.cloned(),
            }
        };
        let mut trace = Trace::default();
        let Some(mut route) = found else {
            // Just started, without a table and without a controller to ask.
            return self.page(Page::UNAVAILABLE, &request, &head.0).await;
        };
        let received = self.input.as_ref().map_or(0, |buf| buf.data().len());
        let mut below = 0;
        if route.is_divided() {
            match route.below(&head.0[request.target.clone()]) {
                Ok(None) => {}
                Ok(Some((found, length))) => (route, below) = (found.clone(), length),
                Err(Ambiguous) => return self.page(Page::of(400), &request, &head.0).await,
            }
        }
        let account = route.stats.enter(self.worker.index);
        let mut began = started;
        if route.gate || https.is_some() {
            let asked = Asked { bytes, held: bytes + received, https };
            match Box::pin(self.gate(&mut route, &request, &head.0, asked)).await {
                Passed::On => began = Instant::now(), // what it waited is not what the app took
                Passed::Gone => {
                    self.log(&route, &account, &request, &head.0, &trace, true, started, now);
                    return Next::Close;
                }
                Passed::Answered(answer) => {
                    let next = self.own(&answer, &route, &request, &head.0, &mut trace).await;
                    self.log(&route, &account, &request, &head.0, &trace, false, started, now);
                    return next;
                }
            }
        }
        if let Some(prefix) = route.prefix.as_deref().filter(|_| route.strip) {
            head::strip(&mut request, below, prefix, &mut head.0);
        }
        let limits = &route.rules.limits;
        let idle = limits.idle.unwrap_or(progress_span);
        let progress = Progress::limited(began, idle, limits.response.unwrap_or(idle), limits.total);
        let secure = self.front.name.is_some();
        let outcome = match &route.target {
            Target::NoWeb => Some(Outcome::Fail(Page::BAD_GATEWAY)),
            Target::Missing => Some(Outcome::Fail(Page::of(404))),
            Target::Static(site) => {
                let stopping = self.worker.shared.is_stopping();
                let answering = static_files::answer(
                    site,
                    &self.stream,
                    &request,
                    &head.0,
                    stopping,
                    route.rules.fields(secure),
                    &progress,
                    &mut trace,
                );
                io::watch(&self.stream, &mut self.timer, &progress, linger, answering).await
            }
            Target::Backends(backends) => {
                let over_http2 =
                    backends.first().is_some_and(|backend| backend.name.protocol == AppProtocol::H2c);
                let Self { worker, stream, input, timer, .. } = &mut *self;
                let job = Job {
                    worker,
                    client: stream,
                    input,
                    request: &request,
                    head: &head.0,
                    secure,
                    route: &mut route,
                    progress: &progress,
                    trace: &mut trace,
                };
                if over_http2 {
                    let forwarding = Box::pin(exchange2::forward(job)); // boxed: others need not have its size
                    io::watch(stream, timer, &progress, linger, forwarding).await
                } else {
                    io::watch(stream, timer, &progress, linger, exchange::forward(job)).await
                }
            }
        };
        let outcome = outcome.unwrap_or_else(|| {
            let flag = |flag: &std::sync::atomic::AtomicBool| flag.load(Ordering::Relaxed);
            if flag(&progress.sent) && !flag(&progress.gone) && !flag(&progress.answering) {
                trace.judge(&route, false); // it had the request and time enough
            }
            match (flag(&progress.answering) || flag(&progress.gone), flag(&progress.sent)) {
                (true, _) => Outcome::Abort,
                (false, true) => Outcome::Fail(Page::TIMED_OUT),
                (false, false) => Outcome::Fail(Page::of(408)),
            }
        });
        let aborted = matches!(outcome, Outcome::Abort);
        let sent = progress.sent.load(Ordering::Relaxed);
        let mut tunnel = None;
        let next = match outcome {
            Outcome::Again => Next::Again,
            Outcome::Close if sent => Next::Close,
            Outcome::Close => Next::Linger,
            Outcome::Abort => {
                self.stream.cut();
                Next::Close
            }
            Outcome::Fail(page) => self.own(&page.into(), &route, &request, &head.0, &mut trace).await,
            Outcome::Tunnel { lease, stream, early } => {
                tunnel = Some((lease, stream, early));
                Next::Close
            }
        };
        self.log(&route, &account, &request, &head.0, &trace, aborted, started, now);
        match tunnel {
            Some((lease, app, early)) => Next::Tunnel(Box::new(Tunnel { lease, app, early, account })),
            None => next,
        }
    }

    /// Has policies decide about a request.
    async fn gate(&self, route: &mut Arc<Route>, request: &Request, head: &[u8], asked: Asked) -> Passed {
        let shared = &self.worker.shared;
        let peer = self.front.peer.ip().to_canonical();
        let (client, secure) = {
            let table = shared.table.load();
            // The head was written here: what it says was believed, or is our own.
            let client = policy::client(peer, &table.trusted, fields::of(head, "x-forwarded-for"));
            (client, fields::of(head, "x-forwarded-proto") == Some(b"https"))
        };
        let mut view = View {
            host: &head[request.host.clone()],
            target: &head[request.target.clone()],
            client,
            only_looks: matches!(request.method, Method::Get | Method::Head),
            secure,
            https: asked.https,
            head: asked.bytes,
            body: match request.framing {
                head::Framing::Length(length) => Some(length),
                _ => None,
            },
            field: &|name| fields::of(head, name),
            first: true,
            now: std::time::Instant::now(),
        };
        let gone = poll_fn(|cx| match self.stream.poll_heard(cx) {
            Poll::Ready(Heard::End | Heard::Broken) => Poll::Ready(()),
            _ => Poll::Pending, // what it sends meanwhile is the body, or the next request
        });
        gate::pass(&self.worker, route, &mut view, asked.held, gone).await
    }

    /// Answers for the app, with its own page for that if it has one.
    async fn own(
        &mut self,
        answer: &Answer,
        route: &Route,
        request: &Request,
        head: &[u8],
        trace: &mut Trace,
    ) -> Next {
        let lines = route.rules.fields(self.front.name.is_some());
        let page = match &answer.page {
            None => self.worker.shared.table.load().page(Some(route), answer.status),
            Some(page) => Some(page.clone()),
        };
        self.answer(&Answer { page, ..answer.clone() }, lines, request, head, trace).await
    }

    /// Answers in the app's place. The connection goes on if the request had no body that may be coming.
    async fn answer(
        &mut self,
        answer: &Answer,
        lines: &str,
        request: &Request,
        head: &[u8],
        trace: &mut Trace,
    ) -> Next {
        let close = self.closes_after(request);
        let html = memchr::memmem::find(head, b"text/html").is_some();
        let mut out = Head::take();
        pages::whole(answer, lines, request.method, close, html, &mut out.0);
        trace.status = answer.status;
        trace.sent = out.0.len() as u64;
        trace.head_sent = memchr::memmem::find(&out.0, b"\r\n\r\n").map_or(trace.sent, |end| end as u64 + 4);
        self.answer_own(&out.0, close).await
    }

    /// What is answered whatever the routes say; else the port where the host is served by TLS.
    fn ahead_of_routes(&self, request: &Request, head: &[u8]) -> Result<Option<u16>, Ahead> {
        let certificates = &self.worker.shared.certificates;
        match &self.front.name {
            Some(name) => {
                let host = &head[request.host.clone()];
                let fits = leads_here(name, host) || certificates.load().alike(name, host);
                if fits { Ok(None) } else { Err(Ahead::Misdirected) }
            }
            None => {
                let certificates = certificates.load();
                if let Some(token) = head[request.target.clone()].strip_prefix(ACME_CHALLENGE) {
                    let answer = std::str::from_utf8(token).ok().and_then(|token| certificates.token(token));
                    return answer.map_or(Ok(None), |answer| Err(Ahead::Challenge(answer.into())));
                }
                // Further ports have TLS of their own, or none.
                let main = self.worker.shared.https.filter(|_| self.front.listener.is_none());
                let Some(port) = main else { return Ok(None) };
                let host = std::str::from_utf8(&head[request.host.clone()]).unwrap_or_default();
                Ok(certificates.find(host).map(|_| port))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call; a log line has that many sources")]
    fn log(
        &self,
        route: &Route,
        account: &Account,
        request: &Request,
        head: &[u8],
        trace: &Trace,
        aborted: bool,
        started: Instant,
        now: std::time::Duration,
    ) {
        let total_us = io::micros(started.elapsed());
        let first_byte_us = trace.first_byte.map(|at| io::micros(at.saturating_duration_since(started)));
        account.finished(&Finished {
            safe: request.method.is_safe(),
            status: trace.status,
            received: trace.received,
            sent: trace.sent,
            total_us,
            first_us: first_byte_us,
            attempts: trace.attempts,
            connect_failures: trace.connect_failures,
            aborted,
        });
        let format = self.worker.shared.access_log_format();
        if format == AccessLogFormat::Off {
            return;
        }
        let container = trace.backend.as_ref().map(|backend| backend.name.container.as_str());
        let entry = Entry {
            app: route.app.as_str(),
            release: route.release.map(|release| release.0),
            container,
            client: &self.peer,
            method: &head[request.method_text.clone()],
            host: &head[request.host.clone()],
            path: &head[request.target.clone()],
            protocol: match request {
                Request { streamed: true, .. } => "HTTP/2",
                Request { old: true, .. } => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            scheme: self.front.scheme(),
            tls: self.front.tls,
            status: trace.status,
            received: trace.received,
            sent: trace.sent,
            head_sent: trace.head_sent,
            total_us,
            first_byte_us,
            connect_us: trace.connect.map(io::micros),
            attempts: trace.attempts,
            id: &head[request.id.clone()],
            trace: &head[request.trace.clone()],
            referer: &head[request.referer.clone()],
            agent: &head[request.agent.clone()],
            aborted,
        };
        self.worker.lines.add(format, &entry, now);
    }

    /// Answers with one of the proxy's own pages.
    async fn page(&mut self, page: Page, request: &Request, head: &[u8]) -> Next {
        self.answer(&page.into(), "", request, head, &mut Trace::default()).await
    }

    /// Whether the connection ends with an answer of the proxy's own.
    fn closes_after(&self, request: &Request) -> bool {
        let has_body = !matches!(request.framing, head::Framing::None | head::Framing::Length(0));
        has_body || !request.keep_alive || request.old || self.worker.shared.is_stopping()
    }

    async fn answer_own(&mut self, answer: &[u8], close: bool) -> Next {
        match self.write_own(answer).await {
            false => Next::Close,
            true if close => Next::Linger,
            true => Next::Again,
        }
    }

    pub(crate) async fn refuse(&mut self, refusal: Refusal) -> Next {
        tracing::debug!(client = %self.peer, status = refusal.status, reason = refusal.reason, "refused a request");
        self.worker.meter().refused(refusal.status, refusal.reason);
        let mut out = Head::take();
        Page::of(refusal.status).write(Method::Other, true, false, &mut out.0);
        if self.write_own(&out.0).await { Next::Linger } else { Next::Close }
    }

    async fn write_own(&mut self, bytes: &[u8]) -> bool {
        let span = self.worker.shared.settings.progress;
        let mut slices = [IoSlice::new(bytes)];
        let writing = io::write_all(&self.stream, &mut slices, |_| {});
        matches!(self.timer.limit(Instant::now() + span, span, writing).await, Some(Ok(())))
    }

    /// Ends a connection whose client may still be sending: closing with unread bytes would reset it, and the client
    /// might never see the answer (RFC 9112 §9.6).
    async fn linger(mut self) {
        if self.stream.shut().is_err() {
            return;
        }
        let span = self.worker.shared.settings.linger;
        let due = Instant::now() + span;
        let mut left = MAX_LINGER;
        let mut buf = self.input.take().unwrap_or_else(Buf::take);
        while left > 0 {
            buf.consume(buf.data().len());
            match self.timer.limit(due, span, io::read(&self.stream, buf.space())).await {
                Some(Ok(count)) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
        }
    }

    /// Copies both ways until both sides have ended or tunnels are ended.
    pub(crate) async fn tunnel(mut self, tunnel: Tunnel) {
        let Tunnel { lease, app, early, account } = tunnel;
        let _counted = self.worker.count_tunnel();
        let mut moved = Moved::default();
        tokio::select! {
            () = tunnel::run(&self.stream, &app, (self.input.take(), early), &mut moved) => {}
            () = self.worker.end_tunnels.cancelled() => {}
        }
        account.moved(moved.received, moved.sent);
        drop(lease);
    }
}

/// Whether `host`, its port aside, is the name a connection was made for.
fn leads_here(name: &str, host: &[u8]) -> bool {
    host.get(..name.len()).is_some_and(|same| same.eq_ignore_ascii_case(name.as_bytes()))
        && matches!(host.get(name.len()), None | Some(b':'))
}

/// Lets the kernel notice a dead peer: one that is silent for `after` is asked every quarter of that, three times.
pub(crate) fn keep_alive(stream: &TcpStream, after: Duration) {
    let probes = socket2::TcpKeepalive::new().with_time(after).with_interval(after / 4).with_retries(3);
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "cannot turn on TCP keep-alive");
    }
}

fn refused(status: u16, reason: &'static str) -> Arrival {
    Arrival::Refused(Refusal { status, reason })
}
