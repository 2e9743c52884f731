//! Raw TCP routes: a port of the proxy whose connections go to one of an app's containers.
//!
//! In: the table's ports. Out: listeners on all threads for exactly those ports, connections copied both ways. Idle
//! connections stay open; the end of each side is passed on.

use crate::connection::keep_alive;
use crate::listen;
use crate::table::{Route, Table, Target};
use crate::tunnel::{self, Moved};
use crate::upstream::{self, Choice, Lease};
use crate::worker::{Worker, pause_after};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Backends tried for one connection.
const MAX_ATTEMPTS: usize = 4;

/// The ports that are listened on.
pub(crate) struct Ports {
    workers: Vec<(Arc<Worker>, Handle)>,
    /// The HTTP listener's: routes open their ports on the same address.
    http: SocketAddr,
    open: BTreeMap<u16, CancellationToken>,
    pub(crate) errors: BTreeMap<u16, String>,
}

impl Ports {
    pub(crate) fn new(workers: Vec<(Arc<Worker>, Handle)>, http: SocketAddr) -> Self {
        Self { workers, http, open: BTreeMap::new(), errors: BTreeMap::new() }
    }

    /// Listens on the table's ports and no others. Ports that fail are tried again at the next call.
    pub(crate) fn reconcile(&mut self, table: &Table) {
        self.open.retain(|port, stop| {
            let wanted = table.tcp.contains_key(port);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        self.errors.clear();
        for port in table.tcp.keys() {
            if self.open.contains_key(port) {
                continue;
            }
            match self.listen(*port) {
                Ok(stop) => {
                    tracing::info!(port, "listening for a TCP route");
                    self.open.insert(*port, stop);
                }
                Err(error) => {
                    tracing::debug!(port, %error, "cannot listen for a TCP route");
                    self.errors.insert(*port, error.to_string());
                }
            }
        }
    }

    fn listen(&self, port: u16) -> std::io::Result<CancellationToken> {
        let stop = CancellationToken::new();
        let sockets = listen::bind_port(SocketAddr::new(self.http.ip(), port), self.workers.len())?;
        for (socket, (worker, runtime)) in sockets.into_iter().zip(&self.workers) {
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(socket)?;
            runtime.spawn(accept(worker.clone(), listener, port, stop.clone()));
        }
        Ok(stop)
    }
}

async fn accept(worker: Arc<Worker>, listener: TcpListener, port: u16, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
            () = worker.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(worker.clone(), stream, port));
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn serve(worker: Arc<Worker>, client: TcpStream, port: u16) {
    let counted = (worker.count_connection(), worker.count_tunnel());
    let Some((lease, app, route)) = reach(&worker, port).await else { return };
    if client.set_nodelay(true).is_err() {
        return; // it is gone already
    }
    keep_alive(&client);
    let account = route.stats.enter(worker.index);
    let mut moved = Moved::default();
    tokio::select! {
        () = tunnel::run(&client, &app, (None, None), &mut moved) => {}
        () = worker.end_tunnels.cancelled() => {}
    }
    account.moved(moved.received, moved.sent);
    drop((lease, app, client));
    drop(counted);
}

/// Connects to one of the backends of `port`.
async fn reach(worker: &Worker, port: u16) -> Option<(Lease, TcpStream, Arc<Route>)> {
    let mut tried = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        let route = worker.shared.table.load().tcp.get(&port)?.clone();
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
