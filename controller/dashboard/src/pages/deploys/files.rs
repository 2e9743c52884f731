//! Files of an app: sources and images that are sent from the visitor's machine, and what can be taken home.
//!
//! A file is the body of its request, as the page's script sends it (`data-uploads`), and goes on to the API as it comes: nothing is
//! kept here.

use super::back;
use crate::Ui;
use crate::action;
use crate::page::{attachment, dialog, opener};
use crate::pages::forms::choice;
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::api::Sbom;
use berth_model::{AppName, ReleaseVersion};
use http_body_util::BodyExt;
use maud::{Markup, html};
use serde::Deserialize;

/// What forms send, what it is, and where the API takes it.
const KINDS: [(&str, &str, &str); 2] = [
    ("sources", "Sources (.tar, .tar.gz, .zip)", "archive"),
    ("image", "An image (docker save)", "image/archive"),
];
/// Longest file, in bytes: what the API takes of images. It says itself where it takes less.
const LONGEST: u64 = 8 << 30;

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/deploys/upload", post(upload))
        .route("/ui/apps/{app}/releases/{version}/image", get(image))
        .route("/ui/apps/{app}/sbom", get(sbom))
}

/// The button, and its dialog.
pub(super) fn uploading(app: &AppName) -> Markup {
    let kinds = KINDS.map(|(kind, words, _)| (kind, words));
    html! {
        (opener("upload", "Upload a file", ""))
        (dialog("upload", "Upload a file", &format!("{}/upload", back(app)), "Deploy", &html! {
            (choice("upload-kind", "kind", "What it is", &kinds, "sources"))
            label for="upload-file" { "File" }
            input #upload-file type="file" required data-uploads=(LONGEST);
            p.hint { "Sources are built as a push would be, an image is deployed as it is. The same file again changes nothing." }
        }))
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Uploaded {
    kind: String,
}

async fn upload(
    visitor: Visitor,
    Path(app): Path<AppName>,
    Query(Uploaded { kind }): Query<Uploaded>,
    request: Request,
) -> Response {
    match KINDS.iter().find(|(own, ..)| *own == kind) {
        Some((.., to)) => {
            action::upload(&visitor, request, &format!("/v1/apps/{app}/{to}"), &back(&app)).await
        }
        None => Trouble::invalid(format!("{kind:?} is no kind of file")).into_response(),
    }
}

/// Where the image of a release is downloaded.
pub(super) fn image_href(app: &AppName, version: ReleaseVersion) -> String {
    format!("/ui/apps/{app}/releases/{}/image", version.0)
}

/// The image of a release as an archive for `docker load`.
async fn image(visitor: Visitor, Path((app, version)): Path<(AppName, String)>) -> Response {
    let version = match super::releases::parse(&version) {
        Ok(version) => version,
        Err(trouble) => return trouble.into_response(),
    };
    let path = format!("/v1/apps/{app}/image/archive?release={version}");
    match visitor.api.call(Method::GET, &path, None::<&()>).await {
        // What breaks off breaks the download off as well.
        Ok(answer) => {
            let name = format!("{app}-{version}.tar");
            attachment(&name, "application/x-tar", Body::new(answer.into_body().boxed()))
        }
        Err(error) => Trouble::from(error).into_response(),
    }
}

/// What is in the image that runs, as CycloneDX.
async fn sbom(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let found = visitor.api.get::<Sbom>(&format!("/v1/apps/{app}/sbom")).await;
    // The first is the image's own.
    match found.map(|sbom| sbom.documents.into_iter().next()) {
        Ok(Some(own)) => {
            let text = format!("{:#}\n", own.document);
            attachment(&format!("{app}.cdx.json"), "application/vnd.cyclonedx+json", Body::from(text))
        }
        Ok(None) => Trouble::not_found(format!("There is no bill of materials of {app}.")).into_response(),
        Err(error) => Trouble::from(error).into_response(),
    }
}
