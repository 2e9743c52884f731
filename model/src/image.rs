//! Images: what a build makes and a release names.

use crate::{Digest, EnvName, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An image in a registry, by the digest of its manifest: it can only ever mean these bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct ImageRef {
    /// Repository in Berth's own registry, such as `apps/hello` or `stacks/debian-12-run`.
    pub repository: String,
    /// Digest of the OCI image manifest.
    pub digest: Digest,
}

/// What a built image is, besides its bytes: enough to make a release of it. Kept in the image's config as the label
/// `sh.berth.image` too, so that an image from a registry alone is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Where its bytes are.
    pub reference: ImageRef,
    /// What made it: `buildpack` or `dockerfile`, and for buildpacks the languages.
    pub builder: String,
    /// The process types it brings (Procfile, or the builder's default `web`).
    pub processes: BTreeMap<ProcessType, Process>,
    /// TCP ports it says it listens on (`EXPOSE`); empty for buildpack images, which listen on `$PORT`.
    #[serde(default)]
    pub exposed_ports: Vec<u16>,
}

/// What one process type runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Process {
    /// A program with its arguments; the image's environment, user and working directory apply.
    Command {
        /// `argv`; never empty. A Procfile line becomes `["/bin/bash", "-c", line]`.
        argv: Vec<String>,
    },
    /// Files that Berth's own file server answers with: no process runs.
    Static(StaticSite),
}

/// A directory of the image served as a web site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StaticSite {
    /// Absolute path inside the image, such as `/app/public`.
    pub root: String,
    /// Answer unknown paths without a file extension with `/index.html` and 200 (single-page applications).
    #[serde(default)]
    pub spa_fallback: bool,
}

/// The environment, user and directory an image's processes start with (OCI image-spec, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageConfig {
    /// Variables; a release's config overrides them.
    pub env: BTreeMap<EnvName, String>,
    /// `uid`, `uid:gid`, `name` or `name:group`; empty for root.
    pub user: String,
    /// Absolute working directory; empty for `/`.
    pub working_dir: String,
    /// `ENTRYPOINT` of the image.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// `CMD` of the image.
    #[serde(default)]
    pub cmd: Vec<String>,
}
