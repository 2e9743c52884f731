//! Limits and times of the data path. Every one of them is finite except the size of a body.
//!
//! In: nothing. Out: [`Settings`], the defaults of which are what `berth proxy` runs with; tests shorten the times.

use crate::proxy_protocol::Network;
use berth_model::route::AccessLogFormat;
use std::net::IpAddr;
use std::time::Duration;

/// Limits on heads, in bytes and fields: see `head`.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Fields of one head.
pub(crate) const MAX_FIELDS: usize = 100;
/// Bytes of a request target.
pub(crate) const MAX_TARGET: usize = 16 * 1024;
/// Idle connections kept for one backend by one thread.
pub(crate) const MAX_IDLE_UPSTREAM: usize = 64;

/// How long things may take, and how much may be held.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From a request's first byte to the end of its head.
    pub header_read: Duration,
    /// A client's connection without a request.
    pub idle: Duration,
    /// TCP connect to one backend.
    pub connect: Duration,
    /// From the end of a request to the end of the answer's head, and between two reads of either body.
    pub progress: Duration,
    /// What a client that has shut its sending side may still wait for, and what is granted to one that is sent away.
    pub linger: Duration,
    /// A pooled connection to a backend without a request.
    pub upstream_idle: Duration,
    /// Requests in flight when the proxy is told to stop.
    pub drain: Duration,
    /// Tunnels and raw TCP connections when the proxy is told to stop.
    pub drain_tunnels: Duration,
    /// Tunnels and raw TCP connections when a successor has taken over.
    pub handover_tunnels: Duration,
    /// Clients' connections at once; as many as open files allow if not given.
    pub max_connections: Option<usize>,
    /// How the access log is written unless the route table says otherwise.
    pub access_log: AccessLogFormat,
    /// Size at which the access log is rotated, in bytes.
    pub log_bytes: u64,
    /// Rotated access logs that are kept.
    pub log_files: u32,
    /// A client of a UDP route that is silent.
    pub udp_idle: Duration,
    /// Those whose connections begin with a PROXY header, and must.
    pub proxy_protocol_from: Vec<Network>,
    /// Take `X-Forwarded-*` from clients (only behind a proxy that sets them); otherwise they are replaced.
    pub trust_forwarded: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            connect: Duration::from_secs(2),
            progress: Duration::from_secs(60),
            linger: Duration::from_secs(5),
            upstream_idle: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            drain_tunnels: Duration::from_secs(10),
            handover_tunnels: Duration::from_secs(3600),
            max_connections: None,
            access_log: AccessLogFormat::Json,
            log_bytes: 32 * 1024 * 1024,
            log_files: 3,
            udp_idle: Duration::from_secs(60),
            proxy_protocol_from: Vec::new(),
            trust_forwarded: false,
        }
    }
}

impl Settings {
    /// Connections from there begin with a PROXY header.
    pub(crate) fn speaks_for_others(&self, peer: IpAddr) -> bool {
        self.proxy_protocol_from.iter().any(|network| network.contains(peer))
    }
}
