//! The files that the launcher reads, as TOML.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `<layers>/config/metadata.toml` of an image: which buildpacks made it and what it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Metadata {
    /// Made by classic buildpacks: `.profile.d` of the app is read before anything starts.
    pub classic: bool,
    /// In the order they ran.
    pub buildpacks: Vec<Built>,
    /// By type; each type once.
    pub processes: Vec<Process>,
}

/// A buildpack that took part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Built {
    /// `owner/name`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Buildpack API, such as `0.10`.
    pub api: String,
}

/// One process type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Process {
    /// `web`, `worker` …
    #[serde(rename = "type")]
    pub name: String,
    /// Program and the arguments it always has; for a shell process a line or a program.
    pub command: Vec<String>,
    /// Arguments that a user's own replace.
    pub args: Vec<String>,
    /// Whether no shell comes first.
    pub direct: bool,
    /// Whether the image starts this one.
    pub default: bool,
    /// Empty for the app's directory.
    pub working_dir: String,
    /// Who defined it; empty for the Procfile.
    pub buildpack_id: String,
}

/// What to run in a build container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Phase {
    /// Names of variables that stay; of all others only what is set below is seen.
    pub keep: Vec<String>,
    /// Directory of the platform; variables are files in its `env`.
    pub platform: String,
    /// Layers of the buildpacks before, one list a buildpack.
    pub layers: Vec<Vec<String>>,
    /// Programs. A single one without `status` takes the launcher's place.
    pub run: Vec<Run>,
}

/// One program of a buildpack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where.
    pub cwd: String,
    /// Whether the user's variables are only to be found as files.
    pub clear_env: bool,
    /// File for its exit code; its output goes to `log` then.
    pub status: Option<String>,
    /// File for what it prints.
    pub log: Option<String>,
    /// Set last.
    pub env: BTreeMap<String, String>,
}
