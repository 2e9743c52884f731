//! The proxy through its own door: real sockets, origins that record what they get, clients that say what they like.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod alpn;
mod answers;
mod control;
mod differential;
mod exchange;
mod frames;
mod framing;
mod grpc;
mod handover;
mod http2;
mod inherited;
mod origin;
mod policy;
mod ports;
mod proxy;
mod sites;
mod slow;
mod swaps;
mod tcp;
mod tls;
mod watch;
