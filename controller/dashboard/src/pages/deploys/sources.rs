//! Deploys without a push: another repository, an image, a file, and what runs here on another app.

use super::back;
use crate::Ui;
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::pages::forms::{choice, line, needed};
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::post;
use berth_model::AppName;
use berth_model::api::{AppInfo, ImageSource, SyncDeploys, SyncSource};
use berth_model::deploy::PromoteTo;
use maud::{Markup, html};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/deploys/repository", post(repository))
        .route("/ui/apps/{app}/deploys/image", post(image))
        .route("/ui/apps/{app}/deploys/onto", post(onto))
}

/// The buttons, and their dialogs.
pub(in crate::pages) fn actions(app: &AppName) -> Markup {
    let at = |what: &str| format!("{}/{what}", back(app));
    html! {
        (opener("deploy-repository", "Deploy a repository", ""))
        (opener("deploy-image", "Deploy an image", ""))
        (super::files::uploading(app))
        (dialog("deploy-repository", "Deploy a repository", &at("repository"), "Deploy", &html! {
            (needed("repository-url", "url", "Address", "", "https://github.com/owner/repository. It is fetched once; later pushes there deploy nothing here."))
            (line("repository-ref", "reference", "Branch, tag or commit", "", "Empty: what the repository takes by itself."))
        }))
        (dialog("deploy-image", "Deploy an image", &at("image"), "Deploy",
            &needed("image-name", "image", "Image", "", "As docker pull takes it: nginx:1.27, ghcr.io/owner/image:tag. Logins for registries are at Settings.")))
    }
}

/// Opens [`onto_dialog`].
pub(super) fn onto_opener() -> Markup {
    opener("deploy-onto", "Deploy on another app", "")
}

/// Asks which app gets what this one runs.
pub(super) fn onto_dialog(app: &AppName, others: &[AppInfo]) -> Markup {
    let names = others.iter().map(|one| one.name.as_str()).filter(|name| *name != app.as_str());
    let names: Vec<(&str, &str)> = names.map(|name| (name, name)).collect();
    dialog(
        "deploy-onto",
        "Deploy on another app",
        &format!("{}/onto", back(app)),
        "Deploy",
        &html! {
            p { "The other app gets the image that " b { (app) } " runs, and keeps its own config, domains and counts." }
            @if names.is_empty() { p.notice { "There is no other app yet." } }
            @else { (choice("onto-app", "to", "Other app", &names, "")) }
        },
    )
}

async fn repository(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = SyncSource {
        url: fields.text("url").to_owned(),
        reference: fields.some("reference"),
        deploy: SyncDeploys::Always,
    };
    fields.act(&visitor, Method::POST, &format!("/v1/apps/{app}/sync"), Some(&body), &back(&app)).await
}

async fn image(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = ImageSource { image: fields.text("image").to_owned(), name: None, email: None };
    fields.act(&visitor, Method::POST, &format!("/v1/apps/{app}/image"), Some(&body), &back(&app)).await
}

async fn onto(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    match AppName::parse(fields.text("to")) {
        Ok(to) => {
            let (path, then) = (format!("/v1/apps/{app}/promote"), back(&to));
            fields.act(&visitor, Method::POST, &path, Some(&PromoteTo { to }), &then).await
        }
        Err(error) => fields.refuse(&Trouble::invalid(error.to_string())),
    }
}
