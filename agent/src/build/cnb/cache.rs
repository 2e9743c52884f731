//! What is kept of a build for the app's next one: cached layers, metadata of layers, stores.
//!
//! In: the app. Out: what the last build that worked left. Files of layers are layers of this node; what may be lost is
//! looked at before it is relied upon.

use super::super::error::BuildError;
use super::super::job::Job;
use crate::images::layers::{Known, Scope};
use berth_buildpacks::cnb::Target;
use berth_model::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const FORMAT: u32 = 1;

/// The file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    format: u32,
    /// Machine and distribution: for another one, nothing of it is of use.
    pub(super) target: String,
    /// By id.
    pub(super) buildpacks: BTreeMap<String, KeptBuildpack>,
}

impl Kept {
    /// Nothing yet.
    pub(super) fn of(target: &Target) -> Self {
        Self { format: FORMAT, target: target.to_string(), buildpacks: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct KeptBuildpack {
    pub(super) store: Option<String>,
    pub(super) layers: BTreeMap<String, KeptLayer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeptLayer {
    /// Its TOML without what it is for.
    pub(super) toml: String,
    pub(super) launch: bool,
    pub(super) build: bool,
    pub(super) cache: bool,
    pub(super) known: Known,
    /// SBOM files by format.
    pub(super) sbom: BTreeMap<String, String>,
}

/// The name that a layer's last state is remembered by, so that it is not collected.
pub(super) fn key(buildpack: &str, layer: &str) -> String {
    Digest::of(format!("berth-cnb-1\0{buildpack}\0{layer}").as_bytes()).hex().to_owned()
}

impl Job {
    fn kept_path(&self) -> PathBuf {
        self.shared.caches.join(self.request.app.as_str()).join("cnb.json")
    }

    /// What the last build left for machines like `target`.
    pub(super) fn kept(&self, target: &Target) -> Kept {
        let kept =
            fs::read(self.kept_path()).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        kept.filter(|kept| kept.format == FORMAT && kept.target == target.to_string())
            .unwrap_or_else(|| Kept::of(target))
    }

    /// Whether the files of a layer can be had on this node, or (of an image's layer) at least in the registry.
    pub(super) async fn is_there(
        &self,
        buildpack: &str,
        name: &str,
        layer: &KeptLayer,
    ) -> Result<bool, BuildError> {
        let layers = self.images().layers();
        // Its life begins anew.
        layers.known(&Scope::App(self.request.app.clone()), &key(buildpack, name));
        if layers.has(&layer.known.layer.diff_id) {
            return Ok(true);
        }
        Ok(layer.launch && self.is_in_registry(&layer.known).await?)
    }

    pub(super) fn keep_for_next(&self, kept: &Kept) -> Result<(), BuildError> {
        let path = self.kept_path();
        let write = || -> std::io::Result<()> {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let temporary = path.with_extension("new");
            fs::write(&temporary, serde_json::to_vec(kept)?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(BuildError::disk("write", &path))
    }
}
