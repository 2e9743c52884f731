//! An archive becomes an image of a repository.

use super::entries::{Content, Entries};
use super::{ArchiveError, MAX_LAYERS, unreadable};
use crate::registry::error::RegistryError;
use crate::registry::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::registry::name::{Algorithm, BlobDigest, Name, Reference};
use crate::registry::store::{Registry, digest_of};
use berth_model::image::architecture;
use berth_model::{Digest, ImageName};
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// As builds make their layers: the same tar becomes the same blob.
const LEVEL: i32 = 1;
/// Bytes that are taken over at once.
const PIECE: usize = 1 << 20;
/// Indexes within indexes, at most.
const MAX_NESTING: usize = 4;

/// One image of the archive.
#[derive(Debug)]
struct Candidate {
    /// What it is called there.
    names: Vec<String>,
    image: Source,
}

#[derive(Debug)]
enum Source {
    /// The manifest or index in `blobs/`.
    Layout(Listed),
    /// An entry of `manifest.json`.
    Docker(Saved),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Listed>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    #[serde(default)]
    media_type: String,
    digest: String,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Takes the image `wanted` of the archive `file` into repository `into`, under `tag`. Without a name the archive must
/// have one image. `scratch` is a directory of the registry's disk. Gives its digest and what the archive calls it.
pub(crate) fn load(
    registry: &Registry,
    file: File,
    scratch: &Path,
    wanted: Option<&str>,
    into: &str,
    tag: &str,
) -> Result<(Digest, Option<String>), ArchiveError> {
    let entries = Entries::read(file, scratch)?;
    let name = Name::parse(into)?;
    let tag = Reference::parse(tag)?;
    let chosen = choose(candidates(&entries)?, wanted)?;
    let called = chosen.names.into_iter().next();
    let loading = Loading { registry, entries: &entries, name: &name };
    let (config, layers) = match chosen.image {
        Source::Docker(saved) => loading.docker(&saved)?,
        Source::Layout(listed) => loading.layout(&listed)?,
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    let bytes = manifest.to_string().into_bytes();
    registry.put_manifest(&name, &tag, Some(OCI_MANIFEST), &bytes)?;
    Ok((Digest::of(&bytes), called))
}

fn candidates(entries: &Entries) -> Result<Vec<Candidate>, ArchiveError> {
    let mut found = Vec::new();
    if let Some(bytes) = entries.document("index.json")? {
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| unreadable(format!("its index.json is malformed: {error}")))?;
        for listed in index.manifests {
            let annotation = |key: &str| listed.annotations.get(key).cloned();
            let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let names: Vec<String> = names.into_iter().filter_map(annotation).collect();
            // An image with two names is listed twice.
            let again = found.iter_mut().find(
                |other: &&mut Candidate| matches!(&other.image, Source::Layout(image) if image.digest == listed.digest),
            );
            match again {
                Some(known) => known.names.extend(names),
                None => found.push(Candidate { names, image: Source::Layout(listed) }),
            }
        }
    }
    if let Some(bytes) = entries.document("manifest.json")? {
        let all: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|error| unreadable(format!("its manifest.json is malformed: {error}")))?;
        // An archive that has both has the same images twice.
        let is_one = found.len() == 1 && all.len() == 1;
        let known = |saved: &Saved| {
            let mut names = saved.repo_tags.iter().flatten();
            is_one
                || names.any(|name| found.iter().any(|other| other.names.iter().any(|own| same(own, name))))
        };
        let new: Vec<Saved> = all.into_iter().filter(|saved| !known(saved)).collect();
        for saved in new {
            let names = saved.repo_tags.clone().unwrap_or_default();
            found.push(Candidate { names, image: Source::Docker(saved) });
        }
    }
    if found.is_empty() {
        return Err(ArchiveError::Unreadable(
            "it has no image: neither an index.json nor a manifest.json. Make it with docker save, podman save, or \
             skopeo copy to oci-archive: or docker-archive:"
                .to_owned(),
        ));
    }
    Ok(found)
}

/// Whether two names mean one image, however much of it was typed.
fn same(a: &str, b: &str) -> bool {
    a == b || matches!((ImageName::parse(a), ImageName::parse(b)), (Ok(a), Ok(b)) if a == b)
}

fn choose(mut found: Vec<Candidate>, wanted: Option<&str>) -> Result<Candidate, ArchiveError> {
    let names = |found: &[Candidate]| {
        let all: Vec<&str> = found.iter().flat_map(|one| &one.names).map(String::as_str).take(20).collect();
        if all.is_empty() { "images without names".to_owned() } else { all.join(", ") }
    };
    let Some(wanted) = wanted else {
        return match found.len() {
            1 => Ok(found.remove(0)),
            _ => Err(ArchiveError::Choice(format!(
                "the archive has several images: name one of {}",
                names(&found)
            ))),
        };
    };
    let parsed = ImageName::parse(wanted).map_err(ArchiveError::Choice)?;
    // `podman save` calls what it built localhost/x, which nobody types.
    let ending = format!("/{}:{}", parsed.repository.trim_start_matches("library/"), parsed.tag);
    let alike = |name: &String| ImageName::parse(name).is_ok_and(|name| name.to_string().ends_with(&ending));
    let place = found.iter().position(|one| one.names.iter().any(|name| same(name, wanted)));
    let place = place.or_else(|| {
        let mut places = (0..found.len()).filter(|at| found[*at].names.iter().any(alike));
        places.next().filter(|_| places.next().is_none())
    });
    match place {
        Some(place) => Ok(found.remove(place)),
        None if found.len() == 1 && found[0].names.is_empty() => Ok(found.remove(0)),
        None => Err(ArchiveError::Choice(format!("the archive has no {wanted}; it has {}", names(&found)))),
    }
}

struct Loading<'a> {
    registry: &'a Registry,
    entries: &'a Entries,
    name: &'a Name,
}

/// The config's and the layers' descriptors.
type Parts = (serde_json::Value, Vec<serde_json::Value>);

impl Loading<'_> {
    fn docker(&self, saved: &Saved) -> Result<Parts, ArchiveError> {
        let config = self.required(&saved.config)?;
        let digest = digest_of(Algorithm::Sha256, &config);
        // Docker calls it by its digest, which is the image's id.
        let stem = saved.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if stem.len() == 64 && stem != digest.hex() {
            return Err(ArchiveError::Refused(format!(
                "{} does not have the digest it is called by",
                saved.config
            )));
        }
        let diff_ids = diff_ids(&config, saved.layers.len())?;
        let mut layers = Vec::new();
        for (path, diff_id) in saved.layers.iter().zip(&diff_ids) {
            let missing =
                || ArchiveError::Unreadable(format!("it has no {path}, which its manifest.json names"));
            let content = self.entries.open(path)?.ok_or_else(missing)?;
            layers.push(self.layer(content, path, diff_id, None)?);
        }
        Ok((self.config(&config)?, layers))
    }

    fn layout(&self, listed: &Listed) -> Result<Parts, ArchiveError> {
        let mut digest = listed.digest.clone();
        let mut bytes = self.blob_document(&digest)?;
        for _ in 0..MAX_NESTING {
            let index: Index = serde_json::from_slice(&bytes).map_err(unreadable)?;
            if index.manifests.is_empty() {
                break;
            }
            let chosen = for_this_machine(&index.manifests).ok_or_else(|| {
                ArchiveError::Refused(format!(
                    "it has no variant for linux/{}, which this machine is",
                    architecture()
                ))
            })?;
            digest.clone_from(&chosen.digest);
            bytes = self.blob_document(&digest)?;
        }
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| unreadable(format!("the manifest {digest} is malformed: {error}")))?;
        let config = self.blob_document(&manifest.config.digest)?;
        let diff_ids = diff_ids(&config, manifest.layers.len())?;
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            let digest = BlobDigest::parse(&layer.digest)?;
            let path = path_of(&digest);
            let missing =
                || ArchiveError::Unreadable(format!("it has no {path}, a layer ({})", layer.media_type));
            let content = self.entries.open(&path)?.ok_or_else(missing)?;
            layers.push(self.layer(content, &path, diff_id, Some(&digest))?);
        }
        Ok((self.config(&config)?, layers))
    }

    fn required(&self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        let found = self.entries.document(path)?;
        found.ok_or_else(|| ArchiveError::Unreadable(format!("it has no {path}, which it names")))
    }

    /// A manifest, index or config of the layout, verified.
    fn blob_document(&self, digest: &str) -> Result<Vec<u8>, ArchiveError> {
        let digest = BlobDigest::parse(digest)?;
        let bytes = self.required(&path_of(&digest))?;
        let found = digest_of(digest.algorithm(), &bytes);
        if found != digest {
            return Err(ArchiveError::Refused(format!("{digest} has the digest {found}")));
        }
        Ok(bytes)
    }

    fn config(&self, bytes: &[u8]) -> Result<serde_json::Value, ArchiveError> {
        let digest = digest_of(Algorithm::Sha256, bytes);
        let mut upload = self.registry.uploads.begin(self.name)?;
        let id = upload.id.clone();
        let taken =
            upload.append(&[Bytes::copy_from_slice(bytes)]).and_then(|()| self.take(&mut upload, &digest));
        self.registry.uploads.end(&id);
        taken?;
        Ok(serde_json::json!({ "mediaType": CONFIG, "digest": digest.to_string(), "size": bytes.len() }))
    }

    /// Takes a layer: compressed as it is, or compressed on the way. `expected` is what the bytes must be called.
    fn layer(
        &self,
        content: Content<'_>,
        path: &str,
        diff_id: &str,
        expected: Option<&BlobDigest>,
    ) -> Result<serde_json::Value, ArchiveError> {
        let upload = self.registry.uploads.begin(self.name)?;
        let id = upload.id.clone();
        let mut into = Into { upload, piece: Vec::with_capacity(PIECE), error: None };
        let taken = copy_layer(content, path, diff_id, expected, &mut into);
        // What the registry said is the cause of what the copy said.
        let taken = into.error.take().map_or(taken, |error| Err(error.into()));
        let result = taken.and_then(|media_type| {
            let (digest, size) = (into.upload.digest(), into.upload.size());
            self.take(&mut into.upload, &digest)?;
            Ok(serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size }))
        });
        drop(into);
        self.registry.uploads.end(&id);
        result
    }

    fn take(
        &self,
        upload: &mut crate::registry::uploads::Upload,
        digest: &BlobDigest,
    ) -> Result<(), RegistryError> {
        let data = upload.finish(digest)?;
        self.registry.adopt(&data, digest)?;
        self.registry.link_blob(self.name, digest)
    }
}

/// Gives the media type of what went into `into`.
fn copy_layer(
    mut content: Content<'_>,
    path: &str,
    diff_id: &str,
    expected: Option<&BlobDigest>,
    into: &mut Into,
) -> Result<String, ArchiveError> {
    let mut start = Vec::with_capacity(4);
    (&mut content).take(4).read_to_end(&mut start).map_err(unreadable)?;
    let kind = match start.as_slice() {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
        _ => "",
    };
    let mut hashing = Hashing::new(expected.map_or(Algorithm::Sha256, BlobDigest::algorithm));
    let mut bytes = io::Cursor::new(start).chain(content);
    let mut copy = |to: &mut dyn Write| -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = bytes.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            hashing.update(&buffer[..read]);
            to.write_all(&buffer[..read])?;
        }
    };
    let media_type = if kind.is_empty() {
        // As builds pack theirs; the plain tar is what the image's config names.
        let mut encoder = zstd::Encoder::new(&mut *into, LEVEL).map_err(unreadable)?;
        encoder.include_checksum(true).map_err(unreadable)?;
        let mut encoder = io::BufWriter::with_capacity(256 << 10, encoder);
        copy(&mut encoder).map_err(unreadable)?;
        let encoder = encoder.into_inner().map_err(|error| unreadable(error.error()))?;
        encoder.finish().map_err(unreadable)?;
        format!("{LAYER}+zstd")
    } else {
        copy(&mut *into).map_err(unreadable)?;
        format!("{LAYER}{kind}")
    };
    into.flush().map_err(unreadable)?;
    let found = hashing.finish();
    let names = [expected.map(ToString::to_string), kind.is_empty().then(|| diff_id.to_owned())];
    for name in names.into_iter().flatten() {
        // A layout may name a layer by one algorithm and the config by another; then the node looks when it unpacks.
        if name.split(':').next() == found.split(':').next() && name != found {
            return Err(ArchiveError::Refused(format!(
                "the layer {path} has the digest {found}, not {name}"
            )));
        }
    }
    Ok(media_type)
}

enum Hashing {
    Sha256(Sha256),
    Sha512(sha2::Sha512),
}

impl Hashing {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("sha256:{}", hex::encode(hash.finalize())),
            Self::Sha512(hash) => format!("sha512:{}", hex::encode(hash.finalize())),
        }
    }
}

/// Writes into an upload.
struct Into {
    upload: tokio::sync::OwnedMutexGuard<crate::registry::uploads::Upload>,
    piece: Vec<u8>,
    error: Option<RegistryError>,
}

impl Write for Into {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE)));
        self.upload.append(&[piece]).map_err(|error| {
            let text = error.to_string();
            self.error = Some(error);
            io::Error::other(text)
        })
    }
}

fn path_of(digest: &BlobDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn for_this_machine(all: &[Listed]) -> Option<&Listed> {
    let is_manifest = |listed: &&Listed| listed.media_type != OCI_INDEX || listed.platform.is_none();
    let fits = |listed: &&Listed| {
        let platform = listed.platform.as_ref();
        platform.is_some_and(|found| found.os == "linux" && found.architecture == architecture())
    };
    all.iter().find(fits).or_else(|| match all {
        // One image that does not say for what machine: its config does.
        [only] => Some(only).filter(is_manifest).filter(|only| only.platform.is_none()),
        _ => None,
    })
}

pub(super) fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<String>, ArchiveError> {
    let config: Config = serde_json::from_slice(config)
        .map_err(|error| unreadable(format!("the image's config is malformed: {error}")))?;
    let found = config.rootfs.diff_ids;
    if found.len() != layers {
        return Err(ArchiveError::Refused(
            "the image's config and its manifest name different numbers of layers".to_owned(),
        ));
    }
    if layers > MAX_LAYERS {
        return Err(ArchiveError::Refused(format!("the image has more than {MAX_LAYERS} layers")));
    }
    Ok(found)
}
