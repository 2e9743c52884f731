//! Settings of the platform: names, certificates, requests, logs, alerts, registries, upkeep.

mod certificates;
mod platform;
mod registries;
mod telling;
mod upkeep;

/// An app's page shows its own.
pub(super) use telling::drains_table;

use super::app_settings::{pages_card, proxy_dialog, proxy_table, set_page, set_proxy};
use crate::Ui;
use crate::action::Fields;
use crate::page::heading;
use crate::session::Visitor;
use crate::trouble::Trouble;
use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::alerts::AlertInfo;
use berth_model::api::{AppInfo, ControllerInfo, Domains, RegistryInfo, VersionInfo};
use berth_model::certs::{AcmeApp, AcmeSettingsInfo, CertificateInfo};
use berth_model::config_api::SecretsInfo;
use berth_model::cron::GlobalCron;
use berth_model::logs::DrainInfo;
use berth_model::processes::Autocreation;
use berth_model::proxy_api::ProxyInfo;
use maud::{Markup, html};

/// The page's address.
const BACK: &str = "/ui/settings";

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route(BACK, get(page))
        .route("/ui/settings/domains", post(platform::domains))
        .route("/ui/settings/autocreation", post(platform::autocreation))
        .route("/ui/settings/cron", post(platform::cron))
        .route("/ui/settings/acme", post(certificates::acme))
        .route("/ui/settings/certificates", post(certificates::add))
        .route("/ui/settings/certificates/remove", post(certificates::remove))
        .route("/ui/settings/proxy", post(proxy))
        .route("/ui/settings/proxy/pages", post(pages))
        .route("/ui/settings/drains", post(telling::add_drain))
        .route("/ui/settings/drains/remove", post(telling::remove_drain))
        .route("/ui/settings/alerts", post(telling::add_alert))
        .route("/ui/settings/alerts/remove", post(telling::remove_alert))
        .route("/ui/settings/alerts/test", post(telling::test))
        .route("/ui/settings/registries", post(registries::put))
        .route("/ui/settings/registries/remove", post(registries::remove))
        .route("/ui/settings/cleanup", post(upkeep::clean))
        .route("/ui/settings/rotate", post(upkeep::rotate))
}

/// Sections: id, words.
const SECTIONS: [(&str, &str); 8] = [
    ("platform", "Platform"),
    ("domains", "Domains"),
    ("certificates", "Certificates"),
    ("requests", "Requests"),
    ("drains", "Log drains"),
    ("alerts", "Alerts"),
    ("registries", "Registries"),
    ("upkeep", "Upkeep"),
];

async fn page(visitor: Visitor) -> Response {
    visitor.show("Settings", async |visitor| view(&visitor).await).await
}

async fn view(visitor: &Visitor) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let (version, controllers, autocreation, cron, apps) = tokio::try_join!(
        api.get::<VersionInfo>("/v1/version"),
        api.get::<Vec<ControllerInfo>>("/v1/controllers"),
        api.get::<Autocreation>("/v1/autocreation"),
        api.get::<GlobalCron>("/v1/cron"),
        api.get::<Vec<AppInfo>>("/v1/apps"),
    )?;
    let (domains, acme, acme_apps, certificates, proxy) = tokio::try_join!(
        api.get::<Domains>("/v1/domains"),
        api.get::<AcmeSettingsInfo>("/v1/acme"),
        api.get::<Vec<AcmeApp>>("/v1/acme/apps"),
        api.get::<Vec<CertificateInfo>>("/v1/certificates"),
        api.get::<ProxyInfo>("/v1/proxy"),
    )?;
    let (drains, alerts, registries, secrets) = tokio::try_join!(
        api.get::<Vec<DrainInfo>>("/v1/drains"),
        api.get::<Vec<AlertInfo>>("/v1/alerts"),
        api.get::<Vec<RegistryInfo>>("/v1/registries"),
        api.get::<SecretsInfo>("/v1/secrets"),
    )?;
    let apps: Vec<&AppName> = apps.iter().map(|app| &app.name).collect();
    Ok(html! {
        (heading("Settings", &html! { a.button href="/ui/settings/config" { "Config of all apps" } }))
        nav.on-this-page aria-label="On this page" { @for (id, words) in SECTIONS { a href={ "#" (id) } { (words) } } }
        (platform::section(&version, &controllers, autocreation, &cron))
        (platform::domains_section(&domains))
        (certificates::section(&acme, &acme_apps, &certificates))
        (requests(&proxy))
        (telling::drains_section(&drains, &apps))
        (telling::alerts_section(&alerts, &apps))
        (registries::section(&registries, &apps))
        (upkeep::section(&secrets))
    })
}

fn requests(proxy: &ProxyInfo) -> Markup {
    html! {
        section aria-labelledby="requests" {
            div.heading { h2 #requests { "Requests" } }
            p.summary { "How requests are treated where an app says nothing else." }
            div.cards-of-settings { (pages_card("/ui/settings/proxy/pages", proxy, true)) }
            details #all-settings {
                summary { "All settings of the proxy" }
                (proxy_table(proxy, true))
            }
            (proxy_dialog("/ui/settings/proxy"))
        }
    }
}

async fn proxy(visitor: Visitor, fields: Fields) -> Response {
    set_proxy(&visitor, &fields, "/v1/proxy", BACK).await
}

async fn pages(visitor: Visitor, fields: Fields) -> Response {
    set_page(&visitor, &fields, "/v1/proxy", BACK).await
}

/// All apps, or one of them, in a select.
fn whose<'a>(apps: &[&'a AppName]) -> Vec<(&'a str, &'a str)> {
    std::iter::once(("", "all apps")).chain(apps.iter().map(|app| (app.as_str(), app.as_str()))).collect()
}

/// The app that a select of [`whose`] names.
fn chosen(fields: &Fields) -> Result<Option<AppName>, Trouble> {
    let app = fields.some("app").map(|text| AppName::parse(&text)).transpose();
    app.map_err(|error| Trouble::invalid(error.to_string()))
}
