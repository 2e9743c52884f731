//! Networks: which apps reach each other.

use super::forms::{choice, hidden, needed};
use crate::Ui;
use crate::action::Fields;
use crate::page::{button, command, danger, dialog, empty, heading, opener};
use crate::session::Visitor;
use crate::show::{self, moment, part};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::api::AppInfo;
use berth_model::network::{CreateNetwork, NetworkInfo, PatchNetworks};
use berth_model::{AppName, NetworkName};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// The page's address.
const BACK: &str = "/ui/networks";
/// Apps of a network that are shown without being asked for.
const SHOWN: usize = 20;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route(BACK, get(page).post(create))
        .route("/ui/networks/{network}/attach", post(attach))
        .route("/ui/networks/{network}/detach", post(detach))
        .route("/ui/networks/{network}/destroy", post(destroy))
}

async fn page(visitor: Visitor) -> Response {
    visitor.show("Networks", async |visitor| view(&visitor).await).await
}

async fn view(visitor: &Visitor) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let (networks, apps) =
        tokio::try_join!(api.get::<Vec<NetworkInfo>>("/v1/networks"), api.get::<Vec<AppInfo>>("/v1/apps"))?;
    let apps: Vec<&AppName> = apps.iter().map(|app| &app.name).collect();
    Ok(html! {
        (heading("Networks", &html! {
            @if networks.len() > 8 { input #search type="search" data-filters=".networks > article" data-search placeholder="Search ( / )" aria-label="Search networks and apps"; }
            (opener("new-network", "New network", "primary"))
        }))
        p.summary {
            "Apps on one network reach each other by name: " code { "shop.internal" } " leads to what " code { "web" } " of the app shop runs, " code { "worker.shop.internal" } " to another process type. Others do not reach each other. Nothing is restarted."
        }
        @if networks.is_empty() { (empty("There is no network yet. Make one here, or on the machine:", &command("berth network:create backend"))) }
        div.networks.cards-of-settings { @for network in &networks { (card(network, &apps)) } }
        @for network in &networks {
            (attach_dialog(network, &apps))
            (danger(&format!("destroy-{}", network.name), "Destroy the network", &path(&network.name, "destroy"), "Destroy", network.name.as_str(),
                "No app is on it, so nothing changes for any."))
        }
        (dialog("new-network", "New network", BACK, "Create", &needed("network-name", "name", "Name", "", "Letters, digits and - _ ., such as backend.")))
    })
}

fn path(network: &NetworkName, verb: &str) -> String {
    format!("{BACK}/{}/{verb}", part(network.as_str()))
}

/// Apps that are not on it.
fn others<'a>(network: &NetworkInfo, apps: &[&'a AppName]) -> Vec<&'a AppName> {
    apps.iter().filter(|app| !network.apps.contains(**app)).copied().collect()
}

fn card(network: &NetworkInfo, apps: &[&AppName]) -> Markup {
    let name = &network.name;
    html! {
        article.card id={ "network-" (name) } {
            div.heading {
                h2 { (name) }
                span.dim { (show::count(network.apps.len(), "app", "apps")) ", made " (moment(network.created_ms)) }
            }
            @if network.apps.is_empty() { p.dim { "No app is on it." } }
            @else {
                (members(name, network.apps.iter().take(SHOWN)))
                @if network.apps.len() > SHOWN {
                    details id={ "more-of-" (name) } {
                        summary { (show::count(network.apps.len() - SHOWN, "more app", "more apps")) }
                        (members(name, network.apps.iter().skip(SHOWN)))
                    }
                }
            }
            div.buttons-left {
                @if !others(network, apps).is_empty() { (opener(&format!("attach-{name}"), "Add an app", "")) }
                @if network.apps.is_empty() { (opener(&format!("destroy-{name}"), "Destroy", "link bad")) }
            }
        }
    }
}

fn members<'a>(network: &NetworkName, apps: impl Iterator<Item = &'a AppName>) -> Markup {
    html! {
        ul.list { @for app in apps {
            li { a href={ "/ui/apps/" (app) } { (app) } " " (button(&path(network, "detach"), "Take off", "link bad", &[("app", app.as_str())])) }
        } }
    }
}

fn attach_dialog(network: &NetworkInfo, apps: &[&AppName]) -> Markup {
    let (name, others) = (&network.name, others(network, apps));
    let options: Vec<(&str, &str)> = others.iter().map(|app| (app.as_str(), app.as_str())).collect();
    let id = format!("attach-{name}");
    let fields = html! { (hidden("network", name.as_str())) (choice(&format!("{id}-app"), "app", "App", &options, "")) };
    dialog(&id, &format!("Add an app to {name}"), &path(name, "attach"), "Add", &fields)
}

fn named<T: std::str::FromStr<Err = berth_model::NameError>>(text: &str) -> Result<T, Trouble> {
    text.parse::<T>().map_err(|error| Trouble::invalid(error.to_string()))
}

async fn create(visitor: Visitor, fields: Fields) -> Response {
    match named(fields.text("name")) {
        Ok(name) => {
            fields.act(&visitor, Method::POST, "/v1/networks", Some(&CreateNetwork { name }), BACK).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

async fn change(visitor: &Visitor, fields: &Fields, patch: &PatchNetworks) -> Response {
    match named::<AppName>(fields.text("app")) {
        Ok(app) => {
            fields.act(visitor, Method::PATCH, &format!("/v1/apps/{app}/networks"), Some(patch), BACK).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

async fn attach(visitor: Visitor, Path(network): Path<NetworkName>, fields: Fields) -> Response {
    let patch = PatchNetworks { attach: BTreeSet::from([network]), ..PatchNetworks::default() };
    change(&visitor, &fields, &patch).await
}

async fn detach(visitor: Visitor, Path(network): Path<NetworkName>, fields: Fields) -> Response {
    let patch = PatchNetworks { detach: BTreeSet::from([network]), ..PatchNetworks::default() };
    change(&visitor, &fields, &patch).await
}

async fn destroy(visitor: Visitor, Path(network): Path<NetworkName>, fields: Fields) -> Response {
    if let Err(trouble) = fields.must_name(network.as_str()) {
        return fields.refuse(&trouble);
    }
    fields.act(&visitor, Method::DELETE, &format!("/v1/networks/{network}"), None::<&()>, BACK).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_apps_that_are_not_on_it_are_offered() {
        let name = |text: &str| AppName::parse(text).expect("a name");
        let (a, b) = (name("a"), name("b"));
        let network = NetworkInfo {
            name: NetworkName::parse("backend").expect("a name"),
            created_ms: 0,
            apps: BTreeSet::from([a.clone()]),
        };
        assert_eq!(others(&network, &[&a, &b]), [&b]);
    }
}
