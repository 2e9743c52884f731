//! The controller: takes pushes and API calls, keeps the desired state, and tells nodes and proxies what to do.
//!
//! In: pushes over SSH and HTTP, calls of the public API, what nodes and proxies report. Out: releases, placements and
//! routes. Running apps never depend on it: it may stop and start again at any time.

mod access_log;
pub mod api;
mod archives;
pub mod build;
pub mod certs;
pub mod deploy;
pub mod errors;
pub mod git;
pub mod housekeeping;
pub mod nodes;
pub mod options;
pub mod platform;
pub mod registry;
pub mod release;
pub mod routing;
mod run;
pub mod schedule;
pub mod secrets;
pub mod store;
pub mod tls;
pub mod traffic;

pub use options::Options;
pub use platform::Platform;
pub use run::run;
