//! The bytes of an HTTP/2 connection, counted by frames: what costs a client nothing must not cost us much.
//!
//! In: a socket. Out: the same bytes, and whether the client has spent its credit: SETTINGS, PING, PRIORITY, empty DATA
//! and unknown frames on one account, RST_STREAM on another (CVE-2023-44487 and its kin, CVE-2019-9512 to 9518). `h2`
//! bounds the rest: header lists, CONTINUATION, resets it had to send, small DATA.

use crate::buffer::Buf;
use crate::io::Socket;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Control frames a client may send at once,
const CONTROLS: u32 = 500;
/// and in every further second.
const CONTROLS_A_SECOND: u32 = 20;
/// Answered bytes that pay for another one: clients measure the line with a PING for what they get.
const BYTES_A_CONTROL: u64 = 512;
/// Resets a client may send at once, as half ones: a request pays for half a reset,
const RESETS: u32 = 200;
/// and a second for ten.
const RESETS_A_SECOND: u32 = 20;
/// The preface, which is no frame.
const PREFACE: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Reads frames as they pass. Memory only.
#[derive(Debug)]
struct Frames {
    head: [u8; 9],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes to pass over until the next frame.
    skip: u32,
    controls: u32,
    resets: u32,
}

impl Frames {
    fn new() -> Self {
        Self { head: [0; 9], have: 0, skip: PREFACE, controls: CONTROLS, resets: RESETS }
    }

    /// Takes the next bytes of the connection. False once the client has gone too far.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            bytes = &bytes[skipped..];
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            if bytes.is_empty() {
                return true;
            }
            let taken = bytes.len().min(self.head.len() - self.have);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < self.head.len() {
                return true;
            }
            self.have = 0;
            let [high, middle, low, kind, ..] = self.head;
            self.skip = u32::from_be_bytes([0, high, middle, low]);
            if !self.count(kind, self.skip == 0) {
                return false;
            }
        }
    }

    fn count(&mut self, kind: u8, empty: bool) -> bool {
        let account = match kind {
            HEADERS => {
                self.resets = (self.resets + 1).min(RESETS);
                return true;
            }
            DATA if !empty => return true,
            WINDOW_UPDATE | CONTINUATION => return true,
            RST_STREAM => (&mut self.resets, 2),
            _ => (&mut self.controls, 1),
        };
        match account.0.checked_sub(account.1) {
            Some(left) => *account.0 = left,
            None => return false,
        }
        true
    }

    fn earn(&mut self, seconds: u32, written: u64) {
        let paid = u32::try_from(written / BYTES_A_CONTROL).unwrap_or(CONTROLS);
        let earned = seconds.saturating_mul(CONTROLS_A_SECOND).saturating_add(paid);
        self.controls = self.controls.saturating_add(earned).min(CONTROLS);
        self.resets = self.resets.saturating_add(seconds.saturating_mul(RESETS_A_SECOND)).min(RESETS);
    }
}

/// What is known of a client's credit outside its socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credit(Arc<AtomicU64>);

impl Credit {
    pub(crate) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }

    /// Once is enough.
    pub(crate) fn forgive(&self) {
        self.0.store(2, Ordering::Relaxed);
    }

    fn spend(&self) {
        let _ = self.0.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A socket for `h2` that counts frames.
pub(crate) struct Guarded<S> {
    socket: Arc<S>,
    input: Option<Buf>,
    frames: Frames,
    credit: Credit,
    since: Instant,
    written: u64,
}

impl<S: Socket> Guarded<S> {
    /// `input` was read from `socket` before.
    pub(crate) fn new(socket: Arc<S>, input: Option<Buf>) -> (Self, Credit) {
        let credit = Credit::default();
        let since = Instant::now();
        (Self { socket, input, frames: Frames::new(), credit: credit.clone(), since, written: 0 }, credit)
    }

    fn count(&mut self, bytes: &[u8]) {
        if self.frames.controls < CONTROLS / 2 || self.frames.resets < RESETS / 2 {
            let seconds = self.since.elapsed().as_secs();
            if seconds > 0 || self.written >= BYTES_A_CONTROL {
                self.frames.earn(u32::try_from(seconds).unwrap_or(u32::MAX), self.written);
                self.written = 0;
                if seconds > 0 {
                    self.since = Instant::now();
                }
            }
        }
        if !self.frames.pass(bytes) {
            self.credit.spend();
        }
    }
}

impl<S: Socket> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = into.filled().len();
        if let Some(mut input) = self.input.take() {
            let count = input.data().len().min(into.remaining());
            into.put_slice(&input.data()[..count]);
            input.consume(count);
            self.input = Some(input).filter(|input| !input.is_empty());
        } else {
            let space = into.initialize_unfilled();
            let count = ready!(self.socket.poll_read(cx, space))?;
            into.advance(count);
        }
        self.count(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            let count = self.socket.write_now(slices)?;
            if count > 0 {
                self.written += count as u64;
                return Poll::Ready(Ok(count));
            }
            ready!(self.socket.poll_writable(cx))?;
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.socket.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.socket.poll_flush(cx))?;
        Poll::Ready(self.socket.shut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend(vec![0xff; usize::from(length)]);
        frame
    }

    /// How many of `frames`, over and over, pass before it is too much; in pieces of `piece` bytes.
    fn passed(frames: &[Vec<u8>], piece: usize) -> usize {
        let mut guard = Frames::new();
        assert!(guard.pass(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        for round in 0..100_000 {
            for part in frames.concat().chunks(piece) {
                if !guard.pass(part) {
                    return round;
                }
            }
        }
        100_000
    }

    #[test]
    fn floods_are_noticed_wherever_reads_split() {
        for piece in [1, 2, 7, 9, 10, 4096] {
            assert_eq!(passed(&[frame(6, 8)], piece), 500, "PING");
            assert_eq!(passed(&[frame(4, 0)], piece), 500, "SETTINGS");
            assert_eq!(passed(&[frame(DATA, 0)], piece), 500, "empty DATA");
            assert_eq!(passed(&[frame(RST_STREAM, 4)], piece), 100);
            assert_eq!(passed(&[frame(HEADERS, 20), frame(RST_STREAM, 4)], piece), 199, "rapid reset");
        }
    }

    #[test]
    fn ordinary_traffic_costs_nothing() {
        assert_eq!(passed(&[frame(HEADERS, 30), frame(DATA, 100), frame(WINDOW_UPDATE, 4)], 100), 100_000);
        assert_eq!(passed(&[frame(HEADERS, 9), frame(HEADERS, 9), frame(RST_STREAM, 4)], 4096), 100_000);
        let mut guard = Frames::new();
        guard.controls = 0;
        guard.earn(1, 10 * BYTES_A_CONTROL);
        assert_eq!(guard.controls, CONTROLS_A_SECOND + 10);
    }
}
