//! The client's half: one connection a call, JSON in and out, line streams and upgrades.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio_util::io::StreamReader;

/// Where a peer listens.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A unix socket on this machine.
    Unix(PathBuf),
    /// TCP, without TLS: loopback only, by convention of the callers.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// TLS over TCP.
    Tls {
        /// `host:port`.
        address: String,
        /// Trust anchors and client certificate.
        config: Arc<rustls::ClientConfig>,
    },
    /// However somebody else gets a connection to it: one that the peer itself opened, perhaps.
    Dialled(Arc<dyn Dial>),
}

/// A connection, whatever it is made of.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is being made.
pub type Dialling<'a> = std::pin::Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Gets a connection to one peer, a fresh one at each call. The text (`Display`) says which peer.
pub trait Dial: std::fmt::Debug + std::fmt::Display + Send + Sync {
    /// Connects. Errors say why the peer cannot be reached.
    fn dial(&self) -> Dialling<'_>;
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address } => write!(f, "http://{address}"),
            Self::Tls { address, .. } => write!(f, "https://{address}"),
            Self::Dialled(dial) => write!(f, "{dial}"),
        }
    }
}

/// A call that did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody answers there.
    #[error("cannot reach {endpoint}: {reason}")]
    Connect {
        /// Where.
        endpoint: String,
        /// Why. The text says it, so it is no `source()` that would be said again.
        reason: io::Error,
    },
    /// The connection broke during the call.
    #[error("the connection to {endpoint} broke: {text}")]
    Broken {
        /// Where.
        endpoint: String,
        /// Why.
        text: String,
    },
    /// The peer answered with an error.
    #[error("{}", body.message)]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said.
        body: berth_model::api::ApiError,
    },
    /// The peer answered something that is not what the API promises.
    #[error("{endpoint} answered something unexpected: {text}")]
    Unexpected {
        /// Where.
        endpoint: String,
        /// What.
        text: String,
    },
}

type Body = BoxBody<Bytes, io::Error>;

/// A peer. Cheap to clone; every call makes its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    headers: Vec<(header::HeaderName, header::HeaderValue)>,
}

impl Client {
    /// A client of the peer at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, headers: Vec::new() }
    }

    /// The same, sending this header with every call. An invalid value (control bytes) is an error.
    pub fn with_header(
        mut self,
        name: header::HeaderName,
        value: &str,
    ) -> Result<Self, header::InvalidHeaderValue> {
        self.headers.push((name, value.parse()?));
        Ok(self)
    }

    /// Where it goes.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn broken(&self, error: impl std::fmt::Display) -> WireError {
        WireError::Broken { endpoint: self.endpoint.to_string(), text: error.to_string() }
    }

    fn unexpected(&self, text: impl std::fmt::Display) -> WireError {
        WireError::Unexpected { endpoint: self.endpoint.to_string(), text: text.to_string() }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.endpoint {
            Endpoint::Dialled(dial) => dial.dial().await?,
            Endpoint::Unix(path) => Box::new(tokio::net::UnixStream::connect(path).await?),
            Endpoint::Tcp { address } => {
                let stream = tokio::net::TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Endpoint::Tls { address, config } => {
                let stream = tokio::net::TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                let name = rustls_pki_types::ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                Box::new(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await?)
            }
        })
    }

    /// Sends one request; the answer's status is not looked at.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, WireError> {
        let stream = self
            .connect()
            .await
            .map_err(|reason| WireError::Connect { endpoint: self.endpoint.to_string(), reason })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection ended");
            }
        });
        let host = match &self.endpoint {
            Endpoint::Unix(_) | Endpoint::Dialled(_) => "berth",
            Endpoint::Tcp { address } | Endpoint::Tls { address, .. } => address.as_str(),
        };
        let host = host.parse().map_err(|error| self.broken(error))?;
        request.headers_mut().insert(header::HOST, host);
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    /// Sends a request with a JSON body (`None` is no body) and gives the answer if its status is 2xx.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Response<Incoming>, WireError> {
        let mut request = Request::builder().method(method).uri(path);
        let bytes = match body {
            None => Bytes::new(),
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(serde_json::to_vec(value).map_err(|error| self.unexpected(error))?)
            }
        };
        let body = Full::new(bytes).map_err(|never| match never {}).boxed();
        let request = request.body(body).map_err(|error| self.unexpected(error))?;
        self.accepted(self.send(request).await?).await
    }

    /// Sends a request whose body is read from `body` until its end.
    pub async fn upload(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl AsyncRead + Send + Sync + 'static,
    ) -> Result<Response<Incoming>, WireError> {
        let frames = tokio_util::io::ReaderStream::with_capacity(body, 64 * 1024).map_ok(BodyFrame::data);
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, content_type);
        let request =
            request.body(BodyExt::boxed(StreamBody::new(frames))).map_err(|error| self.unexpected(error))?;
        self.accepted(self.send(request).await?).await
    }

    async fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, WireError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        match serde_json::from_slice(&bytes) {
            Ok(body) => Err(WireError::Refused { status, body }),
            Err(_) => {
                let start: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
                Err(self.unexpected(format!("{status} {start}")))
            }
        }
    }

    /// A call whose answer is one JSON value.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, WireError> {
        let response = self.call(method, path, body).await?;
        let bytes = response.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| self.unexpected(error))
    }

    /// `GET` one JSON value.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, WireError> {
        self.json(Method::GET, path, None::<&()>).await
    }

    /// A call whose answer is one JSON value a line (`application/x-ndjson`). Dropping the lines ends the call.
    pub async fn lines(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Lines, WireError> {
        let response = self.call(method, path, body).await?;
        Ok(Lines::of(response, self.endpoint.to_string()))
    }

    /// Reads an answer as JSON lines.
    #[must_use]
    pub fn lines_of(&self, response: Response<Incoming>) -> Lines {
        Lines::of(response, self.endpoint.to_string())
    }

    /// `GET path` with `Upgrade: berth-stream`; gives the raw connection after 101, for [`crate::Frame`]s.
    pub async fn upgrade(&self, path: &str) -> Result<Upgraded, WireError> {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        let request = Request::builder()
            .uri(path)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "berth-stream")
            .body(body)
            .map_err(|error| self.unexpected(error))?;
        let response = self.accepted(self.send(request).await?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.unexpected(format!("{} instead of an upgrade", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.broken(error))?;
        Ok(TokioIo::new(upgraded))
    }
}

/// A connection after its upgrade.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Where a body that is written while it is sent goes; see `tokio::io::duplex` for making the two ends.
pub type BodyWriter = tokio::io::DuplexStream;

/// JSON lines of an answer.
pub struct Lines {
    reader: BufReader<std::pin::Pin<Box<dyn AsyncRead + Send>>>,
    endpoint: String,
}

impl Lines {
    fn of(response: Response<Incoming>, endpoint: String) -> Self {
        let stream = response.into_body().into_data_stream().map_err(io::Error::other);
        Self { reader: BufReader::new(Box::pin(StreamReader::new(stream))), endpoint }
    }

    /// The next value; `None` at the end of the answer.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.reader.read_line(&mut line).await;
            let read = read.map_err(|error| WireError::Broken {
                endpoint: self.endpoint.clone(),
                text: error.to_string(),
            })?;
            if read == 0 {
                return Ok(None);
            }
            if !line.trim().is_empty() {
                break;
            }
        }
        let value = serde_json::from_str(&line);
        value.map(Some).map_err(|error| WireError::Unexpected {
            endpoint: self.endpoint.clone(),
            text: error.to_string(),
        })
    }
}
