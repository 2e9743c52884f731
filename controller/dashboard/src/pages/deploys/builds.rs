//! Builds of an app: the list, and a page each with what the build says, while it says it.

use super::{back, commit, header, image};
use crate::Ui;
use crate::action::Fields;
use crate::assets::href as asset;
use crate::pages::logs::{as_file, pass_on, plain, screen};
use crate::session::Visitor;
use crate::show::{self, duration, moment, state};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::api::{BuildInfo, BuildStatus, Progress};
use berth_model::{AppName, BuildId};
use maud::{Markup, html};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/builds/{build}", get(page))
        .route("/ui/apps/{app}/builds/{build}/log", get(log))
        .route("/ui/apps/{app}/builds/{build}/download", get(download))
        .route("/ui/apps/{app}/builds/{build}/cancel", post(stop))
}

/// The page of a build.
pub(super) fn href(app: &AppName, build: &BuildInfo) -> String {
    format!("/ui/apps/{app}/builds/{}", build.id)
}

/// The end of its id, which names it as well.
pub(super) fn short(build: &BuildInfo) -> &str {
    let id = build.id.as_str();
    id.rsplit_once('-').map_or(id, |(_, end)| end)
}

/// How long it took.
fn took(build: &BuildInfo) -> Option<String> {
    let ms = build.finished_ms?.saturating_sub(build.started_ms);
    Some(duration(u64::try_from(ms).unwrap_or(0) / 1000))
}

pub(super) fn list(app: &AppName, builds: &[BuildInfo]) -> Markup {
    html! {
        div.wide { table.cards.builds {
            thead { tr {
                th scope="col" { "Build" } th scope="col" { "State" } th scope="col" { "Of" } th scope="col" { "Release" }
                th scope="col" { "Who" } th scope="col" { "When" } th.n scope="col" { "Took" } th scope="col" { "Builder" }
            } }
            tbody { @for build in builds {
                tr id={ "b-" (build.id) } {
                    th scope="row" { a href=(href(app, build)) { (short(build)) } }
                    td { (state(build.status.as_str())) }
                    td data-label="Of" { code { (build.source) } @if let Some(reason) = &build.reason { p.reason.dim { (first_line(reason)) } } }
                    td data-label="Release" { @if let Some(release) = build.release { a href={ "/ui/apps/" (app) "/releases/" (release.0) } { (release) } } @else { "–" } }
                    td data-label="Who" { (build.by) }
                    td data-label="When" { (moment(build.started_ms)) }
                    td.n data-label="Took" { (took(build).unwrap_or_else(|| "–".to_owned())) }
                    td data-label="Builder" { (build.builder.as_deref().unwrap_or("–")) }
                }
            } }
        } }
    }
}

/// Reasons may be as long as the prose of a build; a list has room for what comes first.
pub(super) fn first_line(text: &str) -> String {
    const LONGEST: usize = 160;
    let line = text.trim().lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(LONGEST).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

/// A button that ends it, and the dialog that asks.
pub(super) fn cancel(app: &AppName, build: &BuildInfo) -> Markup {
    let id = format!("cancel-{}", build.id);
    let (title, words) = match build.status {
        BuildStatus::Deploying => ("Cancel this deploy", "The new release is given up."),
        _ => ("Cancel this build", "What it has made so far is given up."),
    };
    html! {
        button type="button" data-opens=(id) { "Cancel" }
        dialog id=(id) aria-labelledby={ (id) "-title" } {
            form method="post" action={ (href(app, build)) "/cancel" } data-action data-said="It is being canceled" {
                h2 id={ (id) "-title" } { (title) }
                p { (words) " What was deployed before still serves." }
                div.buttons { button type="button" data-closes { "Let it go on" } button.bad { (title) } }
            }
        }
    }
}

async fn page(visitor: Visitor, Path((app, build)): Path<(AppName, String)>) -> Response {
    let title = format!("Build of {app}");
    visitor.show_of(&title, (app, build), view).await
}

async fn view(visitor: &Visitor, (app, build): &(AppName, String)) -> Result<Markup, Trouble> {
    let path = format!("/v1/apps/{app}/builds/{}", show::part(build));
    let ((_, head), build) =
        tokio::try_join!(header(visitor, app), async { Ok(visitor.api.get::<BuildInfo>(&path).await?) })?;
    let base = href(app, &build);
    Ok(html! {
        (head)
        p.crumbs { a href={ (back(app)) "#builds" } { "Builds" } " /" }
        div.heading {
            h2 { "Build " (short(&build)) }
            (state(build.status.as_str()))
            div.actions {
                @if build.status.is_running() { (cancel(app, &build)) }
                a.button href={ (base) "/download" } download { "Download" }
            }
        }
        dl.facts.pairs {
            div { dt { "Of" } dd { @match &build.git_rev { Some(rev) => (commit(rev)), None => { code { (build.source) } } } } }
            div { dt { "Who" } dd { (build.by) } }
            div { dt { "Begun" } dd { (moment(build.started_ms)) } }
            div { dt { "Took" } dd { (took(&build).unwrap_or_else(|| "still under way".to_owned())) } }
            div { dt { "Builder" } dd { (build.builder.as_deref().unwrap_or("–")) } }
            div { dt { "Release" } dd { @if let Some(release) = build.release { a href={ "/ui/apps/" (app) "/releases/" (release.0) } { (release) } } @else { "–" } } }
            @if let Some(name) = &build.image { div { dt { "Image" } dd { (image(name)) } } }
        }
        @if let Some(reason) = &build.reason { p.reason.wrong[build.status == BuildStatus::Failed].notice[build.status != BuildStatus::Failed] { (reason) } }
        // For the script: whether there is more to wait for.
        div #build-over hidden data-over[!build.status.is_running()] {}
        div.log #build data-keep data-build={ (base) "/log" } {
            noscript { p.notice { "What it says shows here with scripts. " a href={ (base) "/download" } { "As a text file" } " it needs none." } }
            p.wrong.reason #log-wrong role="alert" hidden {}
            (screen("What the build says", "It has said nothing yet.", &html! {}))
        }
        script src=(asset("logs.js")) defer {}
    })
}

async fn log(visitor: Visitor, Path((app, build)): Path<(AppName, String)>) -> Response {
    pass_on(visitor, &format!("/v1/apps/{app}/builds/{}/log?follow=true", show::part(&build))).await
}

async fn download(visitor: Visitor, Path((app, build)): Path<(AppName, String)>) -> Response {
    let path = format!("/v1/apps/{app}/builds/{}", show::part(&build));
    let found = visitor.api.get::<BuildInfo>(&path).await;
    let lines = visitor.api.lines(Method::GET, &format!("{path}/log"), None::<&()>).await;
    let (id, lines) = match found.and_then(|found| Ok((found.id, lines?))) {
        Ok(found) => found,
        Err(error) => return Trouble::from(error).into_response(),
    };
    as_file(&file_name(&app, &id), lines, text)
}

fn file_name(app: &AppName, build: &BuildId) -> String {
    format!("{app}-build-{build}.txt")
}

/// As `git push` shows it, without colours.
fn text(line: &Progress) -> String {
    let shown = line.to_string();
    let mut text: String = shown.lines().map(|line| plain(line) + "\n").collect();
    if shown.is_empty() && *line != Progress::Done {
        text.push('\n');
    }
    text
}

async fn stop(visitor: Visitor, Path((app, build)): Path<(AppName, String)>, fields: Fields) -> Response {
    let part = show::part(&build);
    let then = format!("/ui/apps/{app}/builds/{part}");
    fields
        .act(&visitor, Method::POST, &format!("/v1/apps/{app}/builds/{part}/cancel"), None::<&()>, &then)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_a_list_is_short() {
        assert_eq!(first_line("  short \n"), "short");
        assert_eq!(first_line("one\ntwo"), "one…");
        assert_eq!(first_line(&"ü".repeat(300)).chars().count(), 161);
        assert_eq!(first_line(""), "");
    }

    #[test]
    fn a_file_has_what_a_push_shows() {
        let detail = |said: &str| Progress::Detail { text: said.to_owned() };
        assert_eq!(text(&detail("\x1b[32ma\x1b[0m\nb")), "       a\nb\n");
        assert_eq!(text(&Progress::Step { text: "x".to_owned() }), "-----> x\n");
        assert_eq!(text(&Progress::Done), "");
    }
}
