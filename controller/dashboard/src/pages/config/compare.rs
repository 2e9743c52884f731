//! How the config of two releases differs, or of one and what the next one would get.

use super::super::{app, forms};
use super::done;
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::api::ReleaseInfo;
use berth_model::config_api::{ConfigDiff, ValueChange, VariableKind};
use maud::{Markup, html};
use serde::Deserialize;

/// What the next release would get.
const NOW: &str = "now";

/// Two configs; texts, for an empty field is sent as well.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    from: String,
    to: String,
    values: String,
}

/// The page; it stays as it is.
pub(super) async fn page(visitor: Visitor, Path(app): Path<AppName>, Query(asked): Query<Asked>) -> Response {
    match view(&visitor, &app, &asked).await {
        Ok(main) => visitor.show_once(&format!("{app}: compare config"), &main),
        Err(trouble) => trouble.into_response(),
    }
}

/// `v3` or `3`.
fn number(text: &str) -> Option<u64> {
    text.strip_prefix('v').unwrap_or(text).parse().ok()
}

fn query(asked: &Asked) -> String {
    let mut pairs = Vec::new();
    pairs.extend(number(&asked.from).map(|from| format!("from={from}")));
    pairs.extend(number(&asked.to).map(|to| format!("to={to}")));
    pairs.extend((!asked.values.is_empty()).then(|| "reveal=true".to_owned()));
    pairs.join("&")
}

async fn view(visitor: &Visitor, app: &AppName, asked: &Asked) -> Result<Markup, Trouble> {
    let api = visitor.api.clone();
    // Its tab is that of the config.
    let mut visitor = visitor.clone();
    visitor.path = format!("/ui/apps/{app}/config");
    let (diff, releases) =
        (format!("/v1/apps/{app}/config/diff?{}", query(asked)), format!("/v1/apps/{app}/releases"));
    let ((_, head), diff, releases) = tokio::try_join!(
        app::header(&visitor, app),
        async { Ok(api.get::<ConfigDiff>(&diff).await?) },
        async { Ok(api.get::<Vec<ReleaseInfo>>(&releases).await?) },
    )?;
    let names: Vec<(String, String)> = releases
        .iter()
        .map(|one| {
            (
                one.version.to_string(),
                format!("{}{}", one.version, if one.current { " (serves)" } else { "" }),
            )
        })
        .collect();
    let releases: Vec<(&str, &str)> =
        names.iter().map(|(value, words)| (value.as_str(), words.as_str())).collect();
    let mut to = vec![(NOW, "the next release")];
    to.extend(&releases);
    Ok(html! {
        (head)
        section aria-labelledby="compare" {
            div.heading { h2 #compare { "Compare config" } }
            form.row method="get" {
                div { (forms::choice("from", "from", "From", &releases, &diff.from)) }
                div { (forms::choice("to", "to", "To", &to, &diff.to)) }
                (forms::tick("values", "values", "Show values", !asked.values.is_empty()))
                button { "Compare" }
            }
            @if diff.changes.is_empty() { p { "No difference: " (diff.from) " and " (called(&diff.to)) " have the same config." } }
            @else { (table(&diff, !asked.values.is_empty())) }
        }
    })
}

/// The other side of a difference.
pub(super) fn called(to: &str) -> &str {
    if to == NOW { "the next release" } else { to }
}

/// What differs, with values if they are wanted.
pub(super) fn table(diff: &ConfigDiff, values: bool) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Name" } th scope="col" { "Change" } @if values { th scope="col" { (diff.from) } th scope="col" { (called(&diff.to)) } } } }
            tbody { @for one in &diff.changes {
                @let (word, tone) = done(one.change);
                tr {
                    th scope="row" { code { (one.name) } }
                    td { span.change data-tone=(tone) { (word) } }
                    @if values { td data-label=(diff.from) { (side(one, one.before.as_ref())) } td data-label=(called(&diff.to)) { (side(one, one.after.as_ref())) } }
                }
            } }
        } }
    }
}

fn side(one: &ValueChange, value: Option<&String>) -> Markup {
    html! {
        @match value {
            Some(value) => code.long { (value) },
            None if one.kind != VariableKind::Plain || (one.before.is_none() && one.after.is_none()) => span.dim { "never shown" },
            None => span.dim { "not there" },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_reach_the_api() {
        let asked = |from: &str, to: &str, values: &str| {
            query(&Asked { from: from.to_owned(), to: to.to_owned(), values: values.to_owned() })
        };
        assert_eq!(asked("", "", ""), "");
        assert_eq!(asked("v3", NOW, "on"), "from=3&reveal=true");
        assert_eq!(asked("1&reveal=true", "4", ""), "to=4");
    }
}
