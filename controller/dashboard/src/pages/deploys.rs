//! Deploys of an app: what is going on, its releases and builds, and what changes what serves.
//!
//! - [`now`]: what is under way, on trial or watched.
//! - [`releases`]: the list of them, and a page each.
//! - [`builds`]: the same, with what each build said.
//! - [`sources`]: deploys without a push.
//! - [`files`]: uploads and downloads.

mod builds;
mod files;
mod now;
mod releases;
mod sources;

pub(super) use now::standing;
pub(super) use sources::actions as other_sources;

use crate::Ui;
use crate::action::Fields;
use crate::page::{button, command, empty, opener};
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::extract::Query;
use axum::http::Method;
use axum::response::{Redirect, Response};
use axum::routing::{get, post};
use berth_model::api::{AppInfo, BuildInfo, ProcessSelection, Rollback};
use berth_model::deploy::{DeployReport, SetCanary};
use berth_model::processes::LockApp;
use berth_model::{AppName, ReleaseVersion};
use maud::{Markup, html};
use serde::Deserialize;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/deploys", get(page))
        .route("/ui/apps/{app}/deploys/rollback", post(rollback))
        .route("/ui/apps/{app}/deploys/rebuild", post(rebuild))
        .route("/ui/apps/{app}/deploys/restart", post(restart))
        .route("/ui/apps/{app}/deploys/promote", post(promote))
        .route("/ui/apps/{app}/deploys/abort", post(abort))
        .route("/ui/apps/{app}/deploys/share", post(share))
        .route("/ui/apps/{app}/deploys/lock", post(lock))
        .route("/ui/apps/{app}/deploys/unlock", post(unlock))
        .route("/ui/apps/{app}/releases", get(to_releases))
        .route("/ui/apps/{app}/builds", get(to_builds))
        .merge(builds::router())
        .merge(files::router())
        .merge(releases::router())
        .merge(sources::router())
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Shown {
    /// Every release, not only the newest; any value.
    all: String,
}

async fn page(visitor: Visitor, Path(app): Path<AppName>, Query(shown): Query<Shown>) -> Response {
    let title = format!("Deploys of {app}");
    visitor.show_of(&title, (app, !shown.all.is_empty()), view).await
}

/// The header of an app on a page below its deploys: the tab is theirs.
async fn header(visitor: &Visitor, app: &AppName) -> Result<(AppInfo, Markup), Trouble> {
    let mut visitor = visitor.clone();
    visitor.path = back(app);
    super::app::header(&visitor, app).await
}

async fn view(visitor: &Visitor, (app, all): &(AppName, bool)) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let of = |what: &str| format!("/v1/apps/{app}/{what}");
    let ((info, head), releases, builds, deploy, apps) = tokio::try_join!(
        header(visitor, app),
        async { Ok(api.get::<Vec<releases::Listed>>(&releases::wanted(app, *all)).await?) },
        async { Ok(api.get::<Vec<BuildInfo>>(&of("builds")).await?) },
        async { Ok(api.get::<DeployReport>(&of("deploy")).await?) },
        async { Ok(api.get::<Vec<AppInfo>>("/v1/apps").await?) },
    )?;
    Ok(html! {
        (head)
        section.first aria-labelledby="now" {
            div.heading { h2 #now { "Now" } div.actions { (actions(app, &info, &deploy)) } }
            (now::view(app, &deploy, &builds, &releases))
            p.dim { "Deploys are " (deploy.strategy.name()) ". " a href={ "/ui/apps/" (app) "/settings#deploys" } { "How they go" } }
        }
        section aria-labelledby="without-push" {
            div.heading {
                h2 #without-push { "Without a push" }
                div.actions {
                    (sources::actions(app))
                    @if info.release.is_some() { (sources::onto_opener()) }
                }
            }
            (sources::onto_dialog(app, &apps))
        }
        section aria-labelledby="releases" {
            div.heading { h2 #releases { "Releases" } }
            @if releases.is_empty() {
                (empty("Nothing was deployed yet. Push, and the build shows here while it runs.", &html! {
                    p { a href={ "/ui/apps/" (app) } { "How to point git at this app" } }
                }))
                (command("git push paas main"))
            } @else { (releases::list(app, &releases, *all)) }
        }
        section aria-labelledby="builds" {
            div.heading { h2 #builds { "Builds" } }
            @if builds.is_empty() { p.dim { "None yet." } } @else { (builds::list(app, &builds)) }
        }
        (releases::rollback_dialog(app))
    })
}

/// What can be done to the app as a whole.
fn actions(app: &AppName, info: &AppInfo, deploy: &DeployReport) -> Markup {
    let at = |what: &str| format!("/ui/apps/{app}/deploys/{what}");
    let is_locked = info.life.as_ref().is_some_and(|life| life.lock.is_some());
    html! {
        @if info.release.is_some() {
            (opener("rebuild", "Rebuild", ""))
            (button(&at("restart"), "Restart", "", &[]))
            (now::canary_next(app, deploy))
        }
        @if is_locked { (button(&at("unlock"), "Unlock deploys", "primary", &[])) }
        @else { (opener("lock", "Lock deploys", "")) }
        (crate::page::dialog("rebuild", "Rebuild", &at("rebuild"), "Rebuild", &html! {
            p { "The code that is deployed is built once more, and deployed. That takes up a new base image, new versions of what the build fetches, and settings of the build." }
            p.hint { "What serves now goes on until the new release is healthy." }
        }))
        (crate::page::dialog("lock", "Lock deploys", &at("lock"), "Lock", &html! {
            p { "Pushes, rollbacks and rebuilds are refused until it is unlocked. What runs goes on." }
            label for="lock-reason" { "Why (optional)" }
            input #lock-reason name="reason" maxlength="200" autocomplete="off" placeholder="until the migration is done";
        }))
    }
}

/// The begin of a commit.
fn commit(rev: &str) -> Markup {
    html! { code title=(rev) { (rev.get(..12).unwrap_or(rev)) } }
}

/// The begin of an image's digest.
fn image(name: &str) -> Markup {
    let digest = name.rsplit_once("sha256:").map_or(name, |(_, digest)| digest);
    html! { code title=(name) { (digest.get(..12).unwrap_or(digest)) } }
}

fn back(app: &AppName) -> String {
    format!("/ui/apps/{app}/deploys")
}

async fn to_releases(Path(app): Path<AppName>) -> Redirect {
    Redirect::to(&format!("{}#releases", back(&app)))
}

async fn to_builds(Path(app): Path<AppName>) -> Redirect {
    Redirect::to(&format!("{}#builds", back(&app)))
}

async fn rollback(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    // Without a release: the one before.
    let to = fields.some("to").map(|_| fields.parsed::<ReleaseVersion>("to", "release"));
    let to = match to.transpose() {
        Ok(to) => to,
        Err(trouble) => return fields.refuse(&trouble),
    };
    let body = Rollback { to, keep_config: fields.is_on("keep_config") };
    post_to(&visitor, &app, "rollback", &body, &fields).await
}

async fn rebuild(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    post_to(&visitor, &app, "rebuild", &serde_json::json!({}), &fields).await
}

async fn restart(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    post_to(&visitor, &app, "restart", &ProcessSelection::default(), &fields).await
}

async fn promote(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    post_to(&visitor, &app, "deploy/promote", &serde_json::json!({}), &fields).await
}

async fn abort(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    post_to(&visitor, &app, "deploy/abort", &serde_json::json!({}), &fields).await
}

async fn share(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    // Without a share: the next deploy is no canary after all.
    let what = "share: write a whole number of percent, 1 to 99";
    let percent = fields.some("percent").map(|_| fields.parsed::<u8>("percent", what));
    let percent = match percent.transpose() {
        Ok(percent) => percent,
        Err(trouble) => return fields.refuse(&trouble),
    };
    post_to(&visitor, &app, "deploy/canary", &SetCanary { percent }, &fields).await
}

async fn lock(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = LockApp { reason: fields.some("reason") };
    fields.act(&visitor, Method::PUT, &format!("/v1/apps/{app}/lock"), Some(&body), &back(&app)).await
}

async fn unlock(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    fields.act(&visitor, Method::DELETE, &format!("/v1/apps/{app}/lock"), None::<&()>, &back(&app)).await
}

async fn post_to(
    visitor: &Visitor,
    app: &AppName,
    what: &str,
    body: &(impl serde::Serialize + Sync),
    fields: &Fields,
) -> Response {
    fields.act(visitor, Method::POST, &format!("/v1/apps/{app}/{what}"), Some(body), &back(app)).await
}
