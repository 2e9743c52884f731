//! How requests are treated on their way to an app: the proxy's settings, who may enter, pages of one's own.

use super::super::forms::{choice, file, hidden, line, lines, needed, secret, switched, unix};
use super::{act, back};
use crate::action::Fields;
use crate::page::{button, dialog, opener};
use crate::session::Visitor;
use crate::show::{self, state};
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::proxy_api::{PatchProxy, ProxyInfo};
use berth_model::proxy_settings::{ERROR_PAGES, KEYS, Key, MAINTENANCE_PAGE, Scope};
use maud::{Markup, html};
use std::collections::BTreeMap;

/// The keys most apps ask for: words, hint, and what can be chosen (empty: typed).
const IMPORTANT: [(&str, &str, &str, &[&str]); 9] = [
    ("https-redirect", "From HTTP to HTTPS", "", &["auto", "on", "off"]),
    ("canonical-host", "One host for all", "one of the app's domains; the others are sent there", &[]),
    ("max-body-size", "Largest body", "50m, 2g or off", &[]),
    ("read-timeout", "Longest silence of a body", "90s, 15m", &[]),
    ("response-timeout", "Longest wait for an answer", "empty: as the silence of a body", &[]),
    ("rate-limit", "Requests of one client", "10/s, 100/m, 1000/h or off", &[]),
    ("allow-ips", "Only from these networks", "192.0.2.0/24, 2001:db8::/32; empty: from everywhere", &[]),
    ("sticky", "A client stays with its container", "", &["on", "off"]),
    ("scale-to-zero", "Put to sleep when nobody asks for", "15m or off", &[]),
];

/// What a key is about, in a few words.
fn about(key: &str) -> &'static str {
    match key {
        "access-log-format" => "how the access log is written",
        "allow-ips" => "only these networks may enter",
        "balance" => "which container gets a request",
        "canonical-host" => "the app's other domains are sent there",
        "circuit-failures" | "circuit-open" => {
            "failures in a row, and how long a container is then left alone"
        }
        "connect-timeout" => "TCP connect to a container",
        "default-app" => "gets requests for hosts that nothing has",
        "deny-ips" => "these networks may not enter",
        "health-path" | "health-interval" => "asked of every container; who fails twice is passed over",
        "hold-timeout" => "requests wait so long while no container is ready",
        "hsts" | "hsts-include-subdomains" | "hsts-max-age" | "hsts-preload" => {
            "Strict-Transport-Security, over TLS"
        }
        "https-redirect" => "auto: where the host has a certificate",
        "max-body-size" => "413 above it",
        "max-header-size" => "431 above it",
        "max-requests" => "in flight to one container; the rest waits",
        "queue-size" | "queue-timeout" => "how many wait, and how long: then 503",
        "rate-limit" | "rate-burst" => "of each client address; then 429",
        "read-timeout" => "between two reads or writes of a body",
        "redirect-code" => "auto: 301 for GET and HEAD, else 308",
        "response-timeout" => "from a request's end to its answer's head: then 504",
        "retries" => "on other containers, of what may be sent twice",
        "scale-to-zero" | "wake-timeout" => "stopped when nobody asks for it; a request starts it",
        "slow-start" => "a new container gets its full share after this time",
        "sticky" => "a client stays with its container",
        "total-timeout" => "a whole request with its answer",
        "trace-context" => "what becomes of traceparent",
        "trust-forwarded" => "proxies in front whose X-Forwarded fields are believed",
        _ => "",
    }
}

/// The section of the page.
pub(super) fn section(app: &AppName, proxy: &ProxyInfo) -> Markup {
    let at = |what: &str| format!("{}/{what}", back(app));
    let (on, words) = if proxy.maintenance { ("", "End it") } else { ("on", "Begin maintenance") };
    html! {
        section aria-labelledby="requests" {
            div.heading {
                h2 #requests { "Requests" }
                @if proxy.asleep { (state("asleep")) }
                div.actions { (opener("proxy-important", "Edit the usual", "")) }
            }
            @if proxy.paused_ms.is_some() {
                div.notice.with-action { p { "Requests are held." } (button(&at("proxy/go-on"), "Let them go on", "", &[])) }
            }
            div.cards-of-settings {
                article.card {
                    div.heading { h3 { "Maintenance" } (switched(proxy.maintenance, "warn")) }
                    p { @if proxy.maintenance { "Every request gets 503." } @else { "The app answers. In maintenance every request gets 503 and a page that says so." } }
                    div.buttons-left { (button(&at("maintenance"), words, "", &[("on", on)])) }
                }
                (users_card(app, proxy))
                (pages_card(&at("proxy/pages"), proxy, false))
            }
            details #all-settings {
                summary { "All settings of the proxy" @if !proxy.values.is_empty() { " (" (show::count(proxy.values.len(), "set here", "set here")) ")" } }
                (table(proxy, false))
            }
            (set_dialog(&at("proxy")))
            (dialog("proxy-important", "Requests", &at("proxy"), "Set", &important(proxy)))
        }
    }
}

/// Every key, what holds, and why; with the dialog that sets one.
pub(in crate::pages) fn table(proxy: &ProxyInfo, global: bool) -> Markup {
    let other = if global { Scope::App } else { Scope::Global };
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Setting" } th scope="col" { "Holds" } th scope="col" { "From" } th scope="col" { "About" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for key in KEYS.iter().filter(|key| key.scope != other) { (row(key, proxy, global)) } }
        } }
    }
}

fn row(key: &Key, proxy: &ProxyInfo, global: bool) -> Markup {
    let holds = proxy.effective.get(key.name).map_or("", String::as_str);
    let own = proxy.values.get(key.name).map(String::as_str);
    let from = match own {
        Some(_) if global => "set",
        Some(_) => "own",
        None if holds != key.default => "all apps",
        None => "default",
    };
    html! {
        tr id={ "proxy-" (key.name) } {
            th scope="row" { code { (key.name) } }
            td data-label="Holds" { @if holds.is_empty() { span.dim { "–" } } @else { code { (holds) } } }
            td data-label="From" { @if own.is_some() { (from) } @else { span.dim { (from) } } }
            td.dim { (about(key.name)) }
            td.row-actions {
                button.link type="button" data-opens="proxy-set" data-with-key=(key.name) data-with-value=(own.unwrap_or_default())
                    data-with-default=(if key.default.is_empty() { "nothing" } else { key.default }) { "Set" span.hidden { " " (key.name) } }
            }
        }
    }
}

/// Sets one key.
pub(in crate::pages) fn set_dialog(action: &str) -> Markup {
    dialog(
        "proxy-set",
        "Set",
        action,
        "Set",
        &html! {
            (hidden("key", ""))
            p { code data-shows="key" {} ", by default " code data-shows="default" {} }
            (line("proxy-value", "value", "Value", "", "Empty: what holds without it. Times as 500ms, 90s, 15m; sizes as 512k, 50m, 2g. Nothing restarts."))
        },
    )
}

fn important(proxy: &ProxyInfo) -> Markup {
    html! {
        p.hint { "Empty: what holds without it. Nothing restarts." }
        div.two { @for (key, words, hint, choices) in IMPORTANT {
            @let id = format!("important-{key}");
            @let own = proxy.values.get(key).map_or("", String::as_str);
            @let holds = proxy.effective.get(key).filter(|holds| own.is_empty() && !holds.is_empty());
            div {
                @if choices.is_empty() { (line(&id, key, words, own, &holds.map_or(hint.to_owned(), |holds| format!("{hint} (now {holds})")))) }
                @else {
                    @let otherwise = holds.map_or("not set".to_owned(), |holds| format!("not set: {holds}"));
                    @let options: Vec<(&str, &str)> = std::iter::once(("", otherwise.as_str())).chain(choices.iter().map(|one| (*one, *one))).collect();
                    (choice(&id, key, words, &options, own))
                }
            }
        } }
    }
}

fn users_card(app: &AppName, proxy: &ProxyInfo) -> Markup {
    let action = format!("{}/proxy/users", back(app));
    html! {
        article.card {
            div.heading { h3 { "Who may enter" } div.actions { (opener("proxy-user", "Add a user", "link")) } }
            @if proxy.users.is_empty() { p.dim { "Everybody. With a user, a browser asks for a name and password (basic authentication)." } }
            @else { ul.list { @for user in &proxy.users { li { b { (user) } " " (button(&action, "Remove", "link bad", &[("user", user), ("remove", "1")])) } } } }
            (dialog("proxy-user", "Add a user", &action, "Add", &html! {
                (needed("proxy-user-name", "user", "Name", "", "One that is there gets the new password."))
                (secret("proxy-user-password", "password", "Password", "At most 72 bytes. Only a hash of it is kept."))
            }))
        }
    }
}

/// Pages in place of the proxy's own; only apps have one of maintenance.
pub(in crate::pages) fn pages_card(action: &str, proxy: &ProxyInfo, global: bool) -> Markup {
    let statuses: Vec<String> = ERROR_PAGES.iter().map(ToString::to_string).collect();
    let mut options: Vec<(&str, &str)> =
        statuses.iter().map(|status| (status.as_str(), status.as_str())).collect();
    if !global {
        options.insert(0, (MAINTENANCE_PAGE, "maintenance"));
    }
    html! {
        article.card {
            div.heading { h3 { "Pages in place of the proxy's" } div.actions { (opener("proxy-page", "Set a page", "link")) } }
            @if proxy.pages.is_empty() { p.dim { "None: the proxy shows its own " @if !global { "in maintenance and " } "for errors." } }
            @else { ul.list { @for page in &proxy.pages { li { b { (page) } " " (button(action, "Remove", "link bad", &[("page", page), ("remove", "1")])) } } } }
            (dialog("proxy-page", "Set a page", action, "Set", &html! {
                (choice("proxy-page-name", "page", "For", &options, ""))
                (lines("proxy-page-html", "html", "HTML", "", 6, "Up to 64 KiB."))
                (file("proxy-page-file", "proxy-page-html", "or a file"))
            }))
        }
    }
}

/// Keys and values of a form: of one key that it names, or of those that it has fields for.
fn set_of(fields: &Fields, now: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Trouble> {
    if let Some(key) = fields.some("key") {
        return Ok(BTreeMap::from([(key, fields.text("value").to_owned())]));
    }
    let typed = IMPORTANT.iter().filter(|(key, ..)| fields.all(key).next().is_some());
    let changed = typed.filter(|(key, ..)| now.get(*key).map_or("", String::as_str) != fields.text(key));
    Ok(changed.map(|(key, ..)| ((*key).to_owned(), fields.text(key).to_owned())).collect())
}

/// Sets keys; `path` is of an app or of the platform.
pub(in crate::pages) async fn set(visitor: &Visitor, fields: &Fields, path: &str, then: &str) -> Response {
    let wanted = async || -> Result<PatchProxy, Trouble> {
        let now = visitor.api.get::<ProxyInfo>(path).await?;
        Ok(PatchProxy { set: set_of(fields, &now.values)?, ..PatchProxy::default() })
    };
    act(visitor, fields, (Method::PATCH, path), wanted().await, then).await
}

async fn patch(visitor: &Visitor, app: &AppName, fields: &Fields, patch: &PatchProxy) -> Response {
    fields.act(visitor, Method::PATCH, &format!("/v1/apps/{app}/proxy"), Some(patch), &back(app)).await
}

/// Sets keys of an app.
pub(super) async fn set_of_app(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    set(&visitor, &fields, &format!("/v1/apps/{app}/proxy"), &back(&app)).await
}

/// Begins or ends maintenance.
pub(super) async fn maintenance(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = PatchProxy { maintenance: Some(fields.is_on("on")), ..PatchProxy::default() };
    patch(&visitor, &app, &fields, &wanted).await
}

/// Lets held requests go on.
pub(super) async fn go_on(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    patch(&visitor, &app, &fields, &PatchProxy { pause_ms: Some(0), ..PatchProxy::default() }).await
}

/// Lets a user in, or not any more.
pub(super) async fn users(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let password = match (fields.is_on("remove"), fields.raw("password")) {
        (true, _) => None,
        (false, "") => return fields.refuse(&Trouble::invalid("a user needs a password")),
        (false, password) => Some(password.to_owned()),
    };
    let users = BTreeMap::from([(fields.text("user").to_owned(), password)]);
    patch(&visitor, &app, &fields, &PatchProxy { users, ..PatchProxy::default() }).await
}

/// Sets a page, or takes it away; `path` is of an app or of the platform.
pub(in crate::pages) async fn set_page(
    visitor: &Visitor,
    fields: &Fields,
    path: &str,
    then: &str,
) -> Response {
    let html = (!fields.is_on("remove")).then(|| unix(fields.raw("html")));
    if html.as_ref().is_some_and(String::is_empty) {
        return fields.refuse(&Trouble::invalid("the page is empty"));
    }
    let pages = BTreeMap::from([(fields.text("page").to_owned(), html)]);
    fields.act(visitor, Method::PATCH, path, Some(&PatchProxy { pages, ..PatchProxy::default() }), then).await
}

/// Sets a page of an app, or takes it away.
pub(super) async fn pages(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    set_page(&visitor, &fields, &format!("/v1/apps/{app}/proxy"), &back(&app)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::proxy_settings::find;

    #[test]
    fn every_key_is_told_of_and_the_usual_ones_are_there() {
        for key in KEYS {
            assert!(!about(key.name).is_empty(), "{}", key.name);
        }
        for (key, .., choices) in IMPORTANT {
            let found = find(key).expect("a key");
            for value in choices {
                assert!(berth_model::proxy_settings::check(found, value).is_ok(), "{key}={value}");
            }
        }
    }

    #[test]
    fn a_row_says_where_its_value_is_from() {
        let value = |text: &str| BTreeMap::from([("read-timeout".to_owned(), text.to_owned())]);
        let key = find("read-timeout").expect("a key");
        let from = |values: BTreeMap<String, String>, effective: BTreeMap<String, String>| {
            row(key, &ProxyInfo { values, effective, ..ProxyInfo::default() }, false).into_string()
        };
        assert!(from(value("5m"), value("5m")).contains(">own<"));
        assert!(from(BTreeMap::new(), value("5m")).contains(">all apps<"));
        assert!(from(BTreeMap::new(), value("1m")).contains(">default<"));
    }
}
