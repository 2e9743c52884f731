//! Settings of one app: limits, processes, checks, builds, requests, networks, and its end.

mod build;
mod checks;
mod deploys;
mod life;
mod limits;
mod logs;
mod network;
mod processes;
mod proxy;

use super::app;
use crate::Ui;
use crate::action::Fields;
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::api::{AppInfo, PsReport};
use berth_model::deploy::{ChecksReport, DeployReport};
use berth_model::logs::{AppLogs, DrainInfo};
use berth_model::network::{AppNetworksInfo, NetworkInfo};
use berth_model::proxy_api::ProxyInfo;
use berth_model::{AppName, ProcessType};
use maud::{Markup, html};
use serde::Serialize;
use std::collections::BTreeSet;

/// The proxy's settings are the same for the platform.
pub(super) use proxy::{
    pages_card, set as set_proxy, set_dialog as proxy_dialog, set_page, table as proxy_table,
};

pub(crate) fn router() -> Router<Ui> {
    let base = "/ui/apps/{app}/settings";
    let at = |what: &str| format!("{base}/{what}");
    Router::new()
        .route(base, get(page))
        .route(&at("limits"), post(limits::set))
        .route(&at("limits/reset"), post(limits::reset))
        .route(&at("processes"), post(processes::set))
        .route(&at("checks"), post(checks::set))
        .route(&at("checks/retire"), post(checks::retire))
        .route(&at("checks/run"), post(checks::run))
        .route(&at("deploys"), post(deploys::set))
        .route(&at("logs"), post(logs::set))
        .route(&at("logs/drains"), post(logs::add_drain))
        .route(&at("logs/drains/remove"), post(logs::remove_drain))
        .route(&at("build"), post(build::set))
        .route(&at("proxy"), post(proxy::set_of_app))
        .route(&at("proxy/users"), post(proxy::users))
        .route(&at("proxy/pages"), post(proxy::pages))
        .route(&at("proxy/go-on"), post(proxy::go_on))
        .route(&at("maintenance"), post(proxy::maintenance))
        .route(&at("networks"), post(network::change))
        .route(&at("lock"), post(life::lock))
        .route(&at("unlock"), post(life::unlock))
        .route(&at("ttl"), post(life::ttl))
        .route(&at("rename"), post(life::rename))
        .route(&at("clone"), post(life::clone))
}

/// The page's address.
fn back(app: &AppName) -> String {
    format!("/ui/apps/{app}/settings")
}

/// Sections: id, words.
const SECTIONS: [(&str, &str); 9] = [
    ("limits", "Limits"),
    ("processes", "Processes"),
    ("checks", "Checks"),
    ("deploys", "Deploys"),
    ("build", "Build"),
    ("requests", "Requests"),
    ("networks", "Networks"),
    ("logs", "Logs"),
    ("life", "Name, lock, end"),
];

async fn page(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let title = format!("{app}: settings");
    visitor.show_of(&title, app, view).await
}

async fn view(visitor: &Visitor, app: &AppName) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let of = |what: &str| format!("/v1/apps/{app}/{what}");
    let ((info, head), ps, checks, proxy, networks, all, deploy, kept, drains) = tokio::try_join!(
        app::header(visitor, app),
        async { Ok(api.get::<PsReport>(&of("ps")).await?) },
        async { Ok(api.get::<ChecksReport>(&of("checks")).await?) },
        async { Ok(api.get::<ProxyInfo>(&of("proxy")).await?) },
        async { Ok(api.get::<AppNetworksInfo>(&of("networks")).await?) },
        async { Ok(api.get::<Vec<NetworkInfo>>("/v1/networks").await?) },
        async { Ok(api.get::<DeployReport>(&of("deploy")).await?) },
        async { Ok(api.get::<AppLogs>(&of("log-settings")).await?) },
        async { Ok(api.get::<Vec<DrainInfo>>("/v1/drains").await?) },
    )?;
    let types = types(&info, &checks);
    Ok(html! {
        (head)
        nav.on-this-page aria-label="On this page" { @for (id, words) in SECTIONS { a href={ "#" (id) } { (words) } } }
        (limits::section(&info, &types))
        (processes::section(&info, &ps, &types))
        (checks::section(app, &checks, &types))
        (deploys::section(&deploy))
        (build::section(&info))
        (proxy::section(app, &proxy))
        (network::section(app, &networks, &all))
        (logs::section(app, &kept, &drains))
        (life::section(&info))
    })
}

/// Every process type that the app has or had a word for.
fn types(info: &AppInfo, checks: &ChecksReport) -> BTreeSet<ProcessType> {
    info.formation.0.keys().chain(checks.checks.keys()).cloned().collect()
}

/// A change that has to be read from the form first.
async fn act<T: Serialize + Sync>(
    visitor: &Visitor,
    fields: &Fields,
    (method, path): (Method, &str),
    body: Result<T, Trouble>,
    then: &str,
) -> Response {
    match body {
        Ok(body) => fields.act(visitor, method, path, Some(&body), then).await,
        Err(trouble) => fields.refuse(&trouble),
    }
}
