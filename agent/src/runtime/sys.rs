//! The one place of the agent that asks the compiler for trust.
#![expect(
    unsafe_code,
    reason = "tokio's AsyncFd cannot know that a descriptor stays the same; an OwnedFd does"
)]

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for a descriptor without blocking a thread. It must be non-blocking.
pub(super) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers with the same open descriptor until it is dropped, and it is dropped only after
    // the registration, by the `AsyncFd` that takes it over here.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}
