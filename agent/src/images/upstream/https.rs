//! HTTPS to other people's servers: what a Dockerfile names is fetched by the agent itself.
//!
//! In: a URL. Out: the answer, after redirects. Proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`) and the node's
//! trust anchors are used as every build step uses them. Who wrote the URL is a stranger: plain HTTP and the node's own
//! addresses are refused but for registries that `registry:login --plain-http` named, and credentials never follow a
//! redirect to another host.

use super::{Fetch, FetchError, Reply};
use crate::build::ca_bundle;
use base64::Engine as _;
use berth_model::RegistryLogin;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECTS_WITHIN: Duration = Duration::from_secs(20);
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 8;
const MAX_CONNECT_ANSWER: usize = 16 << 10;

/// A client with the node's trust anchors.
pub(crate) struct Https {
    connector: TlsConnector,
    /// Hosts with their ports that are asked in the clear, wherever they are.
    plain: Vec<String>,
}

impl Https {
    /// `logins` say which registries speak plain HTTP.
    pub(crate) async fn new(logins: &[RegistryLogin]) -> Result<Self, FetchError> {
        let invalid = |text: String| FetchError::Unreachable(text);
        let bundle = ca_bundle().await.unwrap_or_default();
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
        if roots.is_empty() {
            return Err(invalid("this node has no trusted certificates: install ca-certificates".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(format!("TLS cannot be set up: {error}")))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let plain = logins.iter().filter(|login| login.plain_http);
        let plain = plain.map(|login| login.server.as_str().to_owned()).collect();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), plain })
    }

    /// Whether this host is asked in the clear.
    fn is_plain(&self, url: &Uri) -> bool {
        let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        self.plain.iter().any(|plain| plain.eq_ignore_ascii_case(authority))
    }

    async fn once(&self, url: &Uri, headers: &HeaderMap) -> Result<Reply, FetchError> {
        let host = url.host().unwrap_or_default().to_owned();
        let is_plain = url.scheme_str() == Some("http");
        let port = url.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            FetchError::Unreachable(format!("{what} {host}:{port}: {error}"))
        };
        let connecting = async {
            if is_plain {
                let stream = connect_in_the_clear(&host, port).await?;
                return Ok::<_, FetchError>(Box::new(stream) as Box<dyn Wire>);
            }
            let stream = connect(&host, port).await?;
            let bare = host.trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(bare).map_err(|error| failed("cannot name", &error))?;
            let stream = self.connector.connect(name, stream).await;
            Ok(Box::new(stream.map_err(|error| failed("no TLS with", &error))?) as Box<dyn Wire>)
        };
        let stream = tokio::time::timeout(CONNECTS_WITHIN, connecting)
            .await
            .map_err(|_| failed("cannot connect to", &"no answer within 20 seconds"))??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed("no HTTP with", &error))?;
        tokio::spawn(connection);
        let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::get(path)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| FetchError::Invalid(error.to_string()))?;
        *request.headers_mut() = headers.clone();
        let authority = url.authority().map_or(host.as_str(), http::uri::Authority::as_str);
        let authority =
            authority.parse().map_err(|_| FetchError::Invalid(format!("{authority} is no host")))?;
        request.headers_mut().insert(header::HOST, authority);
        request.headers_mut().insert(header::USER_AGENT, header::HeaderValue::from_static("berth"));
        let answer = tokio::time::timeout(ANSWERS_WITHIN, sender.send_request(request)).await;
        let answer = answer
            .map_err(|_| failed("no answer from", &"nothing within 60 seconds"))?
            .map_err(|error| failed("no answer from", &error))?;
        let (parts, body) = answer.into_parts();
        let body = body.map_err(std::io::Error::other).boxed();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }
}

/// A connection, through TLS or not.
trait Wire: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Wire for T {}

impl Fetch for Https {
    fn get<'a>(&'a self, url: &'a str, headers: HeaderMap) -> BoxFuture<'a, Result<Reply, FetchError>> {
        Box::pin(async move {
            let invalid = |text: String| FetchError::Invalid(text);
            let mut url: Uri = url.parse().map_err(|error| invalid(format!("{url:?} is no URL: {error}")))?;
            let mut headers = headers;
            for _ in 0..MAX_REDIRECTS {
                let may = match url.scheme_str() {
                    Some("https") => url.host().is_some(),
                    Some("http") => self.is_plain(&url),
                    _ => false,
                };
                if !may {
                    return Err(invalid(format!("{url} is not https://, and nothing else is fetched")));
                }
                let reply = self.once(&url, &headers).await?;
                if !reply.status.is_redirection() {
                    return Ok(reply);
                }
                let place = reply.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                let place = place.ok_or_else(|| invalid(format!("{url} leads on without saying where")))?;
                let next = if place.starts_with('/') {
                    let authority = url.authority().map_or("", http::uri::Authority::as_str);
                    format!("{}://{authority}{place}", url.scheme_str().unwrap_or("https"))
                } else {
                    place.to_owned()
                };
                let next: Uri = next
                    .parse()
                    .map_err(|_| invalid(format!("{url} leads to {place:?}, which is no URL")))?;
                if next.authority() != url.authority() || next.scheme() != url.scheme() {
                    headers.remove(header::AUTHORIZATION);
                }
                url = next;
            }
            Err(invalid(format!("{url}: more than {MAX_REDIRECTS} redirects")))
        })
    }
}

fn var(name: &str) -> Option<String> {
    let either = [name.to_ascii_lowercase(), name.to_owned()];
    either.into_iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty())
}

/// A connection to the server itself, or through the environment's proxy.
async fn connect(host: &str, port: u16) -> Result<TcpStream, FetchError> {
    let failed =
        |what: String, error: &dyn std::fmt::Display| FetchError::Unreachable(format!("{what}: {error}"));
    let bare = host.trim_matches(['[', ']']);
    if is_own(bare) {
        return Err(FetchError::Invalid(format!("{host} is the node itself; nothing is fetched from there")));
    }
    let proxy = var("HTTPS_PROXY").filter(|_| !is_excepted(bare, &var("NO_PROXY").unwrap_or_default()));
    if let Some(proxy) = proxy {
        return through(&proxy, host, port).await;
    }
    let addresses = tokio::net::lookup_host((bare, port)).await;
    let addresses = addresses.map_err(|error| failed(format!("cannot find {host}"), &error))?;
    let mut last = FetchError::Unreachable(format!("{host} has no address that may be used"));
    for address in addresses {
        if is_own(&address.ip().to_string()) {
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = failed(format!("cannot connect to {host}:{port}"), &error),
        }
    }
    Err(last)
}

/// A connection to a registry that was named for it, on this node or elsewhere; never to what only a node may ask.
async fn connect_in_the_clear(host: &str, port: u16) -> Result<TcpStream, FetchError> {
    let bare = host.trim_matches(['[', ']']);
    let addresses = tokio::net::lookup_host((bare, port)).await;
    let addresses =
        addresses.map_err(|error| FetchError::Unreachable(format!("cannot find {host}: {error}")))?;
    let mut last = FetchError::Unreachable(format!("{host} has no address that may be used"));
    for address in addresses {
        let ip = address.ip().to_canonical();
        if is_own(&ip.to_string()) && !ip.is_loopback() {
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                last = FetchError::Unreachable(format!("cannot connect to {host}:{port}: {error}"));
            }
        }
    }
    Err(last)
}

/// Whether a name means this node, or what only this node may ask (cloud metadata).
fn is_own(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
        }
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast()
        }
        Err(_) => false,
    }
}

fn is_excepted(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.trim_start_matches('.');
        entry == "*" || host == entry || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
    })
}

async fn through(proxy: &str, host: &str, port: u16) -> Result<TcpStream, FetchError> {
    let failed = |text: String| FetchError::Unreachable(format!("the proxy of HTTPS_PROXY: {text}"));
    let url: Uri = proxy.parse().map_err(|_| failed("its address is no URL".to_owned()))?;
    let authority = url.authority().ok_or_else(|| failed("its address has no host".to_owned()))?;
    let (credentials, _) = authority.as_str().rsplit_once('@').unwrap_or(("", ""));
    let at = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(3128));
    let mut stream = TcpStream::connect(at).await.map_err(|error| failed(error.to_string()))?;
    let login = match credentials {
        "" => String::new(),
        words => {
            let words = base64::engine::general_purpose::STANDARD.encode(words);
            format!("Proxy-Authorization: Basic {words}\r\n")
        }
    };
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head is the server's.
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.map_err(|error| failed(error.to_string()))?;
        answer.push(byte);
        if answer.len() > MAX_CONNECT_ANSWER {
            return Err(failed("it does not stop talking".to_owned()));
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => Err(failed(format!("it refused {host}:{port}: {}", line.chars().take(100).collect::<String>()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_itself_is_out_of_reach() {
        for own in [
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "169.254.169.254",
            "0.0.0.0",
            "::ffff:127.0.0.1",
            "fe80::1",
        ] {
            assert!(is_own(own), "{own}");
        }
        for other in ["registry-1.docker.io", "10.0.0.5", "192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other), "{other}");
        }
    }

    #[test]
    fn exceptions_of_the_proxy_are_suffixes() {
        assert!(is_excepted("a.internal", "x, .internal"));
        assert!(is_excepted("internal", "internal"));
        assert!(!is_excepted("notinternal", "internal"));
        assert!(is_excepted("any", "*"));
    }
}
