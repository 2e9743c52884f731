//! The proxy through its own door: real sockets, origins that record what they get, clients that say what they like.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod answers;
mod control;
mod differential;
mod exchange;
mod framing;
mod handover;
mod inherited;
mod origin;
mod policy;
mod proxy;
mod sites;
mod slow;
mod swaps;
mod tcp;
mod tls;
mod watch;
