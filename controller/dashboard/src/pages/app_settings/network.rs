//! The networks an app is on, its names there, and whom it reaches.

use super::super::forms::choice;
use super::{act, back};
use crate::action::Fields;
use crate::page::{button, dialog, opener};
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::network::{AppNetworksInfo, NetworkInfo, PatchNetworks};
use berth_model::{AppName, NetworkName};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// The section of the page.
pub(super) fn section(app: &AppName, own: &AppNetworksInfo, all: &[NetworkInfo]) -> Markup {
    let action = format!("{}/networks", back(app));
    let on = own.networks.all();
    let others: Vec<(&str, &str)> = all
        .iter()
        .filter(|one| !on.contains(&one.name))
        .map(|one| (one.name.as_str(), one.name.as_str()))
        .collect();
    html! {
        section aria-labelledby="networks" {
            div.heading {
                h2 #networks { "Networks" }
                div.actions { @if others.is_empty() { a href="/ui/networks" { "All networks" } } @else { (opener("attach", "Put on a network", "")) } }
            }
            @if on.is_empty() { p.dim { "On none: it reaches no other app, and none reaches it." } }
            @else {
                ul.list { @for name in &on { li { b { (name) } " " (button(&action, "Take off", "link bad", &[("detach", name.as_str())])) } } }
                dl.facts.below {
                    div { dt { "Its names" } dd { @if own.names.is_empty() { span.dim { "none yet" } } @else { (codes(own.names.iter().map(String::as_str))) } } }
                    div { dt { "Reaches" } dd { @if own.reaches.is_empty() { span.dim { "nobody else" } } @else { @for (index, app) in own.reaches.iter().enumerate() { @if index > 0 { ", " } a href={ "/ui/apps/" (app) } { (app) } } } } }
                }
            }
            @if !others.is_empty() { (dialog("attach", "Put on a network", &action, "Put on", &choice("attach-network", "attach", "Network", &others, ""))) }
        }
    }
}

fn codes<'a>(words: impl Iterator<Item = &'a str>) -> Markup {
    html! { @for (index, word) in words.enumerate() { @if index > 0 { ", " } code { (word) } } }
}

/// Puts the app on a network, or takes it off.
pub(super) async fn change(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let named = |name: &str| -> Result<BTreeSet<NetworkName>, Trouble> {
        let parsed = fields.some(name).map(|text| NetworkName::parse(&text)).transpose();
        Ok(parsed.map_err(|error| Trouble::invalid(error.to_string()))?.into_iter().collect())
    };
    let wanted = || {
        Ok(PatchNetworks { attach: named("attach")?, detach: named("detach")?, ..PatchNetworks::default() })
    };
    act(&visitor, &fields, (Method::PATCH, &format!("/v1/apps/{app}/networks")), wanted(), &back(&app)).await
}
