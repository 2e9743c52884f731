//! How Berth's processes talk: HTTP/1.1 with JSON over a unix socket or TCP (TLS or not), and framed terminal streams
//! after an upgrade.
//!
//! In: an [`Endpoint`], paths and model types. Out: model types, or a [`WireError`] that says which peer did not do what.
//! The client's half, the frame format and what all listeners do alike live here; what they serve is in their own crates.

mod accept;
mod client;
mod frame;
mod logs;
mod peer;
mod private;
mod socket;
mod tree;

pub use accept::{accept_each, drain, notice_death};
pub use client::{BodyWriter, Client, Dial, Dialling, Endpoint, Lines, Stream, Upgraded, WireError};
pub use frame::{Frame, FrameError, MAX_FRAME, read_frame, write_frame};
pub use logs::batch;
pub use peer::{host_port, is_loopback, system_certificates};
pub use private::write_private;
pub use socket::bind_unix;
pub use tree::{
    LONGEST_PATH, LONGEST_TARGET, TreeEntry, TreeKind, TreeReader, is_volume, write_content, write_end,
    write_entry,
};

/// On a connection that a node holds open for the controller: the controller asks whether it lives, and takes it.
pub const TUNNEL_TAKE: u8 = b'T';
/// The node's answer; HTTP/1.1 follows, with the node as the server.
pub const TUNNEL_TAKEN: u8 = b'K';
