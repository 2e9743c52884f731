//! Images from other registries (OCI distribution-spec 1.1, Docker's token authentication, RFC 7617 Basic), anonymously
//! or with a login.
//!
//! In: an image's name, a login. Out: the same image in Berth's own registry, under `mirror/`, byte for byte: every manifest,
//! config and layer is verified by its digest before it is taken.

mod https;
mod pull;

pub(crate) use https::Https;
pub(crate) use pull::{check, pull, refusal};

use super::decode::MAX_COMPRESSED;
use super::error::ImageError;
use super::oci::{self, ACCEPTED, Manifest};
use super::pack::TemporaryFile;
use super::remote::Remote;
use berth_model::image::ImageRef;
use berth_model::{Digest, ImageName, RegistryLogin};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const INDEXES: &str =
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Largest manifest, config or token.
const MAX_DOCUMENT: usize = 4 << 20;
/// Longest silence in the middle of a download.
const SILENCE: Duration = Duration::from_secs(60);

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The other side does not answer: a copy from earlier will do.
    #[error("{0}")]
    Unreachable(String),
    /// It said no.
    #[error("it answered {status}{text}")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// What it said besides.
        text: String,
    },
    /// What came is not what was asked for, or must not be asked for.
    #[error("{0}")]
    Invalid(String),
    /// Berth's own registry, or the disk.
    #[error(transparent)]
    Own(#[from] ImageError),
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BoxBody<Bytes, io::Error>,
}

/// What gets URLs. Tests have one without a network.
pub(crate) trait Fetch: Send + Sync {
    /// Follows redirects.
    fn get<'a>(&'a self, url: &'a str, headers: HeaderMap) -> BoxFuture<'a, Result<Reply, FetchError>>;
}

/// One registry, for one image.
pub(crate) struct Upstream<'a, F: ?Sized> {
    fetch: &'a F,
    name: &'a ImageName,
    login: Option<&'a RegistryLogin>,
    base: String,
    token: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a, F: Fetch + ?Sized> Upstream<'a, F> {
    /// Of `logins`, the one for this registry is used.
    pub(crate) fn new(fetch: &'a F, name: &'a ImageName, logins: &'a [RegistryLogin]) -> Self {
        let login = logins.iter().find(|login| login.server.as_str() == name.registry);
        let host = if name.registry == "docker.io" { "registry-1.docker.io" } else { &name.registry };
        let scheme = if login.is_some_and(|login| login.plain_http) { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2");
        Self { fetch, name, login: login.filter(|login| !login.user.is_empty()), base, token: None }
    }

    /// Whether the registry knows the login: `GET /v2/` is for that (distribution-spec end-1).
    pub(crate) async fn check(mut self) -> Result<(), FetchError> {
        self.get("/", "*/*").await.map(drop)
    }

    /// Brings the image into `own`, unless it is there as it is now. `scratch` is a directory for downloads.
    pub(crate) async fn mirror(mut self, own: &Remote, scratch: &Path) -> Result<ImageRef, FetchError> {
        let wanted = self.name.digest.as_ref().map_or(self.name.tag.clone(), ToString::to_string);
        let mut bytes = self.document("manifests", &wanted, self.name.digest.clone()).await?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| FetchError::Invalid(format!("its manifest is malformed: {error}")))?;
        if !index.manifests.is_empty() {
            let architecture = berth_model::image::architecture();
            let fits = |listed: &&Listed| {
                let platform = listed.platform.as_ref();
                platform.is_some_and(|found| found.os == "linux" && found.architecture == architecture)
            };
            let listed = index.manifests.iter().find(fits).ok_or_else(|| {
                FetchError::Invalid(format!(
                    "it has no variant for linux/{architecture}, which this machine is"
                ))
            })?;
            let digest = listed.digest.clone();
            bytes = self.document("manifests", digest.as_str(), Some(digest.clone())).await?;
        }
        let digest = Digest::of(&bytes);
        let manifest = oci::parse_manifest(&digest, &bytes)?;
        let repository = self.name.place("mirror");
        let image = ImageRef { repository: repository.clone(), digest };
        if !own.has(&repository, "manifests", &image.digest).await? {
            self.blobs(&manifest, own, &repository, scratch).await?;
        }
        // The tag too: it keeps the image, and is what is used when this registry cannot be reached.
        let kind = manifest.media_type.clone().unwrap_or_else(|| oci::MANIFEST_TYPE.to_owned());
        // An image that was asked for by its digest says nothing about what a tag means.
        let tag = self
            .name
            .digest
            .as_ref()
            .map_or(self.name.tag.clone(), |digest| format!("sha256-{}", digest.hex()));
        if own.tag(&repository, &tag).await?.as_ref() != Some(&image.digest) {
            own.put_manifest_as(&repository, &tag, &kind, bytes.to_vec()).await?;
        }
        Ok(image)
    }

    async fn blobs(
        &mut self,
        manifest: &Manifest,
        own: &Remote,
        repository: &str,
        scratch: &Path,
    ) -> Result<(), FetchError> {
        let config =
            self.document("blobs", manifest.config.digest.as_str(), Some(manifest.config.digest.clone()));
        let config = config.await?;
        own.push_bytes(repository, &manifest.config.digest, config.to_vec()).await?;
        for layer in &manifest.layers {
            if own.has(repository, "blobs", &layer.digest).await? {
                continue;
            }
            if layer.size > MAX_COMPRESSED {
                return Err(FetchError::Invalid(format!("layer {} is larger than 2 GiB", layer.digest)));
            }
            let reply = self.get(&format!("blobs/{}", layer.digest), ACCEPTED).await?;
            let file = TemporaryFile(scratch.join(format!("pull-{}", super::layers::random())));
            let (found, size) = save(reply.body, &file.0, layer.size).await?;
            if found != layer.digest || size != layer.size {
                return Err(FetchError::Invalid(format!(
                    "layer {} came as {found} with {size} bytes; it is refused",
                    layer.digest
                )));
            }
            own.push_file(repository, &layer.digest, layer.size, &file.0).await?;
        }
        Ok(())
    }

    /// A manifest or config; verified if its digest is known.
    async fn document(
        &mut self,
        kind: &str,
        name: &str,
        digest: Option<Digest>,
    ) -> Result<Bytes, FetchError> {
        let reply = self.get(&format!("{kind}/{name}"), &format!("{INDEXES}, {ACCEPTED}")).await?;
        let said = reply.headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        let expected = digest.or_else(|| said.and_then(|text| Digest::parse(text).ok()));
        let bytes = collect(reply.body).await?;
        let found = Digest::of(&bytes);
        match expected {
            Some(expected) if expected != found => {
                Err(FetchError::Invalid(format!("{kind} {expected} came as {found}; it is refused")))
            }
            _ => Ok(bytes),
        }
    }

    /// One request below the repository, and once more with what the registry asks for.
    async fn get(&mut self, path: &str, accept: &str) -> Result<Reply, FetchError> {
        let url = match path {
            "/" => format!("{}/", self.base),
            path => format!("{}/{}/{path}", self.base, self.name.repository),
        };
        let reply = self.fetch.get(&url, self.headers(accept)?).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return checked(reply).await;
        }
        // A token that was good at first may have expired in a long pull: then there is a new one.
        let shown = self.token.take();
        let Some(value) = self.authorization(&reply.headers, path == "/").await? else {
            return checked(reply).await;
        };
        if shown.is_some_and(|shown| shown == value) {
            return checked(reply).await;
        }
        self.token = Some(value);
        checked(self.fetch.get(&url, self.headers(accept)?).await?).await
    }

    /// What to show after a 401, by its challenges (RFC 9110 §11.6.1): a token from where they say (Docker's token
    /// authentication), or the login itself. `None` if there is nothing to show.
    async fn authorization(
        &self,
        headers: &HeaderMap,
        only_base: bool,
    ) -> Result<Option<HeaderValue>, FetchError> {
        let scope = if only_base { "" } else { &self.name.repository };
        let challenges =
            || headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        if let Some(mut url) = challenges().find_map(|text| token_url(text, scope)) {
            let mut headers = HeaderMap::new();
            if let Some(login) = self.login {
                headers.insert(header::AUTHORIZATION, basic(login)?);
                url.push_str(&format!("&account={}", quoted(&login.user)));
            }
            let reply = checked(self.fetch.get(&url, headers).await?).await?;
            let token: Token = serde_json::from_slice(&collect(reply.body).await?)
                .map_err(|error| FetchError::Invalid(format!("its token is malformed: {error}")))?;
            let token = token.token.or(token.access_token).unwrap_or_default();
            return secret(&format!("Bearer {token}"), "its token is malformed").map(Some);
        }
        let wants_basic = challenges().any(|text| {
            text.split([' ', ',']).next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
        });
        self.login.filter(|_| wants_basic).map(basic).transpose()
    }

    fn headers(&self, accept: &str) -> Result<HeaderMap, FetchError> {
        let mut headers = HeaderMap::new();
        let accept = HeaderValue::from_str(accept).map_err(|error| FetchError::Invalid(error.to_string()))?;
        headers.insert(header::ACCEPT, accept);
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        Ok(headers)
    }
}

/// A header that is shown to nobody else.
fn secret(text: &str, wrong: &str) -> Result<HeaderValue, FetchError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| FetchError::Invalid(wrong.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(login: &RegistryLogin) -> Result<HeaderValue, FetchError> {
    use base64::Engine as _;
    let words = format!("{}:{}", login.user, login.password);
    let words = base64::engine::general_purpose::STANDARD.encode(words);
    secret(&format!("Basic {words}"), "the login cannot be sent")
}

/// The answer if it is a good one.
pub(crate) async fn checked(reply: Reply) -> Result<Reply, FetchError> {
    let status = reply.status;
    if status.is_success() {
        return Ok(reply);
    }
    let busy = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let text = match collect(reply.body).await {
        Ok(bytes) if !bytes.is_empty() => {
            format!(": {}", String::from_utf8_lossy(&bytes).chars().take(200).collect::<String>().trim())
        }
        _ => String::new(),
    };
    match busy {
        true => Err(FetchError::Unreachable(format!("it answered {status}{text}"))),
        false => Err(FetchError::Refused { status, text }),
    }
}

async fn collect(body: BoxBody<Bytes, io::Error>) -> Result<Bytes, FetchError> {
    let collected = tokio::time::timeout(SILENCE, Limited::new(body, MAX_DOCUMENT).collect()).await;
    let collected = collected.map_err(|_| FetchError::Unreachable("its answer broke off".to_owned()))?;
    Ok(collected
        .map_err(|error| FetchError::Unreachable(format!("its answer broke off: {error}")))?
        .to_bytes())
}

/// Writes a body of at most `limit` bytes to a new file.
pub(crate) async fn save(
    mut body: BoxBody<Bytes, io::Error>,
    path: &Path,
    limit: u64,
) -> Result<(Digest, u64), FetchError> {
    let disk = |error| FetchError::Own(ImageError::disk("write", path)(error));
    let mut file = tokio::fs::File::create_new(path).await.map_err(disk)?;
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| FetchError::Unreachable("the download stopped".to_owned()))?;
        let Some(frame) = frame else { break };
        let frame =
            frame.map_err(|error| FetchError::Unreachable(format!("the download broke off: {error}")))?;
        let Ok(bytes) = frame.into_data() else { continue };
        size += bytes.len() as u64;
        if size > limit {
            return Err(FetchError::Invalid(format!("the download has more than {limit} bytes")));
        }
        hash.update(&bytes);
        file.write_all(&bytes).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    Ok((Digest::from_hash(hash.finalize().into()), size))
}

/// Where `Bearer realm="…",service="…",scope="…"` says that tokens are; https only, which [`Fetch`] sees to. Without a
/// repository no scope is asked for, but what the registry says by itself.
fn token_url(challenge: &str, repository: &str) -> Option<String> {
    let (scheme, rest) = challenge.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let field = |name: &str| {
        let at = rest.find(&format!("{name}=\""))? + name.len() + 2;
        rest[at..].split('"').next()
    };
    let realm = field("realm").filter(|realm| realm.contains("://"))?;
    let default = match repository {
        "" => String::new(),
        repository => format!("repository:{repository}:pull"),
    };
    let mut url = format!(
        "{realm}{}scope={}",
        if realm.contains('?') { '&' } else { '?' },
        quoted(field("scope").unwrap_or(&default))
    );
    if let Some(service) = field("service") {
        url.push_str(&format!("&service={}", quoted(service)));
    }
    Some(url)
}

fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b);
    let byte = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests;
