//! Images: what a build makes and a release names.

use crate::site::SiteRules;
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
    /// `HEALTHCHECK` of a Dockerfile or of the image it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
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
    /// Headers and redirects of the app's settings; those of `_headers` and `_redirects` in `root` come before them.
    #[serde(default, skip_serializing_if = "SiteRules::is_empty")]
    pub rules: SiteRules,
}

/// This machine in the words of the image specification (GOARCH).
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
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
    /// What `EXPOSE` names, such as `8080/tcp`; the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<String>,
    /// `LABEL`s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `VOLUME`s. Nothing is mounted there by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`, such as `SIGQUIT` or `3`; empty for the default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`: instructions for images that are built on this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `SHELL`; empty for `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// `HEALTHCHECK` as image configs have it (Docker Image Specification v1.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, arguments…]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Nanoseconds between two tries; 0 is the default of 30 s.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Nanoseconds that a try may take; 0 is the default of 30 s.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// Nanoseconds in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Failures in a row that count; 0 is the default of 3.
    #[serde(skip_serializing_if = "is_zero_u16")]
    pub retries: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero_u16(value: &u16) -> bool {
    *value == 0
}
