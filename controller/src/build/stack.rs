//! Images in the registry: what a stack's tag means now, and whether an image is still there.

use crate::Platform;
use crate::errors::{failed, unavailable};
use berth_model::Digest;
use berth_model::api::ApiError;
use berth_model::image::ImageRef;
use berth_wire::{Client, Endpoint};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;

const MANIFESTS: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

async fn head(
    platform: &Platform,
    repository: &str,
    reference: &str,
) -> Result<Response<Incoming>, ApiError> {
    let registry = Client::new(Endpoint::Unix(platform.options().internal_socket()));
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed();
    let request = Request::builder()
        .method(Method::HEAD)
        .uri(format!("/v2/{repository}/manifests/{reference}"))
        .header(http::header::ACCEPT, MANIFESTS)
        .body(body)
        .map_err(|error| failed(format!("{repository}:{reference} is no image name: {error}")))?;
    let answer = registry.send(request).await;
    answer.map_err(|error| unavailable(format!("the registry does not answer: {error}")))
}

/// The image that a stack's `latest` means now.
pub(super) async fn resolve(platform: &Platform, name: &str) -> Result<ImageRef, ApiError> {
    let repository = format!("stacks/{name}");
    let answer = head(platform, &repository, "latest").await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(failed(format!(
                "the stack {name} is missing, so nothing can be built; make it with `deploy/stack` and give it to Berth \
                 with: berth stack:import {name} FILE.tar"
            )));
        }
        status => {
            return Err(unavailable(format!(
                "the registry answered {status} when asked for {repository}:latest"
            )));
        }
    }
    let digest = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
    let digest = digest.and_then(|text| Digest::parse(text).ok());
    let digest =
        digest.ok_or_else(|| unavailable(format!("the registry gave no digest for {repository}:latest")))?;
    Ok(ImageRef { repository, digest })
}

/// Whether an image is in the registry.
pub(super) async fn has(platform: &Platform, image: &ImageRef) -> Result<bool, ApiError> {
    let answer = head(platform, &image.repository, image.digest.as_str()).await?;
    Ok(answer.status() == StatusCode::OK)
}
