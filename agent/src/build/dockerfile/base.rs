//! Images that a Dockerfile names: looked for in Berth's own registry, then where they come from.
//!
//! In: a name such as `debian:bookworm`. Out: its layers and config, every byte of it in Berth's own registry: nothing
//! that an app runs on can vanish elsewhere.

use super::super::error::BuildError;
use super::super::job::Job;
use super::Below;
use crate::images::layers::Known;
use crate::images::oci::Layer;
use crate::images::upstream::{FetchError, pull, refusal};
use berth_model::ImageName;
use berth_model::image::ImageRef;
use berth_model::registry::OWN_REGISTRY;

impl Job {
    /// The image `name`.
    pub(in super::super) async fn base(&self, name: &str) -> Result<Below, BuildError> {
        let reference = ImageName::parse(name).map_err(BuildError::Plan)?;
        if reference.registry == OWN_REGISTRY {
            return self.below(&self.own(&reference).await?).await;
        }
        let image = self.pulled(&reference).await?;
        self.below(&image).await
    }

    /// An image of Berth's own registry, to stand on.
    pub(in super::super) async fn below(&self, image: &ImageRef) -> Result<Below, BuildError> {
        let described = self.images().describe(image).await?;
        // In images of ours every layer has the name that the OCI gives its kind; the bytes are the same.
        let known = |mut layer: Layer| {
            if let Some(kind) =
                layer.blob.media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar")
            {
                let kind = match kind {
                    ".gzip" => "application/vnd.oci.image.layer.v1.tar+gzip",
                    ".zstd" => "application/vnd.oci.image.layer.v1.tar+zstd",
                    _ => "application/vnd.oci.image.layer.v1.tar",
                };
                kind.clone_into(&mut layer.blob.media_type);
            }
            Known { layer, repository: image.repository.clone() }
        };
        let layers = described.layers.into_iter().map(known).collect();
        Ok(Below { layers, config: described.config, made: described.image })
    }

    /// One of the app's own images, such as one that somebody loaded for it. No other app's: whoever writes a Dockerfile
    /// may read this app only.
    async fn own(&self, name: &ImageName) -> Result<ImageRef, BuildError> {
        let (repository, remote) = (name.repository.clone(), self.images().remote());
        let missing = || {
            BuildError::Plan(format!(
                "{name} is no image of this app's own; one is given to it by git:load-image or git:from-image"
            ))
        };
        if repository != self.request.repository {
            return Err(missing());
        }
        let digest = match &name.digest {
            Some(digest) => remote.has(&repository, "manifests", digest).await?.then(|| digest.clone()),
            None => remote.tag(&repository, &name.tag).await?,
        };
        Ok(ImageRef { repository, digest: digest.ok_or_else(missing)? })
    }

    /// The image that was loaded here, else that of its own registry as it is now; the copy here if that does not answer.
    async fn pulled(&self, name: &ImageName) -> Result<ImageRef, BuildError> {
        let (images, logins) = (self.images(), &self.request.registries);
        let pulled = tokio::select! {
            pulled = pull(images, name, logins, &self.dir) => pulled,
            () = self.stop.cancelled() => return Err(BuildError::Cancelled),
        };
        let error = match pulled {
            Ok(image) => return Ok(image),
            Err(FetchError::Own(error)) => return Err(error.into()),
            Err(error) => error,
        };
        let (remote, place) = (images.remote(), name.place("mirror"));
        if matches!(error, FetchError::Unreachable(_))
            && name.digest.is_none()
            && let Some(digest) = remote.tag(&place, &name.tag).await?
        {
            self.detail(&format!("{} cannot be asked now ({error}); its last image is used", name.registry))
                .await;
            return Ok(ImageRef { repository: place, digest });
        }
        Err(BuildError::Plan(format!(
            "{}. Without a way to the registry, an administrator can load a root file system: berth image:import {name} FILE.tar",
            refusal(name, &error, logins)
        )))
    }
}
