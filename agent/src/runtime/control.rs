//! A connection to a shim's control socket.
//!
//! In: requests, descriptors. Out: replies, descriptors. Sequenced packets: a message arrives whole or not at all.

use super::sys;
use berth_shim::protocol::{MAX_MESSAGE, Reply, Request, SOCKET};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most that ever go together: `Kept` with two outputs and a terminal, and room for more.
const MAX_FDS: usize = 8;

/// One connection.
#[derive(Debug)]
pub(super) struct Control {
    socket: AsyncFd<OwnedFd>,
}

impl Control {
    /// Takes a connected, non-blocking socket.
    pub(super) fn over(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: sys::register(socket, Interest::READABLE | Interest::WRITABLE)? })
    }

    /// Connects to the shim of the container in `dir`. The path may be longer than a socket address allows, so it is
    /// reached through a descriptor of the directory.
    pub(super) fn connect(dir: &Path) -> io::Result<Self> {
        let handle = rustix::fs::open(
            dir,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::connect(&socket, &address)?;
        Self::over(socket)
    }

    /// Sends one request, with a descriptor if there is one.
    pub(super) async fn send(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_packet(&serde_json::to_vec(request)?, fd.as_slice()).await
    }

    /// Sends one packet with at most `MAX_FDS` descriptors.
    pub(super) async fn send_packet(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                    return Err(io::Error::other("too many descriptors for one packet"));
                }
                rustix::net::sendmsg(
                    socket.as_fd(),
                    &[IoSlice::new(bytes)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?;
                Ok(())
            })
            .await
    }

    /// The next reply and its descriptors; `None` when the shim closed the connection. Cancel-safe.
    pub(super) async fn receive(&self) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        let (bytes, fds) = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                let mut bytes = vec![0; MAX_MESSAGE];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let got = rustix::net::recvmsg(
                    socket.as_fd(),
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                bytes.truncate(got.bytes);
                let mut fds = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        fds.extend(received);
                    }
                }
                Ok((bytes, fds))
            })
            .await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes)?, fds)))
    }
}
