//! How Berth's processes talk: HTTP/1.1 with JSON over a unix socket or TCP (TLS or not), and framed terminal streams
//! after an upgrade.
//!
//! In: an [`Endpoint`], paths and model types. Out: model types, or a [`WireError`] that says which peer did not do what.
//! Only the client's half and the frame format live here; servers are axum routers in their own crates.

mod client;
mod frame;
mod socket;

pub use client::{BodyWriter, Client, Endpoint, Lines, Upgraded, WireError};
pub use frame::{Frame, FrameError, MAX_FRAME, read_frame, write_frame};
pub use socket::bind_unix;
