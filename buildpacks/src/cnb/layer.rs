//! What buildpacks leave in their layers directory: `<layer>.toml`, `launch.toml`, `build.toml`, `store.toml`, SBOM files.
//!
//! In: texts. Out: checked values. Names become paths and labels of images, so they are strict.

use super::descriptor::Api;
use super::process::{Defined, RawProcess};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most processes, labels or slices of one buildpack.
const MAX_ITEMS: usize = 500;
/// Longest label.
const MAX_LABEL: usize = 64 << 10;

/// What a layer is for, and what its buildpack wants to know of it next time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer {
    /// The app has it.
    pub launch: bool,
    /// Buildpacks after this one have it.
    pub build: bool,
    /// The next build has it.
    pub cache: bool,
    /// Anything.
    pub metadata: toml::Table,
}

#[derive(Deserialize)]
struct RawLayer {
    types: Option<Types>,
    #[serde(default)]
    metadata: toml::Table,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Types {
    launch: bool,
    build: bool,
    cache: bool,
}

impl Layer {
    /// Reads a `<layer>.toml`.
    pub fn parse(text: &str, name: &str) -> Result<Self, String> {
        let raw: RawLayer = super::toml(text, name)?;
        let Types { launch, build, cache } = raw.types.unwrap_or_default();
        Ok(Self { launch, build, cache, metadata: raw.metadata })
    }

    /// Whether anybody has it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.launch || self.build || self.cache
    }

    /// What is put back before the next build: the metadata, without what it is for.
    #[must_use]
    pub fn restored(&self) -> String {
        let mut table = toml::Table::new();
        table.insert("metadata".to_owned(), toml::Value::Table(self.metadata.clone()));
        toml::to_string(&table).unwrap_or_default()
    }
}

/// What comes back of a layer before the next build of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// Its files and its metadata.
    Files,
    /// Its metadata: the image has the files, and may keep them.
    Metadata,
    /// Nothing.
    Nothing,
}

impl Layer {
    /// What comes back of it.
    #[must_use]
    pub fn restore(&self) -> Restore {
        match (self.cache, self.launch, self.build) {
            (true, _, _) => Restore::Files,
            (false, true, false) => Restore::Metadata,
            _ => Restore::Nothing,
        }
    }
}

/// A layer's name: part of a path, and not a name of the specification's own.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b'\\';
    let shown: String = name.chars().take(80).collect();
    if name.is_empty() || name.len() > 200 || !name.bytes().all(good) || name.starts_with('.') {
        return Err(format!("{shown:?} cannot be the name of a layer"));
    }
    match name {
        "build" | "launch" | "store" => {
            Err(format!("a layer cannot be called {name:?}: the name is reserved"))
        }
        _ => Ok(()),
    }
}

/// A `launch.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// In the order of the file.
    pub processes: Vec<Defined>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Patterns of files of the app that are a layer of their own.
    pub slices: Vec<Vec<String>>,
}

#[derive(Deserialize)]
struct RawLaunch {
    #[serde(default)]
    processes: Vec<RawProcess>,
    #[serde(default)]
    labels: Vec<RawLabel>,
    #[serde(default)]
    slices: Vec<RawSlice>,
}

#[derive(Deserialize)]
struct RawLabel {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct RawSlice {
    #[serde(default, alias = "globs")]
    paths: Vec<String>,
}

impl Launch {
    /// Reads a `launch.toml` as `api` has it.
    pub fn parse(text: &str, api: Api) -> Result<Self, String> {
        let raw: RawLaunch = super::toml(text, "launch.toml")?;
        if raw.processes.len().max(raw.labels.len()).max(raw.slices.len()) > MAX_ITEMS {
            return Err(format!("launch.toml: more than {MAX_ITEMS} entries of one kind"));
        }
        let wrong = |error: String| format!("launch.toml: {error}");
        let processes = raw
            .processes
            .into_iter()
            .filter(RawProcess::is_for_production)
            .map(|process| process.checked(api));
        let mut labels = BTreeMap::new();
        for RawLabel { key, value } in raw.labels {
            if key.is_empty()
                || key.len() > 255
                || value.len() > MAX_LABEL
                || key.chars().any(char::is_control)
            {
                return Err(wrong(format!(
                    "the label {:?} is too long or has no name",
                    key.get(..80).unwrap_or(&key)
                )));
            }
            if key.starts_with("sh.berth.") || key.starts_with("io.buildpacks.lifecycle.") {
                return Err(wrong(format!("the label {key:?} belongs to the platform")));
            }
            labels.insert(key, value);
        }
        Ok(Self {
            processes: processes.collect::<Result<_, _>>().map_err(wrong)?,
            labels,
            slices: raw.slices.into_iter().map(|slice| slice.paths).collect(),
        })
    }
}

/// The names in a `build.toml` that its buildpack did not meet.
pub fn unmet(text: &str) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        unmet: Vec<Name>,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    let file: File = super::toml(text, "build.toml")?;
    Ok(file.unmet.into_iter().map(|unmet| unmet.name).collect())
}

/// Checks a `store.toml`; it comes back as it is.
pub fn check_store(text: &str) -> Result<(), String> {
    super::toml::<toml::Table>(text, "store.toml").map(drop)
}

/// The format of an SBOM file, by its name: layer (`launch` and `build` for those of no layer) and `cdx`, `spdx` or `syft`.
#[must_use]
pub fn sbom(name: &str) -> Option<(&str, &'static str)> {
    let kinds = [(".sbom.cdx.json", "cdx"), (".sbom.spdx.json", "spdx"), (".sbom.syft.json", "syft")];
    let found = kinds.into_iter().find_map(|(end, kind)| Some((name.strip_suffix(end)?, kind)));
    found.filter(|(layer, _)| matches!(*layer, "launch" | "build") || check_name(layer).is_ok())
}
