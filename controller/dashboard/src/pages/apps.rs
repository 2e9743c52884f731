//! All apps at a glance, and how to get the first one here.

use super::forms::choice;
use super::samples;
use crate::Ui;
use crate::action::Fields;
use crate::page::{command, dialog, heading};
use crate::session::Visitor;
use crate::show::{self, bytes, cpus, latency, percent, rate, state};
use crate::trouble::Trouble;
use axum::Router;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_model::api::{AppInfo, VersionInfo};
use berth_model::metrics::Usage;
use berth_model::traffic::TrafficNow;
use maud::{Markup, html};
use std::collections::BTreeMap;

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/apps", get(list).post(create))
}

async fn list(visitor: Visitor) -> Response {
    visitor.show("Apps", async |visitor| view(&visitor).await).await
}

/// What all containers of an app use.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    containers: u64,
    cpu_millis: u64,
    memory_bytes: u64,
}

async fn view(visitor: &Visitor) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let (apps, traffic, top) = tokio::try_join!(
        api.get::<Vec<AppInfo>>("/v1/apps"),
        api.get::<Vec<TrafficNow>>("/v1/traffic"),
        api.get::<Vec<Usage>>("/v1/top"),
    )?;
    if apps.is_empty() {
        let version = api.get::<VersionInfo>("/v1/version").await?;
        return Ok(first_run(&version));
    }
    let traffic: BTreeMap<&str, &TrafficNow> = traffic.iter().map(|one| (one.app.as_str(), one)).collect();
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for usage in &top {
        let sum = sums.entry(usage.app.as_str()).or_default();
        sum.containers += 1;
        sum.cpu_millis += usage.cpu_millis;
        sum.memory_bytes += usage.counters.memory_bytes;
    }
    let ill = apps.iter().filter(|app| matches!(app.status.as_str(), "crashed" | "degraded")).count();
    Ok(html! {
        (heading("Apps", &html! {
            input #search type="search" data-filters="#apps tbody tr" data-search placeholder="Search ( / )" aria-label="Search apps";
            (opener())
        }))
        p.summary {
            (show::count(apps.len(), "app", "apps")) " · " (show::count(top.len(), "container", "containers")) " · "
            @if ill == 0 { span.state data-tone="good" { "all well" } } @else { span.state data-tone="bad" { (show::count(ill, "app is", "apps are")) " not well" } }
        }
        div.wide {
            table #apps {
                thead { tr {
                    th scope="col" { "App" } th scope="col" { "State" } th scope="col" { "Release" }
                    th.n scope="col" { "Requests/s" } th.n scope="col" { "Errors" } th.n scope="col" { "p95" }
                    th.n scope="col" { "CPU" } th.n scope="col" { "Memory" } th.n scope="col" { "Containers" }
                } }
                tbody { @for app in &apps { (row(app, traffic.get(app.name.as_str()).copied(), sums.get(app.name.as_str()))) } }
            }
        }
        p.none hidden data-none-for="#apps" { "No app has this in its name." }
        (new_app())
    })
}

fn row(app: &AppInfo, traffic: Option<&TrafficNow>, sum: Option<&Sum>) -> Markup {
    let name = app.name.as_str();
    let now = traffic.map(|traffic| &traffic.now);
    let sum = sum.copied().unwrap_or_default();
    let failed = now.map_or(0, |now| now.server_error);
    html! {
        tr id={ "app-" (name) } data-text=(name) {
            th scope="row" { a href={ "/ui/apps/" (name) } { (name) } }
            td { (state(&app.status)) }
            td { @match app.release { Some(release) => (release), None => span.dim { "none" } } }
            td.n data-label="Requests/s" { (now.map_or_else(|| "0".to_owned(), |now| rate(now.requests, now.seconds))) }
            td.n data-label="Errors" class=(if failed > 0 { "bad" } else { "" }) { (now.map_or_else(|| "0 %".to_owned(), |now| percent(now.server_error, now.requests))) }
            td.n data-label="p95" { (now.and_then(|now| now.p95_us).map_or_else(|| "–".to_owned(), latency)) }
            td.n data-label="CPU" { (cpus(sum.cpu_millis)) }
            td.n data-label="Memory" { (bytes(sum.memory_bytes)) }
            td.n data-label="Containers" { (sum.containers) }
        }
    }
}

/// Opens the dialog as it was not opened for a sample.
fn opener() -> Markup {
    html! { button.primary type="button" data-opens="new-app" data-with-name="" data-with-sample="" { "New app" } }
}

fn new_app() -> Markup {
    dialog(
        "new-app",
        "New app",
        "/ui/apps",
        "Create",
        &html! {
            label for="new-name" { "Name" }
            input #new-name name="name" required maxlength="63" pattern="[a-z0-9]([a-z0-9.\\-]*[a-z0-9])?" autocomplete="off" spellcheck="false"
                title="letters a to z, digits, and - or . between them";
            p.hint { "It is part of its address. The first push makes an app as well." }
            (choice("new-sample", "sample", "Begin with", &samples::choices(), ""))
            p.hint { "A sample is built and deployed at once; its page says what to do next." }
        },
    )
}

/// The exact commands for the first push.
fn first_run(version: &VersionInfo) -> Markup {
    let port = version.ssh_port;
    html! {
        (heading("Your first app", &opener()))
        p.summary { "Nothing runs here yet. Begin with a sample, or push something: a directory with a Procfile, a Dockerfile, or just an index.html." }
        section.first aria-labelledby="samples" { h2 #samples { "Deploy a sample" } (samples::of_new_app(&[])) }
        section aria-labelledby="push" {
        h2 #push { "Push your own" }
        ol.steps {
            li {
                h3 { "Let your key in" }
                p { "On this machine, or paste it at " a href="/ui/access" { "Access" } ":" }
                (command("berth ssh-keys:add me ~/.ssh/id_ed25519.pub"))
            }
            li {
                h3 { "Point git at it" }
                p { "In the directory of the app, on the machine you work at:" }
                div data-fill-host { (command(&format!("git remote add paas ssh://paas@HOST:{port}/my-app"))) }
            }
            li {
                h3 { "Push" }
                (command("git push paas main"))
                p { "The build shows here while it runs." }
            }
        }
        }
        (new_app())
    }
}

async fn create(visitor: Visitor, fields: Fields) -> Response {
    if fields.some("sample").is_some() {
        return samples::create(&visitor, &fields).await;
    }
    let name = fields.text("name");
    let body = serde_json::json!({ "name": name });
    let then = format!("/ui/apps/{}", show::part(name));
    fields.act(&visitor, Method::POST, "/v1/apps", Some(&body), &then).await.into_response()
}
