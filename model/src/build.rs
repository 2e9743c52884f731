//! Builds: the plan a builder makes, and what the agent that executes it says.
//!
//! A plan is data. `buildpacks` makes it from the source tree without touching anything; an agent executes it in build
//! containers without deciding anything.

use crate::container::Limits;
use crate::image::{Image, ImageConfig, ImageRef, Process};
use crate::registry::RegistryLogin;
use crate::{AppName, BuildId, EnvName, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest build, in seconds, of an app that does not say otherwise.
pub const DEFAULT_TIMEOUT_SECS: u32 = 1800;

/// How to make one image out of a source tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildPlan {
    /// What made the plan, for people and the image's label: `python`, `node`, `static` …
    pub builder: String,
    /// Image the result stands on.
    pub run_image: ImageRef,
    /// Image the steps run in: `run_image` and compilers.
    pub build_image: ImageRef,
    /// Layers in order, bottom first.
    pub layers: Vec<LayerPlan>,
    /// Processes of the image.
    pub processes: BTreeMap<ProcessType, Process>,
    /// Environment, user and directory of the image.
    pub config: ImageConfig,
    /// A Dockerfile to build instead: then `layers` is empty, and `config` and `processes` are what the Dockerfile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<Dockerfile>,
    /// Commits of other repositories whose files belong into the tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub submodules: Vec<Submodule>,
    /// A line for the shell that runs in the finished image; what it changes is the image's topmost layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predeploy: Option<String>,
    /// The image to deploy as it is, as somebody named it: `run_image` is where it is. Then `layers` is empty, and `config`
    /// and `processes` are the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Buildpacks to run instead: then `layers` is empty, and `config` and `processes` are what they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnb: Option<Cnb>,
}

/// A commit of another repository as a directory of the tree (gitsubmodules(7)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submodule {
    /// The directory, relative, without `.` or `..`.
    pub path: String,
    /// Where the repository is: `https://`, `http://` or `git://`.
    pub url: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
}

/// Buildpacks of others as an agent runs them: Cloud Native Buildpacks, or classic Heroku ones. What they are is only
/// known once they are fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cnb {
    /// In order. Empty: those of `builder`.
    pub buildpacks: Vec<Buildpack>,
    /// Before those of `builder`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre: Vec<Buildpack>,
    /// After those of `builder`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post: Vec<Buildpack>,
    /// Image with buildpacks and an order of them; the build runs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// What the build and the result stand on; `None` chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
    /// Variables that only the build gets.
    #[serde(default)]
    pub env: BTreeMap<EnvName, String>,
    /// Patterns as in `.gitignore` of what is left out of the source.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// The same of the only files that are taken; empty for all.
    #[serde(default)]
    pub include: Vec<String>,
    /// Lines of the Procfile; they beat what buildpacks define.
    #[serde(default)]
    pub procfile: BTreeMap<ProcessType, String>,
    /// Why these buildpacks, for the log.
    pub reason: String,
    /// The commit that is built, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// Images that buildpacks run in and that their results stand on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// As the user named it, such as `heroku-24`.
    pub name: String,
    /// What results stand on; `None` is the platform's own.
    pub run: Option<String>,
    /// What builds run in.
    pub build: Option<String>,
}

/// One buildpack that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buildpack {
    /// Where it is.
    pub source: BuildpackSource,
    /// As the user wrote it.
    pub text: String,
    /// Whether it may say that the app is not for it.
    #[serde(default)]
    pub optional: bool,
}

/// Where a buildpack is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum BuildpackSource {
    /// A directory of the pushed tree.
    Directory {
        /// Relative; empty for the tree itself.
        path: String,
    },
    /// A git repository.
    Git {
        /// `https://`, `http://`, `ssh://`, `git://` or `user@host:path`.
        url: String,
        /// Branch, tag or commit; `None` is the default branch.
        reference: Option<String>,
    },
    /// A `.tgz`, `.tar`, `.zip` or `.cnb`.
    Archive {
        /// `https://` or `http://`.
        url: String,
    },
    /// An image with one or more buildpacks.
    Image {
        /// Its name.
        name: String,
    },
    /// One that the builder has, or another source brought.
    Id {
        /// `owner/name`.
        id: String,
        /// `None` is the latest there.
        version: Option<String>,
    },
    /// Written in `project.toml` itself.
    Script {
        /// Buildpack API.
        api: String,
        /// Its id.
        id: String,
        /// Text of its `bin/build`.
        script: String,
        /// What runs it, such as `/bin/sh`.
        shell: String,
    },
}

/// A Dockerfile as an agent builds it. It goes there as text: what a step is can only be said once the image below is
/// known, for that brings variables, a user and steps of its own (`ONBUILD`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dockerfile {
    /// Its path in the tree, for messages.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Text of the `.dockerignore` that belongs to it.
    #[serde(default)]
    pub ignore: String,
    /// Stage to build; `None` is the last.
    #[serde(default)]
    pub target: Option<String>,
    /// Why this builder, for the log.
    #[serde(default)]
    pub reason: String,
    /// Lines of the Procfile; `web` is the image's own command unless it is among them.
    #[serde(default)]
    pub procfile: BTreeMap<ProcessType, String>,
}

/// One layer: made by one script in one container, or the app's own files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPlan {
    /// For the log and caches, such as `python/dependencies`: `[a-z0-9-]+(/[a-z0-9-]+)*`.
    pub name: String,
    /// Hash of every input: script, environment, image, lower layers it uses, and the contents of `sources`. Same key,
    /// same layer: it is not made again. 64 lower-case hexadecimal digits.
    pub key: String,
    /// What to say when work begins, such as `Installing dependencies with uv`. Printed after `-----> `.
    pub title: String,
    /// Further lines for the log, such as why this version was chosen. Printed after seven spaces.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How its files come to be.
    pub make: Make,
    /// Whether the image gets it. Other layers (tools) only help later ones.
    pub launch: bool,
}

/// How a layer's files come to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "make", rename_all = "snake_case")]
pub enum Make {
    /// The source tree itself, copied to `/app`, with fixed times and the app's user.
    Source {
        /// Paths left out (exact, or directories), relative to the tree.
        exclude: Vec<String>,
    },
    /// What a script leaves behind. It runs as the build user in a container of `build_image` with all earlier layers,
    /// and whatever it changes under the writable paths is the layer.
    Script {
        /// Run by `/bin/bash -eu -o pipefail -c`.
        script: String,
        /// Environment besides the image's and the platform's (proxies, CA bundle, mirrors).
        env: BTreeMap<EnvName, String>,
        /// Files of the source tree put under `/app` (read-only copies for this step): exact paths or directories; `.`
        /// is all of it. They are not part of the layer unless `keep_app` says so.
        sources: Vec<String>,
        /// Whether what the script leaves in `/app` is part of the layer. Otherwise only what it writes elsewhere under
        /// `outputs` is.
        keep_app: bool,
        /// Absolute directories the script may write and which make up the layer, such as `/layers/python/venv` or
        /// `/app/node_modules`. Created empty before the script runs. With `["/"]` anything may be written.
        outputs: Vec<String>,
        /// Directories kept between builds of the app, by name: (`[a-z0-9-]+`, absolute path in the container).
        caches: Vec<(String, String)>,
        /// Root inside the container (`dpkg -x` into `/`) instead of the build user.
        as_root: bool,
    },
}

/// A build as an agent is asked for it. The source tree follows as a tar stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// Which build.
    pub id: BuildId,
    /// Whose.
    pub app: AppName,
    /// What to do.
    pub plan: BuildPlan,
    /// Registry repository for the result, such as `apps/hello`.
    pub repository: String,
    /// Config vars that the build may see.
    pub config: BTreeMap<EnvName, String>,
    /// What the build may use.
    pub limits: Limits,
    /// Longest time for the whole build, in seconds. Default 1800.
    pub timeout_secs: u64,
    /// Logins for the images it stands on. The agent pulls with them; no step sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registries: Vec<RegistryLogin>,
}

/// What an agent says while it builds, one JSON object a line; `Done` or `Failed` is last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// A step begins: shown as `-----> text`.
    Step {
        /// What.
        text: String,
    },
    /// Detail: shown after seven spaces. Output of the step's program, or a remark.
    Detail {
        /// One line without its newline.
        text: String,
    },
    /// The image is complete and every blob of it is durable in the registry.
    Done {
        /// The image.
        image: Image,
    },
    /// No image was made and nothing was left behind.
    Failed {
        /// What happened, to what, and what to do next.
        reason: String,
    },
}
