//! What one image is made of, for people.
//!
//! In: an image's digest, or its beginning. Out: its layers, and with how many other images it shares each. Blocks.

use super::error::RegistryError;
use super::manifest::{Descriptor, Manifest};
use super::name::{BlobDigest, Name, Reference};
use super::store::Registry;
use berth_model::api::{ImageDetail, ImageLayer};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Least of a digest that names an image, in hexadecimal digits.
const LEAST: usize = 12;
/// Longest config that is read for what it says of layers.
const MAX_CONFIG: u64 = 4 << 20;
/// Longest step that is told, in characters.
const LONGEST_STEP: usize = 300;

/// Why an image is not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    #[error("there is no image {0}; see them with: berth images")]
    Unknown(String),
    #[error("{0:?} is no digest of an image: write sha256: and {LEAST} hexadecimal digits of it or more")]
    Malformed(String),
    #[error("several images begin with {0}; write more of the digest")]
    Ambiguous(String),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What a config says of the image (image-spec, "OCI Image Configuration").
#[derive(Debug, Default, Deserialize)]
struct Config {
    created: Option<String>,
    #[serde(default)]
    history: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

impl Config {
    /// Builds that can be repeated write the epoch, or nothing.
    fn created_ms(&self) -> Option<i64> {
        let at: jiff::Timestamp = self.created.as_deref()?.parse().ok()?;
        Some(at.as_millisecond()).filter(|ms| *ms > 0)
    }

    /// The steps that made `count` layers, if there is one for each.
    fn steps(self, count: usize) -> Vec<Option<String>> {
        let made: Vec<_> = self.history.into_iter().filter(|step| !step.empty_layer).collect();
        if made.len() != count {
            return vec![None; count];
        }
        let shown = |text: String| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_STEP).collect()
        };
        made.into_iter()
            .map(|step| step.created_by.map(shown).filter(|text| !text.trim().is_empty()))
            .collect()
    }
}

impl Registry {
    /// The one image whose digest begins with `wanted`.
    pub(crate) fn layers(&self, wanted: &str) -> Result<ImageDetail, LayersError> {
        let full = if wanted.contains(':') { wanted.to_owned() } else { format!("sha256:{wanted}") };
        let hex = full.split_once(':').map_or("", |(_, hex)| hex);
        if hex.len() < LEAST || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(LayersError::Malformed(wanted.chars().take(80).collect()));
        }
        let mut places: BTreeMap<BlobDigest, Vec<Name>> = BTreeMap::new();
        for name in self.repositories()? {
            for digest in self.digests(&name, "_manifests")? {
                places.entry(digest).or_default().push(name.clone());
            }
        }
        let mut found = places.keys().filter(|digest| digest.to_string().starts_with(&full));
        let digest = found.next().ok_or_else(|| LayersError::Unknown(full.clone()))?.clone();
        if found.next().is_some() {
            return Err(LayersError::Ambiguous(full));
        }
        let names = places.remove(&digest).unwrap_or_default();
        // Somebody may delete it just now.
        let own = names.iter().find_map(|name| self.parsed(name, &digest));
        let own = own.ok_or_else(|| LayersError::Unknown(full))?;
        let others = places.iter().filter_map(|(other, names)| self.parsed(names.first()?, other));
        let mut shared: BTreeMap<BlobDigest, usize> = BTreeMap::new();
        for other in others {
            let once: BTreeSet<BlobDigest> = other.blobs.into_iter().map(|blob| blob.digest).collect();
            once.into_iter().for_each(|blob| *shared.entry(blob).or_default() += 1);
        }
        let (config, layers) = own.config_and_layers();
        let config = config.map(|config| self.config(config)).unwrap_or_default();
        let created_ms = config.created_ms();
        let layer = |(Descriptor { digest, size }, made_by): (&Descriptor, Option<String>)| ImageLayer {
            digest: digest.to_string(),
            bytes: *size,
            shared_with: shared.get(digest).copied().unwrap_or_default(),
            made_by,
        };
        Ok(ImageDetail {
            digest: digest.to_string(),
            repositories: names.iter().map(ToString::to_string).collect(),
            created_ms,
            layers: layers.iter().zip(config.steps(layers.len())).map(layer).collect(),
            images: own.children.iter().map(|child| child.digest.to_string()).collect(),
        })
    }

    fn parsed(&self, name: &Name, digest: &BlobDigest) -> Option<Manifest> {
        let stored = self.manifest(name, &Reference::Digest(digest.clone())).ok()?;
        Manifest::parse(Some(&stored.media_type), &stored.bytes).ok()
    }

    /// What is no config says nothing. Reading it is no use that would keep it.
    fn config(&self, descriptor: &Descriptor) -> Config {
        let mut text = Vec::new();
        let read = std::fs::File::open(self.blob_path(&descriptor.digest))
            .and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
        read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).expect("a config")
    }

    #[test]
    fn a_config_says_when_and_by_what_steps() {
        let two = r#"{"created": "2026-03-04T05:06:07Z", "history": [
            {"created_by": "COPY . /app\nRUN x"}, {"created_by": "ENV A=1", "empty_layer": true}, {"created_by": " "}]}"#;
        assert_eq!(config(two).created_ms(), Some(1_772_600_767_000));
        assert_eq!(config(two).steps(2), [Some("COPY . /app RUN x".to_owned()), None]);
        assert_eq!(config(two).steps(3), [None, None, None], "whose step is whose is not known");
        for silent in [
            r#"{"created": "1970-01-01T00:00:00Z"}"#,
            r#"{"created": "0001-01-01T00:00:00Z"}"#,
            "{}",
            r#"{"created": "x"}"#,
        ] {
            assert_eq!(config(silent).created_ms(), None, "{silent}");
        }
    }
}
