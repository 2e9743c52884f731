//! A TLS connection that is read and written by shared reference, as TCP is.
//!
//! In: a TCP stream and the rustls connection on it. Out: [`Socket`]. The lock is never contended (one task, one thread)
//! and never held across a wait; it only lets both directions share the connection.

use crate::io::{Heard, Socket};
use rustls::{ProtocolVersion, ServerConnection};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Ciphertext that may wait for the kernel, in bytes, about.
const MAX_WAITING: usize = 64 * 1024;

/// A client's TLS connection after its handshake.
#[derive(Debug)]
pub(crate) struct TlsStream {
    tcp: TcpStream,
    tls: Mutex<ServerConnection>,
    /// What was being sent is not complete: the end must not look like one.
    cut: AtomicBool,
}

/// The TCP stream as rustls reads and writes it: what cannot be done now is `WouldBlock`.
pub(super) struct Now<'a>(pub(super) &'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.try_read(into)?;
        if count > 0 && count < into.len() {
            let drained = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::READABLE, drained); // waiting for more costs no second read
        }
        Ok(count)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hands over the ciphertext that the kernel takes now; whether none is left.
fn send_now(tcp: &TcpStream, tls: &mut ServerConnection) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(&mut Now(tcp)) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Hands ciphertext to the kernel; ready when none is left.
fn poll_send(tcp: &TcpStream, tls: &mut ServerConnection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !send_now(tcp, tls)? {
        ready!(tcp.poll_write_ready(cx))?;
    }
    Poll::Ready(Ok(()))
}

/// Takes ciphertext from the kernel once and decrypts it. `false` is the end of the TCP stream.
fn poll_receive(tcp: &TcpStream, tls: &mut ServerConnection, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        match tls.read_tls(&mut Now(tcp)) {
            Ok(count) => {
                let processed = tls.process_new_packets();
                if let Err(error) = processed {
                    let _ = poll_send(tcp, tls, cx); // an alert that says why; lost if it cannot go out at once
                    return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
                }
                // Tickets and the answer to a key update go out with the next answer (RFC 8446 §4.6).
                return Poll::Ready(Ok(count > 0));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

impl TlsStream {
    /// Ends the handshake on `tcp`.
    pub(crate) async fn handshake(tcp: TcpStream, mut tls: ServerConnection) -> io::Result<Self> {
        std::future::poll_fn(|cx| {
            loop {
                // The last word of TLS 1.3 is the client's; what is left then are tickets, which can wait.
                if !tls.is_handshaking() && tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                    return Poll::Ready(Ok(()));
                }
                ready!(poll_send(&tcp, &mut tls, cx))?;
                if !tls.is_handshaking() {
                    return Poll::Ready(Ok(()));
                }
                if !ready!(poll_receive(&tcp, &mut tls, cx))? {
                    return Poll::Ready(Err(io::Error::from(ErrorKind::UnexpectedEof)));
                }
            }
        })
        .await?;
        tls.set_buffer_limit(Some(MAX_WAITING));
        Ok(Self { tcp, tls: Mutex::new(tls), cut: AtomicBool::new(false) })
    }

    fn tls(&self) -> MutexGuard<'_, ServerConnection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner) // rustls keeps its own state sound
    }

    /// The name the client asked for.
    pub(crate) fn server_name(&self) -> Option<Box<str>> {
        self.tls().server_name().map(Into::into)
    }

    /// The version of TLS as logs write it.
    pub(crate) fn version(&self) -> &'static str {
        match self.tls().protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        }
    }

    /// Whether it goes on with an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Client and proxy agreed on HTTP/2 (RFC 7301).
    pub(crate) fn is_http2(&self) -> bool {
        self.tls().alpn_protocol() == Some(b"h2")
    }

    /// Ready with what a read would find: bytes, the end, or an error.
    fn poll_pump(&self, tls: &mut ServerConnection, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            match Self::peek(tls) {
                Some(heard) => return Poll::Ready(heard),
                None => match ready!(poll_receive(&self.tcp, tls, cx)) {
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Heard::Broken),
                },
            }
        }
    }

    fn peek(tls: &mut ServerConnection) -> Option<Heard> {
        use std::io::BufRead;
        match tls.reader().fill_buf() {
            Ok([]) => Some(Heard::End),
            Ok(_) => Some(Heard::Data),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(Heard::Broken),
        }
    }
}

impl Socket for TlsStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_pump(&mut self.tls(), cx)) {
            Heard::Data | Heard::End => Poll::Ready(Ok(())),
            Heard::Broken => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut tls = self.tls();
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            ready!(poll_receive(&self.tcp, &mut tls, cx))?;
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_send(&self.tcp, &mut self.tls(), cx)
    }

    fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut tls = self.tls();
        if tls.wants_write() && !send_now(&self.tcp, &mut tls)? {
            return Ok(0);
        }
        let count = tls.writer().write_vectored(slices)?;
        send_now(&self.tcp, &mut tls)?;
        Ok(count)
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll_send(&self.tcp, &mut self.tls(), cx)
    }

    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.poll_pump(&mut self.tls(), cx)
    }

    fn shut(&self) -> io::Result<()> {
        let mut tls = self.tls();
        tls.send_close_notify();
        send_now(&self.tcp, &mut tls)?;
        drop(tls);
        self.tcp.shut()
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Drop for TlsStream {
    /// Tells the client that nothing was cut off (RFC 8446 §6.1), if that needs no waiting.
    fn drop(&mut self) {
        if *self.cut.get_mut() {
            return;
        }
        let tls = self.tls.get_mut().unwrap_or_else(PoisonError::into_inner);
        tls.send_close_notify();
        let _ = send_now(&self.tcp, tls); // it is gone, or will see TCP's own end
    }
}
