//! The routing proxy: host or port → one of an app's containers, byte for byte and never the wrong one.
//!
//! In: connections of clients, the controller's [`RouteTable`](berth_model::route::RouteTable). Out: answers of apps,
//! an access log, and what is still draining. Requests flow `listen` → `worker` → `connection` → `head` → `table` →
//! `exchange` (`upstream`, `chunk`, `reply`) or `static_files`; `tcp` and `tunnel` move raw bytes; `control` talks to the
//! controller, without which everything goes on.

mod access_log;
mod balance;
mod buffer;
mod chunk;
mod connection;
mod control;
mod exchange;
mod exchange2;
mod fairness;
mod fields;
mod front2;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod head;
mod health;
mod hosts;
mod io;
mod listen;
mod media;
mod meter;
mod metrics;
mod pages;
mod policy;
mod proxy_protocol;
mod reply;
mod search;
mod settings;
mod site_path;
mod site_rules;
mod sni;
mod static_files;
mod stats;
mod table;
mod tcp;
mod tls;
mod trace_context;
mod traffic;
mod tunnel;
mod udp;
mod upstream;
mod upstream2;
mod worker;

pub use proxy_protocol::{Network, NoNetwork};
pub use settings::Settings;

use crate::handover::Kept;
use anyhow::Context;
use berth_model::NodeName;
use berth_model::route::{AccessLogFormat, ProxyStatus, RouteTable};
use berth_model::tls::CertificateTable;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use worker::{Shared, Worker};

/// What one proxy is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory; the proxy's own part is `proxy/` in it.
    pub data: PathBuf,
    /// The machine it runs on; its name in reports.
    pub node: NodeName,
    /// Where it listens for HTTP, unless listening sockets were inherited.
    pub http: SocketAddr,
    /// Where it listens for HTTPS; not at all if not given nor inherited.
    pub https: Option<SocketAddr>,
    /// Take the sockets over from the proxy that runs on `data`, and let it end.
    pub take_over: bool,
    /// Threads; as many as CPUs if not given.
    pub threads: Option<usize>,
    /// Where scrapers of metrics are answered, without a password; nowhere if not given.
    pub metrics: Option<SocketAddr>,
    /// How the access log is written unless the route table says otherwise.
    pub access_log: AccessLogFormat,
}

/// Whether the proxy of this data directory has ever had routes: it keeps the last ones there, once it serves them.
#[must_use]
pub fn has_routes(data: &std::path::Path) -> bool {
    control::table_path(data).exists()
}

/// Serves until `stop` fires and what was in flight has ended. Blocks; makes its own threads.
#[expect(clippy::needless_pass_by_value, reason = "every role is called so")]
pub fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings { access_log: options.access_log, ..Settings::default() };
    Proxy::open(options, settings)?.serve(&stop)
}

/// A proxy that listens, and serves once told to.
#[derive(Debug)]
pub struct Proxy {
    options: Options,
    shared: Arc<Shared>,
    sockets: listen::Sockets,
    /// For a successor.
    kept: Arc<Kept>,
    /// What a predecessor had open for routes.
    taken: Kept,
    wanted: tls::wanted::Names,
    lock: File,
}

/// A view of a running proxy for its own process: tests and benchmarks.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    node: NodeName,
}

impl Handle {
    /// Serves `routes` from now on, as if the controller had sent them.
    pub fn apply(&self, routes: &RouteTable) {
        self.shared.apply(routes);
    }

    /// Presents `certificates` from now on, as if the controller had sent them.
    pub fn present(&self, certificates: &CertificateTable) {
        self.shared.present(certificates);
    }

    /// What would be reported to the controller now, ports aside.
    #[must_use]
    pub fn status(&self) -> ProxyStatus {
        control::status(&self.shared, &self.node)
    }
}

impl Proxy {
    /// Takes the lock, the sockets and the last route table.
    ///
    /// Errors: another proxy runs on this data directory, or the address cannot be listened on.
    pub fn open(options: Options, settings: Settings) -> anyhow::Result<Self> {
        let folder = options.data.join("proxy");
        make_folder(&folder)?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = options.threads.unwrap_or(cpus).clamp(1, 256);
        let elder = match options.take_over {
            true => Some(handover::Taken::ask(&handover_path(&options.data))?),
            false => None,
        };
        let lock = if elder.is_none() { Some(take_lock(&folder.join("lock"))?) } else { None };
        let (elder, taken, mut sockets) = match elder {
            Some((elder, taken)) => {
                let sockets = listen::taken(&taken, options.http, options.https, threads)?;
                (Some(elder), taken, sockets)
            }
            None => (None, Kept::default(), listen::open(options.http, options.https, threads)?),
        };
        let kept = Arc::new(Kept::default());
        sockets.keep(&kept);
        let https = sockets.https.as_ref().map(|bound| bound.address.port());
        let mut bases = vec![std::path::absolute(&options.data)?];
        bases.extend(options.data.canonicalize());
        let most = settings.max_connections.map_or(max_connections(threads), |most| (most / threads).max(4));
        let (shared, wanted) =
            Shared::new(settings, bases, threads, most, https).context("cannot set TLS up")?;
        if let Some(routes) = control::load::<RouteTable>(&control::table_path(&options.data)) {
            shared.apply(&routes.seen_from(&options.node));
        }
        if let Some(certificates) = control::load(&control::certificates_path(&options.data)) {
            shared.present(&certificates);
        }
        if let Some(elder) = elder {
            elder.ready()?;
        }
        let lock = match lock {
            Some(lock) => lock,
            None => take_lock(&folder.join("lock"))?,
        };
        Ok(Self { options, shared: Arc::new(shared), sockets, kept, taken, wanted, lock })
    }

    /// Where it listens for HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.sockets.http.address
    }

    /// Where it listens for HTTPS.
    #[must_use]
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.sockets.https.as_ref().map(|bound| bound.address)
    }

    /// A view that outlives the call of [`Self::serve`].
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone(), node: self.options.node.clone() }
    }

    /// Serves until `stop` fires and what was in flight has ended, or its time is over.
    pub fn serve(self, stop: &CancellationToken) -> anyhow::Result<()> {
        let Self { options, shared, sockets, kept, taken, wanted, lock } = self;
        let log = options.data.join("proxy/access.log");
        let (sink, log_writer) = access_log::start(log.clone(), &shared.settings)
            .with_context(|| format!("cannot open the access log {}", log.display()))?;
        let halt = stop.child_token();
        let address = sockets.http.address;
        let https = sockets.https.as_ref().map(|bound| bound.address);
        let mut by_thread = sockets.by_thread();
        let control = runtime()?;
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..shared.threads {
            let worker = Arc::new(Worker::new(index, shared.clone(), sink.clone(), halt.child_token()));
            let runtime = runtime()?;
            let listeners = by_thread.next().into_iter().flatten().map(|bound| {
                let _entered = runtime.enter();
                bound.register()
            });
            let listeners = listeners.collect::<std::io::Result<Vec<_>>>();
            let listeners = listeners.context("cannot register a listening socket")?;
            workers.push((worker.clone(), runtime.handle().clone()));
            let thread = std::thread::Builder::new().name(format!("proxy-{index}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(worker.run(listeners));
                runtime.shutdown_background(); // what is left was given its time
            })?);
        }
        let source = metrics::Source {
            shared: shared.clone(),
            workers: workers.iter().map(|(worker, _)| Arc::downgrade(worker)).collect(),
            lost: sink.lost().clone(),
            started: access_log::unix_time().as_secs(),
        };
        drop(sink);
        tracing::info!(%address, https = https.map(tracing::field::display), threads = threads.len(), "the proxy is listening");
        notify_supervisor();
        control.block_on(async {
            let ports = tcp::Ports::new(workers, address, kept.clone(), taken);
            let client = control::client(&options.data);
            let routes = tokio::spawn(control::follow_routes(
                shared.clone(),
                client.clone(),
                options.node.clone(),
                control::table_path(&options.data),
            ));
            let certificates = tokio::spawn(control::follow_certificates(
                shared.clone(),
                client.clone(),
                control::certificates_path(&options.data),
            ));
            let wishes = tokio::spawn(control::pass_on_wishes(client.clone(), wanted));
            let wakes = tokio::spawn(control::pass_on_wakes(shared.clone(), client.clone()));
            let checks = tokio::spawn(health::check(shared.clone()));
            let traffic = tokio::spawn(traffic::report(shared.clone(), client.clone(), &options.node));
            let metrics = options.metrics.map(|at| tokio::spawn(metrics::serve(at, source)));
            let (leave, left) = oneshot::channel();
            let report = tokio::spawn(control::report(
                shared.clone(),
                client.clone(),
                options.node.clone(),
                ports,
                left,
            ));
            let offer = handover::Offer::open(&handover_path(&options.data));
            let offer = offer
                .inspect_err(|error| tracing::error!(%error, "no successor can take over without a gap"));
            tokio::select! {
                () = stop.cancelled() => {}
                () = given_away(offer.ok(), &kept) => {
                    tracing::info!("a successor serves; ending what is in flight");
                    shared.give_way();
                    // Before the successor speaks: what is in flight here must never seem to have ended.
                    control::say(&shared, &client, &options.node).await;
                }
            }
            kept.clear();
            shared.begin_stopping();
            halt.cancel();
            wishes.abort();
            if let Some(metrics) = metrics {
                metrics.abort(); // its address is free for a successor
            }
            if !shared.gave_way() {
                routes.abort();
                certificates.abort();
                wakes.abort();
                checks.abort();
                traffic.abort();
            }
            // A successor may start now; from here on this one only writes its last log lines.
            if let Err(error) = lock.unlock() {
                tracing::warn!(%error, "cannot give the lock to a successor");
            }
            let joined = tokio::task::spawn_blocking(move || {
                threads.into_iter().map(std::thread::JoinHandle::join).filter(Result::is_err).count()
            });
            if joined.await.unwrap_or(1) > 0 {
                tracing::error!("a thread of the proxy ended by a panic");
            }
            let _ = leave.send(()); // it ended by itself otherwise, by a panic that was reported
            let _ = report.await; // its view of the workers must be gone before the log can end
        });
        control.shutdown_background();
        if log_writer.join().is_err() {
            tracing::error!("the access log's thread ended by a panic");
        }
        tracing::info!("the proxy has stopped");
        Ok(())
    }
}

/// Resolves once a successor has taken the sockets.
async fn given_away(offer: Option<handover::Offer>, kept: &Kept) {
    match offer {
        Some(offer) => offer.taken(|| kept.copies()).await,
        None => std::future::pending().await,
    }
}

/// Tells systemd, or whoever keeps this process, that it serves and is the main one now (`sd_notify(3)`).
fn notify_supervisor() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => UnixAddress::from_abstract_name(name),
        _ => UnixAddress::from_pathname(&place),
    };
    let message = format!("READY=1\nMAINPID={}\n", std::process::id());
    let sent =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the supervisor that the proxy serves");
    }
}

/// Where a successor asks.
fn handover_path(data: &Path) -> PathBuf {
    data.join("proxy/handover.sock")
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot make a runtime")
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))
}

/// Locks `path`, waiting a little for a predecessor that is stopping.
fn take_lock(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(50)); // flock(2) knows no wait with a limit
            }
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!("another proxy runs on this data directory: it holds {}", path.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// Raises the limit on open files to what is allowed; a request takes two.
fn max_connections(threads: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    let files = limit.ok().and_then(|files| usize::try_from(files).ok()).unwrap_or(1024);
    (files.saturating_sub(64) / 2 / threads).max(16)
}
