//! An image becomes an archive that every engine takes: an OCI layout with Docker's `manifest.json` beside it, layers
//! uncompressed, for Docker before 23 knows no zstd and names layers by their plain bytes.

use super::{ArchiveError, MAX_PLAIN, unreadable};
use crate::archives::header;
use crate::registry::error::{Code, RegistryError};
use crate::registry::manifest::{Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::registry::name::{Algorithm, BlobDigest, Name, Reference};
use crate::registry::store::{Registry, digest_of};
use berth_model::image::ImageRef;
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Largest zstd window, as a power of two: 128 MiB.
const WINDOW_LOG: u32 = 27;

/// Writes `image` to `to`; engines will call it `name`.
pub(crate) fn export(
    registry: &Registry,
    image: &ImageRef,
    name: &str,
    to: impl Write,
) -> Result<(), ArchiveError> {
    let repository = Name::parse(&image.repository)?;
    let stored = registry.manifest(&repository, &Reference::parse(image.digest.as_str())?)?;
    let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)?;
    let [config, packed @ ..] = &manifest.blobs[..] else {
        return Err(RegistryError::new(Code::ManifestInvalid, "it is no image").into());
    };
    let mut config_bytes = Vec::new();
    let (mut file, _) = registry.blob(&repository, &config.digest)?;
    file.read_to_end(&mut config_bytes).map_err(unreadable)?;
    let config = digest_of(Algorithm::Sha256, &config_bytes);
    // Once to know how long each layer is, which a tar says first; the second time its bytes.
    let mut layers = Vec::new();
    for blob in packed {
        let (digest, size) = measure(plain(registry.blob(&repository, &blob.digest)?.0)?)?;
        layers.push((blob.digest.clone(), digest, size));
    }
    let diff_ids = super::load::diff_ids(&config_bytes, layers.len())?;
    if let Some((_, (blob, ..))) =
        diff_ids.iter().zip(&layers).find(|(diff_id, (_, digest, _))| **diff_id != digest.to_string())
    {
        return Err(ArchiveError::Refused(format!("the layer {blob} is not what the image's config says")));
    }
    let described: Vec<_> = layers
        .iter()
        .map(|(_, digest, size)| serde_json::json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": size }))
        .collect();
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config.to_string(), "size": config_bytes.len() },
        "layers": described,
    });
    let document = document.to_string().into_bytes();
    let digest = digest_of(Algorithm::Sha256, &document);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{
            "mediaType": OCI_MANIFEST, "digest": digest.to_string(), "size": document.len(),
            "annotations": { "org.opencontainers.image.ref.name": name, "io.containerd.image.name": name },
        }],
    });
    let paths: Vec<_> = layers.iter().map(|(_, digest, _)| path_of(digest)).collect();
    let saved = serde_json::json!([{ "Config": path_of(&config), "RepoTags": [name], "Layers": paths }]);
    let mut tar = tar::Builder::new(to);
    for dir in ["blobs/", "blobs/sha256/"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, dir, io::empty()).map_err(ArchiveError::Write)?;
    }
    let mut file = |path: &str, bytes: &[u8]| {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).map_err(ArchiveError::Write)
    };
    file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file("index.json", index.to_string().as_bytes())?;
    file("manifest.json", saved.to_string().as_bytes())?;
    file(&path_of(&config), &config_bytes)?;
    file(&path_of(&digest), &document)?;
    let mut written = std::collections::HashSet::new();
    for (blob, digest, size) in &layers {
        if !written.insert(digest.clone()) {
            continue;
        }
        let bytes = plain(registry.blob(&repository, blob)?.0)?;
        let mut header = header(tar::EntryType::Regular, 0o644, *size);
        tar.append_data(&mut header, path_of(digest), bytes.take(*size)).map_err(ArchiveError::Write)?;
    }
    tar.into_inner().and_then(|mut to| to.flush()).map_err(ArchiveError::Write)
}

/// A layer's tar, whatever it is compressed with.
fn plain(mut file: File) -> Result<Box<dyn Read>, ArchiveError> {
    let mut start = Vec::with_capacity(4);
    (&mut file).take(4).read_to_end(&mut start).map_err(unreadable)?;
    let is_zstd = start == [0x28, 0xb5, 0x2f, 0xfd];
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    let bytes = io::Cursor::new(start).chain(io::BufReader::with_capacity(256 << 10, file));
    Ok(if is_zstd {
        let mut decoder = zstd::Decoder::new(bytes).map_err(unreadable)?;
        decoder.window_log_max(WINDOW_LOG).map_err(unreadable)?;
        Box::new(decoder)
    } else if is_gzip {
        Box::new(MultiGzDecoder::new(bytes))
    } else {
        Box::new(bytes)
    })
}

fn measure(bytes: impl Read) -> Result<(BlobDigest, u64), ArchiveError> {
    let mut bytes = bytes.take(MAX_PLAIN + 1);
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let read = bytes.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        size += read as u64;
    }
    if size > MAX_PLAIN {
        return Err(ArchiveError::Refused("a layer is larger than 12 GiB".to_owned()));
    }
    let digest = BlobDigest::from_hex(Algorithm::Sha256, &hex::encode(hash.finalize()));
    let digest = digest.ok_or_else(|| RegistryError::new(Code::Internal, "a hash of another length"))?;
    Ok((digest, size))
}

fn path_of(digest: &BlobDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}
