//! Who changed which variables; and, when asked for, from what to what.
//!
//! The history has names alone. Values are those of releases: of the last one before a change, and of the first one after it.

use super::{Scope, compare, done};
use crate::pages::forms::fragment;
use crate::session::Visitor;
use crate::show::{count, moment};
use crate::trouble::{Path, Trouble};
use axum::response::Response;
use berth_model::api::{AppInfo, ReleaseInfo};
use berth_model::config_api::{ConfigDiff, ConfigEvent, VariableKind};
use berth_model::{AppName, EnvName, ReleaseVersion};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// Changes that are shown without being asked for.
const RECENT: usize = 12;

/// The section of the page.
pub(super) fn section(scope: &Scope, info: Option<&AppInfo>, history: &[ConfigEvent]) -> Markup {
    let (recent, older) = history.split_at(history.len().min(RECENT));
    let deployed = info.filter(|info| info.release.is_some());
    let list =
        |events: &[ConfigEvent]| html! { ul.events { @for one in events { li { (event(one, deployed)) } } } };
    html! {
        section aria-labelledby="history" {
            div.heading {
                h2 #history { "Changes" }
                @if let Some(info) = deployed {
                    div.actions { a href={ "/ui/apps/" (info.name) "/config/compare" } { "Compare releases" } }
                }
            }
            @if history.is_empty() {
                p.dim { @if scope.app.is_some() { "Nobody changed a variable of this app yet." } @else { "Nobody changed a variable of all apps yet." } }
            } @else {
                (list(recent))
                @if !older.is_empty() { details #older { summary { (count(older.len(), "older change", "older changes")) } (list(older)) } }
            }
        }
    }
}

fn event(event: &ConfigEvent, deployed: Option<&AppInfo>) -> Markup {
    let has_values = event.changes.iter().any(|one| one.kind == VariableKind::Plain);
    let id = format!("change-{}", event.at_ms);
    html! {
        span.when { (moment(event.at_ms)) } " " b { (event.by) } " "
        @for one in &event.changes { @let (word, tone) = done(one.change); span.change data-tone=(tone) { (word) " " code { (one.name) } @if one.kind == VariableKind::File { " (file)" } } " " }
        @if event.stored_only { span.dim { "stored only" } " " }
        @if let Some(release) = event.release { span.dim { "brought back by " (release) } " " }
        @if let Some(info) = deployed.filter(|_| has_values) {
            button.link type="button" aria-pressed="false" data-keep id={ (id) "-show" } data-into=(id)
                data-asks={ "/ui/apps/" (info.name) "/config/changes/" (event.at_ms) } aria-label="Show its values" { "Show" }
            div data-keep id=(id) {}
        }
    }
}

/// Two configs to compare: a change lies between them.
#[derive(Debug, PartialEq, Eq)]
struct Between {
    from: ReleaseVersion,
    /// `None` is what the next release would get.
    to: Option<ReleaseVersion>,
    /// Names that were changed more than once between them.
    again: BTreeSet<EnvName>,
}

/// The releases around the change of `at_ms`; `None` if none was before it.
fn between(event: &ConfigEvent, history: &[ConfigEvent], releases: &[ReleaseInfo]) -> Option<Between> {
    // A release that takes values up is newer than their change; one that brings them back is older.
    let has_it = |one: &&ReleaseInfo| match event.release {
        Some(release) => one.version >= release,
        None => one.created_ms >= event.at_ms,
    };
    let before = releases.iter().filter(|one| !has_it(one)).max_by_key(|one| one.version)?;
    let after = releases.iter().filter(has_it).min_by_key(|one| one.version);
    let others = history.iter().filter(|one| {
        **one != *event
            && one.at_ms > before.created_ms
            && after.is_none_or(|after| one.at_ms <= after.created_ms)
    });
    let touched: BTreeSet<&EnvName> =
        others.flat_map(|one| one.changes.iter().map(|change| &change.name)).collect();
    let again = event.changes.iter().map(|one| &one.name).filter(|name| touched.contains(name)).cloned();
    Some(Between { from: before.version, to: after.map(|after| after.version), again: again.collect() })
}

/// What one change did, for the page's script.
pub(super) async fn values(visitor: Visitor, Path((app, at)): Path<(AppName, i64)>) -> Response {
    let shown = view(&visitor, &app, at).await;
    fragment(shown.unwrap_or_else(|trouble| html! { p.wrong { (trouble.message()) } }))
}

async fn view(visitor: &Visitor, app: &AppName, at_ms: i64) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let of = |what: &str| format!("/v1/apps/{app}/{what}");
    let (history, releases) = (of("config/history"), of("releases"));
    let (history, releases) =
        tokio::try_join!(api.get::<Vec<ConfigEvent>>(&history), api.get::<Vec<ReleaseInfo>>(&releases))?;
    let gone = || Trouble::not_found("this change is no part of the history any more; reload the page");
    let event = history.iter().find(|event| event.at_ms == at_ms).ok_or_else(gone)?;
    let Some(between) = between(event, &history, &releases) else {
        return Ok(html! { p.dim { "No release is older: there is nothing to compare with." } });
    };
    let to = between.to.map(|to| format!("&to={}", to.0)).unwrap_or_default();
    let path = of(&format!("config/diff?from={}{to}&reveal=true", between.from.0));
    let mut diff = api.get::<ConfigDiff>(&path).await?;
    diff.changes.retain(|one| event.changes.iter().any(|changed| changed.name == one.name));
    Ok(html! {
        @if diff.changes.is_empty() { p.dim { "They are the same in " (diff.from) " and in " (compare::called(&diff.to)) "." } }
        @else { (compare::table(&diff, true)) }
        @if !between.again.is_empty() {
            p.hint { "Changed more than once between the two: " @for name in &between.again { code { (name) } " " } }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::config_api::{Change, NameChange};

    fn event(at_ms: i64, names: &[&str]) -> ConfigEvent {
        let change = |name: &&str| NameChange {
            name: EnvName::parse(name).expect("a name"),
            change: Change::Changed,
            kind: VariableKind::Plain,
        };
        ConfigEvent {
            at_ms,
            by: "me".to_owned(),
            changes: names.iter().map(change).collect(),
            stored_only: false,
            release: None,
        }
    }

    fn release(version: u64, created_ms: i64) -> ReleaseInfo {
        let made = serde_json::json!({ "version": version, "description": "", "by": "", "created_ms": created_ms,
            "outcome": "live", "reason": null, "current": false, "git_rev": null, "image": "", "config_names": [],
            "processes": {} });
        serde_json::from_value(made).expect("a release")
    }

    #[test]
    fn a_change_lies_between_two_releases() {
        let history = [event(40, &["A"]), event(31, &["A", "B"]), event(30, &["B", "C"]), event(5, &["A"])];
        let releases = [release(3, 32), release(2, 20), release(1, 10)];
        let found = |index: usize| between(&history[index], &history, &releases);
        assert_eq!(found(3), None, "no release was before it");
        let middle = found(2).expect("releases around it");
        assert_eq!((middle.from.0, middle.to.map(|to| to.0)), (2, Some(3)));
        assert_eq!(middle.again.iter().map(EnvName::as_str).collect::<Vec<_>>(), ["B"]);
        let last = found(0).expect("a release before it");
        assert_eq!((last.from.0, last.to, last.again.len()), (3, None, 0));
        let back = ConfigEvent { release: Some(ReleaseVersion(3)), ..event(33, &["A"]) };
        let back = between(&back, &history, &releases).expect("a release before it");
        assert_eq!((back.from.0, back.to.map(|to| to.0)), (2, Some(3)));
    }
}
