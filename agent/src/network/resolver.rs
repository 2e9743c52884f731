//! Name resolution of containers.
//!
//! In: the node's `resolv.conf`, queries. Out: the containers' `resolv.conf`, which names the node's gateway address, and answers
//! there: of containers' [`names`](super::names) from the table, of everything else from the node's own servers. While no agent
//! runs, the packet rules send queries to the first of those that containers can reach themselves ([`Resolution::direct`]).

use super::names::{Lookup, Query};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Queries forwarded at one time; more are dropped, and the client asks again.
const PARALLEL: usize = 256;
/// The same of one container.
const PARALLEL_EACH: usize = 64;
/// Longest conversation over TCP.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Name servers that glibc looks at (`resolv.conf(5)`, MAXNS).
const MAX_SERVERS: usize = 3;

/// How containers resolve names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Servers that they reach without the agent.
    pub direct: Vec<Ipv4Addr>,
    /// Where the forwarder asks.
    pub upstream: Vec<IpAddr>,
    /// `search` and `options` lines, as the node has them.
    pub rest: Vec<String>,
}

/// Decides from the node's `resolv.conf`, the one systemd-resolved keeps for its upstreams (if any), and the node's own
/// addresses. Pure.
#[must_use]
pub fn decide(conf: &str, resolved: Option<&str>, own: &[IpAddr]) -> Resolution {
    let servers = |conf: &str| -> Vec<IpAddr> {
        let lines = conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        lines.filter_map(|rest| rest.trim().split('%').next()?.parse().ok()).take(MAX_SERVERS).collect()
    };
    let reachable = |server: &IpAddr| match server {
        IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() && !own.contains(server) => Some(*v4),
        _ => None,
    };
    let listed = servers(conf);
    let behind = resolved.map(servers).unwrap_or_default();
    let mut direct: Vec<Ipv4Addr> = listed.iter().filter_map(reachable).collect();
    if direct.is_empty() {
        direct = behind.iter().filter_map(reachable).collect();
    }
    let upstream = if listed.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { listed };
    let rest = conf.lines().map(str::trim).filter(|l| l.starts_with("search ") || l.starts_with("options "));
    Resolution { direct, upstream, rest: rest.map(str::to_owned).collect() }
}

impl Resolution {
    /// The containers' `/etc/resolv.conf`.
    #[must_use]
    pub fn file(&self, gateway: Ipv4Addr) -> String {
        let rest = self.rest.iter().map(|line| format!("{line}\n"));
        std::iter::once(format!("nameserver {gateway}\n")).chain(rest).collect()
    }
}

/// What names are looked up in.
pub(super) trait Names: Send + Sync + 'static {
    /// What `name` is to the container at `caller`.
    fn lookup(&self, caller: Ipv4Addr, name: &str) -> Lookup;
}

/// Places of those who ask; one container never has more than [`PARALLEL_EACH`].
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    each: Mutex<HashMap<IpAddr, usize>>,
}

/// One place; free again when it is dropped.
struct Place {
    places: Arc<Places>,
    caller: IpAddr,
    _one: OwnedSemaphorePermit,
}

impl Places {
    fn take(self: &Arc<Self>, caller: IpAddr) -> Option<Place> {
        let one = self.all.clone().try_acquire_owned().ok()?;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = each.entry(caller).or_default();
        if *count >= PARALLEL_EACH {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), caller, _one: one })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut each = self.places.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = each.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                each.remove(&self.caller);
            }
        }
    }
}

/// Answers queries that arrive on port 53 of `listen` until `stop` fires: from `names`, or as the first of `upstream` does that
/// answers.
pub(super) async fn serve(
    listen: Ipv4Addr,
    upstream: Vec<IpAddr>,
    names: Arc<dyn Names>,
    stop: CancellationToken,
) -> io::Result<()> {
    let udp = Arc::new(UdpSocket::bind((listen, 53)).await?);
    let tcp = TcpListener::bind((listen, 53)).await?;
    let upstream: Arc<[SocketAddr]> =
        upstream.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
    let places = Arc::new(Places { all: Arc::new(Semaphore::new(PARALLEL)), each: Mutex::default() });
    let mut buffer = vec![0_u8; 4096];
    loop {
        // Every arm is cancel-safe.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = udp.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let query = &buffer[..length];
                if let Some(answer) = answered(&*names, from.ip(), query) {
                    // A full socket buffer loses an answer; the client asks again.
                    let _ = udp.try_send_to(&answer, from);
                    continue;
                }
                let Some(place) = places.take(from.ip()) else { continue };
                let (query, upstream, udp) = (query.to_vec(), upstream.clone(), udp.clone());
                tokio::spawn(async move {
                    if let Some(answer) = ask(&query, &upstream).await {
                        let _ = udp.send_to(&answer, from).await;
                    }
                    drop(place);
                });
            }
            accepted = tcp.accept() => {
                let Ok((client, from)) = accepted else { continue };
                let Some(place) = places.take(from.ip()) else { continue };
                let (upstream, names) = (upstream.clone(), names.clone());
                tokio::spawn(async move {
                    let talk = talk(client, from.ip(), &upstream, &*names);
                    let _ = tokio::time::timeout(LONGEST, talk).await;
                    drop(place);
                });
            }
        }
    }
}

/// The answer to a query about one of our names.
fn answered(names: &dyn Names, caller: IpAddr, message: &[u8]) -> Option<Vec<u8>> {
    let IpAddr::V4(caller) = caller else { return None };
    let query = Query::parse(message)?;
    query.answer(&names.lookup(caller, &query.name))
}

/// Queries over TCP, each after its length (RFC 1035 §4.2.2), one after the other.
async fn talk(
    mut client: TcpStream,
    caller: IpAddr,
    upstream: &[SocketAddr],
    names: &dyn Names,
) -> io::Result<()> {
    loop {
        let query = match tokio::time::timeout(TIMEOUT, message(&mut client)).await {
            Ok(query) => query?,
            Err(_) => return Ok(()),
        };
        let answer = match answered(names, caller, &query) {
            Some(answer) => Some(answer),
            None => ask_tcp(&query, upstream).await,
        };
        let Some(answer) = answer else { return Ok(()) };
        write_message(&mut client, &answer).await?;
    }
}

async fn message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

async fn ask_tcp(query: &[u8], upstream: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in upstream {
        let attempt = async {
            let mut server = TcpStream::connect(server).await?;
            write_message(&mut server, query).await?;
            message(&mut server).await
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(TIMEOUT, attempt).await {
            return Some(answer);
        }
    }
    None
}

async fn ask(query: &[u8], upstream: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in upstream {
        let attempt = async {
            let any: SocketAddr = match server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            // A socket a query: the kernel picks a port nobody can guess and drops what comes from anybody else.
            let socket = UdpSocket::bind(any).await?;
            socket.connect(server).await?;
            socket.send(query).await?;
            let mut answer = vec![0_u8; 65_535];
            loop {
                let length = socket.recv(&mut answer).await?;
                if length >= 2 && answer[..2] == query[..2.min(query.len())] {
                    answer.truncate(length);
                    return Ok::<_, std::io::Error>(answer);
                }
            }
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(TIMEOUT, attempt).await {
            return Some(answer);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reachable_server_stands_in() {
        let found = decide("nameserver 10.255.255.53\nsearch lan\n", None, &[]);
        assert_eq!(found.direct, [Ipv4Addr::new(10, 255, 255, 53)]);
        assert_eq!(found.file(Ipv4Addr::new(10, 0, 0, 1)), "nameserver 10.0.0.1\nsearch lan\n");
    }

    #[test]
    fn a_stub_on_loopback_gives_way_to_its_upstreams() {
        let found = decide("nameserver 127.0.0.53\n", Some("nameserver 192.0.2.9\n"), &[]);
        assert_eq!(found.direct, [Ipv4Addr::new(192, 0, 2, 9)]);
    }

    #[test]
    fn servers_out_of_reach_do_not() {
        let own = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];
        for conf in [
            "nameserver 127.0.0.1",
            "nameserver 192.0.2.2",
            "nameserver 169.254.169.253",
            "nameserver ::1",
            "",
        ] {
            let found = decide(conf, None, &own);
            assert!(found.direct.is_empty(), "{conf:?}");
            assert!(!found.upstream.is_empty());
        }
    }

    #[test]
    fn one_container_does_not_take_every_place() {
        let places = Arc::new(Places { all: Arc::new(Semaphore::new(PARALLEL)), each: Mutex::default() });
        let greedy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
        let taken: Vec<Place> = (0..PARALLEL).filter_map(|_| places.take(greedy)).collect();
        assert_eq!(taken.len(), PARALLEL_EACH);
        assert!(places.take(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3))).is_some());
        drop(taken);
        assert!(places.take(greedy).is_some());
    }
}
