//! A proxy gives way to its successor, another program perhaps, without refusing a connection.
//!
//! In: a running proxy's sockets, those of routes' ports among them. Out: the same sockets in a new process. They are passed over a Unix socket in
//! the proxy's own directory (`unix(7)`, `SCM_RIGHTS`), so that both accept from one queue: the successor takes them,
//! reads its tables, says that it is ready; the elder then stops accepting, gives up its lock and ends what it has in
//! flight. A successor that fails before that changes nothing.
//!
//! States of the elder: offering → asked (sockets sent) → gave way (draining) | offering again (the successor went).

use anyhow::{Context, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Bytes of a message: a name, filled up with spaces. One is written and read as a whole.
const RECORD: usize = 64;
/// Sockets that are passed on, at most.
const MAX_SOCKETS: usize = 16 * 1024;
/// The message behind the last socket, and the successor's that it is ready.
const END: &str = ".end";
const READY: &str = ".ready";
/// How long a successor may take to read its tables.
const PREPARE: Duration = Duration::from_secs(60);

/// A socket and what it is for: `http`, `https`, or a route's port.
pub(crate) type Named = (String, OwnedFd);

/// The sockets that a successor gets: those of the whole life of the proxy, and those of routes, which come and go.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<BTreeMap<String, Vec<OwnedFd>>>);

impl Kept {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Vec<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // a map of sockets is right after any panic
    }

    pub(crate) fn put(&self, name: String, sockets: Vec<OwnedFd>) {
        self.all().insert(name, sockets);
    }

    /// What a predecessor handed over, by name.
    fn of(sockets: Vec<Named>) -> Self {
        let mut all: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, socket) in sockets {
            all.entry(name).or_default().push(socket);
        }
        Self(Mutex::new(all))
    }

    /// Takes out, and so closes unless it is kept, what has this name.
    pub(crate) fn take(&self, name: &str) -> Vec<OwnedFd> {
        self.all().remove(name).unwrap_or_default()
    }

    /// Closes every one.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }

    /// Each once more, with its name.
    pub(crate) fn copies(&self) -> io::Result<Vec<Named>> {
        let all = self.all();
        let each = all.iter().flat_map(|(name, sockets)| sockets.iter().map(move |socket| (name, socket)));
        each.map(|(name, socket)| Ok((name.clone(), socket.try_clone()?))).collect()
    }
}

/// The place where a successor asks.
#[derive(Debug)]
pub(crate) struct Offer {
    listener: UnixListener,
}

impl Offer {
    /// Opens the place; to be called by whoever holds the lock, in a runtime. What a predecessor left there is removed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { listener: UnixListener::bind(path)? })
    }

    /// Waits for a successor that takes over; `sockets` are what it gets. Returns once it is ready to accept.
    pub(crate) async fn taken(&self, sockets: impl Fn() -> io::Result<Vec<Named>>) {
        loop {
            let asked = async {
                let (peer, _) = self.listener.accept().await?;
                for (name, socket) in sockets()? {
                    send(&peer, &name, Some(&socket)).await?;
                }
                send(&peer, END, None).await?;
                let ready = timeout(PREPARE, wait_for(&peer, READY)).await;
                ready.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            };
            match asked.await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "a successor asked for the sockets and went; serving on");
                    tokio::time::sleep(Duration::from_millis(100)).await; // never a busy loop
                }
            }
        }
    }
}

async fn send(peer: &UnixStream, name: &str, socket: Option<&OwnedFd>) -> io::Result<()> {
    let record = record(name);
    loop {
        peer.writable().await?;
        match peer.try_io(Interest::WRITABLE, || write(peer, &record, socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

async fn wait_for(peer: &UnixStream, message: &str) -> io::Result<()> {
    loop {
        peer.readable().await?;
        match peer.try_io(Interest::READABLE, || read(peer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok((name, _)) if name == message => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn record(name: &str) -> [u8; RECORD] {
    let mut record = [b' '; RECORD];
    let length = name.len().min(RECORD);
    record[..length].copy_from_slice(&name.as_bytes()[..length]);
    record
}

/// One message with the socket it carries. So small a one is taken whole or not at all.
fn write(peer: impl AsFd, record: &[u8; RECORD], socket: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = socket.map(|socket| [socket.as_fd()]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = rustix::net::sendmsg(peer, &[IoSlice::new(record)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == RECORD { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// One message: its name and the socket it carries. The kernel joins no two messages that carry one.
fn read(peer: impl AsFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut record = [0; RECORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(peer, &mut [IoSliceMut::new(&mut record)], &mut control, flags)?;
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    if received.bytes != RECORD {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((String::from_utf8_lossy(&record).trim_end().to_owned(), socket))
}

/// What a predecessor handed over, which serves on until it is told to stop.
#[derive(Debug)]
pub(crate) struct Taken {
    peer: std::os::unix::net::UnixStream,
}

impl Taken {
    /// Asks the proxy that runs on this directory for its sockets. Blocks for a moment.
    pub(crate) fn ask(path: &Path) -> anyhow::Result<(Self, Kept)> {
        let peer = std::os::unix::net::UnixStream::connect(path)
            .with_context(|| format!("no proxy to take over from: nobody answers at {}", path.display()))?;
        peer.set_read_timeout(Some(Duration::from_secs(10))).context("cannot limit the wait")?;
        let mut sockets = Vec::new();
        loop {
            let (name, socket) = read(&peer).context("the running proxy did not hand over its sockets")?;
            if name == END {
                break;
            }
            let Some(socket) = socket else { bail!("the running proxy ended while it handed over") };
            ensure!(sockets.len() < MAX_SOCKETS, "the running proxy hands over too many sockets");
            sockets.push((name, socket));
        }
        Ok((Self { peer }, Kept::of(sockets)))
    }

    /// Tells the predecessor to stop accepting: from here on this process does.
    pub(crate) fn ready(self) -> anyhow::Result<()> {
        write(&self.peer, &record(READY), None).context("the predecessor is gone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test]
    async fn sockets_change_hands_only_when_the_successor_is_ready() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("handover.sock");
        let offer = Offer::open(&path).expect("opens");
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = socket.local_addr().expect("bound");
        let giving = async {
            offer.taken(|| Ok(vec![("http".to_owned(), socket.try_clone()?.into())])).await;
        };
        let taking = tokio::task::spawn_blocking(move || {
            drop(Taken::ask(&path).expect("asks")); // one that dies before it is ready
            let (taken, sockets) = Taken::ask(&path).expect("asks");
            taken.ready().expect("says so");
            sockets
        });
        let ((), taken) = tokio::join!(giving, taking);
        let socket = taken.expect("ends").take("http").pop().expect("one");
        assert_eq!(TcpListener::from(socket).local_addr().expect("the same"), address);
    }
}
