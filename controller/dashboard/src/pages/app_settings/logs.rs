//! How much of an app's log is kept, and where its lines are sent as well.

use super::super::forms::{fact, hidden, line, needed};
use super::{act, back};
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::pages::settings::drains_table;
use crate::session::Visitor;
use crate::show::{duration, part};
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::logs::{AddDrain, AppLogs, DrainInfo, KEEP_HOURS, MAX_MIB, PatchLogs};
use maud::{Markup, html};

/// The section of the page.
pub(super) fn section(app: &AppName, kept: &AppLogs, drains: &[DrainInfo]) -> Markup {
    let action = format!("{}/logs", back(app));
    let (own, others): (Vec<_>, Vec<_>) = drains
        .iter()
        .filter(|one| one.app.as_ref().is_none_or(|of| of == app))
        .partition(|one| one.app.is_some());
    let typed = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    html! {
        section aria-labelledby="logs" {
            div.heading {
                h2 #logs { "Logs" }
                div.actions { (opener("logs-kept", "How much is kept", "")) (opener("logs-drain", "Add drain", "")) }
            }
            dl.facts {
                (fact("Of one container", &html! { "up to " (kept.max_mib()) " MiB" }))
                (fact("Of containers that are gone", &html! { (duration(u64::from(kept.keep_hours()) * 3600)) }))
                (fact("Sent elsewhere", &html! {
                    @if own.is_empty() && others.is_empty() { span.dim { "nowhere" } }
                    @else if own.is_empty() { (all_apps(others.len())) }
                    @else { (own.len()) " of its own" @if !others.is_empty() { ", and " (all_apps(others.len())) } }
                }))
            }
            @if !own.is_empty() { div.below { (drains_table(&own)) } }
            (dialog("logs-kept", "How much is kept", &action, "Set", &html! {
                (line("logs-mib", "max_mib", "Largest log of a container, in MiB", &typed(kept.max_mib), &format!("From its next start on. Empty: {MAX_MIB}.")))
                (line("logs-hours", "keep_hours", "Lines of containers that are gone, in hours", &typed(kept.keep_hours.map(u64::from)), &format!("Empty: {KEEP_HOURS}, a week.")))
            }))
            (dialog("logs-drain", "Add drain", &format!("{action}/drains"), "Add", &needed("logs-url", "url", "Where to", "",
                "syslog+udp://, syslog+tcp://, syslog+tls://HOST:PORT, https://USER:PASSWORD@HOST/PATH or otlp+https://HOST. Passwords and keys in it are never shown again.")))
            (dialog("remove-drain", "Remove drain", &format!("{action}/drains/remove"), "Remove", &html! { (hidden("id", "")) p { "Nothing is sent to " code data-shows="url" {} " any more." } }))
        }
    }
}

fn all_apps(count: usize) -> Markup {
    html! { a href="/ui/settings#drains" { (count) " of all apps" } }
}

/// A number, or 0 for the default.
fn number<T: std::str::FromStr + Default>(fields: &Fields, name: &str, what: &str) -> Result<T, Trouble> {
    if fields.text(name).is_empty() { Ok(T::default()) } else { fields.parsed(name, what) }
}

/// Sets how much is kept.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = || {
        Ok(PatchLogs {
            max_mib: Some(number(&fields, "max_mib", "number of MiB")?),
            keep_hours: Some(number(&fields, "keep_hours", "number of hours")?),
        })
    };
    act(&visitor, &fields, (Method::PATCH, &format!("/v1/apps/{app}/log-settings")), wanted(), &back(&app))
        .await
}

/// Sends the app's lines there from now on.
pub(super) async fn add_drain(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = AddDrain { url: fields.text("url").to_owned(), app: Some(app.clone()) };
    fields.act(&visitor, Method::POST, "/v1/drains", Some(&body), &back(&app)).await
}

/// And no more.
pub(super) async fn remove_drain(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/drains/{}", part(fields.text("id")));
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, &back(&app)).await
}
