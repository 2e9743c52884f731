//! Where things are on disk, and the plain operations on them. All of it blocks: HTTP handlers call it from blocking
//! threads.
//!
//! ```text
//! root/blobs/sha256/ab/abcd…                      bytes by digest, of all repositories
//! root/repositories/<name>/_blobs/sha256/abcd…    empty: this repository may read that blob
//! root/repositories/<name>/_manifests/sha256/…    the manifest's media type; its bytes are a blob
//! root/repositories/<name>/_tags/<tag>            a digest
//! root/repositories/<name>/_referrers/<alg>/<subject>/<alg>-<digest>   descriptor of a manifest with that subject
//! root/uploads/<id>/{data,repository}             unfinished uploads; they survive a restart
//! ```
//! No part of a repository's name begins with `_`, so these cannot collide with repositories below.

use super::durable;
use super::error::{Code, RegistryError};
use super::manifest::{Descriptor, Manifest};
use super::name::{Algorithm, BlobDigest, Name, Reference, Tag};
use super::uploads::Uploads;
use sha2::{Digest as _, Sha256, Sha512};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Largest manifest in bytes (distribution-spec 1.1: registries should allow at least 4 MiB).
pub(super) const MAX_MANIFEST: usize = 4 << 20;

/// An image registry on disk.
#[derive(Debug)]
pub struct Registry {
    pub(super) root: PathBuf,
    pub(super) uploads: Uploads,
    /// Shared by whatever makes a blob or manifest needed, exclusive for each single removal.
    gate: RwLock<()>,
}

/// A manifest as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) digest: BlobDigest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

impl Registry {
    /// The registry kept in `root`, which is made when the first thing is stored.
    #[must_use]
    pub fn open(root: PathBuf) -> Self {
        let uploads = Uploads::new(root.join("uploads"));
        Self { root, uploads, gate: RwLock::new(()) }
    }

    /// As long as it is held nothing is removed.
    pub(crate) fn adding(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn removing(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blob_path(&self, digest: &BlobDigest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().as_str()).join(&digest.hex()[..2]).join(digest.hex())
    }

    pub(super) fn repository(&self, name: &Name) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    fn in_repository(&self, name: &Name, kind: &str, digest: &BlobDigest) -> PathBuf {
        self.repository(name).join(kind).join(digest.algorithm().as_str()).join(digest.hex())
    }

    pub(super) fn blob_link(&self, name: &Name, digest: &BlobDigest) -> PathBuf {
        self.in_repository(name, "_blobs", digest)
    }

    pub(super) fn manifest_link(&self, name: &Name, digest: &BlobDigest) -> PathBuf {
        self.in_repository(name, "_manifests", digest)
    }

    pub(super) fn tag_path(&self, name: &Name, tag: &Tag) -> PathBuf {
        self.repository(name).join("_tags").join(tag.as_str())
    }

    fn referrer_path(&self, name: &Name, subject: &BlobDigest, digest: &BlobDigest) -> PathBuf {
        let file = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
        self.in_repository(name, "_referrers", subject).join(file)
    }

    /// Opens a blob that this repository has, and says its size.
    pub(super) fn blob(&self, name: &Name, digest: &BlobDigest) -> Result<(File, u64), RegistryError> {
        let _gate = self.adding();
        let unknown =
            || RegistryError::new(Code::BlobUnknown, format!("repository {name} has no blob {digest}"));
        let disk = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => unknown(),
            _ => RegistryError::disk(format!("reading blob {digest}"), error),
        };
        durable::touch(&self.blob_link(name, digest)).map_err(disk)?;
        let file = File::open(self.blob_path(digest)).map_err(disk)?;
        // Who asks for it may be about to name it in a manifest.
        file.set_modified(std::time::SystemTime::now()).map_err(disk)?;
        let size = file.metadata().map_err(disk)?.len();
        Ok((file, size))
    }

    /// Gives `name` a blob that `from` has. `false` if it has not.
    pub(super) fn mount(&self, name: &Name, from: &Name, digest: &BlobDigest) -> Result<bool, RegistryError> {
        match self.blob(from, digest) {
            Err(error) if error.code == Code::BlobUnknown => Ok(false),
            Err(error) => Err(error),
            Ok(_) => self.link_blob(name, digest).map(|()| true),
        }
    }

    pub(super) fn link_blob(&self, name: &Name, digest: &BlobDigest) -> Result<(), RegistryError> {
        let _gate = self.adding();
        durable::link(&self.blob_link(name, digest), &self.uploads.temporary(), b"")
            .map_err(|error| RegistryError::disk(format!("adding blob {digest} to {name}"), error))
    }

    /// Takes over the synced file `data` as the blob `digest`; the caller has verified it.
    pub(super) fn adopt(&self, data: &Path, digest: &BlobDigest) -> Result<(), RegistryError> {
        let _gate = self.adding();
        let path = self.blob_path(digest);
        let adopted = (|| {
            if durable::touch(&path).is_ok() {
                return fs::remove_file(data);
            }
            if let Some(parent) = path.parent() {
                durable::create_dir(parent)?;
            }
            fs::rename(data, &path)?;
            durable::sync_parent(&path)
        })();
        adopted.map_err(|error| RegistryError::disk(format!("storing blob {digest}"), error))
    }

    /// Takes a blob out of a repository; its bytes go when no repository has it.
    pub(super) fn delete_blob(&self, name: &Name, digest: &BlobDigest) -> Result<(), RegistryError> {
        let _gate = self.removing();
        match durable::remove(&self.blob_link(name, digest)) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(RegistryError::new(Code::BlobUnknown, format!("repository {name} has no blob {digest}")))
            }
            Err(error) => Err(RegistryError::disk(format!("removing blob {digest} from {name}"), error)),
        }
    }

    pub(super) fn exists(&self, name: &Name) -> bool {
        let repository = self.repository(name);
        ["_manifests", "_tags", "_blobs"].iter().any(|kind| repository.join(kind).is_dir())
    }

    pub(super) fn resolve(&self, name: &Name, reference: &Reference) -> Result<BlobDigest, RegistryError> {
        match reference {
            Reference::Digest(digest) => Ok(digest.clone()),
            Reference::Tag(tag) => match fs::read_to_string(self.tag_path(name, tag)) {
                Ok(text) => BlobDigest::parse(text.trim()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RegistryError::new(
                    Code::ManifestUnknown,
                    format!("repository {name} has no tag {}", tag.as_str()),
                )),
                Err(error) => Err(RegistryError::disk(format!("reading a tag of {name}"), error)),
            },
        }
    }

    pub(super) fn manifest(&self, name: &Name, reference: &Reference) -> Result<Stored, RegistryError> {
        let digest = self.resolve(name, reference)?;
        if let Reference::Tag(tag) = reference
            && name.is_mirror()
        {
            // Copies of other registries' images go when nobody asks for them. One that is just being deleted cannot be
            // touched, nor need it be.
            let _ = durable::touch(&self.tag_path(name, tag));
        }
        let read = || -> io::Result<Stored> {
            let media_type = fs::read_to_string(self.manifest_link(name, &digest))?;
            let bytes = fs::read(self.blob_path(&digest))?;
            Ok(Stored { digest: digest.clone(), media_type, bytes })
        };
        read().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RegistryError::new(
                Code::ManifestUnknown,
                format!("repository {name} has no manifest {digest}"),
            ),
            _ => RegistryError::disk(format!("reading manifest {digest} of {name}"), error),
        })
    }

    /// Stores a manifest whose blobs are all there. Gives its digest and its subject.
    pub(super) fn put_manifest(
        &self,
        name: &Name,
        reference: &Reference,
        content_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<(BlobDigest, Option<BlobDigest>), RegistryError> {
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = digest_of(algorithm, bytes);
        if let Reference::Digest(expected) = reference
            && *expected != digest
        {
            return Err(RegistryError::new(
                Code::DigestInvalid,
                format!("the manifest's digest is {digest}, not {expected}"),
            ));
        }
        let manifest = Manifest::parse(content_type, bytes)?;
        let _gate = self.adding();
        self.require_blobs(name, &manifest)?;
        let disk = |error| RegistryError::disk(format!("storing manifest {digest} of {name}"), error);
        durable::link(&self.blob_path(&digest), &self.uploads.temporary(), bytes).map_err(disk)?;
        let link = self.manifest_link(name, &digest);
        durable::write(&link, &self.uploads.temporary(), manifest.media_type.as_bytes()).map_err(disk)?;
        if let Some(subject) = &manifest.subject {
            let descriptor = manifest.as_referrer(&digest, bytes.len());
            let path = self.referrer_path(name, subject, &digest);
            durable::write(&path, &self.uploads.temporary(), descriptor.to_string().as_bytes())
                .map_err(disk)?;
        }
        if let Reference::Tag(tag) = reference {
            let path = self.tag_path(name, tag);
            durable::write(&path, &self.uploads.temporary(), digest.to_string().as_bytes()).map_err(disk)?;
        }
        Ok((digest, manifest.subject))
    }

    fn require_blobs(&self, name: &Name, manifest: &Manifest) -> Result<(), RegistryError> {
        let missing = |descriptor: &Descriptor, what: &str| {
            RegistryError::new(
                Code::ManifestBlobUnknown,
                format!(
                    "the manifest names {what} {}, which repository {name} does not have: push it first",
                    descriptor.digest
                ),
            )
        };
        for descriptor in &manifest.blobs {
            let link = durable::touch(&self.blob_link(name, &descriptor.digest));
            link.and_then(|()| durable::touch(&self.blob_path(&descriptor.digest)))
                .map_err(|_| missing(descriptor, "blob"))?;
            let size = fs::metadata(self.blob_path(&descriptor.digest)).map(|found| found.len());
            if size.ok() != Some(descriptor.size) {
                return Err(RegistryError::new(
                    Code::ManifestInvalid,
                    format!("the manifest gives blob {} a wrong size", descriptor.digest),
                ));
            }
        }
        for descriptor in &manifest.children {
            let link = durable::touch(&self.manifest_link(name, &descriptor.digest));
            link.and_then(|()| durable::touch(&self.blob_path(&descriptor.digest)))
                .map_err(|_| missing(descriptor, "manifest"))?;
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with all its tags.
    pub(super) fn delete_manifest(&self, name: &Name, reference: &Reference) -> Result<(), RegistryError> {
        let _gate = self.removing();
        let disk = |error| RegistryError::disk(format!("removing a manifest of {name}"), error);
        let unknown =
            || RegistryError::new(Code::ManifestUnknown, format!("repository {name} has no such manifest"));
        match reference {
            Reference::Tag(tag) => {
                durable::remove(&self.tag_path(name, tag)).map_err(disk)?.then_some(()).ok_or_else(unknown)
            }
            Reference::Digest(digest) => self.drop_manifest(name, digest)?.then_some(()).ok_or_else(unknown),
        }
    }

    /// The caller holds the gate exclusively. `false` if it was not there.
    pub(super) fn drop_manifest(&self, name: &Name, digest: &BlobDigest) -> Result<bool, RegistryError> {
        let disk = |error| RegistryError::disk(format!("removing manifest {digest} of {name}"), error);
        let link = self.manifest_link(name, digest);
        if !link.exists() {
            return Ok(false);
        }
        for tag in self.tags(name)? {
            if self.resolve(name, &Reference::Tag(tag.clone()))? == *digest {
                durable::remove(&self.tag_path(name, &tag)).map_err(disk)?;
            }
        }
        if let Ok(bytes) = fs::read(self.blob_path(digest))
            && let Ok(manifest) = Manifest::parse(None, &bytes)
            && let Some(subject) = manifest.subject
        {
            durable::remove(&self.referrer_path(name, &subject, digest)).map_err(disk)?;
        }
        durable::remove(&link).map_err(disk)
    }

    /// All tags, as distribution-spec 1.1 sorts them ("Listing Tags"): whatever their case.
    pub(super) fn tags(&self, name: &Name) -> Result<Vec<Tag>, RegistryError> {
        let mut names = list(&self.repository(name).join("_tags"))
            .map_err(|error| RegistryError::disk(format!("listing the tags of {name}"), error))?;
        names.sort_by_cached_key(|name| sorting(name));
        Ok(names.iter().filter_map(|name| Tag::parse(name)).collect())
    }

    /// Descriptors of the manifests whose subject is `subject`.
    pub(super) fn referrers(
        &self,
        name: &Name,
        subject: &BlobDigest,
    ) -> Result<Vec<serde_json::Value>, RegistryError> {
        let dir = self.in_repository(name, "_referrers", subject);
        let disk = |error| RegistryError::disk(format!("listing the referrers of {subject}"), error);
        let mut found = Vec::new();
        for file in list(&dir).map_err(disk)? {
            let bytes = fs::read(dir.join(file)).map_err(disk)?;
            found.extend(serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        }
        Ok(found)
    }

    /// Every repository that has anything, sorted.
    pub(super) fn repositories(&self) -> Result<Vec<Name>, RegistryError> {
        let mut found = Vec::new();
        let top = self.root.join("repositories");
        let mut pending = vec![(top, String::new())];
        while let Some((dir, name)) = pending.pop() {
            let children =
                list(&dir).map_err(|error| RegistryError::disk("listing the repositories", error))?;
            if children.iter().any(|child| child.starts_with('_')) {
                found.extend(Name::parse(&name).ok());
            }
            for child in children.iter().filter(|child| !child.starts_with('_')) {
                let below = if name.is_empty() { child.clone() } else { format!("{name}/{child}") };
                pending.push((dir.join(child), below));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Digests of the files in `<repository>/<kind>/<algorithm>/`.
    pub(super) fn digests(&self, name: &Name, kind: &str) -> Result<Vec<BlobDigest>, RegistryError> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let names = list(&self.repository(name).join(kind).join(algorithm.as_str()))
                .map_err(|error| RegistryError::disk(format!("listing {name}"), error))?;
            found.extend(names.iter().filter_map(|hex| BlobDigest::from_hex(algorithm, hex)));
        }
        Ok(found)
    }
}

/// What lists are sorted by.
pub(super) fn sorting(text: &str) -> (String, String) {
    (text.to_ascii_lowercase(), text.to_owned())
}

pub(super) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> BlobDigest {
    let hex = match algorithm {
        Algorithm::Sha256 => hex::encode(Sha256::digest(bytes)),
        Algorithm::Sha512 => hex::encode(Sha512::digest(bytes)),
    };
    BlobDigest::from_hex(algorithm, &hex).expect("a hash has as many digits as its algorithm says")
}

/// Names in a directory, sorted; none if it is not there.
pub(super) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
