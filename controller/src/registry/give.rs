//! What the controller itself does with the registry, without HTTP: images from one repository to another.
//!
//! In: names of ours, and tags that people wrote. Out: digests. Everything here blocks.

use super::error::{Code, RegistryError};
use super::manifest::Manifest;
use super::name::{Name, Reference};
use super::store::Registry;
use berth_model::Digest;
use berth_model::image::architecture;
use serde::Deserialize;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Registry {
    /// Gives repository `to` the image that `reference` (a tag or digest) is in `from`, under `tag`; of an index, the
    /// image for this machine. Gives its digest. No bytes are copied.
    pub(crate) fn give(
        &self,
        from: &str,
        reference: &str,
        to: &str,
        tag: &str,
    ) -> Result<Digest, RegistryError> {
        let (from, to) = (Name::parse(from)?, Name::parse(to)?);
        let mut stored = self.manifest(&from, &Reference::parse(reference)?)?;
        let mut manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)?;
        if !manifest.children.is_empty() {
            let index: Index = serde_json::from_slice(&stored.bytes)
                .map_err(|error| RegistryError::new(Code::ManifestInvalid, error.to_string()))?;
            let fits = |listed: &&Listed| {
                let platform = listed.platform.as_ref();
                platform.is_some_and(|found| found.os == "linux" && found.architecture == architecture())
            };
            let listed = index.manifests.iter().find(fits).ok_or_else(|| {
                let text =
                    format!("{from} has no variant for linux/{}, which this machine is", architecture());
                RegistryError::new(Code::ManifestUnknown, text)
            })?;
            stored = self.manifest(&from, &Reference::parse(&listed.digest)?)?;
            manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)?;
        }
        if from != to {
            for blob in &manifest.blobs {
                if !self.mount(&to, &from, &blob.digest)? {
                    let text = format!("{from} has not all of its image: {} is missing", blob.digest);
                    return Err(RegistryError::new(Code::ManifestBlobUnknown, text));
                }
            }
        }
        self.put_manifest(&to, &Reference::parse(tag)?, Some(&stored.media_type), &stored.bytes)?;
        Ok(Digest::of(&stored.bytes))
    }

    /// Takes a tag away; one that is not there is none.
    pub(crate) fn drop_tag(&self, repository: &str, tag: &str) -> Result<(), RegistryError> {
        match self.delete_manifest(&Name::parse(repository)?, &Reference::parse(tag)?) {
            Err(error) if error.code == Code::ManifestUnknown => Ok(()),
            result => result,
        }
    }
}
