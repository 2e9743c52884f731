//! Collecting: which manifests and blobs nobody needs any more, and their removal.
//!
//! In: the images to keep. Out: how much went. Kept besides: whatever a tag names (in `mirror/` while it is used), what those images are made of, what
//! refers to them, and everything that was pushed, asked for or named in a manifest within the grace time: a push looks
//! whether a blob is there before it names it, and must still find it then.

use super::durable;
use super::error::RegistryError;
use super::manifest::{Manifest, of_model};
use super::name::{Algorithm, BlobDigest, Name, Reference, Target};
use super::store::{Registry, list};
use super::uploads::is_younger;
use berth_model::image::ImageRef;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long a copy of another registry's image stays after its last use.
const COPIES_STAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// What [`Registry::collect`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests taken out of their repositories.
    pub manifests: u64,
    /// Blobs removed from the disk.
    pub blobs: u64,
    /// Bytes those blobs had.
    pub bytes: u64,
}

/// What is needed, by repository.
#[derive(Default)]
struct Marked {
    manifests: HashSet<BlobDigest>,
    blobs: HashSet<BlobDigest>,
}

impl Registry {
    /// Removes what neither `keep` nor a tag needs and nobody touched for `grace`. Blocks. May run beside pushes and
    /// pulls: a reader that has a blob open reads it to its end.
    pub fn collect(&self, keep: &[ImageRef], grace: Duration) -> Result<Collected, RegistryError> {
        let now = SystemTime::now();
        let repositories = self.repositories()?;
        let mut marked = HashMap::new();
        for name in &repositories {
            self.forget_unused_copies(name, now)?;
            marked.insert(name.clone(), self.mark(name, keep, grace, now)?);
        }
        let mut collected = Collected::default();
        let mut needed: HashSet<BlobDigest> = HashSet::new();
        for (name, marked) in &marked {
            for digest in self.digests(name, "_manifests")? {
                if !marked.manifests.contains(&digest) {
                    let _gate = self.removing();
                    if !is_younger(&self.manifest_link(name, &digest), grace, now) {
                        collected.manifests += u64::from(self.drop_manifest(name, &digest)?);
                        continue;
                    }
                }
                needed.insert(digest);
            }
            for digest in self.digests(name, "_blobs")? {
                let link = self.blob_link(name, &digest);
                if !marked.blobs.contains(&digest) && self.remove_old(&link, grace, now)?.is_some() {
                    continue;
                }
                needed.insert(digest);
            }
            self.remove_if_empty(name);
        }
        for algorithm in Algorithm::ALL {
            let top = self.root.join("blobs").join(algorithm.as_str());
            let disk = |error| RegistryError::disk("listing the blobs", error);
            for prefix in list(&top).map_err(disk)? {
                for hex in list(&top.join(&prefix)).map_err(disk)? {
                    let needed =
                        BlobDigest::from_hex(algorithm, &hex).is_some_and(|digest| needed.contains(&digest));
                    if !needed
                        && let Some(size) = self.remove_old(&top.join(&prefix).join(&hex), grace, now)?
                    {
                        collected.blobs += 1;
                        collected.bytes += size;
                    }
                }
            }
        }
        self.uploads.sweep(grace, now).map_err(|error| RegistryError::disk("sweeping old uploads", error))?;
        Ok(collected)
    }

    /// Copies of other registries' images that nobody asked for in a long time lose their names. Whatever is deployed
    /// has its own.
    fn forget_unused_copies(&self, name: &Name, now: SystemTime) -> Result<(), RegistryError> {
        if !name.is_mirror() {
            return Ok(());
        }
        for tag in self.tags(name)? {
            self.remove_old(&self.tag_path(name, &tag), COPIES_STAY, now)?;
        }
        Ok(())
    }

    fn mark(
        &self,
        name: &Name,
        keep: &[ImageRef],
        grace: Duration,
        now: SystemTime,
    ) -> Result<Marked, RegistryError> {
        let mut pending: Vec<BlobDigest> = keep
            .iter()
            .filter(|image| image.repository == name.as_str())
            .map(|image| of_model(&image.digest))
            .collect();
        for tag in self.tags(name)? {
            pending.push(self.resolve(name, &Reference::Tag(tag))?);
        }
        for digest in self.digests(name, "_manifests")? {
            if is_younger(&self.manifest_link(name, &digest), grace, now) {
                pending.push(digest);
            }
        }
        let mut marked = Marked::default();
        while let Some(digest) = pending.pop() {
            if !marked.manifests.insert(digest.clone()) {
                continue;
            }
            let stored = match self.manifest(name, &Reference::Digest(digest.clone())) {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::warn!(%error, "an image that is to be kept is not in the registry");
                    continue;
                }
            };
            let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)?;
            marked.blobs.extend(manifest.blobs.into_iter().map(|blob| blob.digest));
            pending.extend(manifest.children.into_iter().map(|child| child.digest));
            for referrer in self.referrers(name, &digest)? {
                let digest = referrer.get("digest").and_then(|text| text.as_str());
                pending.extend(digest.and_then(|text| BlobDigest::parse(text).ok()));
            }
        }
        Ok(marked)
    }

    /// Whether one of `keep` is what a client is about to delete at this path, or needs it.
    pub(crate) fn is_needed(&self, path: &str, keep: &[ImageRef]) -> Option<ImageRef> {
        let (name, wanted) = match Target::parse(path).ok()? {
            Target::Blob(name, digest) => (name, digest),
            Target::Manifest(name, Reference::Digest(digest)) => (name, digest),
            _ => return None,
        };
        let needs = |image: &&ImageRef| {
            let digest = of_model(&image.digest);
            if digest == wanted {
                return true;
            }
            let stored = self.manifest(&name, &Reference::Digest(digest));
            let manifest = stored.and_then(|stored| Manifest::parse(Some(&stored.media_type), &stored.bytes));
            manifest.is_ok_and(|manifest| manifest.blobs.iter().any(|blob| blob.digest == wanted))
        };
        keep.iter().filter(|image| image.repository == name.as_str()).find(needs).cloned()
    }

    /// Removes `path` unless it was touched within the grace time; that is looked at under the gate, so nobody can
    /// have begun to need it in between. Gives the size of what went.
    fn remove_old(
        &self,
        path: &Path,
        grace: Duration,
        now: SystemTime,
    ) -> Result<Option<u64>, RegistryError> {
        let _gate = self.removing();
        if is_younger(path, grace, now) {
            return Ok(None);
        }
        let size = fs::metadata(path).map(|found| found.len()).unwrap_or_default();
        let removed = durable::remove(path)
            .map_err(|error| RegistryError::disk(format!("removing {}", path.display()), error))?;
        Ok(removed.then_some(size))
    }

    /// Removes the directories of a repository that has nothing left; those that have something refuse by themselves.
    fn remove_if_empty(&self, name: &Name) {
        let _gate = self.removing();
        let repository = self.repository(name);
        for algorithm in Algorithm::ALL {
            let subjects = repository.join("_referrers").join(algorithm.as_str());
            for subject in list(&subjects).unwrap_or_default() {
                let _ = fs::remove_dir(subjects.join(subject));
            }
        }
        for kind in ["_blobs", "_manifests", "_referrers"] {
            for algorithm in Algorithm::ALL {
                let _ = fs::remove_dir(repository.join(kind).join(algorithm.as_str()));
            }
            let _ = fs::remove_dir(repository.join(kind));
        }
        let _ = fs::remove_dir(repository.join("_tags"));
        let _ = fs::remove_dir(repository);
    }
}
