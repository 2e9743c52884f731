//! The node agent: makes this machine's containers the ones the controller asked for, and goes on without it.
//!
//! In: assignments (`internal.sock`), builds, logs, terminals (`agent.sock`). Out: containers, and what was observed.

pub mod files;
pub mod images;
pub mod network;
