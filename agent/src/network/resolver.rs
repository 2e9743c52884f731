//! Name resolution of containers.
//!
//! In: the node's `resolv.conf`. Out: the containers' one, and, when the node's own resolver is out of their reach (it
//! listens on loopback, on an address of the node itself, on a link-local one or on IPv6), a small forwarder on the
//! gateway address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Queries forwarded at one time; more are dropped, and the client asks again.
const PARALLEL: usize = 256;
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Name servers that glibc looks at (`resolv.conf(5)`, MAXNS).
const MAX_SERVERS: usize = 3;

/// How containers resolve names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// What their `resolv.conf` names; empty for the gateway.
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
    /// Whether the forwarder must run.
    #[must_use]
    pub fn needs_forwarder(&self) -> bool {
        self.direct.is_empty()
    }

    /// The containers' `/etc/resolv.conf`.
    #[must_use]
    pub fn file(&self, gateway: Ipv4Addr) -> String {
        let servers = if self.direct.is_empty() { vec![gateway] } else { self.direct.clone() };
        let servers = servers.iter().map(|server| format!("nameserver {server}\n"));
        servers.chain(self.rest.iter().map(|line| format!("{line}\n"))).collect()
    }
}

/// Forwards queries that arrive on port 53 of `listen` to the first of `upstream` that answers, until `stop` fires.
pub async fn forward(
    listen: Ipv4Addr,
    upstream: Vec<IpAddr>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let udp = Arc::new(UdpSocket::bind((listen, 53)).await?);
    let tcp = TcpListener::bind((listen, 53)).await?;
    let upstream: Arc<[SocketAddr]> =
        upstream.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
    let slots = Arc::new(Semaphore::new(PARALLEL));
    let mut buffer = vec![0_u8; 4096];
    loop {
        // Every arm is cancel-safe.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = udp.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let (query, upstream, udp) = (buffer[..length].to_vec(), upstream.clone(), udp.clone());
                tokio::spawn(async move {
                    if let Some(answer) = ask(&query, &upstream).await {
                        let _ = udp.send_to(&answer, from).await;
                    }
                    drop(slot);
                });
            }
            accepted = tcp.accept() => {
                let Ok((mut client, _)) = accepted else { continue };
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    for server in upstream.iter() {
                        if let Ok(Ok(mut server)) = tokio::time::timeout(TIMEOUT, TcpStream::connect(server)).await {
                            let copy = tokio::io::copy_bidirectional(&mut client, &mut server);
                            let _ = tokio::time::timeout(TIMEOUT * 6, copy).await;
                            break;
                        }
                    }
                    drop(slot);
                });
            }
        }
    }
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
    fn a_reachable_server_is_used_as_it_is() {
        let found = decide("nameserver 10.255.255.53\nsearch lan\n", None, &[]);
        assert!(!found.needs_forwarder());
        assert_eq!(found.file(Ipv4Addr::new(10, 0, 0, 1)), "nameserver 10.255.255.53\nsearch lan\n");
    }

    #[test]
    fn a_stub_on_loopback_gives_way_to_its_upstreams() {
        let found = decide("nameserver 127.0.0.53\n", Some("nameserver 192.0.2.9\n"), &[]);
        assert_eq!(found.direct, [Ipv4Addr::new(192, 0, 2, 9)]);
    }

    #[test]
    fn servers_out_of_reach_need_the_forwarder() {
        let own = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];
        for conf in [
            "nameserver 127.0.0.1",
            "nameserver 192.0.2.2",
            "nameserver 169.254.169.253",
            "nameserver ::1",
            "",
        ] {
            let found = decide(conf, None, &own);
            assert!(found.needs_forwarder(), "{conf:?}");
            assert!(!found.upstream.is_empty());
            assert_eq!(found.file(Ipv4Addr::new(10, 0, 0, 1)), "nameserver 10.0.0.1\n");
        }
    }
}
