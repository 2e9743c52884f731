//! The OCI distribution specification 1.1, endpoint by endpoint (its table "Endpoints", end-1 to end-13), over real HTTP.
//! The tests are called as the specification's conformance suite calls its own: pull, push, content discovery, content
//! management; the kinds of manifests are those that it pushes.

use berth_controller::registry::{Registry, router};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256, Sha512};
use std::sync::Arc;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The repository of most tests.
const NAME: &str = "conformance/repo";

struct Suite {
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The code of a refusal, whose body must be as "Error Codes" says.
    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        let json = self.json();
        let errors = json["errors"].as_array().expect("a list of errors");
        assert!(errors[0]["message"].is_string());
        errors[0]["code"].as_str().expect("a code").to_owned()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn absent() -> String {
    digest(b"never pushed")
}

impl Suite {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let app = router(Arc::new(Registry::open(dir.path().join("registry"))));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, _dir: dir }
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let stream = tokio::net::TcpStream::connect(self.address).await.expect("it listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let path = path.strip_prefix(&format!("http://{}", self.address)).unwrap_or(path);
        let mut request = Request::builder().method(method).uri(path).header("host", "registry.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let (parts, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn head(&self, path: &str) -> Answer {
        let answer = self.ask("HEAD", path, &[], "").await;
        assert!(answer.body.is_empty(), "the answer to HEAD has no body");
        answer
    }

    /// Monolithic, POST then PUT. Gives what a manifest says of it.
    async fn blob(&self, name: &str, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let begun = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], "").await;
        assert_eq!(begun.status, 202);
        let place = with(begun.header("location"), &format!("digest={}", digest(bytes)));
        let headers = [("content-type", "application/octet-stream")];
        assert_eq!(self.ask("PUT", &place, &headers, bytes.to_vec()).await.status, 201);
        serde_json::json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
    }

    async fn image(&self, name: &str, layers: &[&str]) -> serde_json::Value {
        let config = self.blob(name, CONFIG, b"{}").await;
        let mut described = Vec::new();
        for layer in layers {
            described.push(self.blob(name, LAYER, layer.as_bytes()).await);
        }
        serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described })
    }

    async fn put(&self, name: &str, reference: &str, kind: &str, document: &serde_json::Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.ask("PUT", &path, &[("content-type", kind)], document.to_string()).await
    }

    /// Pushes under its digest; gives a descriptor.
    async fn push(&self, name: &str, kind: &str, document: &serde_json::Value) -> serde_json::Value {
        let digest = digest(document.to_string().as_bytes());
        let put = self.put(name, &digest, kind, document).await;
        assert_eq!(put.status, 201, "{:?}", put.body);
        assert_eq!(put.header("docker-content-digest"), digest);
        serde_json::json!({ "mediaType": kind, "digest": digest, "size": document.to_string().len() })
    }
}

/// A location with one more parameter.
fn with(location: &str, parameter: &str) -> String {
    format!("{location}{}{parameter}", if location.contains('?') { '&' } else { '?' })
}

#[tokio::test]
async fn end_1_the_base_says_that_this_is_a_registry() {
    let suite = Suite::start().await;
    let base = suite.get("/v2/").await;
    assert_eq!((base.status, base.header("docker-distribution-api-version")), (200, "registry/2.0"));
    assert_eq!(suite.head("/v2/").await.status, 200);
    let post = suite.ask("POST", "/v2/", &[], "").await;
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    assert_eq!(post.code(), "UNSUPPORTED");
}

#[tokio::test]
async fn end_2_pull_blobs() {
    let suite = Suite::start().await;
    let bytes = vec![b'x'; 300_000];
    suite.blob(NAME, LAYER, &bytes).await;
    let (here, away) =
        (format!("/v2/{NAME}/blobs/{}", digest(&bytes)), format!("/v2/{NAME}/blobs/{}", absent()));
    assert_eq!(suite.head(&away).await.status, 404);
    let head = suite.head(&here).await;
    assert_eq!((head.status, head.header("content-length")), (200, "300000"));
    assert_eq!(head.header("docker-content-digest"), digest(&bytes));
    let missing = suite.get(&away).await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "BLOB_UNKNOWN"));
    let got = suite.get(&here).await;
    assert_eq!((got.status, &got.body[..]), (200, &bytes[..]));
    assert_eq!(got.header("accept-ranges"), "bytes");
    // A resumed pull.
    let part = suite.ask("GET", &here, &[("range", "bytes=299990-")], "").await;
    assert_eq!(
        (part.status, part.header("content-range"), part.body.len()),
        (206, "bytes 299990-299999/300000", 10)
    );
    let part = suite.ask("GET", &here, &[("range", "bytes=0-9")], "").await;
    assert_eq!((part.status, part.header("content-range"), part.body.len()), (206, "bytes 0-9/300000", 10));
    let beyond = suite.ask("GET", &here, &[("range", "bytes=300000-")], "").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */300000"));
    // What is no digest, and whose repository does not have it.
    let odd = suite.get(&format!("/v2/{NAME}/blobs/sha256:totallywrong")).await;
    assert_eq!((odd.status, odd.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(suite.get(&format!("/v2/other/blobs/{}", digest(&bytes))).await.status, 404);
}

#[tokio::test]
async fn end_3_pull_manifests() {
    let suite = Suite::start().await;
    let image = suite.image(NAME, &["one"]).await;
    assert_eq!(suite.put(NAME, "tagtest0", MANIFEST, &image).await.status, 201);
    let text = image.to_string();
    let by = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    for reference in [absent().as_str(), "nowhere"] {
        assert_eq!(suite.head(&by(reference)).await.status, 404);
        let missing = suite.get(&by(reference)).await;
        assert_eq!((missing.status, missing.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json, */*;q=0.1")];
    for reference in [digest(text.as_bytes()).as_str(), "tagtest0"] {
        for method in ["HEAD", "GET"] {
            let got = suite.ask(method, &by(reference), &accept, "").await;
            assert_eq!((got.status, got.header("content-type")), (200, MANIFEST));
            assert_eq!(got.header("docker-content-digest"), digest(text.as_bytes()));
            assert_eq!(got.header("content-length"), text.len().to_string());
            assert_eq!(got.body.is_empty(), method == "HEAD");
            assert!(method == "HEAD" || got.body == text.as_bytes(), "to the byte");
        }
    }
    let odd = suite.get(&by("-odd")).await;
    assert_eq!((odd.status, odd.code().as_str()), (400, "TAG_INVALID"));
    assert_eq!(suite.get("/v2/no/such/manifests/latest").await.status, 404);
    let name = suite.get("/v2/BAD/manifests/latest").await;
    assert_eq!((name.status, name.code().as_str()), (400, "NAME_INVALID"));
}

#[tokio::test]
async fn error_codes_400_has_an_oci_conforming_json_message() {
    let suite = Suite::start().await;
    let put = |reference: &'static str, kind: &'static str, body: &'static str| {
        let suite = &suite;
        async move {
            let path = format!("/v2/{NAME}/manifests/{reference}");
            suite.ask("PUT", &path, &[("content-type", kind)], body).await
        }
    };
    let wrong = put("sha256:totallywrong", MANIFEST, "blablabla").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"));
    let wrong = put("latest", MANIFEST, "blablabla").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "MANIFEST_INVALID"));
    let wrong = put("latest", "text/plain", r#"{"schemaVersion":2}"#).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "MANIFEST_INVALID"));
    let old =
        put("latest", "application/vnd.docker.distribution.manifest.v1+json", r#"{"schemaVersion":1}"#).await;
    assert_eq!((old.status, old.code().as_str()), (400, "MANIFEST_INVALID"));
}

#[tokio::test]
async fn end_4a_6_push_a_blob_streamed() {
    let suite = Suite::start().await;
    let begun = suite.ask("POST", &format!("/v2/{NAME}/blobs/uploads/"), &[], "").await;
    let streamed = suite.ask("PATCH", begun.header("location"), &[], "streamed").await;
    assert_eq!((streamed.status, streamed.header("range")), (202, "0-7"));
    let place = with(streamed.header("location"), &format!("digest={}", digest(b"streamed")));
    let done = suite.ask("PUT", &place, &[], "").await;
    assert_eq!((done.status, done.header("docker-content-digest")), (201, digest(b"streamed").as_str()));
    assert_eq!(suite.get(done.header("location")).await.body, "streamed");
}

#[tokio::test]
async fn end_4b_push_a_blob_with_one_post() {
    let suite = Suite::start().await;
    let path = format!("/v2/{NAME}/blobs/uploads/?digest={}", digest(b"whole"));
    let posted = suite.ask("POST", &path, &[("content-type", "application/octet-stream")], "whole").await;
    assert_eq!(posted.status, 201);
    assert_eq!(suite.get(posted.header("location")).await.body, "whole");
    let wrong = suite.ask("POST", &path, &[], "something else").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"));
    let path = format!("/v2/{NAME}/blobs/uploads/?digest=md5:abc");
    assert_eq!(suite.ask("POST", &path, &[], "x").await.status, 400);
}

#[tokio::test]
async fn end_4a_6_push_a_blob_monolithically() {
    let suite = Suite::start().await;
    assert_eq!(suite.get(&format!("/v2/{NAME}/blobs/{}", digest(b"mono"))).await.status, 404);
    suite.blob(NAME, LAYER, b"mono").await;
    assert_eq!(suite.get(&format!("/v2/{NAME}/blobs/{}", digest(b"mono"))).await.status, 200);
    // An empty blob is one too.
    suite.blob(NAME, LAYER, b"").await;
    assert_eq!(suite.get(&format!("/v2/{NAME}/blobs/{}", digest(b""))).await.body, "");
    let begun = suite.ask("POST", &format!("/v2/{NAME}/blobs/uploads/"), &[], "").await;
    let without = suite.ask("PUT", begun.header("location"), &[], "x").await;
    assert_eq!((without.status, without.code().as_str()), (400, "DIGEST_INVALID"));
    let again = suite
        .ask("PUT", &with(begun.header("location"), &format!("digest={}", digest(b"y"))), &[], "x")
        .await;
    assert_eq!((again.status, again.code().as_str()), (400, "DIGEST_INVALID"));
    let unknown = format!("/v2/{NAME}/blobs/uploads/{}", "0".repeat(32));
    let unknown = suite.ask("PATCH", &unknown, &[], "x").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn end_5_13_push_a_blob_in_chunks() {
    let suite = Suite::start().await;
    let begun =
        suite.ask("POST", &format!("/v2/{NAME}/blobs/uploads/"), &[("content-length", "0")], "").await;
    let place = begun.header("location").to_owned();
    let second = suite.ask("PATCH", &place, &[("content-range", "5-9")], "world").await;
    assert_eq!(second.status, 416, "out of order");
    let first = suite.ask("PATCH", &place, &[("content-range", "0-4")], "hello").await;
    assert_eq!((first.status, first.header("range")), (202, "0-4"));
    let place = first.header("location").to_owned();
    let retry = suite.ask("PATCH", &place, &[("content-range", "0-4")], "hello").await;
    assert_eq!((retry.status, retry.header("range")), (416, "0-4"));
    assert!(!retry.header("location").is_empty());
    let stale = suite.get(&place).await;
    assert_eq!((stale.status, stale.header("range")), (204, "0-4"));
    let place = stale.header("location").to_owned();
    let second = suite.ask("PATCH", &place, &[("content-range", "5-9")], "world").await;
    assert_eq!((second.status, second.header("range")), (202, "0-9"));
    let place = with(second.header("location"), &format!("digest={}", digest(b"helloworld!")));
    // The last chunk may come with the PUT, and must be in order there too.
    let gap = suite.ask("PUT", &place, &[("content-range", "11-11")], "!").await;
    assert_eq!(gap.status, 416);
    let done = suite.ask("PUT", &place, &[("content-range", "10-10")], "!").await;
    assert_eq!(done.status, 201);
    assert_eq!(suite.get(done.header("location")).await.body, "helloworld!");
    assert_eq!(suite.get(second.header("location")).await.status, 404, "the session is over");
}

#[tokio::test]
async fn an_upload_can_be_cancelled() {
    let suite = Suite::start().await;
    let begun = suite.ask("POST", &format!("/v2/{NAME}/blobs/uploads/"), &[], "").await;
    suite.ask("PATCH", begun.header("location"), &[], "some").await;
    assert_eq!(suite.ask("DELETE", begun.header("location"), &[], "").await.status, 204);
    assert_eq!(suite.get(begun.header("location")).await.status, 404);
}

#[tokio::test]
async fn end_11_mount_a_blob_of_another_repository() {
    let suite = Suite::start().await;
    suite.blob("first/repo", LAYER, b"shared").await;
    let mount = |rest: &str| format!("/v2/second/repo/blobs/uploads/?mount={}{rest}", digest(b"shared"));
    let session =
        |answer: &Answer| answer.status == 202 && answer.header("location").contains("/blobs/uploads/");
    let without = suite.ask("POST", &mount(""), &[], "").await;
    assert!(session(&without), "a digest is no permission to read: {}", without.status);
    for from in ["&from=third/repo", "&from=../first/repo", "&from="] {
        let refused = suite.ask("POST", &mount(from), &[], "").await;
        assert!(session(&refused), "{from}: {}", refused.status);
    }
    let odd =
        suite.ask("POST", "/v2/second/repo/blobs/uploads/?mount=sha256:x&from=first/repo", &[], "").await;
    assert!(session(&odd), "{}", odd.status);
    let mounted = suite.ask("POST", &mount("&from=first/repo"), &[], "").await;
    assert_eq!((mounted.status, mounted.header("docker-content-digest")), (201, digest(b"shared").as_str()));
    assert_eq!(suite.get(mounted.header("location")).await.body, "shared");
}

#[tokio::test]
async fn end_7_push_manifests_of_every_kind() {
    let suite = Suite::start().await;
    let image = suite.image(NAME, &["one", "two"]).await;
    let put = suite.put(NAME, "image", MANIFEST, &image).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, ""));
    assert_eq!(suite.get(put.header("location")).await.body, image.to_string());
    let no_layers = suite.image(NAME, &[]).await;
    suite.push(NAME, MANIFEST, &no_layers).await;
    // Nearly the 4 MiB that a registry has to take; more is refused as such.
    let mut large = no_layers.clone();
    large["annotations"] =
        (0..390).map(|n| (format!("note-{n}"), serde_json::Value::from("A".repeat(10_000)))).collect();
    suite.push(NAME, MANIFEST, &large).await;
    large["annotations"]["more"] = "A".repeat(400_000).into();
    assert_eq!(suite.put(NAME, "large", MANIFEST, &large).await.status, 413);
    // Fields that nobody has thought of yet, and bytes inside descriptors, stay as they are.
    let mut odd = image.clone();
    odd["org.example.custom"] = "kept".into();
    odd["config"]["data"] = "e30=".into();
    let odd = suite.push(NAME, MANIFEST, &odd).await;
    let got = suite.get(&format!("/v2/{NAME}/manifests/{}", odd["digest"].as_str().expect("a digest"))).await;
    assert_eq!(got.json()["org.example.custom"], "kept");
    // Layers that are fetched elsewhere need not be here.
    let mut foreign = image.clone();
    foreign["layers"][0] = serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "digest": absent(), "size": 5, "urls": ["https://layers.test/x"] });
    suite.push(NAME, MANIFEST, &foreign).await;

    let one = suite.push(NAME, MANIFEST, &image).await;
    let two = suite.push(NAME, MANIFEST, &no_layers).await;
    let index = |children: Vec<serde_json::Value>| serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let inner = suite.push(NAME, INDEX, &index(vec![one.clone(), two])).await;
    suite.push(NAME, INDEX, &index(vec![inner, one])).await;
    suite.push(NAME, INDEX, &index(vec![])).await;
    let away = serde_json::json!({ "mediaType": MANIFEST, "digest": absent(), "size": 9 });
    let missing = suite.put(NAME, "x", INDEX, &index(vec![away])).await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));

    // Artifacts, and manifests of a type that this registry does not know.
    let empty = suite.blob(NAME, EMPTY, b"{}").await;
    let mut artifact = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.sbom", "config": empty, "layers": [empty] });
    suite.push(NAME, MANIFEST, &artifact).await;
    let unknown = "application/vnd.example.manifest.v7+json";
    artifact["mediaType"] = unknown.into();
    let pushed = suite.push(NAME, unknown, &artifact).await;
    let got =
        suite.get(&format!("/v2/{NAME}/manifests/{}", pushed["digest"].as_str().expect("a digest"))).await;
    assert_eq!((got.status, got.header("content-type")), (200, unknown));
    let lying = suite.put(NAME, "x", MANIFEST, &artifact).await;
    assert_eq!((lying.status, lying.code().as_str()), (400, "MANIFEST_INVALID"));

    let mut broken = image;
    broken["layers"][0]["digest"] = absent().into();
    let broken = suite.put(NAME, "x", MANIFEST, &broken).await;
    assert_eq!((broken.status, broken.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
}

#[tokio::test]
async fn sha512_names_blobs_and_manifests_too() {
    let suite = Suite::start().await;
    let name = |bytes: &[u8]| format!("sha512:{}", hex::encode(Sha512::digest(bytes)));
    let begun = suite.ask("POST", &format!("/v2/{NAME}/blobs/uploads/"), &[], "").await;
    let place = with(begun.header("location"), &format!("digest={}", name(b"{}")));
    let pushed = suite.ask("PUT", &place, &[], "{}").await;
    assert_eq!((pushed.status, pushed.header("docker-content-digest")), (201, name(b"{}").as_str()));
    let config = serde_json::json!({ "mediaType": CONFIG, "digest": name(b"{}"), "size": 2 });
    let image =
        serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] });
    let own = name(image.to_string().as_bytes());
    let put = suite.put(NAME, &own, MANIFEST, &image).await;
    assert_eq!((put.status, put.header("docker-content-digest")), (201, own.as_str()));
    assert_eq!(suite.get(&format!("/v2/{NAME}/manifests/{own}")).await.body, image.to_string());
    let wrong = suite.put(NAME, &name(b"other"), MANIFEST, &image).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"));
}

#[tokio::test]
async fn end_8_list_tags() {
    let suite = Suite::start().await;
    let unknown = suite.get("/v2/no/such/tags/list").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "NAME_UNKNOWN"));
    let image = suite.image(NAME, &[]).await;
    let none = suite.get(&format!("/v2/{NAME}/tags/list")).await;
    assert_eq!((none.status, none.json()["tags"].clone()), (200, serde_json::json!([])));
    for tag in ["Beta", "alpha", "beta", "v1.10", "v1.2", "Zeta"] {
        assert_eq!(suite.put(NAME, tag, MANIFEST, &image).await.status, 201);
    }
    let all = ["alpha", "Beta", "beta", "v1.10", "v1.2", "Zeta"];
    let list = suite.get(&format!("/v2/{NAME}/tags/list")).await;
    assert_eq!(list.json(), serde_json::json!({ "name": NAME, "tags": all }));
    assert_eq!(list.header("link"), "");
    // Page by page, following the links.
    let (mut path, mut seen) = (format!("/v2/{NAME}/tags/list?n=2"), Vec::new());
    while !path.is_empty() {
        let page = suite.get(&path).await;
        assert_eq!(page.status, 200);
        let tags = page.json()["tags"].as_array().expect("tags").clone();
        assert!(tags.len() <= 2);
        seen.extend(tags);
        let link = page.header("link");
        assert!(link.is_empty() || link.ends_with(">; rel=\"next\""), "{link}");
        path = link.split('>').next().unwrap_or("").trim_start_matches('<').to_owned();
    }
    assert_eq!(serde_json::json!(seen), serde_json::json!(all));
    let last = suite.get(&format!("/v2/{NAME}/tags/list?n=2&last=Beta")).await;
    assert_eq!(last.json()["tags"], serde_json::json!(["beta", "v1.10"]));
    let zero = suite.get(&format!("/v2/{NAME}/tags/list?n=0")).await;
    assert_eq!((zero.json()["tags"].clone(), zero.header("link")), (serde_json::json!([]), ""));
    assert_eq!(suite.get(&format!("/v2/{NAME}/tags/list?n=x")).await.status, 400);
    let catalog = suite.get("/v2/_catalog").await;
    assert_eq!(catalog.json()["repositories"], serde_json::json!([NAME]));
}

#[tokio::test]
async fn end_12_list_referrers() {
    let suite = Suite::start().await;
    let image = suite.image(NAME, &["subject"]).await;
    let subject = suite.push(NAME, MANIFEST, &image).await;
    let named = subject["digest"].as_str().expect("a digest").to_owned();
    let empty = suite.blob(NAME, EMPTY, b"{}").await;
    let about = |kind: Option<&str>, subject: &serde_json::Value| {
        let mut artifact = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": empty,
            "layers": [empty], "subject": subject, "annotations": { "org.example.note": "kept" } });
        if let Some(kind) = kind {
            artifact["artifactType"] = kind.into();
        }
        artifact
    };
    let list = |digest: &str, query: &str| format!("/v2/{NAME}/referrers/{digest}{query}");
    for digest in [absent().as_str(), named.as_str()] {
        let none = suite.get(&list(digest, "")).await;
        assert_eq!((none.status, none.header("content-type")), (200, INDEX));
        assert_eq!(none.json()["manifests"], serde_json::json!([]));
    }
    let sbom = about(Some("application/vnd.example.sbom"), &subject);
    let put = suite.put(NAME, &digest(sbom.to_string().as_bytes()), MANIFEST, &sbom).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, named.as_str()));
    suite.push(NAME, MANIFEST, &about(None, &subject)).await;
    let mut index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject });
    index["artifactType"] = "application/vnd.example.signature".into();
    suite.push(NAME, INDEX, &index).await;
    // A subject that is not there (yet) is no mistake.
    let early = serde_json::json!({ "mediaType": MANIFEST, "digest": absent(), "size": 9 });
    let put = suite.put(NAME, "early", MANIFEST, &about(Some("application/x"), &early)).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, absent().as_str()));
    assert_eq!(suite.get(&list(&absent(), "")).await.json()["manifests"].as_array().map(Vec::len), Some(1));

    let all = suite.get(&list(&named, "")).await;
    assert_eq!(all.header("oci-filters-applied"), "");
    let json = all.json();
    let found = json["manifests"].as_array().expect("a list");
    let kinds: std::collections::BTreeSet<_> =
        found.iter().filter_map(|one| one["artifactType"].as_str()).collect();
    // Without an artifactType it is the config's media type.
    let expected = ["application/vnd.example.sbom", "application/vnd.example.signature", EMPTY];
    assert_eq!(kinds, expected.into());
    let one =
        found.iter().find(|one| one["artifactType"] == "application/vnd.example.sbom").expect("it is listed");
    assert_eq!(one["annotations"]["org.example.note"], "kept");
    assert_eq!(one["size"], sbom.to_string().len());
    let filtered = suite.get(&list(&named, "?artifactType=application%2Fvnd.example.sbom")).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(filtered.json()["manifests"].as_array().map(Vec::len), Some(1));
    let odd = suite.get(&list("sha256:x", "")).await;
    assert_eq!((odd.status, odd.code().as_str()), (400, "DIGEST_INVALID"));
    // Deleting one takes it off the list.
    let gone = format!("/v2/{NAME}/manifests/{}", digest(sbom.to_string().as_bytes()));
    assert_eq!(suite.ask("DELETE", &gone, &[], "").await.status, 202);
    assert_eq!(suite.get(&list(&named, "")).await.json()["manifests"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn end_9_delete_tags_and_manifests() {
    let suite = Suite::start().await;
    let image = suite.image(NAME, &["x"]).await;
    for tag in ["one", "two"] {
        assert_eq!(suite.put(NAME, tag, MANIFEST, &image).await.status, 201);
    }
    let by = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    let named = digest(image.to_string().as_bytes());
    assert_eq!(suite.ask("DELETE", &by("one"), &[], "").await.status, 202);
    assert_eq!(suite.get(&by("one")).await.status, 404);
    assert_eq!(suite.get(&by(&named)).await.status, 200, "the tag alone went");
    assert_eq!(suite.ask("DELETE", &by(&named), &[], "").await.status, 202);
    for reference in [named.as_str(), "two"] {
        assert_eq!(suite.get(&by(reference)).await.status, 404);
        let again = suite.ask("DELETE", &by(reference), &[], "").await;
        assert_eq!((again.status, again.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    let tags = suite.get(&format!("/v2/{NAME}/tags/list")).await;
    assert!(tags.status == 404 || tags.json()["tags"] == serde_json::json!([]));
}

#[tokio::test]
async fn end_10_delete_blobs() {
    let suite = Suite::start().await;
    for name in [NAME, "other/repo"] {
        suite.blob(name, LAYER, b"gone").await;
    }
    let path = |name: &str| format!("/v2/{name}/blobs/{}", digest(b"gone"));
    assert_eq!(suite.ask("DELETE", &path(NAME), &[], "").await.status, 202);
    assert_eq!(suite.get(&path(NAME)).await.status, 404);
    assert_eq!(suite.ask("DELETE", &path(NAME), &[], "").await.status, 404);
    assert_eq!(suite.get(&path("other/repo")).await.body, "gone", "another repository keeps its own");
}

#[tokio::test]
async fn many_push_the_same_at_once() {
    let suite = Arc::new(Suite::start().await);
    let mut pushes = tokio::task::JoinSet::new();
    for worker in 0..16 {
        let suite = suite.clone();
        pushes.spawn(async move {
            let layer = "the same layer".repeat(10_000);
            let image = suite.image(NAME, &[&layer]).await;
            suite.put(NAME, &format!("tag-{}", worker % 4), MANIFEST, &image).await.status
        });
    }
    while let Some(status) = pushes.join_next().await {
        assert_eq!(status.expect("no panic"), StatusCode::CREATED.as_u16());
    }
    let tags = suite.get(&format!("/v2/{NAME}/tags/list")).await.json();
    assert_eq!(tags["tags"].as_array().map(Vec::len), Some(4));
    let layer = "the same layer".repeat(10_000);
    assert_eq!(suite.get(&format!("/v2/{NAME}/blobs/{}", digest(layer.as_bytes()))).await.body, layer);
}
