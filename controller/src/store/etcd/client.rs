//! Calls to etcd, over its JSON gateway: to whichever member answers.
//!
//! In: a call that may be made twice. Out: its answer, or after a bounded time why there is none. Connections are kept.

use super::wire::{Login, Refusal, Token};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// For one try at one member. A member that is stopped or cut off takes this long to be passed over.
const TRY: Duration = Duration::from_millis(1500);
/// For a connection.
const CONNECT: Duration = Duration::from_millis(700);
/// After every member refused or failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest answer.
const ANSWER: usize = 64 << 20;
/// Connections that are kept to each member.
const IDLE: usize = 8;

/// Codes of gRPC.
const CANCELLED: i64 = 1;
const UNKNOWN: i64 = 2;
const DEADLINE: i64 = 4;
const EXHAUSTED: i64 = 8;
const ABORTED: i64 = 10;
const UNAVAILABLE: i64 = 14;
const UNAUTHENTICATED: i64 = 16;

/// One member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    host: String,
    port: u16,
}

impl Member {
    /// `HOST` or `HOST:PORT`; IPv6 in brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, "2379"),
            Some((host, rest)) => (host, rest.strip_prefix(':')?),
            None => text.split_once(':').unwrap_or((text, "2379")),
        };
        let bracketed = text.starts_with('[');
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let named = !host.is_empty() && host.len() <= 253 && host.bytes().all(fine);
        let valid = if bracketed { host.parse::<std::net::Ipv6Addr>().is_ok() } else { named };
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        valid.then(|| Self { host: host.to_owned(), port })
    }

    pub(super) fn is_loopback(&self) -> bool {
        berth_wire::is_loopback(&self.host)
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&berth_wire::host_port(&self.host, self.port))
    }
}

/// There is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody answered in time. Whether the call was carried out is not known.
    #[error("{0}")]
    Silent(String),
    /// etcd refused it; it was not carried out.
    #[error("{text}")]
    Refused {
        /// What kind of refusal (gRPC's code).
        code: i64,
        /// Its sentence.
        text: String,
    },
}

impl CallError {
    /// The answer was longer than etcd's gateway passes on.
    pub(super) fn too_long(&self) -> bool {
        matches!(self, Self::Refused { code: EXHAUSTED, text } if text.contains("larger than max"))
    }
}

/// What became of one try.
enum Tried {
    /// Try another member.
    Failed(String),
    /// Try another member; this one was not even asked.
    Unasked(String),
    /// The token is no longer good.
    LoginAgain(String),
    /// Nobody will say otherwise.
    Refused(CallError),
}

/// One connection.
struct Sender {
    requests: SendRequest<Full<Bytes>>,
    /// How it ended: a member that refuses our certificate says so there, after the handshake (RFC 8446 §4.4.2.4).
    ended: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

impl Sender {
    /// Why a request on it failed.
    async fn why(self, error: hyper::Error) -> String {
        match tokio::time::timeout(PAUSE, self.ended).await {
            Ok(Ok(Err(ended))) => crate::errors::with_causes(&ended),
            _ => crate::errors::with_causes(&error),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Calls etcd. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    members: Vec<(Member, Mutex<Vec<Sender>>)>,
    tls: Option<Arc<rustls::ClientConfig>>,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
    /// The member that answered last.
    preferred: AtomicUsize,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    pub(super) fn new(
        members: Vec<Member>,
        tls: Option<Arc<rustls::ClientConfig>>,
        user: Option<(String, String)>,
    ) -> Self {
        let members = members.into_iter().map(|member| (member, Mutex::default())).collect();
        let (token, preferred) = (Mutex::default(), AtomicUsize::default());
        Self(Arc::new(Inner { members, tls, user, token, preferred }))
    }

    /// Makes a call, at one member after another, until one answers or `patience` is over. It may be carried out more than
    /// once, and later than this returns.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        patience: Duration,
    ) -> Result<A, CallError> {
        let body = Bytes::from(serde_json::to_vec(body).expect("it has text keys only"));
        let until = Instant::now() + patience;
        let count = self.0.members.len();
        let (mut number, mut logins, mut asked) = (0_usize, 0, false);
        loop {
            let index = (self.0.preferred.load(Ordering::Relaxed) + number) % count;
            let tried = self.one(index, path, body.clone(), until).await;
            let why = match tried {
                Ok(answer) => {
                    self.0.preferred.store(index, Ordering::Relaxed);
                    return parse(&answer).map_err(|text| CallError::Refused { code: UNKNOWN, text });
                }
                // An earlier try may yet be carried out.
                Err(Tried::Refused(error)) if asked => return Err(CallError::Silent(error.to_string())),
                Err(Tried::Refused(error)) => return Err(error),
                Err(Tried::LoginAgain(text)) => {
                    *lock(&self.0.token) = None;
                    logins += 1;
                    if logins > 2 {
                        return Err(CallError::Refused { code: UNAUTHENTICATED, text });
                    }
                    text
                }
                Err(Tried::Failed(text)) => {
                    (number, asked) = (number + 1, true);
                    text
                }
                Err(Tried::Unasked(text)) => {
                    number += 1;
                    text
                }
            };
            if number > 0 && number.is_multiple_of(count) {
                tokio::time::sleep_until((Instant::now() + PAUSE).min(until)).await;
            }
            if Instant::now() >= until {
                return Err(CallError::Silent(why));
            }
        }
    }

    async fn one(&self, index: usize, path: &str, body: Bytes, until: Instant) -> Result<Bytes, Tried> {
        let limit = (Instant::now() + TRY).min(until);
        let trying = async {
            let token = self.token(index).await?;
            self.exchange(index, path, body, token).await
        };
        let (member, _) = &self.0.members[index];
        match tokio::time::timeout_at(limit, trying).await {
            Ok(done) => done,
            Err(_) => Err(Tried::Failed(format!("{member} does not answer"))),
        }
    }

    async fn token(&self, index: usize) -> Result<Option<String>, Tried> {
        let Some((name, password)) = &self.0.user else { return Ok(None) };
        if let Some(token) = lock(&self.0.token).clone() {
            return Ok(Some(token));
        }
        let login = serde_json::to_vec(&Login { name, password }).expect("it has text keys only");
        let answer = self.exchange(index, "auth/authenticate", login.into(), None).await?;
        let token: Token = parse(&answer).map_err(Tried::Failed)?;
        *lock(&self.0.token) = Some(token.token.clone());
        Ok(Some(token.token))
    }

    async fn exchange(
        &self,
        index: usize,
        path: &str,
        body: Bytes,
        token: Option<String>,
    ) -> Result<Bytes, Tried> {
        let (member, _) = &self.0.members[index];
        let failed = |text: String| Tried::Failed(format!("{member}: {text}"));
        let mut request = Request::post(format!("/v3/{path}"))
            .header(header::HOST, member.to_string())
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.body(Full::new(body)).map_err(|error| failed(error.to_string()))?;
        let mut sender = self.connection(index).await?;
        let answer = match sender.requests.send_request(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(failed(sender.why(error).await)),
        };
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        let mut idle = lock(&self.0.members[index].1);
        if idle.len() < IDLE {
            idle.push(sender);
        }
        drop(idle);
        if status == StatusCode::OK { Ok(body) } else { Err(refusal(member, status, &body)) }
    }

    async fn connection(&self, index: usize) -> Result<Sender, Tried> {
        let (member, idle) = &self.0.members[index];
        loop {
            let kept = lock(idle).pop();
            let Some(mut sender) = kept else { break };
            if sender.requests.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let failed = |text: String| Tried::Unasked(format!("{member}: {text}"));
        let stream = async {
            let stream = tokio::net::TcpStream::connect((member.host.as_str(), member.port)).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = &self.0.tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let name = ServerName::try_from(member.host.clone()).map_err(std::io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await?;
            Ok::<_, std::io::Error>(Box::new(stream) as Box<dyn Stream>)
        };
        let stream = tokio::time::timeout(CONNECT, stream).await;
        let stream = stream.map_err(|_| failed("it does not answer".to_owned()))?;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let begun = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (requests, connection) = begun.map_err(|error| failed(error.to_string()))?;
        Ok(Sender { requests, ended: tokio::spawn(connection) })
    }
}

fn parse<A: DeserializeOwned>(answer: &[u8]) -> Result<A, String> {
    serde_json::from_slice(answer).map_err(|error| format!("it answered something unexpected: {error}"))
}

fn refusal(member: &Member, status: StatusCode, body: &[u8]) -> Tried {
    let Ok(said) = serde_json::from_slice::<Refusal>(body) else {
        let text = format!("{member} answered {status}; is it etcd's client address, 3.4 or newer?");
        return if status.is_server_error() {
            Tried::Failed(text)
        } else {
            Tried::Refused(CallError::Refused { code: UNKNOWN, text })
        };
    };
    let text = if said.message.is_empty() { said.error } else { said.message };
    let passing = text.contains("too many requests") || text.contains("leader changed");
    match said.code {
        CANCELLED | DEADLINE | ABORTED | UNAVAILABLE => Tried::Failed(format!("{member}: {text}")),
        UNKNOWN if !text.starts_with("etcdserver:") => Tried::Failed(format!("{member}: {text}")),
        _ if passing => Tried::Failed(format!("{member}: {text}")),
        UNAUTHENTICATED => Tried::LoginAgain(text),
        _ if text.contains("invalid auth token") || text.contains("revision of auth store is old") => {
            Tried::LoginAgain(text)
        }
        code => Tried::Refused(CallError::Refused { code, text }),
    }
}
