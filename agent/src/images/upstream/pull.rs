//! One image brought here, and in words why not.
//!
//! In: its name, the logins that may be used. Out: where it is in Berth's own registry, or what its developer can do.

use super::{FetchError, Https, Upstream};
use crate::images::Images;
use berth_model::image::ImageRef;
use berth_model::{ImageName, RegistryLogin};
use http::StatusCode;
use std::path::Path;

/// The image that an administrator loaded under this name, else that of its own registry as it is there now, brought into
/// `mirror/`. A digest that is here is not asked for again. `scratch` is a directory for downloads.
pub(crate) async fn pull(
    images: &Images,
    name: &ImageName,
    logins: &[RegistryLogin],
    scratch: &Path,
) -> Result<ImageRef, FetchError> {
    let (remote, repository) = (images.remote(), name.place("images"));
    let loaded = match &name.digest {
        Some(digest) => remote.has(&repository, "manifests", digest).await?.then(|| digest.clone()),
        None => remote.tag(&repository, &name.tag).await?,
    };
    if let Some(digest) = loaded {
        return Ok(ImageRef { repository, digest });
    }
    let repository = name.place("mirror");
    if let Some(digest) = &name.digest
        && remote.has(&repository, "manifests", digest).await?
    {
        return Ok(ImageRef { repository, digest: digest.clone() });
    }
    let https = Https::new(logins).await?;
    Upstream::new(&https, name, logins).mirror(remote, scratch).await
}

/// Whether `login` is one that its registry knows.
pub(crate) async fn check(login: &RegistryLogin) -> Result<(), FetchError> {
    let logins = std::slice::from_ref(login);
    let https = Https::new(logins).await?;
    let name = ImageName {
        registry: login.server.as_str().to_owned(),
        repository: String::new(),
        tag: String::new(),
        digest: None,
    };
    Upstream::new(&https, &name, logins).check().await
}

/// Why `name` cannot be had, and what to do about it.
pub(crate) fn refusal(name: &ImageName, error: &FetchError, logins: &[RegistryLogin]) -> String {
    let registry = &name.registry;
    let login = logins.iter().find(|login| login.server.as_str() == registry && !login.user.is_empty());
    let said = format!("the image {name} cannot be had from {registry}: {error}");
    match (error, login) {
        (FetchError::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }, None) => {
            format!(
                "{said}. Either there is no such image, or it needs a login: berth registry:login {registry} USER --password-stdin"
            )
        }
        (
            FetchError::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. },
            Some(login),
        ) => {
            format!(
                "{said}. There is no such image, or the login of {} may not pull it; with another one: berth registry:login \
                 {registry} USER --password-stdin",
                login.user
            )
        }
        (FetchError::Refused { status: StatusCode::NOT_FOUND, .. }, _) => {
            format!("{said}. Check its name and tag")
        }
        (FetchError::Invalid(text), _)
            if text.contains("is not https://") || text.contains("is the node itself") =>
        {
            format!(
                "{said}. A registry on this machine, or without TLS, must be allowed first: berth registry:login \
                 --plain-http {registry}"
            )
        }
        _ => said,
    }
}
