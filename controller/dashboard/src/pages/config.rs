//! Config vars of an app, or of the platform for all apps: names, where a value comes from, who changed what.
//!
//! No value is part of the page. One that may be shown is asked for, alone, by the button beside it.

mod change;
mod compare;
mod dialogs;
mod history;

use super::app;
use crate::Ui;
use crate::page::{button, command, empty, heading, opener};
use crate::session::Visitor;
use crate::show::{self, moment, part};
use crate::trouble::Trouble;
use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::api::AppInfo;
use berth_model::config_api::{Change, ConfigDiff, ConfigEvent, Variable, VariableKind};
use berth_model::secrets::SECRETS_DIR;
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// What stands for a value.
const MASK: &str = "••••••••";

pub(crate) fn router() -> Router<Ui> {
    let of = |base: &str| {
        Router::new()
            .route(base, get(page).post(change::set))
            .route(&format!("{base}/remove"), post(change::remove))
            .route(&format!("{base}/check"), post(change::check))
            .route(&format!("{base}/import"), post(change::import))
            .route(&format!("{base}/{{name}}/value"), get(change::value))
    };
    of("/ui/apps/{app}/config")
        .merge(of("/ui/settings/config"))
        .route("/ui/apps/{app}/config/compare", get(compare::page))
        .route("/ui/apps/{app}/config/changes/{at}", get(history::values))
}

/// Whose config vars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// `None` is the platform.
    app: Option<AppName>,
}

impl<S: Send + Sync> FromRequestParts<S> for Scope {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Trouble> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let app =
            params.iter().flatten().find(|(name, _)| *name == "app").map(|(_, app)| AppName::parse(app));
        Ok(Self { app: app.transpose().map_err(|error| Trouble::not_found(error.to_string()))? })
    }
}

impl Scope {
    /// The path of the API.
    fn api(&self) -> String {
        self.app.as_ref().map_or("/v1/config".to_owned(), |app| format!("/v1/apps/{app}/config"))
    }

    /// The page's address.
    fn page(&self) -> String {
        self.app.as_ref().map_or("/ui/settings/config".to_owned(), |app| format!("/ui/apps/{app}/config"))
    }
}

async fn page(visitor: Visitor, scope: Scope) -> Response {
    let title = scope.app.as_ref().map_or("Config of all apps".to_owned(), |app| format!("{app}: config"));
    visitor.show_of(&title, scope, view).await
}

async fn view(visitor: &Visitor, scope: &Scope) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let (base, merged) = (scope.api(), "variables?masked=true&merged=true");
    let (head, variables, global, history) = tokio::try_join!(
        head(visitor, scope),
        async { Ok(api.get::<Vec<Variable>>(&format!("{base}/{merged}")).await?) },
        async { Ok(api.get::<Vec<Variable>>("/v1/config/variables?masked=true").await?) },
        async { Ok(api.get::<Vec<ConfigEvent>>(&format!("{base}/history")).await?) },
    )?;
    let (info, head) = head;
    // What was stored without a restart is not used yet. An app without a release has nothing to compare with.
    let waiting = match info.as_ref().filter(|info| info.release.is_some()) {
        Some(info) => Some(api.get::<ConfigDiff>(&format!("/v1/apps/{}/config/diff", info.name)).await?),
        None => None,
    };
    let hidden_below: BTreeSet<&str> = match scope.app {
        Some(_) => global.iter().map(|one| one.name.as_str()).collect(),
        None => BTreeSet::new(),
    };
    let (files, plain): (Vec<&Variable>, Vec<&Variable>) =
        variables.iter().partition(|one| one.kind == VariableKind::File);
    let table = Table { scope, latest: latest(&history), hidden_below };
    Ok(html! {
        (head)
        @if let (Some(info), Some(diff)) = (&info, &waiting) { (not_used_yet(info, diff)) }
        section aria-labelledby="variables" {
            div.heading {
                h2 #variables { "Variables" }
                div.actions {
                    @if variables.len() > 8 {
                        input #search type="search" data-filters=".vars tbody tr" data-search placeholder="Search ( / )" aria-label="Search names";
                    }
                    (opener("paste", "Paste .env", ""))
                    (opener("add", "Add variable", "primary"))
                }
            }
            @if plain.is_empty() { (nothing(scope)) } @else { (table.markup(&plain)) }
        }
        @if !files.is_empty() {
            section aria-labelledby="files" {
                h2 #files { "Files" }
                p.hint { "Containers find each of them below " code { (SECRETS_DIR) } ", readable by their user alone. They are never shown again." }
                (table.markup(&files))
            }
        }
        (history::section(scope, info.as_ref(), &history))
        (dialogs::all(scope))
    })
}

/// What the page begins with; and the app, if it is one's.
async fn head(visitor: &Visitor, scope: &Scope) -> Result<(Option<AppInfo>, Markup), Trouble> {
    match &scope.app {
        Some(name) => app::header(visitor, name).await.map(|(info, head)| (Some(info), head)),
        None => Ok((
            None,
            html! {
                p.crumbs { a href="/ui/settings" { "Settings" } " /" }
                (heading("Config of all apps", &html! {}))
                p.summary { "Every app gets these. Where an app has a variable of the same name, its own holds." }
            },
        )),
    }
}

fn nothing(scope: &Scope) -> Markup {
    let line = match &scope.app {
        Some(app) => format!("berth config:set {app} NAME=value"),
        None => "berth config:set --global NAME=value".to_owned(),
    };
    empty("No variables yet. Add one here, paste a .env file, or on the machine:", &command(&line))
}

/// When each name was changed last, and by whom. The history is the newest first.
fn latest(history: &[ConfigEvent]) -> BTreeMap<&str, &ConfigEvent> {
    let mut latest = BTreeMap::new();
    for event in history {
        for change in &event.changes {
            latest.entry(change.name.as_str()).or_insert(event);
        }
    }
    latest
}

/// What rows of variables have in common.
struct Table<'a> {
    scope: &'a Scope,
    latest: BTreeMap<&'a str, &'a ConfigEvent>,
    /// Names that the platform has as well.
    hidden_below: BTreeSet<&'a str>,
}

impl Table<'_> {
    fn markup(&self, variables: &[&Variable]) -> Markup {
        html! {
            div.wide { table.cards.vars {
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Value" }
                    @if self.scope.app.is_some() { th scope="col" { "From" } }
                    th scope="col" { "Changed" } th scope="col" { span.hidden { "Actions" } }
                } }
                tbody { @for one in variables { (self.row(one)) } }
            } }
        }
    }

    fn row(&self, one: &Variable) -> Markup {
        let name = one.name.as_str();
        let changed = self.latest.get(name).filter(|_| self.scope.app.is_none() || !one.global);
        let inherited = self.scope.app.is_some() && one.global;
        html! {
            tr id={ "var-" (name) } data-text=(name) {
                th scope="row" { code { (name) } }
                // A value that is shown stays so until it is another one: then the id is, too.
                td { (self.value(one, changed.map_or(0, |event| event.at_ms))) }
                @if self.scope.app.is_some() {
                    td data-label="From" {
                        @if one.global { a href="/ui/settings/config" { "all apps" } }
                        @else if self.hidden_below.contains(name) { "own" span.dim { ", in place of that of all apps" } }
                        @else { "own" }
                    }
                }
                td data-label="Changed" {
                    @if let Some(event) = changed { (moment(event.at_ms)) " " span.dim { "by " (event.by) } } @else { span.dim { "–" } }
                }
                td.row-actions {
                    @if inherited {
                        a href="/ui/settings/config" { "Change" span.hidden { " " (name) " for all apps" } }
                    } @else {
                        (self.edit(one))
                        button.link.bad type="button" data-opens="remove" data-with-name=(name) { "Remove" span.hidden { " " (name) } }
                    }
                }
            }
        }
    }

    fn asks(&self, one: &Variable) -> String {
        // The platform's own page has the platform's values.
        let base = if one.global { Scope { app: None } } else { self.scope.clone() }.page();
        format!("{base}/{}/value", part(one.name.as_str()))
    }

    fn value(&self, one: &Variable, changed: i64) -> Markup {
        let name = one.name.as_str();
        match one.kind {
            VariableKind::File => {
                html! { code { (SECRETS_DIR) "/" (name) } " " span.dim { (show::bytes(one.bytes)) } }
            }
            VariableKind::Secret => {
                html! { span.mask aria-hidden="true" { (MASK) } span.dim { "never shown" } }
            }
            VariableKind::Plain if one.bytes == 0 => html! { span.dim { "empty" } },
            VariableKind::Plain => html! {
                span.value data-keep id={ "value-" (name) "-" (changed) } {
                    code id={ "shown-" (name) } data-mask=(MASK) { (MASK) }
                    button.link type="button" aria-pressed="false" data-asks=(self.asks(one)) data-into={ "shown-" (name) } aria-label={ "Show " (name) } { "Show" }
                }
            },
        }
    }

    fn edit(&self, one: &Variable) -> Markup {
        let name = one.name.as_str();
        let kind = word(one.kind);
        let asks = (one.kind == VariableKind::Plain).then(|| self.asks(one));
        html! {
            button.link type="button" data-opens="edit" data-with-name=(name) data-with-kind=(kind) data-asks=[asks.as_ref()]
                data-into=[asks.as_ref().map(|_| "edit-value")] { "Edit" span.hidden { " " (name) } }
        }
    }
}

/// As forms say it.
fn word(kind: VariableKind) -> &'static str {
    match kind {
        VariableKind::Plain => "plain",
        VariableKind::Secret => "secret",
        VariableKind::File => "file",
    }
}

fn done(change: Change) -> (&'static str, &'static str) {
    match change {
        Change::Added => ("added", "good"),
        Change::Changed => ("changed", "busy"),
        Change::Removed => ("removed", "bad"),
    }
}

fn not_used_yet(info: &AppInfo, diff: &ConfigDiff) -> Markup {
    if diff.changes.is_empty() {
        return html! {};
    }
    html! {
        div.notice.with-action {
            p {
                "Stored, but not used by what runs (" (diff.from) "): "
                @for (index, one) in diff.changes.iter().enumerate() { @if index > 0 { ", " } code { (one.name) } " " (done(one.change).0) }
                "."
            }
            @if !info.stopped { (button(&format!("/ui/apps/{}/restart", info.name), "Restart with it", "", &[])) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_change_of_a_name_counts() {
        let event = |at_ms: i64, names: &[&str]| ConfigEvent {
            at_ms,
            by: "me".to_owned(),
            changes: names
                .iter()
                .map(|name| berth_model::config_api::NameChange {
                    name: berth_model::EnvName::parse(name).expect("a name"),
                    change: Change::Changed,
                    kind: VariableKind::Plain,
                })
                .collect(),
            stored_only: false,
            release: None,
        };
        let history = [event(3, &["A"]), event(2, &["A", "B"]), event(1, &["C", "B"])];
        let found = latest(&history).into_iter().map(|(name, event)| (name, event.at_ms)).collect::<Vec<_>>();
        assert_eq!(found, [("A", 3), ("B", 2), ("C", 1)]);
    }

    #[test]
    fn no_value_is_part_of_the_page() {
        let scope = Scope { app: AppName::parse("shop").ok() };
        let table = Table { scope: &scope, latest: BTreeMap::new(), hidden_below: BTreeSet::new() };
        for kind in [VariableKind::Plain, VariableKind::Secret, VariableKind::File] {
            let one = Variable {
                name: berth_model::EnvName::parse("TOKEN").expect("a name"),
                kind,
                value: Some("hunter2".to_owned()),
                bytes: 7,
                global: false,
            };
            let text = table.row(&one).into_string();
            assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
            assert_eq!(text.contains("/ui/apps/shop/config/TOKEN/value"), kind == VariableKind::Plain);
        }
    }
}
