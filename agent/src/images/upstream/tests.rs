//! A registry without a network, with tokens and an index.

use super::*;
use crate::images::Images;
use std::collections::HashMap;
use std::sync::Mutex;

use crate::build::tests::support::{Registry, dir, file, zstd};

#[derive(Default)]
struct Fake {
    answers: HashMap<String, Vec<u8>>,
    asked: Mutex<Vec<String>>,
    down: bool,
}

const BASE: &str = "https://registry-1.docker.io/v2/library/debian";

impl Fetch for Fake {
    fn get<'a>(&'a self, url: &'a str, headers: HeaderMap) -> BoxFuture<'a, Result<Reply, FetchError>> {
        Box::pin(async move {
            self.asked.lock().expect("no panics").push(url.to_owned());
            let reply = |status, body: &[u8]| {
                let body = http_body_util::Full::new(Bytes::copy_from_slice(body));
                Reply {
                    status,
                    headers: HeaderMap::new(),
                    body: body.map_err(|never| match never {}).boxed(),
                }
            };
            if self.down {
                return Err(FetchError::Unreachable("no route".to_owned()));
            }
            if url.starts_with("https://auth.test/token?scope=repository:library/debian:pull&service=reg%20x")
            {
                return Ok(reply(StatusCode::OK, br#"{"token":"t0k"}"#));
            }
            if headers.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer t0k") {
                let mut refused = reply(StatusCode::UNAUTHORIZED, b"");
                let challenge = "Bearer realm=\"https://auth.test/token\",service=\"reg x\",scope=\"repository:library/debian:pull\"";
                refused.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                return Ok(refused);
            }
            Ok(match self.answers.get(url) {
                Some(body) => reply(StatusCode::OK, body),
                None => reply(StatusCode::NOT_FOUND, b"manifest unknown"),
            })
        })
    }
}

/// An image with one layer, behind an index; gives the digest of its manifest too.
fn debian() -> (Fake, Digest) {
    let (blob, diff_id) = zstd(&[dir("etc"), file("etc/os", "debian")]);
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Env":["A=1"],"ExposedPorts":null,"OnBuild":null}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        oci::architecture(),
        diff_id
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{}","size":{}}}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        Digest::of(&blob),
        blob.len()
    );
    let digest = Digest::of(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{}","platform":{{"os":"linux","architecture":"mips"}}}},{{"digest":"{digest}","platform":{{"os":"linux","architecture":"{}"}}}}]}}"#,
        "0".repeat(64),
        oci::architecture()
    );
    let fake = Fake {
        answers: [
            (format!("{BASE}/manifests/bookworm"), index.into_bytes()),
            (format!("{BASE}/manifests/{digest}"), manifest.into_bytes()),
            (format!("{BASE}/blobs/{}", Digest::of(config.as_bytes())), config.into_bytes()),
            (format!("{BASE}/blobs/{}", Digest::of(&blob)), blob),
        ]
        .into(),
        ..Fake::default()
    };
    (fake, digest)
}

#[tokio::test]
async fn an_image_is_mirrored_once_and_verified() {
    let data = tempfile::tempdir().expect("a directory");
    let registry = Registry::default();
    let images = Images::open(data.path(), registry.serve(data.path())).expect("it opens");
    let (fake, digest) = debian();
    let name = ImageName::parse("debian:bookworm").expect("valid");
    let mirrored =
        Upstream::new(&fake, &name, &[]).mirror(images.remote(), data.path()).await.expect("all is good");
    assert_eq!(mirrored, ImageRef { repository: "mirror/docker.io/library/debian".to_owned(), digest });
    let ready = images.ensure(&mirrored).await.expect("it is whole");
    assert_eq!(std::fs::read_to_string(ready.lowers[0].join("etc/os")).expect("there"), "debian");
    fake.asked.lock().expect("no panics").clear();
    Upstream::new(&fake, &name, &[]).mirror(images.remote(), data.path()).await.expect("all is good");
    let asked = fake.asked.lock().expect("no panics").join("\n");
    assert!(!asked.contains("/blobs/"), "only its manifests are looked at again: {asked}");
}

#[tokio::test]
async fn what_is_forged_missing_or_away_is_told_apart() {
    let data = tempfile::tempdir().expect("a directory");
    let registry = Registry::default();
    let images = Images::open(data.path(), registry.serve(data.path())).expect("it opens");
    let name = ImageName::parse("debian:bookworm").expect("valid");
    let (mut fake, digest) = debian();
    for (url, bytes) in &mut fake.answers {
        if url.contains("/blobs/") {
            bytes.push(b' ');
        }
    }
    let forged = Upstream::new(&fake, &name, &[]).mirror(images.remote(), data.path()).await;
    assert!(matches!(forged, Err(FetchError::Invalid(text)) if text.contains("refused")));
    assert!(!registry.has("mirror/docker.io/library/debian", "manifests", &digest));
    let other = ImageName::parse("debian:nowhere").expect("valid");
    let missing = Upstream::new(&fake, &other, &[]).mirror(images.remote(), data.path()).await;
    assert!(matches!(missing, Err(FetchError::Refused { status: StatusCode::NOT_FOUND, .. })));
    fake.down = true;
    let away = Upstream::new(&fake, &name, &[]).mirror(images.remote(), data.path()).await;
    assert!(matches!(away, Err(FetchError::Unreachable(_))));
}
