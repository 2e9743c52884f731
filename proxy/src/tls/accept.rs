//! The handshake: from an accepted TCP connection to a TLS stream, or an alert and nothing.
//!
//! In: a TCP stream, the certificates. Out: a [`TlsStream`] for a name that has a certificate. A name that leads to an
//! app but has none is told to the controller when it can get one, and the handshake waits a moment for it.

use super::certificates::Certificates;
use super::stream::TlsStream;
use super::{ACME_TLS, Configs};
use crate::sni::UNRECOGNIZED_NAME;
use crate::worker::Worker;
use rustls::server::{Accepted, Acceptor};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a handshake waits for a certificate that is being ordered.
const ORDERED: Duration = Duration::from_secs(20);

/// Does the handshake within `header_read`, the time a request's head may take. `None`: the client has been told, or
/// has gone.
pub(crate) async fn accept(worker: &Worker, tcp: TcpStream) -> Option<TlsStream> {
    let shared = &worker.shared;
    let due = Instant::now() + shared.settings.header_read;
    let hello = timeout_at(due, hello(&tcp)).await.ok()?;
    let accepted = hello.inspect_err(|error| tracing::trace!(%error, "no TLS")).ok()?;
    let asked = accepted.client_hello();
    let challenge = asked.alpn().is_some_and(|mut names| names.all(|name| name == ACME_TLS));
    let name: Option<Box<str>> = asked.server_name().map(Into::into);
    let Configs { serve, challenge: proof } = &shared.tls;
    let config = match &name {
        Some(name) if challenge => shared.certificates.load().challenge(name).map(|_| proof),
        Some(name) => has_certificate(worker, name).await.then_some(serve),
        None => None,
    };
    let Some(config) = config else {
        tracing::debug!(name = name.as_deref(), "no certificate for this server name");
        let _ = tcp.try_write(&UNRECOGNIZED_NAME); // it fits into the empty buffer of a new socket, or it is gone
        return None;
    };
    let due = due.max(Instant::now() + shared.settings.header_read / 2);
    let connection = match accepted.into_connection(config.clone()) {
        Ok(connection) => connection,
        Err((error, mut alert)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            let mut bytes = Vec::new();
            if alert.write_all(&mut bytes).is_ok() {
                let _ = tcp.try_write(&bytes);
            }
            return None;
        }
    };
    let stream = timeout_at(due, TlsStream::handshake(tcp, connection)).await.ok()?;
    let stream = stream.inspect_err(|error| tracing::debug!(%error, "a TLS handshake failed")).ok()?;
    (!challenge).then_some(stream) // the challenge was the handshake itself (RFC 8737 §3)
}

/// Reads until the client's first message is whole.
async fn hello(tcp: &TcpStream) -> io::Result<Accepted> {
    let mut acceptor = Acceptor::default();
    poll_fn(|cx| {
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            match acceptor.read_tls(&mut super::stream::Now(tcp)) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Poll::Ready(Ok(accepted)),
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_ok() {
                        let _ = tcp.try_write(&bytes);
                    }
                    return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
                }
            }
        }
    })
    .await
}

/// Whether there is a certificate for `name`, now or within a moment.
async fn has_certificate(worker: &Worker, name: &str) -> bool {
    let has = |certificates: &Arc<Certificates>| certificates.find(name).is_some();
    let shared = &worker.shared;
    let certificates = shared.certificates.load_full();
    if has(&certificates) {
        return true;
    }
    if !certificates.on_demand || shared.table.load().find(name.as_bytes()).is_none() {
        return false;
    }
    let mut news = shared.wanted.follow();
    if !shared.wanted.ask(name) {
        return false; // more names are being asked for than anyone needs
    }
    let coming = async {
        loop {
            news.mark_unchanged();
            if has(&shared.certificates.load_full()) {
                return true;
            }
            if news.changed().await.is_err() {
                return false;
            }
        }
    };
    timeout(ORDERED, coming).await.unwrap_or(false)
}
