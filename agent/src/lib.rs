//! The node agent: makes this machine's containers the ones the controller asked for, and goes on without it.
//!
//! In: assignments (`internal.sock`), builds, logs, terminals (`agent.sock`). Out: containers, and what was observed.

mod agent;
pub mod build;
pub mod checks;
mod control;
pub mod files;
mod housekeeping;
pub mod identity;
pub mod images;
mod life;
mod listening;
pub mod logs_api;
pub mod network;
pub mod node;
pub mod options;
pub mod reconcile;
pub mod record;
pub mod remarks;
pub mod runtime;
mod sbom;
mod server;
mod server_builds;
mod site_files;
pub mod supervise;
mod terminal;
pub mod volumes;

pub use agent::{run, stop_all};
pub use options::Options;
