//! Certificates that come by themselves (ACME, RFC 8555): whether, how it goes, and what has to be set first.

use super::super::forms::{choice, fact, file, hidden, line, lines, secret, set_or, switched, tick};
use super::back;
use super::certificate::until;
use crate::action::Fields;
use crate::page::{button, danger, dialog, opener};
use crate::session::Visitor;
use crate::show::{moment, state};
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::certs::{AcmeInfo, AcmeOrder, AcmeSettingsInfo, AcmeSettingsView, PatchAcme};
use maud::{Markup, html};
use serde_json::json;

/// The section of the page.
pub(super) fn section(app: &AppName, acme: &AcmeInfo, all: &AcmeSettingsInfo) -> Markup {
    let action = format!("{}/acme", back(app));
    let ready = all.effective.email.is_some();
    html! {
        section aria-labelledby="acme" {
            div.heading {
                h2 #acme { "Certificates by themselves (ACME)" }
                (switched(acme.enabled, "good"))
                div.actions {
                    (opener("acme-settings", "Settings", ""))
                    @if acme.enabled {
                        (button(&format!("{action}/renew"), "Try and renew now", "", &[]))
                        (opener("acme-disable", "Turn off", ""))
                        (opener("acme-revoke", "Revoke", ""))
                    } @else if ready { (button(&format!("{action}/enable"), "Turn on", "primary", &[])) }
                }
            }
            @if !ready {
                div.notice.with-action {
                    p { "The server of ACME wants an e-mail address before it gives certificates. Setting one agrees to its terms of service." }
                    (opener("acme-email", "Set an address", "primary"))
                }
                (dialog("acme-email", "Address for ACME", "/ui/settings/acme", "Set for all apps", &html! {
                    (hidden("back", app.as_str()))
                    label for="acme-email-field" { "E-mail" }
                    input #acme-email-field name="email" type="email" required autocomplete="off";
                    p.hint { "The server writes there when something is wrong. Setting it agrees to the server's terms of service." }
                }))
            }
            @if !acme.orders.is_empty() { (orders(&acme.orders)) }
            @else if acme.enabled { p.dim { "Nothing to get: no domain of this app can have a certificate." } }
            @else if ready { p.dim { "Turned on, Berth gets certificates for the app's domains and renews them in time." } }
            @if !acme.skipped.is_empty() {
                h3 { "Left out" }
                ul.list { @for one in &acme.skipped { li { b { (one.domain) } ": " (one.reason) } } }
            }
            (settings(all))
            (dialog("acme-settings", "Settings of ACME", &action, "Set", &fields("acme", &all.own, Some(&all.effective))))
            (danger("acme-disable", "Turn ACME off", &format!("{action}/disable"), "Turn off", app.as_str(),
                "No certificates are got for this app any more, and those that were are taken away."))
            (danger("acme-revoke", "Revoke the certificates", &format!("{action}/revoke"), "Revoke", app.as_str(),
                "The authority declares this app's certificates void, for good, and no new ones are got. For keys that became known."))
        }
    }
}

fn word(order: &AcmeOrder) -> &'static str {
    match (order.under_way, order.failures, order.expires_ms) {
        (true, ..) => "pending",
        (_, 1.., _) => "failed",
        (_, _, Some(_)) => "ok",
        _ => "waiting",
    }
}

fn orders(orders: &[AcmeOrder]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Names" } th scope="col" { "State" } th scope="col" { "Until" } th scope="col" { "Next" } } }
            tbody { @for one in orders {
                tr {
                    th scope="row" { (one.names.join(", ")) @if one.on_demand { span.dim { " on demand" } } }
                    td {
                        (state(word(one)))
                        @if one.failures > 0 { " " span.dim { (crate::show::count(one.failures as usize, "try", "tries")) } }
                        @if let Some(error) = &one.error { p.wrong { (error) } }
                    }
                    td data-label="Until" { @match one.expires_ms { Some(end) => (until(end)), None => span.dim { "none yet" } } }
                    td data-label="Next" { @match one.next_ms { Some(next) => (moment(next)), None => "–" } }
                }
            } }
        } }
    }
}

/// What holds, and whether it is the own setting.
pub(in crate::pages) fn settings(all: &AcmeSettingsInfo) -> Markup {
    let (own, holds) = (&all.own, &all.effective);
    let row = |words: &str, own: Option<&String>, holds: Option<&String>| {
        fact(words, &set_or(own.map(String::as_str), holds.map_or("none", String::as_str)))
    };
    html! {
        dl.facts.acme-facts {
            (row("E-mail", own.email.as_ref(), holds.email.as_ref()))
            (row("Server", own.server.as_ref(), holds.server.as_ref()))
            (row("Challenge", own.challenge.as_ref(), holds.challenge.as_ref()))
            @if holds.dns_provider.is_some() {
                (row("DNS provider", own.dns_provider.as_ref(), holds.dns_provider.as_ref()))
                (fact("DNS token", &html! { @if holds.dns_token { "set" } @else { span.dim { "none" } } }))
            }
            @if holds.ask_url.is_some() { (row("Asked about names", own.ask_url.as_ref(), holds.ask_url.as_ref())) }
            @if holds.eab_key_id.is_some() { (row("External account", own.eab_key_id.as_ref(), holds.eab_key_id.as_ref())) }
            @if !holds.ca_bundle.is_empty() { (fact("Also trusted", &html! { (holds.ca_bundle.join("; ")) })) }
        }
    }
}

/// What is set in a form, with what holds where nothing is.
pub(in crate::pages) fn fields(id: &str, own: &AcmeSettingsView, holds: Option<&AcmeSettingsView>) -> Markup {
    let at = |name: &str| format!("{id}-{name}");
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let else_holds = |value: fn(&AcmeSettingsView) -> &Option<String>| {
        let value = holds.and_then(|holds| value(holds).clone());
        value.map_or_else(String::new, |value| format!("Empty: {value}"))
    };
    let challenges = [
        ("", "as it is set for all apps, else auto"),
        ("auto", "auto"),
        ("http-01", "http-01"),
        ("tls-alpn-01", "tls-alpn-01"),
        ("dns-01", "dns-01: for wildcards"),
    ];
    let wait = own.dns_wait.map(|secs| secs.to_string()).unwrap_or_default();
    html! {
        (line(&at("email"), "email", "E-mail", &text(&own.email), &else_holds(|one| &one.email)))
        (line(&at("server"), "server", "Server", &text(&own.server), "production or staging (of Let's Encrypt), or a directory URL."))
        (choice(&at("challenge"), "challenge", "Challenge", &challenges, own.challenge.as_deref().unwrap_or_default()))
        details {
            summary { "DNS, on demand, external account, trust" }
            (line(&at("provider"), "dns_provider", "DNS provider", &text(&own.dns_provider), "A URL. A program can only be named on the machine itself."))
            (secret(&at("dns-token"), "dns_token", "Token for it", if own.dns_token { "One is set; empty leaves it." } else { "" }))
            @if own.dns_token { (tick(&at("dns-forget"), "forget_dns_token", "Forget the token", false)) }
            (line(&at("wait"), "dns_wait", "Seconds from a record to the challenge", &wait, "Up to 3600."))
            (line(&at("ask"), "ask_url", "Who is asked about names nobody listed", &text(&own.ask_url), "A URL; with it certificates are got on demand."))
            (line(&at("eab"), "eab_key_id", "External account: key id", &text(&own.eab_key_id), ""))
            (secret(&at("eab-key"), "eab_key", "External account: key", "base64url; empty leaves what there is."))
            (lines(&at("ca"), "ca_bundle", "Authorities that servers are trusted by besides the system's (PEM)", "", 3, if own.ca_bundle.is_empty() { "" } else { "Some are set; empty leaves them." }))
            (file(&at("ca-file"), &at("ca"), "or a file"))
            @if !own.ca_bundle.is_empty() { (tick(&at("ca-forget"), "forget_ca_bundle", "Forget them", false)) }
        }
    }
}

/// What a form of [`fields`] asks for. What has no field stays; secrets stay where nothing was typed.
pub(in crate::pages) fn patch(fields: &Fields) -> PatchAcme {
    let shown = |name: &str| fields.all(name).next().is_some().then(|| fields.text(name).to_owned());
    let kept = |name: &str| match fields.is_on(&format!("forget_{name}")) {
        true => Some(String::new()),
        false => fields.some(name),
    };
    PatchAcme {
        email: shown("email"),
        server: shown("server"),
        challenge: shown("challenge"),
        dns_provider: shown("dns_provider"),
        dns_token: kept("dns_token"),
        dns_wait: shown("dns_wait"),
        ask_url: shown("ask_url"),
        ca_bundle: kept("ca_bundle"),
        eab_key_id: shown("eab_key_id"),
        eab_key: kept("eab_key"),
    }
}

/// Changes the app's settings.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}/acme");
    fields.act(&visitor, Method::PATCH, &path, Some(&patch(&fields)), &back(&app)).await
}

/// Turns it on or off, renews, revokes.
pub(super) async fn act(
    visitor: Visitor,
    Path((app, verb)): Path<(AppName, String)>,
    fields: Fields,
) -> Response {
    let sure = match verb.as_str() {
        "enable" | "renew" => Ok(()),
        "disable" | "revoke" => fields.must_name(app.as_str()),
        _ => Err(Trouble::not_found("There is no such thing to do.")),
    };
    match sure {
        Ok(()) => {
            let path = format!("/v1/apps/{app}/acme/{verb}");
            fields.act(&visitor, Method::POST, &path, Some(&json!({})), &back(&app)).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_called_by_how_it_goes() {
        let order = |under_way, failures, expires_ms| AcmeOrder {
            under_way,
            failures,
            expires_ms,
            ..AcmeOrder::default()
        };
        assert_eq!(word(&order(true, 3, None)), "pending");
        assert_eq!(word(&order(false, 3, Some(1))), "failed");
        assert_eq!(word(&order(false, 0, Some(1))), "ok");
        assert_eq!(word(&order(false, 0, None)), "waiting");
    }
}
