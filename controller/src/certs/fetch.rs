//! A small HTTP client for ACME servers, DNS webhooks and ask URLs: all three are other people's.
//!
//! In: a request, limits of time and size. Out: the answer whole, or why there is none. Follows no redirect; one
//! connection a request; trusts the system's CAs and those that were set besides.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Longest answer that is read: a certificate chain is some KiB.
const MAX_BODY: usize = 1 << 20;
/// Longest call to an ACME server.
const ACME_CALL: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Not an address.
    #[error("{0}")]
    Address(String),
    /// Nothing to trust anybody by.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// Nobody there.
    #[error("cannot reach {host}: {text}")]
    Connect {
        /// Where.
        host: String,
        /// Why.
        text: String,
    },
    /// It took too long.
    #[error("{host} did not answer within {secs} s")]
    Slow {
        /// Where.
        host: String,
        /// The limit.
        secs: u64,
    },
    /// It broke.
    #[error("the connection to {host} broke: {text}")]
    Broken {
        /// Where.
        host: String,
        /// Why.
        text: String,
    },
}

/// An address of somebody else's, as it is kept. Plain HTTP only if allowed, or on this machine.
pub(super) fn url(text: &str, plain_too: bool) -> Result<String, String> {
    let odd = || format!("{text:?} is no address such as https://example.com/path");
    if text.len() > 2048 || text.contains(['#', ' ']) {
        return Err(odd());
    }
    let uri: Uri = text.parse().map_err(|_| odd())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(odd)?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{text:?} has a password in it, which would be shown to many: leave it out"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(text.to_owned()),
        Some("http") if plain_too || berth_wire::is_loopback(host) => Ok(text.to_owned()),
        Some("http") => Err(format!("{text:?} would go over the network in the clear: use https://")),
        _ => Err(odd()),
    }
}

/// What the system trusts, and the CAs of `bundle`.
pub(super) fn roots(bundle: Option<&str>) -> Result<rustls::RootCertStore, FetchError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = berth_wire::system_certificates()
        && let Ok(found) = CertificateDer::pem_file_iter(file)
    {
        roots.add_parsable_certificates(found.filter_map(Result::ok));
    }
    if let Some(bundle) = bundle {
        for der in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let der = der.map_err(|error| FetchError::Tls(error.to_string()))?;
            roots.add(der).map_err(|error| FetchError::Tls(error.to_string()))?;
        }
    }
    Ok(roots)
}

/// The client. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    tls: Arc<rustls::ClientConfig>,
    /// What the last refusal said of when to come again (RFC 9110 §10.2.3, in seconds).
    retry_after: Arc<Mutex<Option<u64>>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Fetch {
    /// One that trusts the system's CAs, and those of `bundle`.
    pub(crate) fn new(bundle: Option<&str>) -> Result<Self, FetchError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| FetchError::Tls(error.to_string()))?
            .with_root_certificates(roots(bundle)?)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(config), retry_after: Arc::default() })
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        limit: Duration,
    ) -> Result<Response<Bytes>, FetchError> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        match tokio::time::timeout(limit, self.exchange(request, &host)).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchError::Slow { host, secs: limit.as_secs() }),
        }
    }

    async fn exchange(&self, request: Request<Bytes>, host: &str) -> Result<Response<Bytes>, FetchError> {
        let broken = |text: String| FetchError::Broken { host: host.to_owned(), text };
        let stream = self.connect(request.uri(), host).await?;
        let (mut parts, body) = request.into_parts();
        let name = HeaderValue::from_str(host).map_err(|error| broken(error.to_string()))?;
        parts.headers.insert(header::HOST, name);
        parts.headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("berth"));
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        parts.uri = path.parse().map_err(|_| broken("its path cannot be sent".to_owned()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let serving = tokio::spawn(connection);
        let answer = async {
            let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await;
            let (head, body) = answer.map_err(|error| broken(error.to_string()))?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
            Ok(Response::from_parts(head, body))
        }
        .await;
        serving.abort();
        answer
    }

    async fn connect(&self, uri: &Uri, host: &str) -> Result<Box<dyn Stream>, FetchError> {
        let encrypted = uri.scheme_str() == Some("https");
        let name = uri.host().ok_or_else(|| FetchError::Address(format!("{uri} has no host")))?;
        let bare = name.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let failed = |text: String| FetchError::Connect { host: host.to_owned(), text };
        let stream = tokio::net::TcpStream::connect((bare, port)).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let _ = stream.set_nodelay(true); // slower without, but it works
        if !encrypted {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| failed(error.to_string()))?;
        let connected = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        connected.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|error| {
            failed(format!(
                "{error}; a private CA is trusted by: berth letsencrypt:set --global ca-bundle FILE"
            ))
        })
    }

    /// What the last refusal of an ACME server said of when to come again, in seconds.
    pub(super) fn retry_after(&self) -> Option<u64> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl instant_acme::HttpClient for Fetch {
    fn request(
        &self,
        request: Request<instant_acme::BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<instant_acme::BytesResponse, instant_acme::Error>> + Send>> {
        let fetch = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let other = |error: FetchError| instant_acme::Error::Other(Box::new(error));
            if parts.uri.scheme_str() != Some("https")
                && !parts.uri.host().is_some_and(berth_wire::is_loopback)
            {
                let text = format!("the server sent us to {}, which is not https", parts.uri);
                return Err(other(FetchError::Address(text)));
            }
            let answer = fetch.send(Request::from_parts(parts, body), ACME_CALL).await.map_err(other)?;
            if !answer.status().is_success() {
                let value = answer.headers().get(header::RETRY_AFTER);
                let seconds = value.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                *fetch.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
            }
            Ok(answer.map(Full::new).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn addresses_are_checked_once() {
        for good in
            ["https://example.com/dir", "http://127.0.0.1:5000/", "http://localhost/x", "https://[::1]/"]
        {
            assert_eq!(url(good, false).as_deref(), Ok(good));
        }
        assert!(url("http://example.com/", true).is_ok());
        for bad in [
            "http://example.com/",
            "example.com",
            "/path",
            "ftp://example.com/",
            "https://a b/",
            "https://u:p@x/",
        ] {
            assert!(url(bad, false).is_err(), "{bad}");
        }
    }

    async fn served(answer: &'static [u8]) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer).await;
            std::future::pending::<()>().await;
        });
        format!("http://{address}/path")
    }

    async fn get(url: String, limit: Duration) -> Result<Response<Bytes>, FetchError> {
        let request = Request::get(url).body(Bytes::new()).expect("a request");
        Fetch::new(None).expect("set up").send(request, limit).await
    }

    #[tokio::test]
    async fn answers_are_bounded_in_time_and_size_and_redirects_are_not_followed() {
        let moved =
            served(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nhi")
                .await;
        let answer = get(moved, Duration::from_secs(5)).await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (302, &b"hi"[..]));
        let silent = served(b"HTTP/1.1 200 OK\r\n").await;
        let slow = get(silent, Duration::from_millis(100)).await.expect_err("too slow");
        assert!(matches!(slow, FetchError::Slow { .. }), "{slow}");
        let endless = Box::leak(
            [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; MAX_BODY + 1]].concat().into_boxed_slice(),
        );
        let long = get(served(endless).await, Duration::from_secs(5)).await.expect_err("too long");
        assert!(matches!(long, FetchError::Broken { .. }), "{long}");
    }
}
