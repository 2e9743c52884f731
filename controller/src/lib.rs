//! The controller: takes pushes and API calls, keeps the desired state, and tells nodes and proxies what to do.
//!
//! In: pushes over SSH and HTTP, calls of the public API, what nodes and proxies report. Out: releases, placements and
//! routes. Running apps never depend on it: it may stop and start again at any time.

mod alerts;
pub mod api;
mod archives;
pub mod backup;
pub mod build;
pub mod certs;
mod clone;
pub mod cluster;
mod controllers;
mod cron;
pub mod deploy;
mod ending;
pub mod errors;
pub mod events;
pub mod git;
pub mod housekeeping;
pub mod metrics;
pub mod networks;
pub mod nodes;
pub mod options;
mod placing;
pub mod platform;
pub mod registry;
pub mod release;
pub mod release_diff;
pub mod routing;
mod run;
mod runs;
pub mod schedule;
pub mod secrets;
pub mod store;
pub mod tls;
pub mod traffic;

pub use controllers::{copy_in, copy_out};
pub use options::Options;
pub use platform::Platform;
pub use run::run;
