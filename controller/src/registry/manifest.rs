//! Manifests as a registry sees them: which blobs they need, and of what they speak.

use super::error::{Code, RegistryError};
use super::name::{Algorithm, BlobDigest};
use serde::Deserialize;
use std::collections::BTreeMap;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference to bytes.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    pub(super) digest: BlobDigest,
    pub(super) size: u64,
}

/// A well-formed manifest or index.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    /// Config and layers that must be in the repository.
    pub(super) blobs: Vec<Descriptor>,
    /// Whether the first of them is a config.
    has_config: bool,
    /// Manifests of an index.
    pub(super) children: Vec<Descriptor>,
    /// What it is about, which may not be there (yet).
    pub(super) subject: Option<BlobDigest>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Reference>,
    layers: Option<Vec<Reference>>,
    manifests: Option<Vec<Reference>>,
    /// Of the artifact manifest that was proposed for OCI 1.1.
    blobs: Option<Vec<Reference>>,
    subject: Option<Reference>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    media_type: String,
    digest: String,
    size: u64,
}

impl Reference {
    fn check(&self) -> Result<Descriptor, RegistryError> {
        Ok(Descriptor { digest: BlobDigest::parse(&self.digest)?, size: self.size })
    }

    /// Such layers are fetched from elsewhere and need not be here (image-spec, "non-distributable layers").
    fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".rootfs.foreign.")
    }
}

/// What a manifest is to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Image,
    Index,
    /// Of a media type that this registry does not know.
    Other,
}

fn invalid(text: impl std::fmt::Display) -> RegistryError {
    RegistryError::new(Code::ManifestInvalid, format!("the manifest is not valid: {text}"))
}

impl Manifest {
    /// `content_type` is the header of a push; without it the document's own word counts.
    pub(super) fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, RegistryError> {
        let document: Document = serde_json::from_slice(bytes).map_err(invalid)?;
        let header = content_type.map(|text| text.split(';').next().unwrap_or("").trim());
        let media_type = match (header, &document.media_type) {
            (Some(header), Some(own)) if header != own => {
                return Err(invalid(format!(
                    "it says it is {own}, but the Content-Type header says {header}"
                )));
            }
            (Some(header), _) => header.to_owned(),
            (None, Some(own)) => own.clone(),
            (None, None) if document.manifests.is_some() => OCI_INDEX.to_owned(),
            (None, None) => OCI_MANIFEST.to_owned(),
        };
        let kind = match media_type.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => Kind::Image,
            OCI_INDEX | DOCKER_LIST => Kind::Index,
            other if other.starts_with("application/") && other.ends_with("+json") => Kind::Other,
            _ => return Err(invalid(format!("media type {media_type} is none of a JSON manifest"))),
        };
        match (document.schema_version, kind) {
            (Some(2), _) | (None, Kind::Other) => {}
            _ => return Err(invalid("schemaVersion must be 2")),
        }
        let (mut blobs, mut children) = (Vec::new(), Vec::new());
        let has_config = document.config.is_some();
        let mut config_type = None;
        // A document that is both could mean different things to different readers (CVE-2021-41190).
        match kind {
            Kind::Index => {
                if document.config.is_some() || document.layers.is_some() {
                    return Err(invalid("an index has no config and no layers"));
                }
                let listed = document.manifests.ok_or_else(|| invalid("an index needs manifests"))?;
                for reference in &listed {
                    children.push(reference.check()?);
                }
            }
            Kind::Image => {
                if document.manifests.is_some() {
                    return Err(invalid("an image manifest has no manifests"));
                }
                let config = document.config.ok_or_else(|| invalid("it has no config"))?;
                let layers = document.layers.ok_or_else(|| invalid("it has no layers"))?;
                blobs.push(config.check()?);
                config_type = Some(config.media_type);
                for layer in &layers {
                    let descriptor = layer.check()?;
                    if !layer.is_foreign() {
                        blobs.push(descriptor);
                    }
                }
            }
            // What it means is for its readers to know; what it names is kept with it.
            Kind::Other => {
                let lists = [document.layers, document.blobs].into_iter().flatten().flatten();
                for reference in document.config.into_iter().chain(lists) {
                    blobs.push(reference.check()?);
                }
                for reference in document.manifests.into_iter().flatten() {
                    children.push(reference.check()?);
                }
            }
        }
        let subject = document.subject.map(|subject| subject.check()).transpose()?.map(|found| found.digest);
        Ok(Self {
            media_type,
            blobs,
            has_config,
            children,
            subject,
            artifact_type: document.artifact_type.filter(|text| !text.is_empty()).or(config_type),
            annotations: document.annotations.unwrap_or_default(),
        })
    }

    /// The config, if it has one, and the layers, the lowest first.
    pub(super) fn config_and_layers(&self) -> (Option<&Descriptor>, &[Descriptor]) {
        match self.blobs.split_first() {
            Some((config, layers)) if self.has_config => (Some(config), layers),
            _ => (None, &self.blobs),
        }
    }

    /// How the referrers list shows it.
    pub(super) fn as_referrer(&self, digest: &BlobDigest, size: usize) -> serde_json::Value {
        let mut value = serde_json::json!({
            "mediaType": self.media_type,
            "digest": digest.to_string(),
            "size": size,
        });
        if let Some(kind) = &self.artifact_type {
            value["artifactType"] = kind.clone().into();
        }
        if !self.annotations.is_empty() {
            value["annotations"] = serde_json::json!(self.annotations);
        }
        value
    }
}

/// The digest that Berth's own types carry is SHA-256 and always well-formed.
pub(super) fn of_model(digest: &berth_model::Digest) -> BlobDigest {
    BlobDigest::from_hex(Algorithm::Sha256, digest.hex()).expect("a model digest is 64 hexadecimal digits")
}
