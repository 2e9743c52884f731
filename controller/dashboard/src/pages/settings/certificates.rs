//! Certificates of the platform, and how ACME goes for all apps.

use super::super::domains::{
    acme_fields, acme_patch, acme_settings, names, pem_fields, put_certificate, until,
};
use super::super::forms::hidden;
use super::BACK;
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::session::Visitor;
use crate::show::{count, part, state};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::certs::{AcmeApp, AcmeSettingsInfo, CertificateInfo};
use maud::{Markup, html};

/// The section of the page.
pub(super) fn section(acme: &AcmeSettingsInfo, apps: &[AcmeApp], certificates: &[CertificateInfo]) -> Markup {
    html! {
        section aria-labelledby="certificates" {
            div.heading { h2 #certificates { "Certificates" } div.actions { (opener("upload", "Upload", "")) } }
            p.summary { "These are presented for every app whose names they cover and that has none of its own." }
            @if certificates.is_empty() { p.dim { "None were uploaded." } } @else { (table(certificates)) }
            div.heading.below { h3 #acme { "ACME" } div.actions { (opener("acme-settings", "Settings", "")) } }
            @if acme.effective.email.is_none() {
                div.notice.with-action {
                    p { "No e-mail address is set: no app can get certificates by itself. Setting one agrees to the server's terms of service." }
                    (opener("acme-settings", "Set an address", "primary"))
                }
            }
            (acme_settings(acme))
            @if apps.is_empty() { p.dim { "No app gets certificates by itself. It is turned on at an app's domains." } } @else { (acme_table(apps)) }
            (dialog("upload", "Upload a certificate", "/ui/settings/certificates", "Keep it", &pem_fields("upload")))
            (dialog("remove-certificate", "Remove the certificate", "/ui/settings/certificates/remove", "Remove", &html! {
                (hidden("id", "")) p { "The certificate of " b data-shows="names" {} " and its key will be gone." }
            }))
            (dialog("acme-settings", "Settings of ACME", "/ui/settings/acme", "Set", &acme_fields("acme", &acme.own, None)))
        }
    }
}

fn table(certificates: &[CertificateInfo]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Names" } th scope="col" { "Until" } th scope="col" { "Issuer" } th scope="col" { "Checked" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for one in certificates {
                @let all = one.hostnames.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tr id={ "certificate-" (one.id) } {
                    th scope="row" { (names(&one.hostnames)) }
                    td data-label="Until" { (until(one.expires_ms)) }
                    td data-label="Issuer" { (one.issuer) }
                    td data-label="Checked" { (one.verified) }
                    td.row-actions { button.link.bad type="button" data-opens="remove-certificate" data-with-id=(one.id) data-with-names=(all) { "Remove" span.hidden { " that of " (all) } } }
                }
            } }
        } }
    }
}

fn acme_table(apps: &[AcmeApp]) -> Markup {
    html! {
        div.wide.below { table.cards {
            thead { tr { th scope="col" { "App" } th.n scope="col" { "Certificates" } th scope="col" { "State" } th scope="col" { "Trouble" } } }
            tbody { @for one in apps {
                @let failed = one.acme.orders.iter().filter(|order| order.failures > 0).count();
                tr {
                    th scope="row" { a href={ "/ui/apps/" (one.app) "/domains#acme" } { (one.app) } }
                    td.n data-label="Certificates" { (one.acme.orders.iter().filter(|order| order.expires_ms.is_some()).count()) " of " (one.acme.orders.len()) }
                    td data-label="State" { (state(if failed > 0 { "failed" } else { "ok" })) }
                    td data-label="Trouble" {
                        @if let Some(error) = one.acme.orders.iter().find_map(|order| order.error.as_ref()) { (error) }
                        @else if !one.acme.skipped.is_empty() { (count(one.acme.skipped.len(), "domain is", "domains are")) " left out" }
                        @else { span.dim { "none" } }
                    }
                }
            } }
        } }
    }
}

/// Changes settings for all apps. A page of an app asks for the address, too, and is gone on with.
pub(super) async fn acme(visitor: Visitor, fields: Fields) -> Response {
    let then =
        AppName::parse(fields.text("back")).map_or(BACK.to_owned(), |app| format!("/ui/apps/{app}/domains"));
    fields.act(&visitor, Method::PATCH, "/v1/acme", Some(&acme_patch(&fields)), &then).await
}

/// Keeps an uploaded one.
pub(super) async fn add(visitor: Visitor, fields: Fields) -> Response {
    match put_certificate(&fields) {
        Ok(given) => fields.act(&visitor, Method::POST, "/v1/certificates", Some(&given), BACK).await,
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// Takes one away.
pub(super) async fn remove(visitor: Visitor, fields: Fields) -> Response {
    let path = format!("/v1/certificates/{}", part(fields.text("id")));
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, BACK).await
}
