//! Images that a Dockerfile names: looked for in Berth's own registry, then where they come from.
//!
//! In: a name such as `debian:bookworm`. Out: its layers and config, every byte of it in Berth's own registry: nothing
//! that an app runs on can vanish elsewhere.

use super::super::error::BuildError;
use super::super::job::Job;
use super::Below;
use crate::images::layers::Known;
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
        let known = |layer| Known { layer, repository: image.repository.clone() };
        Ok(Below { layers: described.layers.into_iter().map(known).collect(), config: described.config })
    }

    /// The image of its own registry, as that has it now; the copy here if that registry does not answer.
    async fn pulled(&self, reference: &ImageName) -> Result<ImageRef, BuildError> {
        Err(BuildError::Plan(format!(
            "the image {reference} is not here. An administrator can load a root file system under this name: \
             berth image:import {reference} FILE.tar"
        )))
    }
}
