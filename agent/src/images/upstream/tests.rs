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
        berth_model::image::architecture(),
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
        berth_model::image::architecture()
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

/// A registry that wants a login: shown to itself, or to where its tokens are.
struct Private {
    challenge: &'static str,
    asked: Mutex<Vec<(String, String)>>,
}

impl Fetch for Private {
    fn get<'a>(&'a self, url: &'a str, headers: HeaderMap) -> BoxFuture<'a, Result<Reply, FetchError>> {
        Box::pin(async move {
            let shown =
                headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
            self.asked.lock().expect("no panics").push((url.to_owned(), shown.to_owned()));
            let (status, body) = match (url.starts_with("https://auth.test/"), shown) {
                (true, "Basic bWU6czNjcmV0") => (StatusCode::OK, r#"{"access_token":"t0k"}"#),
                (false, "Bearer t0k") if self.challenge.starts_with("Bearer") => (StatusCode::OK, "{}"),
                (false, "Basic bWU6czNjcmV0") if self.challenge.starts_with("Basic") => {
                    (StatusCode::OK, "{}")
                }
                _ => (StatusCode::UNAUTHORIZED, ""),
            };
            let mut reply = Reply {
                status,
                headers: HeaderMap::new(),
                body: http_body_util::Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed(),
            };
            if status == StatusCode::UNAUTHORIZED {
                let challenge = HeaderValue::from_static(self.challenge);
                reply.headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Ok(reply)
        })
    }
}

const BEARER: &str = "Bearer realm=\"https://auth.test/token\",service=\"reg\"";
const BASIC: &str = "Basic realm=\"reg\", charset=\"UTF-8\"";

fn login(server: &str, password: &str) -> RegistryLogin {
    RegistryLogin {
        server: berth_model::RegistryServer::parse(server).expect("valid"),
        user: "me".to_owned(),
        password: password.to_owned(),
        plain_http: false,
    }
}

#[tokio::test]
async fn a_login_is_shown_where_the_registry_says() {
    let name = ImageName::parse("ghcr.io/owner/x").expect("valid");
    for challenge in [BEARER, BASIC] {
        let private = |challenge| Private { challenge, asked: Mutex::default() };
        let fetch = private(challenge);
        let logins = [login("docker.io", "other"), login("ghcr.io", "s3cret")];
        Upstream::new(&fetch, &name, &logins).check().await.expect("it is known");
        let asked = fetch.asked.lock().expect("no panics").clone();
        assert_eq!(asked[0], ("https://ghcr.io/v2/".to_owned(), String::new()), "not before it is asked for");
        assert!(asked.iter().all(|(url, _)| !url.contains("s3cret")), "{asked:?}");
        for logins in [&[login("ghcr.io", "wrong")][..], &[login("docker.io", "s3cret")], &[]] {
            let fetch = private(challenge);
            let refused = Upstream::new(&fetch, &name, logins).check().await.expect_err("it is not");
            assert!(matches!(refused, FetchError::Refused { status: StatusCode::UNAUTHORIZED, .. }));
            assert!(fetch.asked.lock().expect("no panics").len() <= 3, "it is not tried again and again");
            let text = refusal(&name, &refused, logins);
            assert!(text.contains("registry:login ghcr.io USER") && !text.contains("wrong"), "{text}");
        }
    }
}
