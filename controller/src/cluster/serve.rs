//! The cluster port: TLS 1.3, certificates of the cluster's CA on both sides, the same calls as `run/internal.sock`.
//!
//! In: connections. Out: requests with a [`Peer`], checked by [`guard::check`]. The port is opened when the cluster has a CA, which
//! the first `berth node:token` makes. A node that is removed loses its connections at once, whatever goes on in them.

use super::authority::{Authority, Holder, KEY};
use super::guard::{self, Peer};
use super::{Listening, enrol, tunnels};
use crate::Platform;
use crate::platform::now_ms;
use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use berth_wire::{accept_each, drain};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::ServiceExt;

/// Connections at once; more wait. A node has about eight.
const CONNECTIONS: usize = 8192;
/// For the handshake and the head of each request.
const PATIENCE: Duration = Duration::from_secs(10);
/// What connections under way get at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// A peer that answers nothing for this long is gone.
const GONE: Duration = Duration::from_secs(15);
/// Between two tries to open the port.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps the cluster port open, once there is a cluster, until `stop`. `internal` is what nodes and proxies ask for.
pub async fn run(platform: Platform, internal: Router, stop: CancellationToken) {
    let router = Router::new()
        .route("/node/v1/{node}/tunnel", get(tunnels::tunnel))
        .with_state(platform.clone())
        .merge(enrol::router(platform.clone()))
        .merge(internal)
        .layer(from_fn_with_state(platform.clone(), guard::check));
    tokio::select! {
        () = keep_open(&platform, &router, &stop) => {}
        () = lock_out(&platform) => {}
        () = stop.cancelled() => {}
    }
}

async fn keep_open(platform: &Platform, router: &Router, stop: &CancellationToken) {
    let mut made = platform.store().watch(KEY);
    loop {
        let failed = match Authority::load(platform).await {
            Ok(None) => {
                if made.changed().await.is_none() {
                    return;
                }
                continue;
            }
            Ok(Some(authority)) => match open(platform, authority).await {
                Ok((listener, tls)) => return serve(platform, listener, tls, router, stop).await,
                Err(error) => format!("{error:#}"),
            },
            Err(error) => error.to_string(),
        };
        tracing::error!(
            error = failed,
            "the cluster port is closed: nodes cannot speak with this controller"
        );
        platform.cluster().listening().send_replace(Listening::Failed(failed));
        tokio::time::sleep(AGAIN).await;
    }
}

async fn open(
    platform: &Platform,
    authority: Authority,
) -> anyhow::Result<(TcpListener, Arc<rustls::ServerConfig>)> {
    let tls = configuration(authority).context("the cluster's certificates cannot be used")?;
    let wanted = platform.options().cluster;
    let listener = TcpListener::bind(wanted).await;
    let listener = listener
        .with_context(|| format!("cannot listen on {wanted}; choose another address with --cluster"))?;
    let address = listener.local_addr()?;
    enrol::announce(platform, &dialled(address)).await?;
    tracing::info!(%address, "nodes may join");
    platform.cluster().listening().send_replace(Listening::Open(address));
    Ok((listener, tls))
}

/// How nodes dial a port that listens at `address`: everywhere is where this machine goes out.
pub(crate) fn dialled(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => outward().unwrap_or(IpAddr::from([127, 0, 0, 1])),
        ip => ip,
    };
    SocketAddr::new(ip, address.port()).to_string()
}

/// The address that this machine speaks to others from. Nothing is sent: connecting a UDP socket only looks the route up.
fn outward() -> Option<IpAddr> {
    let look = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    // Documentation addresses (RFC 5737, RFC 3849).
    look("0.0.0.0:0", "198.51.100.1:9").or_else(|| look("[::]:0", "[2001:db8::1]:9")).or_else(inward)
}

/// Where there is no way out: the first address of this machine that is neither its own nor of containers.
fn inward() -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    let found = addresses.filter_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let containers = address.octets()[0] == 10 && address.octets()[1] & 0xf0 == 208;
        (!address.is_loopback() && !address.is_link_local() && !containers).then_some(IpAddr::V4(address))
    });
    let mut found = found;
    found.next()
}

/// A certificate of this controller, made in memory and made anew before it grows old.
struct Identity {
    authority: Authority,
    current: Mutex<Option<(Arc<rustls::sign::CertifiedKey>, Instant)>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, made)) = &*current
            && made.elapsed() < Authority::RENEW_AFTER
        {
            return Some(key.clone());
        }
        let made = self.authority.controller_identity(now_ms());
        let key =
            made.inspect_err(|error| tracing::error!(%error, "no certificate for this controller")).ok()?;
        *current = Some((key.clone(), Instant::now()));
        Some(key)
    }
}

fn configuration(authority: Authority) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated() // who joins has none; see `guard`
        .build()?;
    let identity = Arc::new(Identity { authority, current: Mutex::default() });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Every call of a node is a connection: most are resumed. What a node may do is looked up at each request.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

async fn serve(
    platform: &Platform,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: &Router,
    stop: &CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let serve = |(stream, address): (TcpStream, SocketAddr)| {
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        let platform = platform.clone();
        async move {
            if let Err(error) = connection(&platform, stream, address, &acceptor, router, stop).await {
                tracing::debug!(from = %address, %error, "a connection to the cluster port ended");
            }
        }
    };
    let tasks = accept_each(CONNECTIONS, stop, || listener.accept(), serve).await;
    drain(tasks, DRAIN).await;
}

async fn connection(
    platform: &Platform,
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &tokio_rustls::TlsAcceptor,
    router: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    berth_wire::notice_death(&stream, GONE)?;
    let reached = stream.local_addr()?.ip();
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let holder = match certificate {
        None => None,
        Some(certificate) => {
            Some(Arc::new(Holder::of(certificate).context("its certificate names no node")?))
        }
    };
    // A stranger is given the time for one request.
    let cut = match &holder {
        Some(holder) => platform.cluster().seats().cut_of(&holder.name),
        None => CancellationToken::new(),
    };
    let stranger = holder.is_none();
    if !stranger {
        platform.cluster().note_reached(reached);
    }
    let peer = Peer { address, holder };
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let io = TokioIo::new(Cuttable { io: stream, cut: Box::pin(cut.cancelled_owned()) });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(!stranger)
        .serve_connection(io, service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let limited = async {
        match stranger {
            true => tokio::time::sleep(PATIENCE).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = serving.as_mut() => return Ok(ended?),
        () = limited => anyhow::bail!("it took too long to join"),
        () = stop.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    Ok(serving.await?)
}

/// Ends the connections of nodes that are removed, or got another key, as soon as the store says so.
async fn lock_out(platform: &Platform) {
    let mut changes = platform.store().watch("nodes/");
    loop {
        if changes.changed().await.is_none() {
            return std::future::pending().await;
        }
        let Ok(nodes) = platform.nodes().await.inspect_err(|error| {
            tracing::error!(%error, "cannot read the nodes; each request of a node is still checked");
        }) else {
            continue;
        };
        for name in platform.cluster().seats().names() {
            if !nodes.iter().any(|node| node.name == name && node.is_joined()) {
                tracing::info!(node = %name, "cutting the connections of a node that was removed");
                platform.cluster().seats().cut(&name);
            }
        }
    }
}

/// A stream that fails from the moment on that its token is cancelled.
struct Cuttable<S> {
    io: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Cuttable<S> {
    fn check(&mut self, context: &mut std::task::Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node was removed")),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cuttable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cuttable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The reader waits for the token; here a look is enough.
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
