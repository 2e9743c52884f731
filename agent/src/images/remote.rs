//! The registry as the agent uses it: blobs and manifests by digest, over a [`berth_wire::Client`].

use super::error::ImageError;
use super::oci::{ACCEPTED, MANIFEST_TYPE};
use berth_model::Digest;
use berth_wire::{Client, WireError};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use std::io;
use std::path::Path;

/// Largest manifest or config in bytes.
const MAX_DOCUMENT: usize = 4 << 20;

type Body = BoxBody<Bytes, io::Error>;

/// The registry.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    client: Client,
}

fn no_body() -> Body {
    whole(Bytes::new())
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

impl Remote {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn send(&self, what: &str, request: Request<Body>) -> Result<Response<Incoming>, ImageError> {
        self.client
            .send(request)
            .await
            .map_err(|source| ImageError::Registry { what: what.to_owned(), source })
    }

    /// The answer, if its status is one of `good`; otherwise an error with what was said.
    async fn expect(
        &self,
        what: &str,
        request: Request<Body>,
        good: &[StatusCode],
    ) -> Result<Response<Incoming>, ImageError> {
        let response = self.send(what, request).await?;
        let status = response.status();
        if good.contains(&status) {
            return Ok(response);
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).chars().take(300).collect());
        Err(ImageError::Refused { what: what.to_owned(), status, text: text.unwrap_or_default() })
    }

    fn request(
        &self,
        what: &str,
        builder: http::request::Builder,
        body: Body,
    ) -> Result<Request<Body>, ImageError> {
        builder.body(body).map_err(|error| ImageError::Registry {
            what: what.to_owned(),
            source: WireError::Unexpected {
                endpoint: self.client.endpoint().to_string(),
                text: error.to_string(),
            },
        })
    }

    /// A manifest or a config, verified.
    pub(crate) async fn document(
        &self,
        repository: &str,
        kind: &str,
        digest: &Digest,
    ) -> Result<Bytes, ImageError> {
        let what = format!("give {kind} {digest} of {repository}");
        let builder = Request::builder()
            .uri(format!("/v2/{repository}/{kind}/{digest}"))
            .header(header::ACCEPT, ACCEPTED);
        let request = self.request(&what, builder, no_body())?;
        let response = self.expect(&what, request, &[StatusCode::OK]).await?;
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
        let bytes = body
            .map_err(|error| ImageError::Registry {
                what: what.clone(),
                source: WireError::Broken {
                    endpoint: self.client.endpoint().to_string(),
                    text: error.to_string(),
                },
            })?
            .to_bytes();
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ImageError::Mismatch {
                what: format!("{kind} {digest} of {repository}"),
                property: "digest",
                found: found.to_string(),
                expected: digest.to_string(),
            });
        }
        Ok(bytes)
    }

    /// A blob's bytes, not verified yet.
    pub(crate) async fn blob(&self, repository: &str, digest: &Digest) -> Result<Incoming, ImageError> {
        let what = format!("give blob {digest} of {repository}");
        let builder = Request::builder().uri(format!("/v2/{repository}/blobs/{digest}"));
        let request = self.request(&what, builder, no_body())?;
        Ok(self.expect(&what, request, &[StatusCode::OK]).await?.into_body())
    }

    /// Whether a blob or manifest is there.
    pub(crate) async fn has(
        &self,
        repository: &str,
        kind: &str,
        digest: &Digest,
    ) -> Result<bool, ImageError> {
        let what = format!("say whether it has {kind} {digest} of {repository}");
        let builder = Request::builder()
            .method(Method::HEAD)
            .uri(format!("/v2/{repository}/{kind}/{digest}"))
            .header(header::ACCEPT, ACCEPTED);
        let request = self.request(&what, builder, no_body())?;
        let response = self.expect(&what, request, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
        Ok(response.status() == StatusCode::OK)
    }

    /// What a tag means now; `None` if the repository has no such tag.
    pub(crate) async fn tag(&self, repository: &str, tag: &str) -> Result<Option<Digest>, ImageError> {
        let what = format!("say what {repository}:{tag} is");
        let builder = Request::builder()
            .method(Method::HEAD)
            .uri(format!("/v2/{repository}/manifests/{tag}"))
            .header(header::ACCEPT, ACCEPTED);
        let request = self.request(&what, builder, no_body())?;
        let response = self.expect(&what, request, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(digest.and_then(|text| Digest::parse(text).ok()))
    }

    /// Lets `repository` have a blob of `from`; `false` if `from` has it not.
    pub(crate) async fn mount(
        &self,
        repository: &str,
        digest: &Digest,
        from: &str,
    ) -> Result<bool, ImageError> {
        let what = format!("give {repository} the blob {digest} of {from}");
        let uri = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
        let builder = Request::builder().method(Method::POST).uri(uri).header(header::CONTENT_LENGTH, 0);
        let request = self.request(&what, builder, no_body())?;
        let response = self.expect(&what, request, &[StatusCode::CREATED, StatusCode::ACCEPTED]).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // The registry has begun an upload instead: end it.
        if let Some(place) = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()) {
            let builder = Request::builder().method(Method::DELETE).uri(place);
            let request = self.request(&what, builder, no_body())?;
            self.send(&what, request).await?;
        }
        Ok(false)
    }

    /// Pushes a small blob.
    pub(crate) async fn push_bytes(
        &self,
        repository: &str,
        digest: &Digest,
        bytes: Vec<u8>,
    ) -> Result<(), ImageError> {
        let size = bytes.len() as u64;
        self.push(repository, digest, size, whole(bytes.into())).await
    }

    /// Pushes a file as a blob.
    pub(crate) async fn push_file(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        path: &Path,
    ) -> Result<(), ImageError> {
        let mut file = tokio::fs::File::open(path).await.map_err(ImageError::disk("read", path))?;
        file.set_max_buf_size(256 << 10);
        let frames = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10).map_ok(Frame::data);
        self.push(repository, digest, size, BodyExt::boxed(StreamBody::new(frames))).await
    }

    async fn push(&self, repository: &str, digest: &Digest, size: u64, body: Body) -> Result<(), ImageError> {
        let what = format!("take blob {digest} into {repository}");
        let builder = Request::builder()
            .method(Method::POST)
            .uri(format!("/v2/{repository}/blobs/uploads/?digest={digest}"))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size);
        let request = self.request(&what, builder, body)?;
        self.expect(&what, request, &[StatusCode::CREATED]).await.map(drop)
    }

    /// Pushes a manifest under its digest or a tag. Acknowledged means durable.
    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        bytes: Vec<u8>,
    ) -> Result<(), ImageError> {
        self.put_manifest_as(repository, reference, MANIFEST_TYPE, bytes).await
    }

    /// The same for a manifest of another kind.
    pub(crate) async fn put_manifest_as(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), ImageError> {
        let what = format!("take manifest {reference} into {repository}");
        let builder = Request::builder()
            .method(Method::PUT)
            .uri(format!("/v2/{repository}/manifests/{reference}"))
            .header(header::CONTENT_TYPE, media_type);
        let request = self.request(&what, builder, whole(bytes.into()))?;
        self.expect(&what, request, &[StatusCode::CREATED]).await.map(drop)
    }
}
