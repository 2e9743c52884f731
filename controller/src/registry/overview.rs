//! What the registry holds, for people.
//!
//! In: nothing. Out: every image with its tags and sizes. Blocks.

use super::error::RegistryError;
use super::manifest::Manifest;
use super::name::Reference;
use super::store::Registry;
use std::collections::HashMap;
use std::time::SystemTime;

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) repository: String,
    pub(crate) digest: String,
    pub(crate) tags: Vec<String>,
    /// Its manifest, config and layers; images may share them.
    pub(crate) bytes: u64,
    /// When it was pushed last.
    pub(crate) pushed: Option<SystemTime>,
}

impl Registry {
    /// Every image of the repositories that `wanted` wants, by repository.
    pub(crate) fn overview(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Kept>, RegistryError> {
        let mut found = Vec::new();
        for name in self.repositories()?.into_iter().filter(|name| wanted(name.as_str())) {
            let mut tags: HashMap<_, Vec<String>> = HashMap::new();
            for tag in self.tags(&name)? {
                // Somebody may delete it just now.
                if let Ok(digest) = self.resolve(&name, &Reference::Tag(tag.clone())) {
                    tags.entry(digest).or_default().push(tag.as_str().to_owned());
                }
            }
            for digest in self.digests(&name, "_manifests")? {
                let Ok(stored) = self.manifest(&name, &Reference::Digest(digest.clone())) else { continue };
                let blobs = Manifest::parse(Some(&stored.media_type), &stored.bytes);
                let blobs = blobs.map(|manifest| manifest.blobs).unwrap_or_default();
                let bytes =
                    blobs.iter().fold(stored.bytes.len() as u64, |sum, blob| sum.saturating_add(blob.size));
                let link = std::fs::metadata(self.manifest_link(&name, &digest));
                found.push(Kept {
                    repository: name.to_string(),
                    digest: digest.to_string(),
                    tags: tags.remove(&digest).unwrap_or_default(),
                    bytes,
                    pushed: link.and_then(|link| link.modified()).ok(),
                });
            }
        }
        Ok(found)
    }
}
