//! Names that lead to an app, and what else does: paths of other hosts, redirects, ports of the proxy.

use super::super::forms::{choice, hidden, line, needed, tick};
use super::back;
use crate::action::Fields;
use crate::page::{button, command, dialog, empty, opener};
use crate::session::Visitor;
use crate::show::state;
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::api::{AppInfo, Domains, PatchApp, PatchDomains};
use berth_model::certs::CertificateReport;
use berth_model::policy::{PathPrefix, Redirect};
use berth_model::ports::PortMapping;
use berth_model::proxy_api::{PatchProxy, ProxyInfo};
use berth_model::proxy_settings::AppPath;
use berth_model::{AppName, HostPattern};
use maud::{Markup, html};

/// A host's name as people type it; the API wants lower case.
fn host(fields: &Fields, name: &str) -> Result<HostPattern, Trouble> {
    HostPattern::parse(&fields.text(name).to_ascii_lowercase())
        .map_err(|error| Trouble::invalid(error.to_string()))
}

/// The address of `host`, if it has one: the URL that the API computed for it.
fn url_of<'a>(info: &'a AppInfo, host: &HostPattern) -> Option<&'a String> {
    let is_of = |url: &&String| {
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let name = rest.split(['/', ':']).next().unwrap_or_default();
        name == host.as_str()
    };
    // The last one is that of TLS, if there are two.
    info.urls.iter().rfind(is_of)
}

/// Own domains, the default one, and whether each has a certificate.
pub(super) fn domains(info: &AppInfo, domains: &Domains, report: &CertificateReport) -> Markup {
    let app = &info.name;
    let (on, words) = if domains.default_enabled { ("off", "Turn off") } else { ("on", "Turn on") };
    html! {
        section aria-labelledby="domains" {
            div.heading { h2 #domains { "Domains" } div.actions { (opener("add-domain", "Add domain", "primary")) } }
            @if domains.effective.is_empty() {
                (empty("No name leads to this app. Add a domain, or turn the default one on; for one that every app gets a name below, on the machine:",
                    &command("berth domains:add-global example.com")))
            } @else {
                div.wide { table.cards {
                    thead { tr { th scope="col" { "Name" } th scope="col" { "From" } th scope="col" { "Certificate" } th scope="col" { span.hidden { "Actions" } } } }
                    tbody { @for name in &domains.effective {
                        @let own = domains.domains.contains(name);
                        tr id={ "domain-" (name) } {
                            th scope="row" { @match url_of(info, name) { Some(url) => a href=(url) rel="noopener noreferrer" target="_blank" { (name) }, None => (name) } }
                            td data-label="From" { @if own { "own" } @else { span.dim { "default domain" } } }
                            td data-label="Certificate" { @if report.covered.contains(name) { (state("ok")) } @else { span.dim { "none" } } }
                            td.row-actions { @if own {
                                button.link.bad type="button" data-opens="remove-domain" data-with-remove=(name) { "Remove" span.hidden { " " (name) } }
                            } }
                        }
                    } }
                } }
            }
            div.buttons-left.below {
                span { "Default domain (" code { (app) ".‹global domain›" } "): " b { @if domains.default_enabled { "on" } @else { "off" } } }
                (button(&back(app), words, "", &[("default", on)]))
                a href="/ui/settings#domains" { "Global domains" }
            }
            (dialog("add-domain", "Add domain", &back(app), "Add", &needed("new-domain", "add", "Domain", "", "Such as www.example.com or *.example.com. Its DNS has to lead to this machine.")))
            (dialog("remove-domain", "Remove domain", &back(app), "Remove", &html! { (hidden("remove", "")) p { b data-shows="remove" {} " will not lead to " (app) " any more." } }))
        }
    }
}

/// What leads to the app beside its domains.
pub(super) fn more(info: &AppInfo, domains: &Domains, proxy: &ProxyInfo) -> Markup {
    html! {
        section aria-labelledby="ports" {
            div.heading { h2 #ports { "Ports" } div.actions { (opener("add-port", "Add port", "")) } }
            @if info.ports.is_empty() {
                p.dim { "The proxy's HTTP and HTTPS ports lead to the port that " code { "web" } " gets as " code { "PORT" } "." }
            } @else { (port_list(info)) }
            (dialog("add-port", "Add port", &format!("{}/ports", back(&info.name)), "Add", &html! {
                (choice("port-scheme", "scheme", "What is spoken", &SCHEMES, "http"))
                div.two {
                    div { (needed("port-outside", "port", "Port of the proxy", "", "80 and 443 are its main ones.")) }
                    div { (needed("port-inside", "container_port", "Port of the containers", "", "")) }
                }
            }))
        }
        (elsewhere(info, domains, proxy))
    }
}

const SCHEMES: [(&str, &str); 7] = [
    ("http", "http: led by host"),
    ("https", "https: the same over TLS, which the proxy ends"),
    ("grpc", "grpc: HTTP/2 without TLS"),
    ("grpcs", "grpcs: the same over TLS"),
    ("tcp", "tcp: the whole port"),
    ("tls", "tls: TLS that the app ends, led by server name"),
    ("udp", "udp: the whole port"),
];

fn port_list(info: &AppInfo) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Spoken" } th.n scope="col" { "Port of the proxy" } th.n scope="col" { "Port of the containers" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for port in &info.ports {
                tr {
                    th scope="row" { (port.scheme.as_str()) }
                    td.n data-label="Port of the proxy" { (port.port) }
                    td.n data-label="Port of the containers" { (port.container_port) }
                    td.row-actions { (button(&format!("{}/ports", back(&info.name)), "Remove", "link bad", &[("remove", &port.to_string())])) }
                }
            } }
        } }
    }
}

fn elsewhere(info: &AppInfo, domains: &Domains, proxy: &ProxyInfo) -> Markup {
    let (paths, redirects) =
        (format!("{}/paths", back(&info.name)), format!("{}/redirects", back(&info.name)));
    let example = domains.domains.first().map_or("www.example.com", HostPattern::as_str);
    html! {
        section aria-labelledby="paths" {
            div.heading { h2 #paths { "Paths" } div.actions { (opener("add-path", "Add path", "")) } }
            @if proxy.paths.is_empty() { p.dim { "No path of another host leads to this app." } }
            @else { ul.list { @for path in &proxy.paths {
                li {
                    code { (path.host) (path.prefix.as_str()) } @if path.strip { span.dim { " without " (path.prefix.as_str()) } } " "
                    (button(&paths, "Remove", "link bad", &[("remove", "1"), ("host", path.host.as_str()), ("prefix", path.prefix.as_str()), ("strip", if path.strip { "on" } else { "" })]))
                }
            } } }
            (dialog("add-path", "Add path", &paths, "Add", &html! {
                (needed("path-host", "host", "Host", "", "Such as www.example.com: one of another app, too."))
                (needed("path-prefix", "prefix", "Path", "", "Such as /api: all below it leads to this app."))
                (tick("path-strip", "strip", "The app gets the path without it", false))
            }))
        }
        section aria-labelledby="redirects" {
            div.heading { h2 #redirects { "Redirects" } div.actions { (opener("add-redirect", "Add redirect", "")) } }
            @if proxy.redirects.is_empty() { p.dim { "No host of this app leads elsewhere." } }
            @else { ul.list { @for one in &proxy.redirects {
                li { code { (one.from) } " → " code { (one.to) } " " span.dim { (one.status) } " " (button(&redirects, "Remove", "link bad", &[("remove", one.from.as_str())])) }
            } } }
            (dialog("add-redirect", "Add redirect", &redirects, "Add", &html! {
                (needed("redirect-from", "from", "From", "", &format!("A domain of this app, such as {example}.")))
                (line("redirect-to", "to", "To", "", "A host; path and query stay."))
                (choice("redirect-status", "status", "Status", &[("301", "301 for good"), ("302", "302 for now"), ("307", "307 for now, same method"), ("308", "308 for good, same method")], "301"))
            }))
        }
    }
}

/// Adds or removes a domain, or turns the default one on or off.
pub(super) async fn change(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = || -> Result<PatchDomains, Trouble> {
        let mut patch = PatchDomains::default();
        if fields.some("add").is_some() {
            patch.add.push(host(&fields, "add")?);
        }
        if fields.some("remove").is_some() {
            patch.remove.push(host(&fields, "remove")?);
        }
        patch.default_enabled = fields.some("default").map(|word| word == "on");
        Ok(patch)
    };
    match wanted() {
        Ok(patch) => {
            fields
                .act(&visitor, Method::PATCH, &format!("/v1/apps/{app}/domains"), Some(&patch), &back(&app))
                .await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// Leads a path to the app, or not any more.
pub(super) async fn paths(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = || -> Result<AppPath, Trouble> {
        let prefix = PathPrefix::parse(fields.text("prefix")).map_err(Trouble::invalid)?;
        Ok(AppPath { host: host(&fields, "host")?, prefix, strip: fields.is_on("strip") })
    };
    let path = match wanted() {
        Ok(path) => vec![path],
        Err(trouble) => return fields.refuse(&trouble),
    };
    let patch = match fields.is_on("remove") {
        true => PatchProxy { remove_paths: path, ..PatchProxy::default() },
        false => PatchProxy { add_paths: path, ..PatchProxy::default() },
    };
    fields.act(&visitor, Method::PATCH, &format!("/v1/apps/{app}/proxy"), Some(&patch), &back(&app)).await
}

/// Sends a host elsewhere, or not any more.
pub(super) async fn redirects(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}/proxy");
    let wanted = async || -> Result<PatchProxy, Trouble> {
        let mut all = visitor.api.get::<ProxyInfo>(&path).await?.redirects;
        match fields.some("remove") {
            Some(gone) => all.retain(|one| one.from.as_str() != gone),
            None => {
                let (from, to) = (host(&fields, "from")?, host(&fields, "to")?);
                let status = fields.parsed("status", "status of a redirect")?;
                all.retain(|one| one.from != from);
                all.push(Redirect { from, to, status });
            }
        }
        Ok(PatchProxy { redirects: Some(all), ..PatchProxy::default() })
    };
    match wanted().await {
        Ok(patch) => fields.act(&visitor, Method::PATCH, &path, Some(&patch), &back(&app)).await,
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// Leads a port to the app, or not any more.
pub(super) async fn ports(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}");
    let wanted = async || -> Result<PatchApp, Trouble> {
        let mut all = visitor.api.get::<AppInfo>(&path).await?.ports;
        match fields.some("remove") {
            Some(gone) => all.retain(|one| one.to_string() != gone),
            None => {
                let text = format!(
                    "{}:{}:{}",
                    fields.text("scheme"),
                    fields.text("port"),
                    fields.text("container_port")
                );
                all.push(text.parse::<PortMapping>().map_err(|error| Trouble::invalid(error.to_string()))?);
            }
        }
        Ok(PatchApp { ports: Some(all), ..PatchApp::default() })
    };
    match wanted().await {
        Ok(patch) => fields.act(&visitor, Method::PATCH, &path, Some(&patch), &back(&app)).await,
        Err(trouble) => fields.refuse(&trouble),
    }
}
