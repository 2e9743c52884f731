//! Images on this node: pulled by digest, verified, and unpacked once into layer directories that containers mount.
//!
//! In: image references, the registry. Out: [`Ready`] images: directories for overlayfs and how to start what is in
//! them. Nothing that comes from the registry is trusted before its digest, size and diffID are verified.

pub(crate) mod decode;
mod error;
mod import;
pub(crate) mod layers;
pub(crate) mod oci;
pub(crate) mod pack;
pub(crate) mod remote;
mod tar_read;
pub(crate) mod tar_write;
pub(crate) mod unpack;
pub(crate) mod upstream;

pub use error::ImageError;
pub(crate) use error::chain;
pub use import::import_stack;
pub use unpack::{ArchiveError, UnpackError, Unpacked};

use berth_model::Digest;
use berth_model::image::{Image, ImageConfig, ImageRef};
use berth_wire::Client;
use decode::{MAX_COMPRESSED, decode};
use futures_util::{StreamExt, TryStreamExt, stream};
use layers::Layers;
use oci::{Described, Layer};
use remote::Remote;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::io::{StreamReader, SyncIoBridge};
use unpack::{Rules, unpack};

/// Layers of one image that are pulled at the same time.
const PARALLEL: usize = 3;

/// An image that containers can be made from.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its layer directories, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Environment, user and directory.
    pub config: ImageConfig,
    /// What Berth wrote into it when it built it; `None` for images from elsewhere.
    pub image: Option<Image>,
}

/// What [`Images::collect`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images forgotten.
    pub images: u64,
    /// Layer directories removed.
    pub layers: u64,
}

/// The images of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    remote: Remote,
    layers: Layers,
    /// `DIR/agent/images`: what is known of each image, by the hex of its manifest's digest.
    images: PathBuf,
    /// One lock for each layer that is being made ready.
    busy: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// A sync was asked for and has not begun.
    settling: AtomicBool,
}

impl Images {
    /// The images under `data/agent`, with `registry` as their source. One agent at a time may have them open.
    pub fn open(data: &Path, registry: Client) -> Result<Self, ImageError> {
        let images = data.join("agent/images");
        fs::create_dir_all(&images).map_err(ImageError::disk("make", &images))?;
        let layers = Layers::open(data.join("agent/layers"))?;
        let shared = Shared {
            remote: Remote::new(registry),
            layers,
            images,
            busy: Mutex::default(),
            settling: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn layers(&self) -> &Layers {
        &self.shared.layers
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.shared.remote
    }

    /// Makes an image ready: whatever is missing of it is pulled, verified and unpacked. Many may ask for the same at
    /// once: each layer is pulled once. Dropping the future lets layers that were begun be finished.
    pub async fn ensure(&self, image: &ImageRef) -> Result<Ready, ImageError> {
        let described = self.describe(image).await?;
        let mut seen = HashSet::new();
        let missing: Vec<Layer> = described
            .layers
            .iter()
            .filter(|layer| seen.insert(&layer.diff_id) && !self.shared.layers.has(&layer.diff_id))
            .cloned()
            .collect();
        let pulled = !missing.is_empty();
        stream::iter(missing)
            .map(|layer| self.ensure_layer(image.repository.clone(), layer))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        if pulled {
            self.settle_later();
        }
        let lowers =
            described.layers.iter().rev().map(|layer| self.shared.layers.path(&layer.diff_id)).collect();
        Ok(Ready { lowers, config: described.config, image: described.image })
    }

    /// Syncs new layers in the background. A thread of its own: nobody, not even the end of the agent, waits for it.
    pub(crate) fn settle_later(&self) {
        if self.shared.settling.swap(true, Ordering::AcqRel) {
            return; // one that has not begun yet will see all that is new
        }
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new().name("layer-sync".to_owned()).spawn(move || {
            shared.layers.settle(|| shared.settling.store(false, Ordering::Release));
        });
        if let Err(error) = spawned {
            self.shared.settling.store(false, Ordering::Release);
            tracing::warn!(%error, "layers are not synced now; they would be pulled again after a crash");
        }
    }

    /// What an image consists of; from disk if it is known there.
    pub(crate) async fn describe(&self, image: &ImageRef) -> Result<Described, ImageError> {
        let path = self.shared.images.join(format!("{}.json", image.digest.hex()));
        if let Some(known) =
            tokio::fs::read(&path).await.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
        {
            return Ok(known);
        }
        let remote = &self.shared.remote;
        let bytes = remote.document(&image.repository, "manifests", &image.digest).await?;
        let manifest = oci::parse_manifest(&image.digest, &bytes)?;
        let config = remote.document(&image.repository, "blobs", &manifest.config.digest).await?;
        let described = oci::describe(image, manifest, &config)?;
        self.remember(image, &described)?;
        Ok(described)
    }

    /// Keeps what is known of an image; it can always be had from the registry again.
    pub(crate) fn remember(&self, image: &ImageRef, described: &Described) -> Result<(), ImageError> {
        let path = self.shared.images.join(format!("{}.json", image.digest.hex()));
        let temporary = self.shared.images.join(format!("tmp-{}", layers::random()));
        let write = || -> io::Result<()> {
            fs::write(&temporary, serde_json::to_vec(described)?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(ImageError::disk("write", &path))
    }

    /// Has `layer` pulled from `repository` unless it is there.
    pub(crate) async fn ensure_layer(&self, repository: String, layer: Layer) -> Result<(), ImageError> {
        let lock = {
            let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.entry(layer.diff_id.clone()).or_default().clone()
        };
        let held = lock.lock_owned().await;
        let this = self.clone();
        // A task of its own: a caller that goes away does not throw away what others wait for.
        let work = tokio::spawn(async move {
            let result = if this.shared.layers.has(&layer.diff_id) {
                Ok(())
            } else {
                this.pull(&repository, &layer).await
            };
            drop(held);
            let mut busy = this.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
            if busy.get(&layer.diff_id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
                busy.remove(&layer.diff_id);
            }
            result
        });
        work.await?
    }

    async fn pull(&self, repository: &str, layer: &Layer) -> Result<(), ImageError> {
        let blob = &layer.blob;
        if blob.size > MAX_COMPRESSED {
            return Err(ImageError::Unpack {
                layer: blob.digest.to_string(),
                source: UnpackError::Limit("it is larger than 2 GiB"),
            });
        }
        let body = self.shared.remote.blob(repository, &blob.digest).await?;
        let bytes = http_body_util::BodyExt::into_data_stream(body).map_err(io::Error::other);
        let input = SyncIoBridge::new(StreamReader::new(Box::pin(bytes)));
        let (shared, layer) = (self.shared.clone(), layer.clone());
        tokio::task::spawn_blocking(move || {
            let made = shared.layers.temporary()?;
            verified(input, &layer, made.path())?;
            shared.layers.adopt(made.path(), &layer.diff_id)
        })
        .await?
    }

    /// Forgets images that are not in `keep`, and removes layers that neither they nor recent builds need.
    pub async fn collect(&self, keep: &[ImageRef]) -> Result<Collected, ImageError> {
        let keep: HashSet<String> = keep.iter().map(|image| format!("{}.json", image.digest.hex())).collect();
        let shared = self.shared.clone();
        let collect = move || -> Result<Collected, ImageError> {
            let mut collected = Collected::default();
            let mut needed = HashSet::new();
            let list = || fs::read_dir(&shared.images)?.collect::<io::Result<Vec<_>>>();
            for entry in list().map_err(ImageError::disk("list", &shared.images))? {
                let path = entry.path();
                let described =
                    fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Described>(&bytes).ok());
                let keeps = entry.file_name().to_str().is_some_and(|name| keep.contains(name));
                match described {
                    // Stacks and what administrators loaded belong to no release, but builds stand on them.
                    Some(described)
                        if keeps
                            || described.repository.starts_with("stacks/")
                            || described.repository.starts_with("images/") =>
                    {
                        needed.extend(described.layers.into_iter().map(|layer| layer.diff_id));
                    }
                    _ => {
                        fs::remove_file(&path).map_err(ImageError::disk("remove", &path))?;
                        collected.images += 1;
                    }
                }
            }
            collected.layers = shared.layers.collect(&needed)?;
            Ok(collected)
        };
        tokio::task::spawn_blocking(collect).await?
    }
}

/// Unpacks a blob into `into`; an error unless it is, to the byte, what the manifest and the config say.
fn verified(input: impl io::Read, layer: &Layer, into: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::Unpack { layer: layer.blob.digest.to_string(), source };
    let decoded =
        decode(input, layer.blob.size, |tar| unpack(tar, into, &Rules::Layer).map(|(done, _)| done));
    let decoded = decoded.map_err(failed)?;
    let expected = [
        ("size", decoded.size.to_string(), layer.blob.size.to_string()),
        ("digest", decoded.digest.to_string(), layer.blob.digest.to_string()),
        ("diffID", decoded.diff_id.to_string(), layer.diff_id.to_string()),
    ];
    for (property, found, expected) in expected {
        if found != expected {
            let what = format!("layer {}", layer.blob.digest);
            return Err(ImageError::Mismatch { what, property, found, expected });
        }
    }
    tracing::debug!(layer = %layer.diff_id, entries = decoded.value.entries, "layer unpacked");
    Ok(())
}
