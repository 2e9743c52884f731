//! Labels of images that buildpacks made (Platform specification, “Labels”): who reads them can rebase the image, and say
//! what is in it.
//!
//! In: what took part. Out: JSON texts.

use super::process::Defined;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A buildpack that took part.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its API.
    pub api: String,
    /// Where to read about it.
    pub homepage: String,
    /// Layers by name.
    pub layers: BTreeMap<String, PartLayer>,
    /// What is in its `store.toml`.
    pub store: Option<toml::Table>,
}

/// A layer of the image.
#[derive(Clone, Debug, Default)]
pub struct PartLayer {
    /// `sha256:…` of the tar.
    pub diff_id: String,
    /// What it is for.
    pub build: bool,
    /// What it is for.
    pub cache: bool,
    /// Its metadata.
    pub metadata: toml::Table,
}

/// All that the labels say.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// In order.
    pub parts: Vec<Part>,
    /// diffIDs of the app's layers.
    pub app: Vec<String>,
    /// diffID of the launcher's layer.
    pub launcher: String,
    /// diffID of the layer with the metadata.
    pub config: String,
    /// diffID of the layer with SBOM files.
    pub sbom: Option<String>,
    /// The uppermost layer of the run image: what lies above stays in a rebase.
    pub top_layer: String,
    /// Digest of the run image.
    pub run_image: String,
    /// Its name.
    pub run_image_name: String,
    /// Process types.
    pub processes: Vec<Defined>,
    /// The commit.
    pub commit: Option<String>,
    /// This version of Berth.
    pub version: String,
}

#[derive(Serialize)]
struct Layer<'a> {
    sha: &'a str,
    build: bool,
    launch: bool,
    cache: bool,
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    data: &'a toml::Table,
}

/// The labels, by name.
#[must_use]
pub fn labels(facts: &Facts) -> BTreeMap<String, String> {
    let sha = |sha: &str| json!({ "sha": sha });
    let part = |part: &Part| {
        let layer = |layer: &PartLayer| {
            json!(Layer {
                sha: &layer.diff_id,
                build: layer.build,
                launch: true,
                cache: layer.cache,
                data: &layer.metadata,
            })
        };
        let layers: BTreeMap<&String, Value> =
            part.layers.iter().map(|(name, of)| (name, layer(of))).collect();
        let store = part.store.as_ref().map_or(Value::Null, |store| json!({ "metadata": store }));
        json!({ "key": part.id, "version": part.version, "layers": layers, "store": store })
    };
    let mut lifecycle = json!({
        "app": facts.app.iter().map(|layer| sha(layer)).collect::<Vec<_>>(),
        "buildpacks": facts.parts.iter().map(part).collect::<Vec<_>>(),
        "config": sha(&facts.config),
        "launcher": sha(&facts.launcher),
        "runImage": {
            "topLayer": facts.top_layer,
            "reference": facts.run_image,
            "image": facts.run_image_name,
        },
        "stack": { "runImage": { "image": facts.run_image_name } },
    });
    if let Some(sbom) = &facts.sbom {
        lifecycle["sbom"] = sha(sbom);
    }
    let process = |process: &Defined| {
        json!({
            "type": process.name, "command": process.command, "args": process.args, "direct": process.direct,
            "buildpackID": process.buildpack,
        })
    };
    let build = json!({
        "buildpacks": facts.parts.iter().map(|part| json!({
            "id": part.id, "version": part.version, "homepage": part.homepage,
        })).collect::<Vec<_>>(),
        "launcher": { "version": facts.version, "source": { "git": { "repository": "", "commit": "" } } },
        "processes": facts.processes.iter().map(process).collect::<Vec<_>>(),
    });
    let project = match &facts.commit {
        Some(commit) => json!({ "source": { "type": "git", "version": { "commit": commit } } }),
        None => json!({}),
    };
    [
        ("io.buildpacks.lifecycle.metadata", lifecycle),
        ("io.buildpacks.build.metadata", build),
        ("io.buildpacks.project.metadata", project),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_string()))
    .into()
}
