//! The registry's promises over HTTP: nothing is stored under a wrong name, nothing half, and nothing needed goes.

use axum::body::Body;
use berth_controller::registry::{Registry, router};
use berth_model::Digest;
use berth_model::image::ImageRef;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Desk {
    registry: Arc<Registry>,
    router: axum::Router,
    dir: tempfile::TempDir,
}

impl Desk {
    fn open() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let registry = Arc::new(Registry::open(dir.path().join("registry")));
        Self { router: router(registry.clone()), registry, dir }
    }

    /// As after a restart of the controller.
    fn reopened(self) -> Self {
        let registry = Arc::new(Registry::open(self.dir.path().join("registry")));
        Self { router: router(registry.clone()), registry, dir: self.dir }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: impl Into<Body>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(body.into()).expect("a request");
        self.router.clone().oneshot(request).await.expect("a router always answers")
    }

    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let response = self.ask(Method::POST, &path, &[], bytes.to_vec()).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        digest
    }

    async fn push_image(&self, repository: &str, reference: Option<&str>, layer: &[u8]) -> Digest {
        let config = self.push_blob(repository, b"{}").await;
        let layer_digest = self.push_blob(repository, layer).await;
        let manifest = manifest_of(&config, 2, &layer_digest, layer.len());
        let digest = Digest::of(manifest.as_bytes());
        let reference = reference.unwrap_or(digest.as_str());
        let path = format!("/v2/{repository}/manifests/{reference}");
        let response = self.ask(Method::PUT, &path, &[(header::CONTENT_TYPE, MANIFEST)], manifest).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{}", text(response).await);
        digest
    }

    async fn status(&self, method: Method, path: &str) -> StatusCode {
        self.ask(method, path, &[], Body::empty()).await.status()
    }
}

fn manifest_of(config: &Digest, config_size: usize, layer: &Digest, layer_size: usize) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
    )
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn head<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

#[tokio::test]
async fn a_blob_comes_back_whole_and_in_ranges() {
    let desk = Desk::open();
    let digest = desk.push_blob("apps/a", b"hello blob").await;
    let path = format!("/v2/apps/a/blobs/{digest}");
    let whole = desk.ask(Method::GET, &path, &[], Body::empty()).await;
    assert_eq!(head(&whole, "docker-content-digest"), digest.as_str());
    assert_eq!(text(whole).await, "hello blob");
    let part = desk.ask(Method::GET, &path, &[(header::RANGE, "bytes=6-")], Body::empty()).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(head(&part, "content-range"), "bytes 6-9/10");
    assert_eq!(text(part).await, "blob");
    let outside = desk.ask(Method::GET, &path, &[(header::RANGE, "bytes=10-")], Body::empty()).await;
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let head_only = desk.ask(Method::HEAD, &path, &[], Body::empty()).await;
    assert_eq!(head(&head_only, "content-length"), "10");
    assert_eq!(desk.status(Method::HEAD, &format!("/v2/apps/b/blobs/{digest}")).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bytes_that_are_not_what_they_are_called_are_refused_and_gone() {
    let desk = Desk::open();
    let wrong = Digest::of(b"something else");
    let path = format!("/v2/apps/a/blobs/uploads/?digest={wrong}");
    let response = desk.ask(Method::POST, &path, &[], "hello").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(text(response).await.contains("DIGEST_INVALID"));
    assert_eq!(desk.status(Method::HEAD, &format!("/v2/apps/a/blobs/{wrong}")).await, StatusCode::NOT_FOUND);
    let uploads = std::fs::read_dir(desk.dir.path().join("registry/uploads")).expect("it was used");
    assert_eq!(uploads.count(), 0, "a refused upload leaves nothing behind");
}

#[tokio::test]
async fn a_chunked_upload_goes_on_after_a_restart_and_refuses_chunks_out_of_order() {
    let desk = Desk::open();
    let begun = desk.ask(Method::POST, "/v2/apps/a/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    let place = head(&begun, "location").to_owned();
    let first = desk.ask(Method::PATCH, &place, &[(header::CONTENT_RANGE, "0-4")], "hello").await;
    assert_eq!((first.status(), head(&first, "range")), (StatusCode::ACCEPTED, "0-4"));
    let gap = desk.ask(Method::PATCH, &place, &[(header::CONTENT_RANGE, "9-10")], "xx").await;
    assert_eq!((gap.status(), head(&gap, "range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-4"));
    let desk = desk.reopened();
    let state = desk.ask(Method::GET, &place, &[], Body::empty()).await;
    assert_eq!((state.status(), head(&state, "range")), (StatusCode::NO_CONTENT, "0-4"));
    let foreign = place.replace("apps/a", "apps/b");
    assert_eq!(desk.status(Method::GET, &foreign).await, StatusCode::NOT_FOUND);
    let digest = Digest::of(b"hello blob");
    let done = desk.ask(Method::PUT, &format!("{place}?digest={digest}"), &[], " blob").await;
    assert_eq!(done.status(), StatusCode::CREATED);
    assert_eq!(desk.status(Method::GET, &place).await, StatusCode::NOT_FOUND);
    assert_eq!(desk.status(Method::HEAD, &format!("/v2/apps/a/blobs/{digest}")).await, StatusCode::OK);
}

#[tokio::test]
async fn sha512_is_a_digest_too() {
    use sha2::Digest as _;
    let desk = Desk::open();
    let digest = format!("sha512:{}", hex::encode(sha2::Sha512::digest(b"long")));
    let path = format!("/v2/apps/a/blobs/uploads/?digest={digest}");
    assert_eq!(desk.ask(Method::POST, &path, &[], "long").await.status(), StatusCode::CREATED);
    assert_eq!(desk.status(Method::GET, &format!("/v2/apps/a/blobs/{digest}")).await, StatusCode::OK);
}

#[tokio::test]
async fn a_blob_is_mounted_only_from_a_repository_that_has_it() {
    let desk = Desk::open();
    let digest = desk.push_blob("stacks/run", b"base").await;
    let mount = |from: &str| format!("/v2/apps/a/blobs/uploads/?mount={digest}&from={from}");
    assert_eq!(desk.status(Method::POST, &mount("apps/other")).await, StatusCode::ACCEPTED);
    assert_eq!(desk.status(Method::HEAD, &format!("/v2/apps/a/blobs/{digest}")).await, StatusCode::NOT_FOUND);
    assert_eq!(desk.status(Method::POST, &mount("stacks/run")).await, StatusCode::CREATED);
    assert_eq!(desk.status(Method::HEAD, &format!("/v2/apps/a/blobs/{digest}")).await, StatusCode::OK);
}

#[tokio::test]
async fn a_manifest_needs_its_blobs_its_type_and_a_sane_size() {
    let desk = Desk::open();
    let config = desk.push_blob("apps/a", b"{}").await;
    let absent = Digest::of(b"never pushed");
    let put = |body: String, kind: &'static str| {
        let desk = &desk;
        async move {
            let headers = [(header::CONTENT_TYPE, kind)];
            let response = desk.ask(Method::PUT, "/v2/apps/a/manifests/latest", &headers, body).await;
            (response.status(), text(response).await)
        }
    };
    let (status, body) = put(manifest_of(&config, 2, &absent, 5), MANIFEST).await;
    assert!(status == StatusCode::NOT_FOUND && body.contains("MANIFEST_BLOB_UNKNOWN"), "{status} {body}");
    let (status, body) = put(manifest_of(&config, 2, &config, 99), MANIFEST).await;
    assert!(status == StatusCode::BAD_REQUEST && body.contains("wrong size"), "{status} {body}");
    let (status, _) = put(manifest_of(&config, 2, &config, 2), "text/plain").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let both = manifest_of(&config, 2, &config, 2).replace("\"layers\"", "\"manifests\":[],\"layers\"");
    assert_eq!(put(both, MANIFEST).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put(" ".repeat(5 << 20), MANIFEST).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(put("{".to_owned(), MANIFEST).await.0, StatusCode::BAD_REQUEST);
    let (status, body) = put(manifest_of(&config, 2, &config, 2), MANIFEST).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let desk = Desk::open();
    for tag in ["v1", "v2", "v10", "latest"] {
        desk.push_image("apps/a", Some(tag), b"layer").await;
    }
    let first = desk.ask(Method::GET, "/v2/apps/a/tags/list?n=2", &[], Body::empty()).await;
    assert_eq!(head(&first, "link"), "</v2/apps/a/tags/list?n=2&last=v1>; rel=\"next\"");
    assert_eq!(text(first).await, r#"{"name":"apps/a","tags":["latest","v1"]}"#);
    let second = desk.ask(Method::GET, "/v2/apps/a/tags/list?n=2&last=v1", &[], Body::empty()).await;
    assert_eq!(head(&second, "link"), "");
    assert_eq!(text(second).await, r#"{"name":"apps/a","tags":["v10","v2"]}"#);
    assert_eq!(desk.status(Method::GET, "/v2/apps/none/tags/list").await, StatusCode::NOT_FOUND);
    assert_eq!(desk.status(Method::GET, "/v2/apps/a/tags/list?n=-1").await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_manifest_with_a_subject_is_found_by_it_until_it_is_deleted() {
    let desk = Desk::open();
    let subject = desk.push_image("apps/a", None, b"layer").await;
    let config = desk.push_blob("apps/a", b"{}").await;
    let body = manifest_of(&config, 2, &config, 2).replace(
        "\"layers\"",
        &format!(r#""artifactType":"text/sbom","subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":1}},"layers""#),
    );
    let digest = Digest::of(body.as_bytes());
    let path = format!("/v2/apps/a/manifests/{digest}");
    let put = desk.ask(Method::PUT, &path, &[(header::CONTENT_TYPE, MANIFEST)], body).await;
    assert_eq!((put.status(), head(&put, "oci-subject")), (StatusCode::CREATED, subject.as_str()));
    let list = format!("/v2/apps/a/referrers/{subject}");
    let all = text(desk.ask(Method::GET, &list, &[], Body::empty()).await).await;
    assert!(all.contains(digest.as_str()) && all.contains("text/sbom"), "{all}");
    let filtered =
        desk.ask(Method::GET, &format!("{list}?artifactType=text/other"), &[], Body::empty()).await;
    assert_eq!(head(&filtered, "oci-filters-applied"), "artifactType");
    assert!(!text(filtered).await.contains(digest.as_str()));
    assert_eq!(desk.status(Method::DELETE, &path).await, StatusCode::ACCEPTED);
    assert!(!text(desk.ask(Method::GET, &list, &[], Body::empty()).await).await.contains(digest.as_str()));
}

#[tokio::test]
async fn collecting_removes_what_nobody_needs_and_nothing_else() {
    let desk = Desk::open();
    let kept = desk.push_image("apps/kept", None, b"kept layer").await;
    let gone = desk.push_image("apps/gone", None, b"layer of a destroyed app").await;
    desk.push_image("stacks/run", Some("latest"), b"stack layer").await;
    let keep = [ImageRef { repository: "apps/kept".into(), digest: kept.clone() }];
    let early = desk.registry.collect(&keep, Duration::from_secs(3600)).expect("it can");
    assert_eq!((early.manifests, early.blobs), (0, 0), "all of it is young");
    let collected = desk.registry.collect(&keep, Duration::ZERO).expect("it can");
    assert_eq!((collected.manifests, collected.blobs), (1, 2), "one manifest; its bytes and its layer");
    let exists = |repository: &str, digest: &Digest| format!("/v2/{repository}/manifests/{digest}");
    assert_eq!(desk.status(Method::HEAD, &exists("apps/kept", &kept)).await, StatusCode::OK);
    assert_eq!(desk.status(Method::HEAD, &exists("apps/gone", &gone)).await, StatusCode::NOT_FOUND);
    for (repository, layer) in [("apps/kept", "kept layer"), ("stacks/run", "stack layer")] {
        let path = format!("/v2/{repository}/blobs/{}", Digest::of(layer.as_bytes()));
        assert_eq!(desk.status(Method::GET, &path).await, StatusCode::OK, "{layer}");
    }
    assert_eq!(desk.status(Method::GET, "/v2/apps/gone/tags/list").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn no_path_leads_out() {
    let desk = Desk::open();
    for path in [
        "/v2/../etc/passwd",
        "/v2/a/blobs/sha256:..%2f..%2fetc",
        "/v2/%2e%2e/tags/list",
        "/v2/a/../b/tags/list",
        "/v2//tags/list",
        "/v2/a/manifests/..",
        "/v2/a/blobs/uploads/..",
        "/v2/a/_tags/tags/list",
    ] {
        let status = desk.status(Method::GET, path).await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
}

#[tokio::test]
async fn copies_of_other_registries_go_a_month_after_their_last_use() {
    let desk = Desk::open();
    for tag in ["used", "unused"] {
        desk.push_image("mirror/docker.io/library/x", Some(tag), tag.as_bytes()).await;
    }
    desk.push_image("team/x", Some("kept"), b"a client's").await;
    let top = desk.dir.path().join("registry");
    let old = std::time::SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
    let mut pending = vec![top];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(
                std::fs::read_dir(&path).expect("listed").map(|entry| entry.expect("an entry").path()),
            );
        } else {
            std::fs::File::open(&path).and_then(|file| file.set_modified(old)).expect("its owner may");
        }
    }
    let manifest = |repository: &str, tag: &str| format!("/v2/{repository}/manifests/{tag}");
    let used = manifest("mirror/docker.io/library/x", "used");
    assert_eq!(desk.status(Method::HEAD, &used).await, StatusCode::OK);
    let collected = desk.registry.collect(&[], Duration::from_secs(3600)).expect("it can");
    assert_eq!((collected.manifests, collected.blobs), (1, 2), "the unused one's manifest and layer");
    assert_eq!(desk.status(Method::GET, &used).await, StatusCode::OK);
    let unused = manifest("mirror/docker.io/library/x", "unused");
    assert_eq!(desk.status(Method::GET, &unused).await, StatusCode::NOT_FOUND);
    assert_eq!(
        desk.status(Method::GET, &manifest("team/x", "kept")).await,
        StatusCode::OK,
        "not ours to judge"
    );
}
