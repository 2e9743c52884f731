//! Buildpacks: which language a source tree is written in, and which steps make an image of it.
//!
//! In: a [`SourceTree`] and [`Settings`]. Out: a [`BuildPlan`](berth_model::build::BuildPlan) that leaves the agent that
//! executes it nothing to decide, or a [`PlanError`] that tells an app's developer what to do. Nothing here touches the
//! network, a container, a clock or any file outside the tree: the same tree and settings give the same plan.
//!
//! Runtime, dependencies and app are layers of their own. A layer's key is made of what the layer is made of and no
//! more, so a change of the app's source leaves the keys of all layers below the app's own as they were.

pub mod cnb;
mod debian;
mod detect;
pub mod dockerfile;
mod dockerfile_app;
mod draft;
mod error;
mod exclude;
mod go;
mod java;
mod node;
mod php;
mod procfile_only;
mod programs;
mod python;
mod ruby;
mod rust;
pub mod sbom;
mod static_site;
#[cfg(test)]
mod tests;
mod tree;

pub use detect::{BUILDERS, BUILDPACKS, plan};
pub use draft::quoted;
pub use error::PlanError;
pub use tree::{DirectoryTree, Entry, EntryKind, MemoryTree, READ_LIMIT, SourceTree, TreeError};

use berth_model::EnvName;
use berth_model::image::ImageRef;
use std::collections::BTreeMap;

/// What a plan depends on besides the tree.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image that results stand on.
    pub run_image: ImageRef,
    /// Image that steps run in.
    pub build_image: ImageRef,
    /// The app's config vars. A step gets only those it may read, and its key holds only these.
    pub config: BTreeMap<EnvName, String>,
    /// Builder chosen by the user (one of [`BUILDERS`]); `None` detects. The config var `BERTH_BUILDER` does the same.
    pub builder: Option<String>,
    /// Path of the Procfile in the tree. Default `Procfile`.
    pub procfile: String,
    /// Path of the Dockerfile in the tree. `None` is `Dockerfile`, or what the config var `BERTH_DOCKERFILE_PATH` says.
    pub dockerfile_path: Option<String>,
    /// Stage of the Dockerfile to build. `None` is the last, or what the config var `BERTH_DOCKERFILE_TARGET` says.
    pub dockerfile_target: Option<String>,
    /// Buildpacks that the user chose (`buildpacks:add`), in order; empty to look in the tree.
    pub buildpacks: Vec<String>,
    /// Stack that the user chose for buildpacks (`stack:set`); `None` is what suits them.
    pub stack: Option<String>,
    /// The commit that is built, if it is one.
    pub commit: Option<String>,
    /// Counts up when versions that were given as ranges (`22.x`) shall be looked up anew, instead of staying at what
    /// they meant when the runtime was first installed. Default 0.
    pub refresh: u64,
}

impl Settings {
    /// Settings of an app that set nothing.
    #[must_use]
    pub fn new(run_image: ImageRef, build_image: ImageRef) -> Self {
        Self {
            run_image,
            build_image,
            config: BTreeMap::new(),
            builder: None,
            procfile: "Procfile".to_owned(),
            dockerfile_path: None,
            dockerfile_target: None,
            buildpacks: Vec::new(),
            stack: None,
            commit: None,
            refresh: 0,
        }
    }
}
