//! What the platform is, and where its apps get their names.

use super::super::forms::{fact, hidden, line, needed, switched};
use super::BACK;
use crate::action::Fields;
use crate::page::{button, command, dialog, empty, opener};
use crate::session::Visitor;
use crate::show::{moment, state};
use crate::trouble::Trouble;
use axum::http::Method;
use axum::response::Response;
use berth_model::HostPattern;
use berth_model::api::{ControllerInfo, Domains, PatchDomains, VersionInfo};
use berth_model::cron::{GlobalCron, PatchCron};
use berth_model::processes::Autocreation;
use maud::{Markup, html};

/// Version, controllers, how one gets in, and switches.
pub(super) fn section(
    version: &VersionInfo,
    controllers: &[ControllerInfo],
    autocreation: Autocreation,
    cron: &GlobalCron,
) -> Markup {
    let switch = |on: bool| if on { "" } else { "on" };
    let words = |on: bool| if on { "Turn off" } else { "Turn on" };
    html! {
        section aria-labelledby="platform" {
            div.heading { h2 #platform { "Platform" } }
            div.cards-of-settings {
                article.card {
                    h3 { "Berth" }
                    dl.facts {
                        (fact("Version", &html! { (version.version) }))
                        (fact("API", &html! { (version.api) }))
                        (fact("SSH and git", &html! { "port " (version.ssh_port) }))
                        @for one in controllers {
                            (fact("Controller", &html! { (one.name) " " (state(if one.leads { "leads" } else { "follows" })) " " span.dim { (one.version) ", since " (moment(one.since_ms)) } }))
                        }
                    }
                }
                article.card {
                    h3 { "Getting in" }
                    p { "A link that signs in once, made on the machine:" }
                    (command("berth dashboard"))
                    p { "Tokens, keys and sessions are at " a href="/ui/access" { "Access" } "." }
                }
                article.card {
                    div.heading { h3 { "New apps by push" } (switched(autocreation.enabled, "good")) }
                    p { @if autocreation.enabled { "A push to an app that is not there makes it." } @else { "Apps are made here or by " code { "berth apps:create" } " before a push is taken." } }
                    div.buttons-left { (button("/ui/settings/autocreation", words(autocreation.enabled), "", &[("on", switch(autocreation.enabled))])) }
                }
                article.card {
                    div.heading { h3 { "Cron" } (switched(!cron.maintenance, "good")) }
                    p { @if cron.maintenance { "No app's cron runs." } @else { "Tasks of apps run when they are due." } }
                    dl.facts { (fact("Time zone", &html! { @match &cron.timezone { Some(zone) => (zone), None => span.dim { "UTC" } } })) }
                    div.buttons-left {
                        (button("/ui/settings/cron", if cron.maintenance { "Let it run" } else { "Let it rest" }, "", &[("maintenance", if cron.maintenance { "off" } else { "on" })]))
                        (opener("timezone", "Time zone", ""))
                    }
                }
            }
            (dialog("timezone", "Time zone of cron", "/ui/settings/cron", "Set",
                &line("timezone-name", "timezone", "Time zone", cron.timezone.as_deref().unwrap_or_default(), "Such as Europe/Berlin, for apps that set none; empty: UTC.")))
        }
    }
}

/// The names below which every app has one.
pub(super) fn domains_section(domains: &Domains) -> Markup {
    html! {
        section aria-labelledby="domains" {
            div.heading { h2 #domains { "Global domains" } div.actions { (opener("add-domain", "Add domain", "")) } }
            p.summary { "Every app answers at its name below each of these, unless it has its default domain turned off." }
            @if domains.domains.is_empty() { (empty("There is none. Add one here, or on the machine:", &command("berth domains:add-global example.com"))) }
            @else { ul.list { @for one in &domains.domains {
                li { code { (one) } " " button.link.bad type="button" data-opens="remove-domain" data-with-remove=(one) { "Remove" span.hidden { " " (one) } } }
            } } }
            (dialog("add-domain", "Add global domain", "/ui/settings/domains", "Add", &needed("new-domain", "add", "Domain", "", "Such as apps.example.com: *.apps.example.com has to lead to this machine.")))
            (dialog("remove-domain", "Remove global domain", "/ui/settings/domains", "Remove", &html! { (hidden("remove", "")) p { "No app answers below " b data-shows="remove" {} " any more." } }))
        }
    }
}

/// Adds or removes a global domain.
pub(super) async fn domains(visitor: Visitor, fields: Fields) -> Response {
    let wanted = || -> Result<PatchDomains, berth_model::NameError> {
        let named = |name: &str| {
            fields.some(name).map(|text| HostPattern::parse(&text.to_ascii_lowercase())).transpose()
        };
        let (add, remove) = (named("add")?, named("remove")?);
        Ok(PatchDomains {
            add: add.into_iter().collect(),
            remove: remove.into_iter().collect(),
            ..PatchDomains::default()
        })
    };
    match wanted() {
        Ok(patch) => fields.act(&visitor, Method::PATCH, "/v1/domains", Some(&patch), BACK).await,
        Err(error) => fields.refuse(&Trouble::invalid(error.to_string())),
    }
}

/// Whether a push makes an app.
pub(super) async fn autocreation(visitor: Visitor, fields: Fields) -> Response {
    let body = Autocreation { enabled: fields.is_on("on") };
    fields.act(&visitor, Method::PUT, "/v1/autocreation", Some(&body), BACK).await
}

/// Whether cron runs, and in which time zone.
pub(super) async fn cron(visitor: Visitor, fields: Fields) -> Response {
    let body = PatchCron {
        maintenance: fields.some("maintenance").map(|word| word == "on"),
        timezone: fields.all("timezone").next().map(|zone| zone.trim().to_owned()),
        ..PatchCron::default()
    };
    fields.act(&visitor, Method::PATCH, "/v1/cron", Some(&body), BACK).await
}
