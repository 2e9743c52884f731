//! HTTP to plain functions and back: parse, call, render.

use super::error::{Code, RegistryError};
use super::manifest::OCI_INDEX;
use super::name::{BlobDigest, Name, Reference, Target};
use super::store::{MAX_MANIFEST, Registry, sorting};
use super::uploads::Upload;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use std::io::Seek;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedMutexGuard;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Bytes gathered before a blocking thread is asked to write and hash them.
const BATCH: usize = 1 << 20;
/// Most entries in one page of a list.
const MAX_PAGE: usize = 1000;

type Answer = Result<Response<Body>, RegistryError>;

pub(super) async fn serve(State(registry): State<Arc<Registry>>, request: Request<Body>) -> Response<Body> {
    let mut response = route(registry, request).await.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

async fn route(registry: Arc<Registry>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let target = Target::parse(parts.uri.path())?;
    let query = query_of(&parts.uri)?;
    let headers = &parts.headers;
    let is_head = parts.method == Method::HEAD;
    match (&parts.method, target) {
        (&Method::GET | &Method::HEAD, Target::Base) => json(StatusCode::OK, &serde_json::json!({})),
        (&Method::GET | &Method::HEAD, Target::Catalog) => {
            let names = blocking(move || registry.repositories()).await?;
            let names = names.into_iter().map(|name| name.to_string()).collect();
            page("/v2/_catalog", names, &query, |page| serde_json::json!({ "repositories": page }))
        }
        (&Method::GET | &Method::HEAD, Target::Tags(name)) => tags(registry, name, &query).await,
        (&Method::GET | &Method::HEAD, Target::Referrers(name, subject)) => {
            referrers(registry, name, subject, &query).await
        }
        (&Method::GET | &Method::HEAD, Target::Blob(name, digest)) => {
            blob(registry, name, digest, headers, is_head).await
        }
        (&Method::DELETE, Target::Blob(name, digest)) => {
            blocking(move || registry.delete_blob(&name, &digest)).await?;
            empty(StatusCode::ACCEPTED, [])
        }
        (&Method::GET | &Method::HEAD, Target::Manifest(name, reference)) => {
            let stored = blocking(move || registry.manifest(&name, &reference)).await?;
            let length = stored.bytes.len();
            let body = if is_head { Body::empty() } else { Body::from(stored.bytes) };
            let headers = [
                (header::CONTENT_TYPE, stored.media_type),
                (header::CONTENT_LENGTH, length.to_string()),
                (DIGEST, stored.digest.to_string()),
            ];
            respond(StatusCode::OK, headers, body)
        }
        (&Method::PUT, Target::Manifest(name, reference)) => {
            put_manifest(registry, name, reference, headers, body).await
        }
        (&Method::DELETE, Target::Manifest(name, reference)) => {
            blocking(move || registry.delete_manifest(&name, &reference)).await?;
            empty(StatusCode::ACCEPTED, [])
        }
        (&Method::POST, Target::Uploads(name)) => begin(registry, name, &query, body).await,
        (&Method::GET | &Method::HEAD, Target::Upload(name, id)) => {
            let upload = open(&registry, &name, id).await?;
            progress(StatusCode::NO_CONTENT, &name, &upload.id, upload.size())
        }
        (&Method::PATCH, Target::Upload(name, id)) => {
            let upload = open(&registry, &name, id).await?;
            let upload = append(upload, &name, headers, body).await?;
            progress(StatusCode::ACCEPTED, &name, &upload.id, upload.size())
        }
        (&Method::PUT, Target::Upload(name, id)) => {
            let digest = query.get("digest").ok_or_else(|| {
                RegistryError::new(Code::DigestInvalid, "the last request of an upload needs ?digest=")
            })?;
            let digest = BlobDigest::parse(digest)?;
            let upload = open(&registry, &name, id).await?;
            let upload = append(upload, &name, headers, body).await?;
            finish(registry, name, digest, upload).await
        }
        (&Method::DELETE, Target::Upload(name, id)) => {
            let upload = open(&registry, &name, id).await?;
            blocking(move || {
                registry.uploads.end(&upload.id);
                Ok(())
            })
            .await?;
            empty(StatusCode::NO_CONTENT, [])
        }
        (method, target) => Err(RegistryError::new(Code::Method, format!("{method} is not possible here"))
            .with(header::ALLOW, target.methods())),
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(RegistryError::new(Code::Internal, format!("a registry task died: {error}")))
    })
}

fn query_of(uri: &Uri) -> Result<HashMap<String, String>, RegistryError> {
    let parsed = Query::<HashMap<String, String>>::try_from_uri(uri);
    parsed.map(|Query(query)| query).map_err(|error| RegistryError::new(Code::NotFound, error.to_string()))
}

fn respond(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, String)>,
    body: Body,
) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value)
            .map_err(|error| RegistryError::new(Code::Internal, format!("header {name}: {error}")))?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn empty<const N: usize>(status: StatusCode, headers: [(HeaderName, String); N]) -> Answer {
    respond(status, headers, Body::empty())
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    respond(status, [(header::CONTENT_TYPE, "application/json".to_owned())], Body::from(value.to_string()))
}

/// One page of a sorted list: `n` entries after `last`, and where the next page is.
fn page(
    path: &str,
    mut all: Vec<String>,
    query: &HashMap<String, String>,
    render: impl FnOnce(&[String]) -> serde_json::Value,
) -> Answer {
    if let Some(last) = query.get("last") {
        let last = sorting(last);
        all.retain(|entry| sorting(entry) > last);
    }
    let limit = match query.get("n") {
        None => MAX_PAGE,
        Some(text) => text.parse::<usize>().map(|n| n.min(MAX_PAGE)).map_err(|_| {
            RegistryError::new(Code::PageInvalid, "n must be a whole number that is not negative")
        })?,
    };
    let more = all.len() > limit;
    all.truncate(limit);
    let mut response = json(StatusCode::OK, &render(&all))?;
    // Entries are tags or repository names: none of their bytes needs escaping in a query.
    if more && let Some(last) = all.last() {
        let link = format!("<{path}?n={limit}&last={last}>; rel=\"next\"");
        if let Ok(value) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, value);
        }
    }
    Ok(response)
}

async fn tags(registry: Arc<Registry>, name: Name, query: &HashMap<String, String>) -> Answer {
    let path = format!("/v2/{name}/tags/list");
    let (name, tags) = blocking(move || {
        if !registry.exists(&name) {
            return Err(RegistryError::new(Code::NameUnknown, format!("there is no repository {name}")));
        }
        let tags = registry.tags(&name)?;
        Ok((name, tags))
    })
    .await?;
    let tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
    page(&path, tags, query, |page| serde_json::json!({ "name": name.as_str(), "tags": page }))
}

async fn referrers(
    registry: Arc<Registry>,
    name: Name,
    subject: BlobDigest,
    query: &HashMap<String, String>,
) -> Answer {
    let mut found = blocking(move || registry.referrers(&name, &subject)).await?;
    let filter = query.get("artifactType");
    if let Some(wanted) = filter {
        found.retain(|descriptor| {
            descriptor.get("artifactType").and_then(|kind| kind.as_str()) == Some(wanted)
        });
    }
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found });
    let mut headers = vec![(header::CONTENT_TYPE, OCI_INDEX.to_owned())];
    if filter.is_some() {
        headers.push((FILTERS, "artifactType".to_owned()));
    }
    respond(StatusCode::OK, headers, Body::from(index.to_string()))
}

async fn blob(
    registry: Arc<Registry>,
    name: Name,
    digest: BlobDigest,
    headers: &HeaderMap,
    is_head: bool,
) -> Answer {
    // Ranges are of a GET (RFC 9110 §14.2).
    let range = headers.get(header::RANGE).filter(|_| !is_head);
    let range = range.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (file, size, digest) = blocking(move || {
        let (file, size) = registry.blob(&name, &digest)?;
        Ok((file, size, digest))
    })
    .await?;
    let (status, from, length) = match range.as_deref().and_then(|text| byte_range(text, size)) {
        None => (StatusCode::OK, 0, size),
        Some(Ok((from, length))) => (StatusCode::PARTIAL_CONTENT, from, length),
        Some(Err(())) => {
            return Err(RegistryError::new(Code::RangeInvalid, format!("the blob has {size} bytes"))
                .with(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    let mut answer = vec![
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, format!("\"{digest}\"")),
        (DIGEST, digest.to_string()),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        answer.push((header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", from + length - 1)));
    }
    if is_head {
        return respond(status, answer, Body::empty());
    }
    let file = blocking(move || {
        let mut file = file;
        file.seek(std::io::SeekFrom::Start(from))
            .map_err(|error| RegistryError::disk(format!("seeking in blob {digest}"), error))?;
        Ok(file)
    })
    .await?;
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(256 << 10);
    let stream = tokio_util::io::ReaderStream::with_capacity(file.take(length), 256 << 10);
    respond(status, answer, Body::from_stream(stream))
}

/// One range of RFC 9110 §14.2 as (first byte, length). `None`: not a single byte range, so the header is ignored.
/// `Some(Err)`: it lies outside.
fn byte_range(text: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let wanted: u64 = last.parse().ok()?;
        let length = wanted.min(size);
        return Some(if length == 0 { Err(()) } else { Ok((size - length, length)) });
    }
    let first: u64 = first.parse().ok()?;
    let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    if last < first {
        return None;
    }
    let last = last.min(size.saturating_sub(1));
    Some(if first >= size { Err(()) } else { Ok((first, last - first + 1)) })
}

async fn put_manifest(
    registry: Arc<Registry>,
    name: Name,
    reference: Reference,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let bytes = axum::body::to_bytes(body, MAX_MANIFEST).await.map_err(|_| {
        RegistryError::new(
            Code::ManifestTooLarge,
            format!("a manifest may have at most {MAX_MANIFEST} bytes"),
        )
    })?;
    let (name, digest, subject) = blocking(move || {
        let (digest, subject) = registry.put_manifest(&name, &reference, content_type.as_deref(), &bytes)?;
        Ok((name, digest, subject))
    })
    .await?;
    let mut answer =
        vec![(header::LOCATION, format!("/v2/{name}/manifests/{digest}")), (DIGEST, digest.to_string())];
    answer.extend(subject.map(|subject| (SUBJECT, subject.to_string())));
    respond(StatusCode::CREATED, answer, Body::empty())
}

/// `POST …/blobs/uploads/`: mounts a blob, takes a whole one, or begins an upload.
async fn begin(registry: Arc<Registry>, name: Name, query: &HashMap<String, String>, body: Body) -> Answer {
    // Without `from` a registry may look anywhere; ours does not, for a digest is no permission to read. What cannot be
    // mounted, for whatever reason, begins an upload.
    let mount = query.get("mount").and_then(|digest| BlobDigest::parse(digest).ok());
    if let Some(digest) = mount
        && let Some(from) = query.get("from").and_then(|from| Name::parse(from).ok())
    {
        let (registry, into, wanted) = (registry.clone(), name.clone(), digest.clone());
        if blocking(move || registry.mount(&into, &from, &wanted)).await? {
            return created(&name, &digest);
        }
    }
    let whole = query.get("digest").map(|digest| BlobDigest::parse(digest)).transpose()?;
    let upload = {
        let (registry, name) = (registry.clone(), name.clone());
        blocking(move || registry.uploads.begin(&name)).await?
    };
    let Some(digest) = whole else { return progress(StatusCode::ACCEPTED, &name, &upload.id, 0) };
    let id = upload.id.clone();
    match receive(upload, body.into_data_stream()).await {
        Ok(upload) => finish(registry, name, digest, upload).await,
        Err(error) => {
            blocking(move || {
                registry.uploads.end(&id);
                Ok(())
            })
            .await?;
            Err(error)
        }
    }
}

/// Where an upload stands.
fn progress(status: StatusCode, name: &Name, id: &str, size: u64) -> Answer {
    empty(
        status,
        [
            (header::LOCATION, format!("/v2/{name}/blobs/uploads/{id}")),
            (header::RANGE, format!("0-{}", size.saturating_sub(1))),
            (UPLOAD_ID, id.to_owned()),
        ],
    )
}

fn created(name: &Name, digest: &BlobDigest) -> Answer {
    let location = format!("/v2/{name}/blobs/{digest}");
    empty(StatusCode::CREATED, [(header::LOCATION, location), (DIGEST, digest.to_string())])
}

/// The upload `id`, locked: one request at a time may change it.
async fn open(
    registry: &Arc<Registry>,
    name: &Name,
    id: String,
) -> Result<OwnedMutexGuard<Upload>, RegistryError> {
    let (registry, name) = (registry.clone(), name.clone());
    let upload = blocking(move || registry.uploads.find(&name, &id)).await?;
    Ok(upload.lock_owned().await)
}

/// Adds a chunk. With `Content-Range: from-to` it must begin where the upload ends and be as long as that says.
async fn append(
    upload: OwnedMutexGuard<Upload>,
    name: &Name,
    headers: &HeaderMap,
    body: Body,
) -> Result<OwnedMutexGuard<Upload>, RegistryError> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return receive(upload, body.into_data_stream()).await;
    };
    let begin = upload.size();
    let out_of_order = |text: String| {
        RegistryError::new(Code::RangeInvalid, text)
            .with(header::LOCATION, format!("/v2/{name}/blobs/uploads/{}", upload.id))
            .with(header::RANGE, format!("0-{}", begin.saturating_sub(1)))
            .with(UPLOAD_ID, upload.id.clone())
    };
    let text = value.to_str().unwrap_or("");
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split('/').next().unwrap_or("");
    let parsed =
        text.split_once('-').and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
    let Some((from, to)) = parsed.filter(|(from, to)| from <= to) else {
        return Err(RegistryError::new(
            Code::UploadInvalid,
            "Content-Range must be <first byte>-<last byte>",
        ));
    };
    if from != begin {
        return Err(out_of_order(format!(
            "the chunk begins at byte {from}, but the upload has {begin} bytes"
        )));
    }
    let expected = to - from + 1;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length != expected) {
        return Err(RegistryError::new(Code::UploadInvalid, "Content-Range and Content-Length do not agree"));
    }
    let upload = receive(upload, body.into_data_stream()).await?;
    if upload.size() - begin != expected {
        return Err(RegistryError::new(
            Code::UploadInvalid,
            "the chunk is not as long as Content-Range says",
        ));
    }
    Ok(upload)
}

/// Writes a body to the upload in batches, at most one batch in memory. What arrived before a connection broke counts.
async fn receive(
    mut upload: OwnedMutexGuard<Upload>,
    mut body: impl Stream<Item = Result<Bytes, axum::Error>> + Unpin,
) -> Result<OwnedMutexGuard<Upload>, RegistryError> {
    let mut broken = None;
    while broken.is_none() {
        let (mut batch, mut size, mut ended) = (Vec::new(), 0, false);
        while size < BATCH {
            match body.next().await {
                Some(Ok(chunk)) => {
                    size += chunk.len();
                    batch.push(chunk);
                }
                Some(Err(error)) => {
                    broken = Some(error);
                    break;
                }
                None => {
                    ended = true;
                    break;
                }
            }
        }
        if !batch.is_empty() {
            upload = blocking(move || upload.append(&batch).map(|()| upload)).await?;
        }
        if ended {
            return Ok(upload);
        }
    }
    let text = broken.map(|error| error.to_string()).unwrap_or_default();
    Err(RegistryError::new(Code::UploadInvalid, format!("the connection broke during the upload: {text}")))
}

/// Verifies an upload and makes it a blob of the repository. Whatever comes of it, the upload is over.
async fn finish(
    registry: Arc<Registry>,
    name: Name,
    digest: BlobDigest,
    mut upload: OwnedMutexGuard<Upload>,
) -> Answer {
    let (name, digest) = blocking(move || {
        let result = upload
            .finish(&digest)
            .and_then(|data| registry.adopt(&data, &digest))
            .and_then(|()| registry.link_blob(&name, &digest));
        let keep = matches!(&result, Err(error) if error.code == Code::StorageFull);
        if !keep {
            registry.uploads.end(&upload.id);
        }
        result.map(|()| (name, digest))
    })
    .await?;
    created(&name, &digest)
}

#[cfg(test)]
mod tests {
    use super::byte_range;

    #[test]
    fn ranges_follow_rfc_9110() {
        assert_eq!(byte_range("bytes=0-4", 10), Some(Ok((0, 5))));
        assert_eq!(byte_range("bytes=5-", 10), Some(Ok((5, 5))));
        assert_eq!(byte_range("bytes=-3", 10), Some(Ok((7, 3))));
        assert_eq!(byte_range("bytes=-30", 10), Some(Ok((0, 10))));
        assert_eq!(byte_range("bytes=8-99", 10), Some(Ok((8, 2))));
        assert_eq!(byte_range("bytes=10-", 10), Some(Err(())));
        assert_eq!(byte_range("bytes=0-", 0), Some(Err(())));
        assert_eq!(byte_range("bytes=4-2", 10), None);
        assert_eq!(byte_range("bytes=0-1,3-4", 10), None);
        assert_eq!(byte_range("lines=0-1", 10), None);
    }
}
