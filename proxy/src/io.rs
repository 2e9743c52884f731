//! Socket reads and writes by shared reference, and one lazy timer a connection.
//!
//! In: sockets, bytes, times. Out: bytes moved. Reading less than was asked for marks the socket as not readable, as
//! tokio's own `poll_read` does, so that waiting costs no extra system call.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Reads once; `Ok(0)` is the end of the stream.
pub(crate) fn poll_read(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read(into) {
            Ok(count) => {
                if count > 0 && count < into.len() {
                    let drained = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = stream.try_io(Interest::READABLE, drained);
                }
                return Poll::Ready(Ok(count));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Reads once; `Ok(0)` is the end of the stream.
pub(crate) async fn read(stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| poll_read(stream, cx, into)).await
}

/// Waits until there is something to read, or the end.
pub(crate) async fn readable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|cx| stream.poll_read_ready(cx)).await
}

/// Whether an idle connection that must be silent has something to say: its end, or what nobody asked for. Looks at the
/// socket itself, not at what the last poll knew.
pub(crate) fn has_spoken(stream: &TcpStream) -> bool {
    let mut byte = [0; 1];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    !matches!(rustix::net::recv(stream, &mut byte, flags), Err(rustix::io::Errno::AGAIN))
}

/// Writes what the socket takes now, without waiting.
pub(crate) fn write_now(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let result = match slices {
        [one] => stream.try_write(one),
        _ => stream.try_write_vectored(slices),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

/// Writes all of `slices`; `moved` hears of every part that went out.
pub(crate) async fn write_all(
    stream: &TcpStream,
    mut slices: &mut [IoSlice<'_>],
    mut moved: impl FnMut(usize),
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let count = write_now(stream, slices)?;
        if count == 0 {
            poll_fn(|cx| stream.poll_write_ready(cx)).await?;
            continue;
        }
        moved(count);
        IoSlice::advance_slices(&mut slices, count);
    }
    Ok(())
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
    span: Duration,
    due_us: AtomicU64,
    /// The whole request was read from the client and written to the app.
    pub(crate) sent: AtomicBool,
    /// The client got the first bytes of an answer.
    pub(crate) answering: AtomicBool,
    /// The client has shut its side, or its connection broke.
    pub(crate) gone: AtomicBool,
}

impl Progress {
    pub(crate) fn new(now: Instant, span: Duration) -> Self {
        let due_us = AtomicU64::new(micros(span));
        let flag = || AtomicBool::new(false);
        Self { epoch: now, span, due_us, sent: flag(), answering: flag(), gone: flag() }
    }

    /// Something moved: the time starts anew.
    pub(crate) fn touch(&self) {
        let now = micros(self.epoch.elapsed());
        self.due_us.store(now + micros(self.span), Ordering::Relaxed);
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
    client: &TcpStream,
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
        while listening && progress.sent.load(Ordering::Relaxed) {
            match client.poll_read_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(_) => {}
            }
            let mut byte = [0; 1];
            let peek = || {
                let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
                rustix::net::recv(client, &mut byte, flags).map_err(io::Error::from)
            };
            match client.try_io(Interest::READABLE, peek) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    progress.gone.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Ok((0, _)) => {
                    listening = false;
                    progress.gone.store(true, Ordering::Relaxed);
                    progress.shorten(linger);
                }
                Ok(_) => listening = false, // the next request, sent ahead
            }
        }
        timer.poll(cx, progress.due(), progress.span).map(|()| None)
    })
    .await
}
