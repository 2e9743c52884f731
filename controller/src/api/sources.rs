//! What is not pushed: archives, images, other repositories, the same code once more.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use crate::errors::invalid;
use crate::git::from_image;
use crate::git::import::{self, Archive, Kind, Order};
use crate::platform::Platform;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use berth_model::AppName;
use berth_model::api::{ImageSource, Progress, SyncSource};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(archive))
        .routes(routes!(image))
        .routes(routes!(sync))
        .routes(routes!(rebuild))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ArchiveQuery {
    /// `tar`, `tar.gz` or `zip`; found out by itself if it is not given.
    kind: Option<String>,
    /// Where the archive is on the web. Else it is the body.
    url: Option<String>,
    /// Whose name the commit gets.
    name: Option<String>,
    /// Whose address the commit gets.
    email: Option<String>,
}

/// Deploys the files of an archive. The same files again change nothing.
#[utoipa::path(post, path = "/v1/apps/{app}/archive", tag = "apps", params(("app" = AppName, Path), ArchiveQuery),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn archive(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(app): Path<AppName>,
    Query(query): Query<ArchiveQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    let kind = match &query.kind {
        None => None,
        Some(name) => Some(Kind::parse(name).ok_or_else(|| {
            let shown: String = name.chars().take(40).collect();
            invalid(format!("{shown:?} is no kind of archive: use tar, tar.gz or zip"))
        })?),
    };
    let author = author(query.name, query.email)?;
    let archive = match query.url {
        Some(url) => Archive::web(url)?,
        None => Archive::Here(
            import::spool(&platform, request.into_body().into_data_stream(), import::MAX_ARCHIVE).await?,
        ),
    };
    let order = Order { app, by };
    Ok(progress(move |lines| async move {
        import::from_archive(&platform, platform.pushes(), &order, archive, kind, author, &lines).await
    }))
}

/// Deploys an image as it is. The same image again changes nothing.
#[utoipa::path(post, path = "/v1/apps/{app}/image", tag = "apps", params(("app" = AppName, Path)),
    request_body = ImageSource, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn image(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(app): Path<AppName>,
    Json(ImageSource { image, name, email }): Json<ImageSource>,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    let author = author(name, email)?;
    let order = Order { app, by };
    Ok(progress(move |lines| async move {
        from_image::from_image(&platform, platform.pushes(), &order, &image, author, &lines).await
    }))
}

pub(super) fn author(
    name: Option<String>,
    email: Option<String>,
) -> Result<Option<(String, String)>, Refusal> {
    match (name, email) {
        (None, None) => Ok(None),
        (Some(name), Some(email)) => person(name, email).map(Some),
        _ => Err(invalid("a name and an address of the author go together").into()),
    }
}

/// As git takes them (git-commit-tree(1)).
fn person(name: String, email: String) -> Result<(String, String), Refusal> {
    for text in [&name, &email] {
        let odd = |c: char| c.is_control() || matches!(c, '<' | '>');
        if text.trim().is_empty() || text.len() > 250 || text.contains(odd) {
            return Err(invalid(format!("{text:?} is no name or address of an author")).into());
        }
    }
    Ok((name, email))
}

/// Gets a branch, tag or commit of another repository, and deploys it.
#[utoipa::path(post, path = "/v1/apps/{app}/sync", tag = "apps", params(("app" = AppName, Path)),
    request_body = SyncSource, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn sync(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(app): Path<AppName>,
    Json(SyncSource { url, reference, deploy }): Json<SyncSource>,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    let order = Order { app, by };
    Ok(progress(move |lines| async move {
        import::sync(&platform, platform.pushes(), &order, &url, reference.as_deref(), deploy, &lines).await
    }))
}

/// Builds the deployed code once more, and deploys it: after a change of the stack or of what a build reads.
#[utoipa::path(post, path = "/v1/apps/{app}/rebuild", tag = "apps", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn rebuild(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    let order = Order { app, by };
    Ok(progress(
        move |lines| async move { import::rebuild(&platform, platform.pushes(), &order, &lines).await },
    ))
}
