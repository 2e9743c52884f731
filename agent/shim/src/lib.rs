//! What the agent and its shims agree on: the spec of a container, the messages of the control socket, the format of
//! log segments.
//!
//! In: values. Out: bytes. Nothing here makes a system call; the shim itself is this package's binary.

pub mod protocol;
pub mod segment;
