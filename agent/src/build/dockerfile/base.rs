//! Images that a Dockerfile names: looked for in Berth's own registry, then where they come from.
//!
//! In: a name such as `debian:bookworm`. Out: its layers and config, every byte of it in Berth's own registry: nothing
//! that an app runs on can vanish elsewhere.

use super::super::error::BuildError;
use super::super::job::Job;
use super::Below;
use crate::images::layers::Known;
use crate::images::oci::Layer;
use crate::images::upstream::{FetchError, Https, Upstream};
use berth_model::ImageName;
use berth_model::image::ImageRef;

impl Job {
    /// The image `name`.
    pub(super) async fn base(&self, name: &str) -> Result<Below, BuildError> {
        let reference = ImageName::parse(name).map_err(BuildError::Plan)?;
        let images = self.images();
        let loaded = reference.place("images");
        let known = match &reference.digest {
            Some(digest) => images.remote().has(&loaded, "manifests", digest).await?.then(|| digest.clone()),
            None => images.remote().tag(&loaded, &reference.tag).await?,
        };
        let image = match known {
            Some(digest) => ImageRef { repository: loaded, digest },
            None => self.pulled(&reference).await?,
        };
        let described = images.describe(&image).await?;
        // In images of ours every layer has the name that the OCI gives its kind; the bytes are the same.
        let known = |mut layer: Layer| {
            if layer.blob.media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip" {
                "application/vnd.oci.image.layer.v1.tar+gzip".clone_into(&mut layer.blob.media_type);
            }
            Known { layer, repository: image.repository.clone() }
        };
        Ok(Below { layers: described.layers.into_iter().map(known).collect(), config: described.config })
    }

    /// The image of its own registry, as that has it now; the copy here if that registry does not answer.
    async fn pulled(&self, name: &ImageName) -> Result<ImageRef, BuildError> {
        let remote = self.images().remote();
        let place = name.place("mirror");
        if let Some(digest) = &name.digest
            && remote.has(&place, "manifests", digest).await?
        {
            return Ok(ImageRef { repository: place, digest: digest.clone() });
        }
        let pulling = async {
            let https = Https::new().await?;
            Upstream::new(&https, name).mirror(remote, &self.dir).await
        };
        let pulled = tokio::select! {
            pulled = pulling => pulled,
            () = self.stop.cancelled() => return Err(BuildError::Cancelled),
        };
        let error = match pulled {
            Ok(image) => return Ok(image),
            Err(FetchError::Own(error)) => return Err(error.into()),
            Err(error) => error,
        };
        if matches!(error, FetchError::Unreachable(_))
            && name.digest.is_none()
            && let Some(digest) = remote.tag(&place, &name.tag).await?
        {
            self.detail(&format!("{} cannot be asked now ({error}); its last image is used", name.registry))
                .await;
            return Ok(ImageRef { repository: place, digest });
        }
        Err(BuildError::Plan(format!(
            "the image {name} cannot be had from {}: {error}. Check its name and tag; images that need a login are not pulled. \
             Without a way to the registry, an administrator can load a root file system: berth image:import {name} FILE.tar",
            name.registry
        )))
    }
}
