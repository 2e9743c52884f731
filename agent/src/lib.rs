//! The node agent: makes this machine's containers the ones the controller asked for, and goes on without it.
//!
//! In: assignments (`internal.sock`), builds, logs, terminals (`agent.sock`). Out: containers, and what was observed.

mod access_log;
mod agent;
pub mod build;
pub mod checks;
pub mod cluster;
mod control;
pub mod drains;
pub mod files;
mod housekeeping;
pub mod identity;
pub mod images;
mod life;
mod listening;
pub mod logs_api;
pub mod metrics;
pub mod network;
pub mod node;
mod once;
pub mod options;
mod pressure;
mod private;
pub mod reconcile;
pub mod record;
pub mod remarks;
pub mod runtime;
mod sbom;
pub mod seal;
mod server;
mod server_access;
mod server_builds;
mod server_volumes;
mod site_files;
pub mod supervise;
mod terminal;
mod volume_trees;
pub mod volumes;

pub use agent::{run, stop_all};
pub use options::Options;
