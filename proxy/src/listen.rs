//! Listening sockets: inherited from a supervisor that keeps them while a proxy restarts, or bound here.
//!
//! In: the address, how many threads, and the environment. Out: listening sockets for each thread.
//! Inherited ones come as in `sd_listen_fds(3)`: descriptors from 3 on, counted by `BERTH_LISTEN_FDS` or `LISTEN_FDS`.

use crate::handover::Kept;
use crate::worker::{At, Listener};
use anyhow::{Context, bail};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// The first descriptor that is passed on.
const FIRST: i32 = 3;
/// What listeners are called.
const HTTP: &str = "http";
const HTTPS: &str = "https";
/// Connections the kernel queues for us.
const BACKLOG: i32 = 4096;

/// One address's listeners of each thread, and whether they were inherited.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) by_thread: Vec<Vec<TcpListener>>,
    pub(crate) inherited: bool,
    pub(crate) address: SocketAddr,
    /// The same sockets once more, for a successor.
    kept: Vec<TcpListener>,
}

/// What is listened on from the start to the end.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) http: Bound,
    pub(crate) https: Option<Bound>,
}

impl Sockets {
    /// Puts the same sockets once more to what a successor gets.
    pub(crate) fn keep(&mut self, kept: &Kept) {
        let keep = |name: &str, bound: &mut Bound| {
            let sockets = std::mem::take(&mut bound.kept);
            kept.put(name.to_owned(), sockets.into_iter().map(Into::into).collect());
        };
        keep(HTTP, &mut self.http);
        if let Some(https) = &mut self.https {
            keep(HTTPS, https);
        }
    }

    /// The listeners of each thread.
    pub(crate) fn by_thread(self) -> impl Iterator<Item = Vec<Unregistered>> {
        let Self { http, https } = self;
        let of = |bound: Bound, secure: bool| {
            let Bound { by_thread, inherited, address, kept: _ } = bound;
            let of_thread = move |sockets: Vec<TcpListener>| {
                let one = move |socket| Unregistered { socket, port: address.port(), inherited, secure };
                sockets.into_iter().map(one).collect::<Vec<_>>()
            };
            by_thread.into_iter().map(of_thread)
        };
        let mut tls = https.map(|bound| of(bound, true)).into_iter().flatten();
        of(http, false).map(move |mut plain| {
            plain.extend(tls.next().unwrap_or_default());
            plain
        })
    }
}

/// A listening socket that no runtime knows yet.
#[derive(Debug)]
pub(crate) struct Unregistered {
    socket: TcpListener,
    port: u16,
    inherited: bool,
    secure: bool,
}

impl Unregistered {
    /// Gives it to the runtime this is called in.
    pub(crate) fn register(self) -> io::Result<Listener> {
        let Self { socket, port, inherited, secure } = self;
        let at = At { port, further: false, secure };
        Ok(Listener { socket: tokio::net::TcpListener::from_std(socket)?, at, inherited })
    }
}

/// Takes the inherited listeners if there are any, and binds the addresses for each thread otherwise. Inherited ones are
/// told apart: what is called `https` (`LISTEN_FDNAMES`) or has the port of `https` is for TLS, anything else plain.
pub(crate) fn open(http: SocketAddr, https: Option<SocketAddr>, threads: usize) -> anyhow::Result<Sockets> {
    let variable = |name: &str| std::env::var(name).ok();
    let given = match inherited_count(variable) {
        0 => Vec::new(),
        count => inherit(count)?,
    };
    let names = names(variable);
    let (mut tls, mut plain) = (Vec::new(), Vec::new());
    for (index, socket) in given.into_iter().enumerate() {
        let named = names.get(index).is_some_and(|name| name == HTTPS);
        let port = socket.local_addr().ok().map(|address| address.port());
        let is_tls = named || https.is_some_and(|https| port == Some(https.port()));
        if is_tls { tls.push(socket) } else { plain.push(socket) }
    }
    assemble(plain, tls, http, https, threads)
}

/// The listeners a predecessor handed over. Those for addresses it did not listen on are bound.
pub(crate) fn taken(
    sockets: &Kept,
    http: SocketAddr,
    https: Option<SocketAddr>,
    threads: usize,
) -> anyhow::Result<Sockets> {
    let named = |name| sockets.take(name).into_iter().map(Into::into).collect();
    assemble(named(HTTP), named(HTTPS), http, https, threads)
}

fn assemble(
    plain: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    http: SocketAddr,
    https: Option<SocketAddr>,
    threads: usize,
) -> anyhow::Result<Sockets> {
    let own = |address| {
        bind(address, threads).with_context(|| {
            format!("cannot listen on {address}; is another server on this port, or is it below 1024 and are you not root?")
        })
    };
    let http = if plain.is_empty() { own(http)? } else { share(plain, threads)? };
    let https = match (tls.is_empty(), https) {
        (false, _) => Some(share(tls, threads)?),
        (true, Some(address)) => Some(own(address)?),
        (true, None) => None,
    };
    Ok(Sockets { http, https })
}

/// The names of inherited descriptors, in their order.
fn names(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let names = variable("BERTH_LISTEN_FDNAMES").or_else(|| variable("LISTEN_FDNAMES"));
    names.map(|names| names.split(':').map(str::to_owned).collect()).unwrap_or_default()
}

/// How many descriptors the environment says were passed to this process.
fn inherited_count(variable: impl Fn(&str) -> Option<String>) -> usize {
    let number = |name: &str| variable(name).and_then(|text| text.trim().parse::<usize>().ok());
    if let Some(count) = number("BERTH_LISTEN_FDS") {
        return count;
    }
    // systemd names the process they are for; a supervisor that does not know our id leaves that out.
    match number("LISTEN_PID") {
        Some(pid) if u32::try_from(pid) != Ok(std::process::id()) => 0,
        _ => number("LISTEN_FDS").unwrap_or(0),
    }
}

fn inherit(count: usize) -> anyhow::Result<Vec<TcpListener>> {
    // A raw descriptor number cannot be owned without `unsafe`; fetching it from ourselves as from a stranger can.
    let own = pidfd_open(getpid(), PidfdFlags::empty()).context("cannot open a pidfd of this process")?;
    let mut sockets = Vec::new();
    for number in (FIRST..).take(count) {
        let fd = pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).with_context(|| {
            format!("descriptor {number} was announced as a listening socket but cannot be taken")
        })?;
        let socket = Socket::from(fd);
        if !socket.is_listener().unwrap_or(false) {
            bail!("descriptor {number} was announced as a listening socket but is none");
        }
        socket.set_nonblocking(true).context("cannot make an inherited socket non-blocking")?;
        sockets.push(TcpListener::from(socket));
    }
    Ok(sockets)
}

/// Gives inherited sockets to the threads.
fn share(sockets: Vec<TcpListener>, threads: usize) -> anyhow::Result<Bound> {
    let Some(first) = sockets.first() else { bail!("no listening socket was inherited") };
    let address = first.local_addr().context("an inherited socket has no internet address")?;
    // Every socket must be accepted from, and every thread must accept: whichever there are fewer of is shared.
    let mut by_thread: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
    for turn in 0..threads.max(sockets.len()) {
        let socket = sockets[turn % sockets.len()].try_clone().context("cannot share an inherited socket")?;
        by_thread[turn % threads].push(socket);
    }
    Ok(Bound { by_thread, inherited: true, address, kept: sockets })
}

fn bind(address: SocketAddr, threads: usize) -> io::Result<Bound> {
    // First alone: with SO_REUSEPORT at once, two proxies on one port would share it without a word.
    let probe = socket(address, false)?;
    let address = match address.port() {
        0 => probe.local_addr()?.as_socket().unwrap_or(address),
        _ => address,
    };
    drop(probe);
    let (mut by_thread, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..threads {
        let socket = TcpListener::from(socket(address, true)?);
        kept.push(socket.try_clone()?);
        by_thread.push(vec![socket]);
    }
    Ok(Bound { by_thread, inherited: false, address, kept })
}

/// A socket that listens on `address`; with `shared`, one of several that do.
fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// One socket of a UDP port for each thread.
pub(crate) fn bind_udp(address: SocketAddr, threads: usize) -> io::Result<Vec<std::net::UdpSocket>> {
    let bind = |shared: bool| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    drop(bind(false)?); // first alone, as for TCP
    (0..threads).map(|_| Ok(bind(true)?.into())).collect()
}

/// Shares what a predecessor had open among the threads: each socket is read by one at least, each thread reads one.
pub(crate) fn spread<T: From<std::os::fd::OwnedFd>>(
    sockets: &[std::os::fd::OwnedFd],
    threads: usize,
) -> io::Result<Vec<(usize, T)>> {
    let turns = if sockets.is_empty() { 0 } else { threads.max(sockets.len()) };
    (0..turns).map(|turn| Ok((turn % threads, sockets[turn % sockets.len()].try_clone()?.into()))).collect()
}

/// One listener of a port for each thread.
pub(crate) fn bind_port(address: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    Ok(bind(address, threads)?.by_thread.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_for_another_process_are_left_alone() {
        let count = |pairs: &[(&str, &str)]| {
            inherited_count(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned()))
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[("BERTH_LISTEN_FDS", "2"), ("LISTEN_PID", "1")]), 2);
        assert_eq!(count(&[("LISTEN_FDS", "1")]), 1);
        assert_eq!(count(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]), 0);
        let own = std::process::id().to_string();
        assert_eq!(count(&[("LISTEN_FDS", "3"), ("LISTEN_PID", &own)]), 3);
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let first = bind(([127, 0, 0, 1], 0).into(), 2).expect("a free port");
        assert!(bind(first.address, 2).is_err());
    }
}
