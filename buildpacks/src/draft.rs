//! A plan in the making: adds layers with their keys.
//!
//! In: steps as builders describe them. Out: `LayerPlan`s whose keys hold every input and nothing else.

use crate::exclude::Exclude;
use crate::tree::{Entry, SourceTree};
use crate::{PlanError, Settings};
use berth_model::EnvName;
use berth_model::build::{LayerPlan, Make};
use berth_model::image::{ImageConfig, Process};
use berth_model::procfile::Procfile;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Where programs of an image are looked for after those of its own layers.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Tells versions of the key's own make-up apart.
const KEY_FORMAT: &str = "berth-layer-1";

/// The inputs of a plan and the layers so far.
pub(crate) struct Draft<'a> {
    pub(crate) tree: &'a dyn SourceTree,
    pub(crate) settings: &'a Settings,
    pub(crate) procfile: Procfile,
    pub(crate) exclude: Exclude,
    pub(crate) layers: Vec<LayerPlan>,
    /// Lines for the log that belong to no single step; they go before those of the first layer.
    pub(crate) notes: Vec<String>,
}

/// What a builder adds to the layers: how the image starts.
pub(crate) struct Outcome {
    pub(crate) processes: BTreeMap<berth_model::ProcessType, Process>,
    pub(crate) config: ImageConfig,
}

/// A layer made by a script, as a builder describes it.
pub(crate) struct Step<'s> {
    pub(crate) name: &'s str,
    pub(crate) title: String,
    pub(crate) notes: Vec<String>,
    pub(crate) script: String,
    pub(crate) env: Vec<(&'s str, String)>,
    pub(crate) sources: Vec<String>,
    pub(crate) keep_app: bool,
    pub(crate) outputs: Vec<&'s str>,
    pub(crate) caches: Vec<(&'s str, &'s str)>,
    pub(crate) launch: bool,
    /// Names of the layers below that the script uses: their keys are part of its key.
    pub(crate) uses: Vec<&'s str>,
}

impl<'a> Draft<'a> {
    /// Adds a layer made by a script.
    pub(crate) fn step(&mut self, step: Step<'_>) -> Result<(), PlanError> {
        self.add(step, false)
    }

    /// Adds a layer made by a script that runs as root in its container and may write anywhere: for packages of the
    /// stack's distribution, which only work at their own places.
    pub(crate) fn root_step(&mut self, step: Step<'_>) -> Result<(), PlanError> {
        self.add(step, true)
    }

    fn add(&mut self, step: Step<'_>, as_root: bool) -> Result<(), PlanError> {
        let mut env = BTreeMap::new();
        for (name, value) in step.env {
            let name = EnvName::parse(name).map_err(|error| PlanError::Invalid {
                file: "config".to_owned(),
                reason: error.to_string(),
            })?;
            env.insert(name, value);
        }
        // What sees the whole tree is made anew with nearly every commit anyway; nothing else may depend on its name.
        if let Some(commit) =
            self.settings.commit.as_ref().filter(|_| step.sources.iter().any(|path| path == "."))
        {
            for name in ["GIT_REV", "SOURCE_VERSION"] {
                if let Ok(name) = EnvName::parse(name) {
                    env.entry(name).or_insert_with(|| commit.clone());
                }
            }
        }
        let mut key = Key::new();
        key.add("script");
        key.add(&self.settings.build_image.digest.to_string());
        key.add(&step.script);
        key.add_all(env.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
        key.add_all(step.outputs.iter().copied());
        key.add_all(step.caches.iter().flat_map(|(name, path)| [*name, *path]));
        key.add(if step.keep_app { "keep" } else { "" });
        if as_root {
            key.add("root");
        }
        // A layer that no image gets is not packed, so an image cannot have it.
        if !step.launch {
            key.add("tools");
        }
        let below = |name: &&str| self.layers.iter().find(|layer| layer.name == *name);
        key.add_all(step.uses.iter().filter_map(below).map(|layer| layer.key.as_str()));
        let sources = &step.sources;
        key.add_entries(
            self.tree
                .entries()
                .iter()
                .filter(|entry| sources.iter().any(|source| covers(source, &entry.path))),
        );
        self.layers.push(LayerPlan {
            name: step.name.to_owned(),
            key: key.finish(),
            title: step.title,
            notes: step.notes,
            make: Make::Script {
                script: step.script,
                env,
                sources: step.sources,
                keep_app: step.keep_app,
                outputs: step.outputs.into_iter().map(str::to_owned).collect(),
                caches: step
                    .caches
                    .into_iter()
                    .map(|(name, path)| (name.to_owned(), path.to_owned()))
                    .collect(),
                as_root,
            },
            launch: step.launch,
        });
        Ok(())
    }

    /// Adds the app's own files as they are, without what `.slugignore` and `also` name.
    pub(crate) fn source(&mut self, notes: Vec<String>, also: &[String]) {
        let mut exclude = self.exclude.paths.clone();
        exclude.extend(also.iter().cloned());
        exclude.sort();
        exclude.dedup();
        let mut key = Key::new();
        key.add("source");
        let is_left_out = |path: &str| exclude.iter().any(|left_out| covers(left_out, path));
        key.add_entries(self.tree.entries().iter().filter(|entry| !is_left_out(&entry.path)));
        self.layers.push(LayerPlan {
            name: "app".to_owned(),
            key: key.finish(),
            title: "Adding the app's files".to_owned(),
            notes,
            make: Make::Source { exclude },
            launch: true,
        });
    }

    /// Config vars for a step: those `wanted`. Their names and values become part of the step's key.
    pub(crate) fn config(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&'a str, String)> {
        let settings: &'a Settings = self.settings;
        let vars = settings.config.iter().map(|(name, value)| (name.as_str(), value.clone()));
        vars.filter(|(name, _)| wanted(name)).collect()
    }

    /// The value of a config var.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.settings.config.iter().find(|(other, _)| other.as_str() == name).map(|(_, value)| value.as_str())
    }

    /// Whether the builder's own `web` is wanted: the Procfile names no process that stays.
    pub(crate) fn wants_default_web(&self) -> bool {
        self.procfile.0.keys().all(berth_model::ProcessType::is_release)
    }

    /// Bash that takes what `.slugignore` names out of `/app`, for builds over the whole tree.
    pub(crate) fn prune(&self) -> String {
        let paths = self.exclude.paths.iter();
        paths.map(|path| format!("rm -rf -- {}\n", quoted(&format!("/app/{path}")))).collect()
    }

    /// The values of the config vars that a build over the whole tree may see: all but those the platform sets.
    pub(crate) fn build_config(&self) -> Vec<(&'a str, String)> {
        self.config(|name| !matches!(name, "PORT" | "PATH" | "HOME"))
    }

    /// Process types of the Procfile, and `web` besides if the Procfile leaves it to the builder.
    pub(crate) fn processes(&self, web: Option<String>) -> BTreeMap<berth_model::ProcessType, Process> {
        let mut processes: BTreeMap<_, _> =
            self.procfile.0.iter().map(|(process, line)| (process.clone(), command(line))).collect();
        if let Some(line) = web {
            processes.entry(berth_model::ProcessType::web()).or_insert_with(|| command(&line));
        }
        processes
    }
}

/// A Procfile line as a process.
pub(crate) fn command(line: &str) -> Process {
    Process::Command { argv: vec!["/bin/bash".to_owned(), "-c".to_owned(), line.to_owned()] }
}

/// How every built image starts: as `app` in `/app`, with `path` before the system's directories.
pub(crate) fn image_config(path: &[&str], env: &[(&str, &str)]) -> ImageConfig {
    let path = path.iter().copied().chain([SYSTEM_PATH]).collect::<Vec<_>>().join(":");
    let fixed = [("PATH", path.as_str()), ("HOME", "/app"), ("LANG", "C.UTF-8")];
    let named = |(name, value): &(&str, &str)| {
        let name = EnvName::parse(name).expect("names written in this crate are valid");
        (name, (*value).to_owned())
    };
    ImageConfig {
        env: fixed.iter().chain(env).map(named).collect(),
        user: "1000:1000".to_owned(),
        working_dir: "/app".to_owned(),
        ..ImageConfig::default()
    }
}

/// Whether `path` is `scope` or below it; `.` is above everything.
pub(crate) fn covers(scope: &str, path: &str) -> bool {
    scope == "." || path.strip_prefix(scope).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A hash over fields with their lengths, so that no two lists of fields look the same.
struct Key(Sha256);

impl Key {
    fn new() -> Self {
        let mut key = Self(Sha256::new());
        key.add(KEY_FORMAT);
        key
    }

    fn add(&mut self, field: &str) {
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    fn add_all<'f>(&mut self, fields: impl Iterator<Item = &'f str>) {
        let fields: Vec<&str> = fields.collect();
        self.0.update((fields.len() as u64).to_le_bytes());
        fields.into_iter().for_each(|field| self.add(field));
    }

    fn add_entries<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) {
        self.add_all(entries.flat_map(|entry| [entry.kind.letter(), entry.path.as_str(), entry.id.as_str()]));
    }

    fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// A word for bash that means exactly this text.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
