//! Input, output and control of one process in a container.
//!
//! In: bytes, sizes, signals. Out: bytes, an exit code.

use super::RuntimeError;
use super::control::Control;
use super::handle::ask;
use super::sys;
use super::watch::{Ending, exit_of, wait_for};
use berth_model::container::Exit;
use berth_shim::protocol::{Reply, Request};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One process's input and output. Take it apart freely: each part works alone.
#[derive(Debug)]
pub struct Session {
    /// Its input; drop it (or shut it down) to end it. `None` once taken.
    pub stdin: Option<Stream>,
    /// Its output, or all that its terminal shows.
    pub stdout: Stream,
    /// Its error output; `None` with a terminal.
    pub stderr: Option<Stream>,
    /// Size, signals, end.
    pub control: SessionControl,
}

impl Session {
    /// Takes three pipes (stdin, stdout, stderr) or the master of a terminal.
    pub(super) fn new(fds: Vec<OwnedFd>, control: SessionControl) -> io::Result<Self> {
        let mut fds = fds.into_iter();
        let wrong = || io::Error::other("the shim sent the wrong number of descriptors");
        match (fds.next(), fds.next(), fds.next()) {
            (Some(master), None, None) => Ok(Self {
                stdin: Some(Stream::new(master.try_clone()?)?),
                stdout: Stream::new(master)?,
                stderr: None,
                control,
            }),
            (Some(stdin), Some(stdout), Some(stderr)) => Ok(Self {
                stdin: Some(Stream::new(stdin)?),
                stdout: Stream::new(stdout)?,
                stderr: Some(Stream::new(stderr)?),
                control,
            }),
            _ => Err(wrong()),
        }
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        self.control.resize(rows, cols).await
    }

    /// Sends it a signal.
    pub async fn signal(&self, number: i32) -> Result<(), RuntimeError> {
        self.control.signal(number).await
    }

    /// Waits for its end: the exit code, 128 + signal when killed.
    pub async fn wait(&self) -> i32 {
        self.control.wait().await
    }
}

/// Size, signals and end of one process. When the last clone for an exec session is dropped, the process is killed.
#[derive(Clone, Debug)]
pub struct SessionControl {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    pid: Option<u32>,
    to: To,
}

#[derive(Debug)]
enum To {
    Main(PathBuf, Arc<Ending>),
    Exec { control: Arc<Control>, exit: watch::Receiver<Option<Exit>>, watcher: JoinHandle<()> },
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let To::Exec { watcher, .. } = &self.to {
            watcher.abort(); // it holds the connection whose end kills an exec session
        }
    }
}

impl SessionControl {
    pub(super) fn main(dir: PathBuf, id: String, ending: Arc<Ending>) -> Self {
        Self { inner: Arc::new(Inner { id, pid: None, to: To::Main(dir, ending) }) }
    }

    pub(super) fn exec(id: String, pid: u32, control: Control) -> Self {
        let control = Arc::new(control);
        let (tell, exit) = watch::channel(None);
        let from = Arc::clone(&control);
        let watcher = tokio::spawn(async move {
            let ended = loop {
                match from.receive().await {
                    Ok(Some((Reply::Exited(exit), _))) => break exit_of(&exit),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        // The container ended first and took the session along.
                        break Exit { code: 137, signal: Some(libc::SIGKILL), oom_killed: false, at_ms: 0 };
                    }
                }
            };
            tell.send_replace(Some(ended));
        });
        Self { inner: Arc::new(Inner { id, pid: Some(pid), to: To::Exec { control, exit, watcher } }) }
    }

    /// Process id on the node, for an exec session.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.inner.pid
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        self.send(Request::Resize(rows, cols)).await
    }

    /// Sends it a signal.
    pub async fn signal(&self, number: i32) -> Result<(), RuntimeError> {
        self.send(Request::Signal(number)).await
    }

    /// Waits for its end: the exit code, 128 + signal when killed.
    pub async fn wait(&self) -> i32 {
        match &self.inner.to {
            To::Main(_, ending) => ending.wait().await.code,
            To::Exec { exit, .. } => wait_for(&mut exit.clone()).await.code,
        }
    }

    async fn send(&self, request: Request) -> Result<(), RuntimeError> {
        match &self.inner.to {
            To::Main(dir, _) => ask(dir, &self.inner.id, &request).await,
            To::Exec { control, .. } => control
                .send(&request, None)
                .await
                .map_err(|_| RuntimeError::Gone { id: format!("the session in {}", self.inner.id) }),
        }
    }
}

/// A pipe end or a terminal's master.
#[derive(Debug)]
pub struct Stream {
    fd: AsyncFd<OwnedFd>,
}

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { fd: sys::register(fd, Interest::READABLE | Interest::WRITABLE)? })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let into = buffer.initialize_unfilled();
            match guard.try_io(|fd| rustix::io::read(fd, into).map_err(io::Error::from)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose last user is gone says EIO: that is its end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| rustix::io::write(fd, bytes).map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a pipe's input ends when it is dropped
    }
}
