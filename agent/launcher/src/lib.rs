//! What the launcher in buildpack images and the agent that writes its files both know.
//!
//! In: nothing. Out: the rules of environments, and the two files that the launcher reads: [`Metadata`] when an image's
//! process starts, [`Phase`] when buildpacks run in a build container.

pub mod env;
pub mod files;

pub use env::Env;
pub use files::{Built, Metadata, Phase, Process, Run};

/// Where the launcher is in an image (Platform specification, “Launch”).
pub const LAUNCHER: &str = "/cnb/lifecycle/launcher";
/// The same program in build containers, where this name makes it run phases.
pub const PHASE: &str = "/cnb/lifecycle/phase";
/// Where links named by process types are.
pub const PROCESS_DIR: &str = "/cnb/process";
/// Below the layers directory.
pub const METADATA: &str = "config/metadata.toml";
