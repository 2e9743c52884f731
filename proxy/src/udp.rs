//! UDP routes: a port of the proxy whose datagrams go to an app's containers, those of one client to the same one.
//!
//! In: datagrams. Out: the same datagrams, and the answers. A client's address is a flow: it has a backend and a socket of
//! its own, connected to that backend alone, until it is silent for long, its container refuses it, or the container left
//! the routes and its time to drain is over. New flows go to containers that are routed now.

use crate::stats::Account;
use crate::table::Target;
use crate::upstream::{self, Choice, Lease};
use crate::worker::{Counted, Worker};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Result};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Flows of one port on one thread.
const MAX_FLOWS: usize = 4096;
/// Largest datagram there is.
const MAX_DATAGRAM: usize = 65_535;
/// Datagrams read before others get their turn.
const BATCH: usize = 64;
/// How often flows are looked at.
const TICK: Duration = Duration::from_secs(1);

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into_boxed_slice());
}

/// A port on one thread.
struct Port {
    worker: Arc<Worker>,
    socket: UdpSocket,
    port: u16,
    epoch: Instant,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
}

/// One client's datagrams.
struct Flow {
    client: SocketAddr,
    lease: Lease,
    app: UdpSocket,
    /// Milliseconds after the port's epoch.
    used: AtomicU64,
    /// The same, of when its container was seen to have left the routes; 0 before.
    leaving: AtomicU64,
    /// The app refused it.
    refused: AtomicBool,
    received: AtomicU64,
    sent: AtomicU64,
    end: CancellationToken,
    account: Account,
    _counted: (Counted, Counted),
}

impl Drop for Flow {
    fn drop(&mut self) {
        let (received, sent) = (*self.received.get_mut(), *self.sent.get_mut());
        self.account.moved(received, sent);
    }
}

/// Serves `socket` until `stop` fires.
pub(crate) async fn serve(worker: Arc<Worker>, socket: UdpSocket, port: u16, stop: CancellationToken) {
    let port = Arc::new(Port { worker, socket, port, epoch: Instant::now(), flows: Mutex::default() });
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = port.socket.readable() => {
                if ready.is_ok() {
                    port.receive();
                    tokio::task::yield_now().await;
                }
            }
            _ = ticks.tick() => port.sweep(),
            () = stop.cancelled() => break,
        }
    }
    port.flows().drain().for_each(|(_, flow)| flow.end.cancel());
}

impl Port {
    fn flows(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner) // a map of flows is right after any panic
    }

    fn now(&self) -> u64 {
        crate::io::micros(self.epoch.elapsed()) / 1000
    }

    /// Passes on what clients have sent.
    fn receive(self: &Arc<Self>) {
        SPACE.with_borrow_mut(|space| {
            for _ in 0..BATCH {
                match self.socket.try_recv_from(space) {
                    Ok((count, client)) => {
                        if let Some(flow) = self.flow(client) {
                            flow.used.store(self.now(), Ordering::Relaxed);
                            flow.received.fetch_add(count as u64, Ordering::Relaxed);
                            // A full socket loses datagrams, as any network may.
                            if let Err(error) = flow.app.try_send(&space[..count]) {
                                self.failed(&flow, &error);
                            }
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(_) => {} // what an earlier answer came to
                }
            }
        });
    }

    /// The flow of a client, made if there is none.
    fn flow(self: &Arc<Self>, client: SocketAddr) -> Option<Arc<Flow>> {
        if let Some(flow) = self.flows().get(&client)
            && !flow.refused.load(Ordering::Relaxed)
        {
            return Some(flow.clone());
        }
        if let Some(refused) = self.flows().remove(&client) {
            refused.end.cancel();
        }
        if self.flows().len() >= MAX_FLOWS || !self.worker.has_room_for_flow() {
            return None;
        }
        let flow = Arc::new(self.open(client)?);
        self.flows().insert(client, flow.clone());
        tokio::spawn(answers(self.clone(), flow.clone()));
        Some(flow)
    }

    fn open(&self, client: SocketAddr) -> Option<Flow> {
        for _ in 0..4 {
            let route = self.worker.shared.table.load().udp.get(&self.port)?.clone();
            let Target::Backends(backends) = &route.target else { return None };
            let lease = match upstream::choose(backends, &[], self.worker.random()) {
                Choice::Leased(lease) => lease,
                Choice::Stale => continue,
                Choice::Full | Choice::Exhausted => return None,
            };
            let app = connect(lease.backend.name.address)
                .inspect_err(|error| tracing::warn!(%error, "cannot make a socket for a UDP flow"))
                .ok()?;
            let counted = (self.worker.count_connection(), self.worker.count_tunnel());
            let (end, used) = (CancellationToken::new(), AtomicU64::new(self.now()));
            return Some(Flow {
                client,
                lease,
                app,
                used,
                leaving: AtomicU64::new(0),
                refused: AtomicBool::new(false),
                received: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                end,
                account: route.stats.enter(self.worker.index),
                _counted: counted,
            });
        }
        None
    }

    fn failed(&self, flow: &Flow, error: &std::io::Error) {
        if error.kind() == ErrorKind::ConnectionRefused {
            flow.lease.backend.failed(); // nothing listens there: others are preferred
            flow.refused.store(true, Ordering::Relaxed);
        }
    }

    /// Ends flows that are over.
    fn sweep(&self) {
        let now = self.now();
        let settings = &self.worker.shared.settings;
        let idle = crate::io::micros(settings.udp_idle) / 1000;
        let drain = crate::io::micros(settings.drain) / 1000;
        self.flows().retain(|_, flow| {
            if flow.lease.backend.is_gone() {
                let _ = flow.leaving.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
            }
            let leaving = flow.leaving.load(Ordering::Relaxed);
            let over = leaving > 0 && now.saturating_sub(leaving) > drain;
            let silent = now.saturating_sub(flow.used.load(Ordering::Relaxed)) > idle;
            let stays = !over && !silent && !flow.refused.load(Ordering::Relaxed);
            if !stays {
                flow.end.cancel();
            }
            stays
        });
    }
}

/// A socket that sends to and hears from `address` alone.
fn connect(address: SocketAddr) -> Result<UdpSocket> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Passes the answers of a flow's container on to its client.
async fn answers(port: Arc<Port>, flow: Arc<Flow>) {
    loop {
        tokio::select! {
            ready = flow.app.readable() => if ready.is_err() { return },
            () = flow.end.cancelled() => return,
        }
        SPACE.with_borrow_mut(|space| {
            for _ in 0..BATCH {
                match flow.app.try_recv(space) {
                    Ok(count) => {
                        flow.used.store(port.now(), Ordering::Relaxed);
                        flow.sent.fetch_add(count as u64, Ordering::Relaxed);
                        let _ = port.socket.try_send_to(&space[..count], flow.client);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(error) => return port.failed(&flow, &error),
                }
            }
        });
        if flow.refused.load(Ordering::Relaxed) {
            return;
        }
        tokio::task::yield_now().await;
    }
}
