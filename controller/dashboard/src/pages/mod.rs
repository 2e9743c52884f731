//! The pages, one module each. A page is a function from the API's answers to HTML; what is asked for, it asks for itself.

mod access;
mod activity;
mod app;
mod app_settings;
mod apps;
mod charts;
mod config;
mod deploys;
mod domains;
mod forms;
mod images;
mod jobs;
mod logs;
mod networks;
mod nodes;
mod samples;
mod settings;
mod storage;
mod terminal;

use crate::Ui;
use crate::session::Visitor;
use crate::trouble::Trouble;
use axum::Router;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get};

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/", get(async || Redirect::to("/ui/apps")))
        .route("/ui", get(async || Redirect::to("/ui/apps")))
        .route("/ui/", get(async || Redirect::to("/ui/apps")))
        .route("/ui/{*rest}", any(nowhere))
        .merge(access::router())
        .merge(activity::router())
        .merge(app::router())
        .merge(app_settings::router())
        .merge(apps::router())
        .merge(charts::router())
        .merge(config::router())
        .merge(deploys::router())
        .merge(domains::router())
        .merge(images::router())
        .merge(jobs::router())
        .merge(logs::router())
        .merge(networks::router())
        .merge(nodes::router())
        .merge(samples::router())
        .merge(settings::router())
        .merge(storage::router())
        .merge(terminal::router())
}

/// No page has this address.
async fn nowhere(_: Visitor) -> Response {
    Trouble::not_found("The address may be old, or mistyped.").into_response()
}
