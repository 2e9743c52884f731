//! One thread of the data path, and what all of them share.
//!
//! In: listeners, the shared route table, a stop signal. Out: served connections. Each worker has a runtime of one
//! thread, listeners, buffers, log lines and a slot in every backend of its own; only the table and counters are shared.

use crate::access_log::{Lines, Sink};
use crate::connection::{self, Front};
use crate::fairness::{Peers, is_short};
use crate::front2;
use crate::meter::{Meter, Tuning};
use crate::policy::keep::Keep;
use crate::proxy_protocol;
use crate::settings::Settings;
use crate::table::Table;
use crate::tls::certificates::Certificates;
use crate::tls::wanted::{Names, Wanted};
use crate::tls::{self, Configs};
use crate::upstream::{self, Backend, Connection, Lease};
use arc_swap::ArcSwap;
use berth_model::ContainerId;
use berth_model::route::{AccessLogFormat, RouteTable};
use berth_model::tls::CertificateTable;
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often log lines are handed over and idle connections to backends looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long a connection may be idle while connections are short.
const SHORT_IDLE: Duration = Duration::from_secs(5);

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// The names of the data directory: as given, and without symlinks.
    pub(crate) bases: Vec<PathBuf>,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) threads: usize,
    /// Connections one thread serves at most; further ones wait to be accepted.
    pub(crate) max_connections: usize,
    /// Told at every new table, and when the count of a backend that left the table falls.
    pub(crate) changed: Arc<Notify>,
    /// Counts the tables, for requests that wait for another one.
    pub(crate) swaps: watch::Sender<u64>,
    /// What outlives tables.
    pub(crate) keep: Arc<Keep>,
    /// What each thread counts that is no app's.
    pub(crate) meters: Box<[Meter]>,
    tuning: Tuning,
    /// When the table was put in place.
    swapped: Mutex<std::time::Instant>,
    /// What handshakes present; also read through [`Configs`].
    pub(crate) certificates: Arc<ArcSwap<Certificates>>,
    pub(crate) tls: Configs,
    pub(crate) wanted: Wanted,
    /// The port clients reach TLS at, if it is served.
    pub(crate) https: Option<u16>,
    /// Backends that left the table while they had something in flight.
    retired: Mutex<Vec<Arc<Backend>>>,
    stopping: AtomicBool,
    /// A successor has the listening sockets.
    gave_way: AtomicBool,
    /// The table names proxies that are trusted; looked at for every request.
    has_trusted: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        settings: Settings,
        bases: Vec<PathBuf>,
        threads: usize,
        max_connections: usize,
        https: Option<u16>,
    ) -> Result<(Self, Names), rustls::Error> {
        let certificates = Arc::default();
        let tls = Configs::new(&certificates)?;
        let (wanted, names) = Wanted::new();
        let tuning = Tuning::new(settings.access_log);
        let shared = Self {
            settings,
            bases,
            table: ArcSwap::default(),
            threads,
            max_connections,
            changed: Arc::default(),
            swaps: watch::Sender::new(0),
            keep: Arc::new(Keep::new()),
            meters: (0..threads).map(|_| Meter::default()).collect(),
            tuning,
            swapped: Mutex::new(std::time::Instant::now()),
            certificates,
            tls,
            wanted,
            https,
            retired: Mutex::default(),
            stopping: AtomicBool::new(false),
            gave_way: AtomicBool::new(false),
            has_trusted: AtomicBool::new(false),
        };
        Ok((shared, names))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How long the table is in place.
    pub(crate) fn table_age(&self) -> Duration {
        self.swapped.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// How the access log is written now.
    pub(crate) fn access_log_format(&self) -> AccessLogFormat {
        self.tuning.access_log_format()
    }

    /// Whether a request without a trace gets one, and then whether it is marked as sampled.
    pub(crate) fn new_traces(&self) -> Option<bool> {
        self.tuning.new_traces()
    }

    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// A successor has the listening sockets: they are left as they are.
    pub(crate) fn give_way(&self) {
        self.gave_way.store(true, Ordering::SeqCst);
    }

    /// It is stopping and no successor serves: who waits here waits for nothing.
    pub(crate) fn is_over(&self) -> bool {
        self.is_stopping() && !self.gave_way()
    }

    pub(crate) fn gave_way(&self) -> bool {
        self.gave_way.load(Ordering::SeqCst)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<Backend>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner) // a list is right after any panic
    }

    /// Whether `X-Forwarded-*` of this peer is believed.
    pub(crate) fn trusts(&self, peer: std::net::IpAddr) -> bool {
        self.has_trusted.load(Ordering::Relaxed)
            && self.table.load().trusted.iter().any(|network| network.covers(peer))
    }

    /// Serves `routes` from now on. Requests in flight go on; backends that left get nothing new.
    pub(crate) fn apply(&self, routes: &RouteTable) {
        let mut retired = self.retired(); // held throughout: two swaps at once would lose backends
        let before = self.table.load_full();
        let next = Table::build(routes, &before, self.threads, &self.bases, &self.changed, &self.keep);
        let next = Arc::new(next);
        self.has_trusted.store(!next.trusted.is_empty(), Ordering::Relaxed);
        self.tuning.set(&routes.settings);
        self.table.store(next.clone());
        *self.swapped.lock().unwrap_or_else(PoisonError::into_inner) = std::time::Instant::now();
        for backend in before.missing_in(&next) {
            backend.retire();
            retired.push(backend.clone());
        }
        drop(retired);
        self.changed.notify_one();
        self.swaps.send_modify(|count| *count += 1);
    }

    /// Presents `table`'s certificates from now on; connections that are open keep theirs.
    pub(crate) fn present(&self, table: &CertificateTable) {
        let before = self.certificates.load_full();
        let provider = self.tls.serve.crypto_provider();
        self.certificates.store(Arc::new(Certificates::build(table, &before, provider)));
        self.wanted.tell(table.revision);
        self.changed.notify_one();
    }

    /// The containers that left the table and are not done yet, with what they have in flight.
    pub(crate) fn draining(&self) -> BTreeMap<ContainerId, u64> {
        let mut retired = self.retired();
        let table = self.table.load();
        let routed = table.containers();
        let mut counts = BTreeMap::new();
        retired.retain(|backend| {
            let count = backend.in_flight();
            if count > 0 && !routed.contains(&backend.name.container) {
                *counts.entry(backend.name.container.clone()).or_insert(0) += count;
            }
            count > 0
        });
        counts
    }
}

/// One thread of the data path.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lines: Lines,
    /// Stop accepting and end idle connections.
    pub(crate) stop: CancellationToken,
    /// End tunnels and raw connections.
    pub(crate) end_tunnels: CancellationToken,
    random: AtomicU64,
    /// Backends with idle connections of this thread.
    warm: Mutex<Vec<Arc<Backend>>>,
    /// Whose the connections are.
    peers: Arc<Peers>,
    connections: AtomicUsize,
    tunnels: AtomicUsize,
    quiet: Notify,
}

/// Counts one of something until dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    worker: Arc<Worker>,
    count: fn(&Worker) -> &AtomicUsize,
}

impl Counted {
    fn new(worker: &Arc<Worker>, count: fn(&Worker) -> &AtomicUsize) -> Self {
        count(worker).fetch_add(1, Ordering::Relaxed);
        Self { worker: worker.clone(), count }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.count)(&self.worker).fetch_sub(1, Ordering::Relaxed);
        if self.worker.stop.is_cancelled() {
            self.worker.quiet.notify_one();
        }
    }
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, sink: Sink, stop: CancellationToken) -> Self {
        let seed = getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15 ^ index as u64);
        Self {
            index,
            shared,
            lines: Lines::new(sink),
            stop,
            end_tunnels: CancellationToken::new(),
            random: AtomicU64::new(seed | 1),
            warm: Mutex::default(),
            peers: Arc::default(),
            connections: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
            quiet: Notify::new(),
        }
    }

    /// The next of a fair, guessable sequence (xorshift64*): for spreading and naming requests, not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let mut state = self.random.load(Ordering::Relaxed);
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.store(state, Ordering::Relaxed);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 32 hexadecimal digits.
    pub(crate) fn request_id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        for half in id.chunks_exact_mut(16) {
            let bits = self.random().to_be_bytes();
            for (pair, byte) in half.chunks_exact_mut(2).zip(bits) {
                pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
                pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
            }
        }
        id
    }

    /// What this thread counts that is no app's.
    pub(crate) fn meter(&self) -> &Meter {
        &self.shared.meters[self.index]
    }

    /// Connections and, among them, tunnels that are open.
    pub(crate) fn open(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.tunnels.load(Ordering::Relaxed))
    }

    /// How long a client's connection may be idle from now on: not long while connections are short.
    pub(crate) fn idle(&self) -> Duration {
        let idle = self.shared.settings.idle;
        let open = self.connections.load(Ordering::Relaxed);
        if is_short(open, self.shared.max_connections) { idle.min(SHORT_IDLE) } else { idle }
    }

    fn warm(&self) -> MutexGuard<'_, Vec<Arc<Backend>>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection to a backend for this thread's next request.
    pub(crate) fn keep(&self, lease: &Lease, connection: Connection) {
        if upstream::keep(lease, self.index, connection) {
            self.warm_up(&lease.backend);
        }
    }

    /// There are connections of this thread to look after.
    pub(crate) fn warm_up(&self, backend: &Arc<Backend>) {
        let mut warm = self.warm();
        if !warm.iter().any(|known| Arc::ptr_eq(known, backend)) {
            warm.push(backend.clone());
        }
    }

    /// Counts a tunnel or raw connection.
    pub(crate) fn count_tunnel(self: &Arc<Self>) -> Counted {
        Counted::new(self, |worker| &worker.tunnels)
    }

    /// Counts a connection of any kind.
    pub(crate) fn count_connection(self: &Arc<Self>) -> Counted {
        self.meter().accepted.add(1);
        Counted::new(self, |worker| &worker.connections)
    }

    /// Serves `listeners` until stopped, then drains.
    pub(crate) async fn run(self: Arc<Self>, listeners: Vec<Listener>) {
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(self.clone().accept(listener, self.stop.clone())))
            .collect();
        let housekeeping = tokio::spawn(self.clone().keep_house());
        self.stop.cancelled().await;
        let began = Instant::now();
        for task in accepting {
            if let Err(error) = task.await {
                tracing::error!(%error, "an accepting task failed");
            }
        }
        self.drain(began).await;
        housekeeping.abort();
        self.lines.flush();
    }

    async fn drain(&self, began: Instant) {
        let settings = &self.shared.settings;
        // Whoever gives way has time: the successor serves.
        let gave_way = self.shared.gave_way();
        let tunnels = if gave_way { settings.handover_tunnels } else { settings.drain_tunnels };
        let tunnels_end = began + tunnels;
        let end = began + if gave_way { settings.drain.max(tunnels) } else { settings.drain };
        while self.connections.load(Ordering::Relaxed) > 0 {
            let next = if self.end_tunnels.is_cancelled() { end } else { tunnels_end.min(end) };
            tokio::select! {
                () = self.quiet.notified() => {}
                () = tokio::time::sleep_until(next) => {
                    if Instant::now() >= end {
                        let left = self.connections.load(Ordering::Relaxed);
                        tracing::warn!(connections = left, "cut what was still in flight after {:?}", began.elapsed());
                        return;
                    }
                    let tunnels = self.tunnels.load(Ordering::Relaxed);
                    if tunnels > 0 {
                        tracing::info!(tunnels, "ended tunnels after {:?}", began.elapsed());
                    }
                    self.end_tunnels.cancel();
                }
            }
        }
    }

    async fn keep_house(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(HOUSEKEEPING);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.lines.flush();
            let mut warm = self.warm();
            warm.retain(|backend| backend.sweep(self.index, &self.shared.settings));
        }
    }

    /// Whether another connection may be served.
    pub(crate) fn has_room(&self) -> bool {
        self.connections.load(Ordering::Relaxed) < self.shared.max_connections
    }

    /// Whether one more flow of UDP may be served: addresses are forged there, so half is left to others.
    pub(crate) fn has_room_for_flow(&self) -> bool {
        self.connections.load(Ordering::Relaxed) < self.shared.max_connections / 2
    }

    /// Serves what a listener accepts until `stop` fires.
    pub(crate) async fn accept(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        let Listener { socket, at, inherited } = listener;
        loop {
            while !self.has_room() {
                // The kernel's queue holds newcomers meanwhile.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let accepted = tokio::select! {
                biased;
                accepted = socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            self.take(accepted, at).await;
            if stop.is_cancelled() {
                break;
            }
        }
        // What is in an inherited queue goes to the successor; what is in our own would be reset with it.
        if !inherited && !self.shared.gave_way() {
            while let Some(accepted) = socket.accept().now_or_never() {
                let failed = accepted.is_err();
                self.take(accepted, at).await;
                if failed {
                    break;
                }
            }
        }
    }

    async fn take(self: &Arc<Self>, accepted: std::io::Result<(TcpStream, SocketAddr)>, at: At) {
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY"); // it is gone already
                    return;
                }
                let (open, most) = (self.connections.load(Ordering::Relaxed), self.shared.max_connections);
                let balancer = self.shared.settings.speaks_for_others(peer.ip());
                let place = self.peers.enter(peer.ip(), open, most);
                if place.is_none() && !balancer {
                    self.meter().refused(0, "too many connections from one address");
                    return;
                }
                let counted = (self.count_connection(), place);
                let worker = self.clone();
                if at.secure || balancer {
                    tokio::spawn(async move {
                        worker.prepare(stream, peer, at).await;
                        drop(counted);
                    });
                } else {
                    let serving = connection::serve(worker, stream, at.front(peer));
                    tokio::spawn(async move {
                        serving.await;
                        drop(counted);
                    });
                }
            }
            Err(error) => pause_after(&error).await,
        }
    }

    /// Serves a connection that does not begin with a request.
    async fn prepare(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, at: At) {
        // Boxed: these states are large, and short-lived.
        let Some(peer) = Box::pin(proxy_protocol::client(&self, &stream, peer)).await else { return };
        if !at.secure {
            return connection::serve(self, stream, at.front(peer)).await;
        }
        let accepted = Box::pin(tls::accept::accept(&self, stream)).await;
        let meter = self.meter();
        match &accepted {
            None => meter.tls_failed.add(1),
            Some(stream) if stream.is_resumed() => meter.tls_resumed.add(1),
            Some(_) => meter.tls_full.add(1),
        }
        let Some(stream) = accepted else { return };
        let origin = Front { name: stream.server_name(), tls: Some(stream.version()), ..at.front(peer) };
        if stream.is_http2() {
            Box::pin(front2::serve(front2::Connection::new(self, stream, origin), None)).await;
        } else {
            connection::serve(self, stream, origin).await;
        }
    }
}

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) port: u16,
    /// It is none of the main ones.
    pub(crate) further: bool,
    /// Connections begin with a TLS handshake.
    pub(crate) secure: bool,
}

impl At {
    fn front(self, peer: SocketAddr) -> Front {
        Front { peer, port: self.port, listener: self.further.then_some(self.port), name: None, tls: None }
    }
}

/// Waits a little when accepting failed for want of something, such as file descriptors; a connection that was reset
/// before it was accepted is no reason to wait.
pub(crate) async fn pause_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "cannot accept a connection; trying again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A listening socket of one worker.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) at: At,
    /// Someone else holds it too and keeps it open when this process ends.
    pub(crate) inherited: bool,
}
