//! A registry in memory, as far as an agent needs one, and archives made in code.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(unreachable_pub, reason = "this file is a module of several test programs")]

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode, header};
use berth_model::Digest;
use berth_model::image::ImageRef;
use berth_wire::{Client, Endpoint};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// What the registry has, and what it was asked.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By `repository/kind/reference`.
    objects: HashMap<String, Bytes>,
    log: Vec<String>,
}

impl Registry {
    /// Serves it on a socket in `dir`.
    pub fn serve(&self, dir: &Path) -> Client {
        let path = dir.join("registry.sock");
        let listener = berth_wire::bind_unix(&path, 0o600).expect("a socket");
        let router = axum::Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(Endpoint::Unix(path))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics while it holds this")
    }

    /// Stores bytes under a digest that may be a lie.
    pub fn put(&self, repository: &str, kind: &str, digest: &Digest, bytes: impl Into<Bytes>) {
        self.inner().objects.insert(format!("{repository}/{kind}/{digest}"), bytes.into());
    }

    /// Lets a tag mean an image of the repository.
    #[allow(dead_code, reason = "not every test has tags")]
    pub fn tag(&self, image: &ImageRef, tag: &str) {
        let manifest = self.get(&image.repository, "manifests", &image.digest).expect("the image is there");
        self.inner().objects.insert(format!("{}/manifests/{tag}", image.repository), manifest);
    }

    pub fn has(&self, repository: &str, kind: &str, digest: &Digest) -> bool {
        self.inner().objects.contains_key(&format!("{repository}/{kind}/{digest}"))
    }

    pub fn get(&self, repository: &str, kind: &str, digest: &Digest) -> Option<Bytes> {
        self.inner().objects.get(&format!("{repository}/{kind}/{digest}")).cloned()
    }

    /// `METHOD /path` of every request since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().log)
    }

    /// Makes an image of these layers: (blob, diffID).
    pub fn image(&self, repository: &str, layers: &[(Vec<u8>, Digest)]) -> ImageRef {
        let described: Vec<_> = layers.iter().map(|(blob, _)| (Digest::of(blob), blob.len())).collect();
        for (blob, _) in layers {
            self.put(repository, "blobs", &Digest::of(blob), blob.clone());
        }
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, diff_id)| diff_id.clone()).collect();
        self.image_of(repository, &described, &diff_ids)
    }

    /// The same with every claim of the manifest in the caller's hand.
    pub fn image_of(&self, repository: &str, layers: &[(Digest, usize)], diff_ids: &[Digest]) -> ImageRef {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": ["PATH=/bin"], "User": "1000", "WorkingDir": "/app" },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let digest = Digest::of(config.as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|(digest, size)| serde_json::json!({ "mediaType": TAR, "digest": digest, "size": size }))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len() },
        })
        .to_string();
        self.put(repository, "blobs", &digest, config);
        let reference =
            ImageRef { repository: repository.to_owned(), digest: Digest::of(manifest.as_bytes()) };
        self.put(repository, "manifests", &reference.digest, manifest);
        reference
    }
}

async fn answer(State(registry): State<Registry>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches("/v2/").to_owned();
    registry.inner().log.push(format!("{} {}", parts.method, parts.uri));
    let reply = |status: StatusCode, body: Bytes| {
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response
    };
    let body = axum::body::to_bytes(body, 1 << 30).await.expect("a whole body");
    let query: HashMap<String, String> = parts
        .uri
        .query()
        .unwrap_or("")
        .split('&')
        .filter_map(|pair| pair.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())))
        .collect();
    match parts.method {
        Method::GET | Method::HEAD => match registry.inner().objects.get(&path) {
            Some(bytes) if parts.method == Method::GET => reply(StatusCode::OK, bytes.clone()),
            Some(bytes) => {
                let mut found = reply(StatusCode::OK, Bytes::new());
                let digest = Digest::of(bytes).to_string().parse().expect("a digest is a header value");
                found.headers_mut().insert("docker-content-digest", digest);
                found
            }
            None => reply(StatusCode::NOT_FOUND, Bytes::from_static(b"no such thing")),
        },
        Method::POST => {
            let repository = path.trim_end_matches('/').trim_end_matches("/blobs/uploads");
            if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
                let mut inner = registry.inner();
                let found = inner.objects.get(&format!("{from}/blobs/{digest}")).cloned();
                return match found {
                    Some(bytes) => {
                        inner.objects.insert(format!("{repository}/blobs/{digest}"), bytes);
                        reply(StatusCode::CREATED, Bytes::new())
                    }
                    None => reply(StatusCode::ACCEPTED, Bytes::new()),
                };
            }
            let digest = Digest::parse(query.get("digest").expect("only whole uploads")).expect("a digest");
            assert_eq!(Digest::of(&body), digest, "the agent pushes what it says");
            registry.put(repository, "blobs", &digest, body);
            reply(StatusCode::CREATED, Bytes::new())
        }
        Method::PUT => {
            let (repository, reference) = path.split_once("/manifests/").expect("only manifests are put");
            let document: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let kind = parts.headers.get(header::CONTENT_TYPE).expect("it has one");
            assert_eq!(kind.to_str().ok(), document["mediaType"].as_str().or(Some(MANIFEST)));
            let layers = document["layers"].as_array().expect("layers").iter().chain([&document["config"]]);
            for descriptor in layers {
                let digest = Digest::parse(descriptor["digest"].as_str().expect("text")).expect("a digest");
                assert!(
                    registry.has(repository, "blobs", &digest),
                    "{digest} was not pushed before its manifest"
                );
            }
            registry.put(repository, "manifests", &Digest::of(&body), body.clone());
            registry.inner().objects.insert(format!("{repository}/manifests/{reference}"), body);
            reply(StatusCode::CREATED, Bytes::new())
        }
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
    }
}

/// One entry of an archive; anything goes.
#[derive(Clone)]
pub struct Item {
    pub path: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn item(kind: u8, path: &str) -> Item {
    Item {
        path: path.into(),
        kind,
        link: Vec::new(),
        content: Vec::new(),
        mode: 0o755,
        uid: 0,
        pax: Vec::new(),
    }
}

pub fn file(path: &str, content: &str) -> Item {
    Item { content: content.into(), mode: 0o644, ..item(b'0', path) }
}

pub fn dir(path: &str) -> Item {
    item(b'5', path)
}

pub fn symlink(path: &str, target: &str) -> Item {
    Item { link: target.into(), ..item(b'2', path) }
}

pub fn hard_link(path: &str, target: &str) -> Item {
    Item { link: target.into(), ..item(b'1', path) }
}

pub fn with_pax(mut item: Item, key: &str, value: &[u8]) -> Item {
    item.pax.push((key.into(), value.to_vec()));
    item
}

/// A tar of these entries, with no rule of its own.
pub fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        let mut records = Vec::new();
        for (key, value) in &item.pax {
            let body = key.len() + value.len() + 3;
            let length = (1..).map(|digits| body + digits).find(|all| all.to_string().len() + body == *all);
            write!(records, "{} ", length.expect("some length fits")).expect("memory");
            records.extend_from_slice(&[key, b"=".as_slice(), value, b"\n"].concat());
        }
        if !records.is_empty() {
            block(&mut out, b"pax", b'x', b"", records.len() as u64, 0o644, 0);
            padded(&mut out, &records);
        }
        block(&mut out, &item.path, item.kind, &item.link, item.content.len() as u64, item.mode, item.uid);
        padded(&mut out, &item.content);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// A header; `size` may lie.
pub fn block(out: &mut Vec<u8>, path: &[u8], kind: u8, link: &[u8], size: u64, mode: u32, uid: u64) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    if path.len() > 100 {
        let mut name = path.to_vec();
        name.push(0);
        block(out, b"././@LongLink", b'L', b"", name.len() as u64, 0, 0);
        padded(out, &name);
    }
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{uid:07o}").as_bytes());
    put(116, format!("{uid:07o}").as_bytes());
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
}

/// A plain layer: (blob, diffID).
pub fn plain(items: &[Item]) -> (Vec<u8>, Digest) {
    let tar = tar(items);
    let digest = Digest::of(&tar);
    (tar, digest)
}

/// The same as zstd.
pub fn zstd(items: &[Item]) -> (Vec<u8>, Digest) {
    let tar = tar(items);
    (zstd::encode_all(tar.as_slice(), 3).expect("memory"), Digest::of(&tar))
}

/// The same as gzip, in two members.
pub fn gzip(items: &[Item]) -> (Vec<u8>, Digest) {
    let tar = tar(items);
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let half = tar.len() / 2;
    ([member(&tar[..half]), member(&tar[half..])].concat(), Digest::of(&tar))
}

/// Hashes a large layer without keeping it.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
