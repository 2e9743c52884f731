//! One stream of HTTP/2 as a [`Socket`]: what is written to it is an answer of HTTP/1.1 whose body is not coded.
//!
//! In: heads and bodies as the exchange, the file server and the proxy's pages write them. Out: frames. Nothing is
//! buffered beyond what the client's windows take; what it sends is acknowledged as it is read.

use crate::head::{Method, Request};
use crate::io::{Heard, Socket};
use crate::settings::MAX_FIELDS;
use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use std::future::poll_fn;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

/// A client's stream.
pub(crate) struct Stream {
    socket: Arc<dyn Socket>,
    head_only: bool,
    ends_with_head: AtomicBool,
    /// Why it is cut, if it is.
    reason: AtomicU32,
    receiving: Mutex<Receiving>,
    sending: Mutex<Sending>,
}

struct Receiving {
    body: RecvStream,
    /// Came, and not read yet.
    pending: Bytes,
}

enum Sending {
    /// No final answer yet.
    Head(SendResponse<Bytes>),
    /// `left` bytes of the body are to come, if that is known.
    Body {
        stream: SendStream<Bytes>,
        left: Option<u64>,
    },
    Done,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // one task uses it
}

fn broken(error: h2::Error) -> Error {
    Error::new(ErrorKind::ConnectionReset, error)
}

impl Stream {
    /// `request` is what was asked, if that could be understood.
    pub(crate) fn new(
        socket: Arc<dyn Socket>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        request: Option<&Request>,
    ) -> Self {
        Self {
            socket,
            head_only: request.is_some_and(|request| request.method == Method::Head),
            ends_with_head: AtomicBool::new(false),
            reason: AtomicU32::new(Reason::INTERNAL_ERROR.into()),
            receiving: Mutex::new(Receiving { body, pending: Bytes::new() }),
            sending: Mutex::new(Sending::Head(respond)),
        }
    }

    /// Ends the stream with an error (RFC 9113 §5.4.2).
    pub(crate) fn reset(&self, reason: Reason) {
        match &mut *lock(&self.sending) {
            Sending::Head(respond) => respond.send_reset(reason),
            Sending::Body { stream, .. } => stream.send_reset(reason),
            Sending::Done => {}
        }
    }

    /// Waits for what the client sends behind its body.
    pub(crate) async fn trailers(&self) -> Result<Option<HeaderMap>> {
        poll_fn(|cx| lock(&self.receiving).body.poll_trailers(cx)).await.map_err(broken)
    }

    /// Ends the answer with trailers (RFC 9113 §8.1).
    pub(crate) fn send_trailers(&self, trailers: HeaderMap) {
        let mut sending = lock(&self.sending);
        if let Sending::Body { stream, .. } = &mut *sending {
            if stream.send_trailers(trailers).is_err() {
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
            *sending = Sending::Done;
        }
    }

    /// The head that is written next is the whole answer.
    pub(crate) fn end_with_head(&self) {
        self.ends_with_head.store(true, Ordering::Relaxed);
    }

    /// A cut answer ends with the reason the app gave.
    pub(crate) fn fail_with(&self, reason: Reason) {
        self.reason.store(reason.into(), Ordering::Relaxed);
    }

    /// The answer is complete.
    pub(crate) fn finish(&self) {
        let mut sending = lock(&self.sending);
        match &mut *sending {
            Sending::Body { stream, left: None } => {
                let _ = stream.send_data(Bytes::new(), true); // a client that is gone needs no end
            }
            Sending::Body { stream, .. } => stream.send_reset(Reason::INTERNAL_ERROR),
            Sending::Head(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Sending::Done => {}
        }
        *sending = Sending::Done;
    }

    /// Sends the head at the front of `bytes`. Returns its length and what to do next.
    fn send_head(&self, bytes: &[u8], mut respond: SendResponse<Bytes>) -> Result<(usize, Sending)> {
        let nonsense = || Error::new(ErrorKind::InvalidData, "an answer of our own that is no head");
        let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS + 16];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut storage) {
            Ok(httparse::Status::Complete(length)) => length,
            _ => return Err(nonsense()),
        };
        let switched = parsed.code == Some(101);
        let code = if switched { 200 } else { parsed.code.unwrap_or_default() };
        let status = StatusCode::from_u16(code).map_err(|_| nonsense())?;
        // One copy of the head; every value is a part of it.
        let shared = Bytes::copy_from_slice(&bytes[..length]);
        let mut fields = HeaderMap::with_capacity(parsed.headers.len());
        let mut left = None;
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| nonsense())?;
            if is_of_connection(&name) || (switched && name == "sec-websocket-accept") {
                continue;
            }
            let start = field.value.as_ptr().addr() - bytes.as_ptr().addr();
            let value = HeaderValue::from_maybe_shared(shared.slice(start..start + field.value.len()));
            if name == CONTENT_LENGTH {
                left = crate::fields::content_length(field.value);
            }
            fields.append(name, value.map_err(|_| nonsense())?);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        if status.is_informational() {
            respond.send_informational(response).map_err(broken)?;
            return Ok((length, Sending::Head(respond)));
        }
        if self.head_only || matches!(code, 204 | 304) || self.ends_with_head.load(Ordering::Relaxed) {
            left = Some(0);
        }
        let ended = left == Some(0) && !switched;
        let stream = respond.send_response(response, ended).map_err(broken)?;
        Ok((length, if ended { Sending::Done } else { Sending::Body { stream, left } }))
    }
}

/// Fields that HTTP/2 knows no use for (RFC 9113 §8.2.2).
fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

impl Receiving {
    /// Ready once something is pending, or nothing will be.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.pending.is_empty() {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.pending = data.map_err(broken)?,
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        lock(&self.receiving).poll_pending(cx)
    }

    fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize>> {
        let mut receiving = lock(&self.receiving);
        ready!(receiving.poll_pending(cx))?;
        let count = receiving.pending.len().min(into.len());
        into[..count].copy_from_slice(&receiving.pending[..count]);
        receiving.pending.advance(count);
        receiving.body.flow_control().release_capacity(count).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut *lock(&self.sending) {
            Sending::Body { stream, .. } => match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => Poll::Ready(Ok(())),
                Some(Err(error)) => Poll::Ready(Err(broken(error))),
                None => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            },
            Sending::Head(_) => Poll::Ready(Ok(())),
            Sending::Done => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn write_now(&self, slices: &[IoSlice<'_>]) -> Result<usize> {
        let mut sending = lock(&self.sending);
        let mut taken = 0;
        if matches!(*sending, Sending::Head(_))
            && let Sending::Head(respond) = std::mem::replace(&mut *sending, Sending::Done)
        {
            let first = slices.first().map_or(&b""[..], |slice| slice);
            (taken, *sending) = self.send_head(first, respond)?;
        }
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let Sending::Body { stream, left } = &mut *sending else {
            return if taken == all { Ok(taken) } else { Err(ErrorKind::BrokenPipe.into()) };
        };
        if taken == all {
            return Ok(taken);
        }
        stream.reserve_capacity(all - taken);
        let room = stream.capacity().min(all - taken);
        if room == 0 {
            return Ok(taken);
        }
        let mut data = Vec::with_capacity(room);
        let mut skip = taken;
        for slice in slices {
            let part = &slice[skip.min(slice.len())..];
            skip -= skip.min(slice.len());
            let fits = part.len().min(room - data.len());
            data.extend_from_slice(&part[..fits]);
        }
        let mut ended = false;
        if let Some(left) = left {
            *left = left.checked_sub(room as u64).ok_or(ErrorKind::InvalidData)?;
            ended = *left == 0;
        }
        stream.send_data(data.into(), ended).map_err(broken)?;
        if ended {
            *sending = Sending::Done;
        }
        Ok(taken + room)
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(())) // the connection's task writes
    }

    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        let reset = match &mut *lock(&self.sending) {
            Sending::Head(respond) => respond.poll_reset(cx),
            Sending::Body { stream, .. } => stream.poll_reset(cx),
            Sending::Done => return Poll::Pending,
        };
        reset.map(|_| Heard::Broken)
    }

    fn shut(&self) -> Result<()> {
        self.finish();
        Ok(())
    }

    fn cut(&self) {
        self.reset(self.reason.load(Ordering::Relaxed).into());
        *lock(&self.sending) = Sending::Done;
    }

    fn tcp(&self) -> &TcpStream {
        self.socket.tcp()
    }

    fn http2(&self) -> Option<&Self> {
        Some(self)
    }
}
