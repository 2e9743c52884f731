//! Further ports of the proxy: raw TCP, TLS led by server name, HTTP, UDP.
//!
//! In: the table's ports. Out: sockets on all threads for exactly those ports. Raw connections are copied both ways to one
//! of an app's containers; idle ones stay open, and the end of each side is passed on.

use crate::buffer::Buf;
use crate::handover::Kept;
use crate::io;
use crate::listen;
use crate::proxy_protocol;
use crate::sni::{self, Hello, MAX_HELLO, UNRECOGNIZED_NAME};
use crate::table::{Route, Table, Target};
use crate::tunnel::{self, Moved};
use crate::udp;
use crate::upstream::{self, Choice, Lease};
use crate::worker::{At, Listener, Worker, pause_after};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Backends tried for one connection.
const MAX_ATTEMPTS: usize = 4;

/// What is served at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Raw,
    Named,
    Http { secure: bool },
}

/// A port that is open, or should be.
type Key = (u16, Transport);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Tcp,
    Udp,
}

/// The ports that are listened on.
pub(crate) struct Ports {
    workers: Vec<(Arc<Worker>, Handle)>,
    /// The HTTP listener's: routes open their ports on the same address.
    http: SocketAddr,
    open: BTreeMap<Key, (Kind, CancellationToken)>,
    /// The open ones' sockets, for a successor.
    kept: Arc<Kept>,
    /// What a predecessor had open: used instead of opening anew.
    taken: Kept,
    pub(crate) errors: BTreeMap<u16, String>,
}

/// The ports a table wants.
fn wanted(table: &Table) -> BTreeMap<Key, Kind> {
    let mut wanted = BTreeMap::new();
    wanted.extend(table.udp.keys().map(|port| ((*port, Transport::Udp), Kind::Raw)));
    wanted.extend(
        table.ports.iter().map(|(port, http)| ((*port, Transport::Tcp), Kind::Http { secure: http.secure })),
    );
    wanted.extend(table.tls.keys().map(|port| ((*port, Transport::Tcp), Kind::Named)));
    wanted.extend(table.tcp.keys().map(|port| ((*port, Transport::Tcp), Kind::Raw)));
    wanted
}

impl Ports {
    pub(crate) fn new(
        workers: Vec<(Arc<Worker>, Handle)>,
        http: SocketAddr,
        kept: Arc<Kept>,
        taken: Kept,
    ) -> Self {
        Self { workers, http, open: BTreeMap::new(), kept, taken, errors: BTreeMap::new() }
    }

    /// Listens on the table's ports and no others. Ports that fail are tried again at the next call.
    pub(crate) fn reconcile(&mut self, table: &Table) {
        let wanted = wanted(table);
        self.open.retain(|key, (kind, stop)| {
            let stays = wanted.get(key) == Some(kind);
            if !stays {
                self.kept.take(&name(*key));
                stop.cancel();
            }
            stays
        });
        self.errors.clear();
        for ((port, transport), kind) in wanted {
            if self.open.contains_key(&(port, transport)) {
                continue;
            }
            let opened = match transport {
                Transport::Tcp => self.listen(port, kind),
                Transport::Udp => self.receive(port),
            };
            match opened {
                Ok(stop) => {
                    tracing::info!(port, ?transport, ?kind, "listening for a route");
                    self.open.insert((port, transport), (kind, stop));
                }
                Err(error) => {
                    tracing::debug!(port, ?transport, %error, "cannot listen for a route");
                    self.errors.insert(port, error.to_string());
                }
            }
        }
        if table.known {
            self.taken.clear(); // no route wants the rest
        }
    }

    /// The sockets of a port, and which thread each is for: a predecessor's, or new ones from `bind`.
    fn sockets<T: From<OwnedFd> + Into<OwnedFd>>(
        &self,
        key: Key,
        bind: impl FnOnce() -> std::io::Result<Vec<T>>,
    ) -> std::io::Result<Vec<(usize, T)>> {
        let mut kept = self.taken.take(&name(key));
        if kept.is_empty() {
            kept = bind()?.into_iter().map(Into::into).collect();
        }
        let sockets = listen::spread(&kept, self.workers.len())?;
        self.kept.put(name(key), kept);
        Ok(sockets)
    }

    fn receive(&self, port: u16) -> std::io::Result<CancellationToken> {
        let stop = CancellationToken::new();
        let address = SocketAddr::new(self.http.ip(), port);
        let bind = || listen::bind_udp(address, self.workers.len());
        for (thread, socket) in self.sockets((port, Transport::Udp), bind)? {
            let (worker, runtime) = &self.workers[thread];
            let _entered = runtime.enter();
            let socket = UdpSocket::from_std(socket)?;
            runtime.spawn(udp::serve(worker.clone(), socket, port, ends(worker, &stop)));
        }
        Ok(stop)
    }

    fn listen(&self, port: u16, kind: Kind) -> std::io::Result<CancellationToken> {
        let stop = CancellationToken::new();
        let address = SocketAddr::new(self.http.ip(), port);
        let bind = || listen::bind_port(address, self.workers.len());
        for (thread, socket) in self.sockets((port, Transport::Tcp), bind)? {
            let (worker, runtime) = &self.workers[thread];
            let _entered = runtime.enter();
            let socket = TcpListener::from_std(socket)?;
            let (worker, stop) = (worker.clone(), ends(worker, &stop));
            match kind {
                Kind::Http { secure } => {
                    let at = At { port, further: true, secure };
                    runtime.spawn(worker.accept(Listener { socket, at, inherited: false }, stop));
                }
                Kind::Raw | Kind::Named => {
                    runtime.spawn(accept(worker, socket, port, kind == Kind::Named, stop));
                }
            }
        }
        Ok(stop)
    }
}

/// What a port's sockets are called.
fn name((port, transport): Key) -> String {
    match transport {
        Transport::Tcp => format!("tcp:{port}"),
        Transport::Udp => format!("udp:{port}"),
    }
}

/// Fires when the port is closed or its worker stops.
fn ends(worker: &Worker, port: &CancellationToken) -> CancellationToken {
    let either = port.child_token();
    let (told, closed) = (either.clone(), worker.stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = closed.cancelled() => told.cancel(),
            () = told.cancelled() => {}
        }
    });
    either
}

async fn accept(worker: Arc<Worker>, listener: TcpListener, port: u16, named: bool, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::spawn(serve(worker.clone(), stream, peer, port, named));
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn serve(worker: Arc<Worker>, client: TcpStream, peer: SocketAddr, port: u16, named: bool) {
    let counted = (worker.count_connection(), worker.count_tunnel());
    if client.set_nodelay(true).is_err() {
        return; // it is gone already
    }
    let Some(source) = proxy_protocol::client(&worker, &client, peer).await else { return };
    let (name, early) = match named {
        false => (None, None),
        true => match timeout(worker.shared.settings.header_read, hello(&client)).await {
            Ok(Some((name, bytes))) => (Some(name), Some(bytes)),
            _ => return,
        },
    };
    let find = |table: &Table| match &name {
        None => table.tcp.get(&port).cloned(),
        Some(name) => table.tls.get(&port)?.find(name.as_bytes()).cloned(),
    };
    if name.is_some() && find(&worker.shared.table.load()).is_none() {
        worker.meter().unknown_hosts.add(1);
        let _ = client.try_write(&UNRECOGNIZED_NAME); // it fits into the empty buffer of a new socket, or it is gone
        return;
    }
    let Some((lease, app, route)) = reach(&worker, find).await else { return };
    let account = route.stats.enter(worker.index);
    if let Some(version) = lease.backend.name.proxy_protocol {
        let Ok(destination) = client.local_addr() else { return };
        let header = proxy_protocol::header(version, source, destination);
        if io::write_all(&app, &mut [IoSlice::new(&header)], |_| {}).await.is_err() {
            return;
        }
    }
    let mut moved = Moved::default();
    tokio::select! {
        () = tunnel::run(&client, &app, (early, None), &mut moved) => {}
        () = worker.end_tunnels.cancelled() => {}
    }
    account.moved(moved.received, moved.sent);
    drop((lease, app, client));
    drop(counted);
}

/// Reads until the name in a client's first message is known. `None`: it has none, or makes no sense.
async fn hello(client: &TcpStream) -> Option<(Box<str>, Buf)> {
    let mut buf = Buf::take();
    loop {
        match sni::read(buf.data()) {
            Hello::More if buf.data().len() < MAX_HELLO => {}
            Hello::Name(Some(name)) => return Some((name, buf)),
            Hello::Name(None) => {
                let _ = client.try_write(&UNRECOGNIZED_NAME);
                return None;
            }
            Hello::More | Hello::Malformed => return None,
        }
        let count = io::read(client, buf.space()).await.ok().filter(|count| *count > 0)?;
        buf.filled(count);
    }
}

/// Connects to one of the backends of what `find` finds.
async fn reach(
    worker: &Worker,
    find: impl Fn(&Table) -> Option<Arc<Route>>,
) -> Option<(Lease, TcpStream, Arc<Route>)> {
    let mut tried = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        let route = find(&worker.shared.table.load())?;
        let Target::Backends(backends) = &route.target else { return None };
        let lease = match upstream::choose(backends, &tried, worker.random()) {
            Choice::Leased(lease) => lease,
            Choice::Stale => continue,
            Choice::Exhausted | Choice::Full => return None,
        };
        match upstream::connect(&lease, &worker.shared.settings).await {
            Ok(connection) => {
                lease.backend.succeeded();
                return Some((lease, connection.stream, route));
            }
            Err(error) => {
                tracing::debug!(app = %route.app, container = %lease.backend.name.container, %error, "cannot connect");
                lease.backend.failed();
                tried.push(lease.backend.clone());
            }
        }
    }
    None
}
