//! Logins of other registries; passwords go in and never come out.

use super::super::forms::{choice, hidden, line, needed, secret, tick};
use super::{BACK, chosen, whose};
use crate::action::Fields;
use crate::page::{command, dialog, empty, opener};
use crate::session::Visitor;
use crate::show::part;
use crate::trouble::Trouble;
use axum::http::Method;
use axum::response::Response;
use berth_model::api::{PutRegistry, RegistryInfo};
use berth_model::{AppName, RegistryServer};
use maud::{Markup, html};

/// The section of the page.
pub(super) fn section(registries: &[RegistryInfo], apps: &[&AppName]) -> Markup {
    html! {
        section aria-labelledby="registries" {
            div.heading { h2 #registries { "Registries" } div.actions { (opener("add-registry", "Log in", "")) } }
            @if registries.is_empty() { (empty("No logins: images are pulled as anybody may. Log in here, or on the machine:", &command("berth registry:login --global ghcr.io me --password-stdin < token"))) }
            @else { div.wide { table.cards {
                thead { tr { th scope="col" { "Registry" } th scope="col" { "User" } th scope="col" { "For" } th scope="col" { span.hidden { "Actions" } } } }
                tbody { @for one in registries {
                    @let app = one.app.as_ref().map_or("", AppName::as_str);
                    tr {
                        th scope="row" { (one.server) @if one.plain_http { " " span.dim { "plain HTTP" } } }
                        td data-label="User" { @if one.user.is_empty() { span.dim { "nobody" } } @else { (one.user) } }
                        td data-label="For" { @if app.is_empty() { "all apps" } @else { a href={ "/ui/apps/" (app) } { (app) } } }
                        td.row-actions { button.link.bad type="button" data-opens="remove-registry" data-with-server=(one.server) data-with-app=(app) { "Log out" span.hidden { " of " (one.server) } } }
                    }
                } }
            } } }
            (dialog("add-registry", "Log in to a registry", "/ui/settings/registries", "Log in", &html! {
                (needed("registry-server", "server", "Registry", "", "Host and perhaps port: ghcr.io, docker.io."))
                (line("registry-user", "user", "User", "", "Empty if nobody needs to log in there."))
                (secret("registry-password", "password", "Password or token", "The registry is asked whether it is good. It is kept encrypted and never shown."))
                (choice("registry-app", "app", "For", &whose(apps), ""))
                (tick("registry-plain", "plain_http", "It speaks plain HTTP, and may be on this machine", false))
            }))
            (dialog("remove-registry", "Log out", "/ui/settings/registries/remove", "Log out", &html! {
                (hidden("server", "")) (hidden("app", "")) p { "The login of " b data-shows="server" {} " will be forgotten." }
            }))
        }
    }
}

/// Keeps a login.
pub(super) async fn put(visitor: Visitor, fields: Fields) -> Response {
    let wanted = || -> Result<PutRegistry, Trouble> {
        Ok(PutRegistry {
            app: chosen(&fields)?,
            server: RegistryServer::parse(fields.text("server"))
                .map_err(|error| Trouble::invalid(error.to_string()))?,
            user: fields.text("user").to_owned(),
            password: fields.raw("password").to_owned(),
            plain_http: fields.is_on("plain_http"),
        })
    };
    match wanted() {
        Ok(body) => fields.act(&visitor, Method::POST, "/v1/registries", Some(&body), BACK).await,
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// Forgets one.
pub(super) async fn remove(visitor: Visitor, fields: Fields) -> Response {
    let app = fields.some("app").map(|app| format!("&app={}", part(&app))).unwrap_or_default();
    let path = format!("/v1/registries?server={}{app}", part(fields.text("server")));
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, BACK).await
}
