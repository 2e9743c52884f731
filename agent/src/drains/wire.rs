//! Getting lines to the other side: UDP, TCP, TLS, HTTP.
//!
//! In: a drain's address, a batch. Out: sent, or why not and whether it is worth trying again. Connections of syslog are kept;
//! an HTTP request has one of its own. Every step has a time limit, and of an answer only the beginning is read.

use super::format;
use crate::build::ca_bundle;
use base64::Engine as _;
use berth_model::container::LogLine;
use berth_model::logs::{DrainKind, DrainUrl};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// For connecting, and for a batch.
const PATIENCE: Duration = Duration::from_secs(20);
/// What of an answer is read, in bytes.
const ANSWER: usize = 4096;
/// Datagrams sent without a pause, so that a receiver's buffer is not overrun at once.
const BURST: usize = 100;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Why a batch did not go.
#[derive(Debug)]
pub(super) enum Failure {
    /// Try again.
    Away(String),
    /// It would be refused again.
    Refused(String),
}

/// The way to one drain.
pub(super) struct Sender {
    url: DrainUrl,
    node: String,
    kept: Option<Box<dyn Stream>>,
    /// What this node trusts; read again after a failure, for it may be that.
    tls: Option<tokio_rustls::TlsConnector>,
}

impl Sender {
    pub(super) fn new(url: &DrainUrl, node: String) -> Self {
        Self { url: url.clone(), node, kept: None, tls: None }
    }

    /// Sends a batch; on an error it counts as not sent, though some of it may have arrived.
    pub(super) async fn send(&mut self, lines: &[LogLine]) -> Result<(), Failure> {
        let sending = async {
            match self.url.kind() {
                DrainKind::SyslogUdp => self.datagrams(lines).await,
                DrainKind::SyslogTcp | DrainKind::SyslogTls => self.stream(lines).await,
                DrainKind::Json => {
                    let body = format::json_lines(lines, &self.node);
                    self.post(body, "application/x-ndjson").await
                }
                DrainKind::Otlp => self.post(format::otlp(lines, &self.node), "application/json").await,
            }
        };
        match tokio::time::timeout(PATIENCE * 2, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => {
                (self.kept, self.tls) = (None, None);
                Err(failure)
            }
            Err(_) => {
                (self.kept, self.tls) = (None, None);
                Err(Failure::Away(format!("{} takes too long", self.url.host())))
            }
        }
    }

    fn away(&self, what: &str, error: &dyn std::fmt::Display) -> Failure {
        Failure::Away(format!("{what} {}:{}: {error}", self.url.host(), self.url.port()))
    }

    async fn datagrams(&self, lines: &[LogLine]) -> Result<(), Failure> {
        let mut found = tokio::net::lookup_host((self.url.host(), self.url.port()))
            .await
            .map_err(|error| self.away("cannot find", &error))?;
        let to = found.next().ok_or_else(|| self.away("cannot find", &"it has no address"))?;
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await.map_err(|error| self.away("cannot send to", &error))?;
        for burst in lines.chunks(BURST) {
            for line in burst {
                // Not connected: a port that nobody listens on is no error of the next datagram.
                let sent = socket.send_to(&format::datagram(line, &self.node), to).await;
                sent.map_err(|error| self.away("cannot send to", &error))?;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn stream(&mut self, lines: &[LogLine]) -> Result<(), Failure> {
        let mut stream = match self.kept.take() {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        // The receiver says nothing; that it hung up is only seen by reading.
        let mut byte = [0; 64];
        if let Ok(read) = tokio::time::timeout(Duration::ZERO, stream.read(&mut byte)).await {
            match read {
                Ok(0) | Err(_) => stream = self.connect().await?,
                Ok(_) => {}
            }
        }
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend_from_slice(&format::counted(line, &self.node));
        }
        stream.write_all(&bytes).await.map_err(|error| self.away("cannot write to", &error))?;
        stream.flush().await.map_err(|error| self.away("cannot write to", &error))?;
        self.kept = Some(stream);
        Ok(())
    }

    async fn connect(&mut self) -> Result<Box<dyn Stream>, Failure> {
        if self.url.is_tls() && self.tls.is_none() {
            self.tls = Some(connector().await.map_err(Failure::Away)?);
        }
        let connecting = async {
            let stream = TcpStream::connect((self.url.host(), self.url.port())).await;
            let stream = stream.map_err(|error| self.away("cannot connect to", &error))?;
            let _ = stream.set_nodelay(true); // slower without, but it works
            let Some(connector) = &self.tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let name = ServerName::try_from(self.url.host().to_owned());
            let name = name.map_err(|error| self.away("cannot name", &error))?;
            let stream = connector.connect(name, stream).await;
            Ok(Box::new(stream.map_err(|error| self.away("no TLS with", &error))?) as Box<dyn Stream>)
        };
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(self.away("cannot connect to", &"no answer within 20 s")),
        }
    }

    async fn post(&mut self, body: Vec<u8>, kind: &str) -> Result<(), Failure> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.away("no HTTP with", &error))?;
        let serving = tokio::spawn(connection);
        let mut request = Request::post(self.url.path())
            .header(header::HOST, self.url.authority())
            .header(header::USER_AGENT, "berth")
            .header(header::CONTENT_TYPE, kind);
        if let Some((user, password)) = self.url.user() {
            let word = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            request = request.header(header::AUTHORIZATION, format!("Basic {word}"));
        }
        let result = async {
            let request = request.body(Full::new(Bytes::from(body)));
            let request = request.map_err(|error| Failure::Refused(error.to_string()))?;
            let answer =
                sender.send_request(request).await.map_err(|error| self.away("no answer from", &error))?;
            let (head, body) = answer.into_parts();
            if head.status.is_success() {
                return Ok(());
            }
            let said = Limited::new(body, ANSWER)
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            let said: String = String::from_utf8_lossy(&said)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(200)
                .collect();
            let text = format!("{}:{} answered {} {said}", self.url.host(), self.url.port(), head.status);
            // What is wrong with these lines will be wrong with them again; anything else may pass.
            match head.status.as_u16() {
                400 | 413 | 415 | 422 => Err(Failure::Refused(text)),
                _ => Err(Failure::Away(text)),
            }
        }
        .await;
        serving.abort();
        result
    }
}

async fn connector() -> Result<tokio_rustls::TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    let bundle = ca_bundle().await.unwrap_or_default();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
    if roots.is_empty() {
        return Err("this node has no trusted certificates: install ca-certificates".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}
