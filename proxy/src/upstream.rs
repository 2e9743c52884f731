//! Backends: which one gets a request, and the connections kept to it.
//!
//! In: the backends of a route. Out: a [`Lease`] on one, and a connection that was made to this very life of this very
//! container. A backend is named by (container, incarnation, address); its connections live in slots of the backend
//! itself, one slot a thread, so no other backend can ever be handed one of them.

use crate::connection::keep_alive;
use crate::io;
use crate::policy::keep::AppState;
use crate::settings::{MAX_IDLE_UPSTREAM, Settings};
use crate::upstream2::Pool;
use berth_model::policy::Circuit;
use berth_model::ports::AppProtocol;
use berth_model::route;
use berth_model::traffic::ContainerAnswers;
use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Longest time a backend that refuses connections is passed over.
const MAX_EJECTION: Duration = Duration::from_secs(8);
/// How long an app may be silent before the kernel asks whether its machine is there; 6 s later it is gone.
const ASKED_AFTER: Duration = Duration::from_secs(8);
/// How long a machine may leave unconfirmed what was sent to it, before it is gone: as long as unanswered questions take.
/// While something is unconfirmed, the kernel asks none (`TCP_USER_TIMEOUT`, man 7 tcp).
const UNCONFIRMED: Duration = Duration::from_secs(14);
/// A machine's kernel confirms so much of a request whether or not the app reads it. Of what is longer, a part may rightly
/// wait for the app, and would look unconfirmed as well.
pub(crate) const CONFIRMED_UNREAD: u64 = 16 << 10;

/// One life of one container, as long as anything refers to it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) name: route::Backend,
    born: Instant,
    in_flight: AtomicU64,
    /// It left the route table: it gets nothing new.
    gone: AtomicBool,
    failures: AtomicU32,
    /// Milliseconds after `born` until which others are preferred.
    ejected_until: AtomicU64,
    /// Failures in a row as its circuit breaker counts them.
    broken: AtomicU32,
    /// Milliseconds after `born`: nothing goes to it until then, one request to try it after that; 0 is closed.
    open_until: AtomicU64,
    /// Milliseconds after `born` until which a request is trying it.
    trial_until: AtomicU64,
    /// Its active checks fail.
    unwell: AtomicBool,
    /// Requests since this was last asked, where they are counted, and those that went wrong.
    counted: [AtomicU64; 2],
    slots: Box<[Mutex<Vec<Idle>>]>,
    /// Connections of HTTP/2, if that is what it speaks.
    pub(crate) http2: Pool,
    /// Told when the count of a gone one falls.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    patient: bool,
    since: Instant,
}

fn lock(slot: &Mutex<Vec<Idle>>) -> MutexGuard<'_, Vec<Idle>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner) // a list of sockets is right after any panic
}

impl Backend {
    pub(crate) fn new(name: route::Backend, threads: usize, changed: Arc<Notify>) -> Self {
        Self {
            born: Instant::now(),
            in_flight: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            broken: AtomicU32::new(0),
            open_until: AtomicU64::new(0),
            trial_until: AtomicU64::new(0),
            unwell: AtomicBool::new(false),
            counted: Default::default(),
            slots: (0..threads).map(|_| Mutex::default()).collect(),
            http2: Pool::new(if name.protocol == AppProtocol::H2c { threads } else { 0 }),
            name,
            changed,
        }
    }

    /// Requests, tunnels and raw connections it has now.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// It left the route table: nothing new goes to it, and its idle connections are closed.
    pub(crate) fn retire(&self) {
        self.gone.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            lock(slot).clear();
        }
        self.http2.clear();
    }

    /// It left the route table.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// How long it has been known.
    pub(crate) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    fn now_ms(&self) -> u64 {
        io::micros(self.born.elapsed()) / 1000
    }

    /// Whether others are preferred just now.
    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > self.now_ms()
    }

    /// Others are preferred: it refused connections, its checks fail, or its circuit is open.
    pub(crate) fn is_passed_over(&self) -> bool {
        if self.is_ejected() || self.unwell.load(Ordering::Relaxed) {
            return true;
        }
        let until = self.open_until.load(Ordering::Relaxed);
        until != 0 && (until > self.now_ms() || self.trial_until.load(Ordering::Relaxed) > self.now_ms())
    }

    /// What its active checks say.
    pub(crate) fn set_well(&self, well: bool) {
        self.unwell.store(!well, Ordering::Relaxed);
    }

    /// Counts for its circuit breaker: after enough failures in a row, or a failed trial, it is left alone.
    pub(crate) fn judged(&self, well: bool, circuit: &Circuit) {
        if well {
            if self.broken.load(Ordering::Relaxed) != 0 {
                self.broken.store(0, Ordering::Relaxed);
                self.open_until.store(0, Ordering::Relaxed);
            }
            return;
        }
        let failures = self.broken.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures >= circuit.failures {
            self.open_until.store(self.now_ms() + circuit.open_ms.max(1), Ordering::Relaxed);
            self.trial_until.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a request that it got.
    pub(crate) fn count(&self, well: bool) {
        self.counted[0].fetch_add(1, Ordering::Relaxed);
        if !well {
            self.counted[1].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted since the last call.
    pub(crate) fn take_counts(&self) -> ContainerAnswers {
        let [requests, errors] = &self.counted;
        if requests.load(Ordering::Relaxed) == 0 {
            return ContainerAnswers::default();
        }
        let errors = errors.swap(0, Ordering::Relaxed);
        ContainerAnswers { requests: requests.swap(0, Ordering::Relaxed), errors }
    }

    /// It could not be connected to, or died under a request: others are preferred for a while.
    pub(crate) fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(4);
        let pause = MAX_EJECTION.min(Duration::from_millis(500) * 2_u32.pow(failures));
        let until = io::micros(self.born.elapsed() + pause) / 1000;
        self.ejected_until.store(until.max(1), Ordering::Relaxed);
    }

    /// It answered.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// Closes idle connections of `thread` that are too old or that the app has closed. True if some are left.
    pub(crate) fn sweep(&self, thread: usize, settings: &Settings) -> bool {
        let Some(slot) = self.slots.get(thread) else { return false };
        let warm = self.http2.sweep(thread, settings);
        let mut slot = lock(slot);
        slot.retain(|idle| idle.since.elapsed() < settings.upstream_idle && !has_woken(&idle.stream));
        warm || !slot.is_empty()
    }
}

/// Whether the poller has seen anything on an idle connection; no system call when it has not.
fn has_woken(stream: &TcpStream) -> bool {
    let look = || if io::has_spoken(stream) { Ok(()) } else { Err(Error::from(ErrorKind::WouldBlock)) };
    stream.try_io(Interest::READABLE, look).is_ok()
}

/// The right to send one request to a backend, counted as in flight until dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) backend: Arc<Backend>,
    /// Whose requests wait for room, if the number in flight is limited.
    limited: Option<Arc<AppState>>,
}

impl Lease {
    /// `None` when the backend has just left the route table. Either this sees that, or the one who swapped the table
    /// sees the count (both sequentially consistent): a container is never stopped under a request nobody counted.
    fn of(backend: &Arc<Backend>) -> Option<Self> {
        backend.in_flight.fetch_add(1, Ordering::SeqCst);
        let lease = Self { backend: backend.clone(), limited: None };
        (!backend.gone.load(Ordering::SeqCst)).then_some(lease)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.in_flight.fetch_sub(1, Ordering::SeqCst);
        if let Some(state) = &self.limited {
            state.freed();
        }
        if self.backend.gone.load(Ordering::SeqCst) {
            self.backend.changed.notify_one();
        }
    }
}

/// What choosing came to.
#[derive(Debug)]
pub(crate) enum Choice {
    Leased(Lease),
    /// The table this was chosen from is not the newest any more: look the route up again.
    Stale,
    /// Every backend has been tried.
    Exhausted,
    /// Those that are left have as many requests as they may.
    Full,
}

/// The right to send one request to `backend`, within a limit of those in flight.
pub(crate) fn lease(
    backend: &Arc<Backend>,
    limit: Option<(u64, &Arc<AppState>)>,
    circuit: Option<&Circuit>,
) -> Choice {
    let Some(mut lease) = Lease::of(backend) else { return Choice::Stale };
    if let Some((most, state)) = limit {
        if backend.in_flight() > most {
            return Choice::Full; // another thread was faster
        }
        lease.limited = Some(state.clone());
    }
    if let Some(circuit) = circuit
        && backend.open_until.load(Ordering::Relaxed) != 0
    {
        backend.trial_until.store(backend.now_ms() + circuit.open_ms.max(1), Ordering::Relaxed);
    }
    Choice::Leased(lease)
}

/// Chooses one of `backends` that is not in `tried`: of two random ones that are well, the one with fewer requests.
pub(crate) fn choose(backends: &[Arc<Backend>], tried: &[Arc<Backend>], random: u64) -> Choice {
    let untried = |backend: &Arc<Backend>| !tried.iter().any(|other| Arc::ptr_eq(other, backend));
    let chosen = match backends {
        [only] if tried.is_empty() => Some(only),
        _ => {
            let well = |backend: &Arc<Backend>| untried(backend) && !backend.is_ejected();
            two_choices(backends, well, random).or_else(|| two_choices(backends, untried, random))
        }
    };
    match chosen {
        None => Choice::Exhausted,
        Some(backend) => Lease::of(backend).map_or(Choice::Stale, Choice::Leased),
    }
}

/// Of two random ones of those that fit, the one with fewer requests.
pub(crate) fn two_choices(
    backends: &[Arc<Backend>],
    fits: impl Fn(&Arc<Backend>) -> bool,
    random: u64,
) -> Option<&Arc<Backend>> {
    let fits = |backend: &&Arc<Backend>| fits(backend);
    let count = backends.iter().filter(fits).count() as u64;
    if count == 0 {
        return None;
    }
    let nth = |n: u64| backends.iter().filter(fits).nth(usize::try_from(n % count).unwrap_or(0));
    let first = nth(random & 0xffff_ffff)?;
    let second = nth(random >> 32)?;
    Some(if second.in_flight() < first.in_flight() { second } else { first })
}

/// A connection to a leased backend.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// It carried a request before: the app may have closed it meanwhile.
    pub(crate) reused: bool,
    /// What was sent may wait for the app for any time.
    patient: bool,
}

impl Connection {
    /// Before a request is sent: whether it is longer than [`CONFIRMED_UNREAD`], or may become so.
    pub(crate) fn send_long(&mut self, long: bool) {
        if self.patient != long {
            bound(&self.stream, if long { None } else { Some(UNCONFIRMED) });
            self.patient = long;
        }
    }
}

/// How long what was sent may stay unconfirmed, or untaken by the app. `None`: for any time.
pub(crate) fn bound(stream: &TcpStream, unconfirmed: Option<Duration>) {
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(unconfirmed) {
        tracing::debug!(%error, "cannot bound how long a machine may be silent");
    }
}

/// An idle connection of `thread` to the leased backend. With `sure`, the socket itself is asked whether the app has
/// closed it: for requests that cannot be sent twice.
pub(crate) fn reuse(lease: &Lease, thread: usize, sure: bool) -> Option<Connection> {
    let mut slot = lock(lease.backend.slots.get(thread)?);
    while let Some(idle) = slot.pop() {
        let dead = if sure { io::has_spoken(&idle.stream) } else { has_woken(&idle.stream) };
        if !dead {
            return Some(Connection { stream: idle.stream, reused: true, patient: idle.patient });
        }
    }
    None
}

/// A new connection to the leased backend.
pub(crate) async fn connect(lease: &Lease, settings: &Settings) -> Result<Connection> {
    connect_within(lease, settings.connect).await
}

/// The same with a time of the route's own.
pub(crate) async fn connect_within(lease: &Lease, within: Duration) -> Result<Connection> {
    let address = lease.backend.name.address;
    let connecting = tokio::time::timeout(within, TcpStream::connect(address));
    let stream = connecting.await.map_err(|_| Error::from(ErrorKind::TimedOut))??;
    // A port of our own that happens to be the target's: TCP simultaneous open with ourselves (dead loopback backend).
    if stream.local_addr()? == address {
        return Err(Error::from(ErrorKind::ConnectionRefused));
    }
    stream.set_nodelay(true)?;
    keep_alive(&stream, ASKED_AFTER);
    bound(&stream, Some(UNCONFIRMED));
    Ok(Connection { stream, reused: false, patient: false })
}

/// Keeps a connection for the next request, unless its backend is gone or has enough of them. True if the thread should
/// sweep this backend from now on.
pub(crate) fn keep(lease: &Lease, thread: usize, connection: Connection) -> bool {
    let Some(slot) = lease.backend.slots.get(thread) else { return false };
    let mut slot = lock(slot);
    // Looked at under the lock: `retire` sets it before it empties the slots.
    if lease.backend.gone.load(Ordering::SeqCst) || slot.len() >= MAX_IDLE_UPSTREAM {
        return false;
    }
    slot.push(Idle { stream: connection.stream, patient: connection.patient, since: Instant::now() });
    slot.len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::ContainerId;

    fn backend(id: &str, port: u16) -> Arc<Backend> {
        let container = ContainerId::parse(id).expect("valid");
        let name = route::Backend {
            container,
            incarnation: 1,
            address: ([127, 0, 0, 1], port).into(),
            protocol: Default::default(),
            proxy_protocol: None,
        };
        Arc::new(Backend::new(name, 1, Arc::default()))
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen_and_the_ejected_is_not() {
        let all = [backend("a", 1), backend("b", 2), backend("c", 3)];
        let Choice::Leased(first) = choose(&all[..2], &[], 0x0000_0001_0000_0000) else {
            panic!("two are there")
        };
        let Choice::Leased(second) = choose(&all[..2], &[], 0x0000_0001_0000_0000) else {
            panic!("two are there")
        };
        assert!(!Arc::ptr_eq(&first.backend, &second.backend));
        all[0].failed();
        all[1].failed();
        for random in 0..64_u64 {
            let Choice::Leased(lease) = choose(&all, &[], random.wrapping_mul(0x1234_5678_9abc_def1)) else {
                panic!("c is well")
            };
            assert_eq!(lease.backend.name.container.as_str(), "c");
        }
        let Choice::Leased(lease) = choose(&all, &[all[2].clone()], 7) else {
            panic!("the ejected are better than none")
        };
        assert_ne!(lease.backend.name.container.as_str(), "c");
        assert!(matches!(choose(&all, &all, 7), Choice::Exhausted));
    }

    #[test]
    fn a_retired_backend_gets_nothing_and_counts_down() {
        let one = [backend("a", 1)];
        let Choice::Leased(lease) = choose(&one, &[], 1) else { panic!("one is there") };
        one[0].retire();
        assert_eq!(one[0].in_flight(), 1);
        assert!(matches!(choose(&one, &[], 1), Choice::Stale));
        assert_eq!(one[0].in_flight(), 1);
        drop(lease);
        assert_eq!(one[0].in_flight(), 0);
    }
}
