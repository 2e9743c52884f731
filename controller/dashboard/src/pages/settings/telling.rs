//! What is told elsewhere: log drains and alerts. Addresses may hold secrets; the API gives them out without.

use super::super::forms::{choice, hidden, needed, secret};
use super::{BACK, chosen, whose};
use crate::action::Fields;
use crate::page::{button, command, dialog, empty, opener};
use crate::session::Visitor;
use crate::show::{count, moment, part, state};
use crate::trouble::Trouble;
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::alerts::{AddAlert, AlertInfo, AlertKind};
use berth_model::logs::{AddDrain, DrainInfo};
use maud::{Markup, html};
use std::collections::BTreeSet;

fn of(app: Option<&AppName>) -> Markup {
    html! { @match app { Some(app) => a href={ "/ui/apps/" (app) } { (app) }, None => "all apps" } }
}

/// Where lines of logs are sent.
pub(super) fn drains_section(drains: &[DrainInfo], apps: &[&AppName]) -> Markup {
    html! {
        section aria-labelledby="drains" {
            div.heading { h2 #drains { "Log drains" } div.actions { (opener("add-drain", "Add drain", "")) } }
            @if drains.is_empty() { (empty("Logs stay on the machines. Send them elsewhere as well from here, or on the machine:", &command("berth drains:add --global syslog+tls://logs.example.com"))) }
            @else { (drains_table(&drains.iter().collect::<Vec<_>>())) }
            (dialog("add-drain", "Add drain", "/ui/settings/drains", "Add", &html! {
                (needed("drain-url", "url", "Where to", "", "syslog+udp://, syslog+tcp://, syslog+tls://HOST:PORT, https://USER:PASSWORD@HOST/PATH or otlp+https://HOST. Passwords and keys in it are never shown again."))
                (choice("drain-app", "app", "Lines of", &whose(apps), ""))
            }))
            (dialog("remove-drain", "Remove drain", "/ui/settings/drains/remove", "Remove", &html! { (hidden("id", "")) p { "Nothing is sent to " code data-shows="url" {} " any more." } }))
        }
    }
}

/// Drains, and how each does. The page has a dialog `remove-drain`.
pub(in crate::pages) fn drains_table(drains: &[&DrainInfo]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Where to" } th scope="col" { "Of" } th scope="col" { "State" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for one in drains { (drain(one)) } }
        } }
    }
}

fn drain(one: &DrainInfo) -> Markup {
    html! {
        tr id={ "drain-" (one.id) } {
            th scope="row" { code { (one.url) } }
            td data-label="Of" { (of(one.app.as_ref())) }
            td data-label="State" {
                @if one.nodes.is_empty() { span.dim { "nothing sent yet" } }
                @for (node, status) in &one.nodes {
                    div {
                        a href={ "/ui/nodes/" (node) } { (node) } " " (state(if status.error.is_some() { "failed" } else { "ok" })) " "
                        span.dim { (status.sent) " sent" @if let Some(last) = status.last_sent_ms { ", last " (moment(last)) } }
                        @if status.dropped > 0 { ", " b { (status.dropped) " left out" } }
                        @if let Some(error) = &status.error { p.wrong { (error) } }
                    }
                }
            }
            td.row-actions { button.link.bad type="button" data-opens="remove-drain" data-with-id=(one.id) data-with-url=(one.url) { "Remove" span.hidden { " " (one.url) } } }
        }
    }
}

/// As people call it.
fn words(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::DeployFailed => "a deploy failed",
        AlertKind::AppDown => "an app is down",
        AlertKind::DiskFull => "a disk is nearly full",
        AlertKind::CertificateExpiring => "a certificate ends soon",
        AlertKind::OutOfMemory => "a container ran out of memory",
        AlertKind::NodeLost => "a machine does not report",
        AlertKind::NodeShort => "a machine is short of disk or memory",
    }
}

/// Who is told when something is wrong.
pub(super) fn alerts_section(alerts: &[AlertInfo], apps: &[&AppName]) -> Markup {
    html! {
        section aria-labelledby="alerts" {
            div.heading {
                h2 #alerts { "Alerts" }
                div.actions {
                    @if !alerts.is_empty() { (button("/ui/settings/alerts/test", "Test all", "", &[])) }
                    (opener("add-alert", "Add alert", ""))
                }
            }
            @if alerts.is_empty() { (empty("Nobody is told when something is wrong. Add a webhook here, of Slack, Mattermost, Discord or your own, or on the machine:", &command("berth alerts:add https://example.com/hook"))) }
            @else { div.wide { table.cards {
                thead { tr { th scope="col" { "Where to" } th scope="col" { "Of" } th scope="col" { "When" } th scope="col" { "State" } th scope="col" { span.hidden { "Actions" } } } }
                tbody { @for one in alerts { (alert(one)) } }
            } } }
            (dialog("add-alert", "Add alert", "/ui/settings/alerts", "Add", &html! {
                (needed("alert-url", "url", "Webhook", "", "https://…; what may be a secret in it is never shown again."))
                (choice("alert-app", "app", "About", &whose(apps), ""))
                fieldset { legend { "Told when (none chosen: all)" }
                    @for kind in AlertKind::ALL { @let id = format!("alert-on-{}", kind.as_str());
                        label.check for=(id) { input id=(id) type="checkbox" name="on" value=(kind.as_str()); span { (words(kind)) } }
                    }
                }
                (secret("alert-secret", "secret", "Secret to sign with", "With it each body has Berth-Signature: sha256=HEX, an HMAC-SHA256. May stay empty."))
            }))
            (dialog("remove-alert", "Remove alert", "/ui/settings/alerts/remove", "Remove", &html! { (hidden("id", "")) p { "Nothing is told to " code data-shows="url" {} " any more." } }))
        }
    }
}

fn alert(one: &AlertInfo) -> Markup {
    let all = one.on.is_empty() || one.on.len() == AlertKind::ALL.len();
    html! {
        tr id={ "alert-" (one.id) } {
            th scope="row" { code { (one.url) } @if one.signed { " " span.dim { "signed" } } }
            td data-label="Of" { @match &one.app { Some(app) => a href={ "/ui/apps/" (app) } { (app) }, None => "all apps and machines" } }
            td data-label="When" { @if all { "anything is wrong" } @else { (one.on.iter().map(|kind| words(*kind)).collect::<Vec<_>>().join(", ")) } }
            td data-label="State" {
                @if one.firing.is_empty() { (state("ok")) } @else { (state("failed")) " " (count(one.firing.len(), "thing is wrong", "things are wrong")) ul.list { @for text in &one.firing { li { (text) } } } }
                @if let Some(last) = one.last_sent_ms { " " span.dim { "told " (moment(last)) } }
                @if let Some(error) = &one.error { p.wrong { "Not told: " (error) } }
            }
            td.row-actions {
                (button("/ui/settings/alerts/test", "Test", "link", &[("id", &one.id)]))
                button.link.bad type="button" data-opens="remove-alert" data-with-id=(one.id) data-with-url=(one.url) { "Remove" span.hidden { " " (one.url) } }
            }
        }
    }
}

/// Sends lines there from now on.
pub(super) async fn add_drain(visitor: Visitor, fields: Fields) -> Response {
    match chosen(&fields) {
        Ok(app) => {
            let body = AddDrain { app, url: fields.text("url").to_owned() };
            fields.act(&visitor, Method::POST, "/v1/drains", Some(&body), BACK).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// And no more.
pub(super) async fn remove_drain(visitor: Visitor, fields: Fields) -> Response {
    let path = format!("/v1/drains/{}", part(fields.text("id")));
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, BACK).await
}

/// Tells a webhook from now on.
pub(super) async fn add_alert(visitor: Visitor, fields: Fields) -> Response {
    let wanted = || -> Result<AddAlert, Trouble> {
        let on: Result<BTreeSet<AlertKind>, String> = fields.all("on").map(AlertKind::parse).collect();
        Ok(AddAlert {
            url: fields.text("url").to_owned(),
            app: chosen(&fields)?,
            on: on.map_err(Trouble::invalid)?,
            secret: fields.some("secret"),
        })
    };
    match wanted() {
        Ok(body) => fields.act(&visitor, Method::POST, "/v1/alerts", Some(&body), BACK).await,
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// And no more.
pub(super) async fn remove_alert(visitor: Visitor, fields: Fields) -> Response {
    let path = format!("/v1/alerts/{}", part(fields.text("id")));
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, BACK).await
}

/// Tells one of them, or all, that this is a test.
pub(super) async fn test(visitor: Visitor, fields: Fields) -> Response {
    let query = fields.some("id").map(|id| format!("?id={}", part(&id))).unwrap_or_default();
    fields.act(&visitor, Method::POST, &format!("/v1/alerts-test{query}"), None::<&()>, BACK).await
}
