//! Streams of bytes read and written by shared reference, and one lazy timer a connection.
//!
//! In: sockets, bytes, times. Out: bytes moved. [`Socket`] is what the data path knows of a client's connection, be it
//! plain TCP or TLS on it. Reading less than was asked for marks a TCP socket as not readable, as tokio's own
//! `poll_read` does, so that waiting costs no extra system call.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// What a silent client was found to be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It sent something, which is still to be read.
    Data,
    /// It has shut its sending side.
    End,
    /// The connection broke.
    Broken,
}

/// A connection whose two directions are used at once by one task.
pub(crate) trait Socket: Send + Sync {
    /// Ready when [`Self::poll_read`] has bytes, the end or an error; may be wrong.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Reads once; `Ok(0)` is the end of the stream.
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Ready when [`Self::write_now`] may take something.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Takes what fits now, without waiting; `Ok(0)` is "nothing now".
    fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ready when everything that was taken is with the kernel.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// What a client says that need not say anything, without taking it.
    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<Heard>;
    /// Says that nothing more will be written.
    fn shut(&self) -> io::Result<()>;
    /// What was being sent stays incomplete: the end that follows must not look like a proper one.
    fn cut(&self) {}
    /// The TCP connection below.
    fn tcp(&self) -> &TcpStream;
    /// The stream of HTTP/2 that this is, if it is one.
    fn http2(&self) -> Option<&crate::front2::Stream> {
        None
    }
}

impl Socket for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read(into) {
                Ok(count) => {
                    if count > 0 && count < into.len() {
                        let drained = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = self.try_io(Interest::READABLE, drained);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = match slices {
            [one] => self.try_write(one),
            _ => self.try_write_vectored(slices),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            if self.poll_read_ready(cx).is_pending() {
                return Poll::Pending;
            }
            let mut byte = [0; 1];
            let peek = || {
                let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
                rustix::net::recv(self, &mut byte, flags).map_err(io::Error::from)
            };
            match self.try_io(Interest::READABLE, peek) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Heard::Broken),
                Ok((0, _)) => return Poll::Ready(Heard::End),
                Ok(_) => return Poll::Ready(Heard::Data),
            }
        }
    }

    fn shut(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, rustix::net::Shutdown::Write)?)
    }

    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// Reads once; `Ok(0)` is the end of the stream.
pub(crate) async fn read(stream: &impl Socket, into: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| stream.poll_read(cx, into)).await
}

/// Waits until there is something to read, or the end.
pub(crate) async fn readable(stream: &impl Socket) -> io::Result<()> {
    poll_fn(|cx| stream.poll_readable(cx)).await
}

/// Whether an idle connection that must be silent has something to say: its end, or what nobody asked for. Looks at the
/// socket itself, not at what the last poll knew.
pub(crate) fn has_spoken(stream: &TcpStream) -> bool {
    let mut byte = [0; 1];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    !matches!(rustix::net::recv(stream, &mut byte, flags), Err(rustix::io::Errno::AGAIN))
}

/// Writes all of `slices`; `moved` hears of every part that went out.
pub(crate) async fn write_all(
    stream: &impl Socket,
    mut slices: &mut [IoSlice<'_>],
    mut moved: impl FnMut(usize),
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let count = stream.write_now(slices)?;
        if count == 0 {
            poll_fn(|cx| stream.poll_writable(cx)).await?;
            continue;
        }
        moved(count);
        IoSlice::advance_slices(&mut slices, count);
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}

/// A timer that is set anew only when it would fire too late: moving a deadline on costs nothing.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    pub(crate) fn new(due: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(due)) }
    }

    /// Ready once `due` has passed, up to a quarter of `span` (the whole time it stands for) late.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, due: Instant, span: Duration) -> Poll<()> {
        if self.sleep.deadline() > due + span / 4 {
            self.sleep.as_mut().reset(due);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }

    /// Runs `future` until `due` at most.
    pub(crate) async fn limit<T>(
        &mut self,
        due: Instant,
        span: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => self.poll(cx, due, span).map(|()| None),
        })
        .await
    }
}

/// What an exchange tells the one who watches over it.
#[derive(Debug)]
pub(crate) struct Progress {
    epoch: Instant,
    /// Between two movements once the answer has begun, and before.
    span: Duration,
    before: Duration,
    /// No later than this whatever moves, in microseconds.
    end_us: u64,
    /// How exact all that is.
    lax: Duration,
    due_us: AtomicU64,
    /// The request waits for an app that cannot take it yet.
    held: AtomicBool,
    /// The whole request was read from the client and written to the app.
    pub(crate) sent: AtomicBool,
    /// The client got the first bytes of an answer.
    pub(crate) answering: AtomicBool,
    /// The client has shut its side, or its connection broke.
    pub(crate) gone: AtomicBool,
}

impl Progress {
    /// `span` is between two movements once the answer has begun, `before` until then, `total` for everything.
    pub(crate) fn limited(now: Instant, span: Duration, before: Duration, total: Option<Duration>) -> Self {
        let end_us = total.map_or(u64::MAX, micros);
        let due_us = AtomicU64::new(micros(before).min(end_us));
        let lax = span.min(before).min(total.unwrap_or(span));
        let flag = || AtomicBool::new(false);
        Self {
            epoch: now,
            span,
            before,
            end_us,
            lax,
            due_us,
            held: flag(),
            sent: flag(),
            answering: flag(),
            gone: flag(),
        }
    }

    /// Nothing will move until `due`; the client is listened to meanwhile.
    pub(crate) fn hold(&self, due: Instant) {
        self.held.store(true, Ordering::Relaxed);
        let due = micros(due.saturating_duration_since(self.epoch)) + 1_000_000; // its own clock ends it first
        self.due_us.store(due.min(self.end_us), Ordering::Relaxed);
    }

    /// It goes on.
    pub(crate) fn resume(&self) {
        self.held.store(false, Ordering::Relaxed);
        self.touch();
    }

    /// Something moved: the time starts anew.
    pub(crate) fn touch(&self) {
        let now = micros(self.epoch.elapsed());
        let span = if self.answering.load(Ordering::Relaxed) { self.span } else { self.before };
        self.due_us.store((now + micros(span)).min(self.end_us), Ordering::Relaxed);
    }

    /// At most `span` is left from now.
    fn shorten(&self, span: Duration) {
        let due = micros(self.epoch.elapsed() + span);
        self.due_us.fetch_min(due, Ordering::Relaxed);
    }

    fn due(&self) -> Instant {
        self.epoch + Duration::from_micros(self.due_us.load(Ordering::Relaxed))
    }
}

/// A span in whole microseconds; half a million years are enough.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Runs an exchange until it ends, or nothing has moved for too long (`None`). A client that shuts its side while it
/// waits gets `linger` more: it may have closed, or only have said all it has to say.
pub(crate) async fn watch<T>(
    client: &impl Socket,
    timer: &mut Timer,
    progress: &Progress,
    linger: Duration,
    exchange: impl Future<Output = T>,
) -> Option<T> {
    let mut exchange = std::pin::pin!(exchange);
    let mut listening = true;
    poll_fn(|cx| {
        if let Poll::Ready(value) = exchange.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        // While the request is still being read, its reader sees the end.
        while listening && (progress.sent.load(Ordering::Relaxed) || progress.held.load(Ordering::Relaxed)) {
            match client.poll_heard(cx) {
                Poll::Pending => break,
                Poll::Ready(Heard::Broken) => {
                    progress.gone.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Poll::Ready(Heard::End) => {
                    listening = false;
                    progress.gone.store(true, Ordering::Relaxed);
                    progress.shorten(linger);
                }
                Poll::Ready(Heard::Data) => listening = false, // the next request, sent ahead
            }
        }
        timer.poll(cx, progress.due(), progress.lax).map(|()| None)
    })
    .await
}
