//! Releases of an app: the list, a page each, what differs between two, and the way back to one.

use super::builds::{first_line, short};
use super::{back, commit, header, image};
use crate::Ui;
use crate::page::opener;
use crate::pages::logs;
use crate::session::Visitor;
use crate::show::{moment, state};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use berth_model::api::{BuildInfo, ReleaseInfo};
use berth_model::deploy::{DiffLine, MASKED, ReleaseDiff};
use berth_model::{AppName, ReleaseVersion};
use maud::{Markup, html};
use serde::Deserialize;

/// How many a list has unless all are asked for: it is sent again whenever it changes.
const NEWEST: usize = 30;

/// What is asked for to show them: one more than is shown says that there are more.
pub(super) fn wanted(app: &AppName, all: bool) -> String {
    let limit = if all { String::new() } else { format!("?limit={}", NEWEST + 1) };
    format!("/v1/apps/{app}/releases{limit}")
}

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui/apps/{app}/releases/{version}", get(page))
}

/// A release as lists show it: [`ReleaseInfo`] without what only its own page shows, which is most of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) version: ReleaseVersion,
    pub(super) created_ms: i64,
    pub(super) outcome: String,
    description: String,
    by: String,
    reason: Option<String>,
    current: bool,
    git_rev: Option<String>,
    image: String,
}

/// Its state: which one serves is said first.
fn outcome(is_current: bool, outcome: &str) -> Markup {
    match (is_current, outcome) {
        (true, _) => html! { span.state data-tone="good" { "current" } },
        // It was; what is live now is the current one.
        (false, "live") => html! { span.state { "was live" } },
        (false, "rolled back") => html! { span.state data-tone="bad" { "rolled back" } },
        (false, other) => state(other),
    }
}

/// Whether there is a way back to it: it served once, and does not now.
fn may_return(is_current: bool, outcome: &str) -> bool {
    !is_current && matches!(outcome, "live" | "rolled back")
}

pub(super) fn list(app: &AppName, releases: &[Listed], all: bool) -> Markup {
    let shown = if all { releases.len() } else { NEWEST };
    html! {
        div.wide { table.cards.releases {
            thead { tr {
                th scope="col" { "Release" } th scope="col" { "Outcome" } th scope="col" { "What" } th scope="col" { "Who" }
                th scope="col" { "When" } th scope="col" { "Commit" } th scope="col" { "Image" } th scope="col" { span.hidden { "Actions" } }
            } }
            tbody { @for release in releases.iter().take(shown) { (row(app, release)) } }
        } }
        @if releases.len() > shown { p { a href="?all=1" { "All releases" } } }
    }
}

fn row(app: &AppName, release: &Listed) -> Markup {
    let version = release.version;
    let href = href(app, version);
    html! {
        tr id={ "r-" (version) } {
            th scope="row" { a href=(href) { (version) } }
            td { (outcome(release.current, &release.outcome)) }
            td data-label="What" { (release.description) @if let Some(reason) = &release.reason { p.reason.bad-words { (first_line(reason)) } } }
            td data-label="Who" { (release.by) }
            td data-label="When" { (moment(release.created_ms)) }
            td data-label="Commit" { @match &release.git_rev { Some(rev) => (commit(rev)), None => "–" } }
            td data-label="Image" { (image(&release.image)) }
            td.row-actions {
                a href={ (href) "#changes" } aria-label={ "Changes of " (version) } { "Changes" }
                @if may_return(release.current, &release.outcome) {
                    button.link type="button" data-opens="roll-back" data-with-to=(version) aria-label={ "Roll back to " (version) } { "Roll back" }
                }
            }
        }
    }
}

fn href(app: &AppName, version: ReleaseVersion) -> String {
    format!("/ui/apps/{app}/releases/{}", version.0)
}

/// One dialog for all rows: the button says which release.
pub(super) fn rollback_dialog(app: &AppName) -> Markup {
    rollback_form(app, None)
}

fn rollback_form(app: &AppName, version: Option<ReleaseVersion>) -> Markup {
    let version = version.map_or_else(String::new, |version| version.to_string());
    html! {
        dialog #roll-back aria-labelledby="roll-back-title" {
            form method="post" action={ (back(app)) "/rollback" } data-action {
                h2 #roll-back-title { "Roll back to " span data-shows="to" { (version) } }
                input type="hidden" name="to" value=(version);
                p {
                    "A new release is made with its image, its process types and its config. Its containers start beside those of now, "
                    "get the requests once they are healthy, and then those of now end. If they do not come up, all stays as it is."
                }
                label.check { input type="checkbox" name="keep_config" value="1"; span { "Keep today's config" } }
                p.hint { "Then only the image and its process types come back. What the app stored, in databases and on disks, stays as it is in any case." }
                div.buttons { button type="button" data-closes { "Cancel" } button.primary { "Roll back" } }
            }
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    /// What it is compared with: a release, or nothing for the one before.
    against: String,
}

async fn page(
    visitor: Visitor,
    Path((app, version)): Path<(AppName, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    let title = format!("Release {version} of {app}");
    visitor.show_of(&title, (app, version, asked), view).await
}

pub(super) fn parse(text: &str) -> Result<ReleaseVersion, Trouble> {
    text.parse().map_err(|error: berth_model::NameError| Trouble::not_found(error.to_string()))
}

async fn view(
    visitor: &Visitor,
    (app, version, asked): &(AppName, String, Asked),
) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let of = |what: &str| format!("/v1/apps/{app}/{what}");
    let version = parse(version)?;
    let against = if asked.against.is_empty() { None } else { Some(parse(&asked.against)?) };
    let ((info, head), release, releases, builds, diff) = tokio::try_join!(
        header(visitor, app),
        async { Ok(api.get::<ReleaseInfo>(&of(&format!("releases/{}", version.0))).await?) },
        async { Ok(api.get::<Vec<Listed>>(&of("releases")).await?) },
        async { Ok(api.get::<Vec<BuildInfo>>(&of("builds")).await?) },
        compared(visitor, app, version, against),
    )?;
    let build = builds.iter().find(|build| build.release == Some(version));
    Ok(html! {
        (head)
        p.crumbs { a href={ (back(app)) "#releases" } { "Releases" } " /" }
        div.heading {
            h2 { "Release " (version) }
            (outcome(release.current, &release.outcome))
            @if may_return(release.current, &release.outcome) { div.actions { (opener("roll-back", "Roll back to it", "")) (rollback_form(app, Some(version))) } }
        }
        @if let Some(reason) = &release.reason { p.wrong.reason { (reason) } }
        dl.facts {
            div { dt { "What" } dd { (release.description) } }
            div { dt { "Who" } dd { (release.by) } }
            div { dt { "When" } dd { (moment(release.created_ms)) } }
            @if let Some(rev) = &release.git_rev { div { dt { "Commit" } dd { code { (rev) } } } }
            div { dt { "Image" } dd { code.digest { (release.image) } " " a href=(super::files::image_href(app, version)) { "Download" } } }
            @if release.current { div { dt { "Bill of materials" } dd { a href={ "/ui/apps/" (app) "/sbom" } { "CycloneDX" } } } }
            @if let Some(build) = build { div { dt { "Build" } dd { a href=(super::builds::href(app, build)) { (short(build)) } } } }
        }
        section aria-labelledby="processes" {
            div.heading { h3 #processes { "Process types" } }
            div.wide { table.cards.commands {
                thead { tr { th scope="col" { "Type" } th scope="col" { "Command" } } }
                tbody { @for (process, command) in &release.processes {
                    tr { th scope="row" { a href=(logs::address(app, process.as_str())) { (process) } } td { code { (command) } } }
                } }
            } }
        }
        section aria-labelledby="config" {
            div.heading { h3 #config { "Config" } div.actions { a href={ "/ui/apps/" (app) "/config" } { "Config of today" } } }
            @if release.config_names.is_empty() { p.dim { "It had no config variables." } }
            @else { p.names { @for name in &release.config_names { code { (name) } " " } } }
        }
        section aria-labelledby="changes" {
            div.heading { h3 #changes { "Changes" } (choices(app, version, info.release, &releases, against)) }
            (diff)
        }
    })
}

/// What it can be compared with.
fn choices(
    app: &AppName,
    version: ReleaseVersion,
    current: Option<ReleaseVersion>,
    releases: &[Listed],
    against: Option<ReleaseVersion>,
) -> Markup {
    let base = href(app, version);
    let current = current.filter(|current| *current != version);
    html! {
        form.actions.row #compare data-keep action={ (base) "#changes" } {
            label for="against" { "Compared with" }
            select #against name="against" {
                option value="" selected[against.is_none()] { "the one before" }
                @for other in releases.iter().map(|release| release.version).filter(|other| *other != version) {
                    option value=(other) selected[against == Some(other)] { (other) @if Some(other) == current { " (current)" } }
                }
            }
            button { "Compare" }
        }
    }
}

async fn compared(
    visitor: &Visitor,
    app: &AppName,
    version: ReleaseVersion,
    against: Option<ReleaseVersion>,
) -> Result<Markup, Trouble> {
    let from = against.map_or_else(String::new, |from| format!("&from={}", from.0));
    let path = format!("/v1/apps/{app}/release-diff?to={}{from}", version.0);
    match visitor.api.get::<ReleaseDiff>(&path).await.map_err(Trouble::from) {
        Ok(diff) => Ok(changes(app, &diff)),
        // The first one has none before it: that is an answer.
        Err(Trouble::Refused { status: StatusCode::BAD_REQUEST, message }) => {
            Ok(html! { p.dim { (message) "." } })
        }
        Err(trouble) => Err(trouble),
    }
}

fn changes(app: &AppName, diff: &ReleaseDiff) -> Markup {
    html! {
        p.dim { "From " a href=(href(app, diff.from)) { (diff.from) } " to " b { (diff.to) } ":" }
        @if diff.changes.is_empty() { p { "Nothing differs." } }
        @else { div.wide { table.cards.diff {
            thead { tr { th scope="col" { "What" } th scope="col" { "In " (diff.from) } th scope="col" { "In " (diff.to) } } }
            tbody { @for line in &diff.changes { tr {
                th scope="row" { (line.kind) " " code { (line.name) } }
                @if is_masked(line) { td colspan="2" { (masked(line)) } }
                @else {
                    td data-label={ "In " (diff.from) } { (side(line.before.as_deref(), "del")) }
                    td data-label={ "In " (diff.to) } { (side(line.after.as_deref(), "ins")) }
                }
            } } }
        } } }
    }
}

fn side(value: Option<&str>, class: &str) -> Markup {
    html! { @match value { Some(value) => { code class=(class) { (value) } }, None => { span.dim { "not there" } } } }
}

/// Whether all that may be shown is that it differs.
fn is_masked(line: &DiffLine) -> bool {
    [&line.before, &line.after].into_iter().flatten().all(|value| value == MASKED)
}

fn masked(line: &DiffLine) -> &'static str {
    match (&line.before, &line.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "has another value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(before: Option<&str>, after: Option<&str>) -> DiffLine {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        DiffLine {
            kind: "config".to_owned(),
            name: "A".to_owned(),
            before: owned(before),
            after: owned(after),
        }
    }

    #[test]
    fn what_is_masked_is_said_in_words() {
        let said = |before, after| {
            let line = line(before, after);
            is_masked(&line).then(|| masked(&line))
        };
        assert_eq!(said(Some("***"), Some("***")), Some("has another value"));
        assert_eq!(said(None, Some("***")), Some("added"));
        assert_eq!(said(Some("***"), None), Some("removed"));
        assert_eq!(said(Some("a"), Some("***")), None);
    }
}
